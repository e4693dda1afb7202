"""Correlation of ranks."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Compute Spearman's rank correlation ρ; equal values share the mean of their ranks.

    Returns:
        From −1 to 1; NaN where all values of a side are equal, one is NaN, or there are fewer than
        two.

    Raises:
        ValueError: The sides differ in length.
    """
    left, right = np.asarray(first).ravel(), np.asarray(second).ravel()
    if len(left) != len(right):
        raise ValueError(f"expected as many values on both sides, got {len(left)} and {len(right)}")
    if np.isnan(left).any() or np.isnan(right).any():
        return math.nan
    a, b = (_ranks(side) - (len(side) + 1) / 2 for side in (left, right))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks
