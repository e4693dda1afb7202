"""Control flow: If, Loop and Scan, whose bodies see the values around them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import GraphProto

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.tensors import DTYPES

Body = Callable[..., tuple[Any, ...]]


@converter("If")
def if_else(node: Node) -> Outputs:
    """Choose a branch: when the twin is built where the condition is known, else at run time."""
    condition = node.known(0)
    if condition is not None:
        branch = "then_branch" if bool(condition) else "else_branch"
        return node.inline(node.get(branch), branch)
    branches = [node.body(node.get(name), name) for name in ("then_branch", "else_branch")]
    return _results(node.emit(choose, node.host(0), *branches, outputs=node.number_of_outputs))


@converter("Loop")
def loop(node: Node) -> Outputs:
    """Run the body up to M times and as long as its condition holds."""
    graph: GraphProto = node.get("body")
    body = node.body(graph, "body")
    carried = [node.input(index) for index in range(2, len(node))]
    scanned = [_empty(value) for value in graph.output[1 + len(carried) :]]
    results = node.emit(
        repeat,
        node.host(0),
        node.input(1),
        body,
        carried,
        scanned,
        node.like(torch.float32),
        outputs=len(carried) + len(scanned),
    )
    return _results(results)


@converter("Scan", since=9)
def scan(node: Node) -> Outputs:
    """Run the body along an axis of its scan inputs."""
    graph: GraphProto = node.get("body")
    count = node.get("num_scan_inputs")
    states = len(node) - count
    outputs = len(graph.output) - states
    inputs = node.inputs
    results = node.emit(
        sweep,
        node.body(graph, "body"),
        inputs[:states],
        inputs[states:],
        node.get("scan_input_axes", (0,) * count),
        node.get("scan_input_directions", (0,) * count),
        node.get("scan_output_axes", (0,) * outputs),
        node.get("scan_output_directions", (0,) * outputs),
        [_empty(value) for value in graph.output[states:]],
        outputs=states + outputs,
    )
    return _results(results)


@converter("Scan", since=8)
def scan_of_batches(node: Node) -> Outputs:
    """Run the body along axis 1 of its scan inputs, for each sample of the batch by itself."""
    if node.has(0):
        node.unsupported("its input sequence_lens, of opset 8 alone, is not supported")
    graph: GraphProto = node.get("body")
    count = node.get("num_scan_inputs")
    states = len(node) - 1 - count
    inputs = node.inputs[1:]
    results = node.emit(
        sweep_batch,
        node.body(graph, "body"),
        inputs[:states],
        inputs[states:],
        node.get("directions", (0,) * count),
        [_empty(value) for value in graph.output[states:]],
        outputs=len(graph.output),
    )
    return _results(results)


def choose(condition: Any, then_body: Body, else_body: Body) -> tuple[Any, ...]:
    """Run one of two bodies; the condition is a bool or a tuple of one."""
    holds = condition[0] if isinstance(condition, tuple) else condition
    return then_body() if holds else else_body()


def repeat(
    trips: Any,
    condition: torch.Tensor | None,
    body: Body,
    carried: Sequence[Any],
    empty: Sequence[tuple[tuple[int, ...], torch.dtype]],
    like: torch.Tensor,
) -> tuple[Any, ...]:
    """Run a Loop's body.

    Args:
        trips: How often at most, a number or a tuple of one; None for no limit.
        condition: Whether to begin at all; None for yes.
        body: Takes the iteration's number, the condition and the carried values; returns the
            condition, the carried values and the values to stack.
        carried: The carried values' first state.
        empty: Shape and type of each stacked output where there is nothing to stack.
        like: Says the device.
    """
    limit = trips[0] if isinstance(trips, tuple) else trips
    going = torch.ones((), dtype=torch.bool, device=like.device) if condition is None else condition
    rows: list[list[Any]] = [[] for _ in empty]
    index = 0
    while (limit is None or index < limit) and bool(going):
        number = torch.full((), index, dtype=torch.int64, device=like.device)
        going, *results = body(number, going, *carried)
        carried = results[: len(carried)]
        for column, value in zip(rows, results[len(carried) :], strict=True):
            column.append(value)
        index += 1
    return (*carried, *(_stack(r, e, 0, like) for r, e in zip(rows, empty, strict=True)))


def sweep(
    body: Body,
    states: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    axes: Sequence[int],
    directions: Sequence[int],
    output_axes: Sequence[int],
    output_directions: Sequence[int],
    empty: Sequence[tuple[tuple[int, ...], torch.dtype]],
) -> tuple[torch.Tensor, ...]:
    """Run a Scan's body along an axis of each input; direction 1 is from the end."""
    columns = [
        x.unbind(axis)[::-1] if backwards else x.unbind(axis)
        for x, axis, backwards in zip(inputs, axes, directions, strict=True)
    ]
    rows: list[list[torch.Tensor]] = [[] for _ in empty]
    for elements in zip(*columns, strict=True):
        results = body(*states, *elements)
        states = results[: len(states)]
        for column, value in zip(rows, results[len(states) :], strict=True):
            column.append(value)
    stacked = [
        _stack(column[::-1] if backwards else column, nothing, axis, inputs[0])
        for column, nothing, axis, backwards in zip(
            rows, empty, output_axes, output_directions, strict=True
        )
    ]
    return (*states, *stacked)


def sweep_batch(
    body: Body,
    states: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    directions: Sequence[int],
    empty: Sequence[tuple[tuple[int, ...], torch.dtype]],
) -> tuple[torch.Tensor, ...]:
    """Run a Scan's body for each sample along axis 1 of the batched inputs."""
    zeros = (0,) * max(len(inputs), len(empty))
    samples = [
        sweep(
            body,
            [state[index] for state in states],
            [x[index] for x in inputs],
            zeros[: len(inputs)],
            directions,
            zeros[: len(empty)],
            zeros[: len(empty)],
            empty,
        )
        for index in range(inputs[0].shape[0])
    ]
    return tuple(torch.stack(values) for values in zip(*samples, strict=True))


def _stack(
    values: Sequence[torch.Tensor],
    empty: tuple[tuple[int, ...], torch.dtype],
    axis: int,
    like: torch.Tensor,
) -> torch.Tensor:
    if values:
        return torch.stack(list(values), axis)
    shape, dtype = empty
    return torch.empty((0, *shape), dtype=dtype, device=like.device)


def _empty(value: Any) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the shape, 0 for an unknown dimension, and the type that a body declares."""
    declared = value.type.tensor_type
    shape = tuple(dim.dim_value for dim in declared.shape.dim)
    return shape, DTYPES.get(declared.elem_type, torch.float32)


def _results(results: Any) -> Outputs:
    return results if isinstance(results, tuple) else (results,)
