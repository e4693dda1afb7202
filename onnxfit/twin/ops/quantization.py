"""Quantisation: QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.

A quantised value exists twice while the twin is built: as the integers of the file, and as the same
numbers in floating point, :attr:`onnxfit.twin.values.Variable.floats`, that operators on quantised
values read. Steps that nothing reads are left out, so mostly the second alone is computed.

Gradients pass straight through the rounding: from a quantised value to what it was made of, the
gradient is 1 / scale where the integers are in their range, and 0 where they are cut to it, so that
QuantizeLinear and DequantizeLinear together have the gradient of clipping. Scales and zero points
have no gradient.
"""

from typing import Any

import torch
from onnx import TensorProto

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.cast import FLOATS, as_type_of, to_dtype, type_name
from onnxfit.twin.registry import converter
from onnxfit.twin.small_types import (
    FLOAT8,
    round_straight_through,
    to_float4,
    to_float8,
    to_integer,
)
from onnxfit.twin.tensors import DTYPES
from onnxfit.twin.values import Constant, Variable

CONTRIB = "com.microsoft"
RANGES: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT2: (0, 3),
    TensorProto.INT2: (-2, 1),
}
SMALL_FLOATS = (*FLOAT8, TensorProto.FLOAT4E2M1)
Zero = Any  # A Python integer, or a tensor: of int32, or of floating point for small floats.


@converter("QuantizeLinear", domain=CONTRIB)
@converter("QuantizeLinear", since=10)
def quantize_linear(node: Node) -> Outputs:
    """Divide by the scale, round, add the zero point and cut to the type's range."""
    target = node.element_type(2) or node.get("output_dtype", 0) or TensorProto.UINT8
    x, scale = _operands(node)
    layout = layout_of(node, 1)
    zero = zero_point(node, 2)
    if target in RANGES:
        floats = node.emit(quantize, x, scale, zero, *RANGES[target], *layout)
        return quantized(node, floats, target)
    if target not in SMALL_FLOATS:
        node.unsupported(f"it quantises to {type_name(target)}")
    shifted = node.emit(shifted_ratio, x, scale, zero, *layout)
    if target == TensorProto.FLOAT4E2M1:
        return node.emit(to_float4, shifted)
    floats = node.emit(to_float8, shifted, DTYPES[target], bool(node.get("saturate", 1)))
    return paired(node.emit(to_dtype, floats, DTYPES[target]), floats)


def _operands(node: Node) -> tuple[Any, Any]:
    """Return the input and the scale in the type in which they are divided."""
    x, scale = node.input(0), scale_of(node, 1)
    own, other = node.element_type(0), node.element_type(1)
    precision = node.get("precision", 0) or (own if other == TensorProto.FLOAT8E8M0 else other)
    if precision == own == other:
        # Versions before 23 leave it open, and ONNX Runtime divides in float32.
        short = node.opset < 23 and own != TensorProto.FLOAT
        return (node.emit(wide, x), node.emit(wide, scale)) if short else (x, scale)
    if precision not in FLOATS:
        node.unsupported(f"it divides in {type_name(precision)}")
    like = node.like(DTYPES[precision])
    return node.emit(as_type_of, x, like), node.emit(as_type_of, scale, like)


@converter("DequantizeLinear", domain=CONTRIB)
@converter("DequantizeLinear", since=10)
def dequantize_linear(node: Node) -> Outputs:
    """Subtract the zero point and multiply by the scale."""
    like, output = None, node.get("output_dtype", 0)
    if output or node.element_type(1) == TensorProto.FLOAT8E8M0:
        if output not in FLOATS:
            node.unsupported(f"its output would be of {type_name(output)}")
        like = node.like(DTYPES[output])
    scale = scale_of(node, 1)
    if node.element_type(1) == TensorProto.FLOAT8E8M0:
        scale = node.emit(as_type_of, scale, node.like(torch.float32))
    zero = zero_point(node, 2)
    return node.emit(dequantize, node.floats(0), scale, zero, *layout_of(node, 1), like)


