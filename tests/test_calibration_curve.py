"""Which strengths the curve of a calibration shows."""

import pytest

pytest.importorskip("torch")

from onnxfit.calibration.curve import BEYOND, SHOWN, to_show

GRID = [float(i) for i in range(1, 21)]


@pytest.mark.parametrize("chosen", [1.0, 5.0, 10.0])
@pytest.mark.parametrize("edge", [10.0, 12.0, 18.0, 20.0])
@pytest.mark.parametrize("step", [1, 2, 5, 20])
def test_the_curve_has_the_choice_the_edge_and_what_lies_beyond(
    chosen: float, edge: float, step: int
) -> None:
    """Eight points from 0 on in order, the last strength among them."""
    raced = [0.0, chosen, *GRID[: int(edge) : step]]
    shown = to_show(GRID, raced, chosen, edge)
    assert sorted({*shown}) == shown
    assert SHOWN == len(shown)
    assert {0.0, chosen, edge, 20.0} <= {*shown} <= {0.0, *GRID}
    assert min(BEYOND, 20 - int(edge)) <= sum(s > edge for s in shown)


def test_of_those_that_raced_the_nearest_are_shown() -> None:
    """To the choice or the edge; others only where few raced."""
    raced = [0.0, 1.0, 2.0, 4.0, 6.0, 7.0, 10.0]
    beyond = [11.0, 15.0, 20.0]
    assert [0.0, 4.0, 6.0, 7.0, 10.0, *beyond] == to_show(GRID, raced, 6.0, 10.0)
    assert {0.0, 6.0, 10.0, *beyond} < {*to_show(GRID, [0.0, 6.0, 10.0], 6.0, 10.0)}


def test_few_strengths_are_all_shown() -> None:
    """Where the user names less than eight."""
    assert [0.0, 0.5] == to_show([0.5], [0.0, 0.5], 0.5, 0.5)
    assert [0.0, 0.1, 0.2, 0.3] == to_show([0.1, 0.2, 0.3], [0.0, 0.1], 0.1, 0.1)
