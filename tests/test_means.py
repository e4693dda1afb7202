"""Means of samples and their intervals, against SciPy."""

import math
from typing import Any

import numpy as np
import pytest

from onnxfit.verification.means import mean_record, student, student_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 31, 500])
@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.95, 0.9999])
def test_quantiles_are_scipys(degrees: int, confidence: float) -> None:
    """For odd and even degrees of freedom."""
    stats: Any = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf((1 + confidence) / 2, degrees)
    assert expected == pytest.approx(student_quantile(confidence, degrees), rel=1e-9)


def test_an_interval_by_hand() -> None:
    """Values 1, 2, 3: s = 1, and t = 4.3027 for two degrees of freedom."""
    half = 4.302652729911275 / math.sqrt(3)
    assert (2 - half, 2 + half) == pytest.approx(student(np.array([1.0, 2.0, 3.0])))
    assert (5.0, 5.0) == student(np.array([5.0, 5.0]))


def test_a_mean_is_over_the_values_that_are_numbers() -> None:
    """NaN is left out; one value has no interval, and none has no mean."""
    found = mean_record(np.array([1.0, math.nan, 3.0, 2.0]))
    assert (2.0, 3) == (found["mean"], found["n"])
    assert list(student(np.array([1.0, 3.0, 2.0]))) == found["ci95"]
    assert {"mean": 4.0, "ci95": None, "n": 1} == mean_record(np.array([4.0, math.nan]))
    assert {"mean": None, "ci95": None, "n": 0} == mean_record(np.array([math.nan]))


def test_an_interval_is_cut_off_where_no_value_can_be() -> None:
    """On either side alone, too."""
    values = np.array([0.1, 0.9, 0.9])
    low, high = student(values)
    assert low < 0.0
    assert high > 1.0
    assert [0.0, 1.0] == mean_record(values, within=(0.0, 1.0))["ci95"]
    assert [0.0, high] == mean_record(values, within=(0.0, math.inf))["ci95"]


def test_a_larger_confidence_is_a_wider_interval() -> None:
    """As it is asked for."""
    values = np.array([1.0, 2.0, 4.0])
    low, high = mean_record(values, 0.99)["ci95"]
    assert low < mean_record(values)["ci95"][0] < mean_record(values)["ci95"][1] < high


def test_bad_arguments() -> None:
    """Too few values or degrees of freedom, and confidences that are none."""
    with pytest.raises(ValueError, match=r"^expected at least two values, got 1$"):
        student(np.array([1.0]))
    with pytest.raises(ValueError, match=r"^expected at least one degree of freedom, got 0$"):
        student_quantile(0.95, 0)
    with pytest.raises(ValueError, match=r"^expected a confidence between 0 and 1, got 1$"):
        student_quantile(1, 3)
