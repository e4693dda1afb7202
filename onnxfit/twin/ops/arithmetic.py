"""Arithmetic of two or more tensors."""

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto

from onnxfit.twin import integers
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

if TYPE_CHECKING:
    from onnxfit.twin.registry import Converter

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# The types whose division of the least number by -1 stops the process.
TRAPPING = (torch.int32, torch.int64)


def binary(function: Any, by_numpy: Any) -> "Converter":
    """Make the converter of an operator that is one function of its two inputs."""

    def convert(node: Node) -> Outputs:
        return integers.emit(node, function, by_numpy, node.input(0), node.input(1))

    return convert


BINARY: dict[str, tuple[Any, Any, int]] = {
    "Add": (torch.add, np.add, 7),
    "Sub": (torch.sub, np.subtract, 7),
    "Mul": (torch.mul, np.multiply, 7),
    "BitwiseAnd": (torch.bitwise_and, np.bitwise_and, 18),
    "BitwiseOr": (torch.bitwise_or, np.bitwise_or, 18),
    "BitwiseXor": (torch.bitwise_xor, np.bitwise_xor, 18),
}
for op_type, (function, by_numpy, since) in BINARY.items():
    converter(op_type, since=since)(binary(function, by_numpy))


@converter("Div", since=7)
def div(node: Node) -> Outputs:
    """Divide; integers are truncated."""
    if node.element_type(0) in FLOATS:
        return node.emit(torch.div, node.input(0), node.input(1))
    return integers.emit(node, divide, np.floor_divide, node.input(0), node.input(1))


def divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Divide; integers are truncated, and the least one by -1 is itself."""
    if a.is_floating_point():
        return torch.div(a, b)
    if a.dtype not in TRAPPING:
        return torch.div(a, b, rounding_mode="trunc")
    quotient = torch.div(a, torch.where(b == -1, 1, b), rounding_mode="trunc")
    return torch.where(b == -1, -a, quotient)


@converter("Mod", since=10)
def mod(node: Node) -> Outputs:
    """Take the remainder, with the sign of the divisor or as in C."""
    functions = (fmod, np.fmod) if node.get("fmod", 0) else (remainder, np.remainder)
    return integers.emit(node, *functions, node.input(0), node.input(1))


def remainder(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the remainder that has the sign of the divisor."""
    return torch.remainder(a, _harmless(b))


def fmod(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the remainder that has the sign of the dividend."""
    return torch.fmod(a, _harmless(b))


def _harmless(divisor: torch.Tensor) -> torch.Tensor:
    return torch.where(divisor == -1, 1, divisor) if divisor.dtype in TRAPPING else divisor


@converter("Pow", since=7)
def pow_(node: Node) -> Outputs:
    """Raise to a power; a known number as the exponent is the fast case, and stays as it is."""
    exponent = node.known(1)
    if node.element_type(0) not in FLOATS:
        return node.emit(power, node.input(0), node.input(1))
    if exponent is not None and exponent.dim() == 0:
        return node.emit(torch.pow, node.input(0), exponent.item())
    if exponent is not None and exponent.numel() == 1:
        return node.emit(power_of_number, node.input(0), exponent.item(), exponent.dim())
    if node.element_type(0) == node.element_type(1):
        return node.emit(torch.pow, node.input(0), node.input(1))
    return node.emit(power, node.input(0), node.input(1))


def power_of_number(x: torch.Tensor, exponent: float, rank: int) -> torch.Tensor:
    """Raise to a number that lies in the file as a tensor of a rank, which the result has."""
    return torch.pow(x[(None,) * (rank - x.dim())] if x.dim() < rank else x, exponent)


def power(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Raise to a power of any type; the result has the type of the base."""
    if exponent.dtype in integers.SIGNED:
        exponent = exponent.to(torch.int64)
    if exponent.is_floating_point() and not x.is_floating_point():
        return torch.pow(x.to(torch.float64), exponent.to(torch.float64)).to(x.dtype)
    return torch.pow(x, exponent).to(x.dtype)


def chain(function: Any, by_numpy: Any) -> "Converter":
    """Make the converter of an operator that combines any number of inputs, one after another."""

    def convert(node: Node) -> Outputs:
        first, *others = node.inputs
        for value in others:
            first = integers.emit(node, function, by_numpy, first, value)
        return first

    return convert


CHAINS: dict[str, tuple[Any, Any]] = {
    "Sum": (torch.add, np.add),
    "Max": (torch.maximum, np.maximum),
    "Min": (torch.minimum, np.minimum),
}
for op_type, (function, by_numpy) in CHAINS.items():
    converter(op_type)(chain(function, by_numpy))


@converter("Mean")
def mean(node: Node) -> Outputs:
    first, *others = node.inputs
    total = reduce(lambda a, b: node.emit(torch.add, a, b), others, first)
    return node.emit(torch.div, total, len(node)) if others else total


@converter("Clip", since=6)
def clip_of_attributes(node: Node) -> Outputs:
    """Clip to numbers; one that is not given is the largest there is, which infinity exceeds."""
    least, most = node.get("min"), node.get("max")
    if least is not None and most is not None:
        return clipped(node, least, most)
    return node.emit(clip_finite, node.input(0), least, most)


def clip_finite(x: torch.Tensor, least: float | None, most: float | None) -> torch.Tensor:
    """Clip to numbers, or to the largest of float32 that the type holds."""
    limit = min(torch.finfo(x.dtype).max, torch.finfo(torch.float32).max)
    return torch.clamp(x, -limit if least is None else least, limit if most is None else most)


@converter("Clip", since=11)
def clip(node: Node) -> Outputs:
    """Clip to inputs; one that is not given leaves that side open, infinity included."""
    known = [node.known(index) for index in (1, 2)]
    if any(node.has(i) and bound is None for i, bound in zip((1, 2), known, strict=True)):
        return clipped(node, *(node.frozen(index) for index in (1, 2)))
    return clipped(node, *(None if bound is None else bound.item() for bound in known))


def clipped(node: Node, least: Any, most: Any) -> Outputs:
    """Add the step that clips."""
    if least is None and most is None:
        return node.value(0)
    # Those of quantised numbers are integers.
    numbers = isinstance(least, (int, float)) and isinstance(most, (int, float))
    if numbers and least <= most and node.element_type(0) in FLOATS:
        # The same with a faster backward pass, and no gradient at the bounds: as ReLU at 0.
        return node.emit(torch.nn.functional.hardtanh, node.input(0), float(least), float(most))
    return integers.emit(node, torch.clamp, np.clip, node.input(0), least, most)


@converter("BitwiseNot")
def bitwise_not(node: Node) -> Outputs:
    return integers.emit(node, torch.bitwise_not, np.bitwise_not, node.input(0))


@converter("BitShift")
def bit_shift(node: Node) -> Outputs:
    """Shift bits; by as many as there are, or by a negative number, only the sign is left."""
    left = node.get("direction") == "LEFT"
    function = torch.bitwise_left_shift if left else torch.bitwise_right_shift
    by_numpy: Any = np.left_shift if left else np.right_shift
    return integers.emit(node, function, by_numpy, node.input(0), node.input(1))
