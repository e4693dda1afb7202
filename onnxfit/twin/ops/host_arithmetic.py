"""Arithmetic on integers that are known without any tensor: sizes and what is made of them."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import host_converter
from onnxfit.twin.tensors import DTYPES
from onnxfit.twin.values import Constant, Value, Variable

Numbers = Any  # A Python integer or a tuple of them.


def divide(a: int, b: int) -> int:
    """Divide and truncate."""
    if b == 0:
        raise ValueError("it divides an integer by 0")
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def remainder(a: int, b: int) -> int:
    """Return the remainder that has the sign of the divisor."""
    if b == 0:
        raise ValueError("it divides an integer by 0")
    return a % b


def fmod(a: int, b: int) -> int:
    """Return the remainder that has the sign of the dividend."""
    return a - b * divide(a, b)


def choose(condition: bool, a: int, b: int) -> int:
    """Choose one of two numbers."""
    return a if condition else b


def both(a: bool, b: bool) -> bool:
    """Tell whether both hold."""
    return bool(a and b)


def either(a: bool, b: bool) -> bool:
    """Tell whether one of two holds."""
    return bool(a or b)


def largest(*numbers: int) -> int:
    """Return the largest of one number or more."""
    return max(numbers)


def smallest(*numbers: int) -> int:
    """Return the smallest of one number or more."""
    return min(numbers)


def sign(a: int) -> int:
    """Return 1, 0 or -1."""
    return (a > 0) - (a < 0)


NUMBERS: dict[str, Callable[..., Any]] = {
    "Abs": abs,
    "Add": operator.add,
    "Div": divide,
    "Max": largest,
    "Min": smallest,
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Sign": sign,
    "Sub": operator.sub,
    "Where": choose,
}
ANSWERS: dict[str, Callable[..., Any]] = {
    "And": both,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Not": operator.not_,
    "Or": either,
    "Xor": operator.ne,
}


@host_converter(*NUMBERS)
def number(node: Node) -> Outputs:
    """Compute numbers of the type of the last input."""
    return emit(node, NUMBERS[node.op_type], dtype_of(node.value(len(node) - 1)), wrap=True)


@host_converter(*ANSWERS)
def answer(node: Node) -> Outputs:
    """Compute truth values."""
    return emit(node, ANSWERS[node.op_type], torch.bool)


@host_converter("Mod")
def mod(node: Node) -> Outputs:
    """Take the remainder, with the sign of the divisor or as in C."""
    return emit(node, fmod if node.get("fmod", 0) else remainder, dtype_of(node.value(0)))


@host_converter("Cast")
def cast(node: Node) -> Outputs:
    """Cast between the integers that sizes are computed with."""
    target = node.get("to")
    if target == TensorProto.BOOL:
        return emit(node, bool, torch.bool)
    if target in (TensorProto.INT64, TensorProto.INT32):
        return emit(node, int, DTYPES[target], wrap=True)
    return NotImplemented


def emit(
    node: Node, function: Callable[..., Any], dtype: torch.dtype, *, wrap: bool = False
) -> Outputs:
    """Add the step that applies a function of numbers element by element.

    With ``wrap`` results stay within the bits of ``dtype``, as the file's integers do.
    """
    operands = tuple(node.host(index) for index in range(len(node)))
    ranks = [rank_of(node.value(index)) for index in range(len(node))]
    known = [rank for rank in ranks if rank is not None]
    rank = max(known) if len(known) == len(ranks) else None
    if wrap and dtype in (torch.int64, torch.int32):
        limit = 2 ** (dtype.itemsize * 8 - 1)
        return node.emit_host(wrapped, function, operands, limit, dtype=dtype, rank=rank)
    return node.emit_host(elementwise, function, operands, dtype=dtype, rank=rank)


def wrapped(function: Callable[..., Any], operands: tuple[Numbers, ...], limit: int) -> Numbers:
    """Apply a function of numbers as :func:`elementwise`, and wrap results beyond the limit."""
    found = elementwise(function, operands)
    if isinstance(found, tuple):
        return tuple(within(number, limit) for number in found)
    return within(found, limit)


def within(number: int, limit: int) -> int:
    """Wrap a number into ``-limit`` to ``limit - 1``."""
    # Most are, and PyTorch's compiler cannot reason about a remainder of this size.
    return number if -limit <= number < limit else (number + limit) % (2 * limit) - limit


def elementwise(function: Callable[..., Any], operands: tuple[Numbers, ...]) -> Numbers:
    """Apply a function of numbers to numbers and rows of them, which broadcast."""
    lengths = {len(operand) for operand in operands if isinstance(operand, tuple)}
    if not lengths:
        return function(*operands)
    longer = lengths - {1}
    if len(longer) > 1:
        raise ValueError(f"rows of {sorted(longer)} numbers do not broadcast")
    size = longer.pop() if longer else 1
    rows = [
        operand * size if isinstance(operand, tuple) and len(operand) == 1 else operand
        for operand in operands
    ]
    return tuple(
        function(*(row[index] if isinstance(row, tuple) else row for row in rows))
        for index in range(size)
    )


def dtype_of(value: Value) -> torch.dtype:
    """Return the type of integers that are known without a tensor, or of a constant."""
    if isinstance(value, Variable):
        return value.dtype
    dtype: torch.dtype = value.value.dtype if isinstance(value, Constant) else value.tensor.dtype
    return dtype


def rank_of(value: Value) -> int | None:
    """Return 0 for a number and 1 for a row of them, None where that is not known."""
    if isinstance(value, Variable):
        return value.rank
    rank: int = value.value.dim() if isinstance(value, Constant) else value.tensor.dim()
    return rank
