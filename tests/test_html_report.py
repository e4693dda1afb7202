"""The HTML report of a verification: what it shows, and that it needs nothing else."""

import base64
import copy
import io
import math
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from html_page import Page
from numpy.typing import NDArray

pytest.importorskip("jinja2")
pytest.importorskip("torch")
matplotlib = pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

from onnxfit.report import html, pictures, plots, wording  # noqa: E402 - after the packages it needs
from onnxfit.report.html import Exhibit, Outcome, render  # noqa: E402
from onnxfit.saliency.maps import Saliency  # noqa: E402
from onnxfit.verification.saliency import MEASURES  # noqa: E402

Document = dict[str, Any]

RNG = np.random.default_rng(0)


def share(value: float) -> Document:
    """Make a robust accuracy with an interval."""
    return {"robust_accuracy": value, "ci95": [value - 0.0412, value + 0.0387]}


def attack(name: str, backward: str, seed: int) -> Document:
    """Make the record of an attack; no two numbers of a row are the same."""
    return {
        "name": name,
        "backward": backward,
        "norm": "linf",
        "eps": 0.1,
        "settings": {"steps": 20 + seed, "loss": "ce", "bounds": (0.0, 1.0), "tau": 0.1},
        "attacked": 301 + seed,
        "twin_success": 41 + seed,
        "twin_only": 3 + seed,
        "deployed_success": 31 + seed,
        **share(0.8123 - seed / 50),
        "seconds": 12.3 + seed,
    }


def side(seed: int) -> Document:
    """Make what is measured of one of the models."""
    return {
        "model": {
            "path": PurePosixPath(f"build/model{seed}.onnx"),
            "sha256": f"{seed}" * 64,
            "sites": 3 + seed,
            "jumps": {"/relu/output": 0.25 + seed, "/channels": [0.5 + seed, 1.5], "/plain": None},
        },
        "clean": {"accuracy": 0.9712 - seed / 100, "ci95": [0.9511, 0.9823]},
        "attacks": [
            attack("apgd-ce", "true", seed),
            attack("apgd-ce", "smooth 0.1", seed + 1),
            attack("square", "none", seed + 2),
        ],
        "native": share(0.7123 + seed / 100),
        "worst_case": share(0.5123 + seed / 100),
    }


def means(value: float, n: int) -> Document:
    """Make what is measured of saliency; no two numbers are the same."""
    return {
        name: {
            "mean": value + at / 50,
            "ci95": [value + at / 50 - 0.0412, value + at / 50 + 0.0387],
            "n": n + at,
        }
        for at, name in enumerate(MEASURES)
    }


def universal(seed: int) -> Document:
    """Make what universal perturbations do to one of the models; no two numbers are the same."""
    made_with = {"uap": {"epochs": 5 + seed}, "chessboard": {"cell": 2 + seed}, "perlin": {}}
    found: Document = {
        kind: {
            "evasion_rate": rate + seed / 50,
            "evasion_rate_ci95": [rate + seed / 50 - 0.0412, rate + seed / 50 + 0.0387],
            "evasion_rate_of_correct": rate + seed / 50 - 0.0123,
            "evasion_rate_of_correct_ci95": [rate + seed / 50 - 0.0534, rate + seed / 50 + 0.0265],
            "backward": "smooth 0.1" if kind == "uap" else "none",
            "settings": settings,
        }
        for rate, (kind, settings) in zip((0.31, 0.11, 0.21), made_with.items(), strict=True)
    }
    return {**found, "beyond_suite": 61 + seed}


