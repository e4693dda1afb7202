"""The report of ``onnxfit calibrate`` as one HTML page."""

import functools
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxfit.report import attribution, page
from onnxfit.report.trade_off import Marks, trade_off
from onnxfit.report.wording import NONE, finite, number
from onnxfit.verification.statistics import SIGNIFICANCE

if TYPE_CHECKING:
    from jinja2 import Template

Document = Mapping[str, Any]

# The class of the verdict, and its words.
GAIN, LOSS, NO_GAIN, UNKNOWN = (
    ("yes", "More robust"),
    ("no", "Less robust"),
    ("note", "No gain shown"),
    ("note", "Calibrated"),
)
# What an interval of a difference is not: the strength was chosen on the same samples.
UNCORRECTED = "not corrected for the search"
_AXES = {
    "shared": "jump κ",
    "quantile": "quantile q of positive pre-activations",
    "channel": "quantile q of positive pre-activations, per channel",
}


def render_calibration(document: Document) -> str:
    """Write the report of a calibration.

    Args:
        document: That of ``calibration.json``; parts that are missing or None are left out.

    Returns:
        A page that needs no other file, no network and no script; the same for the same document.

    Raises:
        ModuleNotFoundError: Jinja or Matplotlib is not installed.
    """
    verdict, word = _verdict(document)
    sites = [_site(site) for site in document.get("sites") or []]
    curve, attributed = _curve(document), attribution.attributed(document)
    return _template().render(
        result=document,
        verdict=verdict,
        word=word,
        native_only=document.get("objective") == "paper",
        raced=attribution.raced(document),
        sides={"model": _side(document, "after"), "baseline": _side(document, "before")},
        names={"model": "Hardened", "baseline": "Before"},
        axis=_axis(document),
        plot=_plot(document),
        first=common(document),
        attacked=_range(point.get("attacked") for point in curve),
        last=_last(document),
        corrected=_corrected(document),
        significance=SIGNIFICANCE,
        uncorrected=UNCORRECTED,
        sites=sites,
        attributed=attribution.plot(attributed) if attributed else None,
        judged={kind: _range(attribution.counts(attributed, kind)) for kind in attribution.KINDS},
        alone=attribution.sentences(document),
        steps=attribution.steps(document),
        tested=attribution.tested(document),
        unwritten="output" in document and document["output"] is None,
        commands=_commands(document),
        bounds=page.bounds(document),
        over_255=page.over_255(document),
    )


@functools.cache
def _template() -> "Template":
    """Compile the page."""
    return page.template("calibration.html.jinja", {"share": _share})


def _verdict(document: Document) -> tuple[str, str]:
    """Return the class of the verdict and its words, which say no more than the headline."""
    if document.get("improves"):
        return GAIN
    difference = document.get("difference") or {}
    high = finite((difference.get("ci95") or (None, None))[1])
    p_value = finite(difference.get("p_value"))
    if high is not None and high < 0 and p_value is not None and p_value < SIGNIFICANCE:
        return LOSS
    return UNKNOWN if document.get("improves") is None else NO_GAIN


def _share(value: Any) -> str:
    """Write a fraction of the settings in per cent, with no more digits than it has."""
    fraction = finite(value)
    return NONE if fraction is None else f"{number(100 * fraction)} %"


def _side(document: Document, side: str) -> dict[str, Document]:
    """Return the figures before or after as the cards show them."""
    found = document.get(side) or {}
    return {"clean": found.get("clean") or {}, "worst_case": found}


def _curve(document: Document) -> list[Document]:
    """Return the points of the curve."""
    return [point for point in document.get("curve") or [] if point]


def common(document: Document) -> str | None:
    """Write how many samples all points of the curve have in common, None where none do."""
    return _range((point.get("common") or {}).get("attacked") for point in _curve(document))


def _range(counts: Iterable[Any]) -> str | None:
    """Write between what numbers counts lie, None where there are none."""
    known = [int(count) for count in map(finite, counts) if count is not None]
    ends = sorted({min(known), max(known)}) if known else []
    return " to ".join(map(number, ends)) or None


def _axis(document: Document) -> str:
    """Say what a strength is."""
    return _AXES.get(str(document.get("scale")), "strength")


def _last(document: Document) -> float | None:
    """Return the largest strength of the curve that is inside the budget."""
    inside = [finite(point.get("strength")) for point in _curve(document) if point.get("inside")]
    return max((strength for strength in inside if strength is not None), default=None)


def _plot(document: Document) -> dict[str, str]:
    """Draw the curve for wide and for narrow screens, nothing where there is none."""
    from markupsafe import Markup

    curve, chosen = _curve(document), finite(document.get("strength"))
    if not curve:
        return {}
    marks = Marks(x=_axis(document), chosen=chosen, last=_last(document))
    shapes = {"wide": False, "narrow": True}
    return {
        shape: Markup(trade_off(curve, marks, narrow=narrow))  # noqa: S704 - escaped
        for shape, narrow in shapes.items()
    }


def _corrected(document: Document) -> float | None:
    """Return the p-value after Bonferroni over the candidates."""
    difference = document.get("difference") or {}
    p_value, candidates = (finite(difference.get(key)) for key in ("p_value", "candidates"))
    return None if p_value is None or candidates is None else min(1.0, p_value * candidates)


def _site(site: Document) -> dict[str, Any]:
    """Return what the table shows of a site."""
    return {**site, "jump": jump_text(site.get("jump")), "attribution": site.get("attribution")}


def jump_text(jump: Any) -> str:
    """Write the jump of a site: a number, or the range of those of its channels."""
    if not isinstance(jump, list | tuple):
        return number(finite(jump))
    jumps = list(_flat(jump))
    if len(jumps) < 2:
        return number(jumps[0]) if jumps else NONE
    return f"{number(min(jumps))} to {number(max(jumps))} of {len(jumps)} channels"


def _flat(jumps: Any) -> Iterator[float]:
    """Yield the numbers of a nested list."""
    for jump in jumps:
        if isinstance(jump, list | tuple):
            yield from _flat(jump)
        elif (value := finite(jump)) is not None:
            yield value


def _commands(document: Document) -> dict[str, str]:
    """Return commands that go on from here."""
    path = str((document.get("model") or {}).get("path") or "MODEL.onnx")
    output = str(document.get("output") or f"{path.removesuffix('.onnx')}.jump.onnx")
    words = ["onnxfit", "verify", output, "--data", "TEST_DATA", "--baseline", path]
    words += [*_threat(document), *_input(document)]
    drop = finite((document.get("budget") or {}).get("max_drop"))
    words += [] if drop is None else ["--max-drop", repr(drop)]
    return {
        "verify": shlex.join([*words, "--report", "verified"]),
        "inspect": shlex.join(["onnxfit", "inspect", output]),
        "restore": shlex.join(["onnxfit", "restore", output]),
    }


def _threat(document: Document) -> list[str]:
    """Return the options of the attacker's reach."""
    eps = finite(document.get("eps"))
    count = round(255 * eps) if eps is not None else 0
    words = [] if eps is None else ["--eps", f"{count}/255" if count / 255 == eps else repr(eps)]
    words += ["--norm", str(document["norm"])] if document.get("norm") else []
    return [*words, "--quantize"] if document.get("quantize") else words


def _input(document: Document) -> list[str]:
    """Return the options of the samples that are not the default."""
    data = document.get("data") or {}
    usual = {"bounds": [0, 1], "mean": [0], "std": [1]}
    return [
        f"--{name}={','.join(f'{value:.9g}' for value in data[name])}"
        for name, default in usual.items()
        if data.get(name) and list(data[name]) != default
    ]
