"""The part of the report on what the jump of each site buys and costs."""

import math
import re
from typing import Any

import pytest
from calibration_documents import (
    BUYS,
    BUYS_MORE,
    COSTS,
    NOISE,
    Document,
    change,
    document,
    effect,
    refined,
    shown,
    write_out_plots,
)

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from onnxfit.report import attribution
from onnxfit.report.calibration import render_calibration


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write out what the plot would show in place of drawing it, which takes long."""
    write_out_plots(monkeypatch)


@pytest.mark.usefixtures("words")
def test_what_a_site_does_is_shown_where_it_is_known() -> None:
    """An attribution adds what a jump at each site alone buys and costs, and its strength."""
    page = shown(refined())
    assert "Buys alone: smooth gates Costs alone: clean accuracy" in page
    assert (
        "/relu/output 0.25 0.25 3.4 % 0.6573 0.96 −3.1 points −6.1 to −0.2 p = 0.001 "
        "0.0 points −0.3 to +0.3 p = 0.75"
    ) in page
    assert (
        "/head/output 0.75 refined 0.25 4.2 % 1.781 2.26 +5.1 points +1.1 to +9.2 p = 0.001" in page
    )
    assert "at κ = 0.75: the largest that the budget allows for all sites together" in page
    other = refined()
    other["sites"][0]["attribution"] = None
    assert "0.96 – – – –" in shown(other)
    assert "alone: worst case" not in shown(document())


@pytest.mark.usefixtures("words")
def test_the_refinement_is_told() -> None:
    """How many changes were tried and taken, on what; and that the curve is from before."""
    page = shown(refined())
    assert "3 changes were tried, one site at a time, on 128 attacked samples; 1 taken." in page
    assert (
        "κ = 0.25 for all sites, of 10 candidates: the strengths up to the edge of the budget, and "
        "each of them refined."
    ) in page
    assert "the trade-off below is from before that" in page
    none = {"edge": 0.75, "judged_on": 128, "tried": 1, "taken": 0}
    page = shown(refined(refinement=none))
    assert "1 change of a single site was tried, one site at a time" in page
    agreed = (
        "Those taken stay only if under all attacks more of all attacked samples stay right, these "
        "among them. All sites"
    )
    assert f"; none taken. {agreed}" in page
    assert "before the refinement" not in page
    assert "one site at a time" not in shown(document(refinement=None))


@pytest.mark.parametrize(
    ("alone", "expected"),
    [
        ((NOISE, NOISE), ["No site's effect is beyond noise."]),
        (((effect(0.05, 0.01, 0.09, 128, 0.025), NOISE[1]), NOISE), [attribution.NO_EFFECT]),
        (
            (BUYS, NOISE),
            [
                "1 of 2 sites buys robustness under smooth gates beyond noise: /relu/output (+5.0 "
                "points, 95 % interval +1.0 to +9.0).",
                "No site costs clean accuracy beyond noise.",
            ],
        ),
        (
            (BUYS, BUYS_MORE),
            [
                "2 of 2 sites buy robustness under smooth gates beyond noise, most of all "
                "/head/output (+7.0 points, 95 % interval +2.0 to +12.0).",
                "No site costs clean accuracy beyond noise.",
                "1 of 2 sites raises clean accuracy beyond noise: /head/output (+0.4 points, 95 % "
                "interval +0.1 to +0.7).",
            ],
        ),
        (
            (NOISE, COSTS),
            [
                "No site buys robustness under smooth gates beyond noise.",
                "1 of 2 sites costs robustness under smooth gates beyond noise: /head/output "
                "(−8.0 points, 95 % interval −12.0 to −4.0).",
                "1 of 2 sites costs clean accuracy beyond noise: /head/output (−0.6 points, 95 % "
                "interval −0.9 to −0.3).",
            ],
        ),
    ],
)
def test_only_effects_beyond_noise_are_told(alone: Any, expected: list[str]) -> None:
    """A site is named only if that is beyond the noise of all; of several, who does most."""
    assert expected == [str(found) for found in attribution.sentences(refined(*alone))]


def test_effects_of_native_gradients_are_labelled() -> None:
    """With the objective of the paper, what a site buys is said to be of native gradients."""
    found = attribution.sentences(refined(BUYS, NOISE, objective="paper"))
    words = "1 of 2 sites buys robustness under native gradients alone beyond noise: /relu/output"
    assert words in str(found[0])
    assert [] == attribution.sentences(document())


def test_sites_are_drawn_by_what_they_buy() -> None:
    """Those that buy most come first, those of which nothing is known last."""
    result = refined(COSTS, BUYS_MORE)
    result["sites"].append({"name": "/last", "attribution": {"robust": {"difference": None}}})
    result["sites"].append({"name": "/noise", "attribution": {"robust": NOISE[0]}})
    rows = attribution.plot(result["sites"])["rows"]
    assert ["/head/output", "/noise", "/relu/output", "/last"] == [row["name"] for row in rows]
    assert [True, False, True] == [row["marks"]["robust"]["beyond"] for row in rows[:3]]
    assert {"robust": {}, "clean": {}} == rows[-1]["marks"]


def test_an_axis_is_to_scale() -> None:
    """Differences, their intervals and the labels in points have their places on one line."""
    axis = attribution.axis([change(0.02, -0.04, 0.06, 9), change(-0.01, -0.03, 0.02, 9)])
    assert ["−4", "−2", "0", "+2", "+4", "+6"] == [label for _, label in axis.ticks]
    at = {label: place for place, label in axis.ticks}
    placed = axis.place(change(0.02, -0.04, 0.06, 9))
    assert {"at": at["+2"], "low": at["−4"], "high": at["+6"]} == placed
    assert {} == axis.place({"difference": math.nan})


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], ["−1", "−0.5", "0", "+0.5", "+1"]),
        ([{}, {"difference": None, "ci95": None}], ["−1", "−0.5", "0", "+0.5", "+1"]),
        ([change(0.11, 0.05, 0.17, 9)], ["0", "+5", "+10", "+15"]),
        ([change(-0.0011, -0.0042, -0.0002, 9)], ["−0.4", "−0.3", "−0.2", "−0.1", "0"]),
        ([{"difference": 1e308, "ci95": [-1e308, math.inf]}], ["−100", "−50", "0", "+50", "+100"]),
    ],
)
def test_an_axis_has_few_labels(records: list[Document], expected: list[str]) -> None:
    """They are round numbers, and 0 is always one of them."""
    assert expected == [label for _, label in attribution.axis(records).ticks]


@pytest.mark.usefixtures("words")
def test_effects_differ_without_colour() -> None:
    """Circles and squares stand in columns of their own, open where noise may explain them."""
    page = render_calibration(refined())
    rows = re.findall(r'<div class="effect row">.*?</div>\s*</div>', page, re.DOTALL)
    assert ["/head/output", "/relu/output"] == re.findall(r"(/\w+/output)</span>", "".join(rows))
    assert [1, 1] == [row.count("<circle") for row in rows]
    assert [1, 1] == [row.count("<rect") for row in rows]
    assert [0, 1] == [row.count(" noise") for row in rows]
    assert [2, 2] == [row.count('class="zero"') for row in rows]
