"""Writing elements into a copy: ScatterElements, ScatterND, TensorScatter."""

import math

import torch
from onnx import TensorProto
from torch import Tensor

from onnxfit.twin import moving
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.indexing import wrapped
from onnxfit.twin.registry import converter
from onnxfit.twin.transforms import has_forward_derivatives

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@converter("Scatter", since=9)
@converter("ScatterElements")
def scatter_elements(node: Node) -> Outputs:
    """Write an element for each index along an axis."""
    args = node.input(0), node.input(1), node.input(2), node.get("axis", 0)
    reduction = reduction_of(node)
    if reduction is None:
        return moving.emit(node, write_elements, *args)
    return node.emit(combine_elements, *args, reduction)


def reduction_of(node: Node) -> str | None:
    """Return what PyTorch calls the reduction, None where elements are replaced."""
    name = node.get("reduction", "none")
    if name == "none":
        return None
    if name not in REDUCTIONS:
        node.unsupported(f"its reduction {name!r} is not one of none, {', '.join(REDUCTIONS)}")
    if node.element_type(0) in (*moving.WITHOUT_KERNELS[1:], TensorProto.STRING):
        node.unsupported("elements of this type can be replaced, not combined")
    return REDUCTIONS[name]


def write_elements(x: Tensor, indices: Tensor, updates: Tensor, axis: int) -> Tensor:
    """Replace an element for each index along an axis."""
    return torch.scatter(x, axis, wrapped(indices, x.shape[axis]), updates)


def combine_elements(
    x: Tensor, indices: Tensor, updates: Tensor, axis: int, reduction: str
) -> Tensor:
    """Combine an element for each index along an axis with the one there."""
    refuse_forward_derivatives(reduction)
    indices = wrapped(indices, x.shape[axis])
    return torch.scatter_reduce(x, axis, indices, updates, reduction, include_self=True)


def refuse_forward_derivatives(reduction: str) -> None:
    """Refuse what PyTorch's function would silently take for a constant."""
    if reduction == "prod" and has_forward_derivatives():
        raise ValueError("PyTorch has no forward derivative of products that are scattered")


@converter("ScatterND", since=11)
def scatter_nd(node: Node) -> Outputs:
    """Write what rows of indices point at."""
    reduction = reduction_of(node)
    args = node.input(0), node.input(1), node.input(2)
    if reduction is None:
        return moving.emit(node, write_nd, *args)
    return node.emit(combine_nd, *args, reduction)


def write_nd(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Replace what rows of indices point at."""
    return x.index_put(indices.to(torch.int64).unbind(-1), updates)


def combine_nd(x: Tensor, indices: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """Combine what rows of indices point at with updates."""
    refuse_forward_derivatives(reduction)
    points = indices.to(torch.int64).unbind(-1)
    if reduction == "sum" and points:
        return x.index_put(points, updates, accumulate=True)
    outer, inner = x.shape[: len(points)], x.shape[len(points) :]
    flat = indices.new_zeros(indices.shape[:-1], dtype=torch.int64)
    for size, point in zip(outer, points, strict=True):
        flat = flat * size + wrapped(point, size)
    rows = flat.reshape(-1, 1).expand(-1, math.prod(inner))
    table = x.reshape(math.prod(outer), math.prod(inner))
    combined = torch.scatter_reduce(table, 0, rows, updates.reshape(rows.shape), reduction)
    return combined.reshape(x.shape)


@converter("TensorScatter", since=24)
def tensor_scatter(node: Node) -> Outputs:
    """Write a piece of a sequence into each sample's cache."""
    circular = node.get("mode", "linear") == "circular"
    args = node.input(0), node.input(1), node.input(2), node.get("axis", -2), circular
    return moving.emit(node, write_sequence, *args)


def write_sequence(
    cache: Tensor, update: Tensor, starts: Tensor | None, axis: int, circular: bool
) -> Tensor:
    """Write a piece of a sequence from a place on that each sample has for itself."""
    axis = axis + cache.dim() if axis < 0 else axis
    steps = torch.arange(update.shape[axis], device=cache.device)
    starts = steps.new_zeros(cache.shape[0]) if starts is None else starts.to(torch.int64)
    at = starts.unsqueeze(1) + steps
    if circular:
        at = at.remainder(cache.shape[axis])
    shape = [1] * cache.dim()
    shape[0], shape[axis] = at.shape
    return torch.scatter(cache, axis, at.reshape(shape).expand(update.shape), update)
