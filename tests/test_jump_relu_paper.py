"""The page about the JumpReLU paper: its figures, and the benchmark that they come from."""

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import MODELS, ROOT

pytest.importorskip("torch")

import jump_relu_paper
import paper_report
from images import Samples
from jump_relu_paper import best, runs
from paper_cases import NETWORKS, Configuration, Network
from paper_results import STORE, Results
from paper_screening import Screening
from tables import filled
from trained_networks import digits

import onnxfit
from onnxfit.data import sha256_of

RESULTS = Results(STORE)
NAMES = ["ifgsm", "deepfool-linf", "deepfool-l2", "trust-region-l2"]
COMMIT = "0" * 40
# The authors' weights under the authors' own attacks, MNIST images 0 to 999: for each jump, clean
# accuracy, then accuracy and mean relative noise under IFGSM, DeepFool linf and l2, trust region.
REFERENCE = {
    ("lenet-mnist-baseline", 0.0): (
        0.993,
        [(0.646, 0.1285), (0.0, 0.175), (0.0, 0.219), (0.992, 0.014)],
    ),
    ("lenet-mnist-baseline", 0.5): (
        0.993,
        [(0.730, 0.131), (0.001, 0.227), (0.0, 0.297), (0.991, 0.015)],
    ),
    ("lenet-mnist-baseline", 1.0): (
        0.993,
        [(0.810, 0.133), (0.037, 0.315), (0.026, 0.402), (0.988, 0.015)],
    ),
    ("lenet-mnist-baseline", 1.5): (
        0.988,
        [(0.807, 0.132), (0.122, 0.332), (0.108, 0.476), (0.984, 0.015)],
    ),
    ("lenet-mnist-distillation", 0.0): (
        0.974,
        [(0.750, 0.128), (0.0, 0.250), (0.0, 0.329), (0.972, 0.015)],
    ),
    ("lenet-mnist-distillation", 1.0): (
        0.975,
        [(0.811, 0.130), (0.001, 0.365), (0.013, 0.459), (0.973, 0.015)],
    ),
}
DIGITS = Network(
    key="digits",
    title="Digits",
    model=digits("cnn"),
    samples=Samples(MODELS / "digits_test.npz", 0, 40),
    validation=Samples(MODELS / "digits_val.npz", 0, 225, 2),
    test=Samples(MODELS / "digits_val.npz", 1, 60, 2),
    eps=0.1,
    grid=(0.5, 1.0),
    steps=5,
)


@pytest.mark.parametrize(("key", "jump"), REFERENCE, ids=str)
def test_the_protocol_gives_the_reference_figures(key: str, jump: float) -> None:
    """Accuracies within a point, noise within 3 % or 0.001, in the results of this repository."""
    clean, attacks = REFERENCE[key, jump]
    network = next(network for network in NETWORKS if network.key == key)
    found = RESULTS.of(network, "protocol")
    run = next(run for run in found if jump in (0.0, run["strength"]))
    side = run["before" if jump == 0 else "hardened"]
    known = {attack["name"]: attack for attack in side["attacks"]}

    assert "mnist_0_4999.npz, 0 to 999" == run["samples"]
    assert clean == pytest.approx(side["clean"], abs=0.01)
    for name, (accuracy, noise) in zip(NAMES, attacks, strict=True):
        assert accuracy == pytest.approx(known[name]["robust_accuracy"], abs=0.01)
        assert noise == pytest.approx(known[name]["relative_noise"], rel=0.03, abs=0.001)


@pytest.mark.parametrize("key", RESULTS.runs)
def test_each_run_names_what_it_rests_on(key: str) -> None:
    """A commit, seed and versions, by the name of the run."""
    run = RESULTS.runs[key]

    assert f"{run['network']}/{run['part']}/{run['configuration']}/{run['seed']}" == key
    assert {"python", "onnxfit", "onnx", "onnxruntime", "torch", "numpy"} == set(run["versions"])
    assert re.fullmatch("[0-9a-f]{40}", run["commit"])


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.key)
def test_runs_are_of_the_files_that_are_here(network: Network) -> None:
    """Model and images have the hashes of the results."""
    if not network.model.path.exists():
        pytest.skip(f"there is no {network.model.path}")
    for run in (run for run in RESULTS.runs.values() if run["network"] == network.key):
        file = network.samples.path.with_name(run["samples"].partition(",")[0])
        assert sha256_of(network.model.path) == run["model_sha256"]
        assert sha256_of(file) == run["samples_sha256"]


