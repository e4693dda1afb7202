"""A mean of what was measured of some samples, and its interval."""

import math

import numpy as np
from numpy.typing import NDArray

from onnxfit.verification.result import Document
from onnxfit.verification.statistics import Interval


def mean_record(
    values: NDArray[np.float64], confidence: float = 0.95, within: Interval = (-math.inf, math.inf)
) -> Document:
    """Return the mean of the values that are numbers, its interval and how many there are.

    Args:
        values: The values; NaN and infinity are left out.
        confidence: Of the interval.
        within: What values there can be. The interval is cut off at these, where no mean is, so
            that it holds the mean as often.

    Returns:
        ``mean``, None where there is no value; ``ci95``, None for fewer than two; ``n``.
    """
    found = values[np.isfinite(values)]
    interval = None
    if len(found) > 1:
        interval = [min(max(end, within[0]), within[1]) for end in student(found, confidence)]
    return {
        "mean": float(found.mean()) if len(found) else None,
        "ci95": interval,
        "n": len(found),
    }


def student(values: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Compute Student's (1908) interval of a mean: x̄ ± t·s/√n, with n − 1 degrees of freedom.

    Raises:
        ValueError: There are fewer than two values, or the confidence is not between 0 and 1.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"expected at least two values, got {n}")
    middle, spread = float(values.mean()), float(values.std(ddof=1))
    half = student_quantile(confidence, n - 1) * spread / math.sqrt(n)
    return middle - half, middle + half


def student_quantile(confidence: float, degrees: int) -> float:
    """Find the t that Student's distribution stays within, on both sides, with a probability.

    By bisection on θ = arctan(t/√ν), of which the probability is a finite sum (Abramowitz and
    Stegun 1964, 26.7.3 and 26.7.4).

    Raises:
        ValueError: The confidence is not between 0 and 1, or there is no degree of freedom.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    if degrees < 1:
        raise ValueError(f"expected at least one degree of freedom, got {degrees}")
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _within(theta: float, degrees: int) -> float:
    """Compute the probability that the size of t is at most √ν·tan θ."""
    odd, cosine = degrees % 2, math.cos(theta)
    total, term = 0.0, cosine if odd else 1.0
    for power in range(2 + odd, degrees + 1, 2):
        total += term
        term *= (power - 1) / power * cosine**2
    if odd:
        return (theta + math.sin(theta) * total) * 2 / math.pi
    return math.sin(theta) * total
