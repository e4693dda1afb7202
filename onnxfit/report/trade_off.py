"""The plot of a calibration: what a jump costs without attack and what it keeps under attack."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxfit.report import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = Mapping[str, Any]

CLEAN, WORST, NATIVE = "clean accuracy", "worst case", "native gradients alone (overstates)"
OUTSIDE = "outside the budget"
# Rows for labels above the axes, in units of their height.
_LOWER, _UPPER = 1.02, 1.09
# How far right, in units of the width, labels stand to the right of their lines.
_TURN, _TURN_NARROW = 0.5, 0.35


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What the plot marks beside the curves.

    Attributes:
        x: What a strength is.
        chosen: The chosen strength.
        last: The largest strength inside the budget.
    """

    x: str
    chosen: float | None = None
    last: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Series:
    """How a curve is drawn."""

    label: str
    colour: str
    marker: str
    dashed: bool = False


_CLEAN = _Series(label=CLEAN, colour=svg.BASELINE, marker="s")
_WORST = _Series(label=WORST, colour=svg.HARDENED, marker="o")
_NATIVE = _Series(label=NATIVE, colour=svg.HARDENED, marker="^", dashed=True)


def trade_off(points: Sequence[Point], marks: Marks, *, narrow: bool = False) -> str:
    """Draw the share of samples that are right over the strength, with 95 % bands.

    The worst case and native gradients alone are those of the samples that all points have in
    common, so that the second never lies below the first.

    Args:
        points: ``curve`` of calibration.json.
        marks: What else there is to see.
        narrow: For a small screen.

    Returns:
        An ``<svg>`` element for an HTML page, the same for the same arguments.
    """

    def paint(figure: "Figure", axes: "Axes") -> None:
        svg.draw_axes(axes, marks.x, "share of samples right")
        for series in (_CLEAN, _WORST, _NATIVE):
            _draw(axes, series, points)
        turn = _TURN_NARROW if narrow else _TURN
        _mark_last(axes, points, marks, turn)
        if marks.chosen is not None:
            _line(axes, marks.chosen, f"chosen: {marks.chosen:.4g}", turn)
        how: dict[str, Any] = {"ncols": 1 if narrow else 4, "frameon": False, "handlelength": 3.5}
        figure.legend(loc="outside upper left", **how)

    return svg.drawn("trade-off", paint, narrow=narrow)


def _value(series: _Series, point: Point) -> tuple[float, float, float]:
    """Return a share and its interval, NaN where there is none."""
    if series is _CLEAN:
        found, key = point.get("clean") or {}, "accuracy"
    else:
        common = point.get("common") or {}
        found = common.get("worst" if series is _WORST else "native") or {}
        key = "robust_accuracy"
    low, high = found.get("ci95") or (None, None)
    return svg.number(found.get(key)), svg.number(low), svg.number(high)


def _draw(axes: "Axes", series: _Series, points: Sequence[Point]) -> None:
    """Draw a curve; of clean accuracy, points outside the budget are open."""
    values = [_value(series, point) for point in points]
    strengths = [svg.number(point.get("strength")) for point in points]
    shares, lows, highs = ([value[part] for value in values] for part in range(3))
    colour, style = series.colour, (0, (5, 3)) if series.dashed else "-"
    if series.dashed:
        edge: dict[str, Any] = {"color": colour, "linewidth": 0.8, "linestyle": (0, (1, 2))}
        axes.plot(strengths, lows, **edge)
        axes.plot(strengths, highs, **edge)
    axes.fill_between(
        strengths, lows, highs, color=colour, alpha=0.07 if series.dashed else 0.16, linewidth=0
    )
    axes.plot(
        strengths,
        shares,
        color=colour,
        marker=series.marker,
        markersize=5.5,
        markerfacecolor=svg.PAGE if series.dashed else colour,
        linestyle=style,
        linewidth=1.4 if series.dashed else 2,
        label=series.label,
    )
    if series is _CLEAN:
        outside = [n for n, point in enumerate(points) if point.get("inside") is False]
        axes.plot(
            [strengths[n] for n in outside],
            [shares[n] for n in outside],
            color=colour,
            marker=series.marker,
            markersize=5.5,
            markerfacecolor=svg.PAGE,
            linestyle="",
        )


def _mark_last(axes: "Axes", points: Sequence[Point], marks: Marks, turn: float) -> None:
    """Mark the largest strength inside the budget, and shade what lies beyond."""
    last = marks.last
    if last is None:
        return
    known = [point for point in map(_strength, points) if math.isfinite(point)]
    end = max(known, default=last)
    if end > last:
        left, _ = axes.get_xlim()
        axes.axvspan(last, end + 0.02 * (end - left), color=svg.MUTED, alpha=0.14, linewidth=0)
    _line(axes, last, f"largest inside the budget: {last:.4g}", turn, dotted=True)
    if end > last:
        axes.annotate(
            OUTSIDE,
            ((last + end) / 2, _free(points, marks)),
            ha="center",
            va="center",
        )


def _free(points: Sequence[Point], marks: Marks) -> float:
    """Return the height beyond the budget that is farthest from the curves."""
    beyond = [point for point in points if _strength(point) >= (marks.last or 0.0)]
    drawn = (_CLEAN, _WORST, _NATIVE)
    values = [_value(series, point)[0] for point in beyond for series in drawn]
    taken = [value for value in values if math.isfinite(value)]
    heights = [0.06 + 0.04 * step for step in range(23)]
    return max(heights, key=lambda height: min((abs(height - v) for v in taken), default=0.0))


def _line(axes: "Axes", x: float, label: str, turn: float, *, dotted: bool = False) -> None:
    """Draw a line up to a label above the axes, the lower row for a dotted one."""
    height = _LOWER if dotted else _UPPER
    across = axes.get_xaxis_transform()
    axes.plot(
        [x, x],
        [0, height + 0.05],
        transform=across,
        clip_on=False,
        color=svg.INK,
        linewidth=1.2,
        linestyle=(0, (1, 2)) if dotted else "-",
        scalex=False,
        scaley=False,
    )
    left, right = axes.get_xlim()
    before = x > left + turn * (right - left)
    axes.annotate(
        label,
        (x, height),
        (-4 if before else 4, 0),
        xycoords=across,
        textcoords="offset points",
        annotation_clip=False,
        ha="right" if before else "left",
        va="bottom",
        bbox={"facecolor": svg.PAGE, "edgecolor": "none", "pad": 1},
        zorder=5,
    )


def _strength(point: Point) -> float:
    return svg.number(point.get("strength"))
