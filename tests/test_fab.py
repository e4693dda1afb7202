"""FAB: the shortest perturbations where they are known, and the plane that it steps onto."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Function,
    Once,
    digits,
    digits_cnn,
    lengths,
    middle_samples,
    nearest,
    of_weights,
    random_linear,
    robust,
)

from onnxfit.attacks.apgd import TargetedAPGD  # noqa: E402
from onnxfit.attacks.fab import FAB, steps_to_plane  # noqa: E402

NORMS = ["linf", "l2"]


def planes(values: int, dtype: Any) -> tuple[Any, Any, Any]:
    """Draw points, some values at a bound, and weights and gaps of planes that cut the bounds."""
    generator = torch.Generator().manual_seed(values)
    uniform = torch.rand(5, 60, values, generator=generator, dtype=torch.float64)
    points = torch.where(uniform[1] < 0.2, uniform[1].round(), uniform[0])
    points = torch.where(uniform[1] > 0.8, uniform[1].round(), points)
    weights = (uniform[2] - 0.5) * torch.exp(6 * uniform[3])
    weights = torch.where(uniform[1] > 0.95, 0.0, weights)
    gaps = (weights * (uniform[4] - points)).sum(1)
    return points.to(dtype), weights.to(dtype), gaps.to(dtype)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("values", [1, 2, 7, 300])
def test_steps_to_a_plane_are_the_shortest_within_bounds(norm: Any, values: int) -> None:
    """As long as the λ that halving an interval finds makes them, and onto the plane."""
    points, weights, gaps = planes(values, torch.float64)
    steps = steps_to_plane(points, weights, gaps, norm, (0.0, 1.0))
    torch.testing.assert_close((weights * steps).sum(1), gaps, rtol=1e-9, atol=1e-9)
    assert float((points + steps).min()) >= 0
    assert float((points + steps).max()) <= 1
    signs = (weights * gaps[:, None]).sign()
    room = torch.where(signs > 0, 1 - points, points)
    pace = torch.ones_like(weights) if norm == "linf" else weights.abs()
    low, high = torch.zeros(len(points), 1).double(), torch.full((len(points), 1), 1e6).double()
    for _ in range(100):
        middle = (low + high) / 2
        short = (weights.abs() * torch.minimum(middle * pace, room)).sum(1) < gaps.abs()
        low = torch.where(short[:, None], middle, low)
        high = torch.where(short[:, None], high, middle)
    expected = signs * torch.minimum(high * pace, room)
    torch.testing.assert_close(lengths(steps, norm), lengths(expected, norm), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_steps_to_a_plane_in_other_bounds(norm: Any) -> None:
    """Scaled and shifted bounds scale the steps, whatever the scale of the weights."""
    points, weights, gaps = planes(9, torch.float32)
    plain = steps_to_plane(points, weights, gaps, norm, (0.0, 1.0))
    scaled = steps_to_plane(4 * points - 2, weights * 2**-60, gaps * 2**-58, norm, (-2.0, 2.0))
    torch.testing.assert_close(4 * plain, scaled)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_out_of_reach_is_approached(norm: Any) -> None:
    """As far as the bounds let it; without weights, and without a gap, nothing moves."""
    points = torch.tensor([[0.25, 0.5, 0.75]] * 3)
    weights = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    steps = steps_to_plane(points, weights, torch.tensor([5.0, 1.0, 0.0]), norm, (0.0, 1.0))
    assert [[0.75, -0.5, 0], [0, 0, 0], [0, 0, 0]] == steps.tolist()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_a_linear_model_gives_the_closed_form(norm: Any, classes: int) -> None:
    """Gap over the length of the weights' difference, in the other norm; least over classes."""
    model = random_linear(classes)
    x, y = middle_samples(model)
    points = FAB(norm=norm, steps=10)(model, x, y)
    assert 0 == robust(model, points, y)
    ratio = lengths(points - x, norm) / nearest(model, x, y, norm)
    assert float(ratio.min()) > 0.99999
    assert float(ratio.max()) < 1.005


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.4), ("l2", 0.17**0.5)])
def test_bounds_that_bind_are_part_of_the_distance(norm: Any, length: float) -> None:
    """A value with room for a tenth leaves four tenths to the other, not a quarter to both."""
    model = of_weights(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0.0, -1.9]))
    x, y = torch.tensor([[0.9, 0.5]]), torch.tensor([0])
    points = FAB(norm=norm)(model, x, y)
    assert 1 == int(model(points).argmax(1))
    assert length < float(lengths(points - x, norm)) < length * 1.005


