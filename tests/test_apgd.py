"""Auto-PGD: what it reaches where the best point is known, what it keeps and what it leaves out."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Counter,
    Function,
    Once,
    digits,
    digits_cnn,
    middle_samples,
    nearest,
    of_weights,
    random_linear,
    robust,
)

from onnxfit.attacks.apgd import APGD, TargetedAPGD, _State, checkpoints  # noqa: E402
from onnxfit.attacks.ball import Ball  # noqa: E402
from onnxfit.attacks.gradient import PGD  # noqa: E402
from onnxfit.attacks.search import Search  # noqa: E402

ATTACKS = [
    pytest.param(APGD, {"loss": "ce"}, id="ce"),
    pytest.param(APGD, {"loss": "dlr"}, id="dlr"),
    pytest.param(APGD, {"loss": "margin"}, id="margin"),
    pytest.param(TargetedAPGD, {}, id="targeted"),
]
NORMS = ["linf", "l2"]


def test_checkpoints_are_those_of_algorithm_1() -> None:
    """Croce and Hein, 2020: p = 0, 0.22, then steps of 0.03 less down to 0.06, rounded up."""
    assert {22, 41, 57, 70, 80, 87, 93, 99} == checkpoints(100)
    assert {3, 5, 6, 7, 8, 9, 10} == checkpoints(10)
    assert {1} == checkpoints(1)


def test_a_checkpoint_goes_back_to_the_best_point_with_half_the_step() -> None:
    """Around a peak that long steps leap over: the point after step 22, and the last one."""
    model = Counter(Function(lambda x: -(x[:, 0] - 0.513).abs() - 1))
    points = APGD(eps=0.1, loss="margin")(model, torch.tensor([[0.5]]), torch.tensor([0]))
    seen = [float(point) for point in model.inputs[1:]]
    best = min(seen[:23], key=lambda value: abs(value - 0.513))
    ahead = min(max(best + (0.1 if best < 0.513 else -0.1), 0.4), 0.6)
    expected = best + 0.75 * (ahead - best) + 0.25 * (best - seen[21])
    assert min(max(expected, 0.4), 0.6) == pytest.approx(seen[23], abs=1e-6)
    assert 0.513 == pytest.approx(float(points), abs=2e-3)


@pytest.mark.parametrize(("attack", "settings"), ATTACKS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_a_linear_model_is_broken_from_its_distance_on(
    attack: Any, settings: Any, norm: Any, classes: int
) -> None:
    """No sample that is farther than eps from another class is broken, and each that is nearer.

    Without a target, the loss may mix several classes: then each that is much nearer.
    """
    model = random_linear(classes)
    x, y = middle_samples(model)
    distances = nearest(model, x, y, norm)
    eps = float(distances.median()) * 1.01
    broken = attack(eps=eps, norm=norm, steps=40, **settings)(model, x, y)
    broken = model(broken).argmax(1) != y
    near = distances < eps * (0.999 if classes == 2 or attack is TargetedAPGD else 0.7)
    assert 2 <= int(near.sum()) < len(x)
    assert broken[near].all()
    assert not broken[distances > eps].any()


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_the_best_point_has_the_highest_margin_within_the_bounds(loss: Any) -> None:
    """Of two classes and linf that is a corner, cut off where the bounds are nearer than eps."""
    model = random_linear(2)
    model.module.bias.copy_(torch.tensor([20.0, -20.0]))
    x = torch.rand(8, 12, generator=torch.Generator().manual_seed(3))
    y = torch.zeros(8, dtype=torch.long)
    expected = (x + 0.4 * (model.module.weight[1] - model.module.weight[0]).sign()).clamp(0, 1)
    points = APGD(eps=0.4, steps=30, loss=loss)(model, x, y)
    torch.testing.assert_close(points, expected)


@pytest.mark.parametrize(("attack", "settings"), ATTACKS)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_points_are_inside_exactly(attack: Any, settings: Any, norm: Any, eps: float) -> None:
    """In double precision: no perturbation is longer than eps, no value outside the bounds."""
    model, (x, y) = digits_cnn(), digits(24)
    points = attack(eps=eps, norm=norm, steps=8, **settings)(model, x, y)
    moved = points.double() - x.double()
    lengths = moved.abs().amax((1, 2, 3)) if norm == "linf" else moved.flatten(1).norm(dim=1)
    assert float(lengths.max()) <= eps
    assert float(lengths.max()) > 0.99 * eps
    assert Ball(x, eps, norm, (0.0, 1.0)).contains(points).all()
    assert robust(model, points, y) < robust(model, x, y)


@pytest.mark.parametrize(("attack", "settings"), ATTACKS)
def test_the_seed_decides(attack: Any, settings: Any) -> None:
    """The same seed gives the same bits, another seed other ones."""
    model, (x, y) = digits_cnn(), digits(12)
    first, again, other = (
        attack(eps=0.05, steps=5, seed=seed, **settings)(model, x, y) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("attack", "settings"), ATTACKS)
def test_what_is_misclassified_stays_as_it_is(attack: Any, settings: Any) -> None:
    """Among others and as a batch of one; a batch of one that is not is attacked."""
    model, (x, y) = digits_cnn(), digits(6)
    y = y.clone()
    y[::2] = (y[::2] + 1) % 10
    run = attack(eps=0.3, steps=10, **settings)
    points = run(model, x, y)
    assert torch.equal(x[::2], points[::2])
    assert 0 == robust(model, points, y)
    assert torch.equal(x[:1], run(model, x[:1], y[:1]))
    assert 0 == robust(model, run(model, x[1:2], y[1:2]), y[1:2])


def test_broken_samples_leave_the_batch() -> None:
    """Of two samples one breaks at the first step; from then on the model is given the other."""
    model = of_weights(torch.tensor([[0.0] * 12, [1.0] * 12]), torch.tensor([0.0, -6.1]))
    x = torch.full((2, 12), 0.5)
    x[1] = 0.25
    points = APGD(eps=0.01, steps=10)(model, x, torch.zeros(2, dtype=torch.long))
    assert [2, 2, 2, *[1] * 9] == model.calls
    assert [1, 0] == model(points).argmax(1).tolist()


def test_each_target_and_restart_takes_so_many_passes() -> None:
    """The samples once, then for each run one a step and one at the end; two rivals."""
    model = random_linear(3)
    x, y = middle_samples(model, count=1)
    TargetedAPGD(eps=1e-4, steps=5, restarts=2, targets=9)(model, x, y)
    assert [1] * (1 + 1 + 2 * 2 * 6) == model.calls


def test_targets_are_the_likeliest_classes() -> None:
    """Where the likeliest rival cannot be reached, the second has to be a target."""
    weight = torch.zeros(3, 200)
    weight[1, 1], weight[2, 0] = 0.01, 2.0
    model = of_weights(weight, torch.tensor([0.0, -0.1, -1.59]))
    x, y = torch.full((1, 200), 0.5), torch.tensor([0])
    left = [
        robust(model, TargetedAPGD(eps=0.3, norm="l2", targets=targets)(model, x, y), y)
        for targets in (1, 2)
    ]
    assert [1, 0] == left


@pytest.mark.parametrize("attack", [APGD, TargetedAPGD])
@pytest.mark.parametrize("call", [1, 3, 7, 11])
def test_no_success_is_forgotten(attack: Any, call: int) -> None:
    """A point that was misclassified once is what comes out, from the start to the last step."""
    score = Once(call)
    model = Function(score)
    x = torch.full((3, 4), 0.5)
    points = attack(eps=0.1, steps=10)(model, x, torch.zeros(3, dtype=torch.long))
    assert call + 1 == score.calls
    assert torch.equal(score.points, points)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_zero_do_not_stop_it(norm: Any) -> None:
    """A model of steps has no gradient anywhere; random directions find its other class."""
    model = Function(lambda x: (x[:, 0] - 0.11).round() * 2 - 1 + 0 * x.sum(1))
    x = torch.full((20, 3), 0.5)
    y = torch.zeros(20, dtype=torch.long)
    left = [
        robust(model, APGD(eps=0.15, norm=norm, steps=steps)(model, x, y), y) for steps in (1, 60)
    ]
    assert left[0] >= 6
    assert left[1] <= 2


@pytest.mark.parametrize(("attack", "settings"), ATTACKS)
def test_large_gaps_are_attacked(attack: Any, settings: Any) -> None:
    """Logits ten thousand times as large, where the cross-entropy underflows, do not hide it."""
    model = random_linear(5, scale=1e4)
    x, y = middle_samples(model)
    distances = nearest(model, x, y, "linf")
    eps = float(distances.median()) * 1.01
    points = attack(eps=eps, steps=20, **settings)(model, x, y)
    assert int((distances > eps).sum()) == robust(model, points, y) == 10


@pytest.mark.parametrize(("attack", "settings"), ATTACKS)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 35 / 255), ("l2", 0.9)])
def test_quantized_points_are_levels(attack: Any, settings: Any, norm: Any, eps: float) -> None:
    """Each value is a multiple of 1/255, and the attack breaks nearly as many as without."""
    model, (x, y) = digits_cnn(), digits(40)
    x = (x * 255).round() / 255
    run = attack(eps=eps, norm=norm, steps=10, quantize=True, **settings)
    points = run(model, x, y)
    levels = points.double() * 255
    assert float((levels - levels.round()).abs().max()) < 1e-4
    free = attack(eps=eps, norm=norm, steps=10, **settings)(model, x, y)
    assert robust(model, points, y) <= robust(model, free, y) + 2 < robust(model, x, y)


def test_a_smooth_gate_finds_what_the_true_gradient_does_not() -> None:
    """On the network hardened with a large jump; the same steps, the same start."""
    model, (x, y) = digits_cnn(jump=1.0), digits(60)
    left = {
        backward: robust(model, APGD(eps=0.1, steps=20, backward=backward, tau=0.5)(model, x, y), y)
        for backward in ("true", "smooth")
    }
    assert left["smooth"] <= left["true"] - 3


def test_it_is_at_least_as_strong_as_pgd() -> None:
    """With as many steps toward each class as PGD has in all."""
    model, (x, y) = digits_cnn(), digits(100)
    weaker = PGD(eps=0.13, steps=30)(model, x, y)
    stronger = TargetedAPGD(eps=0.13, steps=30)(model, x, y)
    assert robust(model, stronger, y) <= robust(model, weaker, y) < 50


def test_more_restarts_break_more() -> None:
    """With few steps the start matters; samples that are broken are not attacked again."""
    model, (x, y) = digits_cnn(), digits(100)
    left = [
        robust(model, APGD(eps=0.1, steps=3, restarts=restarts)(model, x, y), y)
        for restarts in (1, 4)
    ]
    assert left[1] < left[0]


def test_the_best_of_all_restarts_is_kept() -> None:
    """A later restart that comes less near to another class does not replace a point."""
    model, (x, y) = digits_cnn(), digits(20)
    margins = []
    for restarts in (1, 2, 6):
        points = APGD(eps=0.02, steps=2, restarts=restarts, loss="margin")(model, x, y)
        logits = model(points)
        own = logits.gather(1, y[:, None])
        margins.append(logits.scatter(1, y[:, None], -torch.inf).amax(1) - own[:, 0])
    assert (margins[0] <= margins[1]).all()
    assert (margins[1] <= margins[2]).all()
    assert (margins[0] < margins[2]).any()


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (APGD, {"steps": 0}, "expected steps >= 1, got 0"),
        (APGD, {"restarts": 0}, "expected restarts >= 1, got 0"),
        (APGD, {"loss": "mse"}, "expected a loss of ce, margin or dlr, got 'mse'"),
        (APGD, {"norm": "l1"}, "expected a norm of linf or l2, got 'l1'"),
        (TargetedAPGD, {"targets": 0}, "expected targets >= 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(attack: Any, settings: Any, message: str) -> None:
    """With a sentence that says what was expected."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        attack(eps=0.1, **settings)


