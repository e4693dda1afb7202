"""The plots of the report, as SVG that takes its colours from the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxfit.report import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class EpsAxis:
    """What the axis of eps shows.

    Attributes:
        label: Its label, with the norm and the unit.
        over_255: Whether a second axis shows eps in units of 1/255.
        gate: The eps at which the gate judges.
        gate_label: What stands beside that.
    """

    label: str
    over_255: bool = False
    gate: float | None = None
    gate_label: str = ""


def curve(
    points: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    axis: EpsAxis,
    *,
    narrow: bool = False,
) -> str:
    """Draw robust accuracy over eps with 95 % bands.

    Args:
        points: ``curve`` of result.json.
        names: What the legend calls ``model``, ``native`` and ``baseline``; what has no name or
            no point is not drawn.
        axis: What eps is measured in, and where the gate judges.
        narrow: For a small screen.

    Returns:
        An ``<svg>`` element for an HTML page, the same for the same arguments.
    """

    def paint(figure: "Figure", axes: "Axes") -> None:
        _draw_axes(axes, axis)
        shown = [key for key in names if any(point.get(key) for point in points)]
        for key in ("baseline", "native", "model"):
            if key in shown:
                _draw_series(axes, points, key, names[key])
        if axis.gate is not None:
            low = _highest(points, shown, axis.gate) > 0.88
            _draw_gate(axes, axis.gate, axis.gate_label, low=low)
        # Drawn from the last to the first, so that the model lies on top; read from the first.
        lines, labels = axes.get_legend_handles_labels()
        how: dict[str, Any] = {"ncols": 1 if narrow else 3, "frameon": False, "handlelength": 3.5}
        figure.legend(lines[::-1], labels[::-1], loc="outside upper left", **how)

    return svg.drawn("curve", paint, narrow=narrow)


def _draw_axes(axes: "Axes", axis: EpsAxis) -> None:
    """Draw the axes: eps to the right, robust accuracy up, in per cent."""
    svg.draw_axes(axes, axis.label, "robust accuracy")
    if axis.over_255:
        above = axes.secondary_xaxis("top", functions=(_times_255, _per_255))
        above.set_xlabel("eps in units of 1/255")
        above.tick_params(length=3)
        above.set_facecolor("none")
        above.spines["top"].set_visible(True)


def _times_255(eps: Any) -> Any:
    """Count eps in units of 1/255."""
    return eps * 255


def _per_255(count: Any) -> Any:
    """Undo ``_times_255``."""
    return count / 255


def _draw_series(axes: "Axes", points: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    """Draw a curve with its band; the one of native gradients alone is dashed and has none."""
    values = [point.get(key) or {} for point in points]
    eps = [svg.number(point.get("eps")) for point in points]
    accuracy = [svg.number(value.get("robust_accuracy")) for value in values]
    colour = svg.BASELINE if key == "baseline" else svg.HARDENED
    marker = {"model": "o", "native": "^", "baseline": "s"}[key]
    native = key == "native"
    axes.plot(
        eps,
        accuracy,
        color=colour,
        marker=marker,
        markersize=5.5,
        markerfacecolor="none" if native else colour,
        linestyle=(0, (5, 3)) if native else "-",
        linewidth=1.4 if native else 2,
        label=label,
    )
    if not native:
        ends = [value.get("ci95") or (None, None) for value in values]
        low, high = ([svg.number(end[side]) for end in ends] for side in (0, 1))
        axes.fill_between(eps, low, high, color=colour, alpha=0.16, linewidth=0)


def _highest(points: Sequence[Mapping[str, Any]], keys: Sequence[str], eps: float) -> float:
    """Return how high the highest curve is from an eps on."""
    beyond = [point for point in points if svg.number(point.get("eps")) >= eps]
    values = [(point.get(key) or {}).get("robust_accuracy") for point in beyond for key in keys]
    return max((value for value in map(svg.number, values) if math.isfinite(value)), default=0.0)


def _draw_gate(axes: "Axes", eps: float, label: str, *, low: bool) -> None:
    """Mark the eps at which the gate judges; the label below left or above right of the curves."""
    axes.axvline(eps, color=svg.INK, linewidth=1, linestyle=(0, (1, 2)))
    left, right = axes.get_xlim()
    before = eps > left + (0.3 if low else 0.7) * (right - left)
    axes.annotate(
        label,
        (eps, 0.02 if low else 1.0),
        (-5 if before else 5, 0),
        textcoords="offset points",
        ha="right" if before else "left",
        va="bottom" if low else "top",
    )


def marks(row: Mapping[str, Mapping[str, Any]], key: str) -> list[dict[str, str]]:
    """Place accuracies and their intervals on a line from 0 to 100 %."""
    found = []
    for side in ("model", "baseline"):
        values = row.get(side) or {}
        place = placed(values.get(key), values.get("ci95"), 0.0, 1.0)
        if place:
            found.append({"side": side, **place})
    return found


def span(difference: Mapping[str, Any]) -> dict[str, str]:
    """Place a difference and its interval on a line with 0 in its middle."""
    value, ends = difference.get("robust_accuracy"), difference.get("ci95")
    sizes = [abs(size) for size in map(svg.number, [value, *(ends or ())]) if math.isfinite(size)]
    reach = 1.15 * max([*sizes, 0.01])
    return placed(value, ends, -reach, reach)


def placed(value: Any, ends: Any, low: float, high: float) -> dict[str, str]:
    """Place a value and its interval on a line between two ends, nothing where there is none."""
    at, lower, upper = map(svg.number, (value, *(ends or (None, None))))
    if math.isnan(at):
        return {}
    places = {"at": at, "low": at, "high": at}
    if math.isfinite(lower) and math.isfinite(upper):
        places |= {"low": lower, "high": upper}
    return {
        name: f"{100 * min(max((place - low) / (high - low), 0), 1):.2f}%"
        for name, place in places.items()
    }
