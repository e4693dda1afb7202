"""The attack of Carlini and Wagner: the shortest way to another class, by Adam."""

import math
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Counter,
    Linear,
    double_linear,
    in_units,
    known_digits,
    near_middle,
)

from onnxfit.attacks.carlini_wagner import CarliniWagner, _started  # noqa: E402
from onnxfit.twin.jump_relu import JumpReLU  # noqa: E402


def distances(model: Any, x: Any, labels: Any, rivals: Any, confidence: float = 0.0) -> Any:
    """Return how far it is to where the rivals' logits lead by ``confidence``, N."""
    logits = model(x)
    gaps = logits.gather(1, labels[:, None]) - logits.gather(1, rivals[:, None]) + confidence
    return gaps[:, 0] / (model.weight[labels] - model.weight[rivals]).norm(dim=1)


@pytest.mark.parametrize("confidence", [0.0, 0.1])
def test_a_linear_classifier_is_left_by_the_shortest_way(confidence: float) -> None:
    """To within 1 % of what leads to the class that was found, as far as the confidence asks."""
    model = double_linear()
    x, y = near_middle(model, 6)
    found = CarliniWagner(steps=300, confidence=confidence, initial_const=0.1)(model, x, y)
    rivals = model(found).argmax(1)
    assert not (rivals == y).any()
    shortest = distances(model, x, y, rivals, confidence)
    reached = (found - x).norm(dim=1)
    assert (reached >= shortest * (1 - 1e-9)).all()
    torch.testing.assert_close(shortest, reached, rtol=0.01, atol=0)


def test_leaving_early_costs_little() -> None:
    """On a network the median perturbation grows by at most 3 %, for fewer passes."""
    model, x, y = known_digits(6)
    counts, reached = [], []
    for abort_early in (False, True):
        counting = Counter(model)
        attack = CarliniWagner(
            steps=100,
            binary_search_steps=4,
            initial_const=0.5,
            step_size=0.05,
            abort_early=abort_early,
        )
        found = attack(counting, x, y)
        assert not (model(found).argmax(1) == y).any()
        reached.append(float((found - x).flatten(1).norm(dim=1).median()))
        counts.append(sum(counting.calls))
    assert reached[1] <= 1.03 * reached[0]
    assert counts[1] < 0.95 * counts[0]


def test_samples_leave_the_batch_one_by_one() -> None:
    """Within one constant the batch only shrinks, long before the last step."""
    model = double_linear()
    x, y = near_middle(model, 6)
    y[2] = (y[2] + 1) % 5
    counting = Counter(model)
    attack = CarliniWagner(steps=500, binary_search_steps=1, initial_const=10.0)
    assert torch.equal(x[2], attack(counting, x, y)[2])
    # The batch once, then without the sample that was misclassified from the start.
    assert [6, 5] == counting.calls[:2]
    assert sorted(counting.calls, reverse=True) == counting.calls
    assert len(set(counting.calls)) > 2
    assert sum(counting.calls) < 0.7 * 5 * 500
    counting.calls.clear()
    CarliniWagner(steps=500, binary_search_steps=1, abort_early=False)(counting, x, y)
    assert [6] + 500 * [5] == counting.calls


def test_a_gradient_of_0_everywhere_is_given_up() -> None:
    """That sample comes back as it was and is looked at once for each constant."""
    module = Counter(lambda x: torch.relu(x - 0.4) + torch.tensor([0.1, 0.0]))
    x = torch.tensor([[0.1, 0.2]])
    attack = CarliniWagner(steps=50, binary_search_steps=4)
    assert torch.equal(x, attack(module, x, torch.tensor([0])))
    assert [1] * 5 == module.calls
    both = torch.tensor([[0.1, 0.2], [0.7, 0.5]])
    found = CarliniWagner(steps=300, initial_const=1.0)(module, both, torch.tensor([0, 0]))
    assert torch.equal(x[0], found[0])
    assert bool(found.isfinite().all())
    assert 1 == int(module(found).argmax(1)[1])


