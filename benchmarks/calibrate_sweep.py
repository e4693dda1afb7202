"""Is ``onnxfit calibrate`` faster than the loop that it takes the place of, with the same choice?

The loop hardens the model anew with each of 20 jumps, opens it in ONNX Runtime and as a twin,
computes the clean accuracy of all samples, attacks them with the same attacks at the same budget,
and takes the jump inside the budget of accuracy that leaves most of them right. Both run in turns
in one process, and take turns in going first.

    python benchmarks/calibrate_sweep.py [--rounds 2] [--only lenet] [--write]

Times are those of the processor, which other programs disturb least.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from environment import command_line
from images import CIFAR10_JPEG, DIGITS_TEST, DIGITS_VAL, MNIST
from numpy.typing import NDArray
from published import publish
from trained_networks import RESNET20, Model, digits, lenet

import onnxfit
from onnxfit.attacks.surrogates import scales_of
from onnxfit.calibration.calibrator import attacks, calibrate
from onnxfit.calibration.result import Calibration
from onnxfit.calibration.settings import Settings
from onnxfit.data import Batch, Dataset, from_arrays, sha256_of
from onnxfit.verification.environment import versions
from onnxfit.verification.target import Target

RESULT = Path(__file__).parent / "results" / "calibrate_sweep.md"
BATCH = 64
JUMPS = 20
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and its samples.

    Attributes:
        name: For the table.
        model: The file.
        data: The samples.
        eps: For linf, in pixels from 0 to 1.
    """

    name: str
    model: Model
    data: tuple[Path, ...]
    eps: float

    @property
    def settings(self) -> dict[str, Any]:
        """What a calibration is told of it."""
        return {"eps": self.eps, "seed": SEED, **self.model.normalisation}

    @property
    def files(self) -> tuple[Path, ...]:
        """The model and the samples."""
        return (self.model.path, *self.data)

    def dataset(self, samples: int | None = None) -> Dataset:
        """Open the first samples."""
        parts = []
        for path in self.data:
            with np.load(path) as file:
                parts.append((file["x"], file["y"]))
        x, y = (np.concatenate(arrays)[:samples] for arrays in zip(*parts, strict=True))
        return from_arrays(x, y)


def digits_network(name: str) -> Network:
    """Return a network of ``models/``; both files are needed for enough samples."""
    data = (DIGITS_VAL, DIGITS_TEST)
    return Network(name=f"digits_{name}", model=digits(name), data=data, eps=0.1)


