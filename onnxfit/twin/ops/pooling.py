"""Pools over windows and over whole channels."""

from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.windows import (
    SAME,
    Pads,
    Sizes,
    Window,
    padded,
    read_window,
    same_pads,
    symmetric,
)
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Constant, Variable

CONV = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
MAX_POOL = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}
INDEXED = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def average_pool3d(
    x: torch.Tensor, kernel: Sizes, strides: Sizes, pads: Sizes, ceil: bool, count_pads: bool
) -> torch.Tensor:
    """Pool as PyTorch does, in float32 where it has no such function."""
    if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
        return functional.avg_pool3d(x.float(), kernel, strides, pads, ceil, count_pads).to(x.dtype)
    return functional.avg_pool3d(x, kernel, strides, pads, ceil, count_pads)


AVERAGE_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: average_pool3d}


@converter("MaxPool")
def max_pool(node: Node) -> Outputs:
    return emit_max_pool(node, node.input(0))


def emit_max_pool(node: Node, x: Any) -> Any:
    """Turn it into PyTorch's function, or pad first where that knows no such padding."""
    window, ceil = _window(node)
    if node.wants(1):
        by_columns = node.get("storage_order", 0) == 1
        return node.emit(max_pool_with_indices, x, window, ceil, by_columns, outputs=2)
    pads = window.fixed_pads
    if _is_floating(node) and pads is not None and is_native(window, pads):
        begins = tuple(begin for begin, _ in pads)
        y = node.emit(
            MAX_POOL[len(begins)], x, window.kernel, window.strides, begins, window.dilations, ceil
        )
    else:
        y = node.emit(max_pool_padded, x, window, ceil)
    return y, Constant(None)


def _window(node: Node) -> tuple[Window, bool]:
    """Read the attributes of a pool, and whether a window may reach over the end."""
    window = read_window(node, node.get("kernel_shape", ()))
    if window.auto_pad and set(window.dilations) != {1}:
        node.unsupported(f"auto_pad {window.auto_pad} has no agreed meaning with dilations")
    return window, bool(node.get("ceil_mode", 0))


def _is_floating(node: Node) -> bool:
    return node.element_type(0) not in (TensorProto.INT8, TensorProto.UINT8)


