"""Activations."""

from typing import TYPE_CHECKING, Any

import torch
from onnx import TensorProto
from torch.nn import functional

from onnxfit.twin.integers import UNSIGNED
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

if TYPE_CHECKING:
    from onnxfit.twin.registry import Converter

MICROSOFT = "com.microsoft"
# What PyTorch exports HardSigmoid with, rounded to float32 as attributes are.
HARD_SIGMOID = (float(torch.tensor(1 / 6)), 0.5)


def activation(function: Any, **attributes: float) -> "Converter":
    """Make the converter of an operator that is a function of its input and of its attributes."""

    def convert(node: Node) -> Outputs:
        values = (node.get(name, default) for name, default in attributes.items())
        return node.emit(function, node.input(0), *values)

    return convert


def selu(x: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """Return ``gamma·x`` where positive, else ``gamma·alpha·(eˣ − 1)``."""
    y: torch.Tensor = torch.ops.aten.elu(x, alpha, gamma)
    return y


def softplus(x: torch.Tensor) -> torch.Tensor:
    """Return ``log(1 + eˣ)``, also in float64 exact beyond the point where it is ``x``."""
    return functional.softplus(x, 1.0, 40.0)


def thresholded_relu(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return ``x`` where it is above ``alpha``, else 0; NaN passes through."""
    return functional.threshold(x, alpha, 0.0)


ACTIVATIONS: dict[str, tuple[Any, dict[str, float]]] = {
    "Relu": (torch.relu, {}),
    "Sigmoid": (torch.sigmoid, {}),
    "LeakyRelu": (functional.leaky_relu, {"alpha": 0.01}),
    "Elu": (functional.elu, {"alpha": 1.0}),
    "Selu": (selu, {"alpha": 1.6732631921768188, "gamma": 1.0507010221481323}),
    "Celu": (functional.celu, {"alpha": 1.0}),
    "HardSwish": (functional.hardswish, {}),
    "Softplus": (softplus, {}),
    "Softsign": (functional.softsign, {}),
    "ThresholdedRelu": (thresholded_relu, {"alpha": 1.0}),
    "Mish": (functional.mish, {}),
}
for op_type, (function, attributes) in ACTIVATIONS.items():
    converter(op_type)(activation(function, **attributes))


@converter("HardSigmoid")
def hard_sigmoid(node: Node) -> Outputs:
    """Clip a line to 0…1; PyTorch has one such line built in."""
    line = (node.get("alpha", 0.2), node.get("beta", 0.5))
    if line == HARD_SIGMOID and node.element_type(0) != TensorProto.DOUBLE:
        return node.emit(functional.hardsigmoid, node.input(0))
    return node.emit(clipped_line, node.input(0), *line)


def clipped_line(x: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """Return ``alpha·x + beta`` clipped to 0…1."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@converter("PRelu")
def prelu(node: Node) -> Outputs:
    """Multiply what is negative by a slope that broadcasts to the input."""
    if node.element_type(0) in UNSIGNED:
        return node.value(0)
    return node.emit(sloped, node.input(0), node.input(1))


def sloped(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Return ``x`` where positive, else ``x·slope``: PyTorch's own where a slope is a channel's."""
    if x.is_floating_point() and x.dim() > 1:
        lead = x.dim() - slope.dim()
        channel = 1 - lead if lead in (0, 1) else None
        if slope.numel() == 1 or (channel is not None and slope.numel() == slope.shape[channel]):
            return functional.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@converter("Gelu")
def gelu(node: Node) -> Outputs:
    """Compute Gelu, by the error function or approximately."""
    return node.emit(functional.gelu, node.input(0), approximate=node.get("approximate", "none"))


@converter("Gelu", domain=MICROSOFT)
def microsoft_gelu(node: Node) -> Outputs:
    return node.emit(functional.gelu, node.input(0))


@converter("BiasGelu", domain=MICROSOFT)
def bias_gelu(node: Node) -> Outputs:
    return node.emit(functional.gelu, node.emit(torch.add, node.input(0), node.input(1)))


@converter("FastGelu", domain=MICROSOFT)
def fast_gelu(node: Node) -> Outputs:
    """Compute the approximation of Gelu, of the sum with a bias where there is one."""
    x = node.input(0)
    if node.has(1):
        x = node.emit(torch.add, x, node.input(1))
    return node.emit(functional.gelu, x, approximate="tanh")


@converter("Swish", since=24)
def swish(node: Node) -> Outputs:
    return emit_swish(node, node.get("alpha", 1.0))


@converter("QuickGelu", domain=MICROSOFT)
def quick_gelu(node: Node) -> Outputs:
    return emit_swish(node, node.get("alpha", 1.702))


@converter("SwiGLU", since=28)
def swiglu(node: Node) -> Outputs:
    gate = emit_swish(node, node.get("alpha", 1.0))
    return node.emit(torch.mul, gate, node.input(1))


def emit_swish(node: Node, alpha: float) -> Any:
    """Add the step for ``x·σ(alpha·x)`` of the first input."""
    if alpha == 1:
        return node.emit(functional.silu, node.input(0))
    return node.emit(gated, node.input(0), alpha)


def gated(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return ``x·σ(alpha·x)``."""
    return x * torch.sigmoid(alpha * x)


@converter("Shrink")
def shrink(node: Node) -> Outputs:
    """Move numbers towards 0, and those near it to 0."""
    floating = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    if node.element_type(0) not in (TensorProto.UNDEFINED, *floating):
        node.unsupported("its input is of integers, for which its attributes are not specified")
    return node.emit(shrunk, node.input(0), node.get("lambd", 0.5), node.get("bias", 0.0))


def shrunk(x: torch.Tensor, limit: float, bias: float) -> torch.Tensor:
    """Return ``x + bias`` below ``-limit``, ``x - bias`` above ``limit`` and 0 in between."""
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, 0.0))
