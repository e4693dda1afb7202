"""Do calibrated jumps keep the budget on other data, and is the race as good as trying everything?

The samples are split at random 200 times into validation and test data. Each time the jump is
chosen as ``onnxfit calibrate`` does, on the validation data alone: strengths up to about twice what
the budget allows there, a race on the attacks that the product races on, its winner confirmed. It
is judged on the test data: is the drop of accuracy inside the budget, and do more samples stay
right under all attacks than with the strength that an exhaustive search under all attacks would
have taken, also on the validation data alone?

    python benchmarks/calibrate_splits.py [--only lenet] [--splits 200] [--write]

What a strength does to a sample is measured once for all splits. For that strengths are rounded to
multiples of a step, a fortieth of the largest strength that a calibration on all samples would try.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibrate_sweep import (
    DIGITS,
    DIGITS_PGD,
    LENET,
    RESNET,
    SEED,
    Network,
    digits_network,
    provenance,
)
from numpy.typing import NDArray
from published import publish

from onnxfit.calibration.cache import Cache
from onnxfit.calibration.calibrator import Calibrator
from onnxfit.calibration.measurements import Measurements
from onnxfit.calibration.refinement import Refined, refine
from onnxfit.calibration.scales import Scale, first_strength, highest_strength
from onnxfit.calibration.selection import Budget, Mask, Race, boundary, confirmed
from onnxfit.calibration.settings import Objective, Settings
from onnxfit.calibration.strengths import strengths_to_try
from onnxfit.errors import DataError
from onnxfit.verification.progress import silent
from onnxfit.verification.statistics import SIGNIFICANCE, mcnemar

RESULT = Path(__file__).parent / "results" / "calibrate_splits.md"

ARCHITECTURES = ("lenet", "alexnet", "resnet20", "mobilenetv2", "wideresnet")

# A strength of all sites, or one for each of them.
Candidate = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is split and calibrated.

    Attributes:
        network: With its samples.
        attacked: How many of both halves together.
        scale: What a strength means.
        objective: What a race and its judge go by.
        max_drop: The budget.
        steps: Of strengths, up to the largest that all samples together would try.
    """

    network: Network
    attacked: int
    scale: Scale = "shared"
    objective: Objective = "worst-case"
    max_drop: float = 0.01
    steps: int = 40

    @property
    def settings(self) -> Settings:
        """Those of a calibration."""
        return Settings(
            **self.network.settings,
            max_drop=self.max_drop,
            scale=self.scale,
            objective=self.objective,
            attack_limit=self.attacked,
        )


