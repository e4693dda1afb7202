"""What ``calibrate`` shows: its HTML report, the plot in it, and its tables for a terminal."""

import copy
import math
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
from html_page import Page

pytest.importorskip("jinja2")
matplotlib = pytest.importorskip("matplotlib")

from onnxfit.report import attribution, calibration  # noqa: E402 - after the packages it needs
from onnxfit.report.calibration import jump_text, render_calibration  # noqa: E402
from onnxfit.report.calibration_terminal import (  # noqa: E402
    curve,
    lines,
    print_calibration,
    sites,
)
from onnxfit.report.trade_off import Marks, trade_off  # noqa: E402

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
            "only_after": 31,
            "only_before": 11,
            "p_value": 0.0021,
            "candidates": 10,
            "clean_accuracy": -0.0011,
            "clean_ci95": [-0.0042, 0.0023],
            "drop_limit": 0.0071,
        },
        "curve": copy.deepcopy(CURVE),
        "race": [{"samples": 64, "left": [0.25, 0.5]}, {"samples": 128, "left": [0.25]}],
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
        (change(-0.0312, -0.0613, -0.0021, 128), change(0.0, -0.0031, 0.0032, 1300)),
        (change(0.0513, 0.0114, 0.0915, 128), change(-0.0123, -0.0208, -0.0042, 1300)),
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


