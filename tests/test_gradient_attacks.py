"""FGSM, BIM and PGD, and what every attack does around them: checks, traps, bookkeeping."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Constant,
    Counter,
    Function,
    Jumping,
    Linear,
    NanOnce,
    Noisy,
    random_images,
)

from onnxfit.attacks.ball import NORMS, Ball  # noqa: E402
from onnxfit.attacks.gradient import BIM, FGSM, PGD  # noqa: E402
from onnxfit.attacks.losses import LOSSES  # noqa: E402
from onnxfit.attacks.search import Search, with_labels  # noqa: E402
from onnxfit.attacks.surrogates import scales_of  # noqa: E402
from onnxfit.errors import DataError, ModelError  # noqa: E402
from onnxfit.twin.jump_relu import backward  # noqa: E402

KINDS = [FGSM, BIM, PGD]
LINEAR = Linear([1.0, -2.0, 0.0])


def right(model: Any, x: Any, y: Any) -> Any:
    """Say which samples are classified rightly."""
    with torch.no_grad():
        return model(x).argmax(1) == y


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_falls_exactly_where_it_must(kind: Any, norm: Any) -> None:
    """Just beyond |w·x + b| / ‖w‖* it is broken, just below it is not."""
    x, y = torch.tensor([[0.5, 0.2, 0.5]]), torch.tensor([1])
    distance = 0.1 / (3 if norm == "linf" else 5**0.5)
    for share in (0.98, 1.02):
        attack = kind(eps=share * distance, norm=norm)
        found = attack(LINEAR, x, y)
        assert [share < 1] == right(LINEAR, found, y).tolist()
        assert Ball(x, share * distance, norm, (0.0, 1.0)).contains(found).all()
        # Also where nothing is found, the best point is at the edge.
        assert (found - x).abs().max() > 0.5 * distance / 5**0.5


def test_one_step_of_fgsm_is_the_sign_times_eps() -> None:
    """For linf the point by hand, for l2 along the gradient."""
    x, y = torch.tensor([[0.5, 0.2, 0.5]]), torch.tensor([1])
    expected = [0.49, 0.21, 0.5]
    assert expected == pytest.approx(FGSM(eps=0.01)(LINEAR, x, y)[0].tolist(), abs=1e-6)
    expected = [0.5 - 0.01 / 5**0.5, 0.2 + 0.02 / 5**0.5, 0.5]
    found = FGSM(eps=0.01, norm="l2")(LINEAR, x, y)
    assert expected == pytest.approx(found[0].tolist(), abs=1e-6)


def test_the_lengths_of_steps() -> None:
    """What None stands for in each, and in the settings."""
    lengths = [kind(eps=0.2, steps=10).length_of_step for kind in (PGD, BIM)]
    assert [pytest.approx(0.05), pytest.approx(0.02)] == lengths
    assert 0.2 == FGSM(eps=0.2).length_of_step
    for kind in KINDS:
        assert 0.07 == kind(eps=0.2, step_size=0.07).length_of_step
        assert 0.07 == kind(eps=0.2, step_size=0.07).settings["step_size"]
    assert 0.2 == FGSM(eps=0.2).settings["step_size"]


def test_settings_are_json_and_make_the_same_attack() -> None:
    """They can be written down and read again."""
    attack = PGD(eps=0.1, norm="l2", steps=7, loss="dlr", backward="smooth", seed=3)
    written = json.loads(json.dumps(attack.settings))
    assert attack.settings == PGD(**{**written, "bounds": tuple(written["bounds"])}).settings


# The traps.


def test_values_at_the_bounds_have_their_gradient() -> None:
    """Differentiated through a clip to the bounds, a step that left them has no way back."""
    model = Function(lambda x: 0.05 - x.flatten(1).mean(1))
    x, y = torch.zeros(1, 4), torch.tensor([1])
    # The naive attack: a step outward, and from there the gradient is 0 for ever.
    delta = torch.full_like(x, -0.01).requires_grad_()
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model((x + delta).clamp(0, 1)), y)
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = (delta + 0.02 * gradient.sign()).clamp(-0.1, 0.1).detach().requires_grad_()
    naive = (x + delta).detach().clamp(0, 1)
    assert torch.equal(x, naive)
    for kind, norm in itertools.product(KINDS, NORMS):
        found = kind(eps=0.2, norm=norm)(model, x, y)
        assert not right(model, found, y).any(), (kind, norm)


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_large_logits_do_not_hide_the_gradient(scale: float) -> None:
    """The cross-entropy of a confident model underflows to a gradient of 0; ours does not."""
    model = Linear([1.0, -2.0, 0.0], scale=scale)
    x, y = torch.tensor([[0.5, 0.2, 0.5]]), torch.tensor([1])
    leaf = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(leaf), y)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert 0.0 == gradient.abs().max()
    for kind, norm, loss_name in itertools.product(KINDS, NORMS, LOSSES):
        found = kind(eps=0.06, norm=norm, loss=loss_name)(model, x, y)
        assert not right(model, found, y).any(), (kind, norm, loss_name)


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_exactly_0_is_no_reason_to_stay(norm: Any) -> None:
    """On a plateau the sign of 0 moves nothing; a random step does, and finds the edge."""
    model = Function(lambda x: 0.02 - torch.relu((x - 0.5).abs().amax(1) - 0.03))
    x, y = torch.full((8, 3), 0.5), torch.ones(8, dtype=torch.long)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert 0.0 == gradient.abs().max()
    found = BIM(eps=0.1, norm=norm, steps=5, step_size=0.06)(model, x, y)
    assert not right(model, found, y).any()


def test_a_gradient_of_0_in_one_sample_does_not_disturb_the_others() -> None:
    """The random step is for the sample that needs it."""
    model = Function(lambda x: torch.where(x[:, 0] > 0.5, 0.5 * x[:, 1], 0 * x[:, 1]) + 0.1)
    x, y = torch.tensor([[0.9, 0.5], [0.1, 0.5]]), torch.tensor([1, 1])
    found = FGSM(eps=0.1)(model, x, y)
    assert [0.9, 0.4] == pytest.approx(found[0].tolist())
    assert x[0, 0] == found[0, 0]
    assert (found[1] != x[1]).all()


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_no_success_is_forgotten(early_stop: bool, momentum: float) -> None:
    """The path crosses a misclassified strip and is right again beyond it."""

    def strip(x: Any) -> Any:
        return torch.where((x[:, 0] - 0.55).abs() < 0.012, -1.0 - x[:, 0], 1.0 - x[:, 0])

    model, x, y = Function(strip), torch.tensor([[0.5]]), torch.tensor([1])
    points = x
    for _ in range(10):
        points = points + 0.01
    assert right(model, points, y).all()
    attack = BIM(eps=0.1, steps=10, momentum=momentum, early_stop=early_stop)
    assert not right(model, attack(model, x, y), y).any()


def test_the_point_after_the_last_step_counts() -> None:
    """One step that lands beyond the boundary is a success, though no gradient is taken there."""
    x, y = torch.tensor([[0.5, 0.2, 0.5]]), torch.tensor([1])
    assert not right(LINEAR, FGSM(eps=0.04)(LINEAR, x, y), y).any()


# The work.


def test_work_stops_on_broken_samples() -> None:
    """What is misclassified already is looked at once; a broken sample does not come back."""
    n = 10
    x = torch.stack([torch.linspace(0.05, 0.95, n), torch.full((n,), 0.5)], 1)
    model = Counter(Linear([1.0, 0.0], -0.2))
    y = torch.ones(n, dtype=torch.long)
    BIM(eps=0.5, steps=5)(model, x, y)
    # 0.05 and 0.15 are wrong at once; a step of 0.1 each breaks 0.25, then 0.35, …
    assert [10, 8, 8, 7, 6, 5, 4] == model.calls
    # Points stay with their samples: after two steps those from 0.35 on are 0.2 lower.
    assert (x[3:, 0] - 0.2).tolist() == pytest.approx(model.inputs[3][:, 0].tolist(), abs=1e-6)


def test_a_restart_takes_those_that_are_left() -> None:
    """Nothing is spent on what the first one broke, and none follows when nothing is left."""
    model = Counter(Linear([1.0, 0.0], -0.2))
    x = torch.tensor([[0.21, 0.5], [0.9, 0.5]])
    PGD(eps=0.1, steps=3, restarts=2)(model, x, torch.tensor([1, 1]))
    assert 2 == model.calls[0]
    assert 1 == model.calls[-1]
    assert 1 + 2 * (3 + 1) == len(model.calls)
    easy = Counter(Linear([1.0, 0.0], -0.2))
    PGD(eps=0.1, steps=50, restarts=9)(easy, x[:1], torch.tensor([1]))
    assert len(easy.calls) < 52


def test_nothing_is_done_where_everything_is_wrong() -> None:
    """One forward pass, and the samples themselves come back."""
    model = Counter(LINEAR)
    x = random_images(5, 3)
    y = 1 - LINEAR(x).argmax(1)
    for kind in KINDS:
        assert torch.equal(x, kind(eps=0.1)(model, x, y))
    assert [5] * len(KINDS) == model.calls


def test_progress_is_told_as_samples_are_done() -> None:
    """In the end all have been, each once; those that are wrong at once come first."""
    told: list[int] = []
    x = torch.tensor([[0.1, 0.5], [0.25, 0.5], [0.9, 0.5]])
    y = torch.ones(3, dtype=torch.long)
    model = Linear([1.0, 0.0], -0.2)
    BIM(eps=0.2, steps=4)(model, x, y, advance=told.append)
    assert 1 == told[0]
    assert 1 == told[-1]
    assert 3 == sum(told)


def test_without_an_early_stop_every_sample_takes_every_step() -> None:
    """The last point lies deep on the other side, which is what transfers."""
    model = Counter(Linear([1.0, 0.0], -0.2))
    x, y = torch.tensor([[0.25, 0.5], [0.9, 0.5]]), torch.tensor([1, 1])
    found = BIM(eps=0.1, steps=4, early_stop=False)(model, x, y)
    assert [2] * 6 == model.calls
    assert [pytest.approx(0.15), pytest.approx(0.8)] == found[:, 0].tolist()
    stopped = BIM(eps=0.1, steps=4)(model, x, y)
    assert stopped[0, 0] > found[0, 0] + 0.04


def test_momentum_is_that_of_the_paper() -> None:
    """By hand, v ← μ·v + ∇/‖∇‖₁, on a loss whose gradient turns round."""

    def ridge(x: Any) -> Any:
        return 1 + (x[:, 0] - 0.53).abs() * 3 + x[:, 1] * 0

    model, x, y = Counter(Function(ridge)), torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    BIM(eps=0.1, steps=6, step_size=0.02, momentum=1.0)(model, x, y)
    at, velocity, expected = 0.5, 0.0, [0.5]
    for _ in range(6):
        velocity += 1.0 if at < 0.53 else -1.0
        # A velocity of 0 gives way to a random direction: stop before.
        if velocity == 0:
            break
        at += 0.02 * np.sign(velocity)
        expected.append(at)
    assert len(expected) > 3
    seen = [float(points[0, 0]) for points in model.inputs[1 : len(expected) + 1]]
    assert expected == pytest.approx(seen, abs=1e-6)


def test_a_gradient_of_nan_does_not_stay_in_the_momentum() -> None:
    """One NaN costs one step; with the velocity poisoned every later step would be random."""
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    found = BIM(eps=0.1, steps=10, momentum=1.0)(NanOnce(), x, y)
    assert 0.42 == pytest.approx(float(found[0, 0]), abs=1e-4)


# Randomness.


@pytest.mark.parametrize("norm", NORMS)
def test_the_seed_decides(norm: Any) -> None:
    """The same seed, the same bits, whatever torch's own generator did; another, another start."""
    x, y = random_images(6, 1, 5, 5), torch.ones(6, dtype=torch.long)
    model = Linear([0.1] * 25, 1.0)
    first = PGD(eps=0.1, norm=norm, steps=2, seed=1)(model, x, y)
    state = torch.random.get_rng_state()
    again = PGD(eps=0.1, norm=norm, steps=2, seed=1)(model, x, y)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, again)
    quick: dict[str, Any] = {"steps": 1, "step_size": 1e-6}
    starts = [PGD(eps=0.1, norm=norm, seed=seed, **quick)(model, x, y) for seed in (1, 2)]
    assert not torch.equal(*starts)


