"""The saliency that a verification measures of a model and its baseline."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

import masking_models  # noqa: E402
from support import MODELS, parse, with_channels_last  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.data import Dataset, from_arrays  # noqa: E402
from onnxfit.report.html import Outcome  # noqa: E402
from onnxfit.verification.campaign import Found, Side  # noqa: E402
from onnxfit.verification.exhibits import Gallery  # noqa: E402
from onnxfit.verification.means import mean_record  # noqa: E402
from onnxfit.verification.saliency import (  # noqa: E402
    FEWEST,
    MEASURES,
    MOST,
    NO_IMAGES,
    RANGES,
    SaliencyStudy,
    maps_of,
)
from onnxfit.verification.settings import Settings  # noqa: E402
from onnxfit.verification.statistics import Interval  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

N = 60
EPS = 0.1


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The first test images."""
    with np.load(MODELS / "digits_test.npz") as data:
        return from_arrays(data["x"][:N], data["y"][:N])


@pytest.fixture(scope="module")
def pair() -> dict[Side, Target]:
    """A hardened network and its baseline."""
    path = MODELS / "digits_cnn.onnx"
    return {"model": Target(onnxfit.retrofit(path, 0.5)), "baseline": Target(path)}


def study(
    targets: dict[Side, Target],
    data: Dataset,
    *,
    shard: int = N,
    broken: NDArray[np.bool_] | None = None,
    gallery: bool = False,
    **settings: Any,
) -> Any:
    """Measure as a campaign does that broke some samples by random signs, half of all."""
    given = {"eps": EPS, "batch_size": 16, **settings}
    looking = SaliencyStudy(targets, data, Settings(**given))
    shown = Gallery(targets, data, 16)
    fooled = np.arange(data.n) % 2 == 0 if broken is None else broken
    scores = {side: SimpleNamespace(finder=np.where(fooled, 0, -1)) for side in targets}
    stage = SimpleNamespace(name="signs", backward="none")
    campaign: Any = SimpleNamespace(scores=scores, stages=[stage])
    rng, start = np.random.default_rng(1), 0
    for x, y in data.batches(shard):
        moves = EPS * np.stack([rng.choice([-1, 1], x.shape[1:]) for _ in x])
        here = fooled[start : start + len(x)].reshape(-1, *[1] * (x.ndim - 1))
        points = np.where(here, np.clip(x + moves, 0, 1), x).astype(np.float32)
        found = Found(start=start, x=x, y=y, points=dict.fromkeys(targets, points))
        for each in (looking, shown) if gallery else (looking,):
            each.look_at(found, campaign)
        start += len(x)
    return shown.exhibits() if gallery else looking.record()


def test_both_models_are_measured_on_the_same_samples(
    pair: dict[Side, Target], digits: Dataset
) -> None:
    """One sample in ten, all measures; half of them are broken, which stability is of."""
    found = study(pair, digits)
    assert (6, None, 20) == (found["n"], found["reason"], found["steps"])
    for side in ("model", "baseline", "difference"):
        assert set(MEASURES) == found[side].keys()
        for name, record in found[side].items():
            broken = name.startswith(("stability", "noise"))
            assert (3 if broken else 6) == record["n"], name
            low, high = record["ci95"]
            assert low <= record["mean"] <= high
            assert np.isfinite([low, high]).all()
    assert 0 < found["model"]["deletion_occlusion"]["mean"] < 1
    # The model is sure of its digits, and occlusion is a better guide than chance.
    assert found["model"]["gain_occlusion"]["ci95"][0] > 0
    assert found["baseline"]["agreement"] != found["model"]["agreement"]


