"""The example of a release gate lets a good model through and blocks a bad one."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support import MODELS, ROOT

from onnxfit.verification.policy import Policy, read_policy

EXAMPLE = ROOT / "examples" / "release_gate"
WORKFLOW = (EXAMPLE / "release-gate.yml").read_text(encoding="utf-8")
# As few as the policy's max_drop allows, so that the attacks are soon done.
SAMPLES = 150
ARTEFACTS = ["adversarial.npz", "junit.xml", "report.html", "result.json"]


def block(key: str, indent: int) -> str:
    """Return the lines under a key of the workflow, without their indentation."""
    found = re.search(
        rf"^ {{{indent}}}{re.escape(key)}\n((?: {{{indent + 2}}}.*\n)+)", WORKFLOW, re.M
    )
    assert found is not None, f"the workflow has no {key!r}"
    return re.sub(rf"^ {{{indent + 2}}}", "", found[1], flags=re.M)


def variables() -> dict[str, str]:
    """Return the workflow's environment variables."""
    return dict(line.split(": ", 1) for line in block("env:", 4).splitlines())


COMMAND = block("run: |", 8)


class Gated(NamedTuple):
    """What the workflow's command left behind."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        """The content of result.json."""
        loaded: dict[str, Any] = json.loads((self.folder / "result.json").read_text("utf-8"))
        return loaded

    @property
    def failed_tests(self) -> list[str | None]:
        """The tests that junit.xml says failed."""
        root = ET.parse(self.folder / "junit.xml").getroot()  # noqa: S314 - written just now
        cases = [case for case in root.iter("testcase") if case.find("failure") is not None]
        assert str(len(cases)) == root.get("failures")
        return [case.get("name") for case in cases]


def gate(folder: Path, candidate: str, released: str) -> Gated:
    """Lay out a repository as the workflow expects it, and run its command as the service does."""
    pytest.importorskip("torch")
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    names = variables()
    for name in names.values():
        (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(MODELS / candidate, folder / names["CANDIDATE"])
    shutil.copy(MODELS / released, folder / names["RELEASED"])
    with np.load(MODELS / "digits_test.npz") as data:
        np.savez(folder / names["DATA"], x=data["x"][:SAMPLES], y=data["y"][:SAMPLES])
    shutil.copy(EXAMPLE / "policy.toml", folder)
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "onnxfit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxfit "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    # Threads that wait for each other cost more than they bring for images this small.
    own = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [bash, "-e", "-c", COMMAND],
        cwd=folder,
        env={**os.environ, **names, **own},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return Gated(done.returncode, done.stdout, done.stderr, folder / "gate")


def test_the_policy_is_one() -> None:
    """It asks for clean and robust accuracy, and for a small drop."""
    expected = Policy(
        suite="quick", norm="linf", eps=0.1, min_clean=0.95, min_robust=0.75, max_drop=0.02
    )
    assert expected == read_policy(EXAMPLE / "policy.toml")


def test_the_workflow_installs_what_the_package_offers() -> None:
    """The extras that it names exist."""
    asked = re.search(r"pip install 'onnxfit\[(.*)\]'", WORKFLOW)
    assert asked is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(asked[1].split(",")) <= set(project["optional-dependencies"])


def test_the_workflow_keeps_what_the_command_writes() -> None:
    """The folder of the report is the one that is uploaded, whether the step failed or not."""
    report = re.search(r"--report (\S+)", COMMAND)
    assert report is not None
    upload = WORKFLOW.partition("if: always()\n")[2]
    assert f"path: {report[1]}\n" in upload


@pytest.mark.slow
def test_a_good_model_is_released(tmp_path: Path) -> None:
    """The adversarially trained network takes the place of the plain one: status 0."""
    done = gate(tmp_path, candidate="digits_cnn_pgd.onnx", released="digits_cnn.onnx")
    assert done.status == 0, done.out + done.err
    assert ARTEFACTS == sorted(path.name for path in done.folder.iterdir())
    expected = [("min_clean", True), ("min_robust", True), ("max_drop", True)]
    assert expected == [(rule["rule"], rule["passed"]) for rule in done.result["rules"]]
    assert ("pass", SAMPLES) == (done.result["verdict"], done.result["data"]["n"])
    assert [] == done.failed_tests
    assert "verdict    pass\n" in done.out


@pytest.mark.slow
def test_a_bad_model_is_blocked(tmp_path: Path) -> None:
    """The plain network does not take the other's place: status 1, and the rule is named."""
    done = gate(tmp_path, candidate="digits_cnn.onnx", released="digits_cnn_pgd.onnx")
    assert done.status == 1, done.out + done.err
    assert ARTEFACTS == sorted(path.name for path in done.folder.iterdir())
    failed = [rule["rule"] for rule in done.result["rules"] if not rule["passed"]]
    assert ("fail", ["min_robust"]) == (done.result["verdict"], failed)
    assert ["min_robust"] == done.failed_tests
    assert "FAILED     min_robust: The robust accuracy in the worst case is " in done.out
    assert "verdict    fail\n" in done.out
