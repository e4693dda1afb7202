"""The rules of a release: where they are written, and whether a result keeps them."""

import dataclasses
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxfit.errors import DataError
from onnxfit.verification.statistics import SIGNIFICANCE, drop_limit, mcnemar_worse, samples_needed

SUITES = ("quick", "standard", "paper")
NORMS = ("linf", "l2")
RULES = ("min_clean", "min_robust", "max_drop", "max_slowdown")
NOT_WORSE = "not_worse_than_baseline"
# So many samples that all speak against the model are significant: 1/2⁵ < 5 %.
LEAST_COMPARED = 5

_ALLOWED = {
    "min_clean": "a fraction from 0 to 1",
    "min_robust": "a fraction from 0 to 1",
    "max_drop": "a fraction above 0 and of at most 1",
    "max_slowdown": "a ratio of latencies above 0, such as 1.1",
    "suite": "one of " + ", ".join(SUITES),
    "eps": 'a finite number above 0, such as 0.1 or "8/255"',
    "norm": "one of " + ", ".join(NORMS),
    "steps": "a whole number of at least 1",
}

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a release must keep, and how that is measured; None where nothing is said.

    Attributes:
        min_clean: Smallest clean accuracy.
        min_robust: Smallest robust accuracy in the worst case.
        max_drop: How much lower than the baseline's the clean accuracy may be.
        max_slowdown: Largest ratio of the latency to the baseline's.
        suite: Which attacks run.
        eps: Size of a perturbation.
        norm: That it is measured in.
        steps: Of the iterated attacks.

    Raises:
        ValueError: A value is of another type or out of range.
    """

    min_clean: float | None = None
    min_robust: float | None = None
    max_drop: float | None = None
    max_slowdown: float | None = None
    suite: str | None = None
    eps: float | None = None
    norm: str | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        for key, allowed in _ALLOWED.items():
            value = getattr(self, key)
            if value is not None and not _allowed(key, value):
                raise ValueError(f"{key} is {value!r}, not {allowed}")

    @property
    def has_rules(self) -> bool:
        """Whether anything but the settings of the attacks is asked for."""
        return any(getattr(self, rule) is not None for rule in RULES)


def _allowed(key: str, value: Any) -> bool:
    if key in ("suite", "norm"):
        return value in (SUITES if key == "suite" else NORMS)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if key == "steps":
        return isinstance(value, int) and value >= 1
    if key in ("min_clean", "min_robust"):
        return 0 <= value <= 1
    return 0 < value <= (1 if key == "max_drop" else sys.float_info.max)


def read_policy(path: str | Path) -> Policy:
    """Read a policy from a TOML file.

    The keys are the fields of :class:`Policy`, with ``_`` or ``-``. A number may be a string that
    holds it, also as a fraction: ``eps = "8/255"``.

    Raises:
        DataError: The file cannot be read, is not TOML, or holds what is not allowed.
    """
    try:
        with Path(path).open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not TOML: {error}") from error
    values: dict[str, Any] = {}
    for written, value in content.items():
        key = written.replace("-", "_")
        if key not in _ALLOWED:
            raise DataError(f"{path}: unknown key {written!r}; there are {', '.join(_ALLOWED)}")
        if key in values:
            raise DataError(f"{path}: {key} is given twice, with _ and with -")
        values[key] = value if key in ("suite", "norm") else _number(value)
    try:
        return Policy(**values)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _number(value: Any) -> Any:
    """Return the number that a string holds; anything else as it is."""
    if not isinstance(value, str):
        return value
    numerator, slash, denominator = value.partition("/")
    try:
        number = float(numerator) / float(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        return value
    return int(number) if number.is_integer() else number


def merged(flags: Policy, policy: Policy) -> Policy:
    """Return both in one; what ``flags`` says goes before what ``policy`` says."""
    said = {key: value for key, value in dataclasses.asdict(flags).items() if value is not None}
    return dataclasses.replace(policy, **said)


def check_sample_size(policy: Policy, n: int, *, compared: bool = False) -> None:
    """Check that ``n`` samples can show what is asked for.

    Args:
        policy: The rules.
        n: Number of samples.
        compared: Whether there is a baseline, so that without rules the two are compared.

    Raises:
        DataError: They cannot, whatever the model does.
    """
    if policy.max_drop is not None and n < (needed := samples_needed(policy.max_drop)):
        raise DataError(
            f"max_drop {policy.max_drop:g} needs at least {needed} samples, and there are {n}: "
            "with fewer no drop is small enough beyond doubt"
        )
    compares = compared and not policy.has_rules and policy.suite != "paper"
    if compares and n < LEAST_COMPARED:
        raise DataError(
            f"to compare two models takes at least {LEAST_COMPARED} samples, and there are {n}: "
            "with fewer no loss is significant"
        )


def judge(policy: Policy, result: Mapping[str, Any]) -> list[Record]:
    """Judge each rule on the end of its interval that is worse for the release.

    A rule whose quantity was not measured is not kept. Where there is no rule but a baseline that
    is another model, one applies: the model's worst case is not significantly below the
    baseline's (McNemar, exact, one-sided, 5 %). The paper's suite looks for no worst case, and has
    no such rule.

    Args:
        policy: What is asked for.
        result: ``result.json`` as far as it is known.

    Returns:
        The records ``rules`` of ``result.json``: rule, bound, value, passed, detail.
    """
    judges = {
        "min_clean": _min_clean,
        "min_robust": _min_robust,
        "max_drop": _max_drop,
        "max_slowdown": _max_slowdown,
    }
    asked = [rule for rule in RULES if getattr(policy, rule) is not None]
    if not asked and _has_baseline(result) and result.get("suite") != "paper":
        return [_not_worse(result)]
    return [judges[rule](getattr(policy, rule), result) for rule in asked]


def verdict(rules: Sequence[Mapping[str, Any]], diagnostics: Sequence[Mapping[str, Any]]) -> str:
    """Return "pass", or "fail" where a rule or a diagnostic that gates did not pass."""
    return "fail" if any(failures(rules, diagnostics)) else "pass"


def failures(
    rules: Sequence[Mapping[str, Any]], diagnostics: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield the names of the rules and diagnostics that fail the gate."""
    yield from (record["rule"] for record in rules if not record["passed"])
    yield from (
        record["check"] for record in diagnostics if record["gate"] and not record["passed"]
    )


