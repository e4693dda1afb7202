"""Transfer: points made on other modules, and what of a module stays out of its settings."""

import json
import math
from typing import Any

import pytest
from support import MODELS

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Constant,
    Counter,
    Function,
    Jumping,
    Linear,
    digits,
    lengths,
    random_images,
)

from onnxfit.attacks.transfer import Transfer  # noqa: E402
from onnxfit.errors import DataError, ModelError  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

NORMS = ["linf", "l2"]


def hidden(weights: list[float], offset: float) -> Any:
    """Make the linear model of these weights with a gradient of 0 everywhere."""
    linear = Linear(weights, offset)
    return Function(lambda x: linear(x)[:, 1].detach() + 0 * x.flatten(1).sum(1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_source_with_gradients_breaks_a_model_without(norm: Any, dtype: Any) -> None:
    """On a linear source the points are the best there are: 1.001 times the least eps is enough."""
    weights = [1.0, -2.0, 0.5, 1.5]
    x = torch.full((1, 1, 2, 2), 0.55, dtype=dtype)
    model = hidden(weights, -0.3)
    gap = 0.55 - 0.3
    least = gap / 5 if norm == "linf" else gap / sum(w * w for w in weights) ** 0.5
    for share, expected in ((0.999, 1), (1.001, 0)):
        attack = Transfer(source=Linear(weights, 2.0), eps=share * least, norm=norm)
        points = attack(model, x, torch.tensor([1]))
        assert expected == int(model(points).argmax(1))
        assert lengths(points.double() - x, norm)[0] <= share * least
        assert dtype == points.dtype


def test_what_the_source_misclassifies_is_attacked_too() -> None:
    """A sample that is wrong on the source and right on the model is moved all the same."""
    x = torch.tensor([[0.6, 0.6], [0.7, 0.7]])
    source = Linear([1.0, 1.0], -1.3)  # Calls the first 0.
    points = Transfer(source=source, eps=0.25)(hidden([1.0, 1.0], -1.0), x, torch.ones(2).long())
    torch.testing.assert_close(x - 0.25, points)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 2), (1, 1, 1), (6,)], ids=str)
def test_every_point_is_inside(norm: Any, shape: tuple[int, ...]) -> None:
    """Points that the model is given are within eps and the bounds exactly."""
    x = random_images(7, *shape)
    size = x[0].numel()
    model = Counter(Linear([0.1] * size, 99.0))
    source = Linear([1.0 + i for i in range(size)])
    points = Transfer(source=source, eps=0.2, norm=norm, restarts=3)(model, x, torch.ones(7).long())
    assert [7] * 4 == model.calls
    for given in (points, *model.inputs):
        assert (lengths(given.double() - x, norm) <= 0.2).all()
        assert ((given >= 0) & (given <= 1)).all()


def test_the_mean_of_several_sources_is_attacked() -> None:
    """Two sources that each see one direction together give points along both."""
    x = torch.full((1, 2), 0.5)
    sources = (Linear([1.0, 0.0], 1.0), Linear([0.0, 1.0], 1.0))
    model = hidden([1.0, 1.0], -0.9)
    points = Transfer(source=sources, eps=0.06)(model, x, torch.tensor([1]))
    torch.testing.assert_close(x - 0.06, points)
    alone = Transfer(source=sources[0], eps=0.06)(model, x, torch.tensor([1]))
    assert 1 == int(model(alone).argmax(1))


@pytest.mark.parametrize("backward", ["relu", "smooth", "straight-through"])
def test_the_slopes_of_sources_may_be_others(backward: str) -> None:
    """The native gradient does not see what is beyond the jump; settings name any other one."""
    x, labels, sources = torch.tensor([[0.75, 0.9]]), torch.tensor([0]), (Jumping(), Jumping())
    native = Transfer(source=sources, eps=0.1)
    torch.testing.assert_close(torch.tensor([[0.75, 0.8]]), native(Jumping(), x, labels))
    attack = Transfer(source=sources, eps=0.1, backward=backward, tau=0.5)
    torch.testing.assert_close(torch.tensor([[0.85, 0.8]]), attack(Jumping(), x, labels))
    assert ["true"] * 2 == [source.gate.backward_mode for source in sources]
    assert (backward, 0.5) == tuple(attack.settings[name] for name in ("backward", "tau"))
    assert native.settings.keys() == attack.settings.keys() - {"backward", "tau"}


def test_each_source_has_its_own_scales() -> None:
    """Also where their sites are called the same."""
    x, labels, widths = torch.tensor([[0.75, 0.9]]), torch.tensor([0]), []
    sources = (Jumping(0.8), Jumping(4.0))
    for source in sources:
        source.gate.register_forward_hook(lambda gate, *_: widths.append(gate.tau))
    Transfer(source=sources, eps=0.1, backward="smooth", tau=0.5, steps=1)(Jumping(), x, labels)
    assert [0.4, 1.0, 2.0] == pytest.approx(sorted(set(widths)))


def test_restarts_are_tried_and_stop_with_success() -> None:
    """One query a restart, for what remains; a success of an earlier one stays."""
    x, labels = digits(30)
    source = Target(MODELS / "digits_cnn_pgd.onnx").twin
    target = Target(MODELS / "digits_cnn.onnx").deployed
    one, four = Counter(target), Counter(target)
    first = Transfer(source=source, eps=0.25)(one, x, labels)
    last = Transfer(source=source, eps=0.25, restarts=4)(four, x, labels)
    broken = target(first).argmax(1) != labels
    assert 3 < int(broken.sum()) < 30
    assert torch.equal(first[broken], last[broken])
    assert one.calls == four.calls[:2]
    assert [30 - int(broken.sum())] == four.calls[2:3]
    assert four.calls[1:] == sorted(four.calls[1:], reverse=True)


