"""What calibration.json says follows from what was measured, and the headline says no more."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxfit.calibration.activations import SiteStatistics
from onnxfit.calibration.document import Findings, Point, describe, of_sites, summary, warnings
from onnxfit.calibration.histogram import Histogram
from onnxfit.calibration.refinement import Attribution, Refined
from onnxfit.calibration.scales import Jump
from onnxfit.calibration.selection import Budget, Mask
from onnxfit.calibration.settings import Settings
from onnxfit.data import Dataset
from onnxfit.data_sources import Source
from onnxfit.json_values import finite
from onnxfit.verification.statistics import mcnemar, paired_difference, wilson

N, ATTACKED = 1000, 200
FIGURES = re.compile(
    r"([\d.]+) % of (\d+) samples stay right in the worst case, against ([\d.]+) % before: "
    r"([+−][\d.]+) points \(95 % interval ([+−][\d.]+) to ([+−][\d.]+), not corrected for "
    r"the search\); clean accuracy changes by ([+−][\d.]+) points\.$"
)
MORE = "The model is more robust at "
LESS = "The best jump found makes the model less robust at "
NEITHER = "The best jump found does not make the model more robust beyond noise at "


def right(count: int, n: int, first: int = 0) -> Mask:
    """Return n booleans of which so many are true, from a place on."""
    return (np.arange(n) >= first) & (np.arange(n) < first + count)


def findings(only_after: int, only_before: int, candidates: int = 1, lost: int = 3) -> Findings:
    """Return findings with so many samples robust only after hardening, or only before."""
    weak, strong = right(50 + only_before, ATTACKED), right(50, ATTACKED)
    strong |= right(only_after, ATTACKED, first=50 + only_before)
    clean = right(900, N)
    curve = [
        Point(strength=0.0, clean=clean, robust=weak, worst=weak[:64], native=weak[:64]),
        Point(
            strength=0.25,
            clean=right(900 - lost, N),
            robust=strong,
            worst=right(40, 64),
            native=right(60, 64),
        ),
        Point(
            strength=0.5,
            clean=right(800, N),
            robust=strong[:64],
            worst=right(10, 64),
            native=right(64, 64),
        ),
    ]
    return Findings(
        curve=curve,
        chosen=1,
        candidate=0.25,
        candidates=candidates,
        clean=curve[1].clean,
        worst=(weak, strong),
        heats=[(64, [0.25, 0.5]), (200, (0.25,))],
    )


def dataset() -> Dataset:
    """Return samples that are never read."""
    source = Source(
        files=(),
        shape=(1, 2, 2),
        labels=np.zeros(N, np.int64),
        read=lambda size: iter(()),
        sha256="d1",
    )
    return Dataset(path=Path("some.npz"), bounds=(0.0, 1.0), source=source)


def described(found: Findings, **settings: Any) -> dict[str, Any]:
    """Describe findings of a model that there is not."""
    record = {"path": Path("model.onnx"), "sha256": "a1", "sites": 2}
    plain: Any = SimpleNamespace(record=lambda: record, device="cpu")
    return describe(found, plain, dataset(), Settings(**settings))


def site(name: str, median: float) -> SiteStatistics:
    """Return the statistics of a site with three pre-activations."""
    overall = Histogram()
    overall.add(np.array([median / 2, median, 2 * median], np.float32))
    return SiteStatistics(name=name, n=3, channels=1, shape=None, overall=overall, by_channel=None)


def sites(**medians: float) -> list[dict[str, Any]]:
    """Return records of sites with these medians."""
    return [{"name": name, "median": median} for name, median in medians.items()]


def number(text: str) -> float:
    """Read a number as the headline writes it."""
    return float(text.replace("−", "-"))


@pytest.mark.parametrize(
    ("only_after", "only_before", "candidates", "improves"),
    [
        (30, 2, 1, True),
        (30, 2, 20, True),
        (6, 0, 1, True),  # p = .031
        (6, 0, 2, False),
        (5, 0, 1, False),  # p = .0625, while the interval lies above 0
        (12, 1, 14, True),  # p = .0034
        (12, 1, 15, False),
        (15, 5, 1, True),  # p = .041
        (14, 5, 1, False),  # p = .064
        (0, 0, 1, False),
        (10, 10, 1, False),
        (2, 30, 1, False),
        (0, 6, 1, False),
    ],
)
def test_it_improves_only_beyond_the_noise_of_all_candidates(
    only_after: int, only_before: int, candidates: int, *, improves: bool
) -> None:
    """Where the interval lies above 0 and Bonferroni's p-value is below 5 %, and only there."""
    document = described(findings(only_after, only_before, candidates))
    low = paired_difference(only_after, only_before, ATTACKED)[0]
    p_value = mcnemar(only_after, only_before)
    assert improves == (low > 0 and candidates * p_value < 0.05)
    assert improves is document["improves"]
    assert improves == document["headline"].startswith(MORE)
    assert improves == ("more robust at" in document["headline"])