DOCUMENTS = {
    "gain": document(),
    "no gain": without_gain(),
    "worse": worse(),
    "channels": by_channel(),
    "paper": paper(),
    "refined": refined(),
    "unwritten": without_gain() | {"output": None},
    "empty": {},
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """Render all calibrations once."""
    return {name: render_calibration(result) for name, result in DOCUMENTS.items()}


@pytest.fixture(params=DOCUMENTS)
def text(request: pytest.FixtureRequest, rendered: dict[str, str]) -> str:
    """Return one of several pages."""
    return rendered[request.param]


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write out what the plot would show in place of drawing it, which takes long."""
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


def test_the_page_is_well_formed(text: str) -> None:
    """Every tag is closed in its turn; ids are unique, and links lead somewhere."""
    page = Page(text, CELLS)
    assert [] == page.wrong
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [target for target in page.values("href") if target.startswith("#")]
    assert {target.removeprefix("#") for target in links} <= set(ids)


def test_the_page_needs_nothing_else(text: str) -> None:
    """No script runs, nothing is loaded, and no address of another machine stands in it."""
    page = Page(text, CELLS)
    assert {"script", "iframe", "object", "embed", "base"}.isdisjoint(tag for tag, _ in page.tags)
    assert [] == [name for _, found in page.tags for name in found if name.startswith("on")]
    assert [] == re.findall(r"https?:|@import", text)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text


def test_the_page_can_be_read_aloud(text: str) -> None:
    """The language is given, headers of tables have a scope, drawings are hidden or have words."""
    page = Page(text, CELLS)
    assert ["en"] == page.values("lang")
    tags = [tag for tag, _ in page.tags]
    assert 1 == tags.count("h1") == tags.count("title") == tags.count("main")
    assert all(found.get("scope") for tag, found in page.tags if tag == "th")
    assert all(found.get("aria-hidden") == "true" for tag, found in page.tags if tag == "svg")


def test_the_same_document_gives_the_same_bytes(rendered: dict[str, str]) -> None:
    """Rendering again gives the same page, whatever matplotlib is set to."""
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "font.size": 20}):
        assert rendered["gain"] == render_calibration(document())


@pytest.mark.usefixtures("words")
def test_the_verdict_says_no_more_than_the_headline() -> None:
    """A gain, none and a loss are told apart by a word above the headline."""
    assert f"More robust {GAIN}" in shown(document())
    assert f"No gain shown {NO_GAIN}" in shown(without_gain())
    assert f"Less robust {LOSS}" in shown(worse())
    assert "Less robust" not in shown(without_gain())


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize("made", [without_gain, worse])
def test_more_robust_is_said_only_of_a_gain(made: Any) -> None:
    """Where there is no gain, only a headline that denies it holds these words."""
    page = shown(made() | {"headline": "-"})
    assert "more robust" not in page.lower()
    assert "No gain is shown on these samples" in page
    assert "No gain is shown" not in shown(document())


@pytest.mark.usefixtures("words")
def test_what_was_asked_is_told() -> None:
    """Budget, reach, samples, scale, objective and choice stand in words."""
    page = shown(document(quantize=True))
    assert "drop by at most 1 % of the samples" in page
    assert "with 95 % confidence, one-sided and paired" in page
    assert "eps 0.1 in ℓ∞, pixels from 0 to 1, adversarial inputs stored in 8 bits." in page
    assert "1,300 for clean accuracy; up to 200 of them were attacked" in page
    assert "shared: the same jump κ at every site" in page
    assert "worst case: keep most samples right under all attacks" in page
    assert "κ = 0.25 , of 10 candidates" in page.replace("0.25,", "0.25 ,")


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize(
    ("scale", "sentence", "letter"),
    [
        ("quantile", "the jump of a site is the q-quantile of its positive pre-activations", "q"),
        ("channel", "the jump of a channel is the q-quantile of its own positive", "q"),
    ],
)
def test_scales_are_told_in_words(scale: str, sentence: str, letter: str) -> None:
    """A reader learns what the strength is a strength of."""
    page = shown(document(scale=scale))
    assert sentence in page
    assert f"{letter} = 0.25" in page
    assert "quantile q of positive pre-activations" in page


@pytest.mark.usefixtures("words")
def test_the_papers_objective_is_labelled() -> None:
    """A choice by native gradients is said to overstate; only what the race saw is of them."""
    note = "The choice rests on native gradients alone."
    page = shown(paper())
    assert note in page
    words = "The worst case in the curve and the figures before and after are nevertheless of all"
    assert words in page
    assert note not in shown(document())
    assert "In the race, native gradients alone" in page
    assert "Budget Worst case Native gradients alone (overstates) Samples attacked Right" in page
    assert "In the race, smooth gates" in shown(document())
    assert "Worst case Hardened 51.2 %" in page


@pytest.mark.usefixtures("words")
def test_the_curve_is_a_table_too() -> None:
    """Every point has its row; the chosen one and the network before hardening are marked."""
    page = shown(document())
    assert (
        "0.25 ◆ chosen 99.1 % 97.6–99.8 % 0.71 points ✓ inside 48.1 % 44.0–52.0 % "
        "71.2 % 67.1–75.1 % 200 51.2 % 47.1–55.1 % +10.1 points +2.8 to +17.4 0.5" in page
    )
    assert (
        "points ✗ outside 44.2 % 40.1–48.1 % 67.3 % 63.2–71.2 % "
        "64 47.3 % 43.2–51.2 % +6.2 points −1.1 to +13.5 0.75" in page
    )
    assert "0 before 99.1 %" in page
    assert 1 == render_calibration(document()).count('<tr class="chosen">')


@pytest.mark.usefixtures("words")
def test_how_many_samples_a_point_has_is_told() -> None:
    """The caption says what the curves are of; the table also what the race is of."""
    page = shown(document())
    assert "are of the same samples, the first 64, at every point" in page
    assert "The race went on to more samples, 64 to 200 a point" in page
    assert "Clean accuracy: all 1,300 samples." in page
    assert "Without attack, all 1,300 samples First 64 samples attacked In the race" in page
    assert "The race went on" not in shown(document(curve=CURVE[2:]))
    other = document()
    other["curve"][1]["difference"]["n"] = 199
    assert "+2.8 to +17.4 of 199" in shown(other)


@pytest.mark.usefixtures("words")
def test_before_and_after_are_compared() -> None:
    """Figures with intervals, the paired difference, and its test after Bonferroni."""
    page = shown(document())
    assert "Hardened 51.2 % 47.1–55.1 % Before 41.1 % 37.0–45.0 %" in page
    search = "95 % interval, not corrected for the search:"
    assert (
        f"Difference −0.1 points {search} −0.4 to +0.2 Drop at most 0.71 points (95 % confidence)"
        in page
    )
    assert f"+10.1 points {search} +6.0 to +14.0" in page
    assert "with its 95 % interval, not corrected for the search." in page
    assert "p = 0.0021 . The best of several" in page.replace("0.0021.", "0.0021 .")
    assert "after Bonferroni over 10: p = 0.021, which counts below 0.05." in page
    assert "only when hardened: 31; only before: 11." in page


@pytest.mark.usefixtures("words")
def test_sites_are_listed() -> None:
    """A site has its jump or the range of its channels', and what is known of its inputs."""
    assert "/relu/output 0.25 3.4 % 0.6573 0.96" in shown(document())
    page = shown(by_channel())
    assert "/relu/output 0.125 to 0.5 of 3 channels 3.4 %" in page
    assert "/head/output 0.25 to 0.75 of 2 channels 4.2 %" in page
    assert "without its jump" not in page


@pytest.mark.usefixtures("words")
def test_what_a_site_does_is_shown_where_it_is_known() -> None:
    """An attribution adds what a jump at each site alone buys and costs, and its strength."""
    page = shown(refined())
    assert "Buys alone: smooth gates Costs alone: clean accuracy" in page
    assert (
        "/relu/output 0.25 0.25 3.4 % 0.6573 0.96 −3.1 points −6.1 to −0.2 0.0 points −0.3 to +0.3"
    ) in page
    assert "/head/output 0.75 refined 0.25 4.2 % 1.781 2.26 +5.1 points +1.1 to +9.2" in page
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
    assert "κ = 0.25 for all sites, of 10 candidates, those of the refinement among them." in page
    assert "the trade-off below is from before that" in page
    none = {"edge": 0.75, "judged_on": 128, "tried": 1, "taken": 0}
    page = shown(refined(refinement=none))
    assert "1 change of a single site was tried, one site at a time" in page
    assert "; none taken. Those taken stay only if all attacked samples agree. All sites" in page
    assert "before the refinement" not in page
    assert "one site at a time" not in shown(document(refinement=None))


NOISE = change(0.01, -0.02, 0.04, 128), change(-0.001, -0.004, 0.002, 1300)
BUYS = change(0.05, 0.01, 0.09, 128), NOISE[1]
BUYS_MORE = change(0.07, 0.02, 0.12, 128), change(0.004, 0.001, 0.007, 1300)
COSTS = change(-0.08, -0.12, -0.04, 128), change(-0.006, -0.009, -0.003, 1300)


@pytest.mark.parametrize(
    ("alone", "expected"),
    [
        ((NOISE, NOISE), ["No site's effect is beyond noise."]),
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
    """A site is named only if its interval excludes 0; of several, the one that does most."""
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
    assert {"at": at["+2"], "low": at["−4"], "high": at["+6"], "beyond": False} == placed
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


@pytest.mark.parametrize(
    ("jump", "expected"),
    [
        (0.25, "0.25"),
        ([0.5], "0.5"),
        ([[[0.5]], [[None]], [[0.25]]], "0.25 to 0.5 of 2 channels"),
        ([], "–"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_how_a_jump_is_written(jump: Any, expected: str) -> None:
    """A number as it is, an array as its range; nothing is a dash."""
    assert expected == jump_text(jump)


@pytest.mark.usefixtures("words")
def test_the_race_is_told() -> None:
    """Each heat has its samples and who was left; the last one the choice."""
    page = shown(document())
    assert "1 64 0.25, 0.5 2 128 0.25 last 200 0.25 ◆ chosen" in page
    assert "There was one heat, on all attacked samples." in shown(document(race=[]))


@pytest.mark.usefixtures("words")
def test_the_next_commands_are_exact() -> None:
    """They name the files, quoted for a shell, and what was not the default."""
    page = shown(document(quantize=True, eps=8 / 255))
    assert (
        "onnxfit verify 'build/a model.jump.onnx' --data TEST_DATA --baseline 'build/a model.onnx' "
        "--eps 8/255 --norm linf --quantize --mean=0.1307 --std=0.3081 --max-drop 0.01 "
        "--report verified" in page
    )
    named = shown(document(output="out/hard.onnx"))
    assert "onnxfit restore out/hard.onnx" in named
    assert "The commands name the hardened file as" not in named


@pytest.mark.usefixtures("words")
def test_no_command_names_a_file_that_was_not_written() -> None:
    """Where no model was written, the next steps are others."""
    page = shown(without_gain() | {"output": None})
    assert "No model was written: no gain is shown on these samples" in page
    assert "onnxfit verify" not in page
    assert "Try --scale quantile" in page
    assert "Try --refine" in page
    page = shown(refined(scale="quantile", output=None))
    assert "Try" not in page
    assert "No model was written" not in shown(without_gain())


def test_verify_takes_the_command() -> None:
    """Its options are those of ``onnxfit verify``."""
    from onnxfit.cli_verify import verify

    words = calibration._commands(document(quantize=True))["verify"].split()
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    assert options <= {option for one in verify.params for option in one.opts}


@pytest.mark.usefixtures("words")
def test_warnings_and_environment_are_shown() -> None:
    """What was warned of stands on top, what ran below."""
    page = shown(document())
    assert "Warning The model ends in a Softmax." in page
    assert "torch 2.13.0" in page
    assert "✓ agree" in page
    assert "Warning" not in shown(document(warnings=[]))


@pytest.mark.usefixtures("words")
def test_names_cannot_write_into_the_page() -> None:
    """Names and sentences of the document are escaped wherever they stand."""
    evil = "<script>alert('x')</script>\"'&"
    result = document(headline=evil, scale=evil, objective=evil, norm=evil, warnings=[evil])
    result["model"]["path"] = result["data"]["path"] = result["output"] = evil
    result["sites"] = refined(BUYS, COSTS)["sites"]
    result["sites"][0]["name"] = result["sites"][0]["jump"] = evil
    result["refinement"] = dict.fromkeys(("edge", "judged_on", "tried", "taken"), evil)
    result["environment"] |= {evil: evil}
    result["curve"][0] |= {"strength": evil, "clean": {"accuracy": evil}, "attacked": evil}
    page = Page(render_calibration(result), CELLS)
    assert [] == page.wrong
    assert "script" not in [tag for tag, _ in page.tags]
    assert evil in page.text


def test_names_cannot_write_into_the_plot() -> None:
    """A label of an axis is escaped, and is no formula."""
    svg = trade_off(CURVE, Marks(x="a <b> $x^2$"))
    assert ">a &lt;b&gt; $x^2$</text>" in svg


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize("missing", [None, "gone"])
def test_parts_may_be_missing(missing: str | None) -> None:
    """Any part of the document can be None or absent."""
    for key in refined():
        result = refined(**{key: None})
        if missing == "gone":
            del result[key]
        page = Page(render_calibration(result), CELLS)
        assert [] == page.wrong, key
        assert re.search(r"\b(None|nan)\b", page.text.partition("What was asked")[0]) is None, key


def test_numbers_that_are_none_are_dashes() -> None:
    """NaN, None and infinities are dashes in the tables and gaps in the plot."""
    nothing = {"robust_accuracy": math.nan, "ci95": [None, math.inf]}
    result = document(after={"clean": None, **nothing}, strength=None)
    result["curve"][1] |= {"robust": nothing, "clean": None, "drop_limit": math.nan}
    result["curve"][1] |= {"common": {"worst": nothing, "native": None}, "difference": None}
    result["curve"][2] |= {"common": None, "inside": None, "attacked": None}
    result["curve"][3] = None
    page = shown(result)
    assert "0.25 – – – ✓ inside – – – – 200 – – – –" in page
    assert re.search(r"\b(nan|inf|None)\b", page) is None


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


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where the numbers, words and truth values of a document are."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in inner:
        if isinstance(below, dict | list):
            yield from leaves(below, (*path, key))
        else:
            yield (*path, key)


def changed(value: Any) -> Any:
    """Change a value by as little as must be seen."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.25 + 0.01 if isinstance(value, float) else f"{value}x"


@pytest.mark.parametrize("made", [document, refined])
def test_all_that_is_shown_comes_from_the_document(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is changed in the document changes the page, without its plot."""
    monkeypatch.setattr(calibration, "trade_off", lambda *drawn, narrow: "")
    result = made()
    original, unseen = render_calibration(result), []
    for path in leaves(result):
        other = copy.deepcopy(result)
        *parents, last = path
        target: Any = other
        for key in parents:
            target = target[key]
        target[last] = changed(target[last])
        if render_calibration(other) == original:
            unseen.append(path)
    assert [] == unseen


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Jinja the report is a ModuleNotFoundError that names it."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    calibration._template.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="jinja2"):
        render_calibration(document(curve=[]))


def test_templates_are_found_in_the_package() -> None:
    """Every template that a page extends or includes lies beside it, where wheels take it from."""
    folder = Path(calibration.__file__).parent
    for template in folder.glob("*.jinja"):
        source = template.read_text(encoding="utf-8")
        for name in re.findall(r"{% (?:extends|from|include|import) \"([^\"]*)\"", source):
            assert (folder / name).is_file(), (template.name, name)


def test_the_terminal_has_the_curve() -> None:
    """A row per strength; the chosen one says so in the column of the budget."""
    rows = curve(document())
    header = ["jump", "clean", "drop\nlimit", "budget", "worst\nfirst 64", "native\nfirst 64"]
    assert [*header, "attacked", "difference\nto before"] == rows[0]
    expected = ["0.25", "99.11%", "0.71%", "chosen", "48.11%", "71.23%", "200"]
    assert [*expected, "+10.1 (+2.8 to +17.4)"] == rows[2]
    assert ["inside", "chosen", "outside", "inside", "outside"] == [row[3] for row in rows[1:]]
    assert "quantile" == curve(by_channel())[0][0]
    assert ["worst", "native"] == curve({"curve": [{"strength": 0.5}]})[0][4:6]


def test_the_terminal_has_the_curve_of_the_papers_objective() -> None:
    """Its columns are the same; what the difference is of is told in words."""
    assert curve(document()) == curve(paper())
    words = "in points; 95 % interval, not corrected for the search"
    assert [
        "samples    worst and native: the same first 64 in every row; difference: all attacked",
        f"difference by native gradients alone, {words}",
    ] == lines(paper())[:2]
    assert f"difference by smooth gates, {words}" == lines(document())[1]
    assert [] == lines({})


def test_the_curve_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """With cells as wide as they get, the table has at most 100 columns."""
    wide = point(0.99552, 1.0, 0.1234, 0.1, 1024) | {"difference": change(-0.201, -0.3, 0.2, 1024)}
    result = document(scale="quantile", curve=[wide], sites=[])
    print_calibration(result | {"headline": "-", "warnings": []})
    printed = capsys.readouterr().out
    assert "−20.1 (−30.0 to +20.0)" in printed
    assert 100 >= max(map(len, printed.splitlines()))


def test_the_terminal_has_the_sites_and_the_test() -> None:
    """Jumps with what they zero; budget, p-value and warnings in words."""
    assert ["/relu/output", "0.125 to 0.5 of 3 channels", "3.36%"] == sites(by_channel())[1]
    assert [
        "budget     a drop of at most 0.01, with 0.95 confidence",
        "test       p = 0.0021, after Bonferroni over 10 candidates 0.021",
        "warning    The model ends in a Softmax.",
    ] == lines(document())[2:]


def test_the_terminal_has_what_sites_do() -> None:
    """A refined calibration adds strength, what is bought and what it costs, and words."""
    result = refined()
    result["sites"][0]["attribution"]["clean"] = {"difference": None, "ci95": None}
    rows = sites(result)
    header = ["strength", "buys alone, points (smooth gates)", "costs alone, points"]
    assert header == rows[0][3:]
    assert ["0.25", "−3.1 (−6.1 to −0.2)", "–"] == rows[1][3:]
    assert ["0.75", "+5.1 (+1.1 to +9.2)", "−1.2 (−2.1 to −0.4)"] == rows[2][3:]
    assert [
        "refined    3 changes were tried, one site at a time, on 128 attacked samples; 1 taken.",
        "alone      1 of 2 sites buys robustness under smooth gates beyond noise: /head/output "
        "(+5.1 points, 95 % interval +1.1 to +9.2).",
    ] == lines(result)[4:6]
    header = sites(refined(objective="paper"))[0]
    assert "buys alone, points (native gradients alone)" == header[4]


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The headline comes first, then the tables, then the words; no cursor is moved."""
    result = document(headline=f"{NO_GAIN}\x1b[2J")
    result["curve"][0] |= {"clean": None, "drop_limit": None, "difference": None}
    result["curve"][0]["common"] |= {"worst": None, "native": None}
    print_calibration(result)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{NO_GAIN}\\x1b[2J\n")
    assert "\x1b" not in printed
    places = [printed.index(word) for word in ("first 64", "/head/output", "budget     a drop")]
    assert sorted(places) == places
    assert re.search(r"^ +0 +– +– +inside +– +– +200 +– *$", printed, re.MULTILINE)
