"""Plots as SVG that takes its colours from the page."""

import io
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HARDENED, BASELINE = "#0072b2", "#d55e00"
INK, MUTED, PAGE = "#111111", "#666666", "#fefefe"
_GRID = "#dddddd"
# The colours that matplotlib writes, and what stands for them in the page.
_COLOURS = {
    HARDENED: "var(--hardened)",
    BASELINE: "var(--baseline)",
    INK: "currentColor",
    MUTED: "var(--muted)",
    PAGE: "var(--page)",
    _GRID: "var(--line)",
}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
}
_WIDE, _NARROW = (9.6, 4.4), (4.5, 4.6)


def drawn(prefix: str, paint: Callable[["Figure", "Axes"], object], *, narrow: bool) -> str:
    """Draw a plot.

    Args:
        prefix: What its ids begin with; no other plot of the page has it.
        paint: Draws on a figure and its axes.
        narrow: For a small screen.

    Returns:
        An ``<svg>`` element for an HTML page, the same for the same arguments.
    """
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    prefix = f"{prefix}-{'narrow' if narrow else 'wide'}"
    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": prefix}]):
        figure = Figure(figsize=_NARROW if narrow else _WIDE, layout="constrained")
        figure.set_facecolor("none")
        paint(figure, figure.add_subplot(facecolor="none"))
        file = io.StringIO()
        FigureCanvasSVG(figure)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _for_page(file.getvalue(), prefix)


def draw_axes(axes: "Axes", x: str, y: str) -> None:
    """Draw the axes: a number to the right, a share up, in per cent."""
    axes.set_ylim(-0.02, 1.04)
    axes.set_yticks([tenth / 5 for tenth in range(6)], [f"{20 * tenth} %" for tenth in range(6)])
    axes.set_ylabel(y)
    axes.set_xlabel(x)
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(length=3)


def number(value: Any) -> float:
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