@pytest.mark.parametrize("norm", NORMS)
def test_eps_decides_what_counts(norm: Any) -> None:
    """Nearer classes are found, and the points are within eps exactly; others stay the sample."""
    model = random_linear(4)
    x, y = middle_samples(model)
    distances = nearest(model, x, y, norm)
    eps = float(distances.median()) * 1.01
    points = FAB(norm=norm, eps=eps, steps=20)(model, x, y)
    moved = lengths(points - x, norm)
    assert torch.equal(distances < eps * 0.995, moved > 0)
    assert torch.equal(moved > 0, model(points).argmax(1) != y)
    assert 0.9 * eps < float(moved.max()) <= eps


def test_a_sample_within_eps_leaves_the_batch() -> None:
    """Of two samples one is found at once; without eps the search goes on with both."""
    weight = torch.tensor([[0.0] * 12, [1.0] * 12])
    x = torch.full((2, 12), 0.5)
    x[1] = 0.25
    y = torch.zeros(2, dtype=torch.long)
    given = {}
    for eps in (0.02, None):
        model = of_weights(weight, torch.tensor([0.0, -6.1]))
        FAB(eps=eps, steps=5)(model, x, y)
        given[eps] = model.calls
    assert [2, 2, 2, *[1] * 8, *[1] * 3] == given[0.02]
    assert [2, *[2] * 10, *[2] * 3] == given[None]


def test_it_agrees_with_a_strong_attack_of_a_budget() -> None:
    """As many digits lie nearer than eps as targeted Auto-PGD breaks with it, but for four."""
    model, (x, y) = digits_cnn(), digits(50)
    points = FAB(steps=30, targets=5)(model, x, y)
    assert 0 == robust(model, points, y)
    assert float(points.min()) >= 0
    assert float(points.max()) <= 1
    far = int((lengths(points - x, "linf") > 0.12).sum())
    left = robust(model, TargetedAPGD(eps=0.12, steps=30, targets=5)(model, x, y), y)
    assert 10 < left < 40
    assert abs(far - left) <= 4