def test_the_point_of_the_highest_loss_comes_out_not_the_last() -> None:
    """Around a peak that steps leap over, of a sample that stays as it should be."""
    model = Counter(Function(lambda x: -(x[:, 0] - 0.513).abs() - 1))
    points = APGD(eps=0.1, loss="margin", steps=3)(model, torch.tensor([[0.5]]), torch.tensor([0]))
    seen = [float(point) for point in model.inputs[1:]]
    best = min(seen, key=lambda value: abs(value - 0.513))
    assert abs(seen[-1] - 0.513) > abs(best - 0.513) + 1e-3
    assert best == float(points)


def test_both_conditions_of_a_checkpoint() -> None:
    """Croce and Hein, 2020: too few rises, or the same best loss after steps that were kept."""
    x, y = torch.full((4, 2), 0.5), torch.zeros(4, dtype=torch.long)
    search = Search(APGD(eps=0.1), Function(lambda x: x.sum(1) - 9), x, y, None)
    state = _State.start(search, torch.arange(4), y, 0.2)
    state.rises = torch.tensor([8, 8, 8, 7])
    state.halved = torch.tensor([False, True, False, False])
    state.checked = torch.ones(4)
    state.best_losses = torch.tensor([1.0, 1.0, 1.5, 1.5])
    state.check(10)
    assert [True, False, False, True] == state.halved.tolist()
    assert [0.1, 0.2, 0.2, 0.1] == pytest.approx(state.sizes.tolist())
