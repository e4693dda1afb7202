"""Rules of a release: how they are written, and when a result keeps them."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from onnxfit.errors import DataError
from onnxfit.verification.policy import (
    Policy,
    check_sample_size,
    judge,
    merged,
    read_policy,
    verdict,
)
from onnxfit.verification.statistics import drop_limit, mcnemar_worse


def result(**changes: Any) -> dict[str, Any]:
    """Make a result of 300 samples, compared with another model."""
    made = {
        "data": {"n": 300},
        "clean": {"accuracy": 0.97, "ci95": [0.944, 0.984]},
        "worst_case": {"robust_accuracy": 0.5, "ci95": [0.444, 0.556]},
        "baseline": {"model": {}},
        "difference": {"clean_lost": 2, "clean_gained": 1, "only_model": 4, "only_baseline": 9},
        "latency": {"ratio": 1.05, "ci95": [1.02, 1.08]},
    }
    return {**made, **changes}


def written(folder: Path, text: str) -> Path:
    """Write a policy file."""
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_policy_file_holds_rules_and_settings(tmp_path: Path) -> None:
    """Keys are written with _ or -, numbers as numbers or as text, also as fractions."""
    text = """
        min_clean = 0.95            # of 1
        min-robust = "1/2"
        max-drop = "0.01"
        max_slowdown = 2
        suite = "quick"
        eps = "8/255"
        norm = "l2"
        steps = "40"
    """
    expected = Policy(
        min_clean=0.95,
        min_robust=0.5,
        max_drop=0.01,
        max_slowdown=2,
        suite="quick",
        eps=8 / 255,
        norm="l2",
        steps=40,
    )
    assert expected == read_policy(written(tmp_path, text))


def test_an_empty_policy_says_nothing(tmp_path: Path) -> None:
    """Every field is None, and there are no rules."""
    found = read_policy(written(tmp_path, "# nothing\n"))
    assert Policy() == found
    assert not found.has_rules
    assert not Policy(eps=0.1, suite="quick", norm="l2", steps=3).has_rules
    assert Policy(min_clean=0).has_rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "min_accuracy = 0.9",
            "unknown key 'min_accuracy'; there are min_clean, min_robust, max_drop, max_slowdown, "
            "suite, eps, norm, steps",
        ),
        (
            "[rules]\nmin_clean = 0.9",
            "unknown key 'rules'; there are min_clean, min_robust, max_drop, max_slowdown, "
            "suite, eps, norm, steps",
        ),
        ("min_clean = 95", "min_clean is 95, not a fraction from 0 to 1"),
        ('min_clean = "95%"', "min_clean is '95%', not a fraction from 0 to 1"),
        ("min_clean = true", "min_clean is True, not a fraction from 0 to 1"),
        ("min_clean = nan", "min_clean is nan, not a fraction from 0 to 1"),
        ("min-robust = -0.1", "min_robust is -0.1, not a fraction from 0 to 1"),
        ("[min_robust]\na = 1", "min_robust is {'a': 1}, not a fraction from 0 to 1"),
        ("max_drop = 0", "max_drop is 0, not a fraction above 0 and of at most 1"),
        ("max_drop = 1.5", "max_drop is 1.5, not a fraction above 0 and of at most 1"),
        ("max_slowdown = 0", "max_slowdown is 0, not a ratio of latencies above 0, such as 1.1"),
        (
            "max_slowdown = inf",
            "max_slowdown is inf, not a ratio of latencies above 0, such as 1.1",
        ),
        ('suite = "slow"', "suite is 'slow', not one of quick, standard, paper"),
        ("suite = []", "suite is [], not one of quick, standard, paper"),
        ('norm = "linf "', "norm is 'linf ', not one of linf, l2"),
        ('eps = "8/0"', "eps is '8/0', not a finite number above 0, such as 0.1 or \"8/255\""),
        ("eps = 0.0", 'eps is 0.0, not a finite number above 0, such as 0.1 or "8/255"'),
        ('eps = "1e999"', 'eps is inf, not a finite number above 0, such as 0.1 or "8/255"'),
        ("steps = 0", "steps is 0, not a whole number of at least 1"),
        ("steps = 2.5", "steps is 2.5, not a whole number of at least 1"),
        ("max-drop = 0.1\nmax_drop = 0.2", "max_drop is given twice, with _ and with -"),
    ],
)
def test_a_bad_policy_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    """It names the file, the key, and what is allowed."""
    path = written(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_policy(path)
    assert f"{path}: {message}" == str(caught.value)


def test_a_number_that_floats_do_not_hold_is_out_of_range(tmp_path: Path) -> None:
    """TOML has integers of any length."""
    path = written(tmp_path, f"eps = {10**400}")
    with pytest.raises(DataError, match=r"eps is 10+, not a finite number above 0"):
        read_policy(path)


@pytest.mark.parametrize("content", [b"min_clean 0.9", b"\xff\xfe", b"eps = 1\neps = 2"])
def test_what_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    """With the reason that the parser gives."""
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as reason:  # noqa: PT011 - whatever the parser says
        tomllib.loads(content.decode())
    with pytest.raises(DataError) as caught:
        read_policy(path)
    assert f"{path} is not TOML: {reason.value}" == str(caught.value)


def test_a_policy_that_nests_too_deep_is_refused(tmp_path: Path) -> None:
    """The parser's recursion limit is not a traceback."""
    path = written(tmp_path, "eps = " + "[" * 100_000)
    with pytest.raises(DataError, match="is not TOML: "):
        read_policy(path)


