"""The plots of the report, as SVG that takes its colours from the page."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HARDENED, _BASELINE = "#0072b2", "#d55e00"
_INK, _MUTED, _GRID = "#111111", "#666666", "#dddddd"
# The colours that matplotlib writes, and what stands for them in the page.
_COLOURS = {
    _HARDENED: "var(--hardened)",
    _BASELINE: "var(--baseline)",
    _INK: "currentColor",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
}
_WIDE, _NARROW = (9.6, 4.4), (4.5, 4.6)


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
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    prefix = "curve-narrow" if narrow else "curve-wide"
    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": prefix}]):
        figure = Figure(figsize=_NARROW if narrow else _WIDE, layout="constrained")
        figure.set_facecolor("none")
        axes = figure.add_subplot(facecolor="none")
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
        file = io.StringIO()
        FigureCanvasSVG(figure)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _for_page(file.getvalue(), prefix)


def _draw_axes(axes: "Axes", axis: EpsAxis) -> None:
    """Draw the axes: eps to the right, robust accuracy up, in per cent."""
    axes.set_ylim(-0.02, 1.04)
    axes.set_yticks([tenth / 5 for tenth in range(6)], [f"{20 * tenth} %" for tenth in range(6)])
    axes.set_ylabel("robust accuracy")
    axes.set_xlabel(axis.label)
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(length=3)
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
    eps = [_number(point.get("eps")) for point in points]
    accuracy = [_number(value.get("robust_accuracy")) for value in values]
    colour = _BASELINE if key == "baseline" else _HARDENED
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
        low, high = ([_number(end[side]) for end in ends] for side in (0, 1))
        axes.fill_between(eps, low, high, color=colour, alpha=0.16, linewidth=0)


def _highest(points: Sequence[Mapping[str, Any]], keys: Sequence[str], eps: float) -> float:
    """Return how high the highest curve is from an eps on."""
    beyond = [point for point in points if _number(point.get("eps")) >= eps]
    values = [(point.get(key) or {}).get("robust_accuracy") for point in beyond for key in keys]
    return max((value for value in map(_number, values) if math.isfinite(value)), default=0.0)


def _draw_gate(axes: "Axes", eps: float, label: str, *, low: bool) -> None:
    """Mark the eps at which the gate judges; the label below left or above right of the curves."""
    axes.axvline(eps, color=_INK, linewidth=1, linestyle=(0, (1, 2)))
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
        place = _place(values.get(key), values.get("ci95"), 0.0, 1.0)
        if place:
            found.append({"side": side, **place})
    return found


def span(difference: Mapping[str, Any]) -> dict[str, str]:
    """Place a difference and its interval on a line with 0 in its middle."""
    value, ends = difference.get("robust_accuracy"), difference.get("ci95")
    sizes = [abs(size) for size in map(_number, [value, *(ends or ())]) if math.isfinite(size)]
    reach = 1.15 * max([*sizes, 0.01])
    return _place(value, ends, -reach, reach)


def _place(value: Any, ends: Any, low: float, high: float) -> dict[str, str]:
    """Place a value and its interval on a line between two ends, nothing where there is none."""
    at, lower, upper = map(_number, (value, *(ends or (None, None))))
    if math.isnan(at):
        return {}
    places = {"at": at, "low": at, "high": at}
    if math.isfinite(lower) and math.isfinite(upper):
        places |= {"low": lower, "high": upper}
    return {
        name: f"{100 * min(max((place - low) / (high - low), 0), 1):.2f}%"
        for name, place in places.items()
    }


def _number(value: Any) -> float:
    """Return a value as a number, NaN where there is none: matplotlib leaves it out."""
    found = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if found else math.nan


def _for_page(svg: str, prefix: str) -> str:
    """Make an SVG file part of a page: its colours, its fonts, ids that no other plot has."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*; ", "", body)
    for colour, meaning in _COLOURS.items():
        body = body.replace(colour, meaning)
    return f'<svg {box[0] if box else ""} aria-hidden="true" focusable="false">{body}'
