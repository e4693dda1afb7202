"""Attacks that follow one module and must fool another."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attack_support import Counter, Function, Linear, lengths  # noqa: E402

from onnxfit.attacks import APGD, FGSM, PGD, DeepFool, TargetedAPGD  # noqa: E402
from onnxfit.attacks.attack import GradientAttack  # noqa: E402

EPS = 0.2
# Class 1 begins where the mean is 0.5 for the module that is followed, at 0.55 for the judge.
FOLLOWED = Linear([1.0, 1.0, 1.0, 1.0], -2.0)
JUDGE = Linear([1.0, 1.0, 1.0, 1.0], -2.2)
# The mean of each sample: the second is misclassified by the followed module from the start, the
# last one by the judge; the third is out of reach.
X = torch.tensor([0.42, 0.53, 0.3, 0.6])[:, None].repeat(1, 4)
Y = torch.tensor([0, 0, 0, 0])
WITHIN: list[Any] = [FGSM, PGD, APGD, TargetedAPGD]


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("kind", WITHIN)
def test_the_judge_decides(kind: type[GradientAttack], quantize: bool) -> None:
    """Steps go on past the followed module's boundary, to that of the judge and no farther."""
    x = (X * 255).round() / 255 if quantize else X
    attack = kind(eps=EPS, quantize=quantize, seed=3)  # type: ignore[call-arg]
    points = attack(FOLLOWED, x, Y, judge=JUDGE)
    assert [1, 1, 0, 1] == JUDGE(points).argmax(1).tolist()
    assert torch.equal(x[3], points[3])
    assert (lengths(points - x, "linf") <= EPS + 1e-7).all()


def test_without_a_judge_the_module_decides() -> None:
    """What it misclassifies from the start is left as it is."""
    points = PGD(eps=EPS, seed=3)(FOLLOWED, X, Y)
    assert torch.equal(X[1], points[1])
    assert torch.equal(points, PGD(eps=EPS, seed=3)(FOLLOWED, X, Y, judge=FOLLOWED))


def test_a_judge_needs_no_gradient() -> None:
    """It is given each point once."""
    judge = Counter(Function(lambda x: (x.sum(1) - 2.2).sign()))
    points = PGD(eps=EPS, steps=5, random_start=False)(FOLLOWED, X[:1], Y[:1], judge=judge)
    assert 1 == int(JUDGE(points).argmax())
    assert 1 < len(judge.calls) <= 1 + 5 + 1


def test_the_smallest_perturbation_that_the_judge_counts() -> None:
    """DeepFool goes just across one boundary after the other until the judge is fooled."""
    points = DeepFool(norm="linf", overshoot=0.0)(FOLLOWED, X[:1], Y[:1], judge=JUDGE)
    assert 1 == int(JUDGE(points).argmax())