def document(**changes: Any) -> Document:
    """Make a result of the suite ``standard`` with a baseline; it fails."""
    parity = {"samples": 64, "largest_difference": 3.1e-6, "first_difference": None, "flips": 2}
    latency = {"ratio": 1.0431, "ci95": (1.021, 1.072), "model_ms": 1.231, "baseline_ms": 1.182}
    return {
        "schema_version": 1,
        "verdict": "fail",
        "headline": "At eps 0.1 the hardened model is 6.5 points below its baseline.",
        "suite": "standard",
        "norm": "linf",
        "eps": 0.1,
        "quantize": False,
        **side(0),
        "data": {
            "path": PurePosixPath("data/test.npz"),
            "sha256": "d" * 64,
            "n": 1200,
            "bounds": [0, 1],
            "mean": [0.1307],
            "std": [0.3081],
        },
        "baseline": {**side(1), "same_as_model": False},
        "difference": {
            "robust_accuracy": -0.0651,
            "ci95": [-0.1012, -0.0293],
            "p_value": 0.00063,
            "only_model": 12,
            "only_baseline": 38,
            "clean_accuracy": -0.0034,
            "clean_ci95": [-0.0075, 0.0025],
            "clean_gained": 5,
            "clean_lost": 9,
        },
        "curve": [
            {"eps": eps, "model": share(a), "native": share(b), "baseline": share(c)}
            for eps, a, b, c in ((0.0, 0.97, 0.971, 0.98), (0.1, 0.5123, 0.7123, 0.58))
        ],
        "saliency": {
            "n": 31,
            "reason": None,
            "steps": 20,
            "model": means(0.2, 101),
            "baseline": means(-0.105, 201),
            "difference": means(-0.13, 301),
        },
        "universal": {
            "reason": None,
            "made_on": 251,
            "n": 249,
            "model": universal(0),
            "baseline": universal(1),
            "difference": {
                "evasion_rate": -0.0213,
                "ci95": [-0.0512, 0.0093],
                "p_value": 0.2187,
                "only_model": 13,
                "only_baseline": 19,
            },
            "summary": "With one perturbation for all no difference is shown.",
            "seconds": 7.4,
        },
        "parity": {**parity, "agrees": True, "baseline": {**parity, "flips": 4, "agrees": True}},
        "latency": {**latency, "rounds": 31, "provider": "CPUExecutionProvider"},
        "diagnostics": [
            {"check": "large eps", "gate": True, "passed": False, "detail": "It stays at 3 %."},
            {"check": "overstated", "gate": False, "passed": False, "detail": "By 20 points."},
            {"check": "repeatable", "gate": True, "passed": True, "detail": "Both runs agree."},
        ],
        "rules": [
            {
                "rule": "min_clean",
                "bound": 0.98,
                "value": 0.97961,
                "passed": False,
                "detail": "Below.",
            },
            {
                "rule": "max_slowdown",
                "bound": 1.1,
                "value": 1.072,
                "passed": True,
                "detail": "Kept.",
            },
        ],
        "regression": {"path": "old/adversarial.npz", "n": 148, "still_adversarial": 9},
        "warnings": ["The model ends in a Softmax."],
        "environment": {"versions": {"torch": "2.13.0"}, "seed": 7, "threads": 2},
        "seconds": 512.7,
        **changes,
    }


def plain_document() -> Document:
    """Make a result of a model that is its own baseline."""
    own = document(verdict="pass")
    own["baseline"] = {**side(0), "same_as_model": True}
    own["universal"] = {
        **{key: own["universal"][key] for key in ("reason", "made_on", "n", "model", "summary")},
        "difference": None,
    }
    for point in own["curve"]:
        point["baseline"] = point["model"]
    return own


def paper_document() -> Document:
    """Make a result of the suite ``paper``."""
    paper = document(suite="paper", curve=[], difference={"clean_accuracy": -0.0034})
    for records in (paper["attacks"], paper["baseline"]["attacks"]):
        for number, record in enumerate(records):
            record["accuracy"] = record["robust_accuracy"]
            record["mean_relative_perturbation"] = 0.1285 + number
            record["mean_absolute_perturbation"] = 1.234 + number
    return paper


def many_attacks() -> Document:
    """Make a result with forty attacks, half of them on the hardened model alone."""
    many = document()
    many["attacks"] = [attack(f"attack-{number}", "relu", 0) for number in range(40)]
    many["baseline"]["attacks"] = many["attacks"][::2]
    return many


