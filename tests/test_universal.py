"""Universal perturbations: how they are made, how they are measured, and those by a formula."""

import itertools
import json
import math
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attack_support import Constant, Counter, Function, Jumping, Linear, random_images  # noqa: E402
from support import MODELS  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.attacks import (  # noqa: E402
    UniversalEvasion,
    UniversalPerturbation,
    chessboard,
    perlin,
    universal_evasion_rate,
)
from onnxfit.attacks.ball import NORMS  # noqa: E402
from onnxfit.attacks.evasion import apply  # noqa: E402
from onnxfit.errors import DataError, ModelError  # noqa: E402
from onnxfit.verification.statistics import wilson  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

WEIGHTS = [1.0, -2.0, 0.5]
LINEAR = Linear(WEIGHTS)
# What floats make of it is larger than some and smaller than others.
SIZES = [0.1, 8 / 255, 1 / 3, *(float(np.nextafter(0.1, to)) for to in (0, 1)), 1e-20]


def ones(count: int) -> Any:
    """Return so many labels of class 1."""
    return torch.ones(count, dtype=torch.long)


@cache
def split(name: str) -> tuple[Any, Any]:
    """Return images of digits and their labels: ``val`` or ``test``."""
    with np.load(MODELS / f"digits_{name}.npz") as data:
        return data["x"], data["y"]


@cache
def target() -> Target:
    """Return the network for digits with a small jump."""
    return Target(onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.02))


@cache
def made(goal: int | None = None) -> Any:
    """Make a perturbation on one split."""
    return UniversalPerturbation(eps=0.2, epochs=3, target=goal)(target().twin, *split("val"))


def is_within(delta: Any, eps: float, norm: str) -> bool:
    """Say whether a norm is at most eps, and nearly that, in exact arithmetic."""
    values = [Fraction(float(value)) for value in np.asarray(delta).ravel()]
    if norm == "linf":
        size, limit = max(map(abs, values)), Fraction(eps)
    else:
        size, limit = sum((value**2 for value in values), Fraction()), Fraction(eps) ** 2
    return Fraction(999, 1000) * limit < size <= limit


# What is made.


def test_a_linear_model_has_the_perturbation_that_it_must() -> None:
    """Against the weights: by sign for linf, along them for l2; for a target with them."""
    x, y = random_images(30, 3), ones(30)
    signs = [-0.1, 0.1, -0.1]
    assert signs == pytest.approx(UniversalPerturbation(eps=0.1)(LINEAR, x, y).tolist())
    found = UniversalPerturbation(eps=0.1, target=1)(LINEAR, x, y)
    assert signs == pytest.approx((-found).tolist())
    length = math.hypot(*WEIGHTS)
    expected = [-0.1 * weight / length for weight in WEIGHTS]
    found = UniversalPerturbation(eps=0.1, norm="l2")(LINEAR, x, y)
    assert expected == pytest.approx(found.tolist(), rel=1e-4)


def test_a_step_is_that_of_the_paper() -> None:
    """Along the mean gradient of min(L, cap), as PyTorch differentiates it."""
    (x, _), twin = split("val"), target().twin
    x, y = torch.from_numpy(x[:60]), torch.arange(60) % 10
    directions = {}
    for cap in (9.0, math.inf):
        leaf = x.clone().requires_grad_()
        losses = torch.nn.functional.cross_entropy(twin(leaf), y, reduction="none")
        losses.clamp(max=cap).mean().backward()
        directions[cap] = leaf.grad.mean(0)
    # The cap matters, and does not take everything.
    assert 5 < (losses > 9).sum() < 55
    settings: Any = {"eps": 0.1, "cap": 9.0, "epochs": 1}
    delta = UniversalPerturbation(**settings)(twin, x, y)
    assert torch.equal(0.08 * directions[9.0].sign(), delta)
    delta = UniversalPerturbation(**settings, norm="l2", step_size=0.03)(twin, x, y)
    expected, uncapped = (0.03 * each / each.norm() for each in directions.values())
    assert torch.allclose(expected, delta, atol=1e-6)
    assert not torch.allclose(uncapped, delta, atol=1e-3)


