"""Other shapes for the same elements: Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Expand."""

import math
from typing import Any

import torch
from torch import Tensor

from onnxfit.twin import batches, moving
from onnxfit.twin.batches import Plan, Shape
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.memory_layout import keeping_layout
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Variable

EMPTY_AXES = (
    "its axes are given and empty, which the specification and ONNX Runtime read differently"
)


@converter("Reshape", since=5)
def reshape(node: Node) -> Outputs:
    """Reshape; 0 stands for the input's size unless ``allowzero``."""
    return reshaped(node, node.host(1), bool(node.get("allowzero", 0)))


def reshaped(node: Node, target: Shape | Variable, allowzero: bool) -> Outputs:
    """Add the step that reshapes, with care for the batch that the file may fix."""
    x, batch = node.input(0), batches.fixed_batch(node)
    known = None if isinstance(target, Variable) else target
    if batch is not None:
        plan = batches.plan(node, known, allowzero)
        if plan is not None:
            return moving.emit(node, reshape_batch, x, target, allowzero, tuple(plan), *batch)
    if known is not None and (allowzero or 0 not in known):
        return moving.emit(node, reshape_to, x, known)
    return moving.emit(node, reshape_copying, x, target, allowzero)


def reshape_to(x: Tensor, target: Shape) -> Tensor:
    """Reshape to known sizes."""
    return keeping_layout(x).reshape(target)


def reshape_copying(x: Tensor, target: Shape, allowzero: bool) -> Tensor:
    """Reshape; 0 in the target stands for the input's size unless ``allowzero``."""
    return reshape_to(x, target if allowzero else batches.copied(x.shape, target))


def reshape_batch(
    x: Tensor, target: Shape, allowzero: bool, plan: Any, fixed: int, batch: int
) -> Tensor:
    """Reshape a tensor of a file that fixes its batch, where the file tells the shapes.

    Args:
        x: The tensor.
        target: The shape in the file.
        allowzero: 0 in the target is a size.
        plan: The fields of a :class:`~onnxfit.twin.batches.Plan`.
        fixed: The file's batch size.
        batch: The one given.
    """
    plan = Plan(*plan)
    if batch == fixed or tuple(x.shape) == plan.declared:
        return reshape_copying(x, target, allowzero)
    axis, outer, goal = plan.axis, plan.outer, plan.goal
    before, after = plan.target[:goal], plan.target[goal + 1 :]
    if not outer:
        return x.reshape((*before, plan.target[goal] * batch // fixed, *after))
    inner = x.shape[axis] // (outer * batch)
    parts = x.reshape((*x.shape[:axis], outer, batch, inner, *x.shape[axis + 1 :]))
    samples = parts.movedim(axis + 1, 0).reshape((batch, *before, *after))
    return samples.movedim(0, goal)


@converter("Flatten")
def flatten(node: Node) -> Outputs:
    """Make a matrix of what is before the axis and from it on."""
    axis = node.get("axis", 1)
    if axis == 1 or batches.fixed_batch(node) is None:
        return moving.emit(node, flattened, node.input(0), axis)
    return reshaped(node, node.emit_host(flat_shape, node.input(0), axis), True)


def flattened(x: Tensor, axis: int) -> Tensor:
    """Make a matrix of what is before the axis and from it on."""
    if axis == 1 and x.dim() > 1:
        return torch.flatten(keeping_layout(x), 1)
    return x.reshape(flat_shape(x, axis))


def flat_shape(x: Tensor, axis: int) -> Shape:
    """Return the shape of a flattened tensor."""
    shape = tuple(x.shape)
    axis = axis + len(shape) if axis < 0 else axis
    return math.prod(shape[:axis]), math.prod(shape[axis:])


@converter("Transpose")
def transpose(node: Node) -> Outputs:
    """Permute the dimensions; without an order they are reversed."""
    order, known = node.get("perm"), node.known(0)
    if order is None and isinstance(known, Tensor):
        order = tuple(reversed(range(known.dim())))
    if order is None:
        return moving.emit(node, reverse_dimensions, node.input(0))
    return moving.emit(node, torch.permute, node.input(0), order)


def reverse_dimensions(x: Tensor) -> Tensor:
    """Reverse the order of the dimensions."""
    return x.permute(tuple(range(x.dim() - 1, -1, -1)))


@converter("Squeeze")
def squeeze_attribute(node: Node) -> Outputs:
    return squeezed(node, node.get("axes"))


@converter("Squeeze", since=13)
def squeeze(node: Node) -> Outputs:
    return squeezed(node, node.host(1))


def squeezed(node: Node, axes: Shape | Variable | None) -> Outputs:
    """Add the step that takes out dimensions of 1; without axes, all that are 1 in the file."""
    if axes == ():
        node.unsupported(EMPTY_AXES)
    if axes is None and batches.fixed_batch(node) is not None:
        shape = batches.declared(node)
        axes = shape and tuple(axis for axis, size in enumerate(shape) if size == 1)
        if axes == ():
            return node.value(0)
    if axes is None:
        return moving.emit(node, torch.squeeze, node.input(0))
    return moving.emit(node, squeeze_axes, node.input(0), axes)


def squeeze_axes(x: Tensor, axes: Shape) -> Tensor:
    """Take out dimensions, which must be 1."""
    if not axes:
        raise ValueError(EMPTY_AXES)
    for axis in axes:
        if x.shape[axis] != 1:
            raise ValueError(f"dimension {axis} to take out is {x.shape[axis]}, not 1")
    return x.squeeze(axes)


@converter("Unsqueeze")
def unsqueeze_attribute(node: Node) -> Outputs:
    return unsqueezed(node, node.get("axes"))


@converter("Unsqueeze", since=13)
def unsqueeze(node: Node) -> Outputs:
    return unsqueezed(node, node.host(1))


def unsqueezed(node: Node, axes: Any) -> Outputs:
    """Add the step that puts in dimensions of 1."""
    if isinstance(axes, tuple) and len(axes) == 1:
        return moving.emit(node, torch.unsqueeze, node.input(0), axes[0])
    return moving.emit(node, unsqueeze_axes, node.input(0), axes)


def unsqueeze_axes(x: Tensor, axes: Any) -> Tensor:
    """Put in dimensions of 1, at places in the result."""
    axes = axes if isinstance(axes, tuple) else (axes,)
    rank = x.dim() + len(axes)
    places = sorted(axis + rank if axis < 0 else axis for axis in axes)
    if len(set(places)) < len(places):
        raise ValueError(f"the axes {axes} repeat each other")
    for axis in places:
        x = x.unsqueeze(axis)
    return x


@converter("Expand")
def expand(node: Node) -> Outputs:
    """Broadcast to a shape; where the file fixes the batch, so may that shape."""
    x, target = node.input(0), node.host(1)
    batch = node.frame.builder.batch
    if batch is not None and isinstance(target, tuple) and target and target[0] == batch[0] > 1:
        return moving.emit(node, expand_batch, x, target, *batch)
    return moving.emit(node, broadcast, x, target)


def broadcast(x: Tensor, target: Shape) -> Tensor:
    """Broadcast a tensor and a shape with each other."""
    return x.expand(torch.broadcast_shapes(x.shape, target))


def expand_batch(x: Tensor, target: Shape, fixed: int, batch: int) -> Tensor:
    """Broadcast with a shape of as many rows as the file's batch, or as the one given."""
    rows = x.shape[0] if x.dim() == len(target) else 1
    if fixed not in (batch, rows) and rows in (1, batch):
        target = (batch, *target[1:])
    return broadcast(x, target)