def test_what_no_constant_can_fool_is_given_up() -> None:
    """Constants grow tenfold up to 1e10, and then the sample is left."""
    module = Counter(lambda x: torch.cat([2 - 0.1 * x, 0 * x], 1))
    x = torch.tensor([[0.5]])
    attack = CarliniWagner(steps=1, binary_search_steps=9, initial_const=1e8)
    assert torch.equal(x, attack(module, x, torch.tensor([0])))
    # The sample itself, and the constants 1e8, 1e9 and 1e10.
    assert 4 == len([n for n in module.calls if n])


def test_constants_are_searched_for_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as much until one succeeds, then the middle of what failed and what succeeded."""
    tried: list[list[float]] = []

    def minimise(attack: Any, search: Any, rows: Any, consts: Any) -> Any:
        tried.append(consts.tolist())
        return consts >= torch.tensor([0.05, 0.0])

    monkeypatch.setattr(CarliniWagner, "_minimise", minimise)
    x = torch.tensor([[0.5], [0.6]])
    CarliniWagner(binary_search_steps=6)(
        Counter(lambda x: torch.cat([2 - x, x], 1)), x, torch.tensor([0, 0])
    )
    first, second = zip(*tried, strict=True)
    assert [0.001, 0.01, 0.1, 0.055, 0.0325, 0.04375] == pytest.approx(first)
    assert [0.001 / 2**halved for halved in range(6)] == pytest.approx(second)


def test_finds_beyond_eps_do_not_count() -> None:
    """A sample whose boundary is farther comes back as it was, the others do not."""
    model = double_linear()
    x, y = near_middle(model, 6)
    free = CarliniWagner(steps=200, initial_const=0.1)(model, x, y)
    needed = (free - x).norm(dim=1)
    eps = 1.0001 * float(needed.median())
    found = CarliniWagner(steps=200, initial_const=0.1, eps=eps)(model, x, y)
    near = needed <= eps
    assert 0 < int(near.sum()) < len(x)
    assert torch.equal(torch.where(near[:, None], free, x), found)


def test_samples_do_not_depend_on_the_others() -> None:
    """One alone is attacked as it is in a batch, and twice in the same way."""
    model = double_linear()
    x, y = near_middle(model, 6)
    attack = CarliniWagner(steps=60, initial_const=0.1, binary_search_steps=4)
    found = attack(model, x, y)
    assert torch.equal(found, attack(model, x, y))
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-9)


def test_values_at_the_bounds_can_move() -> None:
    """Where the tanh is flat the way is found all the same, and no value leaves the bounds."""
    module = Counter(lambda x: torch.cat([x.sum(1, keepdim=True) - 0.5, 0 * x[:, :1]], 1))
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    attack = CarliniWagner(steps=1000, initial_const=1.0, binary_search_steps=2)
    found = attack(module, x, torch.tensor([0]))
    assert bool(((found >= 0) & (found <= 1)).all())
    expected = torch.tensor([[0.25, 0.0, 0.0, 0.25]])
    torch.testing.assert_close(expected, found, rtol=0, atol=0.02)


def test_levels_of_8_bits() -> None:
    """All points lie on them, and still nearly all samples are fooled."""
    model, x, y = known_digits(8)
    attack = CarliniWagner(
        steps=60, binary_search_steps=3, initial_const=1.0, step_size=0.1, quantize=True
    )
    found = attack(model, x, y)
    steps = found * 255
    assert float((steps - steps.round()).abs().max()) < 1e-3
    assert int((model(found).argmax(1) != y).sum()) >= len(x) - 1


def test_the_smooth_gate_sees_across_a_jump() -> None:
    """Below the jump the true gradient is 0 and nothing is found; with the gate it is."""
    jump = JumpReLU(torch.tensor(1.0), "site")
    module = Counter(lambda x: torch.cat([torch.full_like(x, 0.5), jump(x)], 1))
    module.jump = jump
    x, y = torch.tensor([[0.8]]), torch.tensor([0])
    options: Any = {"steps": 100, "binary_search_steps": 5, "bounds": (0.0, 2.0)}
    plain = CarliniWagner(**options)(module, x, y)
    smooth = CarliniWagner(backward="smooth", tau=0.2, **options)(module, x, y)
    assert torch.equal(x, plain)
    assert 1 == int(module(smooth).argmax(1))
    assert float(smooth) == pytest.approx(1, abs=0.05)


def test_a_hardened_network_is_fooled_with_the_smooth_gate() -> None:
    """Nearly every image, with finite points inside the bounds."""
    model, x, y = known_digits(10, jump=0.5)
    attack = CarliniWagner(
        backward="smooth",
        tau=0.2,
        steps=60,
        binary_search_steps=3,
        initial_const=1.0,
        step_size=0.1,
    )
    found = attack(model, x, y)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert int((model(found).argmax(1) != y).sum()) >= len(x) - 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "linf"}, "expected a norm of l2, got 'linf'"),
        ({"steps": 0}, "expected steps >= 1, got 0"),
        ({"binary_search_steps": 0}, "expected binary_search_steps >= 1, got 0"),
        ({"confidence": -1.0}, "expected confidence >= 0, got -1.0"),
        ({"step_size": 0.0}, "expected step_size > 0, got 0.0"),
        ({"initial_const": math.inf}, "expected initial_const > 0, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, message: str) -> None:
    """When the attack is made, with what was expected and what was given."""
    with pytest.raises(ValueError, match="expected") as refused:
        CarliniWagner(**settings)
    assert message == str(refused.value)


def test_units_do_not_matter() -> None:
    """Medians agree within 2 % of each other for bounds of three widths."""
    make = partial(
        CarliniWagner, steps=100, binary_search_steps=3, initial_const=1.0, step_size=0.05
    )
    medians = []
    for width in (1.0, 255.0, 1e-3):
        found, left = in_units(make, width, "l2", 60)
        medians.append(float(found.median()))
        assert left[-1] <= 1
    assert medians == pytest.approx([medians[0]] * 3, rel=0.02)


def test_a_constant_succeeds_where_the_least_objective_is_across(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For ``c·(0.1 − d) + d²`` from 0.2 on: each is judged so, and the search comes near to it."""
    tried: list[tuple[float, bool]] = []
    minimise = CarliniWagner._minimise

    def spied(*args: Any) -> Any:
        found = minimise(*args)
        tried.append((float(args[-1]), bool(found)))
        return found

    monkeypatch.setattr(CarliniWagner, "_minimise", spied)
    attack = CarliniWagner(steps=400, step_size=0.003, initial_const=0.01)
    attack(Linear([1.0], -0.6), torch.tensor([[0.5]]), torch.tensor([0]))
    assert all(found for const, found in tried if const >= 0.3)
    assert not any(found for const, found in tried if const <= 0.15)
    assert 0.2 == pytest.approx(tried[-1][0], rel=0.2)


def test_two_steps_of_adam_by_hand() -> None:
    """Both averages are divided by what they lack at first."""
    state = _started(torch.arange(1), torch.ones(1), torch.zeros(1, 2).double())
    first, second = torch.tensor([[3.0, -0.5]]).double(), torch.tensor([[-1.0, 2.0]]).double()
    state.step(first, 0.1, 1)
    torch.testing.assert_close(torch.tensor([[-0.1, 0.1]]).double(), state.w)
    state.step(second, 0.1, 2)
    mean = (0.09 * first + 0.1 * second) / 0.19
    square = (0.000999 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    expected = torch.tensor([[-0.1, 0.1]]).double() - 0.1 * mean / (square.sqrt() + 1e-8)
    torch.testing.assert_close(expected, state.w)
