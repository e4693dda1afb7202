"""Tensors out of shapes: Shape, Size, ConstantOfShape, EyeLike, Range."""

import math
from typing import Any

import torch
from onnx import TensorProto

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.tensors import DTYPES
from onnxfit.twin.values import Constant, Variable

STASHED = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.INT16)


@converter("Shape")
def shape(node: Node) -> Outputs:
    """Return the shape, or the part of it between two dimensions, without making a tensor."""
    start, end = node.get("start", 0), node.get("end")
    if not isinstance(node.value(0), Variable):
        return Constant(torch.tensor(shape_between(node.known(0), start, end), dtype=torch.int64))
    return node.emit_host(shape_between, node.input(0), start, end, rank=1)


def shape_between(x: Any, start: int, end: int | None) -> tuple[int, ...]:
    """Return the sizes of dimensions."""
    return tuple(x.shape[start:end])


@converter("Size")
def size(node: Node) -> Outputs:
    """Return the number of elements, without making a tensor."""
    if not isinstance(node.value(0), Variable):
        return Constant(torch.tensor(number_of_elements(node.known(0)), dtype=torch.int64))
    return node.emit_host(number_of_elements, node.input(0), rank=0)


def number_of_elements(x: Any) -> int:
    """Return the number of elements."""
    return math.prod(x.shape)


@converter("ConstantOfShape")
def constant_of_shape(node: Node) -> Outputs:
    """Fill a shape with a number."""
    value = node.get("value", torch.zeros(1))
    if value.dtype.is_floating_point and value.element_size() == 1:
        value = value.to(torch.float32)
        return node.emit(filled_as, node.host(0), value.item(), node.like(node.get("value").dtype))
    return node.emit(filled, node.host(0), value.item(), node.like(value.dtype))


def filled(shape: tuple[int, ...], number: float, like: torch.Tensor) -> torch.Tensor:
    """Fill a shape with a number."""
    return like.new_full(shape, number)


def filled_as(shape: tuple[int, ...], number: float, like: torch.Tensor) -> torch.Tensor:
    """Fill a shape with a number of a type that PyTorch cannot fill with."""
    return like.new_full(shape, number, dtype=torch.float32).to(like.dtype)


@converter("EyeLike")
def eye_like(node: Node) -> Outputs:
    """Return ones on a diagonal of a matrix of the input's shape."""
    wanted = node.get("dtype")
    dtype = None if wanted is None else node.like(DTYPES[wanted])
    return node.emit(diagonal, node.input(0), node.get("k", 0), dtype)


def diagonal(x: torch.Tensor, k: int, like: torch.Tensor | None) -> torch.Tensor:
    """Return ones on a diagonal of a matrix of the input's shape."""
    rows, columns = (torch.arange(length, device=x.device) for length in x.shape)
    ones = rows.unsqueeze(1) + k == columns
    return ones.to(x.dtype if like is None else like.dtype)


@converter("Range")
def range_(node: Node) -> Outputs:
    """Count from a number in steps; integers of shapes need no tensor to count with."""
    if node.element_type(0) in INTEGERS:
        like = node.like(DTYPES[node.element_type(0)])
        return node.emit(integer_range, *(node.host(index) for index in range(3)), like)
    stash = node.element_type(0) in STASHED and bool(node.get("stash_type", 1))
    return node.emit(float_range, *node.inputs, stash)


def integer_range(start: Any, limit: Any, delta: Any, like: torch.Tensor) -> torch.Tensor:
    """Count in integers."""
    start, limit, delta = (n[0] if isinstance(n, tuple) else n for n in (start, limit, delta))
    if delta == 0:
        raise ValueError("its steps are 0")
    if (limit - start) * delta < 0:
        limit = start
    return torch.arange(start, limit, delta, dtype=like.dtype, device=like.device)


def float_range(
    start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor, stash: bool
) -> torch.Tensor:
    """Count in a floating-point type, or in float32 for a narrower one."""
    dtype = start.dtype
    if stash:
        start, limit, delta = start.float(), limit.float(), delta.float()
    start, limit, delta = start.reshape(()), limit.reshape(()), delta.reshape(())
    count = max(math.ceil(((limit - start) / delta).item()), 0)
    steps = torch.arange(count, dtype=start.dtype, device=start.device)
    return (start + steps * delta).to(dtype)
