"""What does the JumpReLU paper's retrofit buy, by its own attacks and by honest ones?

Every figure comes from a run of ``onnxfit verify``: the model with its jumps and the same model
before hardening, the same samples, the same budget. The parts of a network's evaluation:

- ``protocol``: the paper's attacks in its own units, for every jump of its grid (``paper``);
- ``grid``: robust accuracy by native gradients and in the worst case, for the same (``quick``);
- ``strong``: the jump of the grid that looks best by native gradients, under ``standard``;
- ``choice``: other ways to set the jumps, on samples to choose on (``quick``);
- ``report``: the way that did best there, on other samples (``quick``), and ``report-strong`` on
  the first of them under ``standard``.

    python benchmarks/jump_relu_paper.py measure [--only lenet] [--parts grid ...] [--seeds 0 1]
    python benchmarks/jump_relu_paper.py report

``measure`` writes each run into benchmarks/results/paper.json as soon as it is done, and does not
repeat it. ``report`` writes benchmarks/results/paper.md, the plots beside it, and the tables of
docs/robustness.md.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paper_report
import torch
from paper_cases import NETWORKS, ROOT, Configuration, Network, Samples

import onnxfit
from onnxfit.data import sha256_of

RESULTS = Path(__file__).parent / "results"
STORE = RESULTS / "paper.json"
PARTS = ("protocol", "grid", "strong", "choice", "report", "report-strong")
STRONG_SAMPLES = {"strong": 200, "report-strong": 500}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of ``onnxfit verify``.

    Attributes:
        network: What is hardened.
        part: Of its evaluation.
        configuration: The jumps.
        seed: Of everything random.
    """

    network: Network
    part: str
    configuration: Configuration
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.network.key}/{self.part}/{self.configuration}/{self.seed}"

    @property
    def suite(self) -> str:
        """That of the attacks."""
        return {"protocol": "paper", **dict.fromkeys(STRONG_SAMPLES, "standard")}.get(
            self.part, "quick"
        )

    @property
    def samples(self) -> Samples:
        """Those that are attacked."""
        network, part = self.network, self.part.partition("-")[0]
        chosen = {"choice": network.choice, "report": network.report}.get(part, network.samples)
        return chosen.first(STRONG_SAMPLES.get(self.part, chosen.count))

    def measure(self) -> dict[str, Any]:
        """Attack both networks, and return what is kept of the result."""
        network, began = self.network, time.perf_counter()
        hard = network.hardened(self.configuration)
        how: dict[str, Any] = {"mean": network.mean, "std": network.std, "seed": self.seed}
        if self.suite == "paper":
            how["steps"] = network.steps
        else:
            how["eps"] = network.eps
        result = onnxfit.verify(
            hard, self.samples.read(), baseline=network.path, suite=self.suite, **how
        )
        return {
            "network": network.key,
            "part": self.part,
            "configuration": str(self.configuration),
            "strength": self.configuration.strength,
            "seed": self.seed,
            "samples": str(self.samples),
            "samples_sha256": sha256_of(self.samples.path),
            "commit": commit(),
            **kept(result.document),
            "seconds": round(time.perf_counter() - began, 1),
        }


def kept(document: dict[str, Any]) -> dict[str, Any]:
    """Return what the tables need of a verification's result."""
    before = document["baseline"]
    return {
        "suite": document["suite"],
        "n": document["data"]["n"],
        "eps": document["eps"],
        "model_sha256": before["model"]["sha256"],
        "hardened_sha256": document["model"]["sha256"],
        "versions": document["environment"]["versions"],
        "hardened": side(document),
        "before": side(before),
        "difference": document["difference"],
        "alarms": [check["check"] for check in document["diagnostics"] if not check["passed"]],
    }


def side(document: dict[str, Any]) -> dict[str, Any]:
    """Return what the tables need of one of the two models."""
    worst = document["worst_case"]
    return {
        "clean": document["clean"]["accuracy"],
        "native": document["native"]["robust_accuracy"],
        "worst": None if worst is None else worst["robust_accuracy"],
        "attacks": [
            {
                "name": attack["name"],
                "backward": attack["backward"],
                "robust_accuracy": attack["robust_accuracy"],
                "relative_noise": attack.get("mean_relative_perturbation"),
                "absolute_noise": attack.get("mean_absolute_perturbation"),
            }
            for attack in document["attacks"]
        ],
    }


def commit() -> str:
    """Return the commit that is measured, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"


class Store:
    """The results that are kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.runs: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.runs = json.loads(path.read_text(encoding="utf-8"))

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Keep a result; the file holds all of them at any time."""
        self.runs[key] = record
        text = json.dumps(dict(sorted(self.runs.items())), indent=1, ensure_ascii=False)
        new = self._path.with_suffix(".new")
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(self._path)

    def of(self, network: Network, part: str, seed: int) -> list[dict[str, Any]]:
        """Return the results of a part, by strength."""
        return [
            record
            for record in self.runs.values()
            if (record["network"], record["part"], record["seed"]) == (network.key, part, seed)
        ]


def runs(network: Network, part: str, seed: int, store: Store) -> Iterator[Run]:
    """Yield the runs of a part; those that rest on others come when these are there."""
    grid = [Configuration(strength=kappa) for kappa in network.grid]
    ways: Sequence[Configuration]
    if part in ("protocol", "grid"):
        ways = grid
    elif part == "choice":
        ways = network.configurations
    else:
        ways = best(network, part, store)
    for way in ways:
        yield Run(network=network, part=part, configuration=way, seed=seed)


def best(network: Network, part: str, store: Store) -> list[Configuration]:
    """Return the configuration that looks best: natively in the grid, truly where one chooses."""
    source = "grid" if part == "strong" else "choice"
    wanted: Callable[[dict[str, Any]], float] = (
        (lambda record: record["hardened"]["native"])
        if part == "strong"
        else (lambda record: record["difference"]["robust_accuracy"])
    )
    ways = {str(way): way for way in network.configurations}
    found = [record for record in store.of(network, source, 0) if record["configuration"] in ways]
    if not found:
        return []
    return [ways[max(found, key=wanted)["configuration"]]]


def measure(options: argparse.Namespace) -> None:
    """Make all runs that are not there."""
    torch.set_num_threads(1)
    store = Store(STORE)
    for part in options.parts:
        for seed in options.seeds:
            for network in NETWORKS:
                if options.only not in network.key or not network.path.exists():
                    continue
                for run in runs(network, part, seed, store):
                    if run.key not in store.runs:
                        store.add(run.key, run.measure())
                        print(told(store.runs[run.key]), flush=True)


def told(record: dict[str, Any]) -> str:
    """Say in a line what a run found."""
    after, before = record["hardened"], record["before"]
    name = f"{record['network']} {record['part']} {record['configuration']} ({record['seed']})"
    shares = [
        f"{name} {after[name]:.3f} ({before[name]:.3f})"
        for name in ("clean", "native", "worst")
        if after[name] is not None
    ]
    return f"{name}: {', '.join(shares)}; {record['seconds']:.0f} s"


def main() -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("measure")
    verb.add_argument("--only", default="", help="part of a network's key")
    verb.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    verb.add_argument("--seeds", nargs="+", type=int, default=[0])
    verbs.add_parser("report")
    options = parser.parse_args()
    if options.verb == "measure":
        measure(options)
    else:
        paper_report.write(Store(STORE).runs)


if __name__ == "__main__":
    main()
