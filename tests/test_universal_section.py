"""Universal perturbations in ``verify``: what they do to a model beside its baseline."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from masking_models import digits, integers
from support import MODELS, parse, with_channels_last

import onnxfit
from onnxfit.data import Dataset, from_arrays, open_data

torch = pytest.importorskip("torch")

from onnxfit.attacks import RandomNoise  # noqa: E402
from onnxfit.attacks.gradient import PGD  # noqa: E402
from onnxfit.json_values import finite  # noqa: E402
from onnxfit.verification.campaign import Campaign  # noqa: E402
from onnxfit.verification.progress import silent  # noqa: E402
from onnxfit.verification.settings import Settings  # noqa: E402
from onnxfit.verification.statistics import mcnemar, paired_difference  # noqa: E402
from onnxfit.verification.suites import Stage, Threat  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402
from onnxfit.verification.universal import UNFOLLOWED, halves, perturbed  # noqa: E402
from onnxfit.verification.universal_section import Section, universal_section  # noqa: E402

EPS = 0.2
KINDS = ("uap", "chessboard", "perlin")


def images(limit: int = 120) -> Dataset:
    """Open the first images of digits."""
    return open_data(MODELS / "digits_test.npz", limit=limit)


def weak(eps: float = EPS) -> list[Stage]:
    """Make a suite that misses what a universal perturbation finds."""
    noise = RandomNoise(eps=eps / 100)
    return [Stage(name="noise", attack=noise, family="black-box", deployed=True)]


def made(
    *models: Any,
    data: Dataset,
    stages: Sequence[Stage] = (),
    eps: float = EPS,
    seed: int = 0,
    begin: Any = silent,
) -> Section:
    """Attack a model, and a baseline where there are two, with a suite and universally."""
    sides: tuple[Any, ...] = ("model", "baseline")
    targets = {side: Target(model) for side, model in zip(sides, models, strict=False)}
    campaign = Campaign(targets, data, stages or weak(eps))
    list(campaign.run())
    settings = Settings(suite="quick", eps=eps, seed=seed)
    return universal_section(campaign, Threat(eps=eps), settings, is_source=True, begin=begin)


@pytest.fixture(scope="module")
def section() -> Section:
    """The digits network at jump 0.5 beside the one before, with a suite that misses much."""
    return made(onnxfit.retrofit(digits(), 0.5), onnxfit.retrofit(digits(), 0.0), data=images())


def test_shares_are_those_of_the_file_on_the_other_half(section: Section) -> None:
    """Recomputed from the perturbation: of all, of those right before, and what is discordant."""
    document, data = section.document, images()
    x, y = data.spread(120)
    rows = halves(y, 0)[1]
    x, y = x[rows], y[rows]
    assert [None, 60, 60] == [document[key] for key in ("reason", "made_on", "n")]
    misclassified = {}
    for side, delta in section.deltas.items():
        jump = 0.5 if side == "model" else 0.0
        target, found = Target(onnxfit.retrofit(digits(), jump)), document[side]["uap"]
        assert EPS == pytest.approx(np.abs(delta).max())
        right = target.predictions(x) == y
        wrong = target.predictions(perturbed(x, delta, Threat(eps=EPS))) != y
        assert wrong.mean() == found["evasion_rate"]
        assert wrong[right].mean() == found["evasion_rate_of_correct"]
        assert found["evasion_rate_ci95"][0] < wrong.mean() < found["evasion_rate_ci95"][1]
        misclassified[side] = wrong
    a, b = misclassified["model"], misclassified["baseline"]
    counts = int((a & ~b).sum()), int((b & ~a).sum())
    expected = {
        "evasion_rate": (counts[0] - counts[1]) / 60,
        "ci95": list(paired_difference(*counts, 60)),
        "p_value": mcnemar(*counts),
        "only_model": counts[0],
        "only_baseline": counts[1],
    }
    assert expected == document["difference"]


def test_every_kind_is_measured_on_both_sides(section: Section) -> None:
    """The large jump hides from its own slope: a surrogate does most where it was made."""
    document = section.document
    for side in ("model", "baseline"):
        assert {*KINDS, "beyond_suite"} == document[side].keys()
        assert "cell" in document[side]["chessboard"]["settings"]
        assert "period" in document[side]["perlin"]["settings"]
    assert document["model"]["uap"]["backward"] != "true"
    assert document["seconds"] > 0
    json.dumps(finite(document), allow_nan=False)


def test_what_the_suite_missed_is_warned_of(section: Section) -> None:
    """Points that fool the file are adversarial inputs that the worst case does not count."""
    beyond = {side: section.document[side]["beyond_suite"] for side in ("model", "baseline")}
    assert min(beyond.values()) > 0
    assert [
        f"Of 60 samples {count} withstood the suite on the {side} but not a universal perturbation "
        "of the same size; the worst case does not count them."
        for side, count in beyond.items()
    ] == section.warnings


def test_networks_that_it_does_not_follow_are_told() -> None:
    """Of the side that has some."""
    denoised = onnxfit.denoise(digits(), 0.05, steps=2)
    found = made(denoised, digits(), data=images(24))
    assert UNFOLLOWED.format("model") in found.warnings
    assert UNFOLLOWED.format("baseline") not in found.warnings


def test_a_model_with_its_channels_last() -> None:
    """Every kind does to it what it does to the model with its channels first."""
    x, y = images(24).spread(24)
    turned = from_arrays(np.moveaxis(x, 1, 3).copy(), y)
    expected = made(digits(), data=images(24)).document["model"]
    found = made(with_channels_last(digits()), data=turned).document["model"]
    for kind in ("chessboard", "perlin"):
        assert expected[kind] == found[kind]


def test_a_strong_suite_leaves_nothing_to_warn_of() -> None:
    """What an ordinary attack breaks is not counted as beyond it."""
    attack = PGD(eps=EPS, steps=20)
    stages = [Stage(name="pgd", attack=attack, family="native")]
    found = made(digits(), data=images(60), stages=stages)
    assert 0 == found.document["model"]["beyond_suite"]
    assert [] == found.warnings
    assert found.document["model"]["uap"]["evasion_rate"] > 0.1


def test_the_same_seed_gives_the_same(section: Section) -> None:
    """But for the time; another one splits otherwise."""
    pair = onnxfit.retrofit(digits(), 0.5), onnxfit.retrofit(digits(), 0.0)
    again, other = (made(*pair, data=images(), seed=seed).document for seed in (0, 1))
    assert {**section.document, "seconds": 0} == {**again, "seconds": 0}
    assert again["model"] != other["model"]


def test_fewer_is_said_only_where_it_is_shown() -> None:
    """Of the adversarially trained network, not of few samples or of a model beside itself."""
    robust, plain = digits("digits_cnn_pgd"), digits()
    said = made(robust, plain, data=images(160)).document["summary"]
    assert said.endswith("the hardened model misclassifies fewer.")
    assert said.startswith("With one perturbation for all, SGD-UAP made on 80 other samples, ")
    said = made(plain, robust, data=images(160)).document["summary"]
    assert said.endswith("the hardened model misclassifies more.")
    for pair, count in (((robust, plain), 20), ((plain, plain), 60)):
        found = made(*pair, data=images(count)).document
        assert found["summary"].endswith("no difference is shown."), found
        assert found["difference"]["p_value"] >= 0.05


def test_a_model_alone_is_compared_with_nothing() -> None:
    """Its share stands with its interval."""
    document = made(digits(), data=images(60)).document
    assert document["difference"] is None
    assert "baseline" not in document
    low, high = document["model"]["uap"]["evasion_rate_ci95"]
    end = f"(95 % interval {100 * low:.1f} % to {100 * high:.1f} %)."
    assert document["summary"].endswith(end)


def test_too_few_samples_are_not_split() -> None:
    """The reason stands in its place."""
    found = made(digits(), data=images(19))
    assert {"reason": "19 samples are too few to be split in two: it takes 20"} == found.document
    assert ([], {}) == (found.warnings, found.deltas)
    assert 10 == made(digits(), data=images(20)).document["made_on"]


def test_no_more_samples_than_a_limit_are_used() -> None:
    """Of many, 500 are, spread over all of them."""
    data = open_data(MODELS / "digits_test.npz")
    twice = from_arrays(*(np.concatenate([values, values]) for values in data.spread(data.n)))
    document = made(digits(), data=twice).document
    assert [250, 250] == [document["made_on"], document["n"]]


def test_without_gradients_only_the_patterns_are_tried() -> None:
    """SGD-UAP has nothing to follow there; the others need nothing."""
    found = made(integers(), data=images(60))
    assert found.document["model"]["uap"] is None
    assert found.document["model"]["perlin"]["evasion_rate"] > 0
    assert found.document["summary"].startswith("No gradient passes through the model")
    assert {} == found.deltas


def test_samples_that_are_no_images_have_no_patterns() -> None:
    """SGD-UAP alone is made."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,2] y) '
        "<float[4,2] w = {0, 1, 0, -2, 0, 0.5, 0, 0.25}> { y = MatMul(x, w) }"
    )
    x = np.random.default_rng(0).uniform(0.2, 0.8, (40, 4)).astype(np.float32)
    labels = (x @ [1, -2, 0.5, 0.25] > 0).astype(np.int64)
    model = made(parse(text), data=from_arrays(x, labels)).document["model"]
    assert [None, None] == [model["chessboard"], model["perlin"]]
    assert model["uap"]["evasion_rate"] > 0


def test_progress_is_told_to_the_end() -> None:
    """What is announced is done, no more and no less."""
    told: dict[str, Any] = {}

    class Told:
        """Adds up what it is told."""

        def __init__(self, total: float, what: str) -> None:
            told.update(total=total, what=what, done=0)

        def __enter__(self) -> Any:
            return lambda count: told.update(done=told["done"] + count)

        def __exit__(self, *_: object) -> None: ...

    made(digits(), onnxfit.retrofit(digits(), 0.5), data=images(30), begin=Told)
    assert "universal perturbations" == told["what"]
    assert told["total"] == told["done"] > 0
