"""HopSkipJump: how near it comes by classes alone, and what that costs."""

import math
from typing import Any

import pytest
from support import MODELS

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Counter,
    Function,
    Linear,
    digits,
    lengths,
    random_images,
)

from onnxfit.attacks import hop_skip_jump  # noqa: E402
from onnxfit.attacks.hop_skip_jump import HopSkipJump, _Walk  # noqa: E402
from onnxfit.attacks.search import Search  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

NORMS = ["linf", "l2"]


def hidden(size: int) -> tuple[Any, Any]:
    """Make a linear model of two classes that gives only these, without gradients; its weights."""
    weights = torch.randn(size, generator=torch.Generator().manual_seed(size))
    weights[0] = 1.0

    def decision(x: Any) -> Any:
        score = (x.flatten(1) - 0.5) @ weights.to(x.dtype)
        return torch.where(score > 0, 1.0, -1.0).to(x.dtype)

    return Function(decision), weights


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "shape", [(1, 4, 4), (3, 2, 3), (10,), (2,), (1, 1, 1), (3, 4, 4)], ids=str
)
def test_the_distance_to_a_plane(norm: Any, shape: tuple[int, ...]) -> None:
    """By classes alone it comes within 5 % of the least distance to a linear model's boundary."""
    size = math.prod(shape)
    model, weights = hidden(size)
    x = random_images(6, *shape) * 0.2 + 0.4
    labels = model(x).argmax(1)
    dual = weights.abs().sum() if norm == "linf" else weights.norm()
    expected = ((x.flatten(1) - 0.5) @ weights).abs() / dual
    points = HopSkipJump(norm=norm, queries=8000, steps=40)(model, x, labels)
    assert (labels != model(points).argmax(1)).all()
    found = lengths(points.double() - x, norm)
    assert (found >= expected * 0.999 - 1e-6).all()
    assert (found <= expected * 1.05 + 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("queries", [1, 2, 17, 60, 300])
def test_queries_are_never_exceeded(norm: Any, queries: int) -> None:
    """One sample alone is given at most so many points beside itself, with quantize too."""
    x, labels = digits(3)
    for quantize in (False, True):
        for i in range(3):
            model = Counter(Target(MODELS / "digits_cnn.onnx").deployed)
            attack = HopSkipJump(norm=norm, queries=queries, quantize=quantize)
            attack(model, (x[i : i + 1] * 255).round() / 255, labels[i : i + 1])
            assert sum(model.calls) <= queries + 1
            for given in model.inputs:
                assert ((given >= 0) & (given <= 1)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_more_queries_come_nearer(norm: Any) -> None:
    """On digits 1500 queries come a quarter nearer than 60 at least."""
    x, labels = digits(8)
    model = Target(MODELS / "digits_cnn.onnx").deployed
    right = model(x).argmax(1) == labels
    few, many = (
        lengths(HopSkipJump(norm=norm, queries=n)(model, x, labels) - x, norm)[right].median()
        for n in (60, 1500)
    )
    assert 0 < float(many) < 0.75 * float(few)


def test_samples_within_eps_leave() -> None:
    """With eps a sample whose point is within it gets no more queries; others go on."""
    x = torch.tensor([[0.52, 0.5], [0.9, 0.9]])
    model = Counter(Linear([1.0, 1.0], -1.0))
    labels = torch.ones(2).long()
    points = HopSkipJump(eps=0.1, queries=400)(model, x, labels)
    assert sum(model.calls) < 2 + 400 + 100
    assert [0, 1] == model.module(points).argmax(1).tolist()
    assert lengths(points.double() - x, "l2")[0] <= 0.1
    assert torch.equal(x[1], points[1])


def test_what_is_wrong_already_is_left_alone() -> None:
    """It is given once and comes back as it is; so does a batch of nothing else."""
    x = torch.tensor([[0.2, 0.2], [0.7, 0.6]])
    model = Counter(Linear([1.0, 1.0], -1.0))
    points = HopSkipJump(queries=100)(model, x, torch.tensor([1, 1]))
    assert torch.equal(x[0], points[0])
    assert 0 == model.module(points)[1:].argmax(1)
    assert sum(model.calls) <= 2 + 100
    model.calls.clear()
    assert torch.equal(x, HopSkipJump(queries=100)(model, x, torch.tensor([1, 0])))
    assert [2] == model.calls


def test_first_points_are_samples_of_other_classes() -> None:
    """A class in a corner that no random image meets is reached from a sample that lies there."""

    def corner(x: Any) -> Any:
        return (x.flatten(1).amin(1) > 0.9).to(x.dtype) - 0.5

    x = torch.cat([torch.full((1, 40), 0.3), torch.linspace(0.95, 1, 40)[None]])
    attack = HopSkipJump(queries=300)
    points = attack(Function(corner), x, torch.tensor([0, 1]))
    assert [1, 0] == Function(corner)(points).argmax(1).tolist()
    assert lengths(points.double() - x, "l2")[0] < 0.65 * 40**0.5


def test_images_of_one_colour_are_tried() -> None:
    """Alone, a sample whose other class is that of bright images is broken too."""

    def bright(x: Any) -> Any:
        return x.flatten(1).mean(1) - 0.8

    x = torch.full((1, 3, 8, 8), 0.3)
    points = HopSkipJump(queries=300)(Function(bright), x, torch.tensor([0]))
    assert 1 == Function(bright)(points).argmax(1)


def test_a_model_of_one_class_leaves_samples_as_they_are() -> None:
    """Where no image is misclassified, the trials end and the samples come back."""
    x = random_images(2, 5)
    model = Counter(Linear([0.0] * 5, 1.0))
    assert torch.equal(x, HopSkipJump()(model, x, torch.ones(2).long()))
    assert 2 + 2 * 100 == sum(model.calls)


@pytest.mark.parametrize("norm", NORMS)
def test_the_seed_decides(norm: Any) -> None:
    """The same seed gives the same points, another one others; the global generator is unused."""
    x, labels = digits(3)
    model = Target(MODELS / "digits_cnn.onnx").twin
    state = torch.random.get_rng_state()
    first, again, other = (
        HopSkipJump(norm=norm, queries=300, seed=seed)(model, x, labels) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("norm", NORMS)
def test_points_of_256_levels(norm: Any) -> None:
    """With quantize every point that comes back is one that 8 bits hold, and misclassified."""
    x, labels = digits(6)
    x = (x * 255).round() / 255
    model = Target(MODELS / "digits_cnn.onnx").twin
    right = model(x).argmax(1) == labels
    points = HopSkipJump(norm=norm, queries=1200, quantize=True)(model, x, labels)
    free = HopSkipJump(norm=norm, queries=1200)(model, x, labels)
    assert ((points * 255 - (points * 255).round()).abs() < 1e-3).all()
    assert (model(points).argmax(1) != labels).all()
    assert right.any()
    ratio = lengths(points.double() - x, norm)[right] / lengths(free.double() - x, norm)[right]
    assert float(ratio.median()) < 1.3


def test_the_nearest_point_is_kept() -> None:
    """What comes back is at most as far away as any misclassified point that was bisected."""
    x = torch.tensor([[0.6, 0.7, 0.5]])
    model = Counter(Linear([1.0, 1.0, 1.0], -1.5))
    points = HopSkipJump(queries=500)(model, x, torch.tensor([1]))
    singles = torch.cat([each for each in model.inputs if len(each) == 1])
    wrong = singles[model.module(singles).argmax(1) == 0]
    assert (
        lengths(points.double() - x, "l2")[0]
        <= float(lengths(wrong.double() - x, "l2").min()) + 1e-9
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "expected queries >= 1, got 0"),
        ({"steps": 0}, "expected steps >= 1, got 0"),
        ({"initial_evaluations": 0}, "expected initial_evaluations >= 1, got 0"),
        ({"max_evaluations": 50}, "expected max_evaluations >= 100, got 50"),
        ({"gamma": 0.0}, r"expected gamma > 0, got 0\.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    """It says what it expected and got."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        HopSkipJump(**settings)


def walk(x: Any, **settings: Any) -> Any:
    """Make the state of an attack on samples above a plane."""
    attack = HopSkipJump(**settings)
    labels = torch.ones(len(x), dtype=torch.long)
    return _Walk(attack, Search(attack, Linear([1.0, 1.0], -1.0), x, labels, None))


def test_the_normal_is_estimated_less_the_mean_of_the_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of four directions by hand: three misclassified, and all of them, which have no baseline."""
    state = walk(torch.tensor([[0.8, 0.8]]), initial_evaluations=4)
    state.points, state.distance = torch.tensor([[0.5, 0.45]]), torch.tensor([0.4])
    directions = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]])
    monkeypatch.setattr(state, "_directions", lambda count: directions)
    for found, signs in (
        ([True, True, True, False], [0.5, 0.5, 0.5, -1.5]),
        ([True] * 4, [1.0] * 4),
    ):
        monkeypatch.setattr(state, "ask", lambda *_, keep, found=found: torch.tensor(found))
        expected = torch.tensor(signs) @ directions
        torch.testing.assert_close((expected / expected.norm())[None], state._normals(1))


@pytest.mark.parametrize("step", [1, 4, 9])
def test_the_first_length_of_a_step(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The distance over the root of the step's number, along the normal."""
    state = walk(torch.tensor([[0.8, 0.8]]))
    state.points, state.distance = torch.tensor([[0.5, 0.45]]), torch.tensor([0.3])
    monkeypatch.setattr(state, "_normals", lambda step: torch.tensor([[0.6, 0.8]]))
    asked = []

    def ask(at: Any, points: Any, *, keep: bool) -> Any:
        asked.append(points)
        return torch.ones(len(at), dtype=torch.bool)

    monkeypatch.setattr(state, "ask", ask)
    state.hop(step)
    length = 0.3 / math.sqrt(step)
    torch.testing.assert_close(
        torch.tensor([[0.5, 0.45]]) + length * torch.tensor([[0.6, 0.8]]), asked[0]
    )


def test_few_samples_are_summed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is kept of them does not grow with the square of their number."""
    monkeypatch.setattr(hop_skip_jump, "_AT_ONCE", 400)
    state = walk(torch.full((25, 2), 0.8), initial_evaluations=4)
    state.points, state.distance = torch.full((25, 2), 0.49), torch.full((25,), 0.4)
    ask, together = state.ask, []

    def spied(at: Any, points: Any, *, keep: bool) -> Any:
        together.append(len(at.unique()))
        return ask(at, points, keep=keep)

    monkeypatch.setattr(state, "ask", spied)
    normals = state._normals(1)
    # Ten of them with four evaluations each have 400 numbers.
    assert [10, 10, 5] == together
    torch.testing.assert_close(torch.ones(25), normals.norm(dim=1))