def test_the_default_step_is_a_share_of_eps() -> None:
    """After one batch δ is 0.8 · eps, after two of the same direction eps."""
    x = random_images(8, 3)
    for size, expected in ((8, 0.08), (4, 0.1)):
        delta = UniversalPerturbation(eps=0.1, epochs=1, batch_size=size)(LINEAR, x, ones(8))
        assert expected == pytest.approx(float(delta.abs().max()))
    attack = UniversalPerturbation(eps=0.1)
    assert 0.08 == pytest.approx(attack.settings["step_size"])
    assert 0.07 == UniversalPerturbation(eps=0.1, step_size=0.07).settings["step_size"]
    written = json.loads(json.dumps(attack.settings))
    again = UniversalPerturbation(**{**written, "bounds": tuple(written["bounds"])})
    assert attack.settings == again.settings


def test_what_is_made_on_one_split_works_on_another() -> None:
    """Far better than any of some random signs of the same size; on the file as on the twin."""
    x, y = split("test")
    found = universal_evasion_rate(target().deployed, x, y, made())
    assert found == universal_evasion_rate(target().twin, x, y, made())
    generator = np.random.default_rng(0)
    noise = 0.2 * generator.choice([-1.0, 1.0], (5, *x.shape[1:]))
    others = [universal_evasion_rate(target().twin, x, y, each) for each in noise]
    highest = max(each.of_all_interval[1] for each in others)
    assert highest < found.of_all_interval[0]
    assert found.of_all > 3 * np.mean([each.of_all for each in others])


def test_a_target_is_what_samples_are_taken_for() -> None:
    """More of them than an untargeted perturbation brings there."""
    x, y = split("test")
    aimed, any_class = (
        universal_evasion_rate(target().twin, x, y, made(goal), target=8) for goal in (8, None)
    )
    assert aimed.to_target is not None
    assert any_class.to_target is not None
    assert aimed.to_target > 0.15 + any_class.to_target


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", SIZES)
def test_the_norm_is_never_exceeded(norm: Any, eps: float) -> None:
    """Not by a bit, in exact arithmetic; and it is used up."""
    x, y = random_images(40, 3, 5, 5), ones(40)
    weights = torch.linspace(-1, 1.3, 75).tolist()
    settings: Any = {"eps": eps, "norm": norm, "epochs": 2, "batch_size": 7}
    for dtype in (torch.float32, torch.float64):
        delta = UniversalPerturbation(**settings)(Linear(weights), x.to(dtype), y)
        assert dtype == delta.dtype
        assert (3, 5, 5) == tuple(delta.shape)
        assert is_within(delta, eps, norm)


def test_it_is_of_the_kind_of_the_samples() -> None:
    """NumPy for NumPy, of the same type and with the same values."""
    x, y = random_images(9, 3), ones(9)
    attack = UniversalPerturbation(eps=0.1)
    for dtype in (np.float32, np.float64):
        array = x.numpy().astype(dtype)
        delta = attack(LINEAR, array, y.numpy())
        assert isinstance(delta, np.ndarray)
        assert dtype == delta.dtype
        assert attack(LINEAR, torch.from_numpy(array), y).tolist() == delta.tolist()
        swapped = array.astype(array.dtype.newbyteorder())
        assert delta.tolist() == attack(LINEAR, swapped, y.numpy()).tolist()


# The traps.


def test_values_at_a_bound_have_their_gradient() -> None:
    """One sample pulls δ out of the bounds for two others, which must still pull it back."""
    model = Function(lambda x: (x[:, 0] - 0.25).abs() + 1)
    x = torch.tensor([[0.5], [0.0], [0.0]])
    for seed in range(10):
        attack = UniversalPerturbation(eps=0.1, epochs=1, batch_size=1, seed=seed)
        assert attack(model, x, ones(3)) > 0.01, seed


def test_points_are_clipped() -> None:
    """What the model is given lies within the bounds, δ added."""
    model = Counter(LINEAR)
    x = torch.tensor([[0.95, 0.05, 1.0], [0.0, 1.0, 0.0]])
    UniversalPerturbation(eps=0.3, epochs=2)(model, x, ones(2))
    points = model.inputs[-1]
    assert 0 == points.min()
    assert 1 == points.max()
    expected = [[0.0, 1.0, 0.0], [0.95 - 0.24, 0.05 + 0.24, 0.76]]
    assert expected == [pytest.approx(point) for point in sorted(points.tolist())]


