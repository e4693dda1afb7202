"""Is ``onnxfit calibrate`` faster than the loop that it takes the place of, with the same choice?

The loop hardens the model anew with each of 20 jumps, opens it in ONNX Runtime and as a twin,
computes the clean accuracy of all samples, attacks all of them with the same attacks at the same
budget, and takes the jump inside the budget of accuracy that leaves most of them right. Both run in
turns in one process.

    python benchmarks/calibrate_sweep.py [--rounds 2] [--samples 500] [--only lenet] [--write]

Networks and images come from a folder beside the repository, or the one that ONNXFIT_SHARED names.
Times are those of the processor, which other programs disturb least.
"""

import argparse
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import onnxfit
from onnxfit.attacks.surrogates import scales_of
from onnxfit.calibration.calibrator import attacks, calibrate
from onnxfit.calibration.settings import Settings
from onnxfit.data import Dataset, from_arrays
from onnxfit.verification.target import Target

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ONNXFIT_SHARED", ROOT.parent / "shared"))
RESULT = Path(__file__).parent / "results" / "calibrate_sweep.md"
BATCH = 64
# Both are needed for enough samples.
DIGITS, HELD_OUT = (ROOT / "models" / f"digits_{part}.npz" for part in ("val", "test"))


@dataclass(frozen=True)
class Case:
    """A network, its samples and the jumps to try.

    Attributes:
        name: For the table.
        model: The file.
        data: The samples.
        eps: For linf, in pixels from 0 to 1.
        largest: The largest of the 20 jumps.
        mean: Of the normalisation.
        std: The same.
        max_drop: The budget.
    """

    name: str
    model: Path
    data: Path
    eps: float
    largest: float
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    max_drop: float = 0.01

    def settings(self) -> dict[str, Any]:
        """Return what both ways share."""
        return {
            "eps": self.eps,
            "mean": self.mean,
            "std": self.std,
            "max_drop": self.max_drop,
            "strengths": [self.largest * (i + 1) / 20 for i in range(20)],
        }

    def dataset(self, samples: int) -> Dataset:
        """Open the first samples."""
        paths = [self.data, *([HELD_OUT] if self.data == DIGITS else [])]
        parts = [np.load(path) for path in paths]
        x, y = (np.concatenate([part[name] for part in parts])[:samples] for name in "xy")
        return from_arrays(x, y)


DERIVED, DATA = SHARED / "models" / "derived", SHARED / "data"
CASES = (
    Case(
        "digits",
        ROOT / "models" / "digits_cnn.onnx",
        DIGITS,
        0.1,
        1.0,
    ),
    Case(
        "LeNet",
        DERIVED / "jumprelu_lenet_baseline.onnx",
        DATA / "mnist_0_4999.npz",
        0.1,
        2.0,
        (0.1307,),
        (0.3081,),
    ),
    Case(
        "ResNet-20",
        DERIVED / "jumprelu_resnet20_baseline_bn.onnx",
        DATA / "cifar10_exact_549.npz",
        0.5 / 255,
        0.1,
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.201),
        0.02,
    ),
)


def loop(case: Case, data: Dataset) -> tuple[float, dict[float, int]]:
    """Return the choice of the plain loop, and how many samples each jump leaves right."""
    settings = Settings(**case.settings())
    x, y = data.spread(data.n)
    before = swept(case, 0.0, x, y, None)[0]
    robust = {}
    for jump in case.settings()["strengths"]:
        clean, left = swept(case, jump, x, y, settings)
        if settings.budget.allows(before, clean):
            robust[jump] = int(left.sum())
    return max(robust, key=lambda jump: (robust[jump], -jump)), robust


def swept(
    case: Case,
    jump: float,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    settings: Settings | None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Evaluate one jump: which samples are right, and which stay right under attack."""
    hard = onnxfit.retrofit(case.model, jump)
    target = Target(hard, mean=case.mean, std=case.std)
    scales = scales_of(target.twin, torch.from_numpy(x[:256]))
    clean, left = np.zeros(len(y), bool), np.zeros(len(y), bool)
    for at in range(0, len(y), BATCH):
        part = slice(at, at + BATCH)
        clean[part] = target.predictions(x[part]) == y[part]
        left[part] = clean[part]
        for stage in attacks(settings, (0.0, 1.0)) if settings else ():
            rows = at + np.flatnonzero(left[part])
            if len(rows):
                points = stage.attack(target.twin, x[rows], y[rows], scales=scales)
                left[rows] = target.predictions(points) == y[rows]
    return clean, left


def measured(case: Case, samples: int, rounds: int) -> str:
    """Run both ways in turns; return the row of the table."""
    data = case.dataset(samples)
    took: dict[str, list[float]] = {"loop": [], "calibrate": []}
    for _ in range(rounds):
        began = time.process_time()
        choice, robust = loop(case, data)
        took["loop"].append(time.process_time() - began)
        began = time.process_time()
        found = calibrate(case.model, data, **case.settings(), attack_limit=data.n)
        took["calibrate"].append(time.process_time() - began)
    ours = found.document["strength"]
    ratio = statistics.median(a / b for a, b in zip(took["loop"], took["calibrate"], strict=True))
    steps = round(abs(ours - choice) / (case.largest / 20))
    right = found.document["after"]["robust_accuracy"]
    cells = [case.name, str(data.n), f"{len(robust)} of 20", f"{choice:.3g}", f"{ours:.3g}"]
    before = found.document["before"]["robust_accuracy"]
    cells += [str(steps), f"{robust[choice] / data.n:.1%}", f"{right:.1%}", f"{before:.1%}"]
    cells += ["yes" if found.improves else "no"]
    cells += [f"{statistics.median(took[way]):.0f}" for way in ("loop", "calibrate")]
    return "| " + " | ".join([*cells, f"{ratio:.1f}"]) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["network", "samples", "inside the budget", "choice of the loop", "of calibrate"]
    columns += ["grid steps apart", "robust, loop", "calibrate", "before hardening", "a gain"]
    columns += ["loop, s", "calibrate, s", "ratio"]
    lines = [
        "# Calibration beside a loop over 20 jumps",
        "",
        f"`python benchmarks/calibrate_sweep.py --rounds {options.rounds} "
        f"--samples {options.samples}` on {os.cpu_count()} cores of {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, 1 thread, CPU time.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    print("\n".join(lines), flush=True)
    for case in CASES:
        if options.only.lower() in case.name.lower():
            lines.append(measured(case, options.samples, options.rounds))
            print(lines[-1], flush=True)
    if options.write:
        RESULT.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
