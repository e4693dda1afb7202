"""The trust-region attack: steps toward one class, no longer than the gradient can be trusted."""

from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Counter,
    Turning,
    double_linear,
    in_units,
    known_digits,
    lengths,
    near_middle,
)

from onnxfit.attacks.deepfool import NUDGE, DeepFool  # noqa: E402
from onnxfit.attacks.trust_region import TrustRegion  # noqa: E402
from onnxfit.twin.jump_relu import JumpReLU  # noqa: E402

NORMS = ("linf", "l2")


def distances(model: Any, x: Any, labels: Any, norm: str) -> Any:
    """Return the distances to the nearest boundaries of a linear classifier, N, in a norm."""
    logits = model(x)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = model.weight[labels][:, None] - model.weight
    sizes = slopes.abs().sum(2) if norm == "linf" else slopes.square().sum(2).sqrt()
    return (gaps / sizes).nan_to_num(torch.inf).amin(1)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_classifier_is_left_within_a_step_of_the_shortest_way(
    norm: Any, adaptive: bool
) -> None:
    """However many steps it takes; only their overshoot is added."""
    model = double_linear()
    x, y = near_middle(model, 8)
    shortest = distances(model, x, y, norm)
    radius = float(shortest.median()) / 4
    found = TrustRegion(norm=norm, trust_radius=radius, adaptive=adaptive)(model, x, y)
    assert not (model(found).argmax(1) == y).any()
    reached = lengths(found - x, norm)
    assert (reached > shortest).all()
    assert (reached <= shortest + 0.02 * radius * 1.2**5 + 1.02 * NUDGE + 1e-9).all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_step_is_longer_than_the_radius(norm: Any) -> None:
    """A fixed radius bounds every step but for the overshoot, and the first ones are that long."""
    model = double_linear()
    counting = Counter(model)
    x, y = near_middle(model, 1)
    radius = float(distances(model, x, y, norm)) / 10.5
    TrustRegion(norm=norm, trust_radius=radius, adaptive=False, overshoot=0)(counting, x, y)
    points = torch.cat(counting.inputs[1:])
    steps = lengths(points.diff(dim=0), norm)
    expected = [radius + NUDGE] * 10
    assert 11 == len(steps)
    assert expected == pytest.approx(steps[:10].tolist(), rel=1e-6)
    assert float(steps[-1]) < radius


@pytest.mark.parametrize(
    ("power", "factor"),
    [(1, 1.5), (2, 1 / 1.5), (1.25, 1.0)],
    ids=["a line", "a parabola", "between"],
)
def test_the_radius_follows_how_true_the_gradient_was(power: float, factor: float) -> None:
    """It grows where the gap falls as promised and shrinks where it falls by less than half."""
    # Of a parabola near its end less than half of what the gradient promises is left.
    module = Counter(lambda x: torch.cat([(0.9 - x).clamp(min=0) ** power + 1, 0 * x + 1], 1))
    attack = TrustRegion(
        norm="linf", trust_radius=0.1, growth=1.5, overshoot=0, steps=3, candidates=None
    )
    start = {1: 0.2, 2: 0.78, 1.25: 0.7}[power]
    attack(module, torch.tensor([[start]], dtype=torch.float64), torch.tensor([0]))
    points = torch.cat(module.inputs[1:]).flatten()
    first, second = points.diff().tolist()[:2]
    gap, slope = (0.9 - start) ** power, power * (0.9 - start) ** (power - 1)
    assert min(0.1, gap / slope) + NUDGE == pytest.approx(first)
    after = 0.9 - start - first
    reach = after**power / (power * after ** (power - 1))
    assert min(0.1 * factor, reach) + NUDGE == pytest.approx(second)


@pytest.mark.parametrize("norm", NORMS)
def test_no_larger_than_deepfool_on_a_network(norm: Any) -> None:
    """All images that the network knows are fooled, in the median no farther away."""
    model, x, y = known_digits(20)
    found, other = (kind(norm=norm)(model, x, y) for kind in (TrustRegion, DeepFool))
    assert not (model(found).argmax(1) == y).any()
    assert lengths(found - x, norm).median() <= 1.01 * lengths(other - x, norm).median()


@pytest.mark.parametrize("norm", NORMS)
def test_finds_beyond_eps_do_not_count(norm: Any) -> None:
    """A sample whose boundary is farther comes back as it was, the others do not."""
    model = double_linear()
    x, y = near_middle(model, 8)
    # With a radius beyond all boundaries it takes a single step.
    needed = 1.02 * (distances(model, x, y, norm) + NUDGE)
    eps = 1.0001 * float(needed.median())
    found = TrustRegion(norm=norm, trust_radius=5, eps=eps)(model, x, y)
    near = needed <= eps
    assert 0 < int(near.sum()) < len(x)
    assert torch.equal(near, (found != x).any(1))
    assert torch.equal(near, model(found).argmax(1) != y)
    assert float(lengths(found - x, norm).max()) <= eps


