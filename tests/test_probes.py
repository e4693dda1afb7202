"""What probes measure, on models whose answers are known and on those that must trip a check."""

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from masking_models import GOOD, MASKING, Masking, integers, jumping
from onnx import ModelProto
from support import MODELS, parse

torch = pytest.importorskip("torch")

from onnxfit.attacks.gradient import FGSM, PGD  # noqa: E402
from onnxfit.attacks.losses import Loss  # noqa: E402
from onnxfit.attacks.noise import RandomNoise  # noqa: E402
from onnxfit.attacks.square import Square  # noqa: E402
from onnxfit.verification import diagnostics, probes  # noqa: E402
from onnxfit.verification.diagnostics import Diagnostic  # noqa: E402
from onnxfit.verification.probes import Count  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

SAMPLES = 60
GATE = {masking.check for masking in MASKING}


def two_classes(nodes: str, element_type: str = "float") -> Target:
    """Make a model of two pixels and two logits."""
    return Target(
        parse(
            '<ir_version: 8, opset_import: ["": 17]> '
            f"g ({element_type}[N, 2] x) => ({element_type}[N, 2] y) {{ {nodes} }}"
        )
    )


# The larger pixel names the class.
IDENTITY = "y = Identity(x)"
X = torch.tensor([[0.9, 0.1], [0.2, 0.7], [0.6, 0.4], [0.1, 0.9]])
Y = torch.tensor([0, 1, 0, 0])  # The last label is wrong.


def test_a_gradient_is_zero_where_the_model_is_flat() -> None:
    """Nowhere if logits are pixels; where both are below .5 if only what is above it counts."""
    assert Count(3, 0) == probes.zero_gradients(two_classes(IDENTITY), X, Y)
    above = "half = Constant<value_float = 0.5>() less = Sub(x, half) y = Relu(less)"
    x = torch.tensor([[0.4, 0.1], [0.9, 0.1], [0.9, 0.6]])
    assert Count(3, 1) == probes.zero_gradients(two_classes(above), x, torch.tensor([0, 0, 0]))


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Round(x)",
        "whole = Cast<to = 7>(x) y = Cast<to = 1>(whole)",
        # The slope of a square root is infinite at 0, and times 0 it is no number.
        "zero = Sub(x, x) root = Sqrt(zero) step = Round(x) y = Add(step, root)",
    ],
)
def test_a_model_without_slopes_has_no_gradient_anywhere(nodes: str) -> None:
    """Whether it is 0, does not reach the input at all, or is not a number."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.4]])
    y = torch.tensor([0, 1, 0])
    assert Count(3, 3) == probes.zero_gradients(two_classes(nodes), x, y)


def test_logits_saturate_where_the_softmax_underflows() -> None:
    """From a gap of 104 on, softmax in single precision gives the other class exactly 0."""
    x = torch.tensor([[1.0, 0.0]]) * torch.tensor([[103.0], [103.9], [104.1], [200.0]])
    y = torch.zeros(4, dtype=torch.int64)
    assert Count(4, 2) == probes.saturated_logits(two_classes(IDENTITY), x, y)
    gaps = x[:, 0].numpy()
    assert [True, True, False, False] == (np.exp(-gaps.astype(np.float64)) > 2.0**-150).tolist()


def test_a_deterministic_model_repeats_itself() -> None:
    """Two runs give the same bits, in the file and in the twin, also of what is no number."""
    found = probes.repeats(two_classes("y = Log(x)"), torch.tensor([[0.0, 0.5], [-1.0, 1.0]]))
    assert (0.0, 0.0) == (found.file, found.twin)
    assert 64 * 2**-23 == found.tolerance


def test_the_tolerance_is_that_of_the_type() -> None:
    """Half precision rounds its outputs: two last places, more than 64 of single precision."""
    assert 2 * 2**-10 == probes.repeats(two_classes(IDENTITY, "float16"), X).tolerance


def test_the_size_of_noise_is_measured() -> None:
    """Normal noise of .01 on a logit of 1 differs by some hundredths from run to run."""
    nodes = "noise = RandomNormalLike<scale = 0.01>(x) y = Add(x, noise)"
    found = probes.repeats(two_classes(nodes), torch.tensor([[1.0, 0.0]] * 200), batch_size=50)
    assert 0.02 < found.file < 0.08
    assert 0.02 < found.twin < 0.08


def test_a_number_that_comes_and_goes_is_no_rounding() -> None:
    """The logarithm of noise around 0 is a number in about half of the runs."""
    nodes = "noise = RandomNormalLike(x) y = Log(noise)"
    found = probes.repeats(two_classes(nodes), torch.zeros(50, 2))
    assert (float("inf"), float("inf")) == (found.file, found.twin)


def test_everything_is_within_reach_of_the_whole_range() -> None:
    """That is the width of the box, or its diagonal."""
    x = torch.zeros(3, 1, 8, 8)
    assert 2.0 == probes.whole_range(x, "linf", (-1.0, 1.0))
    assert 16.0 == probes.whole_range(x, "l2", (-1.0, 1.0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_sample_withstands_an_eps_without_limit(norm: Any) -> None:
    """Where the larger pixel names the class, gradients lead to the other one."""
    target = two_classes(IDENTITY)
    assert Count(3, 0) == probes.survivors_of_large_eps(target, X, Y, norm=norm)
    wide = probes.survivors_of_large_eps(target, 4 * X - 2, Y, norm=norm, bounds=(-2.0, 2.0))
    assert Count(3, 0) == wide


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sample_withstands_where_gradients_lead_away(norm: Any) -> None:
    """The larger a pixel's lead, the smaller the logit that is shown, but for its sign."""
    # d / (1 + d²)², d = 3(x₀ - x₁), falls with d above .58: the second sample's lead is 1.5.
    nodes = (
        "a, b = Split<axis = 1>(x) three = Constant<value_float = 3.0>() "
        "one = Constant<value_float = 1.0>() "
        "lead = Sub(a, b) d = Mul(lead, three) dd = Mul(d, d) e = Add(dd, one) ee = Mul(e, e) "
        "first = Div(d, ee) second = Neg(first) y = Concat<axis = 1>(first, second)"
    )
    target = two_classes(nodes)
    x = torch.tensor([[0.6, 0.5], [0.2, 0.7], [0.9, 0.1]])
    y = torch.tensor([0, 1, 0])
    assert Count(3, 2) == probes.survivors_of_large_eps(target, x, y, norm=norm)
    assert Count(2, 1) == probes.survivors_of_large_eps(target, x, y, norm=norm, limit=2)
    batched = probes.survivors_of_large_eps(target, x, y, norm=norm, settings={"batch_size": 1})
    assert Count(3, 2) == batched


