"""How far two arrays may differ before they are said to be different."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of so many samples at least a class's own values say how large they are.
FEW = 8
# Approximations of exp are off by a number and not by a share: so much is forgiven everywhere,
# but never more than a tenth of the largest value.
ABSOLUTE = 1e-6
# Below this float32's own subtractions leave nothing, also where all should be 0.
TINY = 1e-7
MIN_AGREEMENT = 0.98
# What a jump that flips may do to an output that names no class.
FLIP = 0.1

Array = NDArray[Any]


def are_numbers(array: Array) -> bool:
    """Tell whether values have a size: all but wide integers, Booleans and words, the labels."""
    return array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype.itemsize <= 2)


def by_class(array: Array) -> Array | None:
    """Return logits as N×C; None where an array is of another form."""
    if array.ndim < 2 or array.shape[1] < 2 or any(length != 1 for length in array.shape[2:]):
        return None
    return array.reshape(array.shape[:2])


def allowed(expected: Array, tolerance: float) -> NDArray[np.float64]:
    """Return how far values may be off: one number, or one for each class of N×C.

    Each class is measured by its own largest value, for one with logits of a million says nothing
    of one with logits of 1. A class that happens to be small has the rounding of the others' values
    in it all the same: a thousandth of what is allowed for the largest, or a quarter where that is
    no more than a tenth of its own. Of a few samples the middle class speaks for smaller ones.
    """
    sizes = np.where(np.isfinite(expected), np.abs(expected.astype(np.float64)), 0.0)
    largest = sizes.max(initial=0.0)
    own = np.asarray(largest)
    if (rows := by_class(sizes)) is not None and len(rows):
        own = rows.max(0)
        if len(rows) < FEW:
            own = np.maximum(own, np.sort(own)[(len(own) - 1) // 2])
    share = tolerance * np.maximum(own, 1e-3 * largest)
    inherited = np.minimum(tolerance / 4 * largest, own / 10)
    return np.maximum(np.maximum(share, inherited), max(min(ABSOLUTE, largest / 10), TINY))


def gaps(expected: Array, found: Array) -> NDArray[np.float64]:
    """Return the absolute differences, infinite where just one is NaN or infinite."""
    if expected.shape != found.shape:
        return np.full(expected.shape, np.inf)
    a, b = expected.astype(np.float64), found.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    return np.where(np.isnan(gap), np.inf, gap)


def excess(expected: Array, found: Array, tolerance: float) -> NDArray[np.float64]:
    """Return the largest difference of each row as a share of what is allowed."""
    gap = gaps(expected, found)
    rows = len(gap) if gap.ndim else 1
    shares = gap.reshape(rows, -1 if gap.size else 0) / allowed(expected, tolerance)
    largest: NDArray[np.float64] = shares.max(1, initial=0.0)
    return largest


def same_labels(expected: Array, found: Array) -> NDArray[np.bool_]:
    """Tell element by element whether labels are the same."""
    if expected.shape != found.shape:
        return np.zeros(max(expected.shape, (1,)), bool)
    return np.asarray(expected == found)


def same_class(expected: Array, found: Array, tolerance: float) -> NDArray[np.bool_]:
    """Tell row by row whether N×C logits name the same class, or two that are as good as equal."""
    if expected.shape != found.shape:
        return np.zeros(len(expected), bool)
    return _leads(expected, np.argmax(found, 1), tolerance)


def tied(expected: Array, tolerance: float) -> NDArray[np.bool_]:
    """Tell row by row whether the two largest logits are as good as equal."""
    return _leads(expected, np.argsort(expected, 1)[:, -2], tolerance)


def _leads(logits: Array, chosen: NDArray[np.intp], tolerance: float) -> NDArray[np.bool_]:
    """Tell row by row whether a class is the largest one or as good as that."""
    off = allowed(logits, tolerance)
    values, rows, first = logits.astype(np.float64), np.arange(len(logits)), logits.argmax(1)
    with np.errstate(invalid="ignore"):
        behind = values[rows, first] - values[rows, chosen]
    return np.asarray((first == chosen) | (behind <= off[first] + off[chosen]))


def differ(expected: Array, found: Array, tolerance: float) -> bool:
    """Tell whether two arrays are not the same within a tolerance; labels by their share."""
    if are_numbers(expected):
        return bool((excess(expected, found, tolerance) > 1).any()) or found.shape != expected.shape
    same = same_labels(expected, found)
    return bool(same.size) and float(same.mean()) < MIN_AGREEMENT
