"""Calibration from beginning to end, on networks for handwritten digits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader
from support import MODELS, parse, plain_session

import onnxfit
from onnxfit.errors import DataError, ModelError
from onnxfit.record import provenance

torch = pytest.importorskip("torch")

from onnxfit.calibration.calibrator import calibrate  # noqa: E402
from onnxfit.calibration.measurements import Measurements  # noqa: E402
from onnxfit.calibration.result import Calibration  # noqa: E402
from onnxfit.calibration.selection import Budget  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS, ROBUST = MODELS / "digits_cnn.onnx", MODELS / "digits_cnn_pgd.onnx"
SITES = [site.name for site in onnxfit.find_sites(DIGITS)]
# A branch that nothing else reads: behind a batch normalisation, before a convolution.
SCALED, NORM = "/block1/relu1/Relu_output_0", "block1.conv1.norm"
BEHIND = "block1.conv2.conv.weight"
# Few attacks of few steps, on all samples that the budget needs.
FEW: dict[str, Any] = {"max_drop": 0.02, "eps": 0.1, "steps": 1, "attack_limit": 12, "points": 8}
TWO: dict[str, Any] = {**FEW, "strengths": (0.2, 0.4)}
ONE: dict[str, Any] = {**FEW, "strengths": (0.2,)}
KEYS = [
    "schema_version",
    "headline",
    "improves",
    "objective",
    "scale",
    "norm",
    "eps",
    "quantize",
    "budget",
    "model",
    "data",
    "strength",
    "before",
    "after",
    "difference",
    "curve",
    "refinement",
    "race",
    "environment",
    "parity",
    "sites",
    "warnings",
    "seconds",
]
NO_LABELS = (
    "The samples have no labels: what counts as right is the class that the model named before "
    "hardening."
)

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def data() -> Arrays:
    """Samples of the validation set."""
    with np.load(MODELS / "digits_val.npz") as file:
        return file["x"][:160], file["y"][:160]


@pytest.fixture(scope="module")
def shared(data: Arrays) -> Calibration:
    """One jump for all sites, with strengths of its own choice."""
    return calibrate(DIGITS, data, **FEW)


@pytest.fixture(scope="module")
def quantile(data: Arrays) -> Calibration:
    """A quantile of each site."""
    return calibrate(DIGITS, data, scale="quantile", **FEW)


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Gives samples as the quantiser of ONNX Runtime reads them."""

    def __init__(self, x: ArrayLike, name: str = "image", size: int = 32) -> None:
        values = np.asarray(x)
        self.batches = iter([{name: values[at : at + size]} for at in range(0, len(values), size)])

    def get_next(self) -> dict[str, Any] | None:
        """Return a batch, or None at the end."""
        return next(self.batches, None)


def right(model: ModelProto, data: Arrays) -> NDArray[np.bool_]:
    """Say which samples a model classifies rightly."""
    found: NDArray[np.bool_] = Target(model).predictions(data[0]) == data[1]
    return found


def without_seconds(found: Calibration) -> dict[str, Any]:
    """Return the document but for how long it took."""
    return {key: value for key, value in found.document.items() if key != "seconds"}


