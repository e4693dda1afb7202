"""Where a sample that is an image has its channels: this module alone decides."""

from collections.abc import Sequence
from math import inf
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)

IMAGES = "C×H×W or H×W×C"
# The sides of a picture differ by at most this factor: those of a signal or a sequence by more.
_LONGEST = 4


def channel_axis(shape: Sequence[int | None]) -> int | None:
    """Return which axis of a sample holds its channels: 0, 2, or None without three axes.

    Three axes are C×H×W, as ONNX classifiers have them, unless the last one is 1, 3 or 4 long and
    shorter than both others, and the first one is not 1 or 3 long: then they are H×W×C.

    Args:
        shape: Of one sample; None for a length that is open, which counts as a long one. What has
            no values has no channels either.
    """
    if len(shape) != 3 or 0 in shape:
        return None
    first, middle, last = (inf if length is None else length for length in shape)
    return 2 if last in (1, 3, 4) and last < min(first, middle) and first not in (1, 3) else 0


def channel_count(shape: Sequence[int]) -> int:
    """Return how many channels a sample has; without three axes, how long its first one is."""
    return shape[channel_axis(shape) or 0]


def is_drawable(shape: Sequence[int]) -> bool:
    """Tell whether a sample can be drawn: whether it has three axes, and one or three channels."""
    return channel_axis(shape) is not None and channel_count(shape) in (1, 3)


def is_picture(shape: Sequence[int]) -> bool:
    """Tell whether a sample is taken for a picture where nobody says so.

    It can be drawn, and its sides differ by at most a factor of 4.
    """
    return is_drawable(shape) and max(pixels_of(shape)) <= _LONGEST * min(pixels_of(shape))


def pixels_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the height and width of an image by its shape, C×H×W or H×W×C."""
    axis = channel_axis(shape)
    return tuple(length for at, length in enumerate(shape) if at != axis)


def other_layout(shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return the shape of an image in the other layout; None where it would not be known there."""
    axis = channel_axis(shape)
    if axis is None:
        return None
    pixels, channels = pixels_of(shape), shape[axis]
    other = (*pixels, channels) if axis == 0 else (channels, *pixels)
    return other if channel_axis(other) == 2 - axis else None


def channels_first(image: NDArray[Number]) -> NDArray[Number]:
    """Return an image, C×H×W or H×W×C, as C×H×W."""
    turned: NDArray[Any] = np.moveaxis(image, channel_axis(image.shape) or 0, 0)
    return turned
