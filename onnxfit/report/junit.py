"""A verification as JUnit XML, which continuous integration shows as a list of tests."""

import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One test: its group and name, what it says, and whether it failed or could not run."""

    group: str
    name: str
    text: str
    failed: bool = False
    skipped: bool = False


def junit(result: Mapping[str, Any]) -> str:
    """Write a result as JUnit XML, to be stored as UTF-8.

    There is a test for each rule, each diagnostic that gates, parity, and the replay of an earlier
    regression corpus. Tests fail exactly where the gate does: samples of the corpus that are
    still misclassified are reported, for they do so in a release that nothing changed as well.
    Characters that XML or a terminal does not take are left out.

    Args:
        result: What ``result.json`` holds.
    """
    cases = list(_cases(result))
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.failed for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.skipped for case in cases)),
        "time": f"{result.get('seconds') or 0:.3f}",
    }
    name = "onnxfit verify"
    root = ET.Element("testsuites", {"name": name, **counts})
    path = result["model"].get("path")
    named = _legal(f"{name} {path}" if path else name)
    suite = ET.SubElement(root, "testsuite", {"name": named, **counts})
    _add_properties(suite, result)
    for case in cases:
        _add_case(suite, case)
    ET.SubElement(suite, "system-out").text = _legal(_summary(result))
    ET.indent(root)
    return _DECLARATION + ET.tostring(root, encoding="unicode") + "\n"


def _cases(result: Mapping[str, Any]) -> Iterator[_Case]:
    for rule in result["rules"]:
        failed = not rule["passed"]
        yield _Case(group="rules", name=rule["rule"], text=rule["detail"], failed=failed)
    for found in result["diagnostics"]:
        if found["gate"]:
            failed = not found["passed"]
            yield _Case(
                group="diagnostics", name=found["check"], text=found["detail"], failed=failed
            )
    yield _parity(result.get("parity"))
    yield _regression(result.get("regression"))


def _parity(parity: Mapping[str, Any] | None) -> _Case:
    name, group = "twin and file agree", "parity"
    if not parity:
        return _Case(group=group, name=name, text="Parity was not measured.", skipped=True)
    text = (
        f"On {parity['samples']} samples twin and file name the same class for "
        f"{parity['top1_agreement']:.2%}; with every jump at 0 they differ by "
        f"{parity['relative_difference']:.2g} of the largest value at most."
    )
    return _Case(group=group, name=name, text=text)


def _regression(regression: Mapping[str, Any] | None) -> _Case:
    name, group = "earlier adversarial samples", "regression"
    if not regression:
        return _Case(group=group, name=name, text="No corpus was given.", skipped=True)
    text = (
        f"Of {regression['n']} samples in {regression['path']}, "
        f"{regression['still_adversarial']} are still misclassified."
    )
    return _Case(group=group, name=name, text=text)


def _add_properties(suite: ET.Element, result: Mapping[str, Any]) -> None:
    listed = {
        "verdict": result["verdict"],
        "suite": result["suite"],
        "norm": result["norm"],
        "eps": result["eps"],
        "samples": result["data"]["n"],
        "model sha256": result["model"]["sha256"],
        "data sha256": result["data"]["sha256"],
    }
    properties = ET.SubElement(suite, "properties")
    for name, value in listed.items():
        ET.SubElement(properties, "property", {"name": name, "value": _legal(str(value))})


def _add_case(suite: ET.Element, case: _Case) -> None:
    # Only the whole verification is timed; some parsers ask for the attribute all the same.
    names = {"classname": f"onnxfit.{case.group}", "name": _legal(case.name), "time": "0.000"}
    element = ET.SubElement(suite, "testcase", names)
    text = _legal(case.text)
    if case.failed:
        failure = {"message": text, "type": case.group}
        ET.SubElement(element, "failure", failure).text = text
    elif case.skipped:
        ET.SubElement(element, "skipped", {"message": text})
    else:
        ET.SubElement(element, "system-out").text = text


def _summary(result: Mapping[str, Any]) -> str:
    return "\n".join([result["headline"], *result.get("warnings", ())])


def _legal(text: str) -> str:
    """Return a text without the characters that XML 1.0 forbids, and without controls."""
    return "".join(character for character in text if _is_legal(character))


def _is_legal(character: str) -> bool:
    # Cs are surrogates, which a file name that is not UTF-8 brings; U+FFFE and U+FFFF are none of
    # Unicode's characters.
    if character in "\t\n":
        return True
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in "\ufffe\uffff"
