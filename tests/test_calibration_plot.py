"""The trade-off plot in the report of a calibration."""

import copy
import re

import pytest
from calibration_documents import (
    CURVE,
    Document,
    document,
    drawn,
    paper,
    share,
)

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from onnxfit.report import calibration
from onnxfit.report.trade_off import Marks, trade_off


def test_the_plot_has_the_words_of_its_parts() -> None:
    """Curves, axes, the chosen strength and the edge of the budget are labelled."""
    expected = {
        "jump κ",
        "share of samples right",
        "clean accuracy",
        "worst case",
        "native gradients alone (overstates)",
        "chosen: 0.25",
        "largest inside the budget: 0.75",
        "outside the budget",
    }
    assert expected <= set(drawn(document()))
    assert "quantile q of positive pre-activations" in drawn(document(scale="quantile"))


def test_the_plot_of_the_papers_objective_is_no_other() -> None:
    """The curves are of all attacks and of native gradients, whatever the choice rests on."""
    assert drawn(document()) == drawn(paper())


def test_nothing_is_outside_where_all_strengths_are_inside() -> None:
    """No region is shaded where the curve ends inside the budget."""
    found = drawn(document(curve=CURVE[:2]))
    assert "largest inside the budget: 0.25" in found
    assert "outside the budget" not in found


def points_of(svg: str) -> list[list[float]]:
    """Return the heights, in units of the plot, of all lines that have as many points as CURVE."""
    paths = re.findall(r'<path d="([^"]*)" clip-path', svg)
    numbers = [re.findall(r"[ML] ([\d.]+) ([\d.]+)", path) for path in paths]
    return [[float(y) for _, y in found] for found in numbers if len(found) == len(CURVE)]


def curve_part(one: Document, key: str) -> Document:
    """Return a record of a point that is drawn."""
    found: Document = one["clean"] if key == "clean" else one["common"][key]
    return found


@pytest.mark.parametrize("key", ["clean", "worst", "native"])
def test_curves_are_drawn_from_their_points(key: str) -> None:
    """The curves are drawn to one scale: each share is at its height."""
    field = "accuracy" if key == "clean" else "robust_accuracy"
    found = points_of(trade_off(CURVE, Marks(x="jump")))
    low, high = found[0][0], found[0][-1]
    scale = (high - low) / (CURVE[-1]["clean"]["accuracy"] - CURVE[0]["clean"]["accuracy"])
    shares = [curve_part(one, key)[field] for one in CURVE]
    expected = [low + scale * (one - CURVE[0]["clean"]["accuracy"]) for one in shares]
    assert any(line == pytest.approx(expected, abs=0.01) for line in found)


def test_bands_are_drawn_from_their_intervals() -> None:
    """An interval that changes moves a band, of each of the three curves."""
    before = trade_off(CURVE, Marks(x="jump"))
    for key in ("clean", "worst", "native"):
        other = copy.deepcopy(CURVE)
        curve_part(other[2], key)["ci95"][0] -= 0.1
        assert before != trade_off(other, Marks(x="jump")), key


def test_the_race_is_not_drawn() -> None:
    """What points were measured on beyond the samples they have in common moves no curve."""
    other = [one | {"robust": share(0.05), "attacked": 7, "difference": None} for one in CURVE]
    assert trade_off(CURVE, Marks(x="jump")) == trade_off(other, Marks(x="jump"))


def test_curves_differ_without_colour() -> None:
    """A curve is dashed, its band dotted; there are three markers, and some are open."""
    svg = trade_off(CURVE, Marks(x="jump"))
    assert len(set(re.findall(r"stroke-dasharray: [\d.,]+", svg))) >= 2
    markers = set(re.findall(r"<path id=\"[^\"]*\" d=\"([^\"]*)\"", svg.split("</defs>", 1)[1]))
    assert len(markers) >= 3
    assert "var(--page)" in svg


def test_the_plot_takes_its_colours_from_the_page() -> None:
    """No colour is fixed, so that the page can be dark."""
    svg = calibration._plot(document())["narrow"]
    assert re.search(r"#[0-9a-f]{6}\b", svg) is None
    assert {"var(--hardened)", "var(--baseline)", "currentColor"} <= set(
        re.findall(r"var\(--\w+\)|currentColor", svg)
    )
