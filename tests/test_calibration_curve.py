"""Which strengths the curve of a calibration shows."""

import pytest

pytest.importorskip("torch")

from onnxfit.calibration.curve import BEYOND, CURVE_POINTS, to_show

GRID = [float(i) for i in range(1, 21)]


@pytest.mark.parametrize(
    "raced",
    [[0.0, 1.0], [0.0, 1.0, 3.0, 6.0], [0.0, *GRID[:12]], [0.0, 20.0], [0.0, *GRID]],
    ids=len,
)
def test_the_curve_has_what_raced_and_what_lies_beyond(raced: list[float]) -> None:
    """From 0 on in order, at least nine points, the last strength among them."""
    shown = to_show(GRID, raced)
    assert sorted({*shown}) == shown
    assert {0.0, 20.0, *raced} <= {*shown} <= {0.0, *GRID}
    assert max(CURVE_POINTS, len(raced)) <= len(shown)
    assert min(BEYOND, len(GRID) - int(max(raced))) <= sum(s > max(raced) for s in shown)


def test_few_strengths_are_all_shown() -> None:
    """Where the user names less than nine."""
    assert [0.0, 0.5] == to_show([0.5], [0.0, 0.5])
    assert [0.0, 0.1, 0.2, 0.3] == to_show([0.1, 0.2, 0.3], [0.0, 0.1])