@pytest.mark.parametrize("scale", [1e-30, 1e4, 1.5e38])
@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_underflows_or_overflows(scale: float, norm: Any) -> None:
    """Where all samples are classified with certainty the direction is the same."""
    x = torch.tensor([[0.5, 0.1, 0.5], [0.5, 0.1, 0.5]])
    attack = UniversalPerturbation(eps=0.1, norm=norm)
    expected = attack(LINEAR, x, ones(2)).tolist()
    found = attack(Linear(WEIGHTS, scale=scale), x, ones(2))
    assert expected == pytest.approx(found.tolist(), rel=1e-3)


def test_samples_beyond_the_cap_do_not_pull() -> None:
    """If all are, δ stays where it is; for a target the cap then does not hold."""
    x, y = random_images(5, 3), ones(5)
    assert 0 == UniversalPerturbation(eps=0.1)(Linear(WEIGHTS, -30.0), x, y).abs().max()
    assert 0 < UniversalPerturbation(eps=0.1, cap=40)(Linear(WEIGHTS, -30.0), x, y).abs().min()
    found = UniversalPerturbation(eps=0.1, target=1)(Linear(WEIGHTS, -30.0), x, 0 * y)
    assert [0.1, -0.1, 0.1] == pytest.approx(found.tolist())
    # One of two beyond the cap: the other alone decides.
    model = Function(lambda x: torch.where(x[:, 0] > 0.5, -20 - 9 * x[:, 1], x[:, 1]))
    x = torch.tensor([[0.9, 0.5], [0.1, 0.5]])
    assert UniversalPerturbation(eps=0.1)(model, x, ones(2))[1] < 0


def test_a_plateau_is_left_at_random() -> None:
    """A gradient of 0 everywhere is no reason to stay at 0; values with no gradient are left."""
    flat = Function(lambda x: torch.relu(x[:, 0] - 2) + 1)
    for norm in NORMS:
        attack = UniversalPerturbation(eps=0.1, norm=norm)
        delta = attack(flat, random_images(4, 3), ones(4))
        assert 0 < delta.abs().min()
        assert is_within(delta, 0.1, norm)
    half = Function(lambda x: x[:, 0])
    assert 0 == UniversalPerturbation(eps=0.1)(half, random_images(4, 2), ones(4))[1]


def test_a_gradient_of_nan_does_not_spoil_the_others() -> None:
    """One sample has NaN, the other decides."""
    model = Function(lambda x: x[:, 1] + torch.where(x[:, 0] > 0.5, float("nan"), 0.0) * x[:, 0])
    x = torch.tensor([[0.9, 0.5], [0.1, 0.5]])
    for norm in NORMS:
        delta = UniversalPerturbation(eps=0.1, norm=norm)(model, x, ones(2))
        assert [0, -0.1] == pytest.approx(delta.tolist(), rel=1e-3)


@pytest.mark.parametrize("mode", ["relu", "smooth", "straight-through"])
def test_the_slope_of_a_jump_relu_is_chosen(mode: str) -> None:
    """Below its jump the true slope is 0, the others see across; scales can be given."""
    model, x, y = Jumping(), torch.tensor([[0.75, 0.9], [0.7, 0.9]]), torch.tensor([0, 0])
    assert 0 == UniversalPerturbation(eps=0.1)(model, x, y)[0]
    attack = UniversalPerturbation(eps=0.1, backward=mode)
    assert attack(model, x, y)[0] > 0.05
    if mode == "smooth":
        # So narrow a gate that nothing is seen from here.
        assert 0 == attack(model, x, y, scales={"hidden": 1e-6})[0]


# What a call leaves behind, and what it depends on.


def unsteady() -> Any:
    """Return a module in training, where dropout makes all random, with one part that is not."""
    head = torch.nn.Linear(6, 3)
    head.bias.requires_grad_(False).zero_()
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1.1, 18).reshape(3, 6).cos())
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5), head).train()
    model[0].eval()
    return model


