"""The benchmark of interpolation and denoising under attack: its runs, its tables, the page."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import interpolation_tv
import interpolation_tv_report as report
from interpolation_tv import CASES, PLAIN, Case, Effort, columns
from stored_runs import StoredRuns
from tables import filled

from onnxfit.data import sha256_of
from onnxfit.verification.statistics import paired_difference

TITLES = {key: (case.title, case.rows) for key, case in CASES.items()}
SMALL = dataclasses.replace(
    CASES["digits"],
    effort=Effort(samples=8, steps=2, queries=10, denoising=3),
    rows=(PLAIN, "kernel, jump"),
)


def run(**robust: str) -> dict[str, Any]:
    """Return what is measured of four samples, of which three are right."""
    return {"correct": "1110", "robust": robust, "samples": 4}


def test_page_and_tables_are_of_these_runs() -> None:
    """Nobody changed a figure of the page, or forgot to write it anew."""
    store = StoredRuns(report.STORE)
    page = report.PAGE.read_text(encoding="utf-8")
    tables = report.TABLES.read_text(encoding="utf-8")

    assert filled(page, {"interpolation": report.summary(store, TITLES)}, report.SCRIPT) == page
    assert "\n".join([*report.document(store, TITLES), ""]) == tables


@pytest.mark.parametrize("key", CASES)
def test_runs_are_of_the_files_that_are_here(key: str) -> None:
    """All is measured, with these settings and files; nothing wrong is robust."""
    case = CASES[key]
    if not case.model.path.exists():
        pytest.skip(f"there is no {case.model.path}")
    store = StoredRuns(report.STORE)
    rows = report.rows_of(store, key, case.rows)
    assert list(case.rows) == list(rows)
    names = [f"{row}/{report.HARDER}" for row in report.more_robust(rows)]
    names += [report.DRAWN] if case.draws else []
    made = interpolation_tv.made_of(case).items()
    assert all(made <= store.runs[f"{key}/{name}"].items() for name in names)
    for record in rows.values():
        assert made <= record.items()
        right = report.mask(record["correct"])
        assert case.effort.samples == record["samples"] == len(right)
        for column in record["robust"]:
            assert not (report.mask(record["robust"][column]) & ~right).any()


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (PLAIN, ["IFGSM", "native", "black box"]),
        ("kernel", ["IFGSM", "native", "own head", "features", "black box", "transfer"]),
        ("denoised", ["IFGSM", "native", "past denoising", "black box", "transfer"]),
        (
            "kernel, jump",
            ["IFGSM", "native", "smooth gates", "own head", "features", "black box", "transfer"],
        ),
        (
            "denoised, kernel",
            ["IFGSM", "native", "own head", "features", "past denoising", "black box", "transfer"],
        ),
    ],
)
def test_every_attack_of_the_suite_has_a_column(row: str, names: list[str]) -> None:
    """With fewer steps and queries where a network takes long."""
    found = columns(SMALL.target(row), SMALL)
    assert sorted(names) == sorted(found)

    attacks: dict[str, Any] = {
        stage.name: stage.attack for stages in found.values() for stage in stages
    }
    assert {"ifgsm", "fgsm", "apgd-ce", "apgd-t", "fab-t"} <= attacks.keys()
    assert (2, 10, 2) == (
        attacks["apgd-t"].steps,
        attacks["square"].queries,
        attacks["hop-skip-jump"].queries,
    )


def test_rows_are_kept_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call measures nothing; jumps look more robust than they are."""
    monkeypatch.setattr(interpolation_tv, "CASES", {"small": SMALL})
    monkeypatch.setattr(interpolation_tv, "STORE", tmp_path / "store.json")
    monkeypatch.setattr(interpolation_tv, "clean_commit", lambda *code: "0" * 40)
    assert len(SMALL.rows) + 1 == len(list(interpolation_tv.measure(["small"])))
    assert [] == list(interpolation_tv.measure(["small"]))

    store = StoredRuns(tmp_path / "store.json")
    found = report.rows_of(store, "small", SMALL.rows)
    assert list(SMALL.rows) == list(found)
    assert sha256_of(SMALL.model.path) == found["kernel, jump"]["model_sha256"]
    assert found["kernel, jump"]["model_sha256"] != found["kernel, jump"]["sha256"]
    lines = "\n".join(report.document(store, {"small": ("Small", SMALL.rows)}))
    assert "## Small" in lines
    assert "Half of the pixels drawn at each run, 40 runs:" in lines
    drawn = store.runs["small/half drawn"]
    assert drawn["accuracy"]["IFGSM"] < drawn["accuracy"]["clean"] < 1
    assert 0 <= drawn["worst"] <= min(drawn["accuracy"].values()) + 0.1
    assert f"| {PLAIN} | 100.0 % |" in lines