def is_native(window: Window, pads: Pads) -> bool:
    """Tell whether PyTorch's pools take a padding."""
    halves = zip(pads, window.kernel, strict=True)
    return symmetric(pads) and all(begin <= kernel // 2 for (begin, _), kernel in halves)


def reach(size: Sizes, window: Window, ceil: bool) -> tuple[Pads, Pads]:
    """Return the padding that counts as such, and the one with which the windows just fit."""
    span, strides, pads, auto_pad = window.span, window.strides, window.pads, window.auto_pad
    if auto_pad in SAME:
        if any(
            (n - 1) % stride >= width for n, stride, width in zip(size, strides, span, strict=True)
        ):
            raise ValueError(f"auto_pad {auto_pad} leaves elements out, as the stride is longer")
        pads = same_pads(size, span, strides, auto_pad == SAME[0])
    exact = []
    for n, width, stride, (begin, end) in zip(size, span, strides, pads, strict=True):
        windows = (n + begin + end - width + (stride - 1) * ceil) // stride + 1
        if ceil and (windows - 1) * stride >= n + begin:
            windows -= 1  # It would begin in the padding.
        exact.append((begin, (windows - 1) * stride + width - n - begin))
    return pads, tuple(exact)


def max_pool_padded(x: torch.Tensor, window: Window, ceil: bool) -> torch.Tensor:
    """Pool with any padding; small integers as well."""
    values, _ = _least_around(x, window, ceil)
    arguments = (window.kernel, window.strides, 0, window.dilations)
    return MAX_POOL[len(window.kernel)](values, *arguments).to(x.dtype)


def _least_around(x: torch.Tensor, window: Window, ceil: bool) -> tuple[torch.Tensor, Pads]:
    """Return numbers with -inf around them, so that the windows just fit, and that padding."""
    _, exact = reach(tuple(x.shape[2:]), window, ceil)
    values = x if x.is_floating_point() else x.to(torch.float32)
    return padded(values, exact, -torch.inf), exact


def max_pool_with_indices(
    x: torch.Tensor, window: Window, ceil: bool, by_columns: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool with any padding; return each maximum's position in the whole input as well."""
    size = tuple(x.shape[2:])
    values, exact = _least_around(x, window, ceil)
    arguments = (window.kernel, window.strides, 0, window.dilations)
    y, indices = INDEXED[len(size)](values, *arguments, return_indices=True)
    positions = []
    for width, (begin, _) in zip(values.shape[:1:-1], reversed(exact), strict=True):
        positions.append(indices % width - begin)
        indices = indices // width
    axes = list(zip(positions, reversed(size), strict=True))
    flat, step = torch.zeros_like(indices), 1
    for position, width in reversed(axes) if by_columns else axes:
        flat, step = flat + position * step, step * width
    channels = torch.arange(x.shape[0] * x.shape[1], device=x.device) * step
    channels = channels.reshape(x.shape[0], x.shape[1], *(1 for _ in size))
    return y.to(x.dtype), flat + channels


@converter("AveragePool")
def average_pool(node: Node) -> Outputs:
    return emit_average_pool(node, node.input(0))


def emit_average_pool(node: Node, x: Any) -> Any:
    """Turn it into PyTorch's function, or into a step where that knows no such window."""
    window, ceil = _window(node)
    count_pads = bool(node.get("count_include_pad", 0))
    pads = window.fixed_pads
    if set(window.dilations) == {1} and pads is not None and is_native(window, pads):
        begins = tuple(begin for begin, _ in pads)
        function: Callable[..., Any] = AVERAGE_POOL[len(begins)]
        return node.emit(function, x, window.kernel, window.strides, begins, ceil, count_pads)
    return node.emit(average_pool_padded, x, window, ceil, count_pads)


def average_pool_padded(
    x: torch.Tensor, window: Window, ceil: bool, count_pads: bool
) -> torch.Tensor:
    """Pool with any padding and dilation; ``count_pads`` makes the padding part of the mean."""
    size = tuple(x.shape[2:])
    pads, exact = reach(size, window, ceil)
    counted = x.new_ones((1, 1, *size))
    if count_pads:
        counted = padded(counted, pads, 1.0)
        pairs = zip(exact, pads, strict=True)
        rest = tuple((0, end - counted_end) for (_, end), (_, counted_end) in pairs)
        counted = padded(counted, rest)
    else:
        counted = padded(counted, exact)
    return means(padded(x, exact), window) / means(counted, window)


def means(x: torch.Tensor, window: Window) -> torch.Tensor:
    """Return the mean of each window."""
    kernel, strides, dilations = window.kernel, window.strides, window.dilations
    if set(dilations) == {1}:
        zeros = (0,) * len(kernel)
        return AVERAGE_POOL[len(kernel)](x, kernel, strides, zeros, False, True)
    ones = x.new_ones((1, 1, *kernel))
    channels = x.flatten(0, 1).unsqueeze(1)
    y = CONV[len(kernel)](channels, ones / ones.numel(), None, strides, 0, dilations)
    return y.reshape(*x.shape[:2], *y.shape[2:])


@converter("LpPool", since=2)
def lp_pool(node: Node) -> Outputs:
    window, ceil = _window(node)
    return node.emit(lp_pool_padded, node.input(0), node.get("p", 2), window, ceil)


def lp_pool_padded(x: torch.Tensor, p: int, window: Window, ceil: bool) -> torch.Tensor:
    """Return the p-norm of each window."""
    _, exact = reach(tuple(x.shape[2:]), window, ceil)
    sums = means(padded(x.abs() ** p, exact), window)
    for length in window.kernel:
        sums = sums * length
    # The gradient of the root at 0 is infinite: a window of zeros has none.
    zero = sums == 0
    return torch.where(zero, 0, torch.where(zero, 1, sums) ** (1 / p))


@converter("GlobalAveragePool")
def global_average_pool(node: Node) -> Outputs:
    return node.emit(global_mean, node.input(0))


def global_mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@converter("GlobalMaxPool")
def global_max_pool(node: Node) -> Outputs:
    return node.emit(global_maximum, node.input(0))


def global_maximum(x: torch.Tensor) -> torch.Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


@converter("GlobalLpPool", since=2)
def global_lp_pool(node: Node) -> Outputs:
    return node.emit(global_norm, node.input(0), node.get("p", 2))


def global_norm(x: torch.Tensor, p: int) -> torch.Tensor:
    return torch.linalg.vector_norm(x, p, tuple(range(2, x.dim())), keepdim=True)


@converter("MaxUnpool")
def max_unpool(node: Node) -> Outputs:
    window = read_window(node, node.get("kernel_shape", ()))
    shape = node.host(2)
    if isinstance(shape, Variable):
        node.unsupported("what its indices mean depends on its output_shape, which is not constant")
    given = (window.kernel, window.strides, window.pads, shape)
    return node.emit(unpool, node.input(0), node.input(1), *given)


def unpool(
    x: torch.Tensor,
    indices: torch.Tensor,
    kernel: Sizes,
    strides: Sizes,
    pads: Pads,
    shape: Sizes | None,
) -> torch.Tensor:
    """Put each value at the position where it was the maximum of its window."""
    axes = zip(x.shape[2:], kernel, strides, pads, strict=True)
    size = ((n - 1) * s + k - begin - end for n, k, s, (begin, end) in axes)
    whole = torch.Size((*x.shape[:2], *size))
    if shape is not None and shape[2:] != whole[2:]:
        # The specification counts the indices in ``whole``, ONNX Runtime in ``shape``.
        raise ValueError(f"an output_shape of {shape} and not {tuple(whole)} has no agreed meaning")
    return x.new_zeros(whole.numel()).scatter(0, indices.flatten(), x.flatten()).reshape(whole)