def exhibit(channels: int = 1, size: int = 28, index: int = 5) -> Exhibit:
    """Make an exhibit that broke on the model and did not on its baseline."""
    x = RNG.random((channels, size, size), np.float32)
    point = np.clip(x + RNG.choice([-0.1, 0.1], x.shape), 0, 1).astype(np.float32)
    maps = Saliency(*RNG.random((2, size, size), np.float32))
    found = Outcome(7, point, 9, "apgd-t, smooth 0.1", [maps, maps])
    return Exhibit(index, 7, x, found, Outcome(7, saliency=[Saliency(None, maps.occlusion)]))


DOCUMENTS = {
    "paired": (document(), [exhibit()]),
    "plain": (plain_document(), [exhibit(3)]),
    "paper": (paper_document(), []),
    "many": (many_attacks(), []),
    "empty": ({}, []),
}


@pytest.fixture(scope="module", params=DOCUMENTS)
def page(request: pytest.FixtureRequest) -> Page:
    """Render one of several results and take the page apart."""
    return Page(render(*DOCUMENTS[request.param]))


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write out what the curve would show in place of drawing it, which takes long."""
    monkeypatch.setattr(plots, "curve", lambda *drawn, narrow: escape(f"{drawn} {narrow}"))


def test_the_page_is_well_formed(page: Page) -> None:
    """Every tag is closed in its turn, and no attribute is given twice."""
    assert [] == page.wrong


def test_the_page_needs_nothing_else(page: Page) -> None:
    """Nothing is loaded and no script runs: all sources lie in the page."""
    assert {"script", "iframe", "object", "embed", "base"}.isdisjoint(tag for tag, _ in page.tags)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert "//" not in value or value.startswith("data:"), (tag, name, value)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:")), (tag, name, value)


def test_styles_load_nothing() -> None:
    """No style names a file, and the browser is told to load none."""
    text = render(*DOCUMENTS["paired"])
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert re.search(r"https?:", text) is None
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    """No id is used twice, also over several plots, and each link has its target."""
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("href", "clip-path"):
            target = re.search(r"#([^)]*)", attributes.get(name, ""))
            assert target is None or target[1] in ids


def test_the_page_can_be_read_aloud(page: Page) -> None:
    """The language is given, pictures have words, headers a scope, other drawings are hidden."""
    assert ["en"] == [attributes["lang"] for attributes in page.all("html")]
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(attributes["scope"] for attributes in page.all("th"))
    assert all(attributes["aria-hidden"] == "true" for attributes in page.all("svg"))
    assert 1 == len(page.all("h1")) == len(page.all("title")) == len(page.all("main"))


def test_the_same_result_gives_the_same_bytes() -> None:
    """Rendering again gives the same page, whatever matplotlib is set to."""
    result, exhibits = DOCUMENTS["paired"]
    first = render(result, exhibits)
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "font.size": 20}):
        before = dict(matplotlib.rcParams)
        assert first == render(copy.deepcopy(result), list(exhibits))
        assert before == dict(matplotlib.rcParams)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where the numbers, words and truth values of a document are."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in inner:
        if isinstance(below, dict | list | tuple):
            yield from leaves(below, (*path, key))
        elif below is not None:
            yield (*path, key)


def changed(value: Any) -> Any:
    """Change a value by as little as must be seen."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.25 + 0.01 if isinstance(value, float) else f"{value}x"


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize("name", ["paired", "paper"])
def test_all_that_is_shown_comes_from_the_document(name: str) -> None:
    """Whatever is changed in the document changes the page."""
    result, _ = DOCUMENTS[name]
    original, unseen = render(result), []
    for path in leaves(result):
        other = copy.deepcopy(result)
        *parents, last = path
        target: Any = other
        for key in parents:
            if isinstance(target[key], tuple):
                target[key] = list(target[key])
            target = target[key]
        target[last] = changed(target[last])
        if render(other) == original:
            unseen.append(path)
    # τ stands in the name of the backward pass, the paper's attacks have no worst case, and any
    # other verdict than "pass" is a failure.
    hidden = {"tau", "verdict"} | ({"worst_case"} if name == "paper" else set())
    assert [] == [path for path in unseen if hidden.isdisjoint(path)]