def test_the_module_is_evaluated_and_left_as_it_was() -> None:
    """Modes, weights, their gradients and who wants some are the same after it."""
    model = unsteady()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = random_images(200, 6)
    y = model[2](x).argmax(1)
    attack = UniversalPerturbation(eps=0.1, batch_size=60)
    assert torch.equal(attack(model, x, y), attack(model, x, y))
    found = universal_evasion_rate(model, x, y, torch.zeros(6))
    assert model[1].training
    assert not model[0].training
    frozen = [name for name, each in model.named_parameters() if not each.requires_grad]
    assert ["2.bias"] == frozen
    assert all(parameter.grad is None for parameter in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [200, 0] == [found.n_correct, found.evaded]


def test_the_seed_decides_and_nothing_else_random() -> None:
    """The same each time whatever was drawn before; another seed, another order."""
    x, y = (values[:150] for values in split("val"))
    found = {}
    for seed, state in itertools.product((0, 1), (3, 4)):
        torch.manual_seed(state)
        attack = UniversalPerturbation(eps=0.1, epochs=1, batch_size=40, seed=seed)
        found[seed, state] = attack(target().twin, x, y)
    assert np.array_equal(found[0, 3], found[0, 4])
    assert not np.array_equal(found[0, 3], found[1, 3])


def test_each_epoch_takes_each_sample_once_in_another_order() -> None:
    """In batches of the size asked for, the last one smaller; and that is told."""
    x = (torch.arange(10.0) / 10)[:, None]
    told: list[int] = []
    model = Counter(Linear([0.0]))
    # A step this small does not hide which sample it is.
    attack = UniversalPerturbation(eps=0.001, epochs=3, batch_size=4)
    attack(model, x, ones(10), advance=told.append)
    assert [1, *[4, 4, 2] * 3] == model.calls
    assert [4, 4, 2] * 3 == told
    seen = torch.cat(model.inputs[1:]).mul(10).round().flatten().int().reshape(3, 10).tolist()
    assert [list(range(10))] * 3 == [sorted(order) for order in seen]
    assert 3 == len({tuple(order) for order in seen})


# What it does to samples.


def test_the_counts_by_hand() -> None:
    """Class 1 above 0.5; δ = −0.1 turns one of three, two were wrong before."""
    x = torch.tensor([[0.4], [0.55], [0.7], [0.9], [0.2]])
    y, delta = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([-0.1])
    model = Linear([1.0], -0.5)
    for size in (1, 2, 5, 9):
        found = universal_evasion_rate(model, x, y, delta, batch_size=size, target=0)
        expected = {"n": 5, "n_correct": 3, "evaded": 3, "evaded_correct": 1}
        assert UniversalEvasion(**expected, n_others=3, reached=2) == found
        plain = universal_evasion_rate(model, x, y, delta, batch_size=size)
        assert UniversalEvasion(**expected) == plain
    assert [0.6, pytest.approx(1 / 3), pytest.approx(2 / 3)] == [
        found.of_all,
        found.of_correct,
        found.to_target,
    ]
    assert [wilson(3, 5), wilson(1, 3), wilson(2, 3)] == [
        found.of_all_interval,
        found.of_correct_interval,
        found.to_target_interval,
    ]
    assert plain.to_target is None
    assert plain.to_target_interval is None


def test_a_share_of_nothing_is_none() -> None:
    """Where no sample is right before, and where all are of the target."""
    x, y = torch.tensor([[0.9]]), torch.tensor([0])
    found = universal_evasion_rate(Linear([1.0], -0.5), x, y, torch.zeros(1), target=0)
    assert [1.0, None, None] == [found.of_all, found.of_correct, found.to_target]
    assert [None, None] == [found.of_correct_interval, found.to_target_interval]


def test_a_logit_of_nan_is_misclassified() -> None:
    """And not taken for the target, though argmax names a class."""
    model = Function(lambda x: torch.where(x[:, 0] > 0.5, float("nan"), 1.0) * x[:, 0])
    x, y = torch.tensor([[0.45], [0.2], [0.9]]), torch.tensor([1, 1, 1])
    found = universal_evasion_rate(model, x, y, torch.tensor([0.1]))
    assert [3, 2, 2, 1] == [found.n, found.n_correct, found.evaded, found.evaded_correct]
    aimed = universal_evasion_rate(model, x, 0 * y, torch.tensor([0.1]), target=1)
    assert [3, 1] == [aimed.n_others, aimed.reached]


def test_applying_adds_and_clips() -> None:
    """Of the kind and type of the samples, within their bounds."""
    x, delta = np.array([[0.0, 0.5], [0.3, 1.0]], dtype=np.float32), np.array([-0.2, 0.3])
    expected = [0, 0.8, 0.1, 1]
    found = apply(x, delta)
    assert isinstance(found, np.ndarray)
    assert np.float32 == found.dtype
    assert expected == pytest.approx(found.ravel().tolist())
    tensor = apply(torch.from_numpy(x).double(), torch.from_numpy(delta).float())
    assert torch.float64 == tensor.dtype
    assert expected == pytest.approx(tensor.flatten().tolist())
    assert [-0.2, 0.8, 0.1, 0.9] == pytest.approx(apply(x, delta, (-1.0, 0.9)).ravel().tolist())
    assert [0.0, 0.5, 0.3, 1.0] == pytest.approx(x.ravel().tolist())


def test_bounds_other_than_0_and_1() -> None:
    """They hold for what is made and for what is measured."""
    x, y = 200 * random_images(20, 3) - 100, ones(20)
    model, bounds = Counter(Linear(WEIGHTS, scale=0.01)), (-100.0, 100.0)
    delta = UniversalPerturbation(eps=30.0, bounds=bounds)(model, x, y)
    assert [-30.0, 30.0, -30.0] == pytest.approx(delta.tolist())
    universal_evasion_rate(model, x, y, delta, bounds)
    assert -100 == min(float(points.min()) for points in model.inputs[1:])
    assert 100 == max(float(points.max()) for points in model.inputs[1:])
    assert model.inputs[-1].min() < -90


# Those by a formula.


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", SIZES)
def test_patterns_have_their_norm(norm: Any, eps: float) -> None:
    """Not a bit more, in exact arithmetic; for linf every value has it."""
    patterns = [
        chessboard((3, 8, 10), eps, norm, 2),
        perlin((3, 8, 10), eps, norm, period=4, octaves=2),
        perlin((1, 1, 1), eps, "linf", period=4) if norm == "linf" else chessboard((1, 1, 1), eps),
    ]
    for delta in patterns:
        assert np.float32 == delta.dtype
        assert is_within(delta, eps, norm)
        if norm == "linf":
            assert 1 == len(np.unique(np.abs(delta)))
    for delta in patterns[:2]:
        assert (3, 8, 10) == delta.shape
        assert (delta == delta[:1]).all()


def test_a_chessboard_by_hand() -> None:
    """Fields of one and of two pixels, the first positive; also where they do not come out even."""
    one = np.array([[1, -1, 1], [-1, 1, -1]])
    assert (one == np.sign(chessboard((3, 2, 3), 0.1))).all()
    two = np.array([[1, 1, -1], [1, 1, -1], [-1, -1, 1]])
    assert (two == np.sign(chessboard((1, 3, 3), 0.1, "l2", 2)[0])).all()
    assert 0.1 / 3 == pytest.approx(chessboard((1, 3, 3), 0.1, "l2", 2)[0, 0, 0], rel=1e-4)


def test_perlin_noise_is_that_of_its_definition() -> None:
    """Pixel by pixel: gradients at the corners of a cell, faded into each other, in octaves."""
    generator = np.random.default_rng(5)
    expected = np.zeros((6, 8))
    for octave, (rows, columns) in enumerate([(2, 2), (4, 4)]):
        angles = generator.uniform(0, 2 * np.pi, (rows, columns))
        for i, j in itertools.product(range(6), range(8)):
            y, x = (i + 0.5) * rows / 6, (j + 0.5) * columns / 8
            value = 0.0
            for down, right in itertools.product((0, 1), repeat=2):
                row, column = int(y) + down, int(x) + right
                angle = angles[row % rows, column % columns]
                away = abs(y - row), abs(x - column)
                share = math.prod(1 - (6 * t**5 - 15 * t**4 + 10 * t**3) for t in away)
                value += share * (math.sin(angle) * (y - row) + math.cos(angle) * (x - column))
            expected[i, j] += value / 2**octave
    settings: Any = {"period": 3.6, "octaves": 2, "seed": 5}
    found = perlin((1, 6, 8), 0.1, "l2", **settings)[0]
    assert np.allclose(0.1 * expected / np.linalg.norm(expected), found, atol=1e-5)
    assert (np.sign(expected) == np.sign(perlin((1, 6, 8), 0.1, **settings)[0])).all()


def test_perlin_noise_is_seamless_and_smooth() -> None:
    """It changes no more across the border than inside; less the longer its period is."""
    changes = {}
    for period in (8, 16, 32):
        noise = perlin((1, 64, 96), 1.0, "l2", period=period)[0]
        for axis in (0, 1):
            inside = np.abs(np.diff(noise, axis=axis))
            across = np.abs(noise - np.roll(noise, 1, axis)).take(0, axis)
            assert across.max() <= 1.1 * inside.max()
        changes[period] = np.abs(np.diff(noise)).mean() / np.abs(noise).mean()
    assert 0.5 == pytest.approx(changes[16] / changes[8], rel=0.25)
    assert 0.5 == pytest.approx(changes[32] / changes[16], rel=0.25)


def test_perlin_noise_goes_by_its_seed() -> None:
    """The same for the same, another for another; longer than the image is one period."""
    first, again, other = (perlin((1, 8, 8), 0.1, period=4, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    longest, longer = (perlin((1, 8, 8), 0.1, "l2", period=period) for period in (8, 1e9))
    assert np.array_equal(longest, longer)


# Bad input.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0}, "expected eps > 0, got 0"),
        ({"eps": -0.1}, "expected eps > 0, got -0.1"),
        ({"eps": float("nan")}, "expected eps > 0, got nan"),
        ({"eps": float("inf")}, "expected eps > 0, got inf"),
        ({"norm": "l1"}, "expected a norm of linf or l2, got 'l1'"),
        ({"bounds": (1.0, 0.0)}, r"expected finite bounds, the lower one first, got \(1.0, 0.0\)"),
        ({"epochs": 0}, "expected epochs >= 1, got 0"),
        ({"batch_size": 0}, "expected batch_size >= 1, got 0"),
        ({"step_size": 0.0}, "expected step_size > 0, got 0.0"),
        ({"cap": 0.0}, "expected cap > 0, got 0.0"),
        ({"cap": float("nan")}, "expected cap > 0, got nan"),
        ({"target": -1}, "expected target >= 0, got -1"),
        ({"target": 1.5}, "expected a whole number for target, got 1.5"),
        ({"seed": -1}, "expected seed >= 0, got -1"),
        ({"tau": 0.0}, "expected tau > 0, got 0.0"),
        ({"backward": "up"}, "expected a backward of .*, got 'up'"),
    ],
)
def test_settings_out_of_range(settings: Any, message: str) -> None:
    """One sentence that names the setting and what it was."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        UniversalPerturbation(**{"eps": 0.1, **settings})


X = torch.full((2, 3), 0.5)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X.half(), [0, 0], r"expected float32 or float64 samples N×…, got torch.float16 .*"),
        (X, [0], r"expected 2 integer labels, got torch.int64 of shape \(1,\)"),
        (X, [0, -1], "the label of sample 1 is -1, not a class"),
        (X, [0, 2], "the label of sample 1 is 2, but the model has 2 classes, 0 to 1"),
        (X + 0.6, [0, 0], "sample 0 has 3 values that are not within 0 and 1, such as 1.1"),
        (X * math.nan, [0, 0], "sample 0 has 3 values that are not within .*, such as nan"),
        (X[:0], [], "there is no sample to .* a universal perturbation .*"),
    ],
)
def test_data_that_is_none(x: Any, y: Any, message: str) -> None:
    """The same sentences where it is made and where it is measured."""
    labels = np.array(y, dtype=np.int64)
    with pytest.raises(DataError, match=f"^{message}$"):
        UniversalPerturbation(eps=0.1)(LINEAR, x, labels)
    with pytest.raises(DataError, match=f"^{message}$"):
        universal_evasion_rate(LINEAR, x, labels, torch.zeros(3))


def test_models_that_do_not_fit() -> None:
    """No logits, no gradient, no such class."""
    y = torch.tensor([0, 0])
    message = "^the model gives one number per sample, not the logits of classes$"
    one = torch.nn.Linear(3, 1)
    with pytest.raises(ModelError, match=message):
        UniversalPerturbation(eps=0.1)(one, X, y)
    with pytest.raises(ModelError, match=message):
        universal_evasion_rate(one, X, y, torch.zeros(3))
    message = "^the model has 2 classes, 0 to 1, but no class 2$"
    with pytest.raises(ModelError, match=message):
        UniversalPerturbation(eps=0.1, target=2)(LINEAR, X, y)
    for goal in (2, -1):
        with pytest.raises(ModelError, match=message.replace("class 2", f"class {goal}")):
            universal_evasion_rate(LINEAR, X, y, torch.zeros(3), target=goal)
    message = "^no gradient reaches the model's input: its logits do not depend on it$"
    for model in (Constant([1.0, 0.0]), target().deployed):
        x = X if isinstance(model, Constant) else torch.zeros(2, 1, 8, 8)
        with pytest.raises(ModelError, match=message):
            UniversalPerturbation(eps=0.1)(model, x, y)


def test_perturbations_that_do_not_fit() -> None:
    """Of another shape, or not finite."""
    message = r"^expected a perturbation of the samples' shape \(3,\), got \(1, 3\)$"
    for call in (
        lambda delta: apply(X, delta),
        lambda delta: universal_evasion_rate(LINEAR, X, torch.tensor([0, 0]), delta),
    ):
        with pytest.raises(DataError, match=message):
            call(torch.zeros(1, 3))
        with pytest.raises(DataError, match="not finite"):
            call(torch.tensor([0.0, math.nan, 0.0]))
    with pytest.raises(ValueError, match=r"^expected batch_size >= 1, got 0$"):
        universal_evasion_rate(LINEAR, X, torch.tensor([0, 0]), torch.zeros(3), batch_size=0)


EXPECTED = r"^expected the shape of an image, C×H×W or H×W×C, got \("


def test_patterns_with_the_channels_last() -> None:
    """They are those of the same image with its channels first."""
    for channels in (1, 3, 4):
        for make in (chessboard, lambda shape, eps: perlin(shape, eps, period=4)):
            expected = np.moveaxis(make((channels, 8, 12), 0.1), 0, 2)
            np.testing.assert_array_equal(expected, make((8, 12, channels), 0.1))


def test_patterns_of_many_channels() -> None:
    """They are the same in all of them, as many as there are."""
    for shape in ((64, 8, 8), (4, 4, 4), (16, 32, 8)):
        for make in (chessboard, lambda shape, eps: perlin(shape, eps, period=4)):
            expected = np.repeat(make((1, *shape[1:]), 0.1), shape[0], axis=0)
            np.testing.assert_array_equal(expected, make(shape, 0.1))


def test_patterns_that_cannot_be() -> None:
    """Shapes that are no image, and settings out of range."""
    for shape in ((8, 8), (1, 1, 8, 8), (1, 0, 8)):
        for make in (chessboard, lambda shape, eps: perlin(shape, eps, period=4)):
            with pytest.raises(DataError, match=EXPECTED):
                make(shape, 0.1)
    shape = (1, 8, 8)
    with pytest.raises(ValueError, match=r"^expected cell >= 1, got 0$"):
        chessboard(shape, 0.1, cell=0)
    with pytest.raises(ValueError, match=r"^expected eps > 0, got 0$"):
        chessboard(shape, 0)
    with pytest.raises(ValueError, match=r"^expected a norm of linf or l2, got 'l1'$"):
        chessboard(shape, 0.1, "l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^expected period > 0, got 0$"):
        perlin(shape, 0.1, period=0)
    with pytest.raises(ValueError, match=r"^expected octaves >= 1, got 0$"):
        perlin(shape, 0.1, period=4, octaves=0)
