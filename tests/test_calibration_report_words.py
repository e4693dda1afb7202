"""What the HTML report of a calibration tells in words and tables."""

from typing import Any

import pytest
from calibration_documents import (
    CURVE,
    GAIN,
    LOSS,
    NO_GAIN,
    by_channel,
    document,
    paper,
    shown,
    without_gain,
    worse,
    write_out_plots,
)

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from onnxfit.report.calibration import render_calibration


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write out what the plot would show in place of drawing it, which takes long."""
    write_out_plots(monkeypatch)


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
def test_the_race_is_told() -> None:
    """Each heat has its samples and who was left; the winner need not be the choice."""
    page = shown(document())
    assert "1 64 0.25, 0.5 2 200 0.5 choice 200 0.25 ◆ chosen" in page
    assert "compared under all attacks with the smallest that raced" in page
    assert "all attacks with the smallest" not in shown(document(objective="paper"))