def test_the_curve_is_drawn_from_its_points() -> None:
    """A robust accuracy that changes moves a line of the plot."""
    points = document()["curve"]
    axis = plots.EpsAxis("eps", gate=0.1, gate_label="gate")
    names = {"model": "model", "native": "native", "baseline": "baseline"}
    before = plots.curve(points, names, axis)
    points[1]["baseline"]["robust_accuracy"] = 0.55
    assert before != plots.curve(points, names, axis)


def test_the_curve_takes_its_colours_from_the_page() -> None:
    """No colour of a plot is fixed, so that the page can be dark; its text is text."""
    names = {"model": "a <b> $x^2$", "baseline": "baseline"}
    drawn = plots.curve(document()["curve"], names, plots.EpsAxis("eps", over_255=True))
    assert re.search(r"#[0-9a-f]{6}\b", drawn) is None
    assert {"var(--hardened)", "var(--baseline)", "currentColor"} <= set(
        re.findall(r"var\(--\w+\)|currentColor", drawn)
    )
    assert ">a &lt;b&gt; $x^2$</text>" in drawn
    assert ">eps in units of 1/255</text>" in drawn


@pytest.mark.usefixtures("words")
def test_names_cannot_write_into_the_page() -> None:
    """Names and sentences of the document are escaped wherever they stand."""
    evil = "<script>alert('x')</script>\"'&"
    result = document(headline=evil, suite=evil, norm=evil, warnings=[evil], command=evil)
    result["model"] |= {"path": PurePosixPath(evil), "jumps": {evil: 1.0}}
    result["attacks"][0] |= {"name": evil, "backward": evil, "settings": {evil: evil}}
    result["rules"][0] |= {"rule": evil, "bound": evil, "value": evil, "detail": evil}
    result["diagnostics"][0] |= {"check": evil, "detail": evil}
    result["environment"] |= {evil: evil}
    result["universal"] |= {"summary": evil}
    result["universal"]["model"]["uap"] |= {"backward": evil, "settings": {evil: evil}}
    shown = exhibit()
    named = Exhibit(1, 7, shown.x, Outcome(7, shown.model.adversarial, 9, evil))
    page = Page(render(result, [named]))
    assert [] == page.wrong + page.all("script")
    assert page.text.count("<script>") >= 20


@pytest.mark.usefixtures("words")
def test_characters_that_cannot_be_seen_are_written_out() -> None:
    """Control characters, changes of direction and broken UTF-8 are shown as escapes."""
    text = render(document(headline="a\x07b\u202ec\udc80d\ne"))
    assert r"a\x07b\u202ec\udc80d e" in text
    assert text == text.encode().decode()


@pytest.mark.usefixtures("words")
def test_more_robust_is_the_headlines_word() -> None:
    """The page says "more robust" only where its headline does."""
    assert "more robust" not in render(document()).lower()
    headline = "The hardened model is more robust."
    assert 1 == render(document(headline=headline)).count("more robust")


@pytest.mark.usefixtures("words")
def test_the_verdict_is_a_word_and_names_what_failed() -> None:
    """Pass and fail are told by words, and the rules and checks that failed by name."""
    failed, passed = Page(render(document())), Page(render(document(verdict="pass")))
    assert "Failed At eps 0.1 the hardened model is" in failed.text
    assert "What failed: min_clean, large eps." in failed.text
    assert "✗ failed" in failed.text
    assert "! noted reported By 20 points." in failed.text
    assert "Passed At eps 0.1 the hardened model is" in passed.text


