"""The page about the JumpReLU paper: its figures, and the benchmark that they come from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import MODELS, ROOT

pytest.importorskip("torch")

import jump_relu_paper
import paper_report
from jump_relu_paper import Store, best, runs
from paper_cases import NETWORKS, Configuration, Network, Samples

from onnxfit.data import sha256_of

RUNS: dict[str, dict[str, Any]] = json.loads(
    (ROOT / "benchmarks/results/paper.json").read_text(encoding="utf-8")
)
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
    path=MODELS / "digits_cnn.onnx",
    samples=Samples(MODELS / "digits_test.npz", 0, 40),
    choice=Samples(MODELS / "digits_val.npz", 0, 60, 2),
    report=Samples(MODELS / "digits_val.npz", 1, 60, 2),
    eps=0.1,
    grid=(0.5, 1.0),
    steps=5,
)


def protocol(network: str, jump: float) -> dict[str, Any]:
    """Return what the paper's attacks did to a network; before hardening for jump 0."""
    found = next(
        run
        for run in RUNS.values()
        if (run["network"], run["part"]) == (network, "protocol") and jump in (0.0, run["strength"])
    )
    side: dict[str, Any] = found["before" if jump == 0 else "hardened"]
    return side


@pytest.mark.parametrize(("network", "jump"), REFERENCE, ids=str)
def test_the_protocol_gives_the_reference_figures(network: str, jump: float) -> None:
    """Accuracies within a point, noise within 3 % or 0.001, in the results of this repository."""
    clean, attacks = REFERENCE[network, jump]
    side = protocol(network, jump)

    assert clean == pytest.approx(side["clean"], abs=0.01)
    for (accuracy, noise), found in zip(attacks, side["attacks"], strict=False):
        assert accuracy == pytest.approx(found["robust_accuracy"], abs=0.01)
        assert noise == pytest.approx(found["relative_noise"], rel=0.03, abs=0.001)


@pytest.mark.parametrize("key", RUNS)
def test_each_run_names_what_it_rests_on(key: str) -> None:
    """Commit, seed, versions, and the hashes of the very files where they are here."""
    run = RUNS[key]
    network = next(network for network in NETWORKS if network.key == run["network"])

    assert f"{run['network']}/{run['part']}/{run['configuration']}/{run['seed']}" == key
    assert {"python", "onnxfit", "onnx", "onnxruntime", "torch", "numpy"} == set(run["versions"])
    assert 40 <= len(run["commit"])
    if network.path.exists():
        assert sha256_of(network.path) == run["model_sha256"]
        file = network.samples.path.with_name(run["samples"].partition(",")[0])
        assert sha256_of(file) == run["samples_sha256"]


def test_page_and_tables_are_of_these_runs() -> None:
    """Nobody changed a figure of the page, or forgot to write it anew."""
    page = paper_report.PAGE.read_text(encoding="utf-8")
    tables = (paper_report.RESULTS / "paper.md").read_text(encoding="utf-8")

    assert paper_report.filled(page, paper_report.blocks(RUNS)) == page
    assert "\n".join([*paper_report.document(RUNS), ""]) == tables


def test_every_network_of_the_page_can_be_found() -> None:
    """Names are unique, and the project's own files are there."""
    assert len(NETWORKS) == len({network.key for network in NETWORKS})
    own = [network for network in NETWORKS if network.path.parent == MODELS]
    assert 10 == len(own)
    assert all(network.path.exists() for network in own)


def test_images_to_choose_on_are_not_judged_on() -> None:
    """No row of a file is both."""
    for network in NETWORKS:
        chosen, judged = (
            {(samples.path, samples.start + i * samples.step) for i in range(samples.count)}
            for samples in (network.choice, network.report)
        )
        assert not chosen & judged, network.key


def test_samples_are_the_rows_that_they_say() -> None:
    """Every second from the second on."""
    x, y = DIGITS.report.first(3).read()
    with np.load(MODELS / "digits_val.npz") as file:
        np.testing.assert_array_equal(file["x"][[1, 3, 5]], x)
        np.testing.assert_array_equal(file["y"][[1, 3, 5]], y)
    assert "digits_val.npz, 1 to 5, every 2nd" == str(DIGITS.report.first(3))


