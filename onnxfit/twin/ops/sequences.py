"""Sequences, which are Python lists at run time, and optionals, which are None or the value."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import GraphProto

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Constant, Variable

Position = int | tuple[int, ...] | None


@converter("SequenceConstruct", since=11)
def sequence_construct(node: Node) -> Outputs:
    return emit(node, construct, *node.inputs)


@converter("SequenceEmpty", since=11)
def sequence_empty(node: Node) -> Outputs:
    del node
    return Constant([])


@converter("SequenceInsert", since=11)
def sequence_insert(node: Node) -> Outputs:
    return emit(node, insert, node.input(0), node.input(1), node.host(2))


@converter("SequenceAt", since=11)
def sequence_at(node: Node) -> Outputs:
    return emit(node, at, node.input(0), node.host(1))


@converter("SequenceErase", since=11)
def sequence_erase(node: Node) -> Outputs:
    return emit(node, erase, node.input(0), node.host(1))


@converter("SequenceLength", since=11)
def sequence_length(node: Node) -> Outputs:
    return node.emit_host(len, node.input(0), rank=0)


@converter("SplitToSequence", since=11)
def split_to_sequence(node: Node) -> Outputs:
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
    return emit(node, split, node.input(0), node.host(1), axis, keep)


@converter("ConcatFromSequence", since=11)
def concat_from_sequence(node: Node) -> Outputs:
    return emit(node, concat, node.input(0), node.get("axis"), bool(node.get("new_axis", 0)))


@converter("SequenceMap", since=17)
def sequence_map(node: Node) -> Outputs:
    """Run the body for each element; additional inputs that are sequences go along."""
    graph: GraphProto = node.get("body")
    body = node.body(graph, "body")
    outputs = len(graph.output)
    return node.emit(map_elements, body, node.inputs, outputs, outputs=outputs)


@converter("Optional", since=15)
def optional(node: Node) -> Outputs:
    return node.value(0) if node.has(0) else Constant(None)


@converter("OptionalHasElement", since=15)
def optional_has_element(node: Node) -> Outputs:
    if isinstance(node.value(0) if node.has(0) else None, Variable):
        return node.emit_host(has_element, node.input(0), dtype=torch.bool, rank=0)
    return Constant(torch.tensor(node.known(0) is not None))


@converter("OptionalGetElement", since=15)
def optional_get_element(node: Node) -> Outputs:
    if node.known(0) is not None:
        return node.value(0)
    return emit(node, element, node.input(0))


def emit(node: Node, function: Callable[..., Any], *args: Any) -> Any:
    """Add a step that is not computed beforehand: its tensors have to move with the twin."""
    return node.frame.emit(node.label, function, args, {}, 0, fold=False)


def construct(*elements: Any) -> list[Any]:
    return list(elements)


def place(position: Position, default: int, length: int, last: int) -> int:
    """Return a position, counted from the front; ``last`` is the largest there is."""
    index = position[0] if isinstance(position, tuple) else position
    index = default if index is None else index
    if not -length <= index <= last:
        raise ValueError(f"there is no position {index} in a sequence of {length}")
    return index + length if index < 0 else index


def insert(sequence: Sequence[Any], tensor: Any, position: Position) -> list[Any]:
    """Insert a tensor, at the end where there is no position."""
    length = len(sequence)
    index = place(position, length, length, length)
    return [*sequence[:index], tensor, *sequence[index:]]


def at(sequence: Sequence[Any], position: Position) -> Any:
    return sequence[place(position, 0, len(sequence), len(sequence) - 1)]


def erase(sequence: Sequence[Any], position: Position) -> list[Any]:
    """Leave an element out, the last where there is no position."""
    index = place(position, len(sequence) - 1, len(sequence), len(sequence) - 1)
    return [*sequence[:index], *sequence[index + 1 :]]


def split(x: Any, sizes: int | tuple[int, ...] | None, axis: int, keep: bool) -> list[Any]:
    """Split a tensor, or an array of strings, in parts of some sizes or all of one size.

    The axis goes where parts all of size 1 do not keep it. The specification has them keep it where
    the size is given; ONNX Runtime has not, and PyTorch's exporter writes ``unbind`` for it.
    """
    length = x.shape[axis]
    keep |= sizes not in (None, 1)
    if isinstance(sizes, tuple):
        if sum(sizes) != length:
            raise ValueError(f"parts of {sizes} do not make an axis of {length}")
    else:
        size = 1 if sizes is None else sizes
        sizes = tuple(min(size, length - start) for start in range(0, length, size))
    if not sizes:
        return []
    if isinstance(x, np.ndarray):
        parts = np.split(x, np.cumsum(sizes)[:-1], axis)
    else:
        parts = list(x.split(sizes, axis))
    return parts if keep else [part.squeeze(axis) for part in parts]


def concat(sequence: Sequence[Any], axis: int, new_axis: bool) -> Any:
    """Put the elements one behind the other, or on an axis of its own."""
    if not sequence:
        raise ValueError("an empty sequence has nothing to concatenate")
    if isinstance(sequence[0], np.ndarray):
        return np.stack(sequence, axis) if new_axis else np.concatenate(sequence, axis)
    return torch.stack(list(sequence), axis) if new_axis else torch.cat(list(sequence), axis)


def map_elements(
    body: Callable[..., tuple[Any, ...]], inputs: Sequence[Any], outputs: int
) -> tuple[list[Any], ...]:
    """Run a body for each element of the first input, and each other one that is a sequence."""
    found: tuple[list[Any], ...] = tuple([] for _ in range(outputs))
    for index in range(len(inputs[0])):
        given = [value[index] if isinstance(value, list) else value for value in inputs]
        for column, value in zip(found, body(*given), strict=True):
            column.append(value)
    return found


def has_element(value: Any) -> bool:
    return value is not None


def element(value: Any) -> Any:
    """Return what an optional holds."""
    if value is None:
        raise ValueError("the optional is empty")
    return value