def test_random_starts_find_what_the_sample_hides() -> None:
    """The gradient at the sample points away from the only way out; restarts help."""

    def hill(x: Any) -> Any:
        return 0.4 - (x[:, 0] - 0.49) ** 2 * 60

    x, y = torch.full((20, 1), 0.5), torch.ones(20, dtype=torch.long)
    model = Function(lambda x: torch.where(x[:, 0] > 0.41, hill(x) + 1, hill(x)))
    assert right(model, BIM(eps=0.1, steps=10)(model, x, y), y).all()
    counts = [
        int((~right(model, PGD(eps=0.1, steps=10, restarts=n)(model, x, y), y)).sum())
        for n in (1, 8)
    ]
    assert 0 < counts[0] < counts[1]


def test_expectation_over_transformation_sees_through_noise() -> None:
    """With noise inside, one gradient is a coin toss; the mean of many is not."""

    def wavy(x: Any) -> Any:
        return x[:, 0] + 0.01 * torch.sin(300 * x[:, 0]) - 0.2

    x, y = torch.full((30, 2), 0.45), torch.ones(30, dtype=torch.long)
    ways = []
    for eot in (1, 60):
        model = Noisy(Function(wavy), 0.05)
        found = FGSM(eps=0.02, eot=eot)(model, x, y)
        ways.append(float((found[:, 0] < x[:, 0]).float().mean()))
    assert ways[0] < 0.75
    assert ways[1] > 0.9
    counter = Counter(LINEAR)
    FGSM(eps=0.001, eot=5)(counter, torch.full((2, 3), 0.9), torch.zeros(2, dtype=torch.long))
    assert [2] * 15 == counter.calls