def thousandfold() -> ModelProto:
    """Multiply the activations of one layer, and divide the weights behind: the same function."""
    model = onnx.load(DIGITS)
    times = {f"{NORM}.weight": 1000, f"{NORM}.bias": 1000, BEHIND: 1 / 1000}
    for tensor in model.graph.initializer:
        if tensor.name in times:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(times[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def ending_in_probabilities() -> ModelProto:
    """Append a Softmax."""
    model = onnx.load(DIGITS)
    model.graph.node.append(onnx.helper.make_node("Softmax", [model.graph.output[0].name], ["p"]))
    model.graph.output[0].name = "p"
    return model


def test_the_jumps_are_inside_the_budget(shared: Calibration, data: Arrays) -> None:
    """On the samples, by the file that comes out."""
    budget = Budget(max_drop=0.02)
    before, after = right(onnx.load(DIGITS), data), right(shared.harden(), data)
    limit = budget.limit(before, after)
    assert 0 < limit <= 0.02
    assert limit == shared.document["difference"]["drop_limit"]
    assert before.mean() == shared.document["before"]["clean"]["accuracy"]
    assert after.mean() == shared.document["after"]["clean"]["accuracy"]
    strength = shared.document["strength"]
    assert dict.fromkeys(SITES, float(np.float32(strength))) == shared
    assert strength > 0


def test_the_curve_goes_from_nothing_to_beyond_the_budget(shared: Calibration) -> None:
    """It has eight points or more, whose strengths rise from 0."""
    curve = shared.document["curve"]
    strengths = [point["strength"] for point in curve]
    assert len(strengths) >= 8
    assert 0.0 == strengths[0]
    assert sorted(set(strengths)) == strengths
    assert curve[0]["inside"]
    assert not curve[-1]["inside"]
    assert shared.document["strength"] in [p["strength"] for p in curve if p["inside"]]
    for point in curve:
        assert 12 == point["attacked"] == point["common"]["attacked"]
        assert point["robust"] == point["common"]["worst"]
        shares = [point["common"][key]["robust_accuracy"] for key in ("worst", "native")]
        assert 0 <= shares[0] <= shares[1] <= point["clean"]["ci95"][1] <= 1
        assert point["inside"] == (point["drop_limit"] <= 0.02)


def test_the_chosen_one_keeps_most(shared: Calibration) -> None:
    """No strength inside the budget that was tried keeps more samples right under attack."""
    document = shared.document
    inside = [point for point in document["curve"][1:] if point["inside"]]
    best = max(point["robust"]["robust_accuracy"] for point in inside)
    assert best == document["after"]["robust_accuracy"]
    first = next(p for p in inside if p["robust"]["robust_accuracy"] == best)
    assert first["strength"] == document["strength"]
    assert (
        document["curve"][0]["robust"]["robust_accuracy"] == (document["before"]["robust_accuracy"])
    )


def test_the_document(shared: Calibration) -> None:
    """It has its keys and says what was calibrated on what."""
    document = json.loads(shared.to_json())
    assert KEYS == list(document)
    assert 1 == document["schema_version"]
    assert Target(DIGITS).sha256 == document["model"]["sha256"]
    assert str(DIGITS) == document["model"]["path"]
    assert (160, 12, [0.0, 1.0]) == tuple(document["data"][k] for k in ("n", "attacked", "bounds"))
    assert ("shared", "worst-case", "linf", 0.1) == tuple(
        document[key] for key in ("scale", "objective", "norm", "eps")
    )
    assert {"max_drop": 0.02, "confidence": 0.95} == document["budget"]
    assert document["parity"]["agrees"]
    assert [] == document["warnings"]
    assert document["refinement"] is None
    assert SITES == [site["name"] for site in document["sites"]]
    assert list(shared.values()) == [site["jump"] for site in document["sites"]]


def test_the_hardened_model_carries_its_calibration(shared: Calibration) -> None:
    """It passes the checker, runs, tells of its data, and can be taken back."""
    hard = shared.harden()
    onnx.checker.check_model(hard, full_check=True)
    (logits,) = plain_session(hard).run(None, {"image": np.zeros((3, 1, 8, 8), np.float32)})
    assert (3, 10) == logits.shape
    record = provenance(hard)
    assert shared.document["data"]["sha256"] == record["calibration"]["data_sha256"]
    assert shared.document["strength"] == record["calibration"]["strength"]
    assert shared.document["model"]["sha256"] == record["source_sha256"]
    assert dict(shared) == {name: float(np.float32(j)) for name, j in record["jumps"].items()}
    assert onnx.load(DIGITS).SerializeToString() == onnxfit.restore(hard).SerializeToString()
    assert shared.harden().SerializeToString() == hard.SerializeToString()


def test_the_source_is_the_file(tmp_path: Path, data: Arrays) -> None:
    """Also one that protobuf would write otherwise."""
    path = tmp_path / "m.onnx"
    twice = onnx.ModelProto(doc_string="twice").SerializeToString()
    path.write_bytes(twice + DIGITS.read_bytes() + twice)
    found = calibrate(path, data, **ONE)
    assert Target(path).sha256 == provenance(found.harden())["source_sha256"]
    assert Target(found.harden()).was_made_of(Target(path))


def test_strengths_may_be_given(data: Arrays) -> None:
    """Then the curve is of these and 0, and one of them is chosen."""
    found = calibrate(DIGITS, data, **{**FEW, "strengths": [0.1, 0.2, 0.4, 3.0]})
    curve = found.document["curve"]
    assert [0.0, 0.1, 0.2, 0.4, 3.0] == [point["strength"] for point in curve]
    assert [True] * 4 + [False] == [point["inside"] for point in curve]
    assert found.document["strength"] in (0.1, 0.2, 0.4)
    smallest = found.document["headline"].endswith(
        "all that the choice says is that smaller is better."
    )
    assert smallest == (found.document["strength"] == 0.1)


def test_a_quantile_of_each_site(quantile: Calibration) -> None:
    """The jump of a site sets that share of its positive inputs to 0."""
    strength = quantile.document["strength"]
    assert 0 < strength < 1
    for site in quantile.document["sites"]:
        assert strength == pytest.approx(site["zeroed"], abs=0.01)
        assert site["jump"] > 0
    assert 6 == len({*map(float, quantile.values())})
    assert len(quantile.document["curve"]) >= 8
    assert quantile.document["curve"][-1]["strength"] <= 0.98


def test_a_quantile_of_each_channel(data: Arrays) -> None:
    """Jumps are arrays, as retrofit takes them: C×1×1 behind a convolution, C else."""
    found = calibrate(DIGITS, data, scale="channel", **TWO)
    shapes = [np.shape(jump) for jump in found.values()]
    assert [(16, 1, 1)] * 3 + [(32, 1, 1)] * 2 + [(64,)] == shapes
    hard = found.harden()
    onnx.checker.check_model(hard, full_check=True)
    assert found.document["after"]["clean"]["accuracy"] == right(hard, data).mean()
    recorded = np.asarray(onnxfit.inspect(hard).jumps[SITES[0]], np.float32)
    np.testing.assert_array_equal(np.ravel(found[SITES[0]]), recorded)
    for site in found.document["sites"]:
        assert found.document["strength"] == pytest.approx(site["zeroed"], abs=0.05)


def test_refinement_gives_sites_strengths_of_their_own(data: Arrays) -> None:
    """What each site buys and costs is told, and nothing gets worse by it."""
    found = calibrate(DIGITS, data, refine=True, **{**TWO, "attack_limit": 8, "max_drop": 0.05})
    document = found.document
    assert document["refinement"]["tried"] >= document["refinement"]["taken"]
    assert 8 == document["refinement"]["judged_on"]
    for site in document["sites"]:
        assert float(np.float32(site["strength"])) == site["jump"] == found[site["name"]]
        assert {"clean", "robust"} == site["attribution"].keys()
    assert document["difference"]["drop_limit"] <= 0.05
    assert document["difference"]["drop_limit"] == Budget().limit(
        right(onnx.load(DIGITS), data), right(found.harden(), data)
    )
    taken = document["refinement"]["taken"]
    assert (taken > 0) == (len({*map(float, found.values())}) > 1)


def test_the_papers_objective_is_labelled(data: Arrays) -> None:
    """It chooses by native gradients; what it buys is told of all attacks nevertheless."""
    settings = {**FEW, "strengths": (0.5,), "eps": 0.15, "attack_limit": 24, "max_drop": 0.15}
    honest = calibrate(DIGITS, data, **settings).document
    paper = calibrate(DIGITS, data, objective="paper", **settings).document
    assert ("paper", "worst-case") == (paper["objective"], honest["objective"])
    assert [
        "The jump was chosen by native gradients alone, which do not see across the jumps and "
        "overstate robustness; the figures before and after are of all attacks."
    ] == paper["warnings"]
    for point, other in zip(paper["curve"], honest["curve"], strict=True):
        native = point["common"]["native"]
        assert native == point["robust"] == other["common"]["native"]
        worst = point["common"]["worst"]["robust_accuracy"]
        assert worst <= native["robust_accuracy"]
    assert worst < native["robust_accuracy"]
    assert 0.5 == honest["strength"] == paper["strength"]
    seen = paper["curve"][1]["robust"]["robust_accuracy"]
    assert seen - 0.1 > paper["after"]["robust_accuracy"]
    assert honest["before"] == paper["before"]
    assert honest["curve"][1]["robust"]["robust_accuracy"] == honest["after"]["robust_accuracy"]


def test_the_objectives_choose_differently(data: Arrays) -> None:
    """Native gradients prefer a jump that they do not see across, and that costs robustness."""
    settings = {**FEW, "eps": 0.15, "steps": 2, "attack_limit": 48, "max_drop": 0.3}
    honest, paper = (
        calibrate(DIGITS, data, **settings, strengths=(0.1, 0.3, 0.5), objective=objective).document
        for objective in ("worst-case", "paper")
    )
    assert (0.1, 0.3) == (honest["strength"], paper["strength"])
    for document in (honest, paper):
        _, small, large, _ = (point["common"] for point in document["curve"])
        worst, native = (
            [point[kind]["robust_accuracy"] for point in (small, large)]
            for kind in ("worst", "native")
        )
        assert worst[0] > worst[1]
        assert native[0] < native[1]


def test_a_hardened_model_gives_what_its_source_gives(data: Arrays) -> None:
    """Its own jumps are taken back first, which is said."""
    expected = calibrate(onnx.load(DIGITS), data, **ONE)
    found = calibrate(onnxfit.retrofit(DIGITS, 0.7), data, **ONE)
    assert dict(expected) == dict(found)
    said = "The model was hardened already: its jumps were taken back first."
    assert said == found.document["warnings"].pop()
    assert without_seconds(expected) == without_seconds(found)
    assert expected.harden().SerializeToString() == found.harden().SerializeToString()


def test_a_refinement_needs_more_samples(data: Arrays) -> None:
    """Every change that may be tried shares the risk; the sentence says how many are needed."""
    calibrate(DIGITS, data, **FEW)
    message = (
        "a drop of at most 0.02 can only be shown with 276 samples or more with a refinement (149 "
        "without), and there are 160: take more samples or a larger max_drop"
    )
    with pytest.raises(DataError) as raised:
        calibrate(DIGITS, data, refine=True, **FEW)
    assert message == str(raised.value)


def test_a_cache_does_not_change_the_result(
    quantile: Calibration, data: Arrays, tmp_path: Path
) -> None:
    """What another scale, budget or objective has found is no help to the next."""
    cache = tmp_path / "c"
    others: tuple[dict[str, Any], ...] = (
        {"scale": "shared"},
        {"scale": "shared", "objective": "paper"},
        {"scale": "quantile", "max_drop": 0.04},
    )
    for other in others:
        calibrate(DIGITS, data, cache=cache, **{**FEW, **other})
    found = calibrate(DIGITS, data, cache=cache, scale="quantile", **FEW)
    assert without_seconds(quantile) == without_seconds(found)


def test_two_runs_give_the_same(shared: Calibration, data: Arrays) -> None:
    """But for the seconds."""
    again = calibrate(DIGITS, data, **FEW)
    assert without_seconds(shared) == without_seconds(again)


def test_quantiles_do_not_know_the_scale_of_a_layer(quantile: Calibration, data: Arrays) -> None:
    """A thousandfold layer has a thousandfold jump; all that is measured stays as it was."""
    thousand = calibrate(thousandfold(), data, scale="quantile", **FEW)
    assert quantile.document["strength"] == thousand.document["strength"]
    for name in SITES:
        factor = 1000 if name == SCALED else 1
        assert factor * quantile[name] == pytest.approx(thousand[name], rel=2**-10)
    for before, after in zip(quantile.document["curve"], thousand.document["curve"], strict=True):
        assert before["strength"] == after["strength"]
        assert before["clean"] == after["clean"]
        # The last bits of a gradient may decide over a sample at the edge.
        for kind in ("worst", "native"):
            shares = [point["common"][kind]["robust_accuracy"] for point in (before, after)]
            assert abs(shares[0] - shares[1]) * 12 <= 1
    assert [] == thousand.document["warnings"]


def test_one_jump_does_not_fit_a_thousandfold_layer(data: Arrays) -> None:
    """Which is said; the other sites are hardened by a small share alone."""
    document = calibrate(thousandfold(), data, **TWO).document
    assert 1 == len(document["warnings"])
    (said,) = document["warnings"]
    assert said.startswith(f"The inputs of {SCALED!r} are ")
    assert said.endswith(
        "a shared jump that fits the one is nothing or too much for the other. The scale "
        "'quantile' gives each site its own."
    )
    zeroed = {site["name"]: site["zeroed"] for site in document["sites"]}
    assert zeroed[SCALED] < 0.001
    assert min(share for name, share in zeroed.items() if name != SCALED) > 0.05


def test_probabilities_at_the_end(data: Arrays) -> None:
    """The attacks use the logits before them, and that is said."""
    plain = calibrate(DIGITS, data, **ONE)
    found = calibrate(ending_in_probabilities(), data, **ONE)
    said = "The model ends in a Softmax: the attacks use the logits before it."
    assert [said] == found.document["warnings"]
    assert dict(plain) == dict(found)
    for before, after in zip(plain.document["curve"], found.document["curve"], strict=True):
        assert before["clean"] == after["clean"]
        assert before["common"]["native"] == after["common"]["native"]


def test_a_reader_without_labels(data: Arrays) -> None:
    """The class that the model names before hardening is right; the jumps are as with these."""
    x, _ = data
    named = Target(DIGITS).predictions(x)
    expected = calibrate(DIGITS, (x, named), **TWO)
    found = calibrate(DIGITS, Batches(x), **TWO)
    assert dict(expected) == dict(found)
    assert [NO_LABELS] == found.document["warnings"]
    assert "Batches" == str(found.document["data"]["path"])
    for key in ("curve", "before", "after", "sites", "strength"):
        assert expected.document[key] == found.document[key]
    assert 1.0 == found.document["before"]["clean"]["accuracy"]


def test_the_batches_of_a_reader_do_not_matter(data: Arrays) -> None:
    """Nor does what lies behind the limit."""
    x, _ = data
    one, other = (calibrate(DIGITS, Batches(x, size=size), limit=150, **ONE) for size in (7, 64))
    assert 150 == one.document["data"]["n"]
    assert without_seconds(one) == without_seconds(other)


def test_a_reader_of_normalised_samples(data: Arrays) -> None:
    """They are within bounds of their own, which the radius is in units of."""
    x = (data[0] - np.float32(0.5)) / np.float32(0.5)
    settings = {**ONE, "eps": 0.2, "bounds": (-1, 1)}
    expected = calibrate(DIGITS, (x, Target(DIGITS).predictions(x)), **settings)
    found = calibrate(DIGITS, Batches(x), **settings)
    assert dict(expected) == dict(found)
    assert expected.document["curve"] == found.document["curve"]


@pytest.mark.parametrize("settings", [{"mean": (0.5,)}, {"std": (0.5,)}])
def test_a_reader_is_not_normalised_again(settings: dict[str, Any], data: Arrays) -> None:
    """Its samples would be shifted twice."""
    sentence = "^a reader gives samples as the model takes them: give no mean and no std$"
    with pytest.raises(ValueError, match=sentence):
        calibrate(DIGITS, Batches(data[0]), **ONE, **settings)


BAD_BATCHES: dict[str, tuple[Any, str]] = {
    "name": (
        Batches(np.zeros((3, 1, 8, 8)), "pixels"),
        "the reader gives 'pixels', and the model takes 'image'",
    ),
    "empty": (Batches(np.zeros((0, 1, 8, 8))), "the reader gives no samples"),
    "shape": (
        Batches(np.zeros((3, 1, 4, 8))),
        "the model's input 'image' takes samples of shape 1×8×8; those of the data are 1×4×8",
    ),
    "no samples": (
        Batches(np.zeros(3)),
        "the reader gives 'image' of shape (3,), not samples N×…",
    ),
    "words": (
        Batches([["a", "b"]]),
        "the reader gives 'image' that is no array of numbers",
    ),
    "NaN": (
        Batches(np.full((3, 1, 8, 8), np.nan)),
        "the model gives NaN for sample 0 of the reader",
    ),
    "bounds": (
        Batches(np.full((200, 1, 8, 8), 1.5)),
        "Batches: sample 0 has 64 of 64 values that are not within 0 and 1, such as 1.5",
    ),
    "few": (
        Batches(np.zeros((3, 1, 8, 8))),
        "a drop of at most 0.02 can only be shown with 149 samples or more, and there are 3: take "
        "more samples or a larger max_drop",
    ),
}


@pytest.mark.parametrize("kind", BAD_BATCHES)
def test_a_reader_that_does_not_fit(kind: str) -> None:
    """One sentence says why."""
    reader, sentence = BAD_BATCHES[kind]
    with pytest.raises(DataError) as refused:
        calibrate(DIGITS, reader, **TWO)
    assert sentence == str(refused.value)


def test_too_few_samples(data: Arrays) -> None:
    """How many it takes is said, and that many are enough."""
    x, y = data
    with pytest.raises(DataError) as refused:
        calibrate(DIGITS, (x[:148], y[:148]), **TWO)
    sentence = (
        "a drop of at most 0.02 can only be shown with 149 samples or more, and there are 148: "
        "take more samples or a larger max_drop"
    )
    assert sentence == str(refused.value)
    found = calibrate(DIGITS, (x[:149], y[:149]), **{**TWO, "strengths": [1e-6, 1e-5]})
    assert found.document["difference"]["drop_limit"] <= 0.02


def test_a_budget_that_no_jump_meets(data: Arrays) -> None:
    """Which is said, and with which strength."""
    with pytest.raises(DataError, match=r"^no jump meets the budget, not even at the strength 50$"):
        calibrate(DIGITS, data, **{**FEW, "strengths": [50.0, 60.0]})


def test_where_quantiles_are_too_coarse_another_scale_is_named(data: Arrays) -> None:
    """Of few distinct inputs the smallest is many: only a shared jump can be below all of them."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float[2] b = {0, 0.125}> { h = Relu(x) y = Sub(h, b) }"
    )
    y = np.arange(160) % 2
    coarse = np.where(y[:, None] == [0, 1], 0.25, 0).astype(np.float32), y
    for scale in ("quantile", "channel"):
        with pytest.raises(DataError) as refused:
            calibrate(model, coarse, scale=scale, **FEW)
        sentence = (
            "no jump meets the budget, not even at the strength 4.5e-13: try --scale shared, "
            "which has smaller jumps"
        )
        assert sentence == str(refused.value)
    assert 0 < calibrate(model, coarse, scale="shared", **FEW).document["strength"] < 0.25


BAD_SAMPLES: dict[str, tuple[Any, str]] = {
    "labels": (
        lambda x, y: (x, np.where(np.arange(len(y)) == 7, 10, y)),
        "arrays: the label of sample 7 is 10, but the model has 10 classes, 0 to 9",
    ),
    "shape": (
        lambda x, y: (x[:, :, :4], y),
        "the model's input 'image' takes samples of shape 1×8×8; those of the data are 1×4×8",
    ),
    "NaN": (
        lambda x, y: (np.where(np.arange(len(y)) == 150, np.nan, x.T).T.astype(np.float32), y),
        "arrays: sample 150 has 64 of 64 values that are not within 0 and 1, such as nan",
    ),
}


@pytest.mark.parametrize("kind", BAD_SAMPLES)
def test_bad_samples(kind: str, data: Arrays, tmp_path: Path) -> None:
    """One sentence says why, before anything is measured or kept."""
    change, sentence = BAD_SAMPLES[kind]
    with pytest.raises(DataError) as refused:
        calibrate(DIGITS, change(*data), cache=tmp_path / "cache", **TWO)
    assert sentence == str(refused.value)
    assert [] == list(tmp_path.iterdir())


def test_a_model_without_sites(data: Arrays) -> None:
    """There is nothing to calibrate."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,8,8] x) => (float[N,64] y) '
        "{ f = Flatten(x) y = Sigmoid(f) }"
    )
    with pytest.raises(ModelError) as refused:
        calibrate(model, data, **TWO)
    with pytest.raises(ModelError) as expected:
        onnxfit.retrofit(model, 0.0)
    assert str(expected.value) == str(refused.value)


def test_settings_are_checked(data: Arrays) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match=r"^expected a max_drop between 0 and 1, got 0$"):
        calibrate("missing.onnx", data, max_drop=0)
    with pytest.raises(TypeError):
        calibrate("missing.onnx", data, drop=0.1)


