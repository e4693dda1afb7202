"""Training, export and measurement, as the scripts in this folder share them."""

import platform
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from digits import Images
from networks import Normalised
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.nn import functional

from onnxfit.replacing import replacing

CHUNK = 1000  # So many images are classified or attacked at a time.
ATTACKED = 1000  # Robust accuracy is measured on no more than this many images.
RESTARTS = 5
SHIFT = 4  # Pixels by which an augmented image is moved at most.


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained by SGD.

    Attributes:
        epochs: Times that every image is seen.
        learning_rate: The highest one, to which the rate rises over the first third.
        weight_decay: Of weights alone; biases and batch normalisation are not decayed.
        batch_size: Images in a step; what is left over at the end of an epoch waits for the next.
        augment: Shift and mirror the images at random.
        eps: Train on PGD examples of this linf size alone, or on the images where it is 0.
    """

    epochs: int = 60
    learning_rate: float = 0.1
    weight_decay: float = 2e-3
    batch_size: int = 64
    augment: bool = False
    eps: float = 0.0


def random_start(inputs: Tensor, eps: float) -> Tensor:
    """Return a random point within `eps` of each input, pixels in [0, 1]."""
    return (inputs + torch.empty_like(inputs).uniform_(-eps, eps)).clamp(0, 1)


def pgd(
    network: nn.Module,
    start: Tensor,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """Return where projected gradient ascent on the cross-entropy leads from `start`.

    Madry et al. (2018): linf around the inputs, pixels in [0, 1]. Judge the result; the last
    step is returned, whether it fools the network or not.
    """
    adversarial = start
    for _ in range(steps):
        point = adversarial.detach().requires_grad_()
        loss = functional.cross_entropy(network(point), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        adversarial = point.detach() + step_size * gradient.sign()
        adversarial = adversarial.clamp(inputs - eps, inputs + eps).clamp(0, 1)
    return adversarial


def augmented(images: Tensor) -> Tensor:
    """Return each image moved by up to SHIFT pixels, black beyond its edges, and half mirrored."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (SHIFT,) * 4)
    rows = torch.randint(2 * SHIFT + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(2 * SHIFT + 1, (count, 1)) + torch.arange(width)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    picked = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def train(network: nn.Module, images: Images, recipe: Recipe, device: str = "cpu") -> None:
    """Train in place on the device, and print a line per epoch.

    The network is given pixels in [0, 1], and is left on the device in evaluation mode.
    """
    network.to(device)
    inputs, labels = (torch.from_numpy(array).to(device) for array in images)
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in network.parameters() if p.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in network.parameters() if p.ndim == 1]},
    ]
    rate = recipe.learning_rate
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    size = min(recipe.batch_size, len(labels))
    batches = len(labels) // size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=recipe.epochs * batches
    )
    for epoch in range(1, recipe.epochs + 1):
        total = torch.zeros((), device=device)
        order = torch.randperm(len(labels))[: batches * size]
        for batch in order.view(batches, size).to(device):
            examples = augmented(inputs[batch]) if recipe.augment else inputs[batch]
            if recipe.eps:
                # Attacked in evaluation mode: only what is trained on enters the statistics.
                network.eval()
                examples = pgd(
                    network,
                    random_start(examples, recipe.eps),
                    examples,
                    labels[batch],
                    eps=recipe.eps,
                    steps=7,
                    step_size=recipe.eps / 4,
                )
            network.train()
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(examples), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        click.echo(f"epoch {epoch} of {recipe.epochs}: loss {total.item() / batches:.4f}")
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


@dataclass(frozen=True, eq=False)
class Judge:
    """Accuracies of an exported model in ONNX Runtime on the CPU.

    Attributes:
        session: The model.
        network: The same weights, on any device, whose gradients PGD follows.
    """

    session: InferenceSession
    network: Normalised

    def correct(self, images: Images) -> NDArray[np.bool_]:
        """Return for each image whether ONNX Runtime classifies it correctly."""
        device = self.network.mean.device
        outcomes = []
        for start in range(0, len(images.y), CHUNK):
            pixels = torch.from_numpy(images.x[start : start + CHUNK]).to(device)
            image = self.network.normalised(pixels).cpu().numpy()
            (logits,) = self.session.run(["logits"], {"image": image})
            outcomes.append(logits.argmax(axis=1) == images.y[start : start + CHUNK])
        return np.concatenate(outcomes)

    def robust(self, images: Images, eps: float) -> NDArray[np.bool_]:
        """Return for each image whether it is correct, clean and after each of five PGD runs."""
        device = self.network.mean.device
        survived = self.correct(images)
        for _ in range(RESTARTS):
            for start in range(0, len(images.y), CHUNK):
                rows = slice(start, start + CHUNK)
                left = torch.from_numpy(survived[rows]).to(device)
                inputs, labels = (torch.from_numpy(array[rows]).to(device) for array in images)
                # Every image has its random start, so that those left do not depend on the rest.
                beginning = random_start(inputs, eps)[left]
                if not len(beginning):
                    continue
                adversarial = pgd(
                    self.network,
                    beginning,
                    inputs[left],
                    labels[left],
                    eps=eps,
                    steps=40,
                    step_size=eps / 10,
                )
                attacked = Images(adversarial.cpu().numpy(), labels[left].cpu().numpy())
                survived[start + np.flatnonzero(survived[rows])] = self.correct(attacked)
        return survived


def accuracies(
    model: onnx.ModelProto, network: Normalised, clean: Mapping[str, Images], eps: Iterable[float]
) -> dict[str, str]:
    """Return clean accuracies by the names of the sets, and robust ones on the set `test`."""
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    judge = Judge(session, network)
    outcomes = {f"clean accuracy on {name}": judge.correct(clean[name]) for name in clean}
    test = Images(clean["test"].x[:ATTACKED], clean["test"].y[:ATTACKED])
    where = "test" if len(clean["test"].y) <= ATTACKED else f"the first {ATTACKED} of test"
    outcomes |= {
        f"robust accuracy on {where} at eps {size:.4g}": judge.robust(test, size) for size in eps
    }
    return {name: f"{outcome.mean():.4f}" for name, outcome in outcomes.items()}


def versions() -> str:
    """Return the versions that the bytes of a trained network depend on."""
    packages = ("torch", "numpy", "onnx")
    listed = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"Python {platform.python_version()}, {listed}, {platform.machine()}"


def write(model: onnx.ModelProto, path: Path, description: str, facts: Mapping[str, str]) -> None:
    """Write the model with a description and facts about it, whole or not at all."""
    model.doc_string = description
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as temporary:
        onnx.save(model, temporary)