def test_logits_losses_and_gradients_are_means_over_passes() -> None:
    """Of a model that is the same each time they are those of one pass."""
    x, y = random_images(3, 3), torch.tensor([0, 1, 0])
    found = []
    for eot in (1, 5):
        search = Search(FGSM(eps=0.1, eot=eot), LINEAR, x, y, None)
        found.append([*search.gradient(x, with_labels(LOSSES["ce"], y)), search.logits])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(expected, actual)


# JumpReLU.


def test_the_chosen_slope_is_used_and_put_back() -> None:
    """Only a backward pass that sees across the jump finds the way; what was set stays set."""
    model, x, y = Jumping(), torch.tensor([[0.75, 0.9]]), torch.tensor([0])
    for mode, broken in [("true", False), ("smooth", True), ("straight-through", True)]:
        with backward(model, "relu"):
            found = BIM(eps=0.1, backward=mode, tau=0.5)(model, x, y)
            assert "relu" == model.gate.backward_mode
        assert broken != bool(right(model, found, y)), mode
    assert "true" == model.gate.backward_mode


def test_scales_can_be_given() -> None:
    """A gate too narrow for its site sees nothing, whatever its own scale would have been."""
    model, x, y = Jumping(), torch.tensor([[0.75, 0.9]]), torch.tensor([0])
    attack = BIM(eps=0.1, backward="smooth", tau=0.5)
    assert not right(model, attack(model, x, y, scales={"hidden": 1.0}), y).any()
    assert right(model, attack(model, x, y, scales={"hidden": 1e-4}), y).all()