def test_every_sample_withstands_where_no_gradient_passes() -> None:
    """A model of integers gives attacks nothing to follow."""
    target = two_classes("whole = Cast<to = 7>(x) y = Cast<to = 1>(whole)")
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert Count(2, 2) == probes.survivors_of_large_eps(target, x, y)


def test_the_deployed_file_decides_what_withstands() -> None:
    """A point that fools the twin alone counts as robust."""
    target = two_classes(IDENTITY)
    stubborn = two_classes(IDENTITY)
    labels = Y[:3].numpy()
    stubborn.predictions = lambda x: labels  # type: ignore[method-assign]
    assert Count(3, 0) == probes.survivors_of_large_eps(target, X[:3], Y[:3])
    assert Count(3, 3) == probes.survivors_of_large_eps(stubborn, X[:3], Y[:3])


def test_surrogates_see_across_a_jump() -> None:
    """Both pixels lie below the jump, where native gradients are 0 and random steps stay small."""
    text = (
        '<ir_version: 8, opset_import: ["": 17, "onnxfit": 1]> '
        "g (float[N, 2] x) => (float[N, 2] y) {{ "
        "shift = Constant<value_floats = [0.05, 0.0]>() z = onnxfit.JumpReLU<jump = {}>(x) "
        "y = Add(z, shift) }}"
    )
    x, y = torch.tensor([[0.1, 0.1]]), torch.tensor([0])
    jumping_twin = Target(parse(text.format(0.3)))
    assert Count(1, 1) == probes.zero_gradients(jumping_twin, x, y)
    assert Count(1, 0) == probes.survivors_of_large_eps(jumping_twin, x, y)


def test_batches_do_not_change_what_is_counted() -> None:
    """Nor does a sample that is misclassified, nor having none at all."""
    target, x, y = two_classes("y = Round(x)"), X.repeat(5, 1), Y.repeat(5)
    for size in (1, 3, 64):
        assert Count(15, 15) == probes.zero_gradients(target, x, y, batch_size=size)
        assert Count(15, 0) == probes.saturated_logits(target, x, y, batch_size=size)
    none, labels = X[:0], Y[:0]
    assert Count(0, 0) == probes.zero_gradients(target, none, labels)
    assert Count(0, 0) == probes.saturated_logits(target, none, labels)
    assert Count(0, 0) == probes.survivors_of_large_eps(target, none, labels)
    assert (0.0, 0.0) == (probes.repeats(target, none).file, probes.repeats(target, none).twin)


