"""Modules with closed-form behaviour that tests of attacks share."""

# mypy: allow-subclassing-any

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from support import MODELS

import onnxfit
from onnxfit.twin.classifier import Classifier
from onnxfit.twin.jump_relu import JumpReLU


class Linear(torch.nn.Module):
    """Two logits, ``0`` and ``w·x + b``: class 1 where the second is above 0.

    The nearest point of the other class is ``|w·x + b| / ‖w‖`` away, in the dual of the norm.
    """

    def __init__(self, weights: Sequence[float], offset: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(weights))
        self.offset, self.scale = offset, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of samples of any shape, N×…."""
        score = x.flatten(1) @ self.weights.to(x.dtype) + self.offset
        return self.scale * torch.stack([torch.zeros_like(score), score], 1)


class Function(torch.nn.Module):
    """Two logits, ``0`` and a function of the samples, N×… → N."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        score = self.function(x)
        return torch.stack([torch.zeros_like(score), score], 1)


class Counter(torch.nn.Module):
    """Counts the samples that a module is given, call by call.

    Attributes:
        calls: How many each call had.
        inputs: What each call was given.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls: list[int] = []
        self.inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call the module."""
        self.calls.append(len(x))
        self.inputs.append(x.detach().clone())
        result: torch.Tensor = self.module(x)
        return result


class Noisy(torch.nn.Module):
    """Adds Gaussian noise to each sample before a module, from a generator of its own."""

    def __init__(self, module: torch.nn.Module, deviation: float) -> None:
        super().__init__()
        self.module, self.deviation = module, deviation
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call the module on noisy samples."""
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        result: torch.Tensor = self.module(x + self.deviation * noise)
        return result


class Jumping(torch.nn.Module):
    """One JumpReLU that hides the way: logits ``x₂ − 0.5`` and ``2·J(x₁)``.

    Below the jump the only gradient is that of ``x₂``. What changes the class of ``(0.75, 0.9)`` at
    once is ``x₁`` beyond 0.8, where the second logit jumps from 0 to 1.6.
    """

    def __init__(self, jump: float = 0.8, site: str = "hidden") -> None:
        super().__init__()
        self.gate = JumpReLU(torch.tensor(jump), site)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of N×2."""
        return torch.stack([x[:, 1] - 0.5, 2 * self.gate(x[:, 0])], 1)


class Two(torch.nn.Module):
    """Two sites in a row, the second with one jump for each of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = JumpReLU(torch.tensor(0.5), "first")
        self.second = JumpReLU(torch.tensor([[[0.2]], [[9.0]], [[1.0]]]), "second")
        self.unused = JumpReLU(torch.tensor(0.7), "unused")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute N×3 of N×3×H×W."""
        result: torch.Tensor = self.second(4 * self.first(x)).mean((2, 3))
        return result


class NanOnce(torch.nn.Module):
    """Two logits, ``0`` and ``x₁ − 0.2``; the gradient of x₁ is NaN in the second call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of N×D."""
        self.calls += 1
        score = x[:, 0] - 0.2
        if self.calls == 2:
            # 0 going forward, and 0 times infinity going back.
            score = score + (x[:, 0] * 0).sqrt()
        return torch.stack([torch.zeros_like(score), score], 1)


class Constant(torch.nn.Module):
    """The same logits whatever the samples are, though a gradient reaches them."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits for N×…."""
        return self.logits.expand(len(x), -1)


class Units(torch.nn.Module):
    """Gives a module samples in other units: between 0 and a width."""

    def __init__(self, module: torch.nn.Module, width: float) -> None:
        super().__init__()
        self.module, self.width = module, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call the module on samples between 0 and 1."""
        result: torch.Tensor = self.module(x / self.width)
        return result


class Turning(torch.nn.Module):
    """Three logits of ``(a, c)``: ``0``, ``a − 0.5`` and one that draws along c beyond ``a = 0.3``.

    From ``(0.2, 0.5)`` the second class alone has a way, along a. Past 0.3 the third is nearer.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of N×2."""
        a, c = x.unbind(1)
        return torch.stack([0 * a, a - 0.5, 200 * torch.relu(a - 0.3) * (c - 0.5) - 0.4], 1)


def digits(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first images of handwritten digits."""
    with np.load(MODELS / "digits_test.npz") as data:
        return torch.from_numpy(data["x"][:count]), torch.from_numpy(data["y"][:count])