class Table:
    """What candidates do to all samples of a network, measured when it is first asked for.

    Attributes:
        settings: Of the calibration.
        data: All samples.
        rows: The numbers of those that are attacked, in the order of their use.
        sites: How many sites there are.
    """

    def __init__(self, case: Case) -> None:
        self.settings, self.data = case.settings, case.network.dataset()
        calibrator = Calibrator(case.network.model.open(), self.data, self.settings, silent)
        statistics, self._measured = calibrator.prepare(Cache(None, {}))
        self.sites = len(statistics)
        rows = self.data.spread_rows(case.attacked)
        self.rows = rows[np.random.default_rng(self.settings.seed).permutation(len(rows))]
        self._clean: dict[Candidate, Mask] = {}
        self._raced: dict[Candidate, Mask] = {}
        self._judged: dict[Candidate, Mask] = {}
        # Statistics need no labels, and those of half the samples are nearly the same.
        self._first = first_strength(case.scale, statistics)
        self._highest = highest_strength(case.scale, statistics)
        largest = self._bracketed(self._allows(slice(None)))[-1]
        self._step = largest / case.steps

    def clean(self, candidate: Candidate) -> Mask:
        """Return which of all samples are right."""
        if candidate not in self._clean:
            self._clean[candidate] = self._measured.clean(candidate)
        return self._clean[candidate]

    def raced(self, candidates: Iterable[Candidate]) -> dict[Candidate, Mask]:
        """Return which attacked samples stay right under the attacks of the race."""
        return _known(self._raced, list(candidates), self._measured)

    def judged(self, candidates: Iterable[Candidate]) -> dict[Candidate, Mask]:
        """Return the same under all attacks; by native gradients for the paper's objective."""
        if self.settings.objective == "paper":
            return self.raced(candidates)
        return _known(self._judged, list(candidates), self._measured.with_all_attacks())

    def strengths(self, rows: NDArray[np.int64]) -> list[float]:
        """Return what the product would try for some samples, each rounded to a step.

        Raises:
            DataError: No strength is inside the budget, however small.
        """
        allows = self._allows(rows)
        found = self._bracketed(lambda strength: allows(self._rounded(strength)))
        return sorted({self._rounded(strength) for strength in found})

    def _bracketed(self, inside: Callable[[float], bool]) -> list[float]:
        scale, points = self.settings.scale, self.settings.points
        return strengths_to_try(scale, self._first, self._highest, points, inside)

    def _rounded(self, strength: float) -> float:
        steps = max(1, round(strength / self._step))
        if self.settings.scale != "shared":
            steps = min(steps, int(self._highest / self._step))
        return self._step * steps

    def _allows(self, rows: Any) -> Callable[[float], bool]:
        budget = self.settings.budget
        return lambda strength: budget.allows(self.clean(0.0)[rows], self.clean(strength)[rows])


def _known(
    known: dict[Candidate, Mask], candidates: list[Candidate], measured: Measurements
) -> dict[Candidate, Mask]:
    """Return the masks of candidates; where one is new, all of them have its points tried on."""
    if any(candidate not in known for candidate in candidates):
        known |= measured.robust(candidates, measured.attacked)
    return {candidate: known[candidate] for candidate in candidates}


class Part:
    """Some samples of a table, as the choice of a strength wants them.

    Args:
        table: Of all samples.
        rows: Their numbers.

    Attributes:
        attacked: How many of them were attacked.
    """

    def __init__(self, table: Table, rows: NDArray[np.int64]) -> None:
        self.table, self.rows = table, np.sort(rows)
        self._attacked = np.isin(table.rows, rows)
        self.attacked = int(self._attacked.sum())

    def clean(self, candidate: Candidate) -> Mask:
        """Return which of the samples are right."""
        return self.table.clean(candidate)[self.rows]

    def drop(self, candidate: Candidate) -> float:
        """Return how much accuracy a candidate costs."""
        lost = int(self.clean(0.0).sum()) - int(self.clean(candidate).sum())
        return lost / len(self.rows)

    def robust(self, candidates: Sequence[Candidate], count: int) -> dict[Any, Mask]:
        """Return which of the first attacked ones stay right under the attacks of the race."""
        found = self.table.raced(candidates)
        return {c: mask[self._attacked][:count] for c, mask in found.items()}

    def judged(self, candidate: Candidate) -> Mask:
        """Return which of the attacked ones stay right under the attacks of the judge."""
        return self.table.judged([candidate])[candidate][self._attacked]

    def under_all_attacks(self) -> "Judged":
        """Return the same samples, under the attacks of the judge."""
        return Judged(self.table, self.rows)


class Judged(Part):
    """Some samples of a table under the attacks of the judge."""

    def robust(self, candidates: Sequence[Candidate], count: int) -> dict[Any, Mask]:
        """Return which of the first attacked ones stay right."""
        return {candidate: self.judged(candidate)[:count] for candidate in candidates}