def test_a_policy_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """It is missing, or a folder."""
    with pytest.raises(DataError) as missing:
        read_policy(tmp_path / "none.toml")
    assert f"{tmp_path / 'none.toml'} cannot be read: No such file or directory" == str(
        missing.value
    )
    with pytest.raises(DataError) as folder:
        read_policy(tmp_path)
    assert f"{tmp_path} cannot be read: Is a directory" == str(folder.value)


def test_flags_go_before_the_file() -> None:
    """Where a flag says nothing, the file counts; 0 is something."""
    flags = Policy(min_clean=0, eps=0.2)
    policy = Policy(min_clean=0.9, min_robust=0.4, eps=0.1)
    assert Policy(min_clean=0, min_robust=0.4, eps=0.2) == merged(flags, policy)
    assert policy == merged(Policy(), policy)


@pytest.mark.parametrize(("bound", "passed"), [(0.944, True), (0.945, False), (0.97, False)])
def test_min_clean_is_judged_on_the_lower_end(bound: float, passed: bool) -> None:
    """An accuracy above the bound is not enough."""
    detail = "below" if not passed else "not below"
    expected = {
        "rule": "min_clean",
        "bound": bound,
        "value": 0.944,
        "passed": passed,
        "detail": "The clean accuracy is 97.00%; the lower end of its 95% interval, 94.40%, is "
        f"{detail} {bound:.2%}.",
    }
    assert [expected] == judge(Policy(min_clean=bound), result())


@pytest.mark.parametrize(("bound", "passed"), [(0.444, True), (0.45, False)])
def test_min_robust_is_judged_on_the_lower_end_of_the_worst_case(
    bound: float, passed: bool
) -> None:
    """Whatever native gradients say."""
    found = judge(Policy(min_robust=bound), result(native={"ci95": [0.9, 0.95]}))
    assert [("min_robust", bound, 0.444, passed)] == [
        (rule["rule"], rule["bound"], rule["value"], rule["passed"]) for rule in found
    ]


def test_max_drop_is_judged_on_the_upper_limit_of_a_paired_drop() -> None:
    """Exact, from the samples lost and gained."""
    limit = drop_limit(2, 1, 300)
    for bound, passed in ((limit, True), (limit - 1e-9, False)):
        found = judge(Policy(max_drop=bound), result())[0]
        assert (limit, passed) == (found["value"], found["passed"])
    assert found["detail"] == (
        "Of 300 samples the baseline alone classifies 2 correctly and the model alone 1; the "
        f"upper limit of the drop of clean accuracy (95%, exact, paired), {limit:.2%}, is above "
        f"{limit:.2%}."
    )


@pytest.mark.parametrize(("bound", "passed"), [(1.08, True), (1.07, False)])
def test_max_slowdown_is_judged_on_the_upper_end(bound: float, passed: bool) -> None:
    """Of the ratio's interval."""
    found = judge(Policy(max_slowdown=bound), result())[0]
    assert (1.08, passed) == (found["value"], found["passed"])
    assert found["detail"] == (
        "The model takes 1.050 times as long as the baseline; the upper end of the 95% interval, "
        f"1.080, is {'not above' if passed else 'above'} {bound:g}."
    )


def test_all_rules_are_judged_in_order() -> None:
    """One record each, and no other."""
    policy = Policy(max_slowdown=1.5, max_drop=0.5, min_robust=0.1, min_clean=0.9)
    found = judge(policy, result())
    assert ["min_clean", "min_robust", "max_drop", "max_slowdown"] == [r["rule"] for r in found]
    assert all(rule["passed"] for rule in found)


