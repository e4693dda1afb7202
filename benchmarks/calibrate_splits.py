"""Do calibrated jumps keep the budget on other data, and is the race as good as trying everything?

All jumps of a grid are measured once on all samples: which are right, and which stay right under
attack. Then the samples are split at random 200 times into validation and test data. Each time the
jump is chosen as ``onnxfit calibrate`` does, on the validation data alone, and judged on the test
data: is the drop of accuracy inside the budget, and do more samples stay right under attack than
with the jump that an exhaustive search would have taken, also on the validation data alone?

    python benchmarks/calibrate_splits.py [--only digits] [--splits 200] [--write]

Networks and images come from a folder beside the repository, or the one that ONNXFIT_SHARED names.
"""

import argparse
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibrate_sweep import DATA, DERIVED, ROOT, Case
from numpy.typing import NDArray

import onnxfit
from onnxfit.calibration.cache import Cache
from onnxfit.calibration.calibrator import Calibrator
from onnxfit.calibration.selection import Budget, Mask, Race, boundary
from onnxfit.calibration.settings import Settings
from onnxfit.data import Dataset, from_arrays
from onnxfit.verification.progress import silent
from onnxfit.verification.statistics import paired_difference
from onnxfit.verification.target import Target

RESULT = Path(__file__).parent / "results" / "calibrate_splits.md"

HELD_OUT = ROOT / "models" / "digits_test.npz"


@dataclass(frozen=True)
class Table:
    """What every jump of a grid does to samples.

    Attributes:
        clean: By strength, 0 among them: which of all samples are right.
        rows: The numbers of the attacked samples.
        robust: By strength: which of these stay right under attack.
    """

    clean: dict[float, Mask]
    rows: NDArray[np.int64]
    robust: dict[float, Mask]


@dataclass
class Part:
    """Some samples of a table, as the choice of a jump wants them.

    Attributes:
        table: Of all samples.
        rows: Their numbers.
        attacked: How many of them were attacked.
    """

    table: Table
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._attacked = np.isin(self.table.rows, self.rows)
        self.attacked = int(self._attacked.sum())

    def clean(self, strength: float) -> Mask:
        """Return which of the samples are right."""
        return self.table.clean[strength][self.rows]

    def drop(self, strength: float) -> float:
        """Return how much accuracy a strength costs."""
        return float(self.clean(0.0).mean() - self.clean(strength).mean())

    def robust(self, strengths: Sequence[float], count: int) -> dict[float, Mask]:
        """Return which of the first attacked ones stay right."""
        return {s: self.table.robust[s][self._attacked][:count] for s in strengths}


def measured(case: Case, data: Dataset, attacked: int) -> Table:
    """Measure every jump of the grid on all samples."""
    settings = Settings(**case.settings(), attack_limit=attacked)
    plain = Target(onnxfit.load(case.model), mean=case.mean, std=case.std)
    calibrator = Calibrator(plain, data, settings, silent)
    strengths = [0.0, *(settings.strengths or ())]
    store = Cache(None, {})
    _, measurements = calibrator.prepare(store)
    measurements = measurements.with_all_attacks()
    clean = {strength: measurements.clean(strength) for strength in strengths}
    robust = measurements.robust(strengths, measurements.attacked)
    order = np.random.default_rng(settings.seed).permutation(measurements.attacked)
    return Table(clean, data.spread_rows(attacked)[order], robust)


def chosen(part: Part, strengths: Sequence[float], budget: Budget) -> tuple[float, float, float]:
    """Return the choice of the race, that of an exhaustive search, and the largest allowed."""
    before = part.clean(0.0)
    edge = boundary(strengths, part, budget)
    race = Race(strengths[: edge + 1], part, inside=lambda s: budget.allows(before, part.clean(s)))
    inside = [s for s in strengths if budget.allows(before, part.clean(s))]
    robust = part.robust(inside, part.attacked)
    return race.run(), max(inside, key=lambda s: (int(robust[s].sum()), -s)), strengths[edge]


