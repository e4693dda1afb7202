"""Rows of integers that are known without any tensor: taking, joining and reducing them."""

from collections.abc import Callable
from typing import Any

import torch

from onnxfit.twin.batches import declared
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.host_arithmetic import dtype_of, rank_of
from onnxfit.twin.ops.indexing import backwards
from onnxfit.twin.registry import host_converter
from onnxfit.twin.values import Constant, Variable

Row = tuple[int, ...]
Numbers = Any  # A Python integer or a tuple of them.
# The longest row that is written out.
LONGEST = 64


def emit(node: Node, function: Callable[..., Any], *args: Any, rank: int) -> Variable:
    """Add a step whose result has the type of the first input."""
    return node.emit_host(function, *args, dtype=dtype_of(node.value(0)), rank=rank)


def ranks(node: Node) -> list[int | None]:
    """Return for each input how deep it is: 0 for a number; None where that is not known."""
    return [rank_of(node.value(i)) if node.has(i) else None for i in range(len(node))]


def known_row(node: Node, index: int, name: str) -> Row | None:
    """Return what is an attribute in old versions and a constant input in new ones."""
    if not node.has(index):
        return node.get(name)
    numbers = node.host(index)
    if isinstance(numbers, Variable):
        return None
    return numbers if isinstance(numbers, tuple) else (numbers,)


@host_converter("Shape")
def shape(node: Node) -> Outputs:
    """Return the length of a row as a row; a number has no dimensions."""
    rank, (start, end) = ranks(node)[0], (node.get("start", 0), node.get("end"))
    if rank is None:
        return NotImplemented
    length = declared(node) if rank else ()
    if length is not None:
        return Constant(torch.tensor(length[start:end], dtype=torch.int64))
    if len(range(rank)[start:end]) == 0:
        return Constant(torch.zeros(0, dtype=torch.int64))
    return node.emit_host(length_as_row, node.host(0), rank=1)


def length_as_row(numbers: Row) -> Row:
    """Return the length of a row as a row."""
    return (len(numbers),)


@host_converter("Size")
def size(node: Node) -> Outputs:
    """Return how many numbers there are."""
    rank = ranks(node)[0]
    if rank is None:
        return NotImplemented
    one = Constant(torch.ones((), dtype=torch.int64))
    return node.emit_host(len, node.host(0), rank=0) if rank else one


@host_converter("Gather")
def gather(node: Node) -> Outputs:
    """Take numbers of a row."""
    of, by = ranks(node)
    if of != 1 or by is None:
        return NotImplemented
    return emit(node, take, node.host(0), node.host(1), rank=by)


def take(numbers: Row, indices: Numbers) -> Numbers:
    """Take a number, or a row of them, from a row."""
    if isinstance(indices, tuple):
        return tuple(numbers[index] for index in indices)
    return numbers[indices]


@host_converter("Slice", rank=2)
def slice_(node: Node) -> Outputs:
    """Take a part of a row, or of a row of rows."""
    rank, axes = ranks(node)[0], known_row(node, 3, "axes")
    along = (0, -1) if rank == 1 else (0, -2)
    if not rank or (axes is None and node.has(3)) or (axes or (0,))[0] not in along:
        return NotImplemented
    if node.opset < 10:
        start, end, step = node.get("starts"), node.get("ends"), None
    else:
        start, end, step = node.host(1), node.host(2), node.host(4)
    if any(isinstance(numbers, tuple) and len(numbers) != 1 for numbers in (start, axes or (0,))):
        return NotImplemented
    return emit(node, part, node.host(0), start, end, step, rank=rank)


def part(numbers: Row, start: Numbers, end: Numbers, step: Numbers) -> Row:
    """Take a part of a row."""
    first, last, stride = number(start), number(end), 1 if step is None else number(step)
    if stride > 0:
        return numbers[first:last:stride]
    return numbers[backwards(len(numbers), first, last, stride)][::-1]


def number(numbers: Numbers) -> int:
    """Return a number, or the one in a row of one."""
    return numbers[0] if isinstance(numbers, tuple) else numbers


@host_converter("Concat")
def concat(node: Node) -> Outputs:
    """Join rows."""
    if set(ranks(node)) != {1}:
        return NotImplemented
    return emit(node, join, *(node.host(index) for index in range(len(node))), rank=1)


def join(*rows: Row) -> Row:
    """Join rows."""
    return sum(rows, ())


@host_converter("Split")
def split(node: Node) -> Outputs:
    """Split a row into parts of equal length, or of given lengths."""
    sizes = known_row(node, 1, "split")
    if ranks(node)[0] != 1 or (sizes is None and node.has(1)):
        return NotImplemented
    row, count = node.host(0), node.number_of_outputs
    if sizes is None:
        uneven = node.opset >= 18
        return tuple(emit(node, equal_part, row, i, count, uneven, rank=1) for i in range(count))
    ends = [sum(sizes[: index + 1]) for index in range(count)]
    bounds = zip([0, *ends], ends, strict=False)
    return tuple(emit(node, part, row, start, end, None, rank=1) for start, end in bounds)


