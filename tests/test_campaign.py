"""Campaigns: who is attacked, what counts, what an interruption leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import MODELS

import onnxfit
from onnxfit.data import Dataset, from_arrays, open_data
from onnxfit.errors import DataError

torch = pytest.importorskip("torch")

from onnxfit.attacks import PGD  # noqa: E402
from onnxfit.verification.campaign import Campaign, Found  # noqa: E402
from onnxfit.verification.journal import Journal  # noqa: E402
from onnxfit.verification.records import compared, scored  # noqa: E402
from onnxfit.verification.suites import Stage, Threat, stages  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS = MODELS / "digits_cnn.onnx"
EPS = 0.1


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Forty images of digits."""
    return open_data(MODELS / "digits_test.npz", limit=40)


@pytest.fixture(scope="module")
def targets() -> dict[Any, Target]:
    """A hardened network and the one before."""
    hard = Target(onnxfit.retrofit(DIGITS, 0.5))
    return {"model": hard, "baseline": hard.unhardened()}


def attacks(**settings: Any) -> list[Stage]:
    """Make three stages of few steps."""
    budget = {"eps": EPS, "steps": 6, **settings}
    smooth = PGD(**budget, backward="smooth", tau=0.1)
    return [
        Stage(name="pgd", attack=PGD(**budget), family="native", everyone=True),
        Stage(name="pgd-margin", attack=PGD(**budget, loss="margin"), family="native"),
        Stage(name="pgd", attack=smooth, family="surrogate"),
    ]


def run(campaign: Campaign) -> list[Found]:
    """Run to the end."""
    return list(campaign.run())


def test_what_counts_is_the_file(targets: dict[Any, Target], data: Dataset) -> None:
    """Each point that counts fools the file and lies in the ball; the others are the samples."""
    campaign = Campaign(targets, data, attacks())
    (found,) = run(campaign)
    for side, target in targets.items():
        score, points = campaign.scores[side], found.points[side]
        broken = score.finder >= 0
        assert 0 < broken.sum() < data.n
        assert (target.predictions(points[broken]) != found.y[broken]).all()
        np.testing.assert_array_equal(found.x[~broken], points[~broken])
        assert np.abs(points.astype(np.float64) - found.x).max() <= EPS
        np.testing.assert_array_equal(score.robust(), score.correct & ~broken)


def test_a_twin_alone_is_no_success(targets: dict[Any, Target], data: Dataset) -> None:
    """A file that withstands what fools its twin is robust, and the difference is told."""
    hard = targets["model"]

    class Unmoved(Target):
        """Its file says of every point what the labels are."""

        x: Any
        y: Any

        def predictions(self, x: Any) -> Any:
            near = (torch.as_tensor(x)[:, None] - self.x[None]).flatten(2).abs().amax(2)
            return self.y[near.argmin(1).numpy()]

    stubborn = Unmoved(hard.model)
    first = next(data.batches(data.n))
    stubborn.x, stubborn.y = torch.from_numpy(first.x), first.y
    campaign = Campaign({"model": stubborn}, data, attacks()[:1])
    run(campaign)
    document = scored(campaign, "model")
    (record,) = document["attacks"]
    assert record["twin_success"] > 5
    assert 0 == record["deployed_success"]
    assert record["twin_success"] == record["twin_only"]
    assert 1.0 == document["worst_case"]["robust_accuracy"]


def test_later_attacks_are_given_what_is_left(targets: dict[Any, Target], data: Dataset) -> None:
    """Each stage has the survivors of those before it; one for everyone has all that were right."""
    campaign = Campaign(targets, data, attacks())
    run(campaign)
    score = campaign.scores["model"]
    first, second, third = score.tallies
    np.testing.assert_array_equal(score.correct, first.attacked)
    np.testing.assert_array_equal(first.attacked & ~first.deployed, second.attacked)
    np.testing.assert_array_equal(second.attacked & ~second.deployed, third.attacked)
    assert third.deployed.any()


def test_records_agree_with_each_other(targets: dict[Any, Target], data: Dataset) -> None:
    """Counts, shares and the paired difference are of the same samples."""
    campaign = Campaign(targets, data, attacks())
    run(campaign)
    model, baseline = scored(campaign, "model"), scored(campaign, "baseline")
    paired = compared(campaign, "model", "baseline")
    worst, other = (side["worst_case"]["robust_accuracy"] for side in (model, baseline))
    assert pytest.approx(worst - other) == paired["robust_accuracy"]
    assert worst == model["attacks"][-1]["robust_accuracy"]
    assert model["native"]["robust_accuracy"] == model["attacks"][1]["robust_accuracy"]
    assert worst < model["native"]["robust_accuracy"] <= model["clean"]["accuracy"]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_any_batch_size(batch_size: int, targets: dict[Any, Target], data: Dataset) -> None:
    """Without a random start the batch size changes nothing but rounding."""
    few = from_arrays(*next(data.batches(12)))
    chosen = attacks(random_start=False)
    score = {}
    for size in (batch_size, 12):
        campaign = Campaign({"model": targets["model"]}, few, chosen, batch_size=size)
        run(campaign)
        score[size] = campaign.scores["model"].robust()
    np.testing.assert_array_equal(score[12], score[batch_size])


