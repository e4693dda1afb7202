"""Signs that an evaluation cannot be trusted: what was counted, judged and put into words.

They follow the checklists of Athalye et al. (2018) and Carlini et al. (2019). Those that fail the
gate say that the worst case over all attacks may not be the worst case; the others are reported.
A check fails only where chance does not explain what was seen.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxfit.verification.statistics import SIGNIFICANCE, mcnemar_worse, wilson

Mask = NDArray[np.bool_]

# Fewer samples than this are no sign of masking, however narrow the interval is.
LEAST_DIFFERENCE = 3
LEFT_AT_LARGE_EPS = 0.05
SHARE_OF_ZEROS = 0.1
SHARE_OF_SATURATED = 0.1
# How much farther DeepFool has to go before its distance is compared with IFGSM's success.
LEAST_RATIO = 1.2


@dataclass(frozen=True)
class Diagnostic:
    """What one check found.

    Attributes:
        check: Its name.
        gate: Whether the gate fails where the check does.
        passed: Whether there is nothing to worry about; False too where nothing was measured.
        detail: What was measured, in a sentence or two.
    """

    check: str
    gate: bool
    passed: bool
    detail: str


def gradient_free(n: int, white_box: int, everything: int) -> Diagnostic:
    """Judge whether attacks without gradients of the model find what white-box attacks miss.

    That fails where the robust accuracy under everything lies below Wilson's interval of the
    robust accuracy under the white-box attacks, by three samples or more.

    Args:
        n: Number of samples.
        white_box: Robust ones under all white-box attacks together, surrogate backwards included.
        everything: Robust ones under the gradient-free and transferred attacks and noise as well.
    """
    check = "gradient-free"
    if not n:
        return _unmeasured(check)
    found = (
        f"White-box attacks leave {_share(white_box, n)} robust, the black-box attacks on top of "
        f"them {_share(everything, n)}"
    )
    if not _fewer(everything, white_box, n):
        return Diagnostic(check, True, True, f"{found}: no more than chance explains.")
    return Diagnostic(
        check,
        True,
        False,
        f"{found}, below the interval of the first, which starts at "
        f"{_percent(wilson(white_box, n)[0])}. "
        "Gradients do not lead where this model can be broken.",
    )


def many_steps(one_step: Mask, many: Mask) -> Diagnostic:
    """Judge whether one step beats many: McNemar's exact test, one-sided, at 5 %.

    Args:
        one_step: Whether FGSM broke each sample, N booleans.
        many: Whether the attack of many steps did, with the same gradients and on the same samples.
    """
    check = "many-steps"
    n = len(one_step)
    if not n:
        return _unmeasured(check)
    only_one, only_many = int((one_step & ~many).sum()), int((many & ~one_step).sum())
    p = mcnemar_worse(only_many, only_one)
    found = (
        f"One step breaks {_share(int(one_step.sum()), n)}, many steps "
        f"{_share(int(many.sum()), n)}; {only_one} fall to the one step alone, {only_many} to "
        "the many alone"
    )
    if p >= SIGNIFICANCE:
        return Diagnostic(check, True, True, f"{found}.")
    return Diagnostic(
        check,
        True,
        False,
        f"{found} (p = {p:.2g}). Small steps are led astray, so that the attacks are too weak.",
    )


def large_eps(n: int, survivors: int, eps: float) -> Diagnostic:
    """Judge whether the robust accuracy falls to about 0 where any perturbation is allowed.

    That fails where Wilson's interval of what survives lies above 5 %.

    Args:
        n: Number of samples, all classified correctly.
        survivors: Those that a white-box attack of this eps does not break.
        eps: How far it may go.
    """
    check = "large-eps"
    if not n:
        return _unmeasured(check)
    passed = wilson(survivors, n)[0] <= LEFT_AT_LARGE_EPS
    found = (
        f"At eps {eps:.3g}, where every input is within reach, {_share(survivors, n)} withstand a "
        "white-box attack"
    )
    reason = "." if passed else ": its gradients do not lead to inputs that certainly exist."
    return Diagnostic(check, True, passed, found + reason)


def zero_gradients(n: int, zero: int) -> Diagnostic:
    """Judge whether more than 10 % of the samples have no gradient: Wilson's interval is above.

    Args:
        n: Number of samples, all classified correctly.
        zero: Those where the margin's own gradient is 0 in every value.
    """
    check = "zero-gradients"
    if not n:
        return _unmeasured(check)
    passed = wilson(zero, n)[0] <= SHARE_OF_ZEROS
    found = f"The gradient is exactly 0 everywhere for {_share(zero, n)}"
    reason = "." if passed else ": attacks that follow gradients are blind there."
    return Diagnostic(check, True, passed, found + reason)


def repeatable(file: float, twin: float, tolerance: float) -> Diagnostic:
    """Judge whether the same input gives the same output twice.

    Args:
        file: The largest difference between two runs of the deployed file, relative to the
            largest logit of the sample.
        twin: The same of the twin.
        tolerance: What sums in another order may make of it.
    """
    check = "repeatable"
    passed = max(file, twin) <= tolerance
    found = (
        f"Two runs on the same inputs differ by {file:.2g} in the deployed file and by {twin:.2g} "
        f"in the twin, relative to the largest logit"
    )
    if passed:
        limit = "" if file == twin == 0 else f", within the {tolerance:.2g} that rounding explains"
        return Diagnostic(check, True, True, f"{found}{limit}.")
    return Diagnostic(
        check,
        True,
        False,
        f"{found}, above the {tolerance:.2g} that rounding explains. The model is random inside, "
        "so that one try says little about the next.",
    )


def saturated_logits(n: int, saturated: int) -> Diagnostic:
    """Judge whether softmax saturates for more than 10 %: Wilson's interval lies above.

    Args:
        n: Number of samples, all classified correctly.
        saturated: Those where every other class has probability 0 in single precision.
    """
    check = "saturated-logits"
    if not n:
        return _unmeasured(check)
    passed = wilson(saturated, n)[0] <= SHARE_OF_SATURATED
    found = f"Softmax gives every other class exactly 0 for {_share(saturated, n)}"
    reason = (
        "."
        if passed
        else ": the plain cross-entropy has no gradient there, and evaluations that use it "
        "overstate this model."
    )
    return Diagnostic(check, True, passed, found + reason)


def native_gradients(
    n: int,
    native: int,
    white_box: int,
    worst: int,
    by_network: Mapping[str, int] | None = None,
) -> Diagnostic:
    """Report how far the model's own gradients overstate its robustness; no gate.

    It does not pass where the worst case lies below Wilson's interval of the robust accuracy under
    native gradients. A paired test would say little: more attacks never break fewer samples.

    Args:
        n: Number of samples.
        native: Robust ones under the attacks with the model's own gradients.
        white_box: Robust ones under those and the surrogate backward passes and networks.
        worst: Robust ones under all attacks.
        by_network: How many samples attacks through each surrogate network were the first to break.
    """
    check = "native-gradients"
    if not n:
        return _unmeasured(check, gate=False)
    found = (
        f"Native gradients alone leave {_share(native, n)} robust, all attacks together "
        f"{_share(worst, n)}"
    )
    counts = ", ".join(f"{count} ({name})" for name, count in (by_network or {}).items())
    through = f" Surrogate networks were the first to break: {counts}." if counts else ""
    if not _fewer(worst, native, n):
        detail = f"{found}: no more than chance explains.{through}"
        return Diagnostic(check, False, True, detail)
    detail = f"{found}: they overstate by {100 * (native - worst) / n:.1f} points."
    if native > white_box:
        what = "backward passes and networks" if counts else "backward passes"
        detail += (
            f" Surrogate {what} break {_samples(native - white_box)} that the model "
            "masks from its own gradients, and the worst case accounts for that."
        )
    return Diagnostic(check, False, False, detail + through)


def deepfool_distance(
    baseline_median: float, model_median: float, baseline_success: float, model_success: float
) -> Diagnostic:
    """Report whether DeepFool has to go farther while IFGSM succeeds as before; no gate.

    Where the distance grows by a ratio r > 1.2, success within a fixed distance should fall by
    something like 1 − 1/r of itself. It does not pass where it falls by less than half of that.

    Args:
        baseline_median: Of DeepFool's distances on the baseline; infinite where half of the
            samples have none.
        model_median: On the hardened model.
        baseline_success: Share of the samples that IFGSM breaks on the baseline.
        model_success: On the hardened model.
    """
    check = "deepfool-distance"
    if not (0 < baseline_median < math.inf and baseline_success > 0 and model_median >= 0):
        return _unmeasured(check, "a distance or a success to compare with", gate=False)
    ratio = model_median / baseline_median
    fall = 1 - model_success / baseline_success
    expected = 0.0 if ratio <= LEAST_RATIO else 1 - 1 / ratio
    found = (
        f"DeepFool's median distance is {ratio:.2f} times the baseline's, IFGSM breaks "
        f"{_percent(model_success)} where it was {_percent(baseline_success)}"
    )
    passed = fall >= expected / 2 or not expected
    reason = "." if passed else ": the distance measures masking, not robustness."
    return Diagnostic(check, False, passed, found + reason)


def _fewer(some: int, others: int, n: int) -> bool:
    """Say whether a count lies below Wilson's interval of another, by three samples or more."""
    return some / n < wilson(others, n)[0] and others - some >= LEAST_DIFFERENCE


def _unmeasured(
    check: str, missing: str = "a sample to measure it on", *, gate: bool = True
) -> Diagnostic:
    return Diagnostic(check, gate, False, f"Not measured: {missing} is missing.")


def _share(found: int, n: int) -> str:
    return f"{found} of {_samples(n)} ({_percent(found / n)})"


def _samples(n: int) -> str:
    return "1 sample" if n == 1 else f"{n} samples"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