def test_page_and_tables_are_of_these_runs() -> None:
    """Nobody changed a figure of the page, or forgot to write it anew."""
    page = paper_report.PAGE.read_text(encoding="utf-8")
    tables = paper_report.TABLES.read_text(encoding="utf-8")

    assert filled(page, paper_report.blocks(RESULTS), paper_report.SCRIPT) == page
    assert "\n".join([*paper_report.document(RESULTS), ""]) == tables
    assert paper_report.PLOTS.read_text(encoding="utf-8") == paper_report.plots(RESULTS)


def test_readme_says_what_the_page_says() -> None:
    """By how much the paper's own network at jump 1 looks more robust, and is less."""
    run = RESULTS.runs["lenet-mnist-baseline/grid/κ 1/0"]
    natively, truly = (
        100 * run["difference"][name] for name in ("native_accuracy", "robust_accuracy")
    )
    words = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())

    assert f"at κ = 1 looks {natively:.1f} points more robust than before" in words
    assert f"and is {-truly:.1f} points less in the worst case, on {run['n']:,} images" in words


def test_every_network_of_the_page_can_be_found() -> None:
    """Names are unique, and the project's own files are there."""
    assert len(NETWORKS) == len({network.key for network in NETWORKS})
    own = [network for network in NETWORKS if network.model.path.parent == MODELS]
    assert 10 == len(own)
    assert all(network.model.path.exists() for network in own)


def test_no_test_image_is_chosen_on() -> None:
    """No row of a file is both."""
    for network in NETWORKS:
        chosen, judged = (
            {(samples.path, samples.start + i * samples.step) for i in range(samples.count)}
            for samples in (network.validation, network.test)
        )
        assert not chosen & judged, network.key


def test_samples_are_the_rows_that_they_say() -> None:
    """Every second from the second on."""
    x, y = DIGITS.test.first(3).read()
    with np.load(MODELS / "digits_val.npz") as file:
        np.testing.assert_array_equal(file["x"][[1, 3, 5]], x)
        np.testing.assert_array_equal(file["y"][[1, 3, 5]], y)
    assert "digits_val.npz, 1 to 5 in steps of 2" == str(DIGITS.test.first(3))


@pytest.mark.parametrize(
    ("configuration", "sites", "words"),
    [
        (Configuration(strength=0.5), 6, "κ 0.5"),
        (Configuration(strength=0.1, scale="quantile"), 6, "quantile 0.1"),
        (Configuration(strength=0.1, scale="channel"), 6, "quantile of each channel 0.1"),
        (Configuration(strength=0.1, sites="last"), 1, "κ 0.1, last site"),
        (Configuration(strength=0.1, sites="first half"), 3, "κ 0.1, first half"),
    ],
)
def test_configurations(configuration: Configuration, sites: int, words: str) -> None:
    """Each hardens the sites that it names."""
    hard = onnxfit.retrofit(DIGITS.model.path, jumps=DIGITS.jumps(configuration))

    assert sites == sum(node.op_type == "JumpReLU" for node in hard.graph.node)
    assert words == str(configuration)


def test_a_calibration_is_that_of_the_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jumps are taken as they are, and it sees no other image."""
    asked: list[Any] = []

    def calibrate(path: Path, data: Any, **settings: Any) -> dict[str, float]:
        asked.extend([path, data, settings["scale"], settings["eps"]])
        return {"a": 0.5}

    monkeypatch.setattr(onnxfit, "calibrate", calibrate)
    way = Configuration(scale="quantile", calibrated=True)

    assert {"a": 0.5} == DIGITS.jumps(way)
    assert "`calibrate --scale quantile`" == str(way)
    assert [DIGITS.model.path, "quantile", 0.1] == [asked[0], *asked[2:]]
    np.testing.assert_array_equal(DIGITS.validation.read()[0], asked[1][0])


def test_first_and_last_sites() -> None:
    """Halves share the site in the middle of an odd number, and none of an even one."""
    every = list(DIGITS.jumps(Configuration(strength=0.1)))
    halves = [
        list(DIGITS.jumps(Configuration(strength=0.1, sites=sites)))
        for sites in ("first half", "last half")
    ]
    assert every == halves[0] + halves[1]
    assert every[:1] == list(DIGITS.jumps(Configuration(strength=0.1, sites="first")))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Return results that are empty."""
    return Results(tmp_path / "paper.json")


