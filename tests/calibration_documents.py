"""Calibrations as ``calibration.json`` holds them, and their pages, for the tests."""

import copy
import re
from html import escape
from typing import Any

import pytest
from html_page import Page

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from onnxfit.report import calibration
from onnxfit.report.calibration import render_calibration

Document = dict[str, Any]

CELLS = {"td", "th", "dt", "dd", "p", "li", "br", "h1", "h2", "h3", "figcaption", "text", "span"}
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


def share(value: float) -> Document:
    """Make a robust accuracy with an interval."""
    return {"robust_accuracy": value, "ci95": [value - 0.0412, value + 0.0387]}


def clean(value: float) -> Document:
    """Make a clean accuracy with an interval."""
    return {"accuracy": value, "ci95": [value - 0.0153, value + 0.0067]}


def change(difference: float, low: float, high: float, n: int) -> Document:
    """Make a paired difference."""
    return {"difference": difference, "ci95": [low, high], "n": n}


def effect(difference: float, low: float, high: float, n: int, p_value: float = 0.001) -> Document:
    """Make a paired difference that was tested."""
    return {**change(difference, low, high, n), "p_value": p_value}


def point(strength: float, accuracy: float, limit: float, robust: float, count: int) -> Document:
    """Make a point of the curve; no two numbers are the same."""
    return {
        "strength": strength,
        "clean": clean(accuracy),
        "drop_limit": limit,
        "inside": limit <= 0.01,
        "common": {
            "attacked": 64,
            "worst": share(robust - 0.0312),
            "native": share(robust + 0.2),
        },
        "attacked": count,
        "robust": share(robust),
        "difference": change(robust - 0.4113, robust - 0.4846, robust - 0.338, count),
    }


CURVE = [
    point(0.0, 0.9912, 0.0067, 0.4113, 200),
    point(0.25, 0.9911, 0.0071, 0.5123, 200),
    point(0.5, 0.9908, 0.0135, 0.4732, 64),
    point(0.75, 0.9907, 0.0083, 0.4321, 64),
    point(1.0, 0.9622, 0.0412, 0.2234, 64),
]
GAIN = "The model is more robust at eps 0.1: 51.2 % of 200 samples stay right in the worst case."
NO_GAIN = "The best jump found does not make the model more robust beyond noise at eps 0.1."
LOSS = "The best jump found makes the model less robust at eps 0.1."


def document(**changes: Any) -> Document:
    """Make a calibration with a gain."""
    return {
        "schema_version": 1,
        "headline": GAIN,
        "improves": True,
        "objective": "worst-case",
        "scale": "shared",
        "norm": "linf",
        "eps": 0.1,
        "quantize": False,
        "budget": {"max_drop": 0.01, "confidence": 0.95},
        "model": {"path": "build/a model.onnx", "sha256": "a" * 64, "sites": 2, "jumps": {}},
        "data": {
            "path": "data/validation.npz",
            "sha256": "d" * 64,
            "n": 1300,
            "attacked": 200,
            "bounds": [0.0, 1.0],
            "mean": [0.1307],
            "std": [0.3081],
        },
        "strength": 0.25,
        "before": {"clean": clean(0.9912), **share(0.4113)},
        "after": {"clean": clean(0.9911), **share(0.5123)},
        "difference": {
            "robust_accuracy": 0.101,
            "ci95": [0.0601, 0.1402],
            "tested": 200,
            "only_after": 31,
            "only_before": 11,
            "p_value": 0.0021,
            "candidates": 10,
            "clean_accuracy": -0.0011,
            "clean_ci95": [-0.0042, 0.0023],
            "drop_limit": 0.0071,
        },
        "curve": copy.deepcopy(CURVE),
        "race": [{"samples": 64, "left": [0.25, 0.5]}, {"samples": 200, "left": [0.5]}],
        "warnings": ["The model ends in a Softmax."],
        "environment": {"versions": {"torch": "2.13.0"}, "device": "cpu", "seed": 7},
        "parity": {"samples": 61, "largest_difference": 3.1e-6, "flips": 2, "agrees": True},
        "sites": [
            {"name": "/relu/output", "jump": 0.25, "zeroed": 0.0336, "median": 0.6573, "std": 0.96},
            {"name": "/head/output", "jump": 0.25, "zeroed": 0.0417, "median": 1.781, "std": 2.26},
        ],
        "seconds": 512.7,
        **changes,
    }


def without_gain() -> Document:
    """Make a calibration that shows no gain."""
    difference = {"robust_accuracy": 0.01, "ci95": [-0.02, 0.04], "p_value": 0.41}
    return document(
        headline=NO_GAIN, improves=False, difference=document()["difference"] | difference
    )


def worse() -> Document:
    """Make a calibration whose every jump does harm."""
    difference = {"robust_accuracy": -0.06, "ci95": [-0.1, -0.02], "p_value": 0.003}
    return document(headline=LOSS, improves=False, difference=document()["difference"] | difference)


def by_channel() -> Document:
    """Make a calibration with a jump per channel, behind a convolution and a matrix product."""
    result = document(scale="channel")
    result["sites"][0]["jump"] = [[[0.125]], [[0.5]], [[0.375]]]
    result["sites"][1]["jump"] = [0.75, 0.25]
    return result


def paper() -> Document:
    """Make a calibration by native gradients alone."""
    return document(objective="paper")


def refined(*alone: tuple[Document, Document], **changes: Any) -> Document:
    """Make a refined calibration, whose second site has a strength of its own.

    Args:
        alone: Of each site, what its jump does to robust and to clean accuracy.
        changes: Other parts of the document.
    """
    given = alone or (
        (effect(-0.0312, -0.0613, -0.0021, 128), effect(0.0, -0.0031, 0.0032, 1300, 0.75)),
        (effect(0.0513, 0.0114, 0.0915, 128), effect(-0.0123, -0.0208, -0.0042, 1300)),
    )
    result = document(refinement={"edge": 0.75, "judged_on": 128, "tried": 3, "taken": 1})
    sites = zip(result["sites"], (0.25, 0.75), given, strict=False)
    result["sites"] = [
        site
        | {
            "strength": strength,
            "attribution": dict(zip(("robust", "clean"), parts, strict=True)),
        }
        for site, strength, parts in sites
    ]
    return result | changes


NOISE = effect(0.01, -0.02, 0.04, 128, 0.5), effect(-0.001, -0.004, 0.002, 1300, 0.5)
BUYS = effect(0.05, 0.01, 0.09, 128), NOISE[1]
BUYS_MORE = effect(0.07, 0.02, 0.12, 128), effect(0.004, 0.001, 0.007, 1300)
COSTS = effect(-0.08, -0.12, -0.04, 128), effect(-0.006, -0.009, -0.003, 1300)


def write_out_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write out what the plot would show in place of drawing it."""
    monkeypatch.setattr(
        calibration, "trade_off", lambda *drawn, narrow: escape(f"{drawn} {narrow}")
    )


def shown(result: Document) -> str:
    """Return the text of a page, with plain spaces."""
    return Page(render_calibration(result), CELLS).text.replace(NARROW_SPACE, " ")


def drawn(result: Document) -> list[str]:
    """Return the words of the plot for wide screens."""
    svg = calibration._plot(result)["wide"]
    return [found.strip() for found in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
