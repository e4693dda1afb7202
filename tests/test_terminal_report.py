"""What ``verify`` shows on a terminal."""

import copy
from typing import Any

import pytest

from onnxfit.report.terminal import accuracies, attacks, lines, print_result, rules


def attack(name: str, backward: str, robust: float, given: int, found: int) -> dict[str, Any]:
    """Make the record of an attack; the twin is fooled once more than the file."""
    return {
        "name": name,
        "backward": backward,
        "attacked": given,
        "twin_success": found + 1,
        "deployed_success": found,
        "robust_accuracy": robust,
        "ci95": [robust - 0.05, robust + 0.05],
        "seconds": 1.26,
    }


def side(worst: float) -> dict[str, Any]:
    """Make what is measured of one model."""
    return {
        "clean": {"accuracy": 0.99, "ci95": [0.975, 0.996]},
        "native": {"robust_accuracy": 0.81, "ci95": [0.76, 0.86]},
        "worst_case": {"robust_accuracy": worst, "ci95": [worst - 0.05, worst + 0.05]},
        "attacks": [
            attack("pgd", "true", 0.81, 297, 54),
            attack("pgd", "smooth 0.1", worst, 243, 30),
        ],
    }


RESULT: dict[str, Any] = {
    **side(0.71),
    "verdict": "fail",
    "headline": "The hardened model is less robust: −5.0 points (−8.1 to −1.9).",
    "suite": "quick",
    "baseline": {"model": {}, **side(0.76)},
    "rules": [
        {"rule": "min_clean", "bound": 0.9, "value": 0.975, "passed": True, "detail": "Is 97.5%."},
        {"rule": "max_drop", "bound": 0.01, "value": None, "passed": False, "detail": "Is not."},
        {"rule": "max_slowdown", "bound": 1.1, "value": 1.05, "passed": True, "detail": "Is."},
        {
            "rule": "not_worse_than_baseline",
            "bound": 0.05,
            "value": 0.00123,
            "passed": False,
            "detail": "It is worse.",
        },
    ],
    "diagnostics": [
        {"check": "noise", "gate": True, "passed": True, "detail": "Noise finds none."},
        {"check": "saturation", "gate": True, "passed": False, "detail": "Logits saturate."},
        {"check": "masking", "gate": False, "passed": False, "detail": "Overstates by 10."},
    ],
    "latency": {"ratio": 1.02, "ci95": [1.0, 1.05], "model_ms": 1.23456, "baseline_ms": 1.2},
    "universal": {"reason": None, "summary": "With one perturbation for all it is wrong."},
    "regression": {"path": "old.npz", "n": 40, "still_adversarial": 7},
    "warnings": ["The model ends in a Softmax."],
}


def changed(**changes: Any) -> dict[str, Any]:
    """Return the result with other values."""
    return {**copy.deepcopy(RESULT), **changes}


def test_accuracies_are_those_of_the_model_beside_the_baseline() -> None:
    """In percent with their intervals; what native gradients alone report is labelled so."""
    expected = [
        ["accuracy", "model", "baseline"],
        ["clean", "99.00% (97.50 to 99.60)", "99.00% (97.50 to 99.60)"],
        ["native gradients alone", "81.00% (76.00 to 86.00)", "81.00% (76.00 to 86.00)"],
        ["worst case", "71.00% (66.00 to 76.00)", "76.00% (71.00 to 81.00)"],
    ]
    assert expected == accuracies(RESULT)


@pytest.mark.parametrize("baseline", [None, {"same_as_model": True, **side(0.71)}])
def test_a_model_that_is_its_own_baseline_stands_alone(baseline: dict[str, Any] | None) -> None:
    """No column twice."""
    result = changed(baseline=baseline)
    assert ["accuracy", "model"] == accuracies(result)[0]
    assert ["pgd", "true", "81.00% (76.00 to 86.00)", "297", "55", "54", "1.3"] == (
        attacks(result)[1]
    )


def test_attacks_are_listed_with_what_they_found() -> None:
    """What fooled the twin apart from what fooled the file, and the baseline's accuracy."""
    header = ["attack", "backward", "left robust", "given", "fool the twin", "fool the file"]
    model, baseline = "71.00% (66.00 to 76.00)", "76.00% (71.00 to 81.00)"
    native = "81.00% (76.00 to 86.00)"
    expected = [
        [*header, "left robust, baseline", "seconds"],
        ["pgd", "true", native, "297", "55", "54", native, "1.3"],
        ["pgd", "smooth 0.1", model, "243", "31", "30", baseline, "1.3"],
    ]
    assert expected == attacks(RESULT)