@converter("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(node: Node) -> Outputs:
    """Quantise with the scale and zero point that the range of the input asks for."""
    x = node.input(0)
    scale, zero = node.emit(dynamic_parameters, x, outputs=2)
    floats = node.emit(quantize, x, scale, zero, *RANGES[TensorProto.UINT8])
    unsigned = node.emit(to_integer, zero, torch.uint8)
    return quantized(node, floats, TensorProto.UINT8), scale, unsigned


def quantized(node: Node, floats: Any, element_type: int) -> Any:
    """Return a quantised value whose numbers are given in floating point."""
    return paired(node.emit(to_integer, floats, DTYPES[element_type]), floats)


def paired(value: Any, floats: Any) -> Any:
    """Give a value the same numbers in floating point, unless both are known anyway."""
    if isinstance(value, Variable) and isinstance(floats, Variable):
        value.floats = floats
    return value


def scale_of(node: Node, index: int) -> Any:
    """Return an input that holds scales, as one without dimensions if it is a single number."""
    scale = node.frozen(index)
    single = isinstance(scale, Constant) and scale.value.numel() == 1 and scale.value.dim()
    return node.emit(torch.reshape, scale, ()) if single else scale


def zero_point(node: Node, index: int) -> Zero:
    """Return an input that holds zero points, as a Python integer where all are the same."""
    if not node.has(index):
        return 0
    floating = node.element_type(index) in SMALL_FLOATS
    known = node.known(index)
    if known is None:
        if floating:
            return node.emit(as_type_of, node.input(index), node.like(torch.float32))
        return node.emit(to_integer, node.input(index), torch.int32)
    values = known.to(torch.float32) if floating else known.to(torch.int32)
    first = values.flatten()[:1]
    if len(first) and bool((values == first).all()) and (not floating or first == 0):
        return int(first)
    return Constant(values)


def layout_of(node: Node, scale: int) -> tuple[int | None, int]:
    """Return the axis and block size of a node's scales, no axis for a single scale."""
    known = node.known(scale)
    if known is not None and known.numel() == 1:
        return None, 0
    return node.get("axis", 1), node.get("block_size", 0)


def spread(
    parameter: torch.Tensor, x: torch.Tensor, axis: int | None, block: int = 0
) -> torch.Tensor:
    """Shape scales or zero points so that they broadcast to a tensor, without a gradient.

    Args:
        parameter: A single number; one for each index of an axis; or one for each block.
        x: The tensor.
        axis: The axis; None for a single number.
        block: How many indices of the axis share a number, where ``parameter`` is one for blocks.
    """
    parameter = parameter.detach()
    if axis is None or parameter.numel() == 1:
        return parameter.reshape(())
    if parameter.dim() == 1 and not (block and x.dim() == 1):
        shape = [1] * x.dim()
        shape[axis if x.dim() > 1 else 0] = -1
        return parameter.reshape(shape)
    if not block:
        raise ValueError(f"a scale of {parameter.dim()} dimensions needs a block_size")
    axis %= x.dim()
    return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor in a type that holds 16-bit integers exactly."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def shifted_ratio(
    x: torch.Tensor, scale: torch.Tensor, zero: Zero, axis: int | None, block: int
) -> torch.Tensor:
    """Divide by the scale and add the zero point."""
    ratio = x / spread(scale, x, axis, block)
    return ratio + spread(zero, x, axis, block) if isinstance(zero, torch.Tensor) else ratio


def quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero: Zero,
    least: int,
    most: int,
    axis: int | None = None,
    block: int = 0,
) -> torch.Tensor:
    """Return the quantised numbers in floating point."""
    ratio = wide(x / spread(scale, x, axis, block))
    if isinstance(zero, torch.Tensor):
        zero = spread(zero, x, axis, block)
    return rounded(ratio, zero, least, most)


def rounded(ratio: torch.Tensor, zero: Zero, least: int, most: int) -> torch.Tensor:
    """Round to integers, add the zero point, and cut to a range; gradients pass through."""
    # Almost half a step more on both sides: what is rounded to the range is not cut.
    y = round_straight_through(torch.clamp(ratio, least - zero - 0.49, most - zero + 0.49))
    return y if isinstance(zero, int) and zero == 0 else y + zero


def centered(x: torch.Tensor, zero: Zero, axis: int | None = None, block: int = 0) -> torch.Tensor:
    """Subtract the zero point from numbers in floating point."""
    if isinstance(zero, torch.Tensor):
        return x - spread(zero, x, axis, block)
    return x - zero if zero else x


def dequantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero: Zero,
    axis: int | None = None,
    block: int = 0,
    like: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the numbers that quantised ones stand for, in the type of the scale or ``like``."""
    factor = wide(spread(scale, x, axis, block))
    y = centered(x.to(factor.dtype), zero, axis, block) * factor
    return y.to(scale.dtype if like is None else like.dtype)


def dynamic_parameters(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scale and zero point with which uint8 covers a tensor and 0."""
    flat = x.detach()
    least, most = flat.amin().clamp(max=0), flat.amax().clamp(min=0)
    scale = (most - least) / 255
    scale = torch.where(scale == 0, 1, scale)
    return scale, torch.round(torch.clamp(-least / scale, 0, 255)).to(torch.int32)
