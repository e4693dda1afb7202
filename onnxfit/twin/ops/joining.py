"""Putting tensors together and taking them to pieces: Concat, Split, Tile, and their likes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from onnxfit.twin import moving
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Variable


@converter("Concat", since=4)
def concat(node: Node) -> Outputs:
    """Concatenate; where the file fixes the batch, constants may have a row for each sample."""
    tensors, axis = node.inputs, node.get("axis")
    if node.element_type(0) == TensorProto.STRING:
        return node.emit(concat_strings, tensors, axis)
    batch = node.frame.builder.batch
    if batch is None or not any(isinstance(value, Variable) for value in tensors):
        return joined(node, torch.cat, tensors, axis)
    alike = tuple(has_equal_rows(node.known(index), batch[0]) for index in range(len(node)))
    return joined(node, concat_batch, tensors, axis, alike, *batch)


def has_equal_rows(tensor: Any, rows: int) -> bool:
    """Tell whether a constant has so many rows, and the same in each."""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.dim() > 0
        and tensor.shape[0] == rows
        and bool((tensor == tensor[:1]).all())
    )


def joined(node: Node, function: Any, tensors: list[Any], *args: Any) -> Outputs:
    """Add a step that joins tensors, and one for the numbers behind quantised ones."""
    result = node.emit(function, tensors, *args)
    return moving.with_floats(node, result, function, tensors, *args)


def concat_batch(
    tensors: Sequence[torch.Tensor], axis: int, alike: Sequence[bool], fixed: int, batch: int
) -> torch.Tensor:
    """Concatenate tensors of a file that fixes its batch, some with a row for each sample.

    Args:
        tensors: The tensors.
        axis: The dimension along which they are put together.
        alike: Which of them are constants with the same row for each of the file's samples.
        fixed: The file's batch size.
        batch: The one given.
    """
    if batch == fixed:
        return torch.cat(tensors, axis)
    rank = tensors[0].dim()
    axis = axis + rank if axis < 0 else axis
    for place in range(rank):
        if place != axis and {x.shape[place] for x in tensors} == {fixed, batch}:
            tensors = [
                x if x.shape[place] == batch else spread(x, place, same and not place, fixed, batch)
                for x, same in zip(tensors, alike, strict=True)
            ]
    return torch.cat(tensors, axis)


def spread(x: torch.Tensor, axis: int, alike: bool, fixed: int, batch: int) -> torch.Tensor:
    """Return a constant with a row for each sample."""
    if fixed != 1 and not alike:
        raise ValueError(f"the file has constants for a batch of {fixed}, not for one of {batch}")
    sizes = [-1] * x.dim()
    sizes[axis] = batch
    return x.narrow(axis, 0, 1).expand(sizes)


def concat_strings(arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:
    """Concatenate strings."""
    return np.concatenate(arrays, axis)


@converter("Split", since=2)
def split_attribute(node: Node) -> Outputs:
    return split_into(node, node.get("split"), node.number_of_outputs)


@converter("Split", since=13)
def split(node: Node) -> Outputs:
    return split_into(node, node.host(1), node.get("num_outputs", node.number_of_outputs))


def split_into(node: Node, sizes: Any, count: int) -> Outputs:
    """Add the step that splits into parts of given sizes, or else into some of equal size."""
    axis = node.get("axis", 0)
    x = node.input(0)
    if sizes is not None:
        return moving.emit(node, split_sizes, x, sizes, axis, outputs=node.number_of_outputs)
    uneven = node.opset >= 18
    return moving.emit(node, split_evenly, x, count, axis, uneven, outputs=node.number_of_outputs)


def split_sizes(x: torch.Tensor, sizes: Any, axis: int) -> Any:
    """Split into parts of given sizes."""
    return torch.split(x, sizes, axis)


def split_evenly(x: torch.Tensor, count: int, axis: int, uneven: bool) -> Any:
    """Split into so many parts, the last of which may be smaller than the others."""
    length = x.shape[axis]
    size = -(-length // count)
    rest = length - size * (count - 1)
    if rest < 0 or (rest != size and not uneven):
        raise ValueError(f"a dimension of {length} cannot be split into {count} equal parts")
    return torch.split(x, [size] * (count - 1) + [rest], axis)


@converter("Tile", since=6)
def tile(node: Node) -> Outputs:
    """Repeat along each dimension; a single row as often as there are samples."""
    repeats, batch = node.host(1), node.frame.builder.batch
    if batch is not None and isinstance(repeats, tuple) and repeats and repeats[0] == batch[0] > 1:
        return moving.emit(node, tile_batch, node.input(0), repeats, *batch)
    return moving.emit(node, torch.tile, node.input(0), repeats)


def tile_batch(x: torch.Tensor, repeats: tuple[int, ...], fixed: int, batch: int) -> torch.Tensor:
    """Repeat as often as the file's batch is large, or the one given."""
    if batch != fixed:
        if x.shape[0] != 1:
            raise ValueError(
                f"the file fixes its batch to {fixed}, and here repeats rows so often; "
                f"it cannot for a batch of {batch}"
            )
        repeats = (batch, *repeats[1:])
    return torch.tile(x, repeats)


@converter("Trilu")
def trilu(node: Node) -> Outputs:
    """Keep the upper or the lower triangle, from a diagonal on."""
    function = torch.triu if node.get("upper", 1) else torch.tril
    diagonal = node.host(1) if node.has(1) else 0
    return moving.emit(node, triangle, node.input(0), diagonal, function)


def triangle(x: torch.Tensor, diagonal: Any, function: Any) -> torch.Tensor:
    """Keep a triangle, from a diagonal on."""
    return function(x, diagonal[0] if isinstance(diagonal, tuple) else diagonal)


@converter("ReverseSequence", since=10)
def reverse_sequence(node: Node) -> Outputs:
    """Reverse the first elements of each sequence of a batch."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    return moving.emit(node, reverse_first, node.input(0), node.input(1), batch, time)


def reverse_first(x: torch.Tensor, lengths: torch.Tensor, batch: int, time: int) -> torch.Tensor:
    """Reverse the first elements along an axis, as many as each sequence has."""
    x = x.movedim((batch, time), (0, 1))
    steps = torch.arange(x.shape[1], device=x.device)
    ends = lengths.to(steps.dtype).unsqueeze(1)
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x[rows, order].movedim((0, 1), (batch, time))