@pytest.mark.parametrize("norm", NORMS)
def test_points_of_256_levels(norm: Any) -> None:
    """With quantize the model sees only points that 8 bits hold, within eps."""
    x, labels = digits(10)
    x = (x * 255).round() / 255
    model = Counter(Target(MODELS / "digits_cnn.onnx").twin)
    source = Target(MODELS / "digits_cnn_pgd.onnx").twin
    eps = 20 / 255 if norm == "linf" else 1.0
    points = Transfer(source=source, eps=eps, norm=norm, quantize=True)(model, x, labels)
    for given in model.inputs:
        assert ((given * 255 - (given * 255).round()).abs() < 1e-3).all()
    assert (lengths(points.double() - x, norm) <= eps + 1e-6).all()


def test_the_seed_decides_where_restarts_begin() -> None:
    """The same seed gives the same points, another one others; the global generator is unused."""
    x, labels = digits(4)
    source = Target(MODELS / "digits_cnn_pgd.onnx").twin
    model = Function(lambda x: x.flatten(1).sum(1) * 0.001 + 9)
    state = torch.random.get_rng_state()
    first, again, other = (
        Transfer(source=source, eps=0.1, restarts=3, seed=seed)(model, x, labels * 0 + 1)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_source_is_no_setting() -> None:
    """It is in neither repr, comparison nor settings, which JSON holds; and it is not copied."""
    attack, same = (Transfer(source=Linear([1.0]), eps=0.5, steps=5) for _ in range(2))
    assert "source" not in repr(attack)
    assert attack == same
    assert "source" not in attack.settings
    assert 0.1 == attack.settings["step_size"]
    assert 5 == json.loads(json.dumps(attack.settings))["steps"]
    assert 1.0 == attack.settings["momentum"]


def test_a_source_is_in_evaluation_mode_for_the_call() -> None:
    """Dropout does nothing while points are made, and is on again afterwards."""
    dropout = torch.nn.Dropout(1.0)
    source = torch.nn.Sequential(dropout, Linear([1.0, 1.0], 1.0)).train()
    x = torch.full((1, 2), 0.5)
    points = Transfer(source=source, eps=0.1)(hidden([1.0, 1.0], -0.9), x, torch.tensor([1]))
    torch.testing.assert_close(x - 0.1, points)
    assert dropout.training


def test_eps_zero_changes_nothing() -> None:
    """The only point inside is the sample."""
    x, attack = torch.full((1, 2), 0.5), Transfer(source=Linear([1.0, 1.0]), eps=0.0)
    assert torch.equal(x, attack(Linear([1.0, 1.0]), x, torch.tensor([1])))


def test_sources_that_do_not_fit_are_refused() -> None:
    """No module, no gradient, and classes that the model does not have, are said."""
    x, labels, model = torch.full((1, 2), 0.5), torch.tensor([2]), torch.nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    for nothing in ((), "twin", (torch.sin,)):
        with pytest.raises(ValueError, match=r"^expected source to be a module or several$"):
            Transfer(source=nothing, eps=0.1)
    two = Linear([1.0, 1.0])
    with pytest.raises(DataError, match=r"has 2 classes, 0 to 1$"):
        Transfer(source=two, eps=0.1)(model, x, labels)
    mixed = Transfer(source=[two, model], eps=0.1)
    with pytest.raises(ModelError, match=r"^the sources give logits of different numbers of cl"):
        mixed(model, x, labels)
    constant = Function(lambda x: x.flatten(1).sum(1).detach())
    with pytest.raises(ModelError, match=r"^no gradient reaches the model's input"):
        Transfer(source=constant, eps=0.1)(Linear([1.0, 1.0]), x, torch.tensor([1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "expected steps >= 1, got 0"),
        ({"restarts": 0}, "expected restarts >= 1, got 0"),
        ({"momentum": -1.0}, r"expected momentum >= 0, got -1\.0"),
        ({"step_size": 0.0}, r"expected step_size > 0, got 0\.0"),
        ({"backward": "none"}, "expected a backward of .*, got 'none'"),
        ({"tau": 0.0}, r"expected tau > 0, got 0\.0"),
        ({"loss": "hinge"}, "expected a loss of ce, margin or dlr, got 'hinge'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    """It says what it expected and got."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        Transfer(source=Linear([1.0]), eps=0.1, **settings)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_two_steps_with_momentum_by_hand(momentum: float) -> None:
    """The second goes along its own gradient and the first one's share, both of mean size 1."""
    source = Function(lambda x: torch.where(x[:, 0] > 0.45, x[:, 0], x[:, 1]))
    attack = Transfer(
        source=source, eps=0.5, norm="l2", steps=2, step_size=0.1, momentum=momentum, loss="margin"
    )
    points = attack(Constant([0.0, 1.0]), torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
    size = math.sqrt(1 + momentum**2)
    expected = torch.tensor([[0.4 - 0.1 * momentum / size, 0.5 - 0.1 / size]])
    torch.testing.assert_close(expected, points)