@pytest.mark.parametrize(
    ("only_after", "only_before", "candidates", "beginning"),
    [
        (2, 30, 1, LESS),
        (0, 20, 1000, LESS),
        (0, 6, 1, LESS),
        (0, 5, 1, NEITHER),
        (5, 14, 1, NEITHER),
        (5, 15, 1, LESS),
        (0, 0, 1, NEITHER),
        (5, 0, 1, NEITHER),
        (6, 0, 1, MORE),
        (6, 0, 2, NEITHER),
    ],
)
def test_it_is_called_less_robust_only_where_that_is_significant(
    only_after: int, only_before: int, candidates: int, beginning: str
) -> None:
    """The interval lies below 0 and the test rejects; else nothing is claimed."""
    headline = described(findings(only_after, only_before, candidates))["headline"]
    assert headline.startswith(beginning)
    assert ("less" in headline) == (beginning == LESS)


@pytest.mark.parametrize("counts", [(30, 2), (2, 30), (0, 0), (7, 8)])
def test_the_figures_of_the_headline_are_those_of_the_data(counts: tuple[int, int]) -> None:
    """To a tenth of a percent, each of them."""
    found = findings(*counts, lost=7)
    match = FIGURES.search(described(found)["headline"])
    assert match is not None
    weak, strong = (int(mask.sum()) for mask in found.worst)
    low, high = paired_difference(*counts, ATTACKED)
    shares = (strong / ATTACKED, ATTACKED / 100, weak / ATTACKED, (strong - weak) / ATTACKED)
    expected = [100 * share for share in (*shares, low, high, -7 / N)]
    assert expected == pytest.approx([number(text) for text in match.groups()], abs=0.0501)


def test_the_headline_says_how_far_the_attacker_may_go() -> None:
    """The whole sentence, once."""
    expected = (
        "The model is more robust at eps 0.1 (ℓ2, pixels from 0 to 1): 40.0 % of 200 samples stay "
        "right in the worst case, against 26.0 % before: +14.0 points (95 % interval +9.2 to "
        "+19.8, not corrected for the search); clean accuracy changes by −0.3 points."
    )
    assert expected == described(findings(30, 2), eps=0.1, norm="l2")["headline"]


def test_the_headline_says_where_the_smallest_jump_was_chosen() -> None:
    """Then smaller is better, and this jump nothing special; nothing else changes."""
    plain, smallest = (
        described(replace(findings(2, 2), smallest=smallest)) for smallest in (False, True)
    )
    added = " It is the smallest jump tried: all that the choice says is that smaller is better."
    assert plain["headline"] + added == smallest["headline"]
    assert {**plain, "headline": ""} == {**smallest, "headline": ""}


def test_a_change_that_rounds_to_nothing_has_no_minus() -> None:
    """0.0 is written with a plus, though one of 10,000 samples is lost."""
    found = findings(3, 3)
    curve = [replace(point, clean=right(9000, 10_000)) for point in found.curve]
    found = replace(found, curve=curve, clean=right(8999, 10_000))
    assert described(found)["headline"].endswith("clean accuracy changes by +0.0 points.")
    assert ": +0.0 points (" in described(found)["headline"]