def row(case: Case, data: Dataset, attacked: int, splits: int) -> str:
    """Measure a network; return the row of the table."""
    table = measured(case, data, attacked)
    strengths = case.settings()["strengths"]
    budget = Budget(max_drop=case.max_drop)
    kept, edges_kept, worse, drops, gaps, choices = 0, 0, 0, [], [], []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(data.n)
        validation = Part(table, np.sort(order[: data.n // 2]))
        test = Part(table, np.sort(order[data.n // 2 :]))
        ours, exhaustive, edge = chosen(validation, strengths, budget)
        drops.append(test.drop(ours))
        kept += drops[-1] <= case.max_drop
        edges_kept += test.drop(edge) <= case.max_drop
        found = test.robust([ours, exhaustive], test.attacked)
        more = int((found[ours] & ~found[exhaustive]).sum())
        fewer = int((found[exhaustive] & ~found[ours]).sum())
        gaps.append((more - fewer) / test.attacked)
        worse += paired_difference(more, fewer, test.attacked)[1] < 0
        choices.append(ours)
    low, middle, high = np.quantile(choices, [0.05, 0.5, 0.95])
    cells = [case.name, f"{data.n // 2} / {data.n - data.n // 2}", str(attacked // 2)]
    cells += [f"{case.max_drop:g}", f"{middle:.3g} ({low:.3g} to {high:.3g})"]
    cells += [f"{kept} of {splits}", f"{100 * np.mean(drops):+.2f}", f"{100 * np.max(drops):+.2f}"]
    cells += [f"{edges_kept} of {splits}"]
    cells += [f"{100 * np.mean(gaps):+.2f}", str(worse)]
    return "| " + " | ".join(cells) + " |"


def cases() -> list[tuple[Case, Dataset, int]]:
    """Return the networks, their samples, and how many are attacked."""
    normalised: dict[str, Any] = {
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2023, 0.1994, 0.201),
    }
    models, digits = ROOT / "models", []
    for file in ("digits_cnn", "digits_cnn_pgd"):
        parts = [np.load(models / f"digits_{part}.npz") for part in ("val", "test")]
        x, y = (np.concatenate([part[name] for part in parts]) for name in "xy")
        digits.append((Case(file, models / f"{file}.onnx", HELD_OUT, 0.1, 1.0), from_arrays(x, y)))
    lenet = Case(
        "LeNet",
        DERIVED / "jumprelu_lenet_baseline.onnx",
        DATA / "mnist_0_4999.npz",
        0.1,
        2.0,
        (0.1307,),
        (0.3081,),
    )
    resnet = Case(
        "ResNet-20",
        DERIVED / "jumprelu_resnet20_baseline_bn.onnx",
        DATA / "cifar10_jpeg_4000.npz",
        0.5 / 255,
        0.1,
        **normalised,
    )
    return [
        *((case, data, 400) for case, data in digits),
        (lenet, lenet.dataset(5000), 400),
        (resnet, resnet.dataset(4000), 200),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["network", "validation / test", "attacked each", "max_drop"]
    columns += ["jump: median (5 % to 95 %)", "inside on test data", "mean drop, points"]
    columns += [
        "largest",
        "inside at the largest jump allowed",
        "robust less exhaustive's, mean points",
        "splits significantly worse",
    ]
    lines = [
        "# Calibrated jumps on data that the calibration has not seen",
        "",
        f"`python benchmarks/calibrate_splits.py --splits {options.splits}`, Python "
        f"{platform.python_version()}, torch {torch.__version__}. Everything in the table but the "
        "choice is measured on the test half. The jump that leaves most samples right is often the "
        "smallest, which costs nothing; what the bound of the budget is worth shows in the largest "
        "jump that the validation half allows.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    print("\n".join(lines), flush=True)
    for case, data, attacked in cases():
        if options.only.lower() in case.name.lower():
            lines.append(row(case, data, attacked, options.splits))
            print(lines[-1], flush=True)
    if options.write:
        RESULT.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
