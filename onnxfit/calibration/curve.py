"""The trade-off curve: clean and robust accuracy over the strength."""

from collections.abc import Sequence

import numpy as np

from onnxfit.calibration.document import Point
from onnxfit.calibration.measurements import BLOCK, Measurements
from onnxfit.calibration.selection import Mask, Race

# Strengths that the curve shows, beside 0 and those that the choice was made among.
CURVE_POINTS = 8


def measure_curve(strengths: Sequence[float], race: Race, measured: Measurements) -> list[Point]:
    """Return what was measured of strengths, each on as many samples as it took part with.

    On the first block all of them are measured under all attacks, whatever the choice rests on.
    The masks of the race may be older: candidates that came later found more points.

    Args:
        strengths: What was to be tried, above 0 and in order.
        race: It is over.
        measured: Tells which samples stay right.
    """
    robust: dict[float, Mask] = {}
    few = min(BLOCK, measured.attacked)
    shown = sorted({0.0, *thinned(strengths), *race.robust})
    sizes = {strength: len(race.robust.get(strength, range(few))) for strength in shown}
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


def thinned(strengths: Sequence[float]) -> list[float]:
    """Return at most ``CURVE_POINTS`` strengths, evenly spaced."""
    count = min(CURVE_POINTS, len(strengths))
    return [strengths[i] for i in np.linspace(0, len(strengths) - 1, count).round().astype(int)]