def test_the_difference_is_paired() -> None:
    """On the attacked samples for robustness, on all for clean accuracy."""
    found = findings(12, 5, candidates=9, lost=4)
    expected = {
        "robust_accuracy": 7 / 200,
        "ci95": list(paired_difference(12, 5, 200)),
        "tested": 200,
        "only_after": 12,
        "only_before": 5,
        "p_value": mcnemar(12, 5),
        "candidates": 9,
        "clean_accuracy": -4 / 1000,
        "clean_ci95": list(paired_difference(0, 4, 1000)),
        "drop_limit": Budget(max_drop=0.02).limit(right(900, N), right(896, N)),
    }
    assert expected == described(found, max_drop=0.02)["difference"]


def test_both_sides_have_intervals() -> None:
    """Clean accuracy of all samples, robust accuracy of the attacked ones under all attacks."""
    document = described(findings(30, 2))
    assert {
        "clean": {"accuracy": 0.9, "ci95": list(wilson(900, N))},
        "robust_accuracy": 52 / 200,
        "ci95": list(wilson(52, 200)),
    } == document["before"]
    assert {
        "clean": {"accuracy": 0.897, "ci95": list(wilson(897, N))},
        "robust_accuracy": 80 / 200,
        "ci95": list(wilson(80, 200)),
    } == document["after"]


def test_native_gradients_say_nothing_of_other_jumps() -> None:
    """Where they chose, the sentence is of the jump that they prefer."""
    worse = described(findings(2, 30), objective="paper")["headline"]
    assert worse.startswith("The jump that native gradients prefer makes the model less robust at ")
    alike = described(findings(2, 2), objective="paper")["headline"]
    start = "The jump that native gradients prefer does not make the model more robust beyond noise"
    assert alike.startswith(start)


def test_what_was_refined_is_compared_rather_than_the_strength_of_the_race() -> None:
    """The side after hardening is of the jumps that were found."""
    found = replace(findings(30, 2), clean=right(890, N), candidate=(0.5, 0.0))
    document = described(found)
    assert 0.25 == document["strength"]
    assert 0.89 == document["after"]["clean"]["accuracy"]
    assert -0.01 == document["difference"]["clean_accuracy"]


def test_the_curve_says_which_strengths_are_inside() -> None:
    """A limit of the drop for each, and how many samples were attacked."""
    curve = described(findings(30, 2), max_drop=0.02)["curve"]
    assert [0.0, 0.25, 0.5] == [point["strength"] for point in curve]
    assert [True, True, False] == [point["inside"] for point in curve]
    assert [200, 200, 64] == [point["attacked"] for point in curve]
    limits = [Budget(max_drop=0.02).limit(right(900, N), right(k, N)) for k in (900, 897, 800)]
    assert limits == [point["drop_limit"] for point in curve]
    assert [64, 64, 64] == [point["common"]["attacked"] for point in curve]
    native, worst = curve[1]["common"]["native"], curve[1]["common"]["worst"]
    assert {"robust_accuracy": 60 / 64, "ci95": list(wilson(60, 64))} == native
    assert {"robust_accuracy": 40 / 64, "ci95": list(wilson(40, 64))} == worst
    expected = {"difference": 28 / 200, "ci95": list(paired_difference(30, 2, 200)), "n": 200}
    assert expected == curve[1]["difference"]
    assert 0.0 == curve[0]["difference"]["difference"]
    assert {"robust_accuracy": 80 / 200, "ci95": list(wilson(80, 200))} == curve[1]["robust"]


