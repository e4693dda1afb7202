"""The trade-off curve: clean and robust accuracy over the strength."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from onnxfit.calibration.document import Point
from onnxfit.calibration.measurements import BLOCK
from onnxfit.calibration.selection import Mask, Measured, Race

# How many points the curve has at least, and how many of them lie beyond those that raced.
CURVE_POINTS = 9
BEYOND = 4


class Attacked(Measured, Protocol):
    """What a curve rests on."""

    def with_all_attacks(self) -> "Attacked":
        """Return the same with every attack, where the choice rests on some of them."""

    def native(self, candidates: Sequence[Any], count: int, /) -> dict[Any, Mask]:
        """Return which of the first samples stay right under native gradients alone."""


def measure_curve(strengths: Sequence[float], race: Race, measured: Attacked) -> list[Point]:
    """Return what was measured of strengths, each on as many samples as it took part with.

    On the first block all of them are measured under all attacks, whatever the choice rests on.
    Those that did not race begin with the attacks of the race, which are then not repeated among
    all. The masks of the race are asked for once more in the end: candidates that came later, and
    all attacks, found more points.

    Args:
        strengths: What was to be tried, above 0 and in order.
        race: It is over.
        measured: Tells which samples stay right.
    """
    robust: dict[float, Mask] = {}
    few = min(BLOCK, measured.attacked)
    shown = to_show(strengths, race.robust)
    sizes = {strength: len(race.robust.get(strength, range(few))) for strength in shown}
    measured.robust([s for s in shown if s not in race.robust], few)
    everything = measured.with_all_attacks()
    worst, native = everything.robust(shown, few), everything.native(shown, few)
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


def to_show(strengths: Sequence[float], raced: Iterable[float]) -> list[float]:
    """Return 0, the strengths that raced, some beyond them, and more if these are few.

    Args:
        strengths: What was to be tried, above 0 and in order.
        raced: Some of them, and 0.
    """
    known = {0.0, *raced}
    beyond = [strength for strength in strengths if strength > max(known)]
    known |= {*_spread(beyond, BEYOND)}
    others = [strength for strength in strengths if strength not in known]
    return sorted(known | {*_spread(others, CURVE_POINTS - len(known))})


def _spread(strengths: Sequence[float], count: int) -> list[float]:
    """Return at most so many strengths, evenly spaced, the last one among them."""
    count = max(0, min(count, len(strengths)))
    places = np.linspace(len(strengths) - 1, 0, count, endpoint=count > 1)
    return [strengths[i] for i in places.round().astype(int)]