@pytest.mark.parametrize("tau", [0.25, 0.5])
def test_a_gate_is_as_wide_as_tau_times_its_scale(tau: float) -> None:
    """Within the call, whether the scale was given or measured."""
    model, x, y = Jumping(), torch.tensor([[0.75, 0.9]]), torch.tensor([0])
    seen: list[float] = []
    model.gate.register_forward_hook(lambda gate, *_: seen.append(gate.tau))
    attack = BIM(eps=0.01, backward="smooth", tau=tau, steps=3)
    attack(model, x, y, scales={"hidden": 0.6})
    # The samples' own logits, three steps and the last point.
    assert [1.0, *[tau * 0.6] * 4] == pytest.approx(seen)
    scale = scales_of(model, x)["hidden"]
    seen.clear()
    attack(model, x, y)
    assert [tau * scale] * 4 == pytest.approx(seen[-4:])


# What it is given.


@pytest.mark.parametrize("shape", [(6,), (4, 5), (1, 6, 6), (3, 8, 8), (2, 3, 4, 4)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_samples_of_any_shape_and_number(shape: Any, norm: Any, n: int) -> None:
    """Inside, of the shape and type they had, broken where a linear model must be."""
    d = int(np.prod(shape))
    model = Linear([1.0] * d, -0.4 * d)
    y = torch.ones(n, dtype=torch.long)
    for dtype in (torch.float32, torch.float64):
        x = (random_images(n, *shape, dtype=dtype) * 0.02 + 0.45).to(dtype)
        for kind in KINDS:
            eps = 0.11 if norm == "linf" else 0.11 * d**0.5
            found = kind(eps=eps, norm=norm)(model, x, y)
            assert (x.shape, x.dtype) == (found.shape, found.dtype)
            assert Ball(x, eps, norm, (0.0, 1.0)).contains(found).all()
            assert not right(model, found, y).any()


def test_tensors_of_any_kind() -> None:
    """Strides, layout, graph and NumPy's oddities do not matter, and nothing given is changed."""
    x, y = random_images(4, 3, 6, 6), torch.tensor([1, 0, 1, 0])
    model = Linear([(-1.0) ** i * 0.3 for i in range(108)], 0.5)
    attack = BIM(eps=0.02, steps=3)
    expected = attack(model, x, y)
    assert not torch.equal(x, expected)
    wide = torch.zeros(4, 3, 6, 12)
    wide[..., ::2] = x
    array = x.numpy()
    fixed = array.copy()
    fixed.setflags(write=False)
    kinds = [
        wide[..., ::2],
        x.contiguous(memory_format=torch.channels_last),
        x.clone().requires_grad_(),
        array,
        fixed,
        array[:, ::-1].copy()[:, ::-1],
        array.astype(">f4"),
        np.asfortranarray(array),
    ]
    for given in kinds:
        before = given.copy() if isinstance(given, np.ndarray) else given.detach().clone()
        found = attack(model, given, y)
        assert isinstance(given, np.ndarray) == isinstance(found, np.ndarray)
        torch.testing.assert_close(expected, torch.as_tensor(found), rtol=0, atol=1e-6)
        assert bool((given == before).all())
        if isinstance(found, torch.Tensor):
            assert not found.requires_grad
    for labels in (y.numpy(), y.int(), y.to(torch.uint8), y.numpy().astype(np.uint16)):
        torch.testing.assert_close(expected, attack(model, x, labels), rtol=0, atol=0)


def test_gradients_may_be_off_around_it() -> None:
    """In a ``no_grad`` block it attacks as it does outside."""
    x, y = torch.tensor([[0.5, 0.2, 0.5]]), torch.tensor([1])
    with torch.no_grad():
        found = PGD(eps=0.05)(LINEAR, x, y)
    assert torch.equal(PGD(eps=0.05)(LINEAR, x, y), found)


def test_a_module_is_left_as_it_was() -> None:
    """Each part's mode, the weights' layout, bits and gradients; during the call it evaluates."""
    torch.manual_seed(0)
    parts = [torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5)]
    model = torch.nn.Sequential(*parts, torch.nn.Flatten(), torch.nn.Linear(64, 3))
    model.train()
    model[1].eval()
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides = [parameter.stride() for parameter in model.parameters()]
    x = random_images(4, 1, 6, 6)
    seen: list[bool] = []
    model[2].register_forward_hook(lambda part, *_: seen.append(part.training))
    PGD(eps=0.1, steps=2)(model, x, torch.arange(4) % 3)
    assert seen
    assert not any(seen)
    assert modes == [part.training for part in model.modules()]
    assert strides == [parameter.stride() for parameter in model.parameters()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(DataError):
        PGD(eps=0.1)(model, x, torch.tensor([9, 9, 9, 9]))
    assert modes == [part.training for part in model.modules()]
    assert strides == [parameter.stride() for parameter in model.parameters()]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_quantised_points_can_be_saved_as_images(norm: Any, bounds: Any) -> None:
    """All on the 256 levels and inside; what is broken is broken on the level itself."""
    low, high = bounds
    width = high - low
    numbers = torch.randint(0, 256, (30, 4), generator=torch.Generator().manual_seed(0))
    x = (low + numbers.double() * width / 255).float()
    model = Linear([1.0, -1.0, 0.5, 0.0], 0.1 * width)
    y = model(x).argmax(1)
    eps = 9.7 * width / 255
    found = PGD(eps=eps, norm=norm, bounds=bounds, quantize=True, steps=10)(model, x, y)
    steps = (found.double() - low) * 255 / width
    assert (steps - steps.round()).abs().max() < 1e-3
    moved = steps.round() - numbers
    assert moved.abs().max() <= 9
    assert moved.norm(dim=1).max() <= 9.7 or norm == "linf"
    assert 0 < int((~right(model, found, y)).sum()) < 30


def test_a_point_that_rounding_brings_back_is_no_success() -> None:
    """The boundary is 0.3 levels away: the first point beyond it is nearest to the sample."""
    model, y = Linear([1.0], -99.7 / 255), torch.tensor([1])
    x = torch.tensor([[100 / 255]])
    attack = BIM(eps=2 / 255, step_size=0.4 / 255, steps=5, quantize=True)
    assert 0.001 > abs(99 - float(attack(model, x, y)) * 255)


# What it refuses.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": -0.1}, r"expected eps >= 0, got -0.1"),
        ({"eps": float("nan")}, r"expected eps >= 0, got nan"),
        ({"eps": float("inf")}, r"expected eps >= 0, got inf"),
        ({"norm": "l1"}, r"expected a norm of linf or l2, got 'l1'"),
        ({"bounds": (1.0, 0.0)}, r"expected finite bounds, the lower one first, got \(1.0, 0.0\)"),
        (
            {"bounds": (0.0, float("inf"))},
            r"expected finite bounds, the lower one first, got \(0.0, inf\)",
        ),
        ({"steps": 0}, r"expected steps >= 1, got 0"),
        ({"restarts": 0}, r"expected restarts >= 1, got 0"),
        ({"momentum": -1.0}, r"expected momentum >= 0, got -1.0"),
        ({"step_size": 0.0}, r"expected step_size > 0, got 0.0"),
        ({"loss": "mse"}, r"expected a loss of ce, margin or dlr, got 'mse'"),
        (
            {"backward": "sign"},
            r"expected a backward of true, relu, smooth or straight-through, got 'sign'",
        ),
        ({"tau": 0.0}, r"expected tau > 0, got 0.0"),
        ({"eot": 0}, r"expected eot >= 1, got 0"),
        ({"steps": 1.5}, r"expected a whole number for steps, got 1.5"),
        ({"seed": 1.5}, r"expected a whole number for seed, got 1.5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    """One sentence: what was expected, what it got."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        PGD(**{"eps": 0.1, **settings})


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(2, 3, dtype=torch.uint8),
            [0, 0],
            r"expected float32 or float64 samples N×…, got torch.uint8 of shape \(2, 3\)",
        ),
        (
            torch.zeros(2, 3, dtype=torch.float16),
            [0, 0],
            r"expected float32 or float64 samples N×…, got torch.float16 of shape \(2, 3\)",
        ),
        (
            torch.zeros(3),
            [0, 0, 0],
            r"expected float32 or float64 samples N×…, got torch.float32 of shape \(3,\)",
        ),
        (torch.zeros(2, 3), [0], r"expected 2 integer labels, got torch.int64 of shape \(1,\)"),
        (
            torch.zeros(2, 3),
            [0.0, 1.0],
            r"expected 2 integer labels, got torch.float64 of shape \(2,\)",
        ),
        (torch.zeros(2, 3), [0, -1], r"the label of sample 1 is -1, not a class"),
        (
            torch.zeros(2, 3),
            [0, 2],
            r"the label of sample 1 is 2, but the model has 2 classes, 0 to 1",
        ),
    ],
)
def test_data_that_is_none(x: Any, y: Any, message: str) -> None:
    """One sentence that names the sample or the shape."""
    with pytest.raises(DataError, match=f"^{message}$"):
        FGSM(eps=0.1)(LINEAR, x, np.array(y))