def test_an_attack_that_the_baseline_lacks_has_no_number_there() -> None:
    """A dash stands for it."""
    result = changed()
    del result["baseline"]["attacks"][1]
    assert "–" == attacks(result)[2][6]


def test_the_papers_attacks_are_listed_with_their_perturbations() -> None:
    """Accuracy under the attack, mean relative and absolute perturbation; NaN became null."""
    paper = {
        "name": "deepfool-l2",
        "backward": "true",
        "robust_accuracy": 0.5,
        "accuracy": 0.013,
        "ci95": [0.01, 0.02],
        "mean_relative_perturbation": 0.459123,
        "mean_absolute_perturbation": None,
        "seconds": 3.0,
    }
    baseline = {**side(0.5), "attacks": [{**paper, "accuracy": 0.015}]}
    result = changed(suite="paper", attacks=[paper], baseline=baseline)
    model, other = "1.30% (1.00 to 2.00)", "1.50% (1.00 to 2.00)"
    expected = [
        ["attack", "backward", "accuracy", "relative", "absolute", "accuracy, baseline", "seconds"],
        ["deepfool-l2", "true", model, "0.4591", "–", other, "3.0"],
    ]
    assert expected == attacks(result)


def test_rules_are_listed_with_value_and_bound() -> None:
    """Accuracies in percent, a ratio and a p-value as they are, a dash where nothing is known."""
    expected = [
        ["rule", "value", "bound", ""],
        ["min_clean", "97.50%", "90.00%", "ok"],
        ["max_drop", "–", "1.00%", "FAILED"],
        ["max_slowdown", "1.05", "1.1", "ok"],
        ["not_worse_than_baseline", "0.00123", "0.05", "FAILED"],
    ]
    assert expected == rules(RESULT)


def test_what_failed_and_what_was_found_is_said_in_words() -> None:
    """Failed rules, all diagnostics, latency, the corpus, warnings, and the verdict last."""
    expected = [
        "FAILED     max_drop: Is not.",
        "FAILED     not_worse_than_baseline: It is worse.",
        "ok         noise: Noise finds none.",
        "FAILED     saturation: Logits saturate.",
        "reported   masking: Overstates by 10.",
        "latency    1.020 times the baseline's (1.000 to 1.050): 1.23 ms, 1.2 ms",
        "universal  With one perturbation for all it is wrong.",
        "corpus     7 of 40 samples in old.npz are still misclassified",
        "warning    The model ends in a Softmax.",
        "verdict    fail",
    ]
    assert expected == lines(RESULT)


def test_a_bare_result_has_a_verdict() -> None:
    """No rules, diagnostics, latency, corpus or warnings."""
    gone = dict.fromkeys(("latency", "universal", "regression"))
    result = changed(rules=[], diagnostics=[], warnings=[], **gone)
    assert ["verdict    fail"] == lines(result)
    assert 1 == len(rules(result))


def test_everything_is_printed_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """The headline first, the verdict last, each cell of the tables between, unbroken."""
    print_result(RESULT)
    captured = capsys.readouterr()
    printed = captured.out.splitlines()
    assert (RESULT["headline"], "verdict    fail", "") == (printed[0], printed[-1], captured.err)
    for rows in (accuracies(RESULT), attacks(RESULT), rules(RESULT)):
        for row in rows:
            assert any(all(cell in line for cell in row) for line in printed), row
    assert lines(RESULT) == printed[-10:]


def test_universal_perturbations_that_were_not_made_are_said() -> None:
    """With the reason."""
    result = changed(universal={"reason": "3 samples are too few"})
    assert "universal  not measured: 3 samples are too few" in lines(result)


def test_without_rules_there_is_no_table_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even its header."""
    print_result(changed(rules=[]))
    assert "bound" not in capsys.readouterr().out


def test_nothing_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Names from files are shown with their control characters spelled out, and without markup."""
    result = changed(headline="a\x1b[2Jb", warnings=["\r[bold]x[/bold]"])
    result["attacks"][0]["name"] = "p\x1bgd[red]"
    result["rules"][0]["rule"] = "min\n"
    print_result(result)
    printed = capsys.readouterr().out
    assert printed.startswith("a\\x1b[2Jb\n")
    assert "warning    \\r[bold]x[/bold]\n" in printed
    assert "p\\x1bgd[red]" in printed
    assert "min\\n" in printed
    assert not {"\x1b", "\r"} & set(printed)
