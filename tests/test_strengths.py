"""The strengths to try reach from near 0 to about twice what the budget allows."""

import math
import re
from collections.abc import Callable

import pytest

pytest.importorskip("torch")

from onnxfit.calibration.scales import Scale
from onnxfit.calibration.strengths import strengths_to_try
from onnxfit.errors import DataError

HIGHEST_QUANTILE = 0.98


def highest(scale: Scale) -> float:
    """Return what no strength is above."""
    return math.inf if scale == "shared" else HIGHEST_QUANTILE


def up_to(edge: float) -> tuple[Callable[[float], bool], list[float]]:
    """Return a budget that allows strengths up to an edge, and what it was asked."""
    asked: list[float] = []

    def inside(strength: float) -> bool:
        asked.append(strength)
        return strength <= edge

    return inside, asked


@pytest.mark.parametrize("edge", [1e-9, 1e-3, 0.06, 0.9, 1.0, 1.05, 3.3, 1000.0, 3e9])
@pytest.mark.parametrize("first", [1e-2, 1.0, 77.0])
def test_the_edge_is_between_half_of_the_top_and_the_top(first: float, edge: float) -> None:
    """Wherever the search begins; half of the top is inside, and at most a tenth below the edge."""
    inside, _ = up_to(edge)
    top = strengths_to_try("shared", first, math.inf, 20, inside)[-1]
    assert top / 2 <= edge < top
    assert top / 2 >= 0.9 * edge


@pytest.mark.parametrize("scale", ["shared", "quantile", "channel"])
@pytest.mark.parametrize("edge", [1e-6, 0.01, 0.4, 0.5, 0.6, 0.95])
def test_few_strengths_are_asked_for(scale: Scale, edge: float) -> None:
    """One, one for each doubling or halving, four to bisect, the smallest; none twice or past 1."""
    inside, asked = up_to(edge)
    strengths_to_try(scale, 0.5, highest(scale), 20, inside)
    assert len(asked) <= 1 + math.ceil(abs(math.log2(edge / 0.5))) + 1 + 4 + 1
    assert len(set(asked)) == len(asked)
    assert min(asked) > 0
    assert scale == "shared" or max(asked) < 1


@pytest.mark.parametrize("points", [1, 8, 20, 33])
def test_the_strengths_are_equally_spaced_above_zero(points: int) -> None:
    """The first is one step from 0; the last is the top."""
    inside, _ = up_to(1.0)
    found = strengths_to_try("shared", 1.0, math.inf, points, inside)
    assert points == len(found)
    assert found == pytest.approx([found[-1] * (i + 1) / points for i in range(points)])
    assert found[0] > 0


@pytest.mark.parametrize("scale", ["quantile", "channel"])
@pytest.mark.parametrize("edge", [0.49, 0.5, 0.7, 0.979, HIGHEST_QUANTILE, 1.0])
def test_quantiles_end_below_one(scale: Scale, edge: float) -> None:
    """From 0.49 on, twice the edge would be no quantile."""
    inside, _ = up_to(edge)
    found = strengths_to_try(scale, 0.5, highest(scale), 20, inside)
    top = found[-1]
    assert top <= HIGHEST_QUANTILE
    assert top >= min(HIGHEST_QUANTILE, 1.8 * edge)
    assert top / 2 <= edge


def test_a_first_quantile_past_the_highest_is_lowered() -> None:
    """The search begins at the highest."""
    inside, asked = up_to(1.0)
    assert HIGHEST_QUANTILE == strengths_to_try("quantile", 3.0, HIGHEST_QUANTILE, 20, inside)[-1]
    assert [HIGHEST_QUANTILE, HIGHEST_QUANTILE / 20] == asked


def test_an_edge_by_chance_is_none() -> None:
    """What is inside above strengths that are not is left for the edge below them."""
    chance = 0.9

    def inside(strength: float) -> bool:
        return strength <= 0.01 or strength == chance

    found = strengths_to_try("shared", chance, math.inf, 20, inside)
    assert found[-1] / 2 <= 0.01 < found[-1]
    assert inside(found[0])


def test_what_is_inside_by_chance_is_better_than_nothing() -> None:
    """Where no smaller strength is inside, the strengths are those around it."""
    found = strengths_to_try("quantile", 0.5, HIGHEST_QUANTILE, 20, lambda strength: strength > 0.4)
    assert HIGHEST_QUANTILE == found[-1]


@pytest.mark.parametrize(
    ("scale", "first", "smallest"),
    [
        ("shared", 1.0, "9.1e-13"),
        ("shared", 0.5, "4.5e-13"),
        ("quantile", 0.5, "4.5e-13: try --scale shared, which has smaller jumps"),
        ("channel", 0.5, "4.5e-13: try --scale shared, which has smaller jumps"),
    ],
)
def test_where_nothing_is_inside_the_smallest_is_named(
    scale: Scale, first: float, smallest: str
) -> None:
    """After forty halvings the search ends; a scale with smaller jumps is named if there is one."""
    inside, asked = up_to(0.0)
    message = f"no jump meets the budget, not even at the strength {smallest}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        strengths_to_try(scale, first, highest(scale), 20, inside)
    assert 41 == len(asked)


def test_where_everything_is_inside_the_search_ends() -> None:
    """A network that answers without its activations allows any jump."""
    inside, asked = up_to(math.inf)
    found = strengths_to_try("shared", 1.0, 1e30, 20, inside)
    assert all(map(math.isfinite, found))
    assert len(asked) <= 41 + 4 + 1


def test_no_strength_is_above_the_largest_input() -> None:
    """Beyond it a jump zeroes everything, however much the budget allows."""
    inside, asked = up_to(math.inf)
    found = strengths_to_try("shared", 1.0, 12.5, 20, inside)
    assert 12.5 == found[-1] == max(asked)
    assert 12.5 / 20 == found[0]
