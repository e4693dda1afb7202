"""Give each site a strength of its own: spend the budget where it buys most.

First every site is hardened alone, as far as the budget allows for all of them together: that tells
what its jump buys and costs. Then jumps that cost robustness are taken out and those that buy most
are made larger, as long as more samples stay right under attack and the budget holds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxfit.calibration.selection import Budget, Mask, Measured

# Samples that changes of a single site are judged on: all of them would take an attack each.
JUDGED_ON = 256
# A site alone may go farther than all together; in times of that.
LARGER = (1.0, 2.0)

# The strength of each site, in order.
Strengths = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What the jump of one site does, where no other site has one.

    Attributes:
        clean: Which of all samples are right with it.
        clean_without: Which are right before hardening.
        robust: Which of the first attacked samples stay right under attack with it.
        robust_without: Which stay right before hardening.
    """

    clean: Mask
    clean_without: Mask
    robust: Mask
    robust_without: Mask

    @property
    def buys(self) -> int:
        """How many more stay right under attack with it; negative where it costs robustness."""
        return int(self.robust.sum()) - int(self.robust_without.sum())

    @property
    def costs(self) -> int:
        """How many more of all samples are wrong with it; negative where it helps."""
        return int(self.clean_without.sum()) - int(self.clean.sum())


@dataclass(frozen=True, kw_only=True)
class Refined:
    """What a refinement found.

    Attributes:
        strengths: Of each site; those it began with where nothing was better.
        edge: The strength at which each site was hardened alone.
        attribution: What each of them did.
        judged_on: How many attacked samples single changes were judged on.
        tried: How many changes were tried.
        taken: How many were taken.
    """

    strengths: Strengths
    edge: float
    attribution: tuple[Attribution, ...]
    judged_on: int
    tried: int
    taken: int


def refine(
    start: Strengths,
    edge: float,
    measured: Measured,
    budget: Budget,
    highest: float = float("inf"),
) -> Refined:
    """Look for better strengths of single sites.

    Args:
        start: The strength of each site.
        edge: The largest strength that the budget allows for all sites together.
        measured: Tells which samples are right.
        budget: What may be lost.
        highest: No strength may be as large.
    """
    count = min(JUDGED_ON, measured.attacked)
    plain = _changed(start, None, 0.0)
    alone = [_changed(plain, i, edge) for i in range(len(start))]
    robust = measured.robust([plain, start, *alone], count)
    attribution = tuple(
        Attribution(
            clean=measured.clean(other),
            clean_without=measured.clean(plain),
            robust=robust[other],
            robust_without=robust[plain],
        )
        for other in alone
    )
    walk = _Walk(start, measured, corrected(budget, len(start)), count)
    order = sorted(range(len(start)), key=lambda i: (attribution[i].buys, -attribution[i].costs))
    for i in order:
        if attribution[i].buys < 0:
            walk.offer(_changed(walk.strengths, i, 0.0))
    for i in reversed(order):
        if attribution[i].buys > 0:
            for factor in LARGER:
                if start[i] < factor * edge < highest:
                    walk.offer(_changed(walk.strengths, i, factor * edge))
    return Refined(
        strengths=walk.strengths,
        edge=edge,
        attribution=attribution,
        judged_on=count,
        tried=walk.tried,
        taken=walk.taken,
    )


def corrected(budget: Budget, sites: int) -> Budget:
    """Return the budget that every candidate of a refinement must meet.

    Its confidence is higher, so that with the budget's own none of those that may be tried is taken
    by chance (Bonferroni).
    """
    tried = 1 + sites * len(LARGER)
    return replace(budget, confidence=1 - (1 - budget.confidence) / tried)


class _Walk:
    """Steps from candidate to candidate, each better than the last one and inside the budget."""

    def __init__(self, start: Strengths, measured: Measured, budget: Budget, count: int) -> None:
        self.strengths = start
        self.tried = self.taken = 0
        self._measured, self._count = measured, count
        before = measured.clean(_changed(start, None, 0.0))
        self._inside: Callable[[Strengths], bool] = lambda candidate: budget.allows(
            before, measured.clean(candidate)
        )

    def offer(self, candidate: Strengths) -> None:
        """Take a candidate if it is better."""
        self.tried += 1
        if any(candidate) and self._inside(candidate):
            found = self._measured.robust([self.strengths, candidate], self._count)
            if int(found[candidate].sum()) > int(found[self.strengths].sum()):
                self.strengths = candidate
                self.taken += 1


def _changed(strengths: Strengths, site: int | None, strength: float) -> Strengths:
    """Return strengths with that of one site changed; None for all sites."""
    return tuple(strength if site in (None, i) else old for i, old in enumerate(strengths))