@pytest.mark.usefixtures("words")
def test_figures_stand_where_they_belong() -> None:
    """The key figures have their intervals, native gradients their label, both models a column."""
    text = Page(render(document())).text
    assert "Native gradients alone Hardened 71.2 % 67.1–75.1 % Baseline 72.2 % 68.1–76.1 %" in text
    assert "Worst case Hardened 51.2 % 47.1–55.1 % Baseline 52.2 % 48.1–56.1 %" in text
    assert "−6.5 points 95 % interval −10.1 to −2.9" in text
    assert "p = 0.00063" in text
    row = "apgd-ce native gradient steps 20 baseline: steps 21 301 41 3 only 31 81.2 % 77.1–85.1 % "
    assert row + "12.3 302 42 4 only 32 79.2 % 75.1–83.1 % 13.3" in text
    assert "wherever an attack has them: loss ce · bounds 0, 1." in text


@pytest.mark.usefixtures("words")
def test_a_model_without_jumps_is_not_called_hardened() -> None:
    """A fine-tuned one, say, that is compared with what it was."""
    result = document()
    for jumps in ({}, {"/relu/output": 0.0, "/channels": [0.0, 0.0]}):
        result["model"]["jumps"] = jumps
        text = Page(render(result)).text
        assert "Worst case Model 51.2 % 47.1–55.1 % Baseline 52.2 % 48.1–56.1 %" in text
        assert "Samples robust in one alone: model" in text
        assert "SGD-UAP, model minus baseline: " in text
        assert "Hardened" not in text


@pytest.mark.usefixtures("words")
def test_settings_that_attacks_share_are_said_once() -> None:
    """A setting of one attack alone stays in its row, also where both models were given it."""
    result = document()
    for one in (result, result["baseline"]):
        for record in one["attacks"]:
            record["settings"] = {"seed": 3, "steps": 20}
        one["attacks"][2]["settings"] = {"seed": 3, "queries": 200}
    text = Page(render(result)).text
    assert "wherever an attack has them: seed 3 · steps 20." in text
    assert "square no gradient queries 200 303" in text


@pytest.mark.usefixtures("words")
def test_a_value_just_below_its_bound_looks_so() -> None:
    """Rules are shown with two decimals: 97.96 % is not 98 %."""
    text = Page(render(document())).text
    assert "min_clean 98.00 % 97.96 % ✗ failed Below." in text


@pytest.mark.usefixtures("words")
def test_a_model_without_a_baseline_is_shown_once() -> None:
    """Nothing is doubled and nothing compared where the model is its own baseline."""
    text = Page(render(plain_document())).text
    assert "Baseline" not in text.replace("Baseline, ms", "")
    assert "Worst-case difference" not in text
    assert "Worst case Model 51.2" in text
    none = plain_document() | {"baseline": None, "difference": None}
    assert "Worst case Model 51.2" in Page(render(none)).text


@pytest.mark.usefixtures("words")
def test_the_papers_measures_replace_the_curve() -> None:
    """In ``paper`` there are accuracies and perturbations, and no worst case is claimed."""
    page = Page(render(paper_document()))
    assert "mean relative mean absolute" in page.text
    assert "81.2 % 77.1–85.1 % 0.1285 1.234 79.2 % 75.1–83.1 %" in page.text
    assert "Lowest accuracy under an attack of the paper." in page.text
    assert "Worst case Hardened" not in page.text
    assert "Worst-case difference" not in page.text
    assert "curve" not in [attributes.get("id") for attributes in page.all("h2")]


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize("missing", [None, "gone"])
def test_parts_may_be_missing(missing: str | None) -> None:
    """Any part of the document can be None or absent."""
    for key in document():
        result = document(**{key: None})
        if missing == "gone":
            del result[key]
        assert [] == Page(render(result)).wrong, key


def test_numbers_that_are_none_are_dashes() -> None:
    """NaN, None and infinities are shown as dashes, also in the curve."""
    nothing = {"robust_accuracy": math.nan, "ci95": [None, math.inf]}
    result = document(native=nothing, worst_case={"robust_accuracy": None, "ci95": None})
    result["curve"][1]["model"] = nothing
    result["curve"][0]["baseline"] = None
    result["attacks"][0] |= {"seconds": None, **nothing}
    text = Page(render(result)).text
    assert "Worst case Hardened – –" in text
    assert re.search(r"\b(nan|inf|None)\b", text) is None


