"""Positions of extreme elements, and sums and products along an axis."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.twin import integers
from onnxfit.twin.moving import on_bits
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

# So many elements are sorted as fast as the largest are found.
FEW = 256


@converter("ArgMax", "ArgMin")
def arg_max_or_min(node: Node) -> Outputs:
    """Find the first or the last of the largest or smallest elements along an axis."""
    largest = node.op_type == "ArgMax"
    arguments = (node.input(0), node.get("axis", 0), bool(node.get("keepdims", 1)))
    if node.get("select_last_index", 0):
        return integers.emit(node, last_extreme, numpy_last_extreme, *arguments, largest)
    by_numpy = numpy_arg_max if largest else numpy_arg_min
    return integers.emit(node, torch.argmax if largest else torch.argmin, by_numpy, *arguments)


def last_extreme(x: torch.Tensor, axis: int, keepdim: bool, largest: bool) -> torch.Tensor:
    """Find the last of the largest or smallest elements."""
    function = torch.argmax if largest else torch.argmin
    return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim)


def numpy_last_extreme(x: NDArray[Any], axis: int, keepdim: bool, largest: bool) -> Any:
    """Find the last of the largest or smallest of unsigned integers."""
    function = numpy_arg_max if largest else numpy_arg_min
    return x.shape[axis] - 1 - function(np.flip(x, axis), axis, keepdim)


def numpy_arg_max(x: NDArray[Any], axis: int, keepdim: bool) -> Any:
    """Find the first of the largest unsigned integers."""
    return np.argmax(x, axis, keepdims=keepdim)


def numpy_arg_min(x: NDArray[Any], axis: int, keepdim: bool) -> Any:
    """Find the first of the smallest unsigned integers."""
    return np.argmin(x, axis, keepdims=keepdim)


@converter("TopK")
def top_k_of_attribute(node: Node) -> Outputs:
    return emit_top_k(node, node.get("k"))


@converter("TopK", since=10)
def top_k(node: Node) -> Outputs:
    return emit_top_k(node, node.host(1))


def emit_top_k(node: Node, k: Any) -> Outputs:
    """Add the step that finds extreme elements, always in their order."""
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))
    results: Any = node.emit(extremes, node.input(0), k, axis, largest, outputs=2)
    return results[: node.number_of_outputs]


def extremes(
    x: torch.Tensor, k: int | tuple[int, ...], axis: int, largest: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest or smallest elements and where they are; among equals the first counts.

    ``torch.topk`` makes no promise on which of equal elements it takes, so it gets unequal ones.
    """
    count = _number(k)
    if count == 1 and largest:
        indices = torch.argmax(_signed(x), axis, keepdim=True)
    elif x.element_size() == 8 or x.shape[axis] <= FEW:
        order = torch.sort(_signed(x), stable=True, dim=axis, descending=largest).indices
        indices = order.narrow(axis, 0, count)
    else:
        indices = torch.topk(_unequal(x.detach(), axis, largest), count, axis).indices
    return on_bits(torch.gather, x, axis, indices), indices


def _signed(x: torch.Tensor) -> torch.Tensor:
    """Return unsigned integers as signed ones of the same order."""
    if x.dtype == torch.uint64:
        return torch.bitwise_xor(x.view(torch.int64), torch.iinfo(torch.int64).min)
    return x.to(torch.int64) if x.dtype in integers.SIGNED else x


def _unequal(x: torch.Tensor, axis: int, largest: bool) -> torch.Tensor:
    """Return integers whose order is that of the elements, or the reverse, and of equals' places.

    The elements have 32 bits or fewer, which become the upper ones of 64. NaN is the largest.
    """
    if x.is_floating_point():
        one_zero = torch.where(x.isnan(), x.abs(), x).float() + 0.0
        bits = one_zero.view(torch.int32)
        bits = torch.where(bits < 0, bits ^ torch.iinfo(torch.int32).max, bits)
        numbers = bits.to(torch.int64)
    else:
        numbers = x.to(torch.int64) - (2**31 if x.dtype == torch.uint32 else 0)
    shape = [1] * x.dim()
    shape[axis] = -1
    places = torch.arange(x.shape[axis] - 1, -1, -1, device=x.device).reshape(shape)
    return ((numbers if largest else ~numbers) << 32) + places


def _number(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) else value


@converter("CumSum", "CumProd")
def cumulate(node: Node) -> Outputs:
    """Add up or multiply along an axis."""
    function = torch.cumsum if node.op_type == "CumSum" else torch.cumprod
    flags = bool(node.get("exclusive", 0)), bool(node.get("reverse", 0))
    return node.emit(cumulated, function, node.input(0), node.host(1), *flags)


def cumulated(
    function: Any, x: torch.Tensor, axis: int | tuple[int, ...], exclusive: bool, reverse: bool
) -> torch.Tensor:
    """Apply a cumulative function from either end, without each element itself if exclusive."""
    along, work = _number(axis), x.to(torch.int64) if x.dtype in integers.SIGNED else x
    if reverse:
        work = work.flip(along)
    if exclusive and work.shape[along]:
        neutral = torch.full_like(work.narrow(along, 0, 1), function is torch.cumprod)
        work = torch.cat([neutral, work.narrow(along, 0, work.shape[along] - 1)], along)
    result = function(work, along, dtype=work.dtype)
    return (result.flip(along) if reverse else result).to(x.dtype)