def test_float16_networks(data: Arrays) -> None:
    """Jumps are numbers that the type holds; one that is too small for it is 0."""
    model = onnx.load(DIGITS)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    found = calibrate(model, data, **ONE)
    for jump in found.values():
        assert float(np.float16(jump)) == jump
    assert found.document["after"]["clean"]["accuracy"] == right(found.harden(), data).mean()
    tiny = calibrate(model, data, **{**FEW, "strengths": (1e-9,)})
    assert dict.fromkeys(SITES, 0.0) == dict(tiny)
    assert tiny.document["before"] == tiny.document["after"]


@pytest.mark.parametrize("record", ["[1]", '{"data_sha256": null}', "text"])
def test_an_odd_record_of_a_calibration_is_no_warning(record: str, data: Arrays) -> None:
    """Other tools may write there what they like."""
    hard = onnxfit.retrofit(DIGITS, 0.1)
    hard.metadata_props.add(key="onnxfit.calibration", value=record)
    some = (data[0][:20], data[1][:20])
    found = onnxfit.verify(hard, some, suite="quick", steps=1, eps=0.01, min_clean=0.1)
    assert not any("calibrated" in warning for warning in found["warnings"])


def test_a_cache_changes_nothing(
    data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at any attack and gone on with, or called again: the same but for the seconds."""
    settings: dict[str, Any] = {**FEW, "attack_limit": 140, "max_drop": 0.05, "refine": True}
    wanted = calibrate(DIGITS, data, **settings)
    assert len(wanted.document["race"]) > 1
    attack, left = Measurements._attack, 0

    def stopping(self: Measurements, *arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return attack(self, *arguments)

    monkeypatch.setattr(Measurements, "_attack", stopping)
    cache = tmp_path / "cache"
    for _ in range(100):
        left = 7
        try:
            found = calibrate(DIGITS, data, cache=cache, **settings)
            break
        except KeyboardInterrupt:
            continue
    left = 0
    for again in (found, calibrate(DIGITS, data, cache=cache, **settings)):
        assert {**wanted.document, "seconds": 0} == {**again.document, "seconds": 0}


def test_a_large_budget_is_searched_where_jumps_differ(data: Arrays) -> None:
    """No strength is above the largest input, and no choice names one class for all."""
    found = calibrate(DIGITS, data, **{**FEW, "max_drop": 0.95}).document
    assert found["curve"][-1]["strength"] < 1000
    assert found["after"]["clean"]["accuracy"] > 0.2


def test_labels_that_are_not_the_models_are_warned_about(data: Arrays) -> None:
    """A network that is no better than naming one class for all was not given what it knows."""
    x, y = data
    found = calibrate(DIGITS, (x, (y + 1) % 10), **ONE).document
    assert any("are labels, --mean and --std those of the model?" in w for w in found["warnings"])