class Split:
    """Validation and test data, and the choice that is made on the first.

    Args:
        table: Of all samples.
        seed: Of the split.

    Attributes:
        validation: Half of the samples.
        test: The other half.
        strengths: What the product tries.

    Raises:
        DataError: The product would refuse the validation data: no strength is inside.
    """

    def __init__(self, table: Table, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(table.data.n)
        half = table.data.n // 2
        self.validation, self.test = Part(table, order[:half]), Part(table, order[half:])
        self.strengths = table.strengths(self.validation.rows)
        self._budget: Budget = table.settings.budget
        self._edge = boundary(self.strengths, self.validation, self._budget)
        if self._edge < 0:
            raise DataError("no jump meets the budget")

    @property
    def largest(self) -> float:
        """The largest strength that the validation data allow."""
        return self.strengths[self._edge]

    @cached_property
    def inside(self) -> list[float]:
        """All strengths inside the budget."""
        return [strength for strength in self.strengths if self._inside(strength)]

    @cached_property
    def raced(self) -> float:
        """The choice of the product."""
        raced = self.strengths[: self._edge + 1]
        race = Race(raced, self.validation, inside=self._inside)
        winner = race.run()
        if self.validation.table.settings.objective == "paper":
            return winner
        return confirmed(winner, race.smallest, self.validation.under_all_attacks())

    @cached_property
    def exhaustive(self) -> float:
        """The choice of a search that attacks all of them with everything."""
        right = {strength: int(self.validation.judged(strength).sum()) for strength in self.inside}
        return max(self.inside, key=lambda strength: (right[strength], -strength))

    @cached_property
    def walked(self) -> Refined:
        """What the changes of single sites come to."""
        start = (self.raced,) * self.validation.table.sites
        return refine(start, self.largest, self.validation, self._budget)

    @cached_property
    def refined(self) -> Refined:
        """What the product's refinement makes of its choice."""
        walked, start = self.walked, (self.raced,) * self.validation.table.sites
        judge = self.validation.under_all_attacks()
        if confirmed(walked.strengths, start, judge) == walked.strengths:
            return walked
        return dataclasses.replace(walked, strengths=start, taken=0)

    def compared(self, candidate: Candidate, other: Candidate) -> tuple[float, int]:
        """Compare two candidates under attack on the test data, paired.

        Returns:
            What part of the samples more the first leaves right; 1 or −1 where chance would not
            give that (McNemar's test, exact, two-sided), else 0.
        """
        ours, theirs = self.test.judged(candidate), self.test.judged(other)
        more, fewer = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        beyond = mcnemar(more, fewer) < SIGNIFICANCE
        return (more - fewer) / len(ours), int(np.sign(more - fewer)) * beyond

    def _inside(self, strength: float) -> bool:
        clean = self.validation.clean
        return self._budget.allows(clean(0.0), clean(strength))


def splits_of(table: Table, count: int) -> list[Split]:
    """Make the splits that the product would not refuse; their attacks are measured."""
    found = []
    for seed in range(count):
        try:
            found.append(Split(table, seed))
        except DataError:
            continue
    inside = [0.0, *sorted({strength for split in found for strength in split.inside})]
    # In this order: the race is not to gain by the points of attacks that it does without.
    table.raced(inside)
    return found


def choice_row(case: Case, count: int) -> str:
    """Measure a network; return the row of the table of choices."""
    table = Table(case)
    splits = splits_of(table, count)
    table.judged([0.0, *sorted({strength for split in splits for strength in split.inside})])
    raced, exhaustive = [split.raced for split in splits], [split.exhaustive for split in splits]
    smallest = [split.strengths[0] for split in splits]
    cells = [case.network.name, case.scale, case.objective, *sizes(case, table, splits, count)]
    for choices in (raced, exhaustive):
        low, middle, high = np.quantile(choices, [0.05, 0.5, 0.95])
        larger = sum(a > b for a, b in zip(choices, smallest, strict=True))
        cells += [f"{middle:.3g} ({low:.3g} to {high:.3g})", str(larger)]
    cells.append(str(sum(a == b for a, b in zip(raced, exhaustive, strict=True))))
    cells += kept(case, [split.test.drop(split.raced) for split in splits])
    cells.append(kept(case, [split.test.drop(split.largest) for split in splits])[0])
    for of in (zero, chosen):
        cells.append(f"{np.mean([split.test.judged(of(split)).mean() for split in splits]):.1%}")
    cells += compared([split.compared(split.raced, split.exhaustive) for split in splits])
    return "| " + " | ".join(cells) + " |"


def refined_row(case: Case, count: int) -> str:
    """Measure a network; return the row of the table of refinements."""
    table = Table(case)
    splits = splits_of(table, count)
    walked = {split.walked.strengths for split in splits}
    starts = {split.raced for split in splits}
    table.judged([0.0, *starts, *((start,) * table.sites for start in starts), *walked])
    refined = [split.refined for split in splits]
    cells = [case.network.name, case.scale, case.objective, *sizes(case, table, splits, count)]
    cells += [str(table.sites), f"{np.mean([r.tried for r in refined]):.1f}"]
    cells += [f"{np.mean([r.taken for r in refined]):.1f}", str(sum(r.taken > 0 for r in refined))]
    cells += kept(case, [split.test.drop(split.refined.strengths) for split in splits])
    for of in (zero, chosen, lambda split: split.refined.strengths):
        cells.append(f"{np.mean([split.test.judged(of(split)).mean() for split in splits]):.1%}")
    cells += compared([split.compared(split.refined.strengths, split.raced) for split in splits])
    return "| " + " | ".join(cells) + " |"


def zero(split: Split) -> Candidate:
    """Return the network before hardening."""
    return 0.0


def chosen(split: Split) -> Candidate:
    """Return the choice of the product, before any refinement."""
    return split.raced


def sizes(case: Case, table: Table, splits: Sequence[Split], count: int) -> list[str]:
    """Say how many samples, and how many splits."""
    halves = f"{table.data.n // 2} / {table.data.n - table.data.n // 2}"
    attacked = [split.test.attacked for split in splits]
    both = f"{min(attacked)} to {max(attacked)}"
    return [halves, both, f"{case.max_drop:g}", f"{len(splits)} of {count}"]


def kept(case: Case, drops: Sequence[float]) -> list[str]:
    """Say in how many splits a drop is inside the budget, and how large drops are, in points."""
    inside = sum(drop <= case.max_drop for drop in drops)
    return [
        f"{inside} of {len(drops)}",
        f"{100 * np.mean(drops):+.2f} (at most {100 * max(drops):+.2f})",
    ]


def compared(found: Sequence[tuple[float, int]]) -> list[str]:
    """Say what differences there are, in points, and in how many splits chance would not do."""
    gaps = 100 * np.array([gap for gap, _ in found])
    low, high = np.quantile(gaps, [0.05, 0.95])
    signs = [sign for _, sign in found]
    return [
        f"{gaps.mean():+.2f} ({low:+.1f} to {high:+.1f})",
        str(signs.count(-1)),
        str(signs.count(1)),
    ]


# In most of its splits the budget ends at a sixteenth of where it does for all samples together.
FINER = {"resnet20_pgd": 160}

CHOICES = (
    Case(network=DIGITS, attacked=899),
    Case(network=DIGITS, attacked=899, scale="quantile"),
    Case(network=DIGITS, attacked=899, objective="paper"),
    Case(network=DIGITS_PGD, attacked=899),
    *(
        Case(network=digits_network(name), attacked=450, steps=FINER.get(name, 20))
        for trained in ("", "_pgd")
        for name in (f"{architecture}{trained}" for architecture in ARCHITECTURES)
    ),
    Case(network=LENET, attacked=800),
    Case(network=LENET, attacked=800, scale="quantile"),
    Case(network=LENET, attacked=800, objective="paper"),
    Case(network=LENET, attacked=800, objective="paper", max_drop=0.05),
    Case(network=LENET, attacked=800, objective="paper", scale="quantile"),
    Case(network=RESNET, attacked=320, steps=20),
    Case(network=RESNET, attacked=400, steps=20, objective="paper"),
)
# A refinement's budget is corrected for all it may try, for which 450 digits are too few at 0.01.
REFINEMENTS = (
    Case(network=DIGITS, attacked=899, max_drop=0.02, steps=20),
    Case(network=DIGITS_PGD, attacked=899, max_drop=0.02, steps=20),
    Case(network=LENET, attacked=800, steps=20),
)

SIZES = ("network", "scale", "objective", "validation / test", "attacked each", "max_drop")
CHOICE_COLUMNS = (
    *SIZES,
    "splits not refused",
    "choice: median (5 % to 95 %)",
    "not the smallest",
    "exhaustive: median (5 % to 95 %)",
    "not the smallest",
    "the same choice",
    "inside on test data",
    "drop, mean points",
    "inside at the largest strength allowed",
    "robust before",
    "robust at the choice",
    "choice less exhaustive, mean points (5 % to 95 %)",
    "splits significantly worse",
    "better",
)
REFINED_COLUMNS = (
    *SIZES,
    "splits not refused",
    "sites",
    "changes tried, mean",
    "taken, mean",
    "splits with one taken",
    "inside on test data",
    "drop, mean points",
    "robust before",
    "robust at the choice",
    "robust refined",
    "refined less choice, mean points (5 % to 95 %)",
    "splits significantly worse",
    "better",
)

NOTE = """\
The choice is the product's, made on the validation half alone: strengths as `calibrate` brackets
them there, rounded to multiples of a step so that all splits share their measurements (a fortieth
of the largest strength that all samples together would try; a twentieth for ResNet-20, the five
architectures of the paper on digits, and refinements; a 160th for digits_resnet20_pgd, in most of
whose splits the budget ends at a sixteenth of where it does for all); bisection for the edge of the
budget; a race on smooth gates, whose winner must beat the smallest that raced under all attacks, or
a race on native gradients for the objective `paper`.
The exhaustive choice leaves most validation samples right under all attacks (native gradients for
`paper`), among all strengths inside the budget. Everything else is measured on the test half,
robustness under all attacks (native gradients for `paper`). A split is significantly worse where
McNemar's exact test, two-sided and not corrected for the number of splits, has p < 0.05. Splits
share their samples, so that their counts are not independent.
"""

REFINED_NOTE = """\
The same splits with the product's refinement after the race: a strength for each site, changes
judged on 256 samples under the attacks of the race, what they come to kept where it is better under
all attacks. Compared on the test half with the choice before it. ResNet-20 with its 19 sites was
not run.
"""


def table_of(
    columns: Sequence[str], cases: Sequence[Case], row: Callable[[Case, int], str], splits: int
) -> list[str]:
    """Measure and print the rows of a table; return its lines."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    print("\n".join(lines), flush=True)
    for case in cases:
        lines.append(row(case, splits))
        print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [
        [case for case in cases if options.only.lower() in case.network.name.lower()]
        for cases in (CHOICES, REFINEMENTS)
    ]
    files = [file for cases in kinds for case in cases for file in case.network.files]
    seeds = f"Seed {SEED} of attacks and samples, 0 to {options.splits - 1} of splits."
    lines = ["# Calibrated jumps on data that the calibration has not seen", ""]
    lines += [*provenance(files, seeds), NOTE]
    print("\n".join(lines), flush=True)
    lines += table_of(CHOICE_COLUMNS, kinds[0], choice_row, options.splits)
    print(REFINED_NOTE, flush=True)
    lines += ["## Refined per site", "", REFINED_NOTE]
    lines += table_of(REFINED_COLUMNS, kinds[1], refined_row, options.splits)
    if options.write:
        publish(RESULT, lines)


if __name__ == "__main__":
    main()