def equal_part(numbers: Row, index: int, count: int, uneven: bool) -> Row:
    """Return one of the parts of equal length of a row, the last of which may be shorter."""
    length = -(-len(numbers) // count)
    if length * (count - 1) > len(numbers) or (len(numbers) % count and not uneven):
        raise ValueError(f"{len(numbers)} numbers cannot be split into {count} equal parts")
    return numbers[index * length : (index + 1) * length]


@host_converter("Squeeze")
def squeeze(node: Node) -> Outputs:
    """Take the number out of a row of one."""
    axes = known_row(node, 1, "axes")
    if not node.has(1) and axes is None:
        # Every dimension of 1 goes; the file has to tell whether there is one.
        length = declared(node)
        axes = None if length is None or ranks(node)[0] != 1 else (0,) if length == (1,) else ()
    if axes == ():
        return node.value(0)
    if ranks(node)[0] != 1 or axes not in ((0,), (-1,)):
        return NotImplemented
    return emit(node, only, node.host(0), rank=0)


def only(numbers: Row) -> int:
    """Take the number out of a row of one."""
    if len(numbers) != 1:
        raise ValueError(f"dimension 0 to take out is {len(numbers)}, not 1")
    return numbers[0]


@host_converter("Unsqueeze")
def unsqueeze(node: Node) -> Outputs:
    """Make a row of a number."""
    axes = known_row(node, 1, "axes")
    if ranks(node)[0] != 0 or axes not in ((0,), (-1,)):
        return NotImplemented
    return emit(node, row_of_one, node.host(0), rank=1)


def row_of_one(number: int) -> Row:
    """Make a row of a number."""
    return (number,)


@host_converter("Reshape", rank=2)
def reshape(node: Node) -> Outputs:
    """Make a row of numbers or of rows, or a number of a row of one."""
    rank, target = ranks(node)[0], known_row(node, 1, "shape")
    if rank is None or target is None:
        return NotImplemented
    if rank + len(target) == 3:
        return matrix(node, rank, target)
    if max(rank, len(target)) > 1:
        return NotImplemented
    if target == ():
        return emit(node, only, node.host(0), rank=0) if rank else node.value(0)
    if rank == 0:
        return emit(node, row_of_one, node.host(0), rank=1) if target != (0,) else NotImplemented
    kept = target == (-1,) or (target == (0,) and not node.get("allowzero", 0))
    return node.value(0) if kept else emit(node, row_of, node.host(0), target[0], rank=1)


def matrix(node: Node, rank: int, target: Row) -> Outputs:
    """Make a row of rows, or a row of such."""
    if rank == 2 and target == (-1,):
        return emit(node, flat, node.host(0), rank=1)
    if rank == 1 and target[0] == -1 and target[1] > 0:
        return emit(node, rows_of, node.host(0), target[1], rank=2)
    return NotImplemented


def flat(rows: tuple[Row, ...]) -> Row:
    """Join the rows of a row."""
    return sum(rows, ())


def rows_of(numbers: Row, length: int) -> tuple[Row, ...]:
    """Make rows of a given length of a row."""
    if len(numbers) % length:
        raise ValueError(f"{len(numbers)} numbers do not make rows of {length}")
    return tuple(numbers[start : start + length] for start in range(0, len(numbers), length))


@host_converter("Transpose", rank=2)
def transpose(node: Node) -> Outputs:
    """Swap rows and columns; a row stays as it is."""
    if ranks(node)[0] != 2:
        return node.value(0)
    swapped = node.get("perm", (1, 0)) == (1, 0)
    return emit(node, columns, node.host(0), rank=2) if swapped else node.value(0)


def columns(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return the columns of rows."""
    return tuple(zip(*rows, strict=True))


def row_of(numbers: Row, length: int) -> Row:
    """Return a row of a given length."""
    if len(numbers) != length:
        raise ValueError(f"{len(numbers)} numbers do not make a row of {length}")
    return numbers


@host_converter("Expand")
def expand(node: Node) -> Outputs:
    """Repeat a number, or the one of a row."""
    rank, target = ranks(node)[0], known_row(node, 1, "shape")
    if rank is None or target is None or len(target) > 1 or any(n > LONGEST for n in target):
        return NotImplemented
    if not target or (rank == 1 and target == (1,)):
        return node.value(0)
    return emit(node, spread, node.host(0), target[0], rank=1)


def spread(numbers: Numbers, length: int) -> Row:
    """Repeat a number, or the one of a row."""
    row = numbers if isinstance(numbers, tuple) else (numbers,)
    if length != 1 and len(row) == 1:
        return row * length
    return row if length == 1 else row_of(row, length)


@host_converter("Tile")
def tile(node: Node) -> Outputs:
    """Repeat a row."""
    repeats = known_row(node, 1, "repeats")
    if ranks(node)[0] != 1 or repeats is None or repeats[0] > LONGEST:
        return NotImplemented
    return emit(node, repeat, node.host(0), repeats[0], rank=1)


def repeat(numbers: Row, times: int) -> Row:
    """Repeat a row."""
    return numbers * times