def test_pictures_and_answers_of_a_sample() -> None:
    """An exhibit has its pictures, and says in words what each model said."""
    page = Page(render(document(), [exhibit()]))
    words = [attributes["alt"] for attributes in page.all("img")]
    assert 3 + 4 + 1 + 1 == len(words)
    places = ("input", "adversarial input")
    maps = [f"hardened: {kind} of the {of}" for of in places for kind in ("gradient", "occlusion")]
    maps.append("baseline: occlusion of the input")
    assert [f"Map of sample 5, {one}" for one in maps] == [one for one in words if "Map" in one]
    nothing = [one for _, one in page.tags if one.get("class") == "nothing"]
    assert 3 == len(nothing)
    assert "Label 7 sample 5" in page.text
    assert "Hardened Says 7, but 9 for the adversarial input of apgd-t, smooth 0.1." in page.text
    assert "Baseline Says 7. No attack changed that." in page.text
    assert "perturbation × 5, ℓ∞ 0.1, ℓ2 " in page.text


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (Outcome(3), "Says 3: wrong without any attack."),
        (Outcome(7, np.ones((1, 8, 8), np.float32), 7), "Says 7, also for the adversarial input."),
        (Outcome(7, np.ones((1, 8, 8), np.float32), 1), "Says 7, but 1 for the adversarial input."),
        (
            Outcome(7, np.ones((1, 8, 8), np.float32), 1, "pgd", backward="smooth 0.1"),
            "Says 7, but 1 for the adversarial input of pgd (smooth gate, τ = 0.1).",
        ),
    ],
)
@pytest.mark.usefixtures("words")
def test_what_a_model_said(outcome: Outcome, sentence: str) -> None:
    """Samples that were wrong before, and points that fool the twin alone, are told apart."""
    shown = Exhibit(0, 7, np.zeros((1, 8, 8), np.float32), outcome)
    assert f"Model {sentence}" in Page(render(plain_document(), [shown])).text


@pytest.mark.usefixtures("words")
def test_attacks_through_surrogate_networks() -> None:
    """Rows name the network, and what that is stands among the words; elsewhere it does not."""
    result = plain_document()
    assert "Own head, template kernel, past denoising" not in Page(render(result)).text
    first = {**result["attacks"][0], "network": "own head"}
    backwards = ("own head", "own head, smooth 0.2")
    result["attacks"] = [*result["attacks"], *({**first, "backward": b} for b in backwards)]
    page = Page(render(result))
    assert f"{first['name']} own head " in page.text
    assert f"{first['name']} own head, smooth gate, τ = 0.2 " in page.text
    assert "Own head, template kernel, past denoising" in page.text


@pytest.mark.usefixtures("words")
def test_samples_that_are_no_images() -> None:
    """Vectors have no pictures; a sentence says so."""
    vector = Exhibit(0, 1, np.zeros(5, np.float32), Outcome(1))
    page = Page(render(document(), [vector]))
    assert [] == page.all("img")
    said = "The samples are no images of one or three channels, at most 4 times as long as wide"
    assert said in page.text
    assert "No examples were given to this report." in Page(render(document())).text


@pytest.mark.usefixtures("words")
def test_universal_perturbations_have_a_section() -> None:
    """A row a kind, both sides beside each other, the sentence, and pictures on one scale."""
    size = {"model": 0.1, "baseline": 0.0}
    deltas = {side: np.full((1, 4, 4), value, np.float32) for side, value in size.items()}
    page = Page(render(document(), [], deltas))
    assert "With one perturbation for all no difference is shown." in page.text
    gate = "smooth gate, τ = 0.1"
    row = f"SGD-UAP Hardened: {gate} · epochs 5 Baseline: {gate} · epochs 6"
    assert f"{row} 31.0 % 26.9–34.9 % 29.8 % 25.7–33.7 % 33.0 %" in page.text
    assert "hardened minus baseline: −2.1 points −5.1 to +0.9" in page.text
    assert "but not these: hardened 61, baseline 62." in page.text
    assert "Hardened × 5" in page.text
    first, second = (one["src"] for one in page.all("img"))
    assert (213, 94, 0) == tuple(decoded(first)[0, 0])
    assert (247, 247, 247) == tuple(decoded(second)[0, 0])


