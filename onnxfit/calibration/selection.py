"""Choose a jump by what was measured: no model, no data, only which samples stay right.

A *strength* is one number that sets the jumps of all sites; 0 is the network before hardening.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxfit.verification.statistics import SHARE_OF_GAINED, drop_limit, paired_difference

Mask = NDArray[np.bool_]
# A strength, or one for each site.
Candidate = TypeVar("Candidate")

# Samples of the first heat of a race; each heat has twice as many as the one before.
FIRST_HEAT = 64
# Candidates of the first heat; the others join beside those that stay.
FIRST_CANDIDATES = 5


class Measured(Protocol):
    """What a choice rests on: candidates are strengths, or one strength for each site.

    Attributes:
        attacked: How many samples the attacks may use.
    """

    attacked: int

    def clean(self, candidate: Any, /) -> Mask:
        """Return which of all samples are right, N booleans."""

    def robust(self, candidates: Sequence[Any], count: int, /) -> dict[Any, Mask]:
        """Return which of the first samples stay right under attack, ``count`` booleans each."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a jump may cost.

    Attributes:
        max_drop: Largest drop of the accuracy.
        confidence: With which it must be no larger, one-sided.
        labels: Of the samples; None where only their number counts.
    """

    max_drop: float = 0.01
    confidence: float = 0.95
    labels: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: One is out of its range.
        """
        if not 0 < self.max_drop < 1:
            raise ValueError(f"expected a max_drop between 0 and 1, got {self.max_drop}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"expected a confidence from 0.5 to below 1, got {self.confidence}")

    @property
    def samples_needed(self) -> int:
        """The least number of samples that can show it, if not one of them is lost."""
        risk = (1 - self.confidence) * (1 - SHARE_OF_GAINED)
        n = max(1, math.ceil(math.log(risk) / math.log1p(-self.max_drop)) - 1)
        while drop_limit(0, 0, n, self.confidence) > self.max_drop:
            n += 1
        return n

    def limit(self, before: Mask, after: Mask) -> float:
        """Return an upper limit of the drop, paired, from which samples are right."""
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        return drop_limit(lost, gained, len(before), self.confidence)

    def allows(self, before: Mask, after: Mask) -> bool:
        """Say whether the drop is inside the budget.

        Where labels are known, a network that is right for samples of one class alone is not, if
        it was for several: it tells nothing apart, however seldom the others are.
        """
        if self._classes(before) > 1 and self._classes(after) < 2:
            return False
        return self.limit(before, after) <= self.max_drop

    def _classes(self, right: Mask) -> int:
        """Return how many classes there are among some samples."""
        return 0 if self.labels is None else len(np.unique(self.labels[right]))


def last_inside(count: int, inside: Callable[[int], bool]) -> int:
    """Find by bisection the last of so many places that is inside, the first ones being so.

    Returns:
        Its number; −1 where the first is not inside.
    """
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        if inside(middle):
            low = middle
        else:
            high = middle
    return low


def boundary(strengths: Sequence[float], measured: Measured, budget: Budget) -> int:
    """Return the number of a strength inside the budget whose next is outside, −1 for none.

    Bisection finds the largest one inside where larger ones cost more accuracy. By chance they may
    cost less, so that smaller ones have to be asked for themselves; and all of them, where
    bisection finds none.

    Args:
        strengths: Above 0, in order.
        measured: Tells which samples are right.
        budget: What may be lost.
    """
    before = measured.clean(0.0)

    def inside(i: int) -> bool:
        return budget.allows(before, measured.clean(strengths[i]))

    found = last_inside(len(strengths), inside)
    return found if found >= 0 else max(filter(inside, range(len(strengths))), default=-1)


@dataclass
class Race:
    """Candidates that are compared on ever more samples until the best is left.

    The first heat has a few candidates, spread evenly over all. A candidate stays while it may
    still be the best: the upper limit of its paired difference to the leader is not below 0, and
    it is among the better half. Then the neighbours of those that stay join, ever closer ones. So
    few are measured on all samples: the last one or two where there is a clear peak, more where
    all are alike; and the network before hardening. A peak of a single candidate may be missed.

    Attributes:
        strengths: The candidates, above 0 and in order.
        measured: Tells which samples stay right.
        inside: Says whether a candidate is inside the budget; asked when it would join.
        confidence: Of the limit by which a candidate is dropped, two-sided.
        heard: Is told after every heat of the samples so far and the candidates that are left.
        robust: Of each strength that took part: which of its samples stayed right.
    """

    strengths: Sequence[float]
    measured: Measured
    inside: Callable[[float], bool] = lambda strength: True
    confidence: float = 0.95
    heard: Callable[[int, Sequence[float]], object] = lambda count, left: None
    robust: dict[float, Mask] = field(default_factory=dict)

    def run(self) -> float:
        """Run all heats; return the strength that keeps most samples right, the smaller of two."""
        last, counts = len(self.strengths) - 1, heats(self.measured.attacked)
        tried, spacing = first_candidates(len(self.strengths), self.measured.attacked)
        running = self._joining(tried)
        for count in counts:
            self._measure([0.0, *(self.strengths[i] for i in running)], count)
            is_last = count == self.measured.attacked
            running = self._stay(running, len(running) if is_last else math.ceil(len(running) / 2))
            if is_last:
                break
            self.heard(count, [self.strengths[i] for i in running])
            spacing = max(1, spacing // 2)
            beside = {i + step for i in running for step in (-spacing, spacing)}
            new = {i for i in beside if 0 <= i <= last} - tried
            tried |= new
            running = sorted({*running, *self._joining(new)})
        return self.strengths[self._leader(running)]

    @property
    def smallest(self) -> float:
        """The smallest strength that took part."""
        return min(strength for strength in self.robust if strength > 0)

    def _joining(self, numbers: Iterable[int]) -> list[int]:
        return sorted(i for i in numbers if self.inside(self.strengths[i]))

    def _measure(self, strengths: Iterable[float], count: int) -> None:
        found = self.measured.robust(list(strengths), count)
        self.robust.update(found)

    def _leader(self, running: Sequence[int]) -> int:
        return max(running, key=lambda i: (int(self.robust[self.strengths[i]].sum()), -i))

    def _stay(self, running: Sequence[int], most: int) -> list[int]:
        """Return the candidates that may still be the best, at most so many."""
        best = self.robust[self.strengths[self._leader(running)]]
        may = [i for i in running if self._may_be_better(self.robust[self.strengths[i]], best)]
        order = sorted(may, key=lambda i: (-int(self.robust[self.strengths[i]].sum()), i))
        return sorted(order[:most])

    def _may_be_better(self, robust: Mask, best: Mask) -> bool:
        more, fewer = int((robust & ~best).sum()), int((best & ~robust).sum())
        return paired_difference(more, fewer, len(best), self.confidence)[1] >= 0


def confirmed(candidate: Candidate, instead: Candidate, everything: Measured) -> Candidate:
    """Return a candidate if under all attacks it beats another one, else that.

    A race has few attacks, and so has a refinement. A candidate may be ahead by what it hides from
    these alone.

    Args:
        candidate: The winner of a race, or refined strengths.
        instead: The smallest strength that raced, or what the refinement began with.
        everything: Tells which samples stay right under all attacks.
    """
    found = everything.robust([instead, candidate], everything.attacked)
    return candidate if found[candidate].sum() > found[instead].sum() else instead


def first_candidates(count: int, attacked: int) -> tuple[set[int], int]:
    """Return the numbers of the candidates of the first heat, and how far apart they are.

    Where few heats follow, they are so close that all between them can join.

    Args:
        count: How many candidates there are.
        attacked: How many samples the attacks may use.
    """
    widest = 2 ** (len(heats(attacked)) - 1)
    spacing = min(widest, max(1, round((count - 1) / (FIRST_CANDIDATES - 1))))
    return {*range(0, count, spacing), count - 1}, spacing


def heats(attacked: int) -> list[int]:
    """Return the numbers of samples of the heats of a race, each twice the one before."""
    counts = []
    count = FIRST_HEAT
    while count < attacked:
        counts.append(count)
        count *= 2
    return [*counts, attacked]
