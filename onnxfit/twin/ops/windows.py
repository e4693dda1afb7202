"""Where the windows of convolutions and pools lie: strides, dilations and padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from onnxfit.twin.node import Node

Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

SAME = ("SAME_UPPER", "SAME_LOWER")
MAX_RANK = 3


@dataclass(frozen=True)
class Window:
    """The attributes that convolutions and pools share, one number for each spatial axis.

    Attributes:
        auto_pad: ``SAME_UPPER``, ``SAME_LOWER`` or ``""`` for the padding of ``pads``.
    """

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    pads: Pads
    auto_pad: str

    @property
    def span(self) -> Sizes:
        """How many elements a window reaches over along each axis."""
        return spans(self.kernel, self.dilations)

    @property
    def fixed_pads(self) -> Pads | None:
        """The padding, or None where it depends on the input's size."""
        if not self.auto_pad:
            return self.pads
        if any(stride != 1 for stride in self.strides):
            return None
        upper = self.auto_pad == "SAME_UPPER"
        return tuple(split(span - 1, upper) for span in self.span)


def read_window(node: Node, kernel: Sizes) -> Window:
    """Read a node's attributes for a kernel of a known size."""
    rank = len(kernel)
    if not 1 <= rank <= MAX_RANK:
        node.unsupported(f"its kernel has {rank} dimensions, and PyTorch knows 1 to {MAX_RANK}")
    auto_pad = node.get("auto_pad", "NOTSET") or "NOTSET"
    if auto_pad not in (*SAME, "NOTSET", "VALID"):
        node.unsupported(f"its auto_pad is {auto_pad!r}")
    explicit = node.get("pads") if auto_pad == "NOTSET" else None
    pads = explicit or (0,) * (2 * rank)
    strides = node.get("strides") or (1,) * rank
    dilations = node.get("dilations") or (1,) * rank
    if (len(strides), len(dilations), len(pads)) != (rank, rank, 2 * rank):
        node.unsupported(f"its strides, dilations or pads are not made for {rank} dimensions")
    pairs = tuple(zip(pads[:rank], pads[rank:], strict=True))
    return Window(kernel, strides, dilations, pairs, auto_pad if auto_pad in SAME else "")


def spans(kernel: Sequence[int], dilations: Sequence[int]) -> Sizes:
    """Return how many elements a dilated kernel reaches over along each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))


def split(total: int, upper: bool) -> tuple[int, int]:
    """Split a padding in two halves; the odd element goes to the end if ``upper``."""
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def same_pads(size: Sequence[int], span: Sizes, strides: Sizes, upper: bool) -> Pads:
    """Return the padding which gives as many windows as there are strides in the input."""
    totals = (
        max((-(-n // stride) - 1) * stride + reach - n, 0)
        for n, reach, stride in zip(size, span, strides, strict=True)
    )
    return tuple(split(total, upper) for total in totals)


def symmetric(pads: Pads) -> bool:
    """Tell whether a padding is one that PyTorch's own functions take."""
    return all(begin == end >= 0 for begin, end in pads)


def flat(pads: Pads) -> Sizes:
    """Return a padding in the order of :func:`torch.nn.functional.pad`: last axis first."""
    return tuple(number for pair in reversed(pads) for number in pair)


def padded(x: Any, pads: Pads, value: float = 0.0) -> torch.Tensor:
    """Pad the last axes of a tensor; negative numbers cut."""
    return functional.pad(x, flat(pads), value=value) if any(map(any, pads)) else x
