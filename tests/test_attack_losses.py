"""What attacks maximise: values by hand, and gradients that do not vanish."""

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from onnxfit.attacks.losses import (  # noqa: E402
    LOSSES,
    cross_entropy_margin,
    dlr,
    margin,
    of_label,
    targeted_dlr,
)


def gradient(loss: Any, logits: Any, labels: Any) -> Any:
    """Return the gradient of a loss with respect to the logits."""
    leaf = logits.detach().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf)
    return found


LOGITS = torch.tensor([[4.0, 1.0, 3.0, -2.0], [0.0, 5.0, 1.0, 2.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])


def test_the_values_are_those_of_the_definitions() -> None:
    """Two samples by hand: one classified rightly, one wrongly."""
    assert [4.0, 1.0] == of_label(LOGITS, LABELS).tolist()
    assert [-1.0, 4.0] == margin(LOGITS, LABELS).tolist()
    assert [-1 / 3, 4 / 4] == pytest.approx(dlr(LOGITS, LABELS).tolist())
    targets = torch.tensor([2, 3])
    # The first, third and fourth logits are 4, 1, -2 and 5, 1, 0.
    expected = [-1 / (4 + 0.5), 1 / (5 - 0.5)]
    assert expected == pytest.approx(targeted_dlr(LOGITS, LABELS, targets).tolist())
    rivals = [math.log(math.e + math.e**3 + math.e**-2) - 4]
    rivals += [math.log(1 + math.e**5 + math.e**2) - 1]
    assert rivals == pytest.approx(cross_entropy_margin(LOGITS, LABELS).tolist())


def test_the_first_is_the_cross_entropy_in_another_form() -> None:
    """log(e^L − 1), with the gradient of L over 1 − p."""
    ce = torch.nn.functional.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close((ce.exp() - 1).log(), cross_entropy_margin(LOGITS, LABELS))

    def cross_entropy(z: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(z, y, reduction="none")

    p = of_label(LOGITS.softmax(1), LABELS)[:, None]
    expected = gradient(cross_entropy, LOGITS, LABELS) / (1 - p)
    torch.testing.assert_close(expected, gradient(cross_entropy_margin, LOGITS, LABELS))


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4, 1e30, 8e37])
@pytest.mark.parametrize("name", ["ce", "margin", "dlr"])
def test_gradients_do_not_underflow_on_large_gaps(name: Any, scale: float) -> None:
    """Where the plain cross-entropy's is exactly 0, each loss still lowers the label's logit."""
    logits = (scale * LOGITS).float()[:1]
    found = gradient(LOSSES[name], logits, LABELS[:1])
    assert torch.isfinite(found).all()
    assert found[0, 0] < 0
    assert found[0, 2] > 0 if name != "dlr" else found[0, 2] != 0
    if scale > 100:

        def naive(z: Any, y: Any) -> Any:
            return torch.nn.functional.cross_entropy(z, y, reduction="none")

        assert 0.0 == gradient(naive, logits, LABELS[:1]).abs().max()


@pytest.mark.parametrize("name", ["ce", "margin", "dlr"])
def test_ties_and_equal_logits_give_numbers(name: Any) -> None:
    """All logits equal: a finite loss and gradient."""
    logits, labels = torch.zeros(2, 5), torch.tensor([0, 4])
    assert torch.isfinite(LOSSES[name](logits, labels)).all()
    assert torch.isfinite(gradient(LOSSES[name], logits, labels)).all()


def test_fewer_classes_than_a_formula_needs() -> None:
    """Two classes have no third logit, and three no fourth: the differences stand alone."""
    logits, labels = torch.tensor([[3.0, 1.0]]), torch.tensor([0])
    assert [-2.0] == dlr(logits, labels).tolist()
    assert [-2.0] == cross_entropy_margin(logits, labels).tolist()
    assert [-2.0] == targeted_dlr(logits, labels, torch.tensor([1])).tolist()
    three = torch.tensor([[3.0, 1.0, 0.0]])
    assert [-3.0] == targeted_dlr(three, labels, torch.tensor([2])).tolist()
    assert [-2 / 3] == pytest.approx(dlr(three, labels).tolist())


def test_the_ratio_does_not_see_the_scale() -> None:
    """Logits times a thousand have the same difference of logits ratio."""
    torch.testing.assert_close(dlr(LOGITS, LABELS), dlr(1000 * LOGITS, LABELS))
    targets = torch.tensor([2, 3])
    torch.testing.assert_close(
        targeted_dlr(LOGITS, LABELS, targets), targeted_dlr(1000 * LOGITS, LABELS, targets)
    )


@pytest.mark.parametrize("name", ["margin", "dlr"])
def test_above_0_is_misclassified(name: Any) -> None:
    """The sign tells; every class as the label once."""
    logits = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 6
    assert torch.equal(logits.argmax(1) != labels, LOSSES[name](logits, labels) > 0)
