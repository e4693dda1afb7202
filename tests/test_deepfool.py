"""DeepFool: the distance to the nearest boundary, found by steps."""

import weakref
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Counter,
    double_linear,
    in_units,
    known_digits,
    lengths,
    near_middle,
)

from onnxfit.attacks import deepfool  # noqa: E402
from onnxfit.attacks.deepfool import NUDGE, DeepFool  # noqa: E402
from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.twin.gradients import gradient_of  # noqa: E402
from onnxfit.twin.jump_relu import JumpReLU  # noqa: E402

NORMS = ("linf", "l2")


def boundaries(model: Any, x: Any, labels: Any, norm: str) -> Any:
    """Return the distances of the boundaries of a linear classifier, N×C, in a norm."""
    logits = model(x)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = model.weight[labels][:, None] - model.weight
    sizes = slopes.abs().sum(2) if norm == "linf" else slopes.square().sum(2).sqrt()
    return (gaps / sizes).nan_to_num(torch.inf)


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_classifier_is_left_by_the_shortest_way(norm: Any) -> None:
    """The perturbation is as long as the distance to the nearest boundary and the overshoot."""
    model = double_linear()
    x, y = near_middle(model, 8)
    found = DeepFool(norm=norm, overshoot=0.1)(model, x, y)
    assert not (model(found).argmax(1) == y).any()
    expected = 1.1 * (boundaries(model, x, y, norm).amin(1) + NUDGE)
    torch.testing.assert_close(expected, lengths(found - x, norm), rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_only_the_candidates_are_looked_at(norm: Any) -> None:
    """With two of them that is the class with the second largest logit, near or not."""
    model = double_linear()
    x, y = near_middle(model, 40)
    found = DeepFool(norm=norm, candidates=2)(model, x, y)
    second = model(x).topk(2).indices[:, 1:]
    ways = boundaries(model, x, y, norm)
    assert (ways.gather(1, second)[:, 0] > 1.1 * ways.amin(1)).any()
    expected = 1.02 * (ways.gather(1, second)[:, 0] + NUDGE)
    torch.testing.assert_close(expected, lengths(found - x, norm), rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_finds_beyond_eps_do_not_count(norm: Any) -> None:
    """A sample whose boundary is farther comes back as it was, the others do not."""
    model = double_linear()
    x, y = near_middle(model, 8)
    needed = 1.02 * (boundaries(model, x, y, norm).amin(1) + NUDGE)
    eps = 1.0001 * float(needed.median())
    found = DeepFool(norm=norm, eps=eps)(model, x, y)
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
    counting = Counter(model)
    found = DeepFool(norm="l2")(counting, x, y)
    assert torch.equal(x[3], found[3])
    # All samples; the seven at themselves; the seven after the one step that a line needs.
    assert [8, 7, 7] == counting.calls


def test_a_sample_goes_on_until_it_is_fooled_and_no_longer() -> None:
    """On a network with several steps to go the batch shrinks, and never grows."""
    model, x, y = known_digits(24)
    counting = Counter(model)
    DeepFool(norm="linf")(counting, x, y)
    correct = int((model(x).argmax(1) == y).sum())
    assert [len(x), correct, correct] == counting.calls[:3]
    assert sorted(counting.calls, reverse=True) == counting.calls
    assert counting.calls[-1] < correct
    assert len(counting.calls) < 20


@pytest.mark.parametrize("norm", NORMS)
def test_samples_do_not_depend_on_the_others(norm: Any) -> None:
    """One alone is attacked as it is in a batch, and twice in the same way."""
    model, x, y = known_digits(6)
    attack = DeepFool(norm=norm)
    found = attack(model, x, y)
    assert torch.equal(found, attack(model, x, y))
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(found, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_levels_of_8_bits(norm: Any) -> None:
    """All points lie on them, and still nearly all samples are fooled."""
    model, x, y = known_digits(24)
    found = DeepFool(norm=norm, quantize=True)(model, x, y)
    steps = found * 255
    assert float((steps - steps.round()).abs().max()) < 1e-3
    assert int((model(found).argmax(1) != y).sum()) >= len(x) - 2
    free = DeepFool(norm=norm)(model, x, y)
    ratio = lengths(found - x, norm).median() / lengths(free - x, norm).median()
    assert 0.8 < float(ratio) < 1.25


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_0_everywhere_is_given_up(norm: Any) -> None:
    """That sample comes back as it was after one look, and the others are not touched by it."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    module = Counter(lambda x: torch.relu(x - 0.4) @ weight + torch.tensor([0.1, 0.0]))
    x = torch.tensor([[0.1, 0.2], [0.7, 0.5]])
    found = DeepFool(norm=norm)(module, x, torch.tensor([0, 0]))
    assert torch.equal(x[0], found[0])
    assert 1 == int(module(found).argmax(1)[1])
    assert [2, 2, 1] == module.calls[:3]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gradients_of_any_size(norm: Any, scale: float) -> None:
    """Squares that are 0 or infinite in single precision change nothing."""
    model = double_linear().float()
    x, y = near_middle(double_linear(), 8)
    found = DeepFool(norm=norm)(Counter(lambda x: scale * model(x)), x.float(), y)
    expected = DeepFool(norm=norm)(model, x.float(), y)
    torch.testing.assert_close(expected, found, rtol=0, atol=1e-6)


def test_gradients_that_are_not_finite_count_as_0() -> None:
    """The root of 0 has none: the rest of the gradient is used, and nothing becomes NaN."""
    module = Counter(lambda x: torch.stack([0.3 + x[:, 0].sqrt(), 2 * x[:, 1]], 1))
    x = torch.tensor([[0.0, 0.1]])
    found = DeepFool(norm="l2")(module, x, torch.tensor([0]))
    assert bool(found.isfinite().all())
    assert float(found[0, 1]) > 0.15


@pytest.mark.parametrize("norm", NORMS)
def test_the_smooth_gate_sees_across_a_jump(norm: Any) -> None:
    """Below the jump the true gradient is 0 and nothing is found; with the gate it is."""
    jump = JumpReLU(torch.tensor(1.0), "site")
    module = Counter(lambda x: torch.cat([torch.full_like(x, 0.5), jump(x)], 1))
    module.jump = jump
    x, y = torch.tensor([[0.8]]), torch.tensor([0])
    plain = DeepFool(norm=norm, bounds=(0, 2))(module, x, y)
    smooth = DeepFool(norm=norm, bounds=(0, 2), backward="smooth", tau=0.2)(module, x, y)
    assert torch.equal(x, plain)
    assert 1 == int(module(smooth).argmax(1))
    assert float(smooth) > 1


def test_a_hardened_network_is_fooled_with_the_smooth_gate() -> None:
    """Every image that it knows, with finite points inside the bounds."""
    model, x, y = known_digits(20, jump=0.5)
    found = DeepFool(norm="l2", backward="smooth", tau=0.2, steps=100)(model, x, y)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert int((model(found).argmax(1) != y).sum()) >= len(x) - 1


def test_eot_averages_logits_and_gradients() -> None:
    """Over passes that cancel out, the way is that of the network without its noise."""
    model = double_linear()
    x, y = near_middle(model, 8)
    signs = iter([1, -1] * 100)

    def noisy(points: Any) -> Any:
        return model(points) + next(signs) * 5 * points[:, :5]

    found = DeepFool(norm="l2", eot=2)(Counter(noisy), x, y)
    torch.testing.assert_close(DeepFool(norm="l2")(model, x, y), found, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "expected steps >= 1, got 0"),
        ({"overshoot": -0.1}, "expected overshoot >= 0, got -0.1"),
        ({"candidates": 1}, "expected candidates >= 2, got 1"),
        ({"eps": -1}, "expected eps >= 0, got -1"),
        ({"norm": "l1"}, "expected a norm of linf or l2, got 'l1'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, message: str) -> None:
    """When the attack is made, with what was expected and what was given."""
    with pytest.raises(ValueError, match="expected") as refused:
        DeepFool(**settings)
    assert message == str(refused.value)


@pytest.mark.parametrize("logits", [torch.ones(2, 3), torch.ones(2, 3, requires_grad=True)])
def test_logits_that_do_not_depend_on_the_input_are_refused(logits: Any) -> None:
    """In one sentence."""
    message = "no gradient reaches the model's input: its logits do not depend on it"
    with pytest.raises(ModelError) as refused:
        DeepFool()(Counter(lambda x: logits[: len(x)]), torch.zeros(2, 4), torch.zeros(2).long())
    assert message == str(refused.value)


@pytest.mark.parametrize("norm", NORMS)
def test_units_do_not_matter_and_rounding_undoes_nothing(norm: Any) -> None:
    """Medians agree within 2 % of each other, and no point is right in a batch of another size."""
    medians = []
    for width in (1.0, 255.0, 1e-3):
        found, left = in_units(partial(DeepFool, norm=norm), width, norm, 150)
        medians.append(float(found.median()))
        assert [0] * 3 == left
    assert medians == pytest.approx([medians[0]] * 3, rel=0.02)


def test_a_point_that_rounding_could_undo_is_not_the_last() -> None:
    """A logit ahead by one bit goes on; where there is no gradient any more the point counts."""
    attack = DeepFool(norm="linf", overshoot=0)
    x, y = torch.tensor([[0.2999]]), torch.tensor([0])
    for slope in (1e-3, 0.0):

        def score(x: Any, slope: float = slope) -> Any:
            return 1 + torch.where(x < 0.3, x - 0.3, 2e-7 + slope * (x - 0.3))

        module = Counter(lambda x, score=score: torch.cat([1 + 0 * x, score(x)], 1))
        lead = module(attack(module, x, y)).diff(dim=1)
        assert (slope > 0) == (float(lead) > 64 * 2**-23)
        assert float(lead) > 0


def test_the_last_gradient_of_a_pass_frees_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four rivals three are followed by another, in each of two passes."""
    kept = []

    def spied(total: Any, leaf: Any, *, retain_graph: bool) -> Any:
        kept.append(retain_graph)
        return gradient_of(total, leaf, retain_graph=retain_graph)

    monkeypatch.setattr(deepfool, "gradient_of", spied)
    model = double_linear()
    DeepFool(norm="l2", eot=2)(model, *near_middle(model, 8))
    assert [True, True, True, False] * 2 == kept[:8]


@pytest.mark.parametrize("passes", [1, 3])
def test_no_pass_keeps_its_graph(passes: int) -> None:
    """Each is done with before the next begins."""
    graphs: list[Any] = []

    class Kept(torch.autograd.Function):  # type: ignore[misc, name-defined]
        """The same values, and a note of the graph that they are in."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            assert all(graph() is None for graph in graphs)
            graphs.append(weakref.ref(ctx))
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad

    model = double_linear()
    x, y = near_middle(model, 8)
    DeepFool(norm="l2", eot=passes)(Counter(lambda x: model(Kept.apply(x))), x, y)
    assert len(graphs) > 2 * passes


def test_progress_is_told_in_shares_of_the_steps() -> None:
    """Some of it before the end, never less than before, and every sample once in all."""
    model, x, y = known_digits(20)
    told: list[int] = []
    DeepFool(norm="linf", steps=5)(model, x, y, advance=told.append)
    assert [0, 4, 4] == told[:3]
    assert 20 == sum(told)