def test_a_universal_perturbation_of_one_model_is_compared_with_nothing() -> None:
    """No difference, no second column; what is no image is not drawn."""
    page = Page(render(plain_document(), [], {"model": np.full(7, 0.1, np.float32)}))
    assert "SGD-UAP Model: smooth gate" in page.text
    assert "hardened minus baseline" not in page.text
    assert [] == page.all("img")


def test_universal_perturbations_that_were_not_made_are_said() -> None:
    """With the reason; where there were none to be made there is no section."""
    reason = "19 samples are too few to be split in two: it takes 20"
    assert f"Not measured: {reason}." in Page(render(document(universal={"reason": reason}))).text
    without = document()
    without["universal"]["model"]["uap"] = None
    assert "SGD-UAP Hardened: could not be made Baseline" in Page(render(without)).text
    ids = [one.get("id") for one in Page(render(document(universal=None))).all("h2")]
    assert "universal" not in ids


def test_the_page_stays_small() -> None:
    """Twelve colour images of 224 × 224 noise fit into a page of 3 MB."""
    text = render(document(), [exhibit(3, 224, index) for index in range(12)])
    assert 12 * 9 == len(Page(text).all("img"))
    assert len(text) < 3_000_000
    assert "The pictures are reduced in size and colours." in text


def decoded(uri: str) -> NDArray[np.int64]:
    """Return the pixels of a picture, H×W×3."""
    start = "data:image/png;base64,"
    assert uri.startswith(start)
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(start)))) as picture:
        return np.asarray(picture.convert("RGB"), np.int64)


def test_an_image_is_drawn_between_its_bounds() -> None:
    """The lower bound is black, the upper one white; NaN is 0, what lies outside is cut."""
    sample = np.array([[[-1, 1, 3, math.nan]]], np.float32)
    assert [[0, 255, 255, 128]] == decoded(pictures.image(sample, (-1, 1)))[..., 0].tolist()


def test_the_sign_of_a_perturbation_is_a_colour() -> None:
    """Darker pixels are blue, brighter ones vermilion, others near-white, in one channel."""
    difference = np.array([[[-0.1, 0, 0.1]]], np.float32)
    expected = [[[0, 114, 178], [247, 247, 247], [213, 94, 0]]]
    assert expected == decoded(pictures.perturbation(difference, 0.1)).tolist()


def test_a_perturbation_of_three_channels_lies_around_grey() -> None:
    """Each channel is magnified around mid-grey; nothing at all is mid-grey."""
    difference = np.array([-0.1, 0, 0.1], np.float32).reshape(3, 1, 1)
    assert [[[0, 128, 255]]] == decoded(pictures.perturbation(difference, 0.1)).tolist()
    assert [[[128] * 3]] == decoded(pictures.perturbation(0 * difference, 0)).tolist()


def test_a_map_is_bright_where_much_depends_on_a_pixel() -> None:
    """In parts of what is white; what lies below 0 and what is not finite is black."""
    values = np.array([[2, 4, -9, math.nan, math.inf]], np.float32)
    # The 99th percentile of 0, 0, 0, 2, 4 lies 0.96 of the way from 2 to 4.
    expected = [round(255 * 2 / 3.92), 255, 0, 0, 0]
    assert expected == decoded(pictures.saliency(values))[0, :, 0].tolist()
    assert 0 == decoded(pictures.saliency(0 * np.ones((2, 2), np.float32))).max()