def test_the_same_seed_gives_the_same_bits(targets: dict[Any, Target], data: Dataset) -> None:
    """Two campaigns agree in every bit; another seed starts elsewhere."""
    points = []
    for seed in (3, 3, 4):
        (found,) = run(Campaign(targets, data, attacks(), seed=seed))
        points.append(found.points["model"])
    assert points[0].tobytes() == points[1].tobytes()
    assert points[0].tobytes() != points[2].tobytes()


def test_an_interruption_keeps_what_is_done(
    targets: dict[Any, Target], data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished is not done again, and the end is that of a run without a break."""
    whole = Campaign(targets, data, attacks())
    (expected,) = run(whole)
    calls = 0
    attack = PGD._attack

    def limited(self: PGD, search: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        attack(self, search)

    monkeypatch.setattr(PGD, "_attack", limited)
    stop = 5
    settings = {"kind": "test"}
    broken = Campaign(
        targets, data, attacks(), journal=Journal(tmp_path / "j", settings, resume=False)
    )
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    done, calls, stop = calls, 0, -1
    again = Campaign(
        targets, data, attacks(), journal=Journal(tmp_path / "j", settings, resume=True)
    )
    told: list[int] = []
    again.advance = told.append
    (found,) = run(again)
    assert 6 - (done - 1) == calls
    assert again.work == sum(told)
    for side in targets:
        assert expected.points[side].tobytes() == found.points[side].tobytes()
        for one, other in zip(whole.scores[side].tallies, again.scores[side].tallies, strict=True):
            np.testing.assert_array_equal(one.deployed, other.deployed)
            np.testing.assert_array_equal(one.attacked, other.attacked)


def test_progress_adds_up(targets: dict[Any, Target], data: Dataset) -> None:
    """What advance is told of is the work, whatever breaks when."""
    campaign = Campaign(targets, data, attacks(), batch_size=7)
    told: list[int] = []
    campaign.advance = told.append
    run(campaign)
    assert campaign.work == sum(told)


def test_shards_bound_the_memory(
    targets: dict[Any, Target], data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard holds as many samples as it may, and their numbers go on."""
    monkeypatch.setattr("onnxfit.verification.campaign.SHARD_SAMPLES", 16)
    campaign = Campaign({"model": targets["model"]}, data, attacks()[:1], batch_size=8)
    assert [(0, 16), (16, 16), (32, 8)] == [(f.start, len(f.x)) for f in campaign.run()]
    right = targets["model"].predictions(next(data.batches(data.n)).x) == data.labels
    np.testing.assert_array_equal(right, campaign.scores["model"].correct)


def test_both_models_get_the_same_budget() -> None:
    """The stages do not know which model they are for, and the scales are shared."""
    hard = Target(onnxfit.retrofit(DIGITS, 0.5))
    few = open_data(MODELS / "digits_test.npz", limit=4)
    campaign = Campaign({"model": hard, "baseline": hard.unhardened()}, few, attacks())
    alone = Campaign({"model": hard}, few, attacks())
    assert alone.scales == campaign.scales
    assert min(campaign.scales.values()) >= 0.5


def test_a_label_out_of_range(targets: dict[Any, Target]) -> None:
    """An attack refuses a label that is no class."""
    bad = from_arrays(np.zeros((1, 1, 8, 8), np.float32), np.array([10]))
    attack = PGD(eps=EPS)
    with pytest.raises(DataError):
        attack(targets["model"].twin, *map(torch.from_numpy, next(bad.batches(1))))


def test_the_suites_hold_what_they_say() -> None:
    """Standard has AutoAttack's four, each gradient attack with every surrogate, and the rest."""
    threat = Threat(eps=EPS)
    names = [(s.name, s.backward) for s in stages("standard", threat, jumps=True, transfer=True)]
    surrogates = ["relu", "smooth 0.05", "smooth 0.1", "smooth 0.2", "smooth 0.5"]
    expected = [
        ("fgsm", "true"),
        ("apgd-ce", "true"),
        ("apgd-t", "true"),
        ("fab-t", "true"),
        *(("apgd-ce", backward) for backward in surrogates),
        *(("apgd-t", backward) for backward in surrogates),
        ("noise", "none"),
        ("transfer", "none"),
        ("square", "none"),
        ("hop-skip-jump", "none"),
    ]
    assert expected == names
    plain = {(s.name, s.backward) for s in stages("standard", threat, jumps=False, transfer=False)}
    assert {name for name in expected if name[1] in ("true", "none")} - {
        ("transfer", "none")
    } == plain