@pytest.mark.parametrize("norm", NORMS)
def test_the_seed_decides(norm: Any) -> None:
    """Of random restarts: the same seed gives the same bits, another seed other ones."""
    model, (x, y) = digits_cnn(), digits(12)
    first, again, other = (
        FAB(norm=norm, steps=6, restarts=3, targets=2, seed=seed)(model, x, y) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_never_lose(norm: Any) -> None:
    """No perturbation gets longer with another random restart, and some get shorter."""
    model, (x, y) = digits_cnn(), digits(12)
    once, thrice = (
        lengths(FAB(norm=norm, steps=6, restarts=restarts, targets=1)(model, x, y) - x, norm)
        for restarts in (1, 3)
    )
    assert (thrice <= once).all()
    assert (thrice < once).any()


def test_what_is_misclassified_stays_as_it_is() -> None:
    """Among others and as a batch of one; a batch of one that is not is attacked."""
    model, (x, y) = digits_cnn(), digits(6)
    y = y.clone()
    y[::2] = (y[::2] + 1) % 10
    run = FAB(steps=10, targets=3)
    points = run(model, x, y)
    assert torch.equal(x[::2], points[::2])
    assert 0 == robust(model, points, y)
    assert torch.equal(x[:1], run(model, x[:1], y[:1]))
    assert 0 == robust(model, run(model, x[1:2], y[1:2]), y[1:2])


@pytest.mark.parametrize("call", [2, 4, 10])
@pytest.mark.parametrize("eps", [None, 0.9])
def test_no_success_is_forgotten(call: int, eps: float | None) -> None:
    """A point that was misclassified once is what comes out."""
    score = Once(call)
    model = Function(score)
    x = torch.full((3, 4), 0.5)
    points = FAB(eps=eps, steps=8)(model, x, torch.zeros(3, dtype=torch.long))
    assert call < score.calls
    assert torch.equal(score.points, points)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_zero_do_not_stop_it(norm: Any) -> None:
    """A model of steps has no gradient anywhere; random points find its other class."""
    model = Function(lambda x: (x[:, 0] - 0.05).round() * 2 - 1 + 0 * x.sum(1))
    x = torch.full((20, 3), 0.5)
    y = torch.zeros(20, dtype=torch.long)
    points = FAB(norm=norm, steps=60)(model, x, y)
    assert 0 == robust(model, points, y)
    assert float(lengths(points - x, norm).min()) < 0.06


@pytest.mark.parametrize("norm", NORMS)
def test_gaps_of_any_size_are_attacked_alike(norm: Any) -> None:
    """Logits ten thousand times as large or as small do not change the distances."""
    found = []
    for scale in (1e-4, 1.0, 1e4):
        model = random_linear(5, scale)
        x, y = middle_samples(model)
        found.append(lengths(FAB(norm=norm, steps=10)(model, x, y) - x, norm))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(found[1], found[2], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 35 / 255), ("l2", 0.9)])
def test_quantized_points_are_levels(norm: Any, eps: float) -> None:
    """Each value is a multiple of 1/255, and the attack breaks nearly as many as without."""
    model, (x, y) = digits_cnn(), digits(30)
    x = (x * 255).round() / 255
    points, free = (
        FAB(eps=eps, norm=norm, steps=15, targets=3, quantize=quantize)(model, x, y)
        for quantize in (True, False)
    )
    levels = points.double() * 255
    assert float((levels - levels.round()).abs().max()) < 1e-4
    assert robust(model, points, y) <= robust(model, free, y) + 2 < robust(model, x, y)


def test_a_smooth_gate_finds_what_the_true_gradient_does_not() -> None:
    """On the network hardened with a large jump, with the same steps."""
    model, (x, y) = digits_cnn(jump=1.0), digits(60)
    left = {
        backward: robust(
            model, FAB(eps=0.1, steps=10, targets=3, backward=backward, tau=0.5)(model, x, y), y
        )
        for backward in ("true", "smooth")
    }
    assert left["smooth"] <= left["true"] - 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "expected steps >= 1, got 0"),
        ({"restarts": 0}, "expected restarts >= 1, got 0"),
        ({"targets": 0}, "expected targets >= 1, got 0"),
        ({"eta": 0.9}, "expected eta >= 1, got 0.9"),
        ({"alpha_max": 1.5}, "expected alpha_max from 0 to 1, got 1.5"),
        ({"beta": -0.1}, "expected beta from 0 to 1, got -0.1"),
        ({"eps": -1.0}, "expected eps >= 0, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, message: str) -> None:
    """With a sentence that says what was expected."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        FAB(**settings)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eta", [1.0, 1.05, 1.5])
def test_a_step_goes_beyond_the_plane_by_eta(norm: Any, eta: float) -> None:
    """From the sample of a linear model: so many times the distance of the other class."""
    model = random_linear(2)
    x, y = middle_samples(model)
    distances = nearest(model, x, y, norm)
    model.inputs.clear()
    FAB(norm=norm, steps=1, eta=eta)(model, x, y)
    # The samples, once more for the gradient, and the points after the first step.
    ratio = lengths(model.inputs[2] - x, norm) / distances
    assert [eta] * len(x) == pytest.approx(ratio.tolist(), rel=1e-3)
