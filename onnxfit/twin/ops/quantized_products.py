"""Convolutions and matrix products of quantised tensors.

They are computed in floating point, without rounding: in float32 where the weights show that every
sum is small enough for that, else in float64.
"""

from typing import Any

import torch
from onnx import TensorProto

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.cast import as_type_of, type_name
from onnxfit.twin.ops.convolution import emit_conv
from onnxfit.twin.ops.quantization import (
    CONTRIB,
    RANGES,
    Zero,
    centered,
    dynamic_parameters,
    quantize,
    quantized,
    rounded,
    scale_of,
    spread,
    wide,
    zero_point,
)
from onnxfit.twin.registry import converter
from onnxfit.twin.small_types import FLOAT8
from onnxfit.twin.values import Constant

# The largest distance of two 8-bit integers, and the sums that float32 holds exactly.
LARGEST = 255
EXACT = 2**24


@converter("ConvInteger", since=10)
def conv_integer(node: Node) -> Outputs:
    """Convolve integers."""
    return quantized(node, convolution(node, (0, 2), (1, 3), None), TensorProto.INT32)


@converter("MatMulInteger", since=10)
def matmul_integer(node: Node) -> Outputs:
    """Multiply matrices of integers."""
    return quantized(node, product(node, (0, 2), (1, 3)), TensorProto.INT32)


@converter("QLinearConv", since=10)
def qlinear_conv(node: Node) -> Outputs:
    """Convolve quantised tensors and quantise the result."""
    return requantized(node, convolution(node, (0, 2), (3, 5), 8), (1, 4, 6), 7, axis=1)


@converter("QLinearMatMul", since=10)
def qlinear_matmul(node: Node) -> Outputs:
    """Multiply quantised matrices and quantise the result."""
    return requantized(node, product(node, (0, 2), (3, 5)), (1, 4, 6), 7)


@converter("QGemm", domain=CONTRIB)
def qgemm(node: Node) -> Outputs:
    """Multiply two quantised matrices, add C, and quantise the result where a scale is given."""
    a, b = (
        operand(node, *places, turned=bool(node.get(name, 0)))
        for places, name in (((0, 2), "transA"), ((3, 5), "transB"))
    )
    bias = node.input(6)
    total = node.emit(multiply, a, b, bias, accumulator(b, (-2,), bias))
    alpha = node.get("alpha", 1.0)
    if node.has(7):
        return requantized(node, total, (1, 4, 7), 8, alpha=alpha)
    return rescaled(node, total, scale_of(node, 1), scale_of(node, 4), None, alpha)


@converter("MatMulIntegerToFloat", domain=CONTRIB)
def matmul_integer_to_float(node: Node) -> Outputs:
    """Multiply quantised matrices to numbers, and add a bias."""
    total = product(node, (0, 4), (1, 5))
    first = node.emit(as_column, scale_of(node, 2))
    return rescaled(node, total, first, scale_of(node, 3), node.input(6))


@converter("DynamicQuantizeMatMul", domain=CONTRIB)
def dynamic_quantize_matmul(node: Node) -> Outputs:
    """Quantise the first matrix by its own range, multiply to numbers, and add a bias."""
    x = node.input(0)
    scale, zero = node.emit(dynamic_parameters, x, outputs=2)
    floats = node.emit(quantize, x, scale, zero, *RANGES[TensorProto.UINT8])
    left = node.emit(matrix, floats, zero, node.like(torch.float32), False)
    right = operand(node, 1, 3)
    total = node.emit(multiply, left, right, None, accumulator(right, (-2,), None))
    return rescaled(node, total, scale, scale_of(node, 2), node.input(4))


def rescaled(
    node: Node, total: Any, first: Any, second: Any, bias: Any, alpha: float = 1.0
) -> Outputs:
    """Return the numbers that sums of products stand for, with a bias added."""
    y = node.emit(scaled, total, node.emit(ratio, first, second, None, alpha))
    return y if bias is None else node.emit(torch.add, y, bias)


Places = tuple[int, int]  # Of a tensor and its zero point among a node's inputs.


def refuse_float8(node: Node, index: int) -> None:
    """Refuse an input that is not of integers."""
    if node.element_type(index) in FLOAT8:
        node.unsupported(f"its input {node.input_name(index)} is of float8")


def operand(node: Node, index: int, zero: int, turned: bool = False, rows: bool = False) -> Any:
    """Return a quantised matrix, or any tensor with one zero point, less its zero point."""
    refuse_float8(node, index)
    zeros = zero_point(node, zero)
    if rows and not isinstance(zeros, int):
        zeros = node.emit(as_column, zeros)
    return node.emit(matrix, node.floats(index), zeros, node.like(torch.float32), turned)