def test_what_looks_more_robust_is_attacked_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it, and of nothing else; the page tells what that broke."""
    case = dataclasses.replace(SMALL, draws=False)
    monkeypatch.setattr(interpolation_tv, "CASES", {"small": case})
    monkeypatch.setattr(interpolation_tv, "STORE", tmp_path / "store.json")
    monkeypatch.setattr(interpolation_tv, "clean_commit", lambda *code: "0" * 40)
    assert len(SMALL.rows) == len(list(interpolation_tv.measure(["small"])))

    store = StoredRuns(tmp_path / "store.json")
    weak = {
        **store.runs["small/kernel, jump"],
        "robust": {"IFGSM": "11111110", "native": "11111111"},
    }
    store.add("small/kernel, jump", weak)
    store.add(f"small/{PLAIN}", {**store.runs[f"small/{PLAIN}"], "robust": {"IFGSM": "00000000"}})
    [line] = interpolation_tv.measure(["small"])
    assert line.startswith("small/kernel, jump/harder: ")

    harder = StoredRuns(tmp_path / "store.json").runs["small/kernel, jump/harder"]
    assert (7, 13) == (harder["left"], harder["attacks"])
    assert 0 < harder["broken"] <= 7
    text = "\n".join(
        report.document(StoredRuns(tmp_path / "store.json"), {"small": ("Small", SMALL.rows)})
    )
    assert "*kernel, jump*: 13 more attacks on the 7 samples left" in text


@pytest.mark.parametrize(
    "other",
    [
        {"templates": SMALL.test},
        {"weight": 0.5},
        {"effort": dataclasses.replace(SMALL.effort, steps=3)},
        {"templates": dataclasses.replace(SMALL.templates, count=449)},
    ],
    ids=["templates", "weight", "steps", "slice"],
)
def test_other_settings_are_measured_again(
    other: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of other templates, of a part of them, or of other settings is none of this network."""
    case: Case = dataclasses.replace(SMALL, rows=(PLAIN,), draws=False)
    monkeypatch.setattr(interpolation_tv, "CASES", {"small": case})
    monkeypatch.setattr(interpolation_tv, "STORE", tmp_path / "store.json")
    monkeypatch.setattr(interpolation_tv, "clean_commit", lambda *code: "0" * 40)
    [line] = interpolation_tv.measure(["small"])
    assert line.startswith(f"small/{PLAIN}: ")
    changed = dataclasses.replace(case, **other)
    monkeypatch.setattr(interpolation_tv, "CASES", {"small": changed})
    assert 1 == len(list(interpolation_tv.measure(["small"])))


def test_worst_cases_are_paired() -> None:
    """A sample must withstand every column, and is compared with itself."""
    first, other = run(native="1100", IFGSM="1110"), run(native="0110", IFGSM="0110")
    assert [True, True, False, False] == report.worst(first).tolist()
    assert (1, 1) == report.discordant(other, first)
    rows = {"first": first, "other": other}
    assert 0 == report.difference(other, rows)[0]
    row = report.cells("other", rows)
    assert ["other", "75.0 %", "50.0 %", "50.0 %"] == row[:4]
    assert ["+0.0 (-60.4 to +60.4)", "1"] == row[-2:]


def test_more_rows_take_wider_intervals() -> None:
    """So that all of a network's hold together."""
    first, other = run(native="1100"), run(native="0110")
    pair = {"first": first, "other": other}
    _, (low, high) = report.difference(other, {**pair, "third": other})
    assert (low, high) == pytest.approx(paired_difference(1, 1, 4, 0.975))


def test_runs_of_two_processes_stand_beside_each_other(tmp_path: Path) -> None:
    """What another one added since is kept."""
    one, other = StoredRuns(tmp_path / "runs.json"), StoredRuns(tmp_path / "runs.json")
    one.add("a", {"n": 1})
    other.add("b", {"n": 2})
    assert {"a": {"n": 1}, "b": {"n": 2}} == StoredRuns(tmp_path / "runs.json").runs


def test_a_network_without_its_first_row_is_left_out(tmp_path: Path) -> None:
    """Nothing could be compared."""
    store = StoredRuns(tmp_path / "runs.json")
    store.add("small/kernel", run(native="1110"))
    assert {} == report.rows_of(store, "small", SMALL.rows)
    assert [] == report.summary(store, {"small": ("Small", SMALL.rows)})[2:]
