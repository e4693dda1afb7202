"""What the diagnostics say of plain numbers, on both sides of each limit."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from onnxfit.verification.diagnostics import (
    Diagnostic,
    Mask,
    deepfool_distance,
    gradient_free,
    large_eps,
    many_steps,
    native_gradients,
    repeatable,
    saturated_logits,
    zero_gradients,
)


def first(count: int, n: int) -> Mask:
    """Mark the first ``count`` of ``n`` samples."""
    return np.arange(n) < count


@pytest.mark.parametrize(
    ("n", "white_box", "everything", "passed"),
    [
        (200, 100, 100, True),
        # Wilson's interval of 100 of 200 starts at 86.3.
        (200, 100, 87, True),
        (200, 100, 86, False),
        # That of 2 of 200 starts above 0, but two samples are no sign of anything.
        (200, 2, 0, True),
        (200, 3, 0, False),
    ],
)
def test_black_box_attacks_may_find_no_more_than_chance_explains(
    n: int, white_box: int, everything: int, passed: bool
) -> None:
    """What they leave lies in the interval of what white-box attacks leave, or fails the gate."""
    found = gradient_free(n, white_box, everything)
    assert ("gradient-free", True, passed) == (found.check, found.gate, found.passed)


def test_black_box_attacks_that_win_are_explained() -> None:
    """The sentence names both accuracies and where the interval starts."""
    assert (
        "White-box attacks leave 100 of 200 samples (50.0 %) robust, the black-box attacks on top "
        "of them 86 of 200 samples (43.0 %), below the interval of the first, which starts at "
        "43.1 %. Gradients do not lead where this model can be broken."
    ) == gradient_free(200, 100, 86).detail
    assert (
        "White-box attacks leave 100 of 200 samples (50.0 %) robust, the black-box attacks on top "
        "of them 87 of 200 samples (43.5 %): no more than chance explains."
    ) == gradient_free(200, 100, 87).detail


@pytest.mark.parametrize(
    ("one", "many", "passed"),
    [
        (first(4, 50), first(0, 50), True),  # p = 1/16
        (first(5, 50), first(0, 50), False),  # p = 1/32
        (first(5, 50), ~first(45, 50), True),
        # What both break does not matter: 5 against none again.
        (first(40, 50), first(35, 50), False),
        (first(0, 50), first(50, 50), True),
    ],
)
def test_one_step_does_not_beat_many(one: Mask, many: Mask, passed: bool) -> None:
    """It may break a few samples that many steps do not, not significantly more than they."""
    found = many_steps(one, many)
    assert ("many-steps", True, passed) == (found.check, found.gate, found.passed)


def test_one_step_that_wins_is_explained() -> None:
    """The sentence names both success rates, who breaks what alone, and the probability."""
    assert (
        "One step breaks 5 of 50 samples (10.0 %), many steps 0 of 50 samples (0.0 %); 5 fall to "
        "the one step alone, 0 to the many alone (p = 0.031). Small steps are led astray, so that "
        "the attacks are too weak."
    ) == many_steps(first(5, 50), first(0, 50)).detail
    assert (
        "One step breaks 1 of 50 samples (2.0 %), many steps 3 of 50 samples (6.0 %); 0 fall to "
        "the one step alone, 2 to the many alone."
    ) == many_steps(first(1, 50), first(3, 50)).detail


# Wilson's interval of 6 of 50 starts at 5.6 %, that of 5 at 4.3 %; of 10 of 50 at 11.2 %, of 9 at
# 9.8 %.
@pytest.mark.parametrize(
    ("judge", "check", "most"),
    [
        (lambda n, found: large_eps(n, found, 1.0), "large-eps", 5),
        (zero_gradients, "zero-gradients", 9),
        (saturated_logits, "saturated-logits", 9),
    ],
)
def test_a_share_fails_once_its_interval_lies_above_the_limit(
    judge: Callable[[int, int], Diagnostic], check: str, most: int
) -> None:
    """5 % may withstand a large eps, 10 % have no gradient or saturated logits."""
    for count, passed in ((0, True), (most, True), (most + 1, False), (50, False)):
        found = judge(50, count)
        assert (check, True, passed) == (found.check, found.gate, found.passed)


def test_shares_are_explained() -> None:
    """Each sentence names the share, and what follows where it is too large."""
    assert (
        "At eps 1, where every input is within reach, 0 of 50 samples (0.0 %) withstand a "
        "white-box attack."
    ) == large_eps(50, 0, 1.0).detail
    assert (
        "At eps 27.7, where every input is within reach, 6 of 50 samples (12.0 %) withstand a "
        "white-box attack: its gradients do not lead to inputs that certainly exist."
    ) == large_eps(50, 6, 27.7128).detail
    assert (
        "The gradient is exactly 0 everywhere for 1 of 1 sample (100.0 %): attacks that follow "
        "gradients are blind there."
    ) == zero_gradients(1, 1).detail
    assert (
        "Softmax gives every other class exactly 0 for 50 of 50 samples (100.0 %): the plain "
        "cross-entropy has no gradient there, and evaluations that use it overstate this model."
    ) == saturated_logits(50, 50).detail


@pytest.mark.parametrize(
    ("file", "twin", "passed"),
    [
        (0.0, 0.0, True),
        (1e-5, 0.0, True),
        (1.1e-5, 0.0, False),
        (0.0, 1.1e-5, False),
        (math.inf, 0.0, False),
    ],
)
def test_two_runs_may_differ_by_rounding(file: float, twin: float, passed: bool) -> None:
    """Neither the file nor the twin may differ by more than the tolerance."""
    found = repeatable(file, twin, 1e-5)
    assert ("repeatable", True, passed) == (found.check, found.gate, found.passed)


def test_two_runs_are_explained() -> None:
    """The sentence names both differences, and the tolerance where they are not 0."""
    start = "Two runs on the same inputs differ by {} in the deployed file and by {} in the twin, "
    assert start.format(0, 0) + "relative to the largest logit." == repeatable(0, 0, 1e-5).detail
    assert (
        start.format("1e-06", "0")
        + "relative to the largest logit, within the 1e-05 that rounding explains."
    ) == repeatable(1e-6, 0, 1e-5).detail
    assert (
        start.format("0.04", "0.05")
        + "relative to the largest logit, above the 1e-05 that rounding explains. The model is "
        "random inside, so that one try says little about the next."
    ) == repeatable(0.04, 0.05, 1e-5).detail


@pytest.mark.parametrize(
    ("native", "worst", "passed"), [(100, 100, True), (100, 87, True), (100, 86, False)]
)
def test_native_gradients_are_reported_and_do_not_fail_the_gate(
    native: int, worst: int, passed: bool
) -> None:
    """They overstate where the worst case lies below their interval, which starts at 86.3."""
    found = native_gradients(200, native, worst, worst)
    assert ("native-gradients", False, passed) == (found.check, found.gate, found.passed)


def test_what_native_gradients_overstate_is_told_in_points() -> None:
    """With how much of it the surrogate backward passes find."""
    start = (
        "Native gradients alone leave 53 of 200 samples (26.5 %) robust, all attacks together 10 "
        "of 200 samples (5.0 %): they overstate by 21.5 points."
    )
    assert start == native_gradients(200, 53, 53, 10).detail
    assert (
        start + " Surrogate backward passes break 41 samples that the model masks from its own "
        "gradients, and the worst case accounts for that."
    ) == native_gradients(200, 53, 12, 10).detail
    by_network = {"own head": 30, "template kernel 1": 11}
    assert (
        start
        + " Surrogate backward passes and networks break 41 samples that the model masks from "
        "its own gradients, and the worst case accounts for that. Surrogate networks were the "
        "first to break: 30 (own head), 11 (template kernel 1)."
    ) == native_gradients(200, 53, 12, 10, by_network).detail
    fine = native_gradients(200, 12, 12, 12, {"own head": 0}).detail
    assert fine.endswith(
        "chance explains. Surrogate networks were the first to break: 0 (own head)."
    )


@pytest.mark.parametrize(
    ("medians", "successes", "passed"),
    [
        ((1.0, 1.0), (0.5, 0.5), True),
        ((1.0, 1.2), (0.5, 0.5), True),
        # At twice the distance success should fall by half, and may fall by a quarter.
        ((1.0, 2.0), (0.5, 0.375), True),
        ((1.0, 2.0), (0.5, 0.376), False),
        ((1.0, 3.0), (0.5, 0.5), False),
        ((1.0, math.inf), (0.5, 0.26), False),
        ((1.0, math.inf), (0.5, 0.25), True),
        ((1.0, 0.5), (0.5, 1.0), True),
    ],
)
def test_deepfools_distance_goes_with_the_success_of_ifgsm(
    medians: tuple[float, float], successes: tuple[float, float], passed: bool
) -> None:
    """Where it grows by more than a fifth, success falls; otherwise that is reported."""
    found = deepfool_distance(*medians, *successes)
    assert ("deepfool-distance", False, passed) == (found.check, found.gate, found.passed)


def test_deepfools_distance_is_explained() -> None:
    """The sentence names the ratio and both success rates."""
    assert (
        "DeepFool's median distance is 3.00 times the baseline's, IFGSM breaks 49.0 % where it "
        "was 50.0 %: the distance measures masking, not robustness."
    ) == deepfool_distance(1.0, 3.0, 0.5, 0.49).detail


NO_SAMPLE = "Not measured: a sample to measure it on is missing."
NOTHING_TO_COMPARE = "Not measured: a distance or a success to compare with is missing."


@pytest.mark.parametrize(
    ("found", "gate", "detail"),
    [
        (gradient_free(0, 0, 0), True, NO_SAMPLE),
        (many_steps(first(0, 0), first(0, 0)), True, NO_SAMPLE),
        (large_eps(0, 0, 1.0), True, NO_SAMPLE),
        (zero_gradients(0, 0), True, NO_SAMPLE),
        (saturated_logits(0, 0), True, NO_SAMPLE),
        (native_gradients(0, 0, 0, 0), False, NO_SAMPLE),
        (deepfool_distance(math.inf, 1.0, 0.5, 0.5), False, NOTHING_TO_COMPARE),
        (deepfool_distance(1.0, 2.0, 0.0, 0.0), False, NOTHING_TO_COMPARE),
        (deepfool_distance(1.0, math.nan, 0.5, 0.5), False, NOTHING_TO_COMPARE),
    ],
)
def test_what_is_not_measured_does_not_pass(found: Diagnostic, gate: bool, detail: str) -> None:
    """Without a sample, or without a distance or success to compare with, a check says so."""
    assert (gate, False, detail) == (found.gate, found.passed, found.detail)