def add(
    results: Results, part: str, way: Configuration, native: float = 0.0, change: float = 0.0
) -> None:
    """Add what a choice looks at."""
    record = {
        "network": "digits",
        "part": part,
        "configuration": str(way),
        "seed": 0,
        "hardened": {"native": native},
        "difference": {"robust_accuracy": change},
    }
    results.add(f"{part} {way}", record)


def test_nothing_is_chosen_before_all_was_tried(results: Results) -> None:
    """Natively best on the grid, truly on the validation images; of equals the first."""
    ways = DIGITS.configurations
    add(results, "grid", ways[0], native=0.4)
    for way in ways[:-1]:
        add(results, "validation", way, change=-0.01)
    assert [] == [*runs(DIGITS, "strong", results), *runs(DIGITS, "test", results)]

    add(results, "grid", ways[1], native=0.6)
    add(results, "validation", ways[-1], change=-0.02)
    assert [ways[1]] == best(DIGITS, "strong", results)
    assert [ways[0]] == best(DIGITS, "test", results)
    assert [("test", 0), ("test", 1)] == [
        (run.part, run.seed) for run in runs(DIGITS, "test", results)
    ]


def test_test_images_judge_one_choice_alone(results: Results) -> None:
    """Where another way was judged before, nothing is."""
    for way in DIGITS.configurations:
        add(results, "validation", way)
    add(results, "test", DIGITS.configurations[2])

    with pytest.raises(SystemExit, match=r"digits: quantile 0\.02 was judged before, now it is κ"):
        best(DIGITS, "test", results)


def test_runs_are_kept_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call measures nothing; a jump of 1 looks better in the protocol than it is."""
    network = dataclasses.replace(DIGITS, grid=(1.0,))
    monkeypatch.setattr(jump_relu_paper, "NETWORKS", [network])
    monkeypatch.setattr(jump_relu_paper, "STORE", tmp_path / "paper.json")
    monkeypatch.setattr(jump_relu_paper, "clean_commit", lambda *code: COMMIT)
    jump_relu_paper.measure("", ["protocol", "grid"])
    assert 3 == len(capsys.readouterr().out.splitlines())
    found = Results(tmp_path / "paper.json")

    jump_relu_paper.measure("", ["protocol", "grid"])
    assert "" == capsys.readouterr().out
    assert found.runs == Results(tmp_path / "paper.json").runs
    worst = found.runs["digits/grid/κ 1/0"]
    assert ("quick", 40, COMMIT) == (worst["suite"], worst["n"], worst["commit"])
    assert "less robust" == paper_report.conclusion([worst], 2)
    noise = {
        name: found.runs["digits/protocol/κ 1/0"][name]["attacks"][1]["relative_noise"]
        for name in ("before", "hardened")
    }
    assert noise["hardened"] > noise["before"]
    text = "\n".join([*paper_report.protocol(found, network), *paper_report.grid(found, network)])
    assert "adaptive trust region" in text
    assert f"| {100 * worst['before']['worst']:.1f} % (" in text


def test_a_choice_rests_on_the_attacks_of_a_verification() -> None:
    """The same figures for the model; the network before hardening is attacked once."""
    way = Configuration(strength=1.0)
    hard = onnxfit.retrofit(DIGITS.model.path, jumps=DIGITS.jumps(way))
    samples = DIGITS.samples
    screening = Screening(DIGITS, samples, seed=0)
    found = screening.measure(hard)
    again = screening.measure(onnxfit.retrofit(DIGITS.model.path, jump=0.0))
    whole = onnxfit.verify(hard, samples.read(), baseline=DIGITS.model.path, eps=0.1, suite="quick")

    for name in ("clean", "native", "worst_case"):
        assert whole.document[name] == found[name]
    assert found["baseline"] == again["baseline"]
    assert whole.document["baseline"]["native"] == found["baseline"]["native"]
    assert found["difference"]["robust_accuracy"] == pytest.approx(
        found["worst_case"]["robust_accuracy"] - found["baseline"]["worst_case"]["robust_accuracy"]
    )


def test_jumps_that_were_not_measured_yet_are_named(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the row where their figures will be; a network with none of them is left out."""
    monkeypatch.setattr(paper_report, "NETWORKS", (DIGITS,))
    assert 2 == len(paper_report.summary(results))
    shares = {"clean": 0.9, "native": 0.5, "worst": 0.4}
    difference = {"robust_accuracy": 0.0, "native_accuracy": 0.0, "native_ci95": [-0.1, 0.1]}
    results.add(
        "first",
        {"network": "digits", "part": "grid", "configuration": "κ 0.5", "strength": 0.5}
        | {"seed": 0, "n": 40, "before": shares, "hardened": shares}
        | {"difference": {**difference, "only_model": 0, "only_baseline": 0}},
    )

    _, _, first, second = paper_report.summary(results)
    assert first.startswith("| Digits, 0.1, 40 | 0.5 | 90.0 → 90.0 %")
    assert "|  | 1 |  |  |  |  |  | not measured yet |" == second


