"""Train an architecture of the JumpReLU paper and write it as ONNX.

On the CPU, the same seed gives the same bytes on the same machine with the same versions.
"""

import math
from pathlib import Path

import click
import torch
from datasets import STATISTICS, load
from networks import Normalised
from paper_networks import ARCHITECTURES, Shape, wideresnet
from torch import nn
from training import Recipe, accuracies, export, train, versions, write

from onnxfit.errors import DataError

EPOCHS = {"digits": 60, "mnist": 10, "fashion-mnist": 20, "cifar10": 60}
# Without batch normalisation a network bears less, and so does one of 52 convolutions.
LEARNING_RATES = {"lenet": 0.05, "alexnet": 0.05, "mobilenetv2": 0.05}


class InputError(click.ClickException):
    """Something given to the script cannot be used."""

    exit_code = 2


def finite(_context: click.Context, _parameter: click.Parameter, number: float) -> float:
    """Refuse NaN and infinity, which click takes for numbers in any range."""
    if not math.isfinite(number):
        raise click.BadParameter(f"{number} is not a finite number")
    return number


@click.command()
@click.argument("architecture", type=click.Choice(list(ARCHITECTURES)))
@click.option("--data", type=click.Choice(list(STATISTICS)), required=True, help="The data set.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    envvar="ONNXFIT_DATA",
    help="Where the files of a data set other than digits are; default: ONNXFIT_DATA.",
)
@click.option(
    "--adversarial",
    metavar="EPS",
    type=click.FloatRange(0, 1),
    default=0.0,
    callback=finite,
    show_default=True,
    help="Train on PGD examples of this linf size, pixels being in [0, 1]; 0: on the images.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Times that every image is seen; default: "
    + ", ".join(f"{epochs} on {name}" for name, epochs in EPOCHS.items())
    + ".",
)
@click.option(
    "--width",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    callback=finite,
    show_default=True,
    help="Factor for channels and hidden units; for wideresnet, the paper has 4.",
)
@click.option("--depth", type=int, help="Layers of wideresnet, 6 n + 4; the paper has 34.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights, batches and PGD.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: a GPU where there is one.",
)
@click.option(
    "--out",
    metavar="FILE.onnx",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where the network is written.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def main(  # noqa: PLR0913, PLR0917 - one argument for each option
    architecture: str,
    data: str,
    folder: Path | None,
    adversarial: float,
    epochs: int | None,
    width: float,
    depth: int | None,
    seed: int,
    device: str,
    out: Path,
    force: bool,
) -> None:
    """Train ARCHITECTURE and report its accuracies, measured in ONNX Runtime."""
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is not a folder")
    if out.exists() and not force:
        raise InputError(f"{out} exists; --force replaces it")
    device = chosen(device)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    # On a GPU, operations that are needed here have no deterministic form.
    torch.use_deterministic_algorithms(device == "cpu")
    try:
        images = load(data, folder)
    except DataError as error:
        raise InputError(str(error)) from error
    training = images.pop("training")
    example = torch.from_numpy(training.x[:1])
    network = built(architecture, tuple(example.shape[1:]), width, depth)

    recipe = Recipe(
        epochs=epochs or EPOCHS[data],
        learning_rate=LEARNING_RATES.get(architecture, 0.1),
        weight_decay=2e-3 if data == "digits" else 5e-4,
        batch_size=64 if data == "digits" else 128,
        augment=data == "cifar10",
        eps=adversarial,
    )
    mean, std, reported_eps = STATISTICS[data]
    normalised = Normalised(network, mean, std)
    train(normalised, training, recipe, device)
    model = export(network.cpu(), example)
    measured = accuracies(model, normalised.to(device), images, reported_eps)

    options = {
        "--data": data,
        "--adversarial": f"{adversarial:g}",
        "--epochs": recipe.epochs,
        "--width": f"{width:g}",
        "--depth": depth,
        "--seed": seed,
        "--device": device if device != "cpu" else None,
        "--out": out.name if out.is_absolute() else out.as_posix(),
    }
    given = " ".join(f"{name} {value}" for name, value in options.items() if value is not None)
    shape = "x".join(map(str, example.shape[1:]))
    preprocessing = {
        "mean": ",".join(map(str, mean)),
        "std": ",".join(map(str, std)),
    }
    write(
        model,
        out,
        f"{architecture} for {data}: {shape} pixels in [0, 1], less mean, over std",
        {"command": f"python models/train.py {architecture} {given}", "versions": versions()}
        | preprocessing
        | measured,
    )
    for name, accuracy in measured.items():
        click.echo(f"{name}: {accuracy}")
    click.echo(f"onnxfit takes it with --mean {preprocessing['mean']} --std {preprocessing['std']}")


def chosen(device: str) -> str:
    """Return the device that a choice of auto, cpu or cuda means."""
    if device == "cpu":
        return device
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError("torch sees no CUDA device; --device cpu trains without one")
    return "cpu"


def built(architecture: str, shape: Shape, width: float, depth: int | None) -> nn.Sequential:
    """Return an untrained network for images of this shape."""
    if depth is None:
        return ARCHITECTURES[architecture](shape, width)
    if architecture != "wideresnet":
        raise InputError(f"--depth is for wideresnet; {architecture} has the depth that it has")
    try:
        return wideresnet(shape, width, depth)
    except ValueError as error:
        raise InputError(str(error)) from error


if __name__ == "__main__":
    main()
