"""The sentence that says what a retrofit bought, and no more than the figures do."""

from collections.abc import Mapping
from typing import Any

from onnxfit.verification.statistics import SIGNIFICANCE


def headline(document: Mapping[str, Any]) -> str:
    """Return the headline of a result with the keys of ``result.json``.

    "More robust" is said only where the interval of the paired difference lies above zero and the
    exact test agrees.
    """
    n = document["data"]["n"]
    where = f"At {budget(document)}, on {n} sample{'s' if n != 1 else ''}, "
    worst = percent(document["worst_case"]["robust_accuracy"])
    baseline = document.get("baseline")
    if baseline is None or baseline.get("same_as_model"):
        low, high = document["worst_case"]["ci95"]
        return (
            f"{where}the worst case leaves {worst} right (95 % interval {percent(low)} to "
            f"{percent(high)}); there is no other model to compare with."
        )
    difference = document["difference"]
    gain, (low, high) = difference["robust_accuracy"], difference["ci95"]
    source = baseline.get("is_source", True)
    making, made = words(document.get("model", {}))
    what = (
        f"{where}the worst case leaves {worst} right, against "
        f"{percent(baseline['worst_case']['robust_accuracy'])} "
        f"{f'before {making}' if source else 'for the baseline'}: "
        f"{points(gain)} points (95 % interval {points(low)} to {points(high)})"
    )
    more = f"the {f'{made} ' if source else ''}model is more robust"
    fewer = f"the {f'{making} made it' if source else 'model is'} less robust"
    return f"{what}; {conclusion(difference, more, fewer)}."


def words(model: Mapping[str, Any]) -> tuple[str, str]:
    """Say what makes a model of its source, and what the model is then.

    Args:
        model: What :meth:`onnxfit.verification.target.Target.record` returns.
    """
    if model.get("passes"):
        return "retrofitting", "retrofitted"
    return "hardening", "hardened"


def conclusion(difference: Mapping[str, Any], more: str, fewer: str) -> str:
    """Say what a paired difference shows: something only where interval and exact test agree.

    Args:
        difference: With ``ci95`` and ``p_value``.
        more: What to say where the difference is above zero.
        fewer: Where it is below.
    """
    low, high = difference["ci95"]
    if low <= 0 <= high:
        return "no difference is shown"
    if difference["p_value"] < SIGNIFICANCE:
        return more if low > 0 else fewer
    # The interval is approximate, the test is not.
    return f"by the exact test (p = {difference['p_value']:.2f}) no difference is shown"


def paper_headline(document: Mapping[str, Any]) -> str:
    """Return the headline of a run of the paper's protocol."""
    figures = ", ".join(
        f"{record['name']} {percent(record['accuracy'])}"
        for record in document["attacks"]
        if not record["name"].startswith("transfer")
    )
    return (
        f"Accuracy under the paper's attacks, by native gradients alone, on "
        f"{document['data']['n']} samples: {figures}. This is no worst case: the suites quick and "
        "standard look for it."
    )


def budget(document: Mapping[str, Any]) -> str:
    """Say how far the attacker may go, in units of the data."""
    low, high = document["data"]["bounds"]
    norm = {"linf": "ℓ∞", "l2": "ℓ2"}[document["norm"]]
    return f"eps {document['eps']:.4g} ({norm}, pixels from {low:g} to {high:g})"


def percent(share: float) -> str:
    """Write a fraction in per cent."""
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """Write a difference of fractions in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")