@pytest.mark.parametrize(
    ("policy", "missing", "detail"),
    [
        (Policy(min_clean=0), {"clean": None}, "The clean accuracy was not measured."),
        (
            Policy(min_robust=0),
            {"worst_case": None},
            "The robust accuracy in the worst case was not measured.",
        ),
        (
            Policy(max_drop=1),
            {"baseline": None, "difference": None},
            "There is no baseline that the clean accuracy could have dropped from.",
        ),
        (
            Policy(max_slowdown=1e9),
            {"latency": None},
            "The latency was not compared with that of a baseline.",
        ),
        (
            Policy(max_slowdown=1e9),
            {"baseline": {"same_as_model": True}},
            "The latency was not compared with that of a baseline.",
        ),
        (
            Policy(),
            {"difference": None},
            "The worst cases of model and baseline were not compared sample by sample.",
        ),
        (
            Policy(),
            {"difference": {"clean_lost": 0, "clean_gained": 0}},
            "The worst cases of model and baseline were not compared sample by sample.",
        ),
    ],
)
def test_what_was_not_measured_never_passes(
    policy: Policy, missing: dict[str, Any], detail: str
) -> None:
    """Even where any value would do."""
    found = judge(policy, result(**missing))
    assert [(None, False, detail)] == [(r["value"], r["passed"], r["detail"]) for r in found]


@pytest.mark.parametrize("policy", [Policy(min_clean=0), Policy(max_slowdown=1e9)])
def test_nan_never_passes(policy: Policy) -> None:
    """A quantity that is no number keeps no rule."""
    nan = float("nan")
    broken = result(
        clean={"accuracy": nan, "ci95": [nan, nan]}, latency={"ratio": nan, "ci95": [nan, nan]}
    )
    assert [False] == [rule["passed"] for rule in judge(policy, broken)]


def test_a_model_that_is_its_own_baseline_has_lost_nothing() -> None:
    """Its clean accuracy has not dropped, as far as so many samples can show."""
    same = {"same_as_model": True}
    difference = {"clean_lost": 0, "clean_gained": 0, "only_model": 0, "only_baseline": 0}
    result = {"baseline": same, "difference": difference, "data": {"n": 300}}
    for limit, passed in ((0.01, True), (0.0099, False)):
        (rule,) = judge(Policy(max_drop=limit), result)
        assert passed is rule["passed"]
    assert [] == judge(Policy(), result)


def test_the_papers_suite_has_no_rule_of_its_own() -> None:
    """It looks for no worst case that could be compared."""
    result = {"suite": "paper", "baseline": {"same_as_model": False}, "difference": {}}
    assert [] == judge(Policy(), result)


@pytest.mark.parametrize(
    ("only_model", "only_baseline", "passed"),
    [(0, 0, True), (0, 4, True), (0, 5, False), (5, 0, True), (90, 120, False), (100, 120, True)],
)
def test_without_rules_the_model_must_not_be_worse_than_its_baseline(
    only_model: int, only_baseline: int, passed: bool
) -> None:
    """McNemar's test, one-sided at 5 %."""
    difference = {"only_model": only_model, "only_baseline": only_baseline}
    p = mcnemar_worse(only_model, only_baseline)
    expected = {
        "rule": "not_worse_than_baseline",
        "bound": 0.05,
        "value": p,
        "passed": passed,
        "detail": f"Samples robust in the worst case of the model alone: {only_model}, of the "
        f"baseline alone: {only_baseline}. The model is {'not ' if passed else ''}"
        f"significantly less robust (McNemar, exact, one-sided, p = {p:.2g}).",
    }
    assert [expected] == judge(Policy(eps=0.1), result(difference=difference))


def test_a_model_that_is_its_own_baseline_has_no_rule() -> None:
    """Nor has one without a baseline; and with rules no other is added."""
    assert [] == judge(Policy(), result(baseline={"same_as_model": True}))
    assert [] == judge(Policy(), result(baseline=None))
    assert ["min_clean"] == [r["rule"] for r in judge(Policy(min_clean=0.5), result())]


def test_a_drop_needs_three_over_it_samples() -> None:
    """Fewer are refused before anything runs; without the rule any number will do."""
    check_sample_size(Policy(max_drop=0.01), 300)
    check_sample_size(Policy(min_clean=0.9), 1)
    with pytest.raises(DataError) as caught:
        check_sample_size(Policy(max_drop=0.01), 299)
    assert str(caught.value) == (
        "max_drop 0.01 needs at least 300 samples, and there are 299: with fewer no drop is small "
        "enough beyond doubt"
    )


@pytest.mark.parametrize(
    ("rule", "gate", "check", "expected"),
    [
        (True, True, True, "pass"),
        (False, True, True, "fail"),
        (True, True, False, "fail"),
        (True, False, False, "pass"),
        (False, False, True, "fail"),
    ],
)
def test_a_failed_rule_or_gating_diagnostic_fails(
    rule: bool, gate: bool, check: bool, expected: str
) -> None:
    """A diagnostic that is only reported does not."""
    rules = [{"rule": "min_clean", "passed": True}, {"rule": "min_robust", "passed": rule}]
    diagnostics = [
        {"check": "noise", "gate": True, "passed": True},
        {"check": "masking", "gate": gate, "passed": check},
    ]
    assert expected == verdict(rules, diagnostics)


def test_nothing_that_failed_is_a_pass() -> None:
    """Without rules and diagnostics there is nothing to fail."""
    assert verdict([], []) == "pass"
