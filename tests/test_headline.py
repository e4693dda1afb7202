"""The headline says what the figures say, and no more."""

from typing import Any

import pytest

pytest.importorskip("torch")

from onnxfit.verification.headline import headline
from onnxfit.verification.statistics import mcnemar, paired_difference, wilson


def document(only_model: int, only_baseline: int, both: int = 100, n: int = 200) -> dict[str, Any]:
    """Make a result of so many samples that are robust in one model alone, and in both."""
    model, baseline = both + only_model, both + only_baseline
    return {
        "data": {"n": n, "bounds": [0.0, 1.0]},
        "eps": 0.1,
        "norm": "linf",
        "worst_case": {"robust_accuracy": model / n, "ci95": wilson(model, n)},
        "baseline": {
            "same_as_model": False,
            "worst_case": {"robust_accuracy": baseline / n, "ci95": wilson(baseline, n)},
        },
        "difference": {
            "robust_accuracy": (only_model - only_baseline) / n,
            "ci95": paired_difference(only_model, only_baseline, n),
            "p_value": mcnemar(only_model, only_baseline),
        },
    }


def test_worse_is_called_worse() -> None:
    """A significant loss is named with its size and interval."""
    expected = (
        "At eps 0.1 (ℓ∞, pixels from 0 to 1), on 200 samples, the worst case leaves 50.5 % right, "
        "against 60.0 % before hardening: −9.5 points (95 % interval −14.5 to −5.7); the hardening "
        "made it less robust."
    )
    assert expected == headline(document(1, 20))


def test_better_is_called_better() -> None:
    """A significant gain is called more robust."""
    assert headline(document(20, 1)).endswith("; the hardened model is more robust.")


def test_what_was_not_hardened_is_not_called_so() -> None:
    """A denoising or an interpolation is a retrofit."""
    passed = {"model": {"passes": ["onnxfit.denoising"]}}
    better, worse = (headline(document(*counts) | passed) for counts in ((20, 1), (1, 20)))
    assert "60.0 % right, against 50.5 % before retrofitting: +9.5 points" in better
    assert better.endswith("; the retrofitted model is more robust.")
    assert worse.endswith("; the retrofitting made it less robust.")


@pytest.mark.parametrize(("model", "baseline"), [(0, 0), (3, 1), (5, 0), (10, 9), (0, 5)])
def test_what_may_be_chance_is_no_difference(model: int, baseline: int) -> None:
    """Where the interval holds zero, or the exact test does not reject, nothing is claimed."""
    sentence = headline(document(model, baseline))
    assert sentence.endswith("no difference is shown.")
    assert "more robust" not in sentence
    # An interval without zero needs a word beside it.
    by_test = "; by the exact test (p = 0.06) no difference is shown."
    assert ({model, baseline} == {0, 5}) == sentence.endswith(by_test)


def test_a_model_alone_is_compared_with_nothing() -> None:
    """A plain model has a worst case and no difference."""
    alone = document(0, 0)
    alone["baseline"]["same_as_model"] = True
    expected = (
        "At eps 0.1 (ℓ∞, pixels from 0 to 1), on 200 samples, the worst case leaves 50.0 % right "
        "(95 % interval 43.1 % to 56.9 %); there is no other model to compare with."
    )
    assert expected == headline(alone)
