"""Taking elements: Gather and its likes, Slice, Compress, OneHot, NonZero, Unique."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onnxfit.twin import moving
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Variable, Weight


@converter("Gather")
def gather(node: Node) -> Outputs:
    """Take elements along an axis; a number takes one, and the axis away."""
    axis, known = node.get("axis", 0), node.known(1)
    if known is None and isinstance(node.value(0), Weight) and axis == 0:
        return node.emit(embedding, node.input(1), node.input(0))
    x, index = node.input(0), node.value(1)
    if isinstance(index, Variable) and index.host and index.rank == 0:
        return moving.emit(node, torch.select, x, axis, index)
    if known is None:
        return moving.emit(node, take, x, node.input(1), axis)
    if known.dim() == 0:
        return moving.emit(node, torch.select, x, axis, known.item())
    if known.dim() == 1 and bool((known >= 0).all()):
        return moving.emit(node, torch.index_select, x, axis, node.input(1))
    return moving.emit(node, take, x, node.input(1), axis)


def embedding(indices: Tensor, weight: Tensor) -> Tensor:
    """Take rows of a weight."""
    if weight.dim() == 2:
        return functional.embedding(wrapped(indices, weight.shape[0]), weight)
    return take(weight, indices, 0)


def take(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Take elements along an axis; negative indices count from its end."""
    axis = axis + x.dim() if axis < 0 else axis
    flat = wrapped(indices, x.shape[axis]).reshape(-1)
    taken = x.index_select(axis, flat)
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def wrapped(indices: Tensor, size: int) -> Tensor:
    """Return indices in which none counts from the end."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@converter("GatherElements")
def gather_elements(node: Node) -> Outputs:
    """Take an element for each index along an axis."""
    return moving.emit(node, take_elements, node.input(0), node.input(1), node.get("axis", 0))


def take_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Take an element for each index along an axis."""
    return torch.gather(x, axis, wrapped(indices, x.shape[axis]))


@converter("GatherND", since=11)
def gather_nd(node: Node) -> Outputs:
    """Take what rows of indices point at, in each batch by itself."""
    batch_dims = node.get("batch_dims", 0)
    return moving.emit(node, take_nd, node.input(0), node.input(1), batch_dims)


def take_nd(x: Tensor, indices: Tensor, batch_dims: int) -> Tensor:
    """Take what rows of indices point at."""
    points = indices.to(torch.int64).unbind(-1)
    rank = indices.dim() - 1
    samples = []
    for axis in range(batch_dims):
        shape = [1] * rank
        shape[axis] = indices.shape[axis]
        samples.append(torch.arange(indices.shape[axis], device=x.device).reshape(shape))
    return x[(*samples, *points)]


@converter("ArrayFeatureExtractor", domain="ai.onnx.ml")
def array_feature_extractor(node: Node) -> Outputs:
    """Take elements along the last axis."""
    return moving.emit(node, take_features, node.input(0), node.input(1))


def take_features(x: Tensor, indices: Tensor) -> Tensor:
    """Take elements along the last axis; a row counts as a matrix."""
    x = x.unsqueeze(0) if x.dim() == 1 else x
    return x.index_select(-1, indices.reshape(-1))


# Larger integers make PyTorch warn.
LARGEST = 2**62
# What a slice to the end of a dimension has for its end.
FORWARD_ENDS = (2**31 - 1, 2**63 - 1)
FORWARD_END = (
    "it goes backwards to an end of INT_MAX, which the specification and ONNX Runtime read "
    "differently"
)


@converter("Slice")
def slice_attributes(node: Node) -> Outputs:
    return sliced(node, node.get("starts"), node.get("ends"), node.get("axes"), None)


@converter("Slice", since=10)
def slice_inputs(node: Node) -> Outputs:
    return sliced(node, *(node.host(index) for index in (1, 2, 3, 4)))


def sliced(node: Node, starts: Any, ends: Any, axes: Any, steps: Any) -> Outputs:
    """Add the steps that slice: one for each axis where all is known."""
    bounds = (starts, ends, axes, steps)
    x = node.input(0)
    if axes is None and isinstance(starts, tuple):
        axes = tuple(range(len(starts)))
    if not all(isinstance(bound, tuple) for bound in (starts, ends, axes)):
        return moving.emit(node, slice_axes, x, *bounds)
    if isinstance(steps, Variable):
        return moving.emit(node, slice_axes, x, *bounds)
    parts = []
    for axis, start, end, step in zip(axes, starts, ends, steps or (1,) * len(axes), strict=True):
        if start == 0 and end >= 2**31 - 1 and step == 1:
            continue
        if step < 0 and end in FORWARD_ENDS:
            node.unsupported(FORWARD_END)
        parts.append((start, end, axis, step))
    if len(parts) == 1:
        return moving.emit(node, slice_axis, x, *parts[0])
    return moving.emit(node, slice_axes, x, *map(tuple, zip(*parts, strict=True))) if parts else x