@pytest.mark.usefixtures("words")
def test_saliency_that_was_measured_has_a_section() -> None:
    """Each measure of both models and their difference, and in words what is beyond chance."""
    result = document()
    page = Page(render(result))
    assert "saliency" in [attributes.get("id") for attributes in page.all("h2")]
    row = (
        "Deletion AUC, by occlusion 0.220 0.179 to 0.259, n = 102 "
        "−0.085 −0.126 to −0.046, n = 202 −0.110 −0.151 to −0.071, n = 302"
    )
    assert row in page.text
    assert "Hardened: gradient and occlusion rank pixels better than chance." in page.text
    gains = result["saliency"]["baseline"]
    gains["gain_occlusion"]["ci95"] = [0.01, 0.02]
    for key in MEASURES[1:]:
        result["saliency"]["difference"][key]["ci95"] = [-0.1, 0.1]
    text = Page(render(result)).text
    assert "Baseline: occlusion ranks pixels better than chance." in text
    assert "differ, hardened less baseline, in deletion AUC, by gradient (−0.130)." in text
    gains["gain_occlusion"]["ci95"] = None
    result["saliency"]["difference"]["deletion_gradient"] = {"mean": None, "ci95": None, "n": 0}
    text = Page(render(result)).text
    assert "Baseline: neither map ranks pixels better than chance." in text
    assert "In none of these measures do the two models differ beyond chance." in text
    assert "– –, n = 0" in text


@pytest.mark.usefixtures("words")
def test_saliency_of_one_model_is_compared_with_nothing() -> None:
    """There is one column; samples that are no images have a reason in place of a table."""
    one = {"n": 31, "reason": None, "steps": 20, "model": means(0.2, 101)}
    text = Page(render(plain_document() | {"saliency": one})).text
    assert "Model: gradient and occlusion rank pixels better than chance." in text
    assert "Beyond chance" not in text
    assert "In none of these measures" not in text
    none = {"n": 0, "reason": "the samples are no images"}
    page = Page(render(plain_document() | {"saliency": none}))
    assert "Not measured: the samples are no images." in page.text
    assert "saliency" not in [
        attributes.get("id")
        for attributes in Page(render({**document(), "saliency": None})).all("h2")
    ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((128, 128), (128, 128)), ((129, 40), (64, 20)), ((3, 1000), (1, 125)), ((1, 1), (1, 1))],
)
def test_large_pictures_are_reduced(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """No side is longer than 128 pixels, and no picture is empty."""
    sample = np.full((3, *size), 0.5, np.float32)
    for uri in (pictures.image(sample, (0, 1)), pictures.saliency(sample[0])):
        assert expected == decoded(uri).shape[:2]
    assert max(decoded(pictures.perturbation(sample, 1)).shape) <= 128


@pytest.mark.parametrize(
    ("eps", "over_255", "text"),
    [
        (8 / 255, True, "8/255"),
        (8 / 255, False, "0.03137"),
        (0.1, True, "0.1"),
        (0.2, True, "0.2"),
        (0.0, True, "0"),
        (math.nan, True, "–"),
    ],
)
def test_how_eps_is_written(eps: float, over_255: bool, text: str) -> None:
    """An eps is a number of 255ths where it is one and no short decimal."""
    assert text == wording.eps_text(eps, over_255)


def test_how_differences_are_written() -> None:
    """A difference has a sign, which 0 does not have."""
    shown = [wording.points(value) for value in (0.0304, -0.0304, -0.0001, None)]
    assert ["+3.0 points", "−3.0 points", "0.0 points", "–"] == shown
    assert "−0.1 to +2.0" == wording.interval([-0.001, 0.02], "points")


def test_how_numbers_are_written() -> None:
    """Counts are in full, other numbers have four digits, small ones a power of ten."""
    shown = [wording.number(value) for value in (10_000, -0.12345, 1.16e-10, math.inf)]
    assert ["10,000", "−0.1235", "1.16\u202f×\u202f10⁻¹⁰", "–"] == shown


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Jinja the report is a ModuleNotFoundError that names it."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    html._template.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="jinja2"):
        render(document())