DIGITS, DIGITS_PGD = digits_network("cnn"), digits_network("cnn_pgd")
LENET = Network(
    name="LeNet",
    model=lenet("baseline"),
    data=(MNIST,),
    eps=0.1,
)
RESNET = Network(
    name="ResNet-20",
    model=RESNET20,
    data=(CIFAR10_JPEG,),
    eps=0.5 / 255,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is swept.

    Attributes:
        network: With its samples.
        largest: The largest of the jumps.
        samples: How many at most.
        attacked: How many of them at most.
        max_drop: The budget.
        steps: Of an attack; None for as many as ``calibrate`` makes by default.
    """

    network: Network
    largest: float
    samples: int = 1000
    attacked: int = 1000
    max_drop: float = 0.01
    steps: int | None = None

    @property
    def jumps(self) -> list[float]:
        """Those to try."""
        return [self.largest * (i + 1) / JUMPS for i in range(JUMPS)]

    @property
    def settings(self) -> dict[str, Any]:
        """What both ways share."""
        return {
            **self.network.settings,
            "max_drop": self.max_drop,
            "strengths": self.jumps,
            "steps": self.steps,
            "attack_limit": self.attacked,
        }


# The third is sized so that a round takes minutes: fewer samples and steps.
CASES = (
    Case(network=DIGITS, largest=1.0),
    Case(network=LENET, largest=2.0),
    Case(network=RESNET, largest=0.1, samples=500, attacked=128, max_drop=0.02, steps=5),
)


class Looped(NamedTuple):
    """What the loop found, and how long it took.

    Attributes:
        choice: The jump.
        robust: How many samples each jump inside the budget leaves right.
        seconds: Of all.
        checking: Without the attacks on jumps that are outside the budget.
    """

    choice: float
    robust: dict[float, int]
    seconds: float
    checking: float


def loop(case: Case, data: Dataset) -> Looped:
    """Sweep the jumps as a user would without ``calibrate``."""
    began, outside = time.process_time(), 0.0
    settings = Settings(**case.settings)
    everything, rows = data.spread(data.n), data.spread_rows(case.attacked)
    some = Batch(everything.x[rows], everything.y[rows])
    before = right(hardened(case.network, 0.0), everything)
    robust = {}
    for jump in case.jumps:
        target = hardened(case.network, jump)
        clean = right(target, everything)
        inside = settings.budget.allows(before, clean)
        now = time.process_time()
        left = survivors(target, some, clean[rows], settings)
        if inside:
            robust[jump] = int(left.sum())
        else:
            outside += time.process_time() - now
    choice = max(robust, key=lambda jump: (robust[jump], -jump))
    seconds = time.process_time() - began
    return Looped(choice, robust, seconds, seconds - outside)


def hardened(network: Network, jump: float) -> Target:
    """Harden a network and open it."""
    hard = onnxfit.retrofit(network.model.path, jump)
    return Target(hard, **network.model.normalisation)


def right(target: Target, samples: Batch) -> NDArray[np.bool_]:
    """Say which samples are right."""
    found = np.zeros(len(samples.y), bool)
    for at in range(0, len(found), BATCH):
        part = slice(at, at + BATCH)
        found[part] = target.predictions(samples.x[part]) == samples.y[part]
    return found


def survivors(
    target: Target, samples: Batch, clean: NDArray[np.bool_], settings: Settings
) -> NDArray[np.bool_]:
    """Say which samples stay right under attack; what one attack breaks the next is spared."""
    scales = scales_of(target.twin, torch.from_numpy(samples.x[:256]))
    left = clean.copy()
    for at in range(0, len(left), BATCH):
        for stage in attacks(settings, (0.0, 1.0)):
            rows = at + np.flatnonzero(left[at : at + BATCH])
            if len(rows):
                labels = samples.y[rows]
                points = stage.attack(target.twin, samples.x[rows], labels, scales=scales)
                left[rows] = target.predictions(points) == labels
    return left


def measured(case: Case, rounds: int) -> str:
    """Run both ways in turns; return the row of the table."""
    data = case.network.dataset(case.samples)
    loops: list[Looped] = []
    ours: list[float] = []
    found: list[Calibration] = []

    def sweep() -> None:
        loops.append(loop(case, data))

    def find() -> None:
        began = time.process_time()
        found.append(calibrate(case.network.model.path, data, **case.settings))
        ours.append(time.process_time() - began)

    for i in range(rounds):
        for way in (find, sweep) if i % 2 else (sweep, find):
            way()
    # Both are deterministic, but for their times.
    return row(case, data, loops, ours, found[-1])


def row(
    case: Case, data: Dataset, loops: list[Looped], ours: list[float], found: Calibration
) -> str:
    """Return the row of the table."""
    document, swept = found.document, loops[-1]
    few = min(case.attacked, data.n)
    steps = round(abs(document["strength"] - swept.choice) / (case.largest / JUMPS))
    shares = (swept.robust[swept.choice] / few, document["after"]["robust_accuracy"])
    cells = [case.network.name, f"{data.n}, {few}", f"{case.steps or 20}", f"{case.max_drop:g}"]
    cells += [f"{len(swept.robust)} of {JUMPS}", f"{swept.choice:.3g}"]
    cells += [f"{document['strength']:.3g}", str(steps), *(f"{share:.1%}" for share in shares)]
    cells += [f"{document['before']['robust_accuracy']:.1%}", "yes" if found.improves else "no"]
    times = {"seconds": [each.seconds for each in loops], "checking": [x.checking for x in loops]}
    cells += [f"{statistics.median(took):.0f}" for took in (*times.values(), ours)]
    for took in times.values():
        ratios = [theirs / mine for theirs, mine in zip(took, ours, strict=True)]
        cells.append(f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    return "| " + " | ".join(cells) + " |"


def provenance(files: Iterable[Path], seeds: str) -> list[str]:
    """Return the lines that say how a result was made: command, versions, files, seeds."""
    programs = ", ".join(f"{name} {version}" for name, version in versions().items())
    hashes = [f"- {path.name} `{sha256_of(path)}`" for path in sorted({*files})]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread"
    how = f"`{command_line()}`: {programs}; {machine}. {seeds}"
    return [how, "", "Files, SHA-256:", "", *hashes, ""]


COLUMNS = (
    "network",
    "samples, attacked",
    "steps of an attack",
    "max_drop",
    "inside the budget",
    "choice of the loop",
    "of calibrate",
    "grid steps apart",
    "robust, loop",
    "calibrate",
    "before hardening",
    "a gain",
    "loop, s",
    "loop that checks first, s",
    "calibrate, s",
    "loop / calibrate",
    "loop that checks first / calibrate",
)

NOTES = (
    "",
    "Times are CPU time of the process, the median of the rounds; ratios are of a round, their "
    "median and range. Rounds take turns in which way goes first. The loop attacks every jump; "
    "the one that checks first does not attack jumps outside the budget: its time is the same "
    "loop's less what these attacks took. `calibrate` also attacks the network before hardening, "
    "measures a curve, jumps outside the budget among it, and compares the choice with the "
    "network before hardening under all attacks.",
    "",
    "`robust` is the share of the attacked samples that stay right under all attacks: for the "
    "choice of each way, as it was measured there. `calibrate` may count fewer than the loop for "
    "the same jump: it makes the same attacks, and tries what fooled other jumps as well.",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in CASES if options.only.lower() in case.network.name.lower()]
    files = [file for case in cases for file in case.network.files]
    lines = [
        f"# Calibration beside a loop over {JUMPS} jumps",
        "",
        *provenance(files, f"Seed {SEED}; {options.rounds} rounds, CPU time."),
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    print("\n".join(lines), flush=True)
    for case in cases:
        lines.append(measured(case, options.rounds))
        print(lines[-1], flush=True)
    lines += NOTES
    print("\n".join(NOTES))
    if options.write:
        publish(RESULT, lines)


if __name__ == "__main__":
    main()