@pytest.mark.parametrize("value", [1.1, -0.01, float("nan")])
def test_values_out_of_bounds(value: float) -> None:
    """NaN is out of bounds too; the sample is named."""
    x = torch.full((3, 3), 0.5)
    x[1, 2] = value
    with pytest.raises(DataError, match=r"^sample 1 has 1 value") as caught:
        FGSM(eps=0.1)(LINEAR, x, torch.zeros(3, dtype=torch.long))
    assert f"{value:g}" in str(caught.value)


def test_samples_between_levels_with_quantize() -> None:
    """The message is the ball's, as an error about the data."""
    message = "^the samples are not on the 256 levels of 8 bits between the bounds$"
    with pytest.raises(DataError, match=message):
        FGSM(eps=0.1, quantize=True)(LINEAR, torch.full((1, 3), 0.5), torch.tensor([0]))


def test_models_that_give_no_logits_or_gradients() -> None:
    """One number for each sample, a constant, a detached result."""
    x, y = torch.full((2, 3), 0.5), torch.tensor([0, 0])
    one = torch.nn.Linear(3, 1)
    message = "^the model gives one number per sample, not the logits of classes$"
    with pytest.raises(ModelError, match=message):
        FGSM(eps=0.1)(one, x, y)
    message = "^no gradient reaches the model's input: its logits do not depend on it$"
    for model in (Function(lambda x: -x[:, 0].detach()), Constant([1.0, 0.0])):
        with pytest.raises(ModelError, match=message):
            FGSM(eps=0.1)(model, x, y)


def test_logits_of_nan_are_no_class() -> None:
    """Such a sample counts as broken and comes back as it is."""
    model = Function(lambda x: torch.where(x[:, 0] > 0.5, float("nan"), 1.0) * x[:, 0])
    x, y = torch.tensor([[0.9], [0.2]]), torch.tensor([1, 1])
    assert torch.equal(x[:1], FGSM(eps=0.01)(model, x, y)[:1])