def slice_axes(x: Tensor, starts: Any, ends: Any, axes: Any, steps: Any) -> Tensor:
    """Slice along axes, all of them in order where they are not given."""
    starts, ends = _row(starts), _row(ends)
    axes = range(len(starts)) if axes is None else _row(axes)
    steps = (1,) * len(starts) if steps is None else _row(steps)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = slice_axis(x, start, end, axis, step)
    return x


def slice_axis(x: Tensor, start: int, end: int, axis: int, step: int) -> Tensor:
    """Slice along an axis; a negative step goes backwards."""
    axis = axis + x.dim() if axis < 0 else axis
    if step > 0:
        part = slice(max(start, -LARGEST), max(end, -LARGEST), step)
        return x[(slice(None),) * axis + (part,)]
    return x[(slice(None),) * axis + (backwards(x.shape[axis], start, end, step),)].flip(axis)


def backwards(size: int, start: int, end: int, step: int) -> slice:
    """Return the slice that takes forwards what one with a negative step takes backwards."""
    if step == 0:
        raise ValueError("its steps are 0")
    if end in FORWARD_ENDS:
        raise ValueError(FORWARD_END)
    first = max(min(start + size if start < 0 else start, size - 1), 0)
    last = max(min(end + size if end < 0 else end, size - 1), -1)
    count = max((first - last - step - 1) // -step, 0) if size else 0
    return slice(first + (count - 1) * step, first + 1, -step) if count else slice(0, 0)


def _row(numbers: Any) -> Any:
    return numbers if isinstance(numbers, tuple) else (numbers,)


@converter("Compress")
def compress(node: Node) -> Outputs:
    """Take the elements where a condition holds."""
    return moving.emit(node, take_where, node.input(0), node.input(1), node.get("axis"))


def take_where(x: Tensor, condition: Tensor, axis: int | None) -> Tensor:
    """Take the elements of an axis, or of all, where a condition holds."""
    x = x.reshape(-1) if axis is None else x
    return x.index_select(axis or 0, condition.nonzero().reshape(-1))


@converter("OneHot")
def one_hot(node: Node) -> Outputs:
    """Write one value where an index points, and another elsewhere."""
    depth, axis = node.host(1), node.get("axis", -1)
    return node.emit(one_hot_of, node.input(0), depth, node.frozen(2), axis)


def one_hot_of(indices: Tensor, depth: Any, values: Tensor, axis: int) -> Tensor:
    """Write the second of two values where an index points, and the first elsewhere."""
    depth = int(depth[0] if isinstance(depth, tuple) else depth)
    indices = indices if indices.is_floating_point() else indices.to(torch.int64)
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    classes = torch.arange(depth, device=indices.device)
    classes = classes.reshape((-1, *(1,) * (indices.dim() - axis)))
    indices = torch.where(indices < 0, indices + depth, indices)
    pointed = indices.unsqueeze(axis) == classes
    off, on = values.unbind(0)
    return torch.where(pointed, on, off)


@converter("NonZero")
def non_zero(node: Node) -> Outputs:
    """Return the indices of the elements that are not 0, a column for each."""
    return node.emit(places, node.input(0))


def places(x: Tensor) -> Tensor:
    """Return the indices of the elements that are not 0, a column for each."""
    if x.dtype in moving.BITS:
        x = x.to(torch.float64)
    return x.nonzero().t().contiguous()


@converter("Unique")
def unique(node: Node) -> Outputs:
    """Return the different elements, or the different parts along an axis."""
    in_order, axis = bool(node.get("sorted", 1)), node.get("axis")
    found = node.emit(occurrences, node.input(0), axis, in_order, outputs=3)
    # Each different element is taken from its first place, so that gradients reach it.
    taken = moving.emit(node, take_from, node.input(0), found[0], axis)
    return (taken, *found)


def occurrences(x: Any, axis: int | None, in_order: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return where different elements are first, which one each is, and how many of each are."""
    device = x.device if isinstance(x, torch.Tensor) else None
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    elif axis is not None:
        x = x.astype(str)
    _, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis, equal_nan=True
    )
    inverse = inverse.reshape(-1)
    if not in_order:
        order = np.argsort(first, kind="stable")
        first, counts = first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    return tuple(torch.from_numpy(a.astype(np.int64)).to(device) for a in (first, inverse, counts))


def take_from(x: Tensor, indices: Tensor, axis: int | None) -> Tensor:
    """Take elements along an axis, or of all."""
    return x.reshape(-1)[indices] if axis is None else x.index_select(axis, indices)
