"""Pad."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxfit.twin import moving
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.tensors import DTYPES

Sizes = tuple[int, ...]

MODES = ("constant", "reflect", "edge", "wrap")
# PyTorch's own kernels for the last two dimensions of four, which are those of images.
OF_IMAGES = {"reflect": "reflect", "edge": "replicate"}
# A larger integer may not be the double that PyTorch pads with.
LARGEST = 2**53


@converter("Pad", since=2)
def pad_attributes(node: Node) -> Outputs:
    """Pad as the attributes say."""
    return padded(node, node.get("pads"), None, node.get("value", 0.0))


@converter("Pad", since=11)
def pad(node: Node) -> Outputs:
    """Pad as the inputs say."""
    known = node.known(2)
    if not isinstance(known, torch.Tensor):
        value = node.input(2) if node.has(2) else 0
    elif known.is_complex() or (not known.is_floating_point() and abs(known.item()) > LARGEST):
        value = node.frozen(2)
    else:
        value = known.item()
    return padded(node, node.host(1), node.host(3), value)


def padded(node: Node, pads: Any, axes: Any, value: Any) -> Outputs:
    """Add the step that pads."""
    mode = node.get("mode", "constant")
    if mode not in MODES:
        node.unsupported(f"its mode {mode!r} is not one of {', '.join(MODES)}")
    x = node.input(0)
    if mode != "constant":
        return moving.emit(node, pad_with_elements, x, pads, axes, mode)
    if node.element_type(0) not in DTYPES:
        node.unsupported("strings can be padded with strings of their own alone")
    if isinstance(value, (int, float)):
        known = isinstance(pads, tuple) and axes is None
        function = functional.pad if known else pad_with_number
        args = (x, pairs_of(pads), "constant", value) if known else (x, pads, axes, value)
        return moving.with_floats(node, node.emit(function, *args), function, *args)
    return moving.emit(node, pad_with_tensor, x, pads, axes, value)


def pairs_of(pads: Sizes) -> Sizes:
    """Return pads in PyTorch's order: before and after, the last dimension first."""
    half = len(pads) // 2
    return tuple(pads[axis + side] for axis in range(half - 1, -1, -1) for side in (0, half))


def of_all_axes(rank: int, pads: Sizes, axes: Any) -> Sizes:
    """Return the pads of all dimensions: those before each one, then those after."""
    if axes is None:
        return pads
    axes = axes if isinstance(axes, tuple) else (axes,)
    full = [0] * (2 * rank)
    for index, axis in enumerate(axes):
        place = axis + rank if axis < 0 else axis
        full[place] = pads[index]
        full[place + rank] = pads[index + len(axes)]
    return tuple(full)


def pad_with_number(x: Tensor, pads: Sizes, axes: Any, value: float) -> Tensor:
    """Pad with a number; negative pads crop."""
    return functional.pad(x, pairs_of(of_all_axes(x.dim(), pads, axes)), "constant", value)


def pad_with_tensor(x: Tensor, pads: Sizes, axes: Any, value: Tensor) -> Tensor:
    """Pad with a number in a tensor; negative pads crop."""
    pairs = pairs_of(of_all_axes(x.dim(), pads, axes))
    inside = functional.pad(torch.ones_like(x, dtype=torch.bool), pairs)
    return torch.where(inside, functional.pad(x, pairs), value.reshape(()))


def pad_with_elements(x: Tensor, pads: Sizes, axes: Any, mode: str) -> Tensor:
    """Pad with elements of the tensor; negative pads crop."""
    rank = x.dim()
    full = of_all_axes(rank, pads, axes)
    if mode in OF_IMAGES and rank == 4 and x.is_floating_point() and _fits(x, full):
        return functional.pad(x, pairs_of(full)[:4], OF_IMAGES[mode])
    for axis in range(rank):
        before, after = full[axis], full[axis + rank]
        crop = slice(max(-before, 0), x.shape[axis] - max(-after, 0))
        if before < 0 or after < 0:
            x = x[(slice(None),) * axis + (crop,)]
        if before > 0 or after > 0:
            x = _pad_axis(x, axis, max(before, 0), max(after, 0), mode)
    return x


def _fits(x: Tensor, full: Sizes) -> bool:
    """Tell whether only an image's rows and columns are padded, by less than there are."""
    sides = zip(full[2:4] + full[6:], x.shape[2:] * 2, strict=True)
    return not any(full[:2] + full[4:6]) and all(0 <= pad < size for pad, size in sides)


def _pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size = x.shape[axis]
    if size == 0:
        raise ValueError(f"dimension {axis} is empty: there is nothing to pad it with")
    index = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        index = index.clamp(0, size - 1)
    elif mode == "wrap":
        index = index.remainder(size)
    else:
        period = max(2 * (size - 1), 1)
        index = index.remainder(period)
        index = torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)
    return x.index_select(axis, index)
