"""Spearman's rank correlation."""

import math

import pytest

from onnxfit.correlation import spearman


def test_spearman_by_hand() -> None:
    """Equal values share the mean of their ranks."""
    # Ranks 1, 2.5, 2.5, 4 and 1.5, 1.5, 3.5, 3.5; less their means of 2.5.
    assert 3 / math.sqrt(4.5 * 4) == pytest.approx(spearman([1, 5, 5, 9], [0, 0, 1, 1]))
    assert 1 == pytest.approx(spearman([1, 2, 3], [10, 100, 1000]))
    assert -1 == pytest.approx(spearman([1, 2, 3], [3, 0, -9]))


def test_what_has_no_order_has_no_correlation() -> None:
    """Equal values, none at all, and NaN; infinity is an end like another."""
    assert math.isnan(spearman([1, 2, 3], [True, True, True]))
    assert math.isnan(spearman([], []))
    assert math.isnan(spearman([1, 2, math.nan], [1, 2, 3]))
    assert 1 == pytest.approx(spearman([1, 2, math.inf], [1, 2, 3]))


def test_both_sides_have_the_same_length() -> None:
    """Other sides are a ValueError."""
    with pytest.raises(ValueError, match=r"^expected as many values on both sides, got 2 and 1$"):
        spearman([1, 2], [1])
