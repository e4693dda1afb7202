"""JUnit XML of a verification, as parsers of continuous integration read it."""

import copy
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from onnxfit.report.junit import junit
from onnxfit.verification.policy import verdict

RESULT: dict[str, Any] = {
    "verdict": "pass",
    "headline": "The worst case is not told apart from the baseline's: +0.4 points.",
    "suite": "quick",
    "norm": "linf",
    "eps": 0.1,
    "model": {"path": "m.jump.onnx", "sha256": "ab12"},
    "data": {"path": "x.npz", "sha256": "cd34", "n": 300},
    "rules": [
        {"rule": "min_clean", "bound": 0.9, "value": 0.94, "passed": True, "detail": "Is 94%."},
        {"rule": "max_drop", "bound": 0.01, "value": 0.009, "passed": True, "detail": "Is .9%."},
    ],
    "diagnostics": [
        {"check": "random noise", "gate": True, "passed": True, "detail": "Noise finds none."},
        {"check": "masking", "gate": False, "passed": False, "detail": "Overstates by 12."},
    ],
    "parity": {"samples": 64, "top1_agreement": 1.0, "relative_difference": 3e-7},
    "regression": {"path": "old.npz", "n": 40, "still_adversarial": 7},
    "warnings": ["The model ends in a Softmax."],
    "seconds": 12.3456,
}


def changed(**changes: Any) -> dict[str, Any]:
    """Return the result with other values."""
    return {**copy.deepcopy(RESULT), **changes}


def parsed(result: dict[str, Any]) -> ET.Element:
    """Write a result and read it as XML from bytes, as a file is read."""
    return ET.fromstring(junit(result).encode("utf-8"))  # noqa: S314 - what was written just now


def cases(result: dict[str, Any]) -> dict[tuple[str | None, str | None], ET.Element]:
    """Return the tests by class and name."""
    found = parsed(result).iter("testcase")
    return {(case.get("classname"), case.get("name")): case for case in found}


def test_there_is_a_test_for_all_that_can_fail() -> None:
    """Each rule, each diagnostic that gates, parity and the replay; not what is only reported."""
    expected = [
        ("onnxfit.rules", "min_clean"),
        ("onnxfit.rules", "max_drop"),
        ("onnxfit.diagnostics", "random noise"),
        ("onnxfit.parity", "twin and file agree"),
        ("onnxfit.regression", "earlier adversarial samples"),
    ]
    assert expected == list(cases(RESULT))


def test_the_document_has_the_form_that_parsers_know() -> None:
    """Testsuites, a testsuite with properties, testcases and system-out, in this order."""
    text = junit(RESULT)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="')
    root = parsed(RESULT)
    counts = {"tests": "5", "failures": "0", "errors": "0", "skipped": "0", "time": "12.346"}
    assert {"name": "onnxfit verify", **counts} == root.attrib
    (suite,) = root
    assert ("testsuite", {"name": "onnxfit verify m.jump.onnx", **counts}) == (
        suite.tag,
        suite.attrib,
    )
    assert ["properties", *["testcase"] * 5, "system-out"] == [child.tag for child in suite]
    assert all(float(case.attrib["time"]) >= 0 for case in root.iter("testcase"))


def test_the_summary_is_the_headline_and_the_warnings() -> None:
    """In the output of the suite."""
    assert f"{RESULT['headline']}\n{RESULT['warnings'][0]}" == parsed(RESULT).findtext(
        "testsuite/system-out"
    )


def test_properties_say_what_was_verified() -> None:
    """The verdict, the attacks, and the digests of model and data."""
    found = {item.get("name"): item.get("value") for item in parsed(RESULT).iter("property")}
    expected = {
        "verdict": "pass",
        "suite": "quick",
        "norm": "linf",
        "eps": "0.1",
        "samples": "300",
        "model sha256": "ab12",
        "data sha256": "cd34",
    }
    assert expected == found


@pytest.mark.parametrize("which", [("rules", 0), ("rules", 1), ("diagnostics", 0)])
def test_what_fails_the_gate_fails_its_test(which: tuple[str, int]) -> None:
    """With its sentence as message and text; the others pass."""
    result = changed()
    record = result[which[0]][which[1]]
    record["passed"] = False
    result["verdict"] = verdict(result["rules"], result["diagnostics"])
    assert ("1", "fail") == (parsed(result).get("failures"), result["verdict"])
    failed = {
        name: case for name, case in cases(result).items() if case.find("failure") is not None
    }
    name = record.get("rule") or record["check"]
    assert [(f"onnxfit.{which[0]}", name)] == list(failed)
    failure = failed[f"onnxfit.{which[0]}", name].find("failure")
    assert failure is not None
    expected = ({"message": record["detail"], "type": which[0]}, record["detail"])
    assert expected == (failure.attrib, failure.text)


def test_what_is_only_reported_fails_nothing() -> None:
    """Neither masking nor samples of the corpus that are still misclassified."""
    assert "0" == parsed(RESULT).get("failures")
    found = cases(RESULT)["onnxfit.regression", "earlier adversarial samples"]
    assert "Of 40 samples in old.npz, 7 are still misclassified." == found.findtext("system-out")


def test_parity_is_told_in_numbers() -> None:
    """How far twin and file agree."""
    found = cases(RESULT)["onnxfit.parity", "twin and file agree"]
    assert found.findtext("system-out") == (
        "On 64 samples twin and file name the same class for 100.00%; with every jump at 0 they "
        "differ by 3e-07 of the largest value at most."
    )


def test_what_was_not_done_is_skipped() -> None:
    """Without parity and a corpus their tests are there, and say so."""
    result = changed(parity=None, regression=None)
    assert "2" == parsed(result).get("skipped")
    messages = [skipped.get("message") for skipped in parsed(result).iter("skipped")]
    assert ["Parity was not measured.", "No corpus was given."] == messages


def test_a_result_without_anything_to_fail_is_still_valid() -> None:
    """No rules, no diagnostics, a model that was given as an object."""
    result = changed(rules=[], diagnostics=[], warnings=[], seconds=None)
    result["model"]["path"] = None
    root = parsed(result)
    assert ("2", "0.000") == (root.get("tests"), root.get("time"))
    assert "onnxfit verify" == root[0].get("name")


HOSTILE = "<a & \"b\"> \x00\x01\x1b[31m\x7f\x85\ud800\udcff\ufffe\uffff]]> é\t—😀\n'end'\r"
HARMLESS = "<a & \"b\"> [31m]]> é\t—😀\n'end'"


def test_characters_that_xml_forbids_are_left_out() -> None:
    """Controls, surrogates and non-characters; all others come back as they were."""
    result = changed(headline=HOSTILE, warnings=[])
    result["model"]["path"] = HOSTILE
    result["rules"][0].update(rule=HOSTILE, detail=HOSTILE, passed=False)
    result["diagnostics"][0].update(check=HOSTILE, detail=HOSTILE)
    root = parsed(result)
    assert f"onnxfit verify {HARMLESS}" == root[0].get("name")
    assert HARMLESS == root.findtext("testsuite/system-out")
    found = cases(result)
    failure = found["onnxfit.rules", HARMLESS].find("failure")
    assert failure is not None
    assert (HARMLESS, HARMLESS) == (failure.get("message"), failure.text)
    assert HARMLESS == found["onnxfit.diagnostics", HARMLESS].findtext("system-out")
