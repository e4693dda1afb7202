"""Train DigitsCNN on scikit-learn's digits and write it as ONNX, with the held-out images.

The same seed gives the same bytes on the same machine with the same versions.
"""

from pathlib import Path

import click
import numpy as np
import torch
from digits import split
from networks import DigitsCNN, Normalised
from training import Recipe, accuracies, export, train, write

REPORTED_EPS = (0.05, 0.1, 0.15)


@click.command()
@click.option(
    "--adversarial",
    metavar="EPS",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Train on PGD examples of this linf size, pixels being in [0, 1]; 0: on the images.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Seed of the weights, batches and PGD. The split into images is always the same.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="ONNX file; digits_val.npz and digits_test.npz are written beside it.",
)
def main(adversarial: float, seed: int, out: Path) -> None:
    """Train DigitsCNN and report its accuracies, measured in ONNX Runtime."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    training, validation, test = split()
    network = Normalised(DigitsCNN(), mean=(0.0,), std=(1.0,))
    train(network, training, Recipe(eps=adversarial))

    model = export(network.network, torch.from_numpy(test.x[:1]))
    clean = {"validation": validation, "test": test}
    measured = accuracies(model, network, clean, REPORTED_EPS)

    options = f"--adversarial {adversarial:g} --seed {seed} --out models/{out.name}"
    command = f"python models/train_digits.py {options}"
    description = "Residual network for handwritten digits: 8x8 grey images in [0, 1]"
    write(model, out, description, {"command": command} | measured)
    np.savez_compressed(out.with_name("digits_val.npz"), **validation._asdict())
    np.savez_compressed(out.with_name("digits_test.npz"), **test._asdict())
    for name, accuracy in measured.items():
        click.echo(f"{name}: {accuracy}")


if __name__ == "__main__":
    main()