def digits_cnn(jump: float | None = None) -> Classifier:
    """Return the network for digits, hardened if a jump is given."""
    path = MODELS / "digits_cnn.onnx"
    model = Classifier(path if jump is None else onnxfit.retrofit(path, jump))
    model.requires_grad_(False)
    return model


def lengths(moved: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the norm of each perturbation in double precision, N."""
    moved = moved.double().flatten(1)
    return moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)


def in_units(
    make: Callable[..., Any], width: float, norm: str, count: int
) -> tuple[torch.Tensor, list[int]]:
    """Attack digits in other units.

    Returns:
        The lengths of the perturbations of those that are classified rightly, in widths, and how
        many points are classified rightly when they are judged in batches of other sizes.
    """
    x, y = digits(count)
    x, model = x * width, Units(digits_cnn(), width)
    rightly = model(x).argmax(1) == y
    points = make(bounds=(0.0, width))(model, x, y)
    judged = [torch.cat([model(part) for part in points.split(n)]) for n in (1, 7, count)]
    left = [int((logits.argmax(1) == y).sum()) for logits in judged]
    return lengths(points - x, norm)[rightly] / width, left


def random_images(n: int, *shape: int, seed: int = 0, dtype: Any = torch.float32) -> torch.Tensor:
    """Draw samples between 0 and 1, with values at both ends among them."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x.mul(1.2).sub(0.1).clamp(0, 1)


def random_linear(classes: int, scale: float = 1.0) -> Counter:
    """Make a linear model of random weights, with all logits 0 in the middle of the bounds."""
    weight = torch.randn(classes, 12, generator=torch.Generator().manual_seed(1)) * scale
    return of_weights(weight, -weight.sum(1) / 2)


def of_weights(weight: torch.Tensor, bias: torch.Tensor) -> Counter:
    """Make a linear model, which counts what it is given."""
    layer = torch.nn.Linear(*reversed(weight.shape)).requires_grad_(False)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return Counter(layer)


def middle_samples(model: torch.nn.Module, count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw samples from the middle of the bounds, with the classes that a model gives them."""
    x = torch.rand(count, 12, generator=torch.Generator().manual_seed(2)) * 0.4 + 0.3
    return x, model(x).argmax(1)


def nearest(model: Counter, x: torch.Tensor, y: torch.Tensor, norm: str) -> torch.Tensor:
    """Return how far each sample is from the nearest other class of a linear model, N."""
    gaps = model(x).gather(1, y[:, None]) - model(x)
    weight = model.module.weight
    slopes = weight[None] - weight[y][:, None]
    lengths = slopes.abs().sum(2) if norm == "linf" else slopes.norm(dim=2)
    return (gaps / lengths).scatter(1, y[:, None], torch.inf).amin(1)


def robust(model: torch.nn.Module, points: torch.Tensor, labels: torch.Tensor) -> int:
    """Count points that are classified as they should."""
    return int((model(points).argmax(1) == labels).sum())


class Once:
    """Scores samples below 0 whatever they are, but above in one of its calls."""

    def __init__(self, call: int) -> None:
        self.call, self.calls, self.points = call, 0, torch.zeros(0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Score samples, N×… → N."""
        score = x.flatten(1).sum(1) * 1e-3 + (1 if self.calls == self.call else -1)
        if self.calls == self.call:
            self.points = x.detach().clone()
        self.calls += 1
        return score


def double_linear() -> torch.nn.Linear:
    """Make a linear classifier of twelve values and five classes in double precision."""
    torch.manual_seed(0)
    return torch.nn.Linear(12, 5).double().requires_grad_(False)


def near_middle(model: torch.nn.Module, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw samples in double precision near 0.5, with the classes that a model gives them."""
    x = 0.5 + 0.05 * torch.rand(count, 12, dtype=torch.float64)
    return x, model(x).argmax(1)


def known_digits(count: int, jump: float | None = None) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Return the network for digits, hardened if a jump is given, and images on 256 levels."""
    x, y = digits(count)
    return digits_cnn(jump), (x * 255).round() / 255, y