def test_probes_leave_the_samples_as_they_are() -> None:
    """No gradient is left on them, and no value is changed."""
    x = X.clone()
    target = two_classes(IDENTITY)
    probes.zero_gradients(target, x, Y)
    probes.survivors_of_large_eps(target, x, Y)
    assert not x.requires_grad
    assert X.equal(x)


# --- whole networks -------------------------------------------------------------------------


@cache
def digits() -> tuple[Any, Any]:
    """The first test images and their labels."""
    with np.load(MODELS / "digits_test.npz") as data:
        return torch.from_numpy(data["x"][:SAMPLES]), torch.from_numpy(data["y"][:SAMPLES])


def gate_checks(target: Target, x: Any, y: Any, eps: float) -> Iterator[Diagnostic]:
    """Run small attacks of every family and all probes, and judge what they gave."""
    right = target.predictions(x) == y.numpy()
    x, y = x[right], y[right]
    n = len(x)

    def broken(attack: Any, module: Any = None, rows: Any = slice(None)) -> Any:
        points = attack(module or target.twin, x[rows], y[rows])
        return target.predictions(points) != y[rows].numpy()

    one, many = broken(FGSM(eps=eps)), broken(PGD(eps=eps, steps=20))
    left = ~(one | many)
    descent = PGD(eps=eps, steps=20, loss="margin")
    for attack in (descent, dataclasses.replace(descent, backward="smooth", tau=0.1)):
        left[left] = ~broken(attack, rows=left)
    white_box = int(left.sum())
    for blind in (RandomNoise(eps=eps), Square(eps=eps, queries=200)):
        left[left] = ~broken(blind, target.deployed, left)
    yield diagnostics.gradient_free(n, white_box, int(left.sum()))
    yield diagnostics.many_steps(one, many)
    large = probes.survivors_of_large_eps(target, x, y, limit=20)
    yield diagnostics.large_eps(large.n, large.found, 1.0)
    zero = probes.zero_gradients(target, x, y)
    yield diagnostics.zero_gradients(zero.n, zero.found)
    again = probes.repeats(target, x)
    yield diagnostics.repeatable(again.file, again.twin, again.tolerance)
    saturated = probes.saturated_logits(target, x, y)
    yield diagnostics.saturated_logits(saturated.n, saturated.found)


def judged(model: ModelProto, eps: float) -> dict[str, bool]:
    """Return whether each gate check passes."""
    return {found.check: found.passed for found in gate_checks(Target(model), *digits(), eps)}


@pytest.mark.parametrize("masking", MASKING, ids=lambda masking: masking.name)
def test_a_masking_model_trips_its_own_check(masking: Masking) -> None:
    """It fails the gate for the reason it was built for, and for no other."""
    expected = {check: check != masking.check for check in GATE}
    assert expected == judged(masking.build(), masking.eps)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_model_trips_no_check(name: str) -> None:
    """All checks of the gate pass what the gate is meant to let through."""
    assert dict.fromkeys(GATE, True) == judged(GOOD[name](), 0.1)


def test_a_cast_to_integers_hides_every_gradient() -> None:
    """So does rounding, but here the attacks do not even find a path to the input."""
    x, y = digits()
    assert Count(SAMPLES, SAMPLES) == probes.zero_gradients(Target(integers()), x, y)


def test_the_zero_gradients_do_not_give_a_large_jump_away() -> None:
    """Native gradients overstate by many points, though nearly none of them is 0."""
    x, y = digits()
    target = Target(jumping())
    robust = target.predictions(x) == y.numpy()
    native = surrogate = robust
    losses: tuple[Loss, ...] = ("ce", "margin")
    for loss in losses:
        attack = PGD(eps=0.1, steps=20, loss=loss)
        native = native & (target.predictions(attack(target.twin, x, y)) == y.numpy())
        attack = dataclasses.replace(attack, backward="smooth", tau=0.1)
        surrogate = surrogate & (target.predictions(attack(target.twin, x, y)) == y.numpy())
    worst = int((native & surrogate).sum())
    found = diagnostics.native_gradients(SAMPLES, int(native.sum()), worst, worst)
    assert (False, False) == (found.gate, found.passed)
    assert int(native.sum()) - worst > 0.1 * SAMPLES
    zero = probes.zero_gradients(target, x, y)
    assert diagnostics.zero_gradients(zero.n, zero.found).passed
