"""What does the JumpReLU paper's retrofit buy, by its own attacks and by honest ones?

Every figure comes from a run of ``onnxfit verify``: the model with its jumps and the same model
before hardening, the same images, the same budget; to choose jumps, see ``paper_screening.py``. The
parts of a network's evaluation:

- ``protocol``: the paper's attacks in its own units, for every jump of the grid;
- ``grid``: robust accuracy by native gradients and in the worst case, for the same jumps;
- ``grid-strong``: those of them that came out more robust, under ``standard``;
- ``strong``: the jump of the grid with the highest native robust accuracy, under ``standard``;
- ``validation``: other ways to set the jumps, on images to choose on;
- ``test``: the way that did best there, on other images;
- ``test-strong``: the same under ``standard``, where it came out more robust.

    python benchmarks/jump_relu_paper.py measure [--only lenet] [--parts grid ...]
    python benchmarks/jump_relu_paper.py report

``measure`` writes each run into benchmarks/results/paper.json as soon as it is done, and does not
repeat it for the same files. ``report`` writes benchmarks/results/paper.md, the plots beside it,
and the tables of docs/robustness.md.
"""

import argparse
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import paper_report
import torch
from environment import clean_commit
from images import Samples
from onnx import ModelProto
from paper_cases import NETWORKS, Configuration, Network
from paper_results import STORE, Record, Results
from paper_screening import Screening
from tables import MORE

import onnxfit
from onnxfit.calibration.scales import zeroed
from onnxfit.data import sha256_of
from onnxfit.verification.suites import Suite


@dataclass(frozen=True)
class Part:
    """A part of a network's evaluation.

    Attributes:
        suite: Of the attacks.
        images: Which of the network's.
        limit: How many of them at most.
        seeds: How often, each time with another seed.
    """

    suite: Suite
    images: Literal["samples", "validation", "test"]
    limit: int = 2000
    seeds: int = 1