def test_no_work_is_done_on_samples_that_are_done() -> None:
    """A misclassified sample is never stepped, and one leaves the batch when it is fooled."""
    model = double_linear()
    x, y = near_middle(model, 8)
    y[3] = (y[3] + 1) % 5
    shortest = distances(model, x, y, "l2")
    counting = Counter(model)
    attack = TrustRegion(norm="l2", trust_radius=1.0)
    assert torch.equal(x[3], attack(counting, x, y)[3])
    # With a radius beyond all boundaries: the batch, the seven, and the seven after a step.
    assert [8, 7, 7] == counting.calls
    counting.calls.clear()
    nearest = float(shortest[[0, 1, 2, 4, 5, 6, 7]].amin())
    TrustRegion(norm="l2", trust_radius=1.01 * nearest, adaptive=False)(counting, x, y)
    assert [8, 7, 7, 6] == counting.calls[:4]


@pytest.mark.parametrize("norm", NORMS)
def test_samples_do_not_depend_on_the_others(norm: Any) -> None:
    """One alone is attacked as it is in a batch, and twice in the same way."""
    model, x, y = known_digits(6)
    attack = TrustRegion(norm=norm)
    found = attack(model, x, y)
    assert torch.equal(found, attack(model, x, y))
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(found, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_levels_of_8_bits(norm: Any) -> None:
    """All points lie on them, and still nearly all samples are fooled."""
    model, x, y = known_digits(20)
    found = TrustRegion(norm=norm, quantize=True)(model, x, y)
    steps = found * 255
    assert float((steps - steps.round()).abs().max()) < 1e-3
    assert int((model(found).argmax(1) != y).sum()) >= len(x) - 1


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_0_everywhere_is_given_up(norm: Any) -> None:
    """That sample comes back as it was after one look, and the others are not touched by it."""
    module = Counter(lambda x: torch.relu(x - 0.4) + torch.tensor([0.1, 0.0]))
    x = torch.tensor([[0.1, 0.2], [0.7, 0.5]])
    found = TrustRegion(norm=norm, trust_radius=0.1)(module, x, torch.tensor([0, 0]))
    assert torch.equal(x[0], found[0])
    assert 1 == int(module(found).argmax(1)[1])
    assert [2, 2, 1] == module.calls[:3]


def test_a_sample_in_a_corner_of_the_bounds_is_given_up() -> None:
    """The gradient points out of the bounds: there is nowhere to go, and no step is made."""
    module = Counter(lambda x: torch.cat([2 - x, 0 * x], 1))
    x = torch.ones(1, 1)
    assert torch.equal(x, TrustRegion(norm="linf")(module, x, torch.tensor([0])))
    assert 2 == len(module.inputs)


@pytest.mark.parametrize("norm", NORMS)
def test_the_smooth_gate_sees_across_a_jump(norm: Any) -> None:
    """Below the jump the true gradient is 0 and nothing is found; with the gate it is."""
    jump = JumpReLU(torch.tensor(1.0), "site")
    module = Counter(lambda x: torch.cat([torch.full_like(x, 0.5), jump(x)], 1))
    module.jump = jump
    x, y = torch.tensor([[0.8]]), torch.tensor([0])
    plain = TrustRegion(norm=norm, bounds=(0, 2))(module, x, y)
    smooth = TrustRegion(norm=norm, bounds=(0, 2), backward="smooth", tau=0.2)(module, x, y)
    assert torch.equal(x, plain)
    assert 1 == int(module(smooth).argmax(1))


def test_a_hardened_network_is_fooled_with_the_smooth_gate() -> None:
    """Nearly every image, with finite points inside the bounds."""
    model, x, y = known_digits(20, jump=0.5)
    found = TrustRegion(norm="l2", backward="smooth", tau=0.2)(model, x, y)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert int((model(found).argmax(1) != y).sum()) >= len(x) - 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "expected steps >= 1, got 0"),
        ({"overshoot": -0.1}, "expected overshoot >= 0, got -0.1"),
        ({"candidates": 1}, "expected candidates >= 2, got 1"),
        ({"growth": 0.9}, "expected growth >= 1, got 0.9"),
        ({"trust_radius": 0.0}, "expected trust_radius > 0, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, message: str) -> None:
    """When the attack is made, with what was expected and what was given."""
    with pytest.raises(ValueError, match="expected") as refused:
        TrustRegion(**settings)
    assert message == str(refused.value)


@pytest.mark.parametrize("norm", NORMS)
def test_units_do_not_matter_and_rounding_undoes_nothing(norm: Any) -> None:
    """Medians agree within 2 % of each other, and no point is right in a batch of another size."""
    medians = []
    for width in (1.0, 255.0, 1e-3):
        found, left = in_units(partial(TrustRegion, norm=norm), width, norm, 150)
        medians.append(float(found.median()))
        assert [0] * 3 == left
    assert medians == pytest.approx([medians[0]] * 3, rel=0.02)


def test_the_rival_is_chosen_once() -> None:
    """A class that comes nearer on the way does not turn the steps."""
    x = torch.tensor([[0.2, 0.5]])
    attack = TrustRegion(norm="l2", trust_radius=0.05, adaptive=False)
    found = attack(Turning(), x, torch.tensor([0]))
    assert 1 == int(Turning()(found).argmax(1))
    assert 0.5 == float(found[0, 1])