def test_settings_data_and_race_are_told() -> None:
    """So that the document can be read without the command."""
    document = described(findings(30, 2), scale="quantile", eps=0.2, seed=7, quantize=True)
    told = {key: document[key] for key in ("scale", "eps", "norm", "objective", "quantize")}
    assert {
        "scale": "quantile",
        "eps": 0.2,
        "norm": "linf",
        "objective": "worst-case",
        "quantize": True,
    } == told
    assert {"max_drop": 0.01, "confidence": 0.95} == document["budget"]
    assert ("d1", N, ATTACKED) == tuple(document["data"][k] for k in ("sha256", "n", "attacked"))
    assert [
        {"samples": 64, "left": [0.25, 0.5]},
        {"samples": 200, "left": [0.25]},
    ] == document["race"]
    assert 7 == document["environment"]["seed"]
    assert document["refinement"] is None


def test_every_site_has_its_jump_and_what_it_zeroes() -> None:
    """Without a refinement all have the strength of the race and no attribution."""
    statistics = {"a": site("a", 1.0), "b": site("b", 4.0)}
    records = of_sites({"a": 1.5, "b": 0.0}, statistics, findings(30, 2))
    assert ["a", "b"] == [record["name"] for record in records]
    assert [1.5, 0.0] == [record["jump"] for record in records]
    assert [0.25, 0.25] == [record["strength"] for record in records]
    assert [2 / 3, 0.0] == pytest.approx([record["zeroed"] for record in records])
    assert [1.0, 4.0] == pytest.approx([record["median"] for record in records], rel=1e-3)
    deviation = float(np.std([0.5, 1.0, 2.0]))
    assert [deviation, 4 * deviation] == pytest.approx([r["std"] for r in records], rel=1e-5)
    assert not any("attribution" in record for record in records)


def refinement() -> Refined:
    """Return a refinement of two sites of which the first buys robustness."""
    buying = Attribution(
        clean=right(895, N),
        clean_without=right(900, N),
        robust=right(70, 128),
        robust_without=right(60, 128),
    )
    costing = replace(buying, clean=right(900, N), robust=right(20, 128, first=45))
    return Refined(
        strengths=(0.5, 0.0),
        edge=0.5,
        attribution=(buying, costing),
        judged_on=128,
        tried=3,
        taken=2,
    )


@pytest.mark.parametrize(
    ("judged_on", "taken", "expected"),
    [(128, 2, (72, 0, 0, False)), (60, 1, (140, 22, 0, True)), (128, 0, (200, 30, 2, True))],
)
def test_a_gain_is_tested_by_samples_that_refined_nothing(
    judged_on: int, taken: int, expected: tuple[int, int, int, bool]
) -> None:
    """Those robust only before come first, then those robust only after, 30 from the 52nd on."""
    refined = replace(refinement(), judged_on=judged_on, taken=taken)
    document = described(replace(findings(30, 2), refined=refined))
    difference = document["difference"]
    found = (*(difference[key] for key in ("tested", "only_after", "only_before")),)
    assert expected == (*found, document["improves"])


def test_a_loss_on_the_tested_samples_is_no_gain() -> None:
    """Whatever those show that the refinement was made by."""
    found = findings(40, 0)
    weak, strong = (mask.copy() for mask in found.worst)
    weak[150:160] = True
    document = described(replace(found, worst=(weak, strong), refined=refinement()))
    difference = document["difference"]
    assert difference["p_value"] < 0.05
    assert difference["ci95"][0] > 0
    assert not document["improves"]


def test_a_refinement_that_took_all_samples_is_warned_about() -> None:
    """None is left to show a gain by."""
    every = replace(refinement(), judged_on=ATTACKED)
    document = described(replace(findings(30, 2), refined=every))
    assert not document["improves"]
    (warning,) = warnings({**document, "sites": []})
    assert warning == (
        "All attacked samples took part in the refinement, so that none is left to tell whether "
        "it gained anything: attack more than 200 of them."
    )