@pytest.mark.parametrize(
    ("configuration", "sites", "words"),
    [
        (Configuration(strength=0.5), 6, "κ 0.5"),
        (Configuration(strength=0.1, scale="quantile"), 6, "quantile 0.1"),
        (Configuration(strength=0.1, scale="channel"), 6, "quantile of each channel 0.1"),
        (
            Configuration(strength=0.1, scale="quantile", sites="last"),
            1,
            "quantile 0.1, last site alone",
        ),
    ],
)
def test_configurations(configuration: Configuration, sites: int, words: str) -> None:
    """Each hardens the sites that it names."""
    hard = DIGITS.hardened(configuration)

    assert sites == sum(node.op_type == "JumpReLU" for node in hard.graph.node)
    assert words == str(configuration)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return results that are empty."""
    return Store(tmp_path / "paper.json")


def record(part: str, way: Configuration, native: float, change: float) -> dict[str, Any]:
    """Make what a choice looks at."""
    return {
        "network": "digits",
        "part": part,
        "configuration": str(way),
        "strength": way.strength,
        "seed": 0,
        "hardened": {"native": native},
        "difference": {"robust_accuracy": change},
    }


def test_the_best_is_natively_best_in_the_grid_and_truly_where_one_chooses(store: Store) -> None:
    """What looks best is what a user of the paper's method would take."""
    ways = [Configuration(strength=kappa) for kappa in DIGITS.grid]
    assert [] == list(runs(DIGITS, "strong", 0, store))
    for part in ("grid", "choice"):
        for way, native, change in zip(ways, (0.4, 0.6), (0.01, -0.2), strict=True):
            store.add(f"{part} {way}", record(part, way, native, change))

    assert [ways[1]] == best(DIGITS, "strong", store)
    assert [ways[0]] == best(DIGITS, "report", store)
    (run,) = runs(DIGITS, "report-strong", 1, store)
    assert ("standard", 30, 1) == (run.suite, run.samples.count, run.seed)


def test_runs_are_kept_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call measures nothing; a jump of 1 looks better in the protocol than it is."""
    monkeypatch.setattr(jump_relu_paper, "NETWORKS", [DIGITS])
    monkeypatch.setattr(jump_relu_paper, "STORE", tmp_path / "paper.json")
    options = jump_relu_paper.parsed(["measure", "--parts", "protocol", "grid"])
    jump_relu_paper.measure(options)
    assert 4 == len(capsys.readouterr().out.splitlines())
    found = Store(tmp_path / "paper.json").runs

    jump_relu_paper.measure(options)
    assert "" == capsys.readouterr().out
    assert found == Store(tmp_path / "paper.json").runs
    worst = found["digits/grid/κ 1/0"]
    assert ("quick", 40, sha256_of(DIGITS.path)) == (
        worst["suite"],
        worst["n"],
        worst["model_sha256"],
    )
    assert "less robust" == paper_report.conclusion(worst)
    noise = {
        name: found["digits/protocol/κ 1/0"][name]["attacks"][1]["relative_noise"]
        for name in ("before", "hardened")
    }
    assert noise["hardened"] > noise["before"]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ([0.001, 0.02], "more robust"),
        ([-0.02, -0.001], "less robust"),
        ([0.0, 0.02], "undecided"),
        ([-0.01, 0.02], "undecided"),
    ],
)
def test_conclusions_follow_from_the_interval(interval: list[float], words: str) -> None:
    """More or less only where 0 is outside."""
    assert words == paper_report.conclusion({"difference": {"ci95": interval}})


def test_holm() -> None:
    """The smallest of three p-values counts three times, and none below an earlier one."""
    assert [0.03, 0.06, 0.06] == pytest.approx(paper_report.holm([0.01, 0.04, 0.03]))
    assert [1.0, 1.0] == paper_report.holm([0.6, 0.9])


def test_a_page_without_marks_is_refused() -> None:
    """Rather than written without its tables."""
    with pytest.raises(ValueError, match="has no marks for 'summary'"):
        paper_report.filled("# A page\n", {"summary": ["a"]})