def test_differences_are_paired_and_hold_together(
    pair: dict[Side, Target], digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their mean is that of the models' means, and their intervals are wider than one alone."""
    confidences = set()

    def note(
        values: NDArray[np.float64], confidence: float = 0.95, within: Interval = (-1.0, 1.0)
    ) -> dict[str, Any]:
        confidences.add(confidence)
        return mean_record(values, confidence, within)

    monkeypatch.setattr("onnxfit.verification.saliency.mean_record", note)
    found = study(pair, digits)
    for name in MEASURES:
        expected = found["model"][name]["mean"] - found["baseline"][name]["mean"]
        assert expected == pytest.approx(found["difference"][name]["mean"], abs=1e-12)
    assert {0.95, 1 - 0.05 / len(MEASURES)} == confidences
    same = study({"model": pair["model"], "baseline": pair["model"]}, digits)
    assert {0.0} == {record["mean"] for record in same["difference"].values()}
    assert "difference" not in study({"model": pair["model"]}, digits)


def test_a_model_with_its_channels_last(pair: dict[Side, Target], digits: Dataset) -> None:
    """It is measured as the same model with its channels first."""
    turned = Target(with_channels_last(onnx.load(MODELS / "digits_cnn.onnx")))
    x, y = digits.spread(digits.n)
    data = from_arrays(np.moveaxis(x, 1, 3).copy(), y)
    expected, found = study({"model": pair["baseline"]}, digits), study({"model": turned}, data)
    assert 6 == found["n"]
    for name in MEASURES:
        same = expected["model"][name]["mean"]
        assert same == pytest.approx(found["model"][name]["mean"], abs=1e-4), name
    shown = study({"model": turned}, data, gallery=True)
    assert (8, 8) == shown[0].model.saliency[0].occlusion.shape


def test_intervals_stay_where_values_are(pair: dict[Side, Target], digits: Dataset) -> None:
    """Of two samples alone they would be wider than an area or a correlation can be."""
    x, y = digits.spread(2)
    found = study(pair, from_arrays(x, y), broken=np.ones(2, bool))
    widest = 0
    for name, (low, high) in RANGES.items():
        for side, ends in {
            "model": (low, high),
            "baseline": (low, high),
            "difference": (low - high, high - low),
        }.items():
            interval = found[side][name]["ci95"]
            assert ends[0] <= interval[0] <= interval[1] <= ends[1], (side, name)
            widest += ends == tuple(interval)
    assert widest > 0


@pytest.mark.parametrize("shard", [1, 7])
def test_the_size_of_a_shard_does_not_matter(
    shard: int, pair: dict[Side, Target], digits: Dataset
) -> None:
    """Noise and ties belong to a sample."""
    only: dict[Side, Target] = {"model": pair["model"]}
    whole, parts = study(only, digits)["model"], study(only, digits, shard=shard)["model"]
    for name in MEASURES:
        assert whole[name]["mean"] == pytest.approx(parts[name]["mean"], abs=1e-5), name


def test_a_seed_repeats_all_figures(pair: dict[Side, Target], digits: Dataset) -> None:
    """Another one changes what is random: the order of control and the noise."""
    only: dict[Side, Target] = {"model": pair["model"]}
    first, again, other = (study(only, digits, seed=seed)["model"] for seed in (0, 0, 1))
    assert first == again
    changed = {name for name in MEASURES if first[name] != other[name]}
    random = {"deletion_random", "insertion_random", "gain_gradient", "gain_occlusion"}
    assert changed >= {*random, "noise_gradient", "noise_occlusion"}
    assert changed.isdisjoint({"deletion_occlusion", "agreement", "stability_occlusion"})


def linear() -> onnx.ModelProto:
    """Make a linear classifier of 1×4×4 images; class 1 is that of large values."""
    weights = ", ".join(str(0.1 * (at + 1)) for at in range(16))
    return parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,4,4] x) => (float[N,2] y) '
        f"<float[16,1] w = {{{weights}}}, float[1] zero = {{0.0}}, float[1] half = {{6.8}}> "
        "{ f = Flatten(x) \n s = MatMul(f, w) \n t = Sub(s, half) \n u = Mul(t, zero) \n "
        "y = Concat <axis = 1> (u, t) }"
    )


def images(n: int = 40) -> Dataset:
    """Make images and what the linear classifier says of them."""
    x = np.random.default_rng(0).random((n, 1, 4, 4)).astype(np.float32)
    weights = (0.1 * np.arange(1, 17)).astype(np.float32)
    return from_arrays(x, (x.reshape(n, 16) @ weights > 6.8).astype(np.int64))


def test_the_gradient_of_a_linear_model_is_stable() -> None:
    """It is the same everywhere, and occlusion is not; a whole verification says so."""
    data = images()
    x, y = next(data.batches(40))
    result = onnxfit.verify(linear(), (x, y), suite="quick", eps=0.3, steps=3)
    found = result["saliency"]
    assert 4 == found["n"]
    assert "baseline" not in found
    for name in ("stability_gradient", "noise_gradient"):
        assert 1 == pytest.approx(found["model"][name]["mean"])
        assert found["model"][name]["n"] >= 1
    assert found["model"]["stability_occlusion"]["mean"] < 0.999