def matrix(x: torch.Tensor, zero: Zero, like: torch.Tensor, turned: bool) -> torch.Tensor:
    """Subtract the zero points of a matrix, transposed or not, in floating point."""
    if not x.is_floating_point():
        x = x.to(like.dtype)
    x = x.mT if turned else x
    return x - zero if isinstance(zero, torch.Tensor) or zero else x


def as_column(rows: torch.Tensor) -> torch.Tensor:
    """Make what is one number for each row broadcast to the columns."""
    return rows[:, None] if rows.dim() == 1 and rows.numel() > 1 else rows


def product(node: Node, a: Places, b: Places) -> Any:
    """Add the steps of an exact matrix product."""
    left, right = operand(node, *a, rows=True), operand(node, *b)
    return node.emit(multiply, left, right, None, accumulator(right, (-2,), None))


def multiply(
    a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Multiply matrices in a type, or in float64 where that is what they are of."""
    a = at_least(a, dtype)
    y = torch.matmul(a, b.to(a.dtype))
    return y if bias is None else y + bias


def convolution(node: Node, x: Places, weight: Places, bias: int | None) -> Any:
    """Add the steps of an exact convolution."""
    refuse_float8(node, weight[0])
    like = node.like(torch.float32)
    zero = zero_point(node, weight[1])
    kernels = node.emit(filters, node.floats(weight[0]), zero, like)
    added = node.input(bias) if bias is not None else None
    known = kernels.value if isinstance(kernels, Constant) else None
    axes = () if known is None else tuple(range(1, known.dim()))
    dtype = accumulator(kernels, axes, added)
    image = node.emit(at_least, operand(node, *x), dtype)
    if added is not None:
        added = node.emit(as_type_of, added, image)
    size = node.get("kernel_shape") if known is None else tuple(known.shape[2:])
    return emit_conv(node, image, node.emit(as_type_of, kernels, image), added, size)


def filters(weight: torch.Tensor, zero: Zero, like: torch.Tensor) -> torch.Tensor:
    """Subtract zero points from the kernels of a convolution, one for each or one for all."""
    weight = weight if weight.is_floating_point() else weight.to(like.dtype)
    return centered(weight, zero, 0)


def accumulator(weight: Any, axes: tuple[int, ...], bias: Any) -> torch.dtype:
    """Return the type in which sums over some axes of the weights are exact."""
    if not isinstance(weight, Constant) or not isinstance(bias, (Constant, type(None))):
        return torch.float64
    sizes = weight.value.double().abs()
    axes = axes if sizes.dim() > 1 else (0,)
    largest = LARGEST * sizes.sum(axes).max().item()
    if bias is not None:
        largest += bias.value.double().abs().max().item()
    return torch.float32 if largest < EXACT else torch.float64


def at_least(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast to a type, unless the tensor is of float64."""
    return x if x.dtype == torch.float64 else x.to(dtype)


def requantized(
    node: Node,
    total: Any,
    scales: tuple[int, int, int],
    zero: int,
    axis: int | None = None,
    alpha: float = 1.0,
) -> Any:
    """Quantise sums of products.

    Args:
        node: The node.
        total: The sums.
        scales: Where the scales of both factors and of the result are among the inputs.
        zero: Where the zero point of the result is.
        axis: The axis of the sums along which the second factor has scales of its own; None for
            scales that broadcast.
        alpha: What the sums are multiplied with.
    """
    target = node.element_type(zero) or node.element_type(0)
    if target not in (TensorProto.UINT8, TensorProto.INT8):
        node.unsupported(f"its result would be of {type_name(target)}")
    first, second, result = (scale_of(node, index) for index in scales)
    if axis is None:
        first = node.emit(as_column, first)
    factor = node.emit(ratio, first, second, result, alpha)
    zeros = zero_point(node, zero)
    floats = node.emit(requantize, total, factor, zeros, *RANGES[target], axis)
    return quantized(node, floats, target)


def ratio(a: torch.Tensor, b: torch.Tensor, y: torch.Tensor | None, alpha: float) -> torch.Tensor:
    """Return the factor from a product of integers to the result's integers."""
    factor = a.detach() * b.detach()
    if alpha != 1.0:
        factor = alpha * factor
    return factor if y is None else factor / y.detach()


def scaled(total: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply sums of products by their scale, in its type."""
    return total.to(factor.dtype) * factor


def requantize(
    total: torch.Tensor, factor: torch.Tensor, zero: Zero, least: int, most: int, axis: int | None
) -> torch.Tensor:
    """Return sums of products as quantised numbers."""
    factor = wide(factor)
    if axis is not None:
        factor = spread(factor, total, axis)
    return rounded(total.to(factor.dtype) * factor, zero, least, most)