def test_strong_attacks_judge_what_came_out_more_robust(results: Results) -> None:
    """With every seed."""
    way = DIGITS.configurations[0]
    for each in DIGITS.configurations:
        add(results, "validation", each, change=0.1 if each == way else 0.0)
    assert [] == list(runs(DIGITS, "test-strong", results))
    for seed in (0, 1):
        record = {**run_of(9, 0), "network": "digits", "part": "test", "seed": seed}
        assert [] == list(runs(DIGITS, "test-strong", results))
        results.add(f"test {seed}", {**record, "configuration": str(way)})
    assert [way] == [run.configuration for run in runs(DIGITS, "test-strong", results)]

    results.add("test 1", {**results.runs["test 1"], **run_of(3, 2)})
    assert [] == list(runs(DIGITS, "test-strong", results))


def test_jumps_of_the_grid_are_more_robust_if_strong_attacks_agree(results: Results) -> None:
    """Until they were run it is undecided, and where they do not."""
    first, second = DIGITS.on_grid
    assert [] == paper_report.promising(results, DIGITS)
    for seed in (0, 1):
        for way, gained in ((first, 9), (second, 3)):
            assert [] == list(runs(DIGITS, "grid-strong", results))
            record = {"network": "digits", "part": "grid", "configuration": str(way)}
            results.add(f"{way} {seed}", {**record, "seed": seed, **run_of(gained, 0)})
    found = results.runs[f"{first} 0"]
    assert [first] == [run.configuration for run in runs(DIGITS, "grid-strong", results)]
    assert "undecided" == paper_report.concluded(results, DIGITS, found)

    results.add("strong", {**found, "part": "grid-strong"})
    assert "more robust" == paper_report.concluded(results, DIGITS, found)
    results.add("strong", {**found, "part": "grid-strong", **run_of(3, 2)})
    assert "undecided" == paper_report.concluded(results, DIGITS, found)


def test_runs_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    """What one adds while another one does is not lost."""
    path = tmp_path / "paper.json"

    def add_some(name: int) -> None:
        store = Results(path)
        for number in range(25):
            store.add(f"{name} {number}", {"network": "digits"})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_some, range(4)))
    assert 100 == len(Results(path).runs)


def run_of(more: int, fewer: int) -> dict[str, Any]:
    """Make a run in which so many of 100 images are right only after, or only before."""
    return {"n": 100, "difference": {"only_model": more, "only_baseline": fewer}}


@pytest.mark.parametrize(
    ("found", "comparisons", "words"),
    [
        ([(9, 0)], 1, "more robust"),
        ([(0, 9)], 1, "less robust"),
        ([(9, 0), (0, 9)], 1, "undecided"),
        ([(9, 0), (3, 2)], 1, "undecided"),
        ([(8, 1)], 1, "more robust"),
        ([(8, 1)], 20, "undecided"),
        ([(0, 0)], 1, "undecided"),
    ],
)
def test_conclusions_hold_for_all_seeds_and_comparisons(
    found: list[tuple[int, int]], comparisons: int, words: str
) -> None:
    """More or less only where every interval, as wide as all of them ask for, excludes 0."""
    assert words == paper_report.conclusion([run_of(*each) for each in found], comparisons)


def test_a_page_without_marks_is_refused() -> None:
    """Rather than written without its tables."""
    with pytest.raises(ValueError, match="has no marks for 'grid'"):
        filled("# A page\n", {"grid": ["a"]}, paper_report.SCRIPT)