PARTS = {
    "protocol": Part("paper", "samples"),
    "grid": Part("quick", "samples", seeds=2),
    "grid-strong": Part("standard", "samples"),
    "strong": Part("standard", "samples", limit=200),
    # To choose takes fewer images than to judge.
    "validation": Part("quick", "validation", limit=500),
    "test": Part("quick", "test", seeds=2),
    "test-strong": Part("standard", "test"),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Attacks on a network with some jumps, and on it before hardening.

    Attributes:
        network: What is hardened.
        part: The name of the part.
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
    def samples(self) -> Samples:
        """The images that are attacked."""
        part = PARTS[self.part]
        samples: Samples = getattr(self.network, part.images)
        return samples.first(part.limit)

    @property
    def files(self) -> dict[str, str]:
        """The hashes of what it reads."""
        return {
            "model_sha256": sha256_of(self.network.model.path),
            "samples_sha256": sha256_of(self.samples.path),
        }

    def measure(self, commit: str) -> Record:
        """Attack both networks, and return what is kept of the result."""
        network, began = self.network, time.perf_counter()
        jumps = network.jumps(self.configuration)
        hard = onnxfit.retrofit(network.model.path, jumps=jumps)
        if self.part == "validation":
            document = screening_of(network, self.samples, self.seed).measure(hard)
        else:
            document = self._verified(hard)
        return {
            "network": network.key,
            "part": self.part,
            "configuration": str(self.configuration),
            "strength": self.configuration.strength,
            "jumps": {name: round(float(np.mean(jump)), 6) for name, jump in jumps.items()},
            "zeroed": zeroed(jumps, network.statistics),
            "seed": self.seed,
            "samples": str(self.samples),
            "commit": commit,
            **self.files,
            **kept(document),
            "seconds": round(time.perf_counter() - began, 1),
        }

    def _verified(self, hard: ModelProto) -> dict[str, Any]:
        network, suite = self.network, PARTS[self.part].suite
        how = {"steps": network.steps} if suite == "paper" else {"eps": network.eps}
        return onnxfit.verify(
            hard,
            self.samples.read(),
            baseline=network.model.path,
            suite=suite,
            seed=self.seed,
            **network.model.normalisation,
            **how,
        ).document


# One is kept: all ways to set the jumps of a network are tried before another's.
screening_of = functools.lru_cache(maxsize=1)(Screening)


def kept(document: dict[str, Any]) -> dict[str, Any]:
    """Return what the tables need of a verification's result."""
    return {
        "suite": document["suite"],
        "n": document["data"]["n"],
        "eps": document["eps"],
        "hardened_sha256": document["model"]["sha256"],
        "versions": document["environment"]["versions"],
        "hardened": side(document),
        "before": side(document["baseline"]),
        "difference": document["difference"],
        "failed_diagnostics": None
        if document["diagnostics"] is None
        else {
            check["check"]: check["detail"]
            for check in document["diagnostics"]
            if not check["passed"]
        },
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


def runs(network: Network, part: str, results: Results) -> Iterator[Run]:
    """Yield the runs of a part; of those that rest on others none before these are all there."""
    ways: Sequence[Configuration]
    if part in ("protocol", "grid"):
        ways = network.on_grid
    elif part == "grid-strong":
        tried = len(results.of(network, "grid", None)) == len(network.grid) * PARTS["grid"].seeds
        ways = paper_report.promising(results, network) if tried else []
    elif part == "validation":
        ways = network.configurations
    else:
        ways = best(network, part, results)
    if part == "test-strong":
        judged = results.of(network, "test", None)
        if len(judged) < PARTS["test"].seeds or paper_report.conclusion(judged, 1) != MORE:
            return
    for way in ways:
        for seed in range(PARTS[part].seeds):
            yield Run(network=network, part=part, configuration=way, seed=seed)


def best(network: Network, part: str, results: Results) -> list[Configuration]:
    """Return the way to set the jumps that a part judges, the first of those that are equal.

    That is the one with the highest native robust accuracy on the grid, or the one with the
    largest difference on the validation images.

    Raises:
        SystemExit: Another way was judged on the test images before.
    """
    source = "grid" if part == "strong" else "validation"
    ways = network.on_grid if part == "strong" else network.configurations
    found = results.of(network, source)
    if len(found) < len(ways):
        return []
    if part == "strong":
        chosen = max(found, key=lambda run: run["hardened"]["native"])
    else:
        chosen = max(found, key=lambda run: run["difference"]["robust_accuracy"])
    name = chosen["configuration"]
    if others := {run["configuration"] for run in results.of(network, part, None)} - {name}:
        raise SystemExit(f"{network.key}: {others.pop()} was judged before, now it is {name}")
    return [way for way in ways if str(way) == name]


def measure(only: str, parts: Sequence[str]) -> None:
    """Make all runs that are not there for the files as they are.

    Raises:
        SystemExit: The code is not that of a commit.
    """
    torch.set_num_threads(1)
    results = Results(STORE)
    commit = clean_commit("onnxfit", "models", "benchmarks")
    for part in parts:
        for network in NETWORKS:
            if only not in network.key or not network.model.path.exists():
                continue
            for run in runs(network, part, results):
                if run.files.items() <= results.runs.get(run.key, {}).items():
                    continue
                record = run.measure(commit)
                results.add(run.key, record)
                print(f"{run.key}: {told(record)}", flush=True)


def told(record: Record) -> str:
    """Say in a line what a run found."""
    after, before = record["hardened"], record["before"]
    shares = [
        f"{name} {after[name]:.3f} ({before[name]:.3f})"
        for name in ("clean", "native", "worst")
        if after[name] is not None
    ]
    return f"{', '.join(shares)}; {record['seconds']:.0f} s"


def main() -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("measure")
    verb.add_argument("--only", default="", help="part of a network's key")
    verb.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    verbs.add_parser("report")
    options = parser.parse_args()
    if options.verb == "measure":
        measure(options.only, options.parts)
    else:
        paper_report.write(Results(STORE))


if __name__ == "__main__":
    main()