def _record(rule: str, bound: float, value: float | None, passed: bool, detail: str) -> Record:
    return {"rule": rule, "bound": bound, "value": value, "passed": passed, "detail": detail}


def _has_baseline(result: Mapping[str, Any]) -> bool:
    baseline = result.get("baseline")
    return baseline is not None and not baseline.get("same_as_model")


def _min_clean(bound: float, result: Mapping[str, Any]) -> Record:
    return _at_least("min_clean", "clean accuracy", bound, result.get("clean"), "accuracy")


def _min_robust(bound: float, result: Mapping[str, Any]) -> Record:
    what = "robust accuracy in the worst case"
    return _at_least("min_robust", what, bound, result.get("worst_case"), "robust_accuracy")


def _at_least(
    rule: str, what: str, bound: float, measured: Mapping[str, Any] | None, key: str
) -> Record:
    if not measured:
        return _record(rule, bound, None, False, f"The {what} was not measured.")
    value = measured["ci95"][0]
    passed = bool(value >= bound)
    detail = (
        f"The {what} is {measured[key]:.2%}; the lower end of its 95% interval, {value:.2%}, is "
        f"{'not below' if passed else 'below'} {bound:.2%}."
    )
    return _record(rule, bound, value, passed, detail)


def _max_drop(bound: float, result: Mapping[str, Any]) -> Record:
    difference = result.get("difference")
    if not difference:
        detail = "There is no baseline that the clean accuracy could have dropped from."
        return _record("max_drop", bound, None, False, detail)
    lost, gained, n = difference["clean_lost"], difference["clean_gained"], result["data"]["n"]
    value = drop_limit(lost, gained, n)
    passed = bool(value <= bound)
    detail = (
        f"Of {n} samples the baseline alone classifies {lost} correctly and the model alone "
        f"{gained}; the upper limit of the drop of clean accuracy (95%, exact, paired), "
        f"{value:.2%}, is {'not above' if passed else 'above'} {bound:.2%}."
    )
    return _record("max_drop", bound, value, passed, detail)


def _max_slowdown(bound: float, result: Mapping[str, Any]) -> Record:
    latency = result.get("latency")
    if not _has_baseline(result) or not latency:
        detail = "The latency was not compared with that of a baseline."
        return _record("max_slowdown", bound, None, False, detail)
    value = latency["ci95"][1]
    passed = bool(value <= bound)
    detail = (
        f"The model takes {latency['ratio']:.3f} times as long as the baseline; the upper end of "
        f"the 95% interval, {value:.3f}, is {'not above' if passed else 'above'} {bound:g}."
    )
    return _record("max_slowdown", bound, value, passed, detail)


def _not_worse(result: Mapping[str, Any]) -> Record:
    difference = result.get("difference")
    if not difference or "only_model" not in difference:
        detail = "The worst cases of model and baseline were not compared sample by sample."
        return _record(NOT_WORSE, SIGNIFICANCE, None, False, detail)
    model, baseline = difference["only_model"], difference["only_baseline"]
    value = mcnemar_worse(model, baseline)
    passed = bool(value >= SIGNIFICANCE)
    detail = (
        f"Samples robust in the worst case of the model alone: {model}, of the baseline alone: "
        f"{baseline}. The model is {'not ' if passed else ''}significantly less robust "
        f"(McNemar, exact, one-sided, p = {value:.2g})."
    )
    return _record(NOT_WORSE, SIGNIFICANCE, value, passed, detail)
