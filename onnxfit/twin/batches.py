"""Batches of another size than the one that a file fixes: what Reshape makes of them.

Exporters write the batch size into the target of a Reshape, alone as in ``[1, 512]`` or folded
into another dimension as in ``[1 · heads, tokens, size]``. Where a call brings n samples in place
of the file's b, that dimension becomes n / b times as long.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from onnxfit.errors import ModelError
from onnxfit.twin.values import Variable

if TYPE_CHECKING:
    from onnxfit.twin.node import Node

Shape = tuple[int, ...]


class Place(NamedTuple):
    """Where the samples of a batch are in a value.

    Attributes:
        axis: The dimension that has them.
        outer: How many elements of the dimension lie around the samples: it is outer · b · inner.
    """

    axis: int
    outer: int


class Plan(NamedTuple):
    """How a Reshape treats a batch of another size.

    Attributes:
        declared: The shape of its input in the file.
        target: The shape of its output in the file.
        axis: The input's dimension that has the samples.
        outer: How many elements of it lie around them where each sample has to be reshaped by
            itself; 0 where no element has to move.
        goal: The output's dimension that gets them.
    """

    declared: Shape
    target: Shape
    axis: int
    outer: int
    goal: int


def fixed_batch(node: "Node") -> tuple[int, Variable] | None:
    """Return the file's batch size and the one given, where the first input can be a batch."""
    return node.frame.builder.batch if isinstance(node.value(0), Variable) else None


def declared(node: "Node", index: int = 0) -> Shape | None:
    """Return the shape that an input has in the file, if that is known."""
    if node.frame.scope:
        return None
    return node.frame.builder.shapes.get(node.proto.input[index])


def plan(node: "Node", target: Shape | None, allowzero: bool) -> Plan | None:
    """Plan a Reshape's treatment of a batch of another size.

    Args:
        node: The node.
        target: Its second input; None where only a call knows it.
        allowzero: 0 in the target is a size; else it stands for the input's.

    Returns:
        None where the reshaped value has no samples, or the file is computed in parts.
    """
    builder, shape = node.frame.builder, declared(node)
    if shape is None or builder.batch is None or builder.places.mixed is not None:
        return None
    place = builder.places.places.get(node.proto.input[0])
    if target is None:
        target = builder.shapes.get(node.proto.output[0])
    else:
        target = resolve(shape, target, allowzero)
    if place is None or target is None:
        return None
    move = move_to(place, shape, target, builder.batch[0])
    if move is None:
        return None
    goal, by_itself = move
    return Plan(shape, target, place.axis, place.outer if by_itself else 0, goal.axis)


def move_to(place: Place, shape: Shape, target: Shape, fixed: int) -> tuple[Place, bool] | None:
    """Return where samples are after a Reshape.

    Returns:
        The place, and whether each sample has to be reshaped by itself. None where no dimension
        keeps samples together.
    """
    goal = goal_of(place, shape, target, fixed)
    if goal is not None and goal.outer == 1 and target[goal.axis] == fixed:
        return goal, False
    if fixed == 1 and target[:1] == (1,):
        return Place(0, 1), True
    return None if goal is None else (goal, False)


def goal_of(place: Place, shape: Shape, target: Shape, fixed: int) -> Place | None:
    """Return where samples are after a Reshape, None where no dimension keeps them together."""
    before = math.prod(shape[: place.axis]) * place.outer
    if not before or 0 in target:
        return None
    found = []
    done = 1
    for axis, size in enumerate(target):
        if before % done == 0 and size % (before // done * fixed) == 0:
            found.append(Place(axis, before // done))
        done *= size
    alone = [goal for goal in found if goal.outer == 1 and target[goal.axis] == fixed]
    same = [goal for goal in alone if goal.axis == place.axis]
    return next(iter([*same, *alone, *found]), None)


def resolve(shape: Shape, target: Shape, allowzero: bool) -> Shape | None:
    """Return the target of a Reshape without 0 and -1, None where it does not fit."""
    if not allowzero and any(size == 0 for size in target[len(shape) :]):
        return None
    target = target if allowzero else copied(shape, target)
    rest = math.prod(size for size in target if size != -1)
    if -1 in target and rest:
        target = tuple(math.prod(shape) // rest if size == -1 else size for size in target)
    return target


def copied(shape: Shape, target: Shape) -> Shape:
    """Return the target of a Reshape with the input's sizes for 0."""
    return tuple(shape[axis] if size == 0 else size for axis, size in enumerate(target))


class FixedBatch(NamedTuple):
    """The batch size that a file fixes.

    Attributes:
        size: How many samples it is made for.
        lengths: The first dimension of each input in the file, None where that is open.
        mixed: The first value in which samples may be mixed; None where none are.
    """

    size: int
    lengths: tuple[int | None, ...]
    mixed: str | None

    def given(self, inputs: Sequence[torch.Tensor]) -> int:
        """Return how many samples a call brings.

        Raises:
            ModelError: The inputs disagree on that, or one that has no samples is of another
                length than in the file.
        """
        # Strings come in arrays, sequences in lists.
        lengths = [next(iter(getattr(x, "shape", ())), None) for x in inputs]
        found = {n for n, own in zip(lengths, self.lengths, strict=True) if own == self.size}
        others = [
            f"{n} in place of {own}"
            for n, own in zip(lengths, self.lengths, strict=True)
            if own not in (None, self.size, n)
        ]
        n = found.pop()
        if found or others or n is None:
            raise ModelError(
                f"the file is made for a batch of {self.size}, and the first dimensions of its "
                f"inputs do not fit together: {', '.join(others) or lengths}"
            )
        return n

    def in_parts(
        self, run: Callable[..., Any], inputs: Sequence[torch.Tensor], n: int
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Compute a batch as many samples at a time as the file is made for.

        The last part is filled up with copies of its last sample.

        Args:
            run: Computes as many samples: from the inputs an output, or a tuple of them.
            inputs: The inputs.
            n: How many samples they are.

        Raises:
            ModelError: There are no samples, or an output has no row for each of them.
        """
        if not n:
            raise ModelError(f"the file is made for a batch of {self.size}, none was given")
        parts = []
        for start in range(0, n, self.size):
            rows = [min(row, n - 1) for row in range(start, start + self.size)]
            part = [
                x[rows] if own == self.size else x
                for x, own in zip(inputs, self.lengths, strict=True)
            ]
            outputs = run(*part)
            parts.append(outputs if isinstance(outputs, tuple) else (outputs,))
        joined = tuple(self._joined(column)[:n] for column in zip(*parts, strict=True))
        return joined if isinstance(outputs, tuple) else joined[0]

    def _joined(self, parts: tuple[Any, ...]) -> torch.Tensor:
        """Put the rows of an output's parts together."""
        if any(not isinstance(p, torch.Tensor) or p.shape[:1] != (self.size,) for p in parts):
            raise ModelError(
                f"the file is made for a batch of {self.size}, and one of its outputs has no row "
                "for each sample"
            )
        return torch.cat(parts)