def test_a_refinement_tells_what_each_site_does_alone() -> None:
    """Paired, with an interval, of all samples and of those it was judged on."""
    found = replace(findings(30, 2), candidate=(0.5, 0.0), refined=refinement())
    statistics = {"a": site("a", 1.0), "b": site("b", 4.0)}
    first, second = of_sites({"a": 0.5, "b": 0.0}, statistics, found)
    assert (0.5, 0.0) == (first["strength"], second["strength"])
    assert {
        "clean": {
            "difference": -5 / N,
            "ci95": list(paired_difference(0, 5, N)),
            "n": N,
            "p_value": mcnemar(0, 5),
        },
        "robust": {
            "difference": 10 / 128,
            "ci95": list(paired_difference(10, 0, 128)),
            "n": 128,
            "p_value": mcnemar(10, 0),
        },
    } == first["attribution"]
    assert {
        "difference": -40 / 128,
        "ci95": list(paired_difference(5, 45, 128)),
        "n": 128,
        "p_value": mcnemar(5, 45),
    } == second["attribution"]["robust"]
    expected = {"edge": 0.5, "judged_on": 128, "tried": 3, "taken": 2}
    assert expected == described(found)["refinement"]


def test_uneven_sites_are_warned_about_where_they_share_a_jump() -> None:
    """From more than fifty times on; sites without positive numbers do not count."""
    document = {"objective": "worst-case", "scale": "shared", "difference": {"tested": 9}}
    expected = (
        "The inputs of 'last' are 2,000 times as large as those of 'first': a shared jump that "
        "fits the one is nothing or too much for the other. The scale 'quantile' gives each site "
        "its own."
    )
    uneven = sites(first=0.5, middle=1.0, last=1000.0, dead=0.0, unknown=math.nan)
    assert [expected] == warnings({**document, "sites": uneven})
    assert [] == warnings({**document, "scale": "quantile", "sites": uneven})
    assert [] == warnings({**document, "sites": sites(a=1.0, b=50.0)})
    assert 1 == len(warnings({**document, "sites": sites(a=1.0, b=50.1)}))
    assert [] == warnings({**document, "sites": sites(dead=0.0)})


def test_the_papers_objective_is_warned_about() -> None:
    """It overstates; with uneven sites there are two warnings."""
    of = {"objective": "paper", "scale": "shared", "difference": {"tested": 9}}
    document = {**of, "sites": sites(a=1.0)}
    expected = (
        "The jump was chosen by native gradients alone, which do not see across the jumps and "
        "overstate robustness; the figures before and after are of all attacks."
    )
    assert [expected] == warnings(document)
    assert 2 == len(warnings({**document, "sites": sites(a=1.0, b=99.0)}))


def test_the_summary_is_what_a_hardened_file_records() -> None:
    """The budget, the attack, the choice, and robust accuracy before and after."""
    expected = {
        "data_sha256": "d1",
        "scale": "shared",
        "strength": 0.25,
        "objective": "paper",
        "norm": "linf",
        "eps": 0.1,
        "max_drop": 0.01,
        "confidence": 0.95,
        "refined": False,
        "improves": True,
        "samples": N,
        "attacked": ATTACKED,
        "accuracy": 897 / N,
        "accuracy_before": 900 / N,
        "robust_accuracy": 0.4,
        "robust_accuracy_before": 0.26,
    }
    assert expected == summary(described(findings(30, 2), objective="paper", eps=0.1))


def test_the_document_is_json() -> None:
    """With sites, a refinement and jumps by channel; what is read is what was written."""
    found = replace(findings(30, 2), candidate=(0.5, 0.0), refined=refinement())
    document = described(found, strengths=np.array([0.25, 0.5]).tolist())
    histogram = Histogram(2)
    histogram.add(np.array([[1.0, 2.0], [-1.0, 4.0]], np.float32))
    by_channel = replace(site("a", 1.0), channels=2, shape=(2, 1, 1), by_channel=histogram)
    jumps: dict[str, Jump] = {"a": np.array([[[0.5]], [[3.0]]], np.float32), "b": 0.0}
    document["sites"] = of_sites(jumps, {"a": by_channel, "b": site("b", 2.0)}, found)
    text = json.dumps(finite(document), allow_nan=False)
    assert finite(document) == json.loads(text)
    assert [[[0.5]], [[3.0]]] == json.loads(text)["sites"][0]["jump"]
    assert "model.onnx" == json.loads(text)["model"]["path"]