def test_without_gradients_there_is_occlusion_alone(digits: Dataset) -> None:
    """What needs a gradient has no value and no interval."""
    found = study({"model": Target(masking_models.integers())}, digits)["model"]
    without = {name for name in MEASURES if found[name]["n"] == 0}
    assert {name for name in MEASURES if "gradient" in name} | {"agreement"} == without
    assert {None} == {found[name][key] for name in without for key in ("mean", "ci95")}


def test_a_gradient_of_nothing_is_no_better_than_chance(digits: Dataset) -> None:
    """A map that is 0 everywhere orders nothing: its order is the random one."""
    found = study({"model": Target(masking_models.staircase())}, digits)["model"]
    assert (0, 6) == (found["gain_gradient"]["mean"], found["gain_gradient"]["n"])
    assert 0 == found["agreement"]["n"]


def test_where_nothing_was_broken_there_is_no_stability(
    pair: dict[Side, Target], digits: Dataset
) -> None:
    """All else is measured."""
    only: dict[Side, Target] = {"model": pair["model"]}
    found = study(only, digits, broken=np.zeros(N, bool))["model"]
    assert {0, 6} == {found["stability_gradient"]["n"], found["agreement"]["n"]}
    assert found["noise_occlusion"]["mean"] is None


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_is_as_far_away_as_the_attack_was(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the norm of the run, before it is clipped; it is not the attack's own direction."""
    x = np.full((40, 1, 4, 4), 0.5, np.float32)
    y = np.ones(40, np.int64)
    seen: list[NDArray[np.float32]] = []

    def note(target: Target, x: NDArray[np.float32], *rest: Any) -> Any:
        seen.append(x)
        return maps_of(target, x, *rest)

    monkeypatch.setattr("onnxfit.verification.saliency.maps_of", note)
    study({"model": Target(linear())}, from_arrays(x, y), norm=norm)
    clean, attacked, noisy = seen
    assert ((4, 1, 4, 4), (2, 1, 4, 4)) == (clean.shape, noisy.shape)
    order = np.inf if norm == "linf" else 2
    lengths = [
        np.linalg.norm((points - 0.5).reshape(2, -1), order, axis=1) for points in (attacked, noisy)
    ]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-5)
    assert np.abs(attacked - noisy).max() > 0.05
    assert np.abs(noisy[0] - noisy[1]).max() > 0.05


@pytest.mark.parametrize(("n", "expected"), [(3, 3), (30, FEWEST), (120, 12), (2000, MOST)])
def test_how_many_samples_are_looked_at(n: int, expected: int) -> None:
    """One in ten, so that it takes a small part of the time, within limits."""
    looking = SaliencyStudy({"model": Target(linear())}, images(n), Settings())
    assert expected == len(looking._rows)


@pytest.mark.parametrize("shape", [(16,), (2, 4, 4), (4, 4), (12, 50, 1), (1, 5, 21)])
def test_samples_that_are_no_images(shape: tuple[int, ...]) -> None:
    """A reason stands in place of the figures."""
    data = from_arrays(np.zeros((8, *shape), np.float32), np.zeros(8, np.int64))
    expected = {"n": 0, "reason": NO_IMAGES}
    assert expected == SaliencyStudy({"model": Target(linear())}, data, Settings()).record()


def test_exhibits_have_maps_of_the_sample_and_of_what_broke_it(
    pair: dict[Side, Target], digits: Dataset
) -> None:
    """Both by each model, those of one that withstood of the sample alone."""
    broken = np.arange(N) < 3
    exhibits = study(pair, digits, broken=broken, gallery=True)
    assert 8 == len(exhibits)
    for exhibit in exhibits:
        for side, target in pair.items():
            outcome: Outcome = getattr(exhibit, side)
            assert (2 if exhibit.index < 3 else 1) == len(outcome.saliency)
            points = [exhibit.x, outcome.adversarial][: len(outcome.saliency)]
            labels = np.full(len(points), exhibit.label)
            expected = maps_of(target, np.stack(points), labels, 16)
            for row, maps in enumerate(outcome.saliency):
                for one, other in zip(expected.of(row), maps, strict=True):
                    assert one is not None
                    assert other is not None
                    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
