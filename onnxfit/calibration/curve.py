"""The trade-off curve: clean and robust accuracy over the strength."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from onnxfit.calibration.document import Point
from onnxfit.calibration.measurements import COMMON
from onnxfit.calibration.selection import Mask, Measured, Race

# How many points the curve has, and how many of them lie beyond the edge of the budget.
SHOWN = 8
BEYOND = 3


class Attacked(Measured, Protocol):
    """What a curve rests on."""

    def with_all_attacks(self) -> "Attacked":
        """Return the same with every attack, where the choice rests on some of them."""

    def native(self, candidates: Sequence[Any], count: int, /) -> dict[Any, Mask]:
        """Return which of the first samples stay right under native gradients alone."""


def measure_curve(
    strengths: Sequence[float], race: Race, chosen: float, measured: Attacked
) -> list[Point]:
    """Return what was measured of some strengths.

    On the same first samples all of them are measured under all attacks, whatever the choice rests
    on. They begin with the attacks of the race, which are then not repeated among all. The masks
    of the race are asked for once more in the end: candidates that came later, and all attacks,
    found more points.

    Args:
        strengths: What was to be tried, above 0 and in order.
        race: It is over.
        chosen: The strength that it chose.
        measured: Tells which samples stay right.
    """
    robust: dict[float, Mask] = {}
    common = min(COMMON, measured.attacked)
    shown = to_show(strengths, race.robust, chosen, race.strengths[-1])
    sizes = {s: max(common, len(race.robust.get(s, ()))) for s in shown}
    measured.robust(shown, common)
    everything = measured.with_all_attacks()
    worst, native = everything.robust(shown, common), everything.native(shown, common)
    for count in sorted({*sizes.values()}):
        robust |= measured.robust([s for s in shown if sizes[s] == count], count)
    return [
        Point(
            strength=s,
            clean=measured.clean(s),
            robust=robust[s],
            worst=worst[s],
            native=native[s],
        )
        for s in shown
    ]


def to_show(
    strengths: Sequence[float], raced: Iterable[float], chosen: float, edge: float
) -> list[float]:
    """Return 0, the choice, the edge of the budget, some beyond, and what raced near the first.

    Where few raced, others are added.

    Args:
        strengths: What was to be tried, above 0 and in order.
        raced: Some of them, and 0.
        chosen: One of those that raced.
        edge: The largest one that may have raced.
    """
    shown = {0.0, chosen, edge, *_spread([s for s in strengths if s > edge], BEYOND)}
    near = sorted({*raced} - shown, key=lambda s: (min(abs(s - chosen), abs(s - edge)), s))
    shown |= {*near[: SHOWN - len(shown)]}
    others = [strength for strength in strengths if strength not in shown]
    return sorted(shown | {*_spread(others, SHOWN - len(shown))})


def _spread(strengths: Sequence[float], count: int) -> list[float]:
    """Return at most so many strengths, evenly spaced, the last one among them."""
    count = max(0, min(count, len(strengths)))
    places = np.linspace(len(strengths) - 1, 0, count, endpoint=count > 1)
    return [strengths[i] for i in places.round().astype(int)]
