"""Casts between types."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.small_types import (
    FLOAT8,
    NARROW,
    to_float4,
    to_float8,
    to_float8e8m0,
    to_integer,
)
from onnxfit.twin.tensors import DTYPES
from onnxfit.twin.values import Variable

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@converter("Cast", since=6)
def cast(node: Node) -> Outputs:
    return cast_to(node, node.get("to"))


@converter("CastLike", since=15)
def cast_like(node: Node) -> Outputs:
    target = node.element_type(1)
    if target == TensorProto.UNDEFINED:
        node.unsupported(f"the type of its input {node.input_name(1)} is not known")
    return cast_to(node, target)


def cast_to(node: Node, target: int) -> Outputs:
    """Cast a node's input to an ONNX type."""
    source = node.element_type(0)
    if target == source:
        return node.value(0)
    if target == TensorProto.STRING:
        return node.emit(format_numbers, node.input(0))
    if target not in DTYPES or DTYPES[target].is_complex:
        node.unsupported(f"it casts to {type_name(target)}")
    if source == TensorProto.STRING:
        return from_strings(node, target)
    return CASTS.get(target, integer)(node, target)


def floating(node: Node, target: int) -> Outputs:
    """Cast to a type that has gradients."""
    return node.emit(as_type_of, node.floats(0), node.like(DTYPES[target]))


def float8(node: Node, target: int) -> Outputs:
    """Cast to one of the float8 types that have a sign."""
    wide = node.floats(0)
    if node.element_type(0) not in FLOATS:
        wide = node.emit(as_type_of, wide, node.like(torch.float32))
    rounded = node.emit(to_float8, wide, DTYPES[target], bool(node.get("saturate", 1)))
    result = node.emit(to_dtype, rounded, DTYPES[target])
    if isinstance(result, Variable):
        result.floats = rounded
    return result


def float8e8m0(node: Node, _: int) -> Outputs:
    """Cast to powers of 2."""
    if not node.get("saturate", 1):
        node.unsupported("it casts to FLOAT8E8M0 without saturation")
    return node.emit(to_float8e8m0, node.input(0), node.get("round_mode", "up"))


def float4(node: Node, target: int) -> Outputs:
    """Cast to the float4 type, which the twin carries in another."""
    return node.emit(to_float4, floating(node, target))


def boolean(node: Node, _: int) -> Outputs:
    """Cast to truth values."""
    return node.emit(to_bool, node.input(0))


def integer(node: Node, target: int) -> Outputs:
    """Cast to integers of any size."""
    bits, signed = NARROW.get(target, (0, False))
    return node.emit(to_integer, node.input(0), DTYPES[target], bits, signed)


CASTS: dict[int, Callable[[Node, int], Outputs]] = {
    **dict.fromkeys(FLOATS, floating),
    **dict.fromkeys(FLOAT8, float8),
    TensorProto.FLOAT8E8M0: float8e8m0,
    TensorProto.FLOAT4E2M1: float4,
    TensorProto.BOOL: boolean,
}


def as_type_of(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Cast to the type that the twin has for one of the file."""
    return x.to(like.dtype)


def to_bool(x: torch.Tensor) -> torch.Tensor:
    """Tell which elements are not 0."""
    return x.to(torch.float32) != 0 if x.element_size() == 1 else x.to(torch.bool)


def to_dtype(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast to a type that the twin never changes."""
    return x.to(dtype)


def from_strings(node: Node, target: int) -> Outputs:
    """Read strings."""
    if target in FLOATS:
        return node.emit(parse_floats, node.input(0), node.like(DTYPES[target]))
    if target in NARROW or (target in CASTS and target != TensorProto.BOOL):
        node.unsupported(f"it casts strings to {type_name(target)}")
    return node.emit(parse_integers, node.input(0), DTYPES[target], node.like(torch.float32))


def parse_floats(texts: NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    """Read strings as floating-point numbers."""
    numbers = np.array([float(text) for text in texts.ravel()], dtype=np.float64)
    return torch.from_numpy(numbers.reshape(texts.shape)).to(like.device, like.dtype)


def parse_integers(texts: NDArray[Any], dtype: torch.dtype, like: torch.Tensor) -> torch.Tensor:
    """Read strings as integers; a fraction is cut off."""
    numbers = [_integer(text) for text in texts.ravel()]
    return torch.tensor(numbers, dtype=dtype, device=like.device).reshape(texts.shape)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


def format_numbers(x: torch.Tensor) -> NDArray[Any]:
    """Write numbers as ONNX Runtime does: 8 digits at most, NaN, INF and -INF."""
    texts = [_text(number) for number in x.flatten().tolist()]
    return np.array(texts, dtype=object).reshape(tuple(x.shape))


def _text(number: float) -> str:
    if not isinstance(number, float):
        return str(int(number))
    text = format(number, ".8g")
    return {"nan": "NaN", "inf": "INF", "-inf": "-INF"}.get(text, text)


@converter("BitCast", since=26)
def bit_cast(node: Node) -> Outputs:
    """Read the bits of a tensor as another type of the same size."""
    source, target = node.element_type(0), node.get("to")
    if source == target:
        return node.value(0)
    if source in NARROW and target in NARROW and NARROW[source][0] == NARROW[target][0]:
        return integer(node, target)
    sizes = {_size(source), _size(target)}
    if len(sizes) > 1 or 0 in sizes:
        node.unsupported(f"it turns {type_name(source)} into {type_name(target)}")
    result = node.emit(read_bits, node.input(0), DTYPES[source], DTYPES[target])
    if target in FLOATS:
        return node.emit(as_type_of, result, node.like(DTYPES[target]))
    return result


def _size(element_type: int) -> int:
    """Return the bytes of a type that the twin carries bit by bit, else 0."""
    if element_type in NARROW or element_type == TensorProto.FLOAT4E2M1:
        return 0
    return DTYPES[element_type].itemsize if element_type in DTYPES else 0


def read_bits(x: torch.Tensor, source: torch.dtype, target: torch.dtype) -> torch.Tensor:
    """Read the bits that a tensor has in one type as another type."""
    return x.to(source).contiguous().view(target)


def type_name(element_type: int) -> str:
    """Return the name of an ONNX type."""
    return str(TensorProto.DataType.Name(element_type))
