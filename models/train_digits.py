"""Train DigitsCNN on scikit-learn's digits and write it as ONNX, with the held-out images.

The same seed gives the same bytes on the same machine with the same versions.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from digits import Images, split
from networks import DigitsCNN
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.nn import functional

EPOCHS = 60
BATCH_SIZE = 64
LEARNING_RATE = 0.1
REPORTED_EPS = (0.05, 0.1, 0.15)


def pgd(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """Return the inputs after projected gradient ascent on the cross-entropy.

    Madry et al. (2018): linf, random start, pixels in [0, 1]. Judge the result; the last
    step is returned, whether it fools the network or not.
    """
    adversarial = (inputs + torch.empty_like(inputs).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_()
        loss = functional.cross_entropy(network(adversarial), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + step_size * gradient.sign()
        adversarial = adversarial.clamp(inputs - eps, inputs + eps).clamp(0, 1)
    return adversarial


def train(network: nn.Module, images: Images, eps: float) -> None:
    """Train in place by SGD: on PGD examples of size `eps` alone, or on the images where it is 0.

    The network is left in evaluation mode.
    """
    inputs, labels = torch.from_numpy(images.x), torch.from_numpy(images.y)
    # Biases and batch normalisation are not decayed.
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 2e-3},
        {"params": [p for p in network.parameters() if p.ndim == 1]},
    ]
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    batches = len(labels) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=EPOCHS * batches
    )
    for _ in range(EPOCHS):
        order = torch.randperm(len(labels))[: batches * BATCH_SIZE]
        for batch in order.view(batches, BATCH_SIZE):
            examples = inputs[batch]
            if eps:
                # Attacked in evaluation mode: only what is trained on enters the statistics.
                network.eval()
                examples = pgd(
                    network, examples, labels[batch], eps=eps, steps=7, step_size=eps / 4
                )
            network.train()
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(examples), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    network.eval()


def export(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    """Return the network as ONNX for any batch size, BatchNormalization nodes included."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "network.onnx"
        # The exporter that replaces this one needs a package of its own, onnxscript.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            # TrainingMode.EVAL would merge BatchNormalization into Conv.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
        return onnx.load(path)


def correct(session: InferenceSession, images: Images) -> NDArray[np.bool_]:
    """Return for each image whether ONNX Runtime classifies it correctly."""
    (logits,) = session.run(["logits"], {"image": images.x})
    outcome: NDArray[np.bool_] = logits.argmax(axis=1) == images.y
    return outcome


def robust(
    session: InferenceSession, network: nn.Module, images: Images, eps: float
) -> NDArray[np.bool_]:
    """Return for each image whether it is correct, clean and after each of five PGD runs."""
    inputs, labels = torch.from_numpy(images.x), torch.from_numpy(images.y)
    survived = correct(session, images)
    for _ in range(5):
        adversarial = pgd(network, inputs, labels, eps=eps, steps=40, step_size=eps / 10)
        survived &= correct(session, Images(adversarial.numpy(), images.y))
    return survived


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
    network = DigitsCNN()
    train(network, training, adversarial)

    model = export(network, torch.from_numpy(test.x[:1]))
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outcomes = {
        "clean accuracy on validation": correct(session, validation),
        "clean accuracy on test": correct(session, test),
    } | {
        f"robust accuracy on test at eps {eps}": robust(session, network, test, eps)
        for eps in REPORTED_EPS
    }
    accuracies = {name: f"{outcome.mean():.4f}" for name, outcome in outcomes.items()}

    model.doc_string = "Residual network for handwritten digits: 8x8 grey images in [0, 1]"
    options = f"--adversarial {adversarial:g} --seed {seed} --out models/{out.name}"
    onnx.helper.set_model_props(
        model, {"command": f"python models/train_digits.py {options}"} | accuracies
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)
    np.savez_compressed(out.with_name("digits_val.npz"), **validation._asdict())
    np.savez_compressed(out.with_name("digits_test.npz"), **test._asdict())
    for name, accuracy in accuracies.items():
        click.echo(f"{name}: {accuracy}")


if __name__ == "__main__":
    main()
