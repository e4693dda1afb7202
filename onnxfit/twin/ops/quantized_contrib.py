"""ONNX Runtime's operators on quantised tensors, in the order in which its kernels round."""

from typing import Any

import torch
from onnx import TensorProto
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.cast import type_name
from onnxfit.twin.ops.pooling import average_pool
from onnxfit.twin.ops.quantization import (
    CONTRIB,
    RANGES,
    Zero,
    centered,
    dequantize,
    quantize,
    quantized,
    rounded,
    scale_of,
    zero_point,
)
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Value


@converter("QLinearAdd", "QLinearMul", domain=CONTRIB)
def add_or_mul(node: Node) -> Outputs:
    """Add or multiply two quantised tensors that broadcast."""
    function = add if node.op_type == "QLinearAdd" else multiply
    given = [(node.floats(i), scale_of(node, i + 1), zero_point(node, i + 2)) for i in (0, 3)]
    floats = node.emit(function, *given, *result(node, 6))
    return quantized(node, floats, result_type(node, 7))


Operand = tuple[torch.Tensor, torch.Tensor, Zero]  # Integers, their scale and zero point.


def add(
    a: Operand, b: Operand, scale: torch.Tensor, zero: Zero, least: int, most: int
) -> torch.Tensor:
    """Add; the zero point is added before rounding."""
    (x, x_scale, x_zero), (y, y_scale, y_zero) = a, b
    factor, other = x_scale / scale, y_scale / scale
    fixed = zero - (factor * x_zero + other * y_zero)
    return within(x.to(factor.dtype) * factor + (y.to(other.dtype) * other + fixed), least, most)


def multiply(
    a: Operand, b: Operand, scale: torch.Tensor, zero: Zero, least: int, most: int
) -> torch.Tensor:
    """Multiply; the zero point is added before rounding."""
    (x, x_scale, x_zero), (y, y_scale, y_zero) = a, b
    factor = x_scale * y_scale / scale
    product = (x.to(factor.dtype) - x_zero) * (y.to(factor.dtype) - y_zero)
    return within(product * factor + zero, least, most)


def within(y: torch.Tensor, least: int, most: int) -> torch.Tensor:
    """Round to integers of a range."""
    return rounded(y, 0, least, most)


@converter("QLinearGlobalAveragePool", domain=CONTRIB)
def global_average_pool(node: Node) -> Outputs:
    """Take the mean of each channel."""
    if node.get("channels_last", 0):
        node.unsupported("its channels are last")
    given = (node.floats(0), scale_of(node, 1), zero_point(node, 2))
    floats = node.emit(global_mean, *given, *result(node, 3))
    return quantized(node, floats, result_type(node, 4))


def global_mean(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_zero: Zero,
    scale: torch.Tensor,
    zero: Zero,
    least: int,
    most: int,
) -> torch.Tensor:
    """Sum up integers, and divide by their number with the change of scale."""
    axes = tuple(range(2, x.dim()))
    total = centered(x.to(x_scale.dtype), x_zero).sum(axes, keepdim=True)
    return rounded(total * (x_scale / (scale * x[0, 0].numel())), zero, least, most)


@converter("QLinearAveragePool", domain=CONTRIB)
def pool(node: Node) -> Outputs:
    """Pool the numbers that the integers stand for."""
    if node.get("channels_last", 0):
        node.unsupported("its channels are last")
    pooled = average_pool(node.with_inputs({0: real(node, 0)}))
    floats = node.emit(shifted, pooled, *result(node, 3))
    return quantized(node, floats, result_type(node, 4))


def shifted(
    x: torch.Tensor, scale: torch.Tensor, zero: Zero, least: int, most: int
) -> torch.Tensor:
    """Quantise numbers; the zero point is added before rounding."""
    return within(x / scale + zero, least, most)


@converter("QLinearLeakyRelu", "QLinearSigmoid", domain=CONTRIB)
def activation(node: Node) -> Outputs:
    """Apply a function to the numbers that the integers stand for."""
    x = real(node, 0)
    if node.op_type == "QLinearSigmoid":
        return requantized(node, node.emit(torch.sigmoid, x), 3)
    return requantized(node, node.emit(functional.leaky_relu, x, node.get("alpha", 0.01)), 3)


@converter("QLinearSoftmax", domain=CONTRIB)
def softmax(node: Node) -> Outputs:
    """Take the softmax along an axis, or before opset 13 along all from it on."""
    axis, flat = node.get("axis", -1), node.get("opset") < 13
    floats = node.emit(probabilities, real(node, 0), axis, flat, *result(node, 3))
    return quantized(node, floats, result_type(node, 4))


def probabilities(
    x: torch.Tensor, axis: int, flat: bool, scale: torch.Tensor, zero: Zero, least: int, most: int
) -> torch.Tensor:
    """Return the quantised softmax, for which 1 / scale is rounded down."""
    if flat:
        y = torch.softmax(x.flatten(axis % x.dim()), -1).reshape(x.shape)
    else:
        y = torch.softmax(x, axis)
    return rounded(y * torch.floor(1 / scale), zero, least, most)


@converter("QLinearConcat", domain=CONTRIB)
def concat(node: Node) -> Outputs:
    """Join quantised tensors, each with a scale of its own."""
    parts = [real(node, index) for index in range(2, len(node), 3)]
    return requantized(node, node.emit(torch.cat, parts, node.get("axis")), 0)


def real(node: Node, index: int) -> Value:
    """Return the numbers that a quantised input, followed by its scale, stands for."""
    given = (scale_of(node, index + 1), zero_point(node, index + 2))
    value: Value = node.emit(dequantize, node.floats(index), *given)
    return value


def requantized(node: Node, y: Any, scale: int) -> Any:
    """Quantise numbers with the scale of an input and the zero point after it."""
    floats = node.emit(quantize, y, *result(node, scale))
    return quantized(node, floats, result_type(node, scale + 1))


def result(node: Node, scale: int) -> tuple[Any, Zero, int, int]:
    """Return scale, zero point and range of the result; the two are inputs, side by side."""
    least, most = RANGES[result_type(node, scale + 1)]
    return scale_of(node, scale), zero_point(node, scale + 1), least, most


def result_type(node: Node, zero: int) -> int:
    """Return the type of the result, which its zero point has, or else the first tensor."""
    first = 2 if node.op_type == "QLinearConcat" else 0
    target = node.element_type(zero) or node.element_type(first)
    if target not in (TensorProto.UINT8, TensorProto.INT8):
        node.unsupported(f"its result would be of {type_name(target)}")
    return target
