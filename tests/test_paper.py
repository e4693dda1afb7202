"""The paper's protocol: its attacks in normalised units, and its measures."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import MODELS, SHARED, parse

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
from attack_support import Counter, Turning  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.data import Batch  # noqa: E402
from onnxfit.errors import DataError  # noqa: E402
from onnxfit.verification import paper  # noqa: E402
from onnxfit.verification.statistics import wilson  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

MEAN, STD = 0.3, 0.5
NAMES = ["ifgsm", "deepfool-linf", "deepfool-l2", "trust-region-l2"]
ADAPTIVE = "trust-region-adaptive-l2"
DIGITS = MODELS / "digits_cnn.onnx"
# PAPERS.md: LeNetLike baseline at jump 1, images 0 to 999: accuracy and relative noise.
REFERENCE = [(0.810, 0.133), (0.037, 0.315), (0.026, 0.402), (0.988, 0.015)]


def linear(weights: NDArray[np.float32], bias: tuple[float, ...], before: str = "") -> Target:
    """Make a target that computes ``W·x + b`` of normalised samples, N×C."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> '
        f"g (float[N, {weights.shape[1]}] x) => (float[N, {len(weights)}] y) "
        f"{{ {before or 'h = Identity(x)'} y = Gemm<transB = 1>(h, w, b) }}"
    )
    for name, array in (("w", weights), ("b", np.array(bias, np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return Target(model, mean=(MEAN,), std=(STD,))


WEIGHTS = np.array([[0.5, -1, 2, 0.25, 1, -0.5], [-0.5, 1, 1, 0.5, -1, 0.25]], np.float32)
BIAS = (0.1, -0.2)


def samples() -> Batch:
    """Draw samples in the middle, and one that nobody attacks with the bounds' values."""
    random = np.random.default_rng(0)
    x = random.uniform(0.45, 0.55, (12, 6)).astype(np.float32)
    x[0] = [0, 1, 0, 1, 0, 1]
    logits = (x - MEAN) / STD @ WEIGHTS.T + BIAS
    y = logits.argmax(1)
    y[0] = 1 - y[0]
    return Batch(x, y.astype(np.int64))


def gaps(batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return normalised samples, N×6, and by how much the label's logit leads, N."""
    x = (batch.x.astype(np.float64) - MEAN) / STD
    logits = x @ WEIGHTS.T.astype(np.float64) + BIAS
    rows = np.arange(len(x))
    return x, logits[rows, batch.y] - logits[rows, 1 - batch.y]


def expected(batch: Batch, eps: float, steps: int) -> dict[str, tuple[float, float, float]]:
    """Compute accuracy, relative and absolute noise of two linear classes, one sample a time."""
    x, lead = gaps(batch)
    slope = (WEIGHTS[0] - WEIGHTS[1]).astype(np.float64)
    results = {}
    for name in [*NAMES, ADAPTIVE]:
        largest = name in ("ifgsm", "deepfool-linf")
        dual = np.abs(slope).sum() if largest else math.sqrt((slope**2).sum())
        right, relative, absolute = 0, 0.0, 0.0
        for sample, gap in zip(x, lead, strict=True):
            far, moved = gap / dual, 0.0
            longest = eps if "trust-region" in name else math.inf
            for step in range(steps):
                left = far - moved
                if left < 0:
                    break
                # The gap of linear classes decreases as their gradient promises.
                longest *= 1.2 if step and name == ADAPTIVE else 1
                moved += eps if name == "ifgsm" else 1.02 * (min(left, longest) + 1e-4)
            right += far > moved
            size = np.abs(sample).max() if largest else math.sqrt((sample**2).sum())
            relative += moved / size
            absolute += moved
        results[name] = (right / len(x), relative / len(x), absolute / len(x))
    return results


def measures(record: dict[str, Any]) -> tuple[float, float, float]:
    """Return accuracy, relative and absolute noise of a record."""
    noises = record["mean_relative_perturbation"], record["mean_absolute_perturbation"]
    return record["accuracy"], *noises


def digits(n: int) -> Batch:
    """Return test images of digits."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        return Batch(arrays["x"][:n], arrays["y"][:n].astype(np.int64))


@pytest.mark.parametrize(("eps", "steps"), [(0.01, 40), (0.01, 10), (0.03, 6)])
def test_two_linear_classes_have_the_measures_that_the_formulas_give(
    eps: float, steps: int
) -> None:
    """Accuracy and both noises over all samples, whether fooled, not fooled or never attacked."""
    batch = samples()
    target = linear(WEIGHTS, BIAS)
    records = paper.run(target, target, [batch], eps=eps, steps=steps)
    for name, figures in expected(batch, eps, steps).items():
        for record in records:
            if record["name"] in (name, f"transfer-{name}"):
                assert figures == pytest.approx(measures(record), rel=1e-3, abs=1e-6), name
    if (eps, steps) == (0.01, 10):
        accuracies = [record["accuracy"] for record in records]
        assert 0 < accuracies[0] < 1
        assert 0 < accuracies[3] < 1


def test_a_record_holds_what_result_json_asks_for() -> None:
    """Every attack by its name, first on the model itself, then transferred."""
    target = linear(WEIGHTS, BIAS)
    records = paper.run(target, target, [samples()], eps=0.03, steps=9)
    own = [*NAMES, *(f"transfer-{name}" for name in NAMES)]
    assert [*own, ADAPTIVE, f"transfer-{ADAPTIVE}"] == [r["name"] for r in records]
    record = records[3]
    right = round(12 * record["accuracy"])
    low, high = wilson(right, 12)
    assert {
        "name": "trust-region-l2",
        "backward": "true",
        "norm": "l2",
        "eps": 0.03,
        "settings": {
            "steps": 9,
            "units": "normalised",
            "rivals": 9,
            "overshoot": 0.02,
            "trust_radius": 0.03,
        },
        "attacked": 12,
        "twin_success": 12 - right,
        "deployed_success": 12 - right,
        "accuracy": right / 12,
        "robust_accuracy": right / 12,
        "ci95": [low, high],
    } == {
        key: value
        for key, value in record.items()
        if "perturbation" not in key and key != "seconds"
    }
    assert record["seconds"] > 0


def test_the_box_is_that_of_the_batch() -> None:
    """A sample goes no farther than to the largest value in its batch, in this or another one."""
    target = linear(WEIGHTS, (15, 0))
    x = np.full((2, 6), 0.5, np.float32)
    x[0, :2], x[1, :2] = (0.6, 0.4), (1, 0)
    labels = np.zeros(2, np.int64)
    apart = [Batch(x[i : i + 1], labels[:1]) for i in range(2)]
    alone, other, together = (
        paper.run(target, target, batches, eps=0.05, steps=60)[0]
        for batches in (apart[:1], apart[1:], [Batch(x, labels)])
    )
    # From 0.6 to 0.4, from 1 to 0, and both in the box of the second.
    assert 0.2 / STD == pytest.approx(alone["mean_absolute_perturbation"])
    assert 1 / STD == pytest.approx(other["mean_absolute_perturbation"])
    assert (0.6 + 1) / 2 / STD == pytest.approx(together["mean_absolute_perturbation"])


def test_a_gradient_of_0_moves_nothing() -> None:
    """Where the authors' code goes on with NaN; other samples are attacked all the same."""
    target = linear(WEIGHTS, BIAS, "c = Constant<value_float = 0.4>() d = Sub(x, c) h = Relu(d)")
    x = np.full((2, 6), MEAN, np.float32)
    x[1] = 0.9
    records = paper.run(target, target, [Batch(x, np.zeros(2, np.int64))], eps=0.1)
    assert all(math.isfinite(value) for record in records for value in measures(record))
    assert [(1, 0.5)] * 4 == [(r["twin_success"], r["accuracy"]) for r in records[:4]]
    alone = paper.run(target, target, [Batch(x[1:], np.zeros(1, np.int64))], eps=0.1)
    assert 0 == sum(record["mean_absolute_perturbation"] for record in alone)
    # The first sample is 0 after normalisation and has no relative noise: it is left out.
    for record in records[:3]:
        size = (0.9 - MEAN) / STD * (6**0.5 if record["norm"] == "l2" else 1)
        absolute = 2 * record["mean_absolute_perturbation"]
        assert absolute / size == pytest.approx(record["mean_relative_perturbation"])


@pytest.mark.parametrize(
    "attack",
    [paper.SignSteps(step_size=0.05), paper.Linearised(norm="l2"), paper.Linearised(longest=0.1)],
    ids=["ifgsm", "deepfool", "trust region"],
)
def test_work_stops_on_samples_that_are_done(attack: Any) -> None:
    """A misclassified one is never stepped, one without gradient once, others until fooled."""
    counting = Counter(lambda x: torch.relu(x - 0.4) + torch.tensor([0.1, 0.0]))
    x = torch.tensor([[0.1, 0.2], [0.7, 0.5], [0.5, 0.9]])
    found = attack(counting, x, torch.tensor([0, 0, 0]))
    assert [3, 2, 1] == counting.calls[:3]
    assert {1} == set(counting.calls[2:])
    assert torch.equal(x[[0, 2]], found[[0, 2]])
    assert 1 == int(counting(found).argmax(1)[1])


def test_the_accuracy_is_that_of_the_file() -> None:
    """What fools the twin alone is counted apart."""
    target, batch = linear(WEIGHTS, BIAS), samples()
    # A file with another bias, which calls everything class 0.
    target.__dict__["deployed"] = linear(WEIGHTS, (100, -100)).deployed
    right = int((batch.y == 0).sum())
    assert right > 0
    for record in (r for r in paper.run(target, target, [batch]) if "deepfool" in r["name"]):
        assert 12 == record["twin_success"]
        assert 12 - right == record["deployed_success"]
        assert right / 12 == record["accuracy"] == record["robust_accuracy"]
        assert list(wilson(right, 12)) == record["ci95"]


@pytest.mark.parametrize("keep_rival", [True, False])
def test_a_rival_is_kept_or_chosen_at_every_step(keep_rival: bool) -> None:
    """A class that comes nearer on the way turns the steps only where it is chosen anew."""
    attack = paper.Linearised(norm="l2", longest=0.05, keep_rival=keep_rival)
    found = attack(Turning(), torch.tensor([[0.2, 0.5]]), torch.tensor([0]))
    assert 0 != int(Turning()(found).argmax(1))
    assert keep_rival == (float(found[0, 1]) == 0.5)


def test_transferred_attacks_are_made_on_the_plain_model_and_judged_on_the_hardened() -> None:
    """Their noise is that of the plain model's own attacks, their accuracy is not."""
    hard = Target(onnxfit.retrofit(DIGITS, 1.0))
    plain = Target(onnxfit.retrofit(DIGITS, 0.0))
    batches = [digits(40)]
    on_hard = paper.run(hard, plain, batches, eps=0.05, steps=6)
    on_plain = paper.run(plain, plain, batches, eps=0.05, steps=6)
    for transferred, white in zip(on_hard[4:8], on_plain[:4], strict=True):
        assert f"transfer-{white['name']}" == transferred["name"]
        assert measures(white)[1:] == measures(transferred)[1:]
    own = [record["accuracy"] for record in on_plain[:4]]
    assert own != [record["accuracy"] for record in on_hard[4:8]]
    assert own == [record["accuracy"] for record in on_plain[4:8]]
    assert [measures(r)[1:] for r in on_hard[:4]] != [measures(r)[1:] for r in on_plain[:4]]


def test_what_goes_through_the_network_at_a_time_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All is the same in small parts, and each sample is told of once."""
    target, batch = Target(onnxfit.retrofit(DIGITS, 0.5)), digits(20)
    done: list[int] = []
    whole = paper.run(target, target, [batch], eps=0.05, steps=5)
    monkeypatch.setattr(paper, "_CHUNK", 7)
    parts = paper.run(target, target, [batch], eps=0.05, steps=5, advance=done.append)
    assert [7, 7, 6] == done
    for a, b in zip(whole, parts, strict=True):
        assert measures(a) == pytest.approx(measures(b), rel=1e-4)


def test_a_batch_of_one_value_cannot_move() -> None:
    """Its box is a point."""
    target = linear(WEIGHTS, BIAS)
    batch = Batch(np.full((2, 6), 0.5, np.float32), np.array([0, 1]))
    assert [(0.5, 0.0, 0.0)] * 10 == [measures(r) for r in paper.run(target, target, [batch])]


def test_no_samples_are_refused() -> None:
    """There would be nothing to divide by."""
    target = linear(WEIGHTS, BIAS)
    nothing = Batch(np.zeros((0, 6), np.float32), np.zeros(0, np.int64))
    with pytest.raises(DataError) as refused:
        paper.run(target, target, [nothing])
    assert "there are no samples to attack" == str(refused.value)


@pytest.mark.slow
def test_the_reference_figures_of_lenet() -> None:
    """At jump 1, on 1000 images: accuracy within a point, noise within 3 % or 0.001."""
    path = SHARED / "models/derived/jumprelu_lenet_baseline.onnx"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    with np.load(SHARED / "data/mnist_0_4999.npz") as arrays:
        x, y = arrays["x"][:1000] / np.float32(255), arrays["y"][:1000].astype(np.int64)
    target = Target(onnxfit.retrofit(path, 1.0), mean=(0.1307,), std=(0.3081,))
    records = paper.run(target, target, [Batch(x, y)])[:4]
    for (accuracy, noise), record in zip(REFERENCE, records, strict=True):
        assert accuracy == pytest.approx(record["accuracy"], abs=0.01)
        assert noise == pytest.approx(record["mean_relative_perturbation"], rel=0.03, abs=0.001)
