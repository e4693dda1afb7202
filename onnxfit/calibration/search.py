"""The search for the jumps: strengths, a race, a refinement, the curve, the comparison."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from onnxfit.calibration.at_most import Amounts, AtMost
from onnxfit.calibration.curve import Attacked, measure_curve
from onnxfit.calibration.document import Findings, Heat
from onnxfit.calibration.refinement import Refined, refine
from onnxfit.calibration.selection import Budget, Race, boundary, confirmed
from onnxfit.calibration.settings import Settings
from onnxfit.calibration.strengths import MOST_ASKED, strengths_to_try
from onnxfit.calibration.work import Work
from onnxfit.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """How jumps are searched for.

    Attributes:
        settings: The budget, the scale, and more.
        sites: How many sites there are.
        budget: What a jump may cost.
        first_strength: What to try first, where the settings name no strengths.
        highest_strength: What is the largest then.
        at_most: Says how much is left.
        work: Is told of it before each phase.
    """

    settings: Settings
    sites: int
    budget: Budget
    first_strength: float
    highest_strength: float
    at_most: AtMost
    work: Work

    def run(self, measured: Attacked) -> Findings:
        """Find the jumps inside the budget that keep most samples right, and measure the curve.

        Args:
            measured: Tells which samples stay right.

        Raises:
            DataError: No jump is inside.
        """
        strengths = self._strengths(measured)
        self._next("edge of the budget", self.at_most.search)
        edge = boundary(strengths, measured, self.budget)
        if edge < 0:
            raise DataError(f"no jump meets the budget, not even at the strength {strengths[0]:g}")
        race, heats = self._race(strengths[: edge + 1], measured)
        winner = race.run()
        heats.append((measured.attacked, [winner]))
        # The paper's objective goes by native gradients to the end.
        doubted = winner != race.smallest and self.settings.objective != "paper"
        if doubted:
            self._next("confirmation", self.at_most.confirmation)
            chosen = confirmed(winner, race.smallest, measured.with_all_attacks())
        else:
            chosen = winner
        refined = self._refined(chosen, strengths[edge], measured) if self.settings.refine else None
        candidate = chosen if refined is None else refined.strengths
        self._next("curve", self.at_most.curve)
        curve = measure_curve(strengths, race, chosen, measured)
        # After the curve, whose adversarial points are tried on both.
        self._next("comparison", self.at_most.comparison, doubted)
        worst = measured.with_all_attacks().robust([0.0, candidate], measured.attacked)
        return Findings(
            curve=curve,
            chosen=[point.strength for point in curve].index(chosen),
            smallest=chosen == strengths[0] and edge > 0 and not (refined and refined.taken),
            candidate=candidate,
            # For each strength inside, what its refinement would have found.
            candidates=(edge + 1) * (1 if refined is None else 2),
            clean=measured.clean(candidate),
            worst=(worst[0.0], worst[candidate]),
            heats=heats,
            refined=refined,
        )

    def _next(self, phase: str, left: Callable[..., Amounts], *known: int) -> None:
        """Tell what is done next, and how much is left from there on."""
        self.work.expect(functools.partial(left, *known), phase)

    def _strengths(self, measured: Attacked) -> list[float]:
        """Return what to try."""
        settings = self.settings
        if settings.strengths is not None:
            return [float(strength) for strength in settings.strengths]
        self._next("strengths to try", self.at_most.search, MOST_ASKED)
        before = measured.clean(0.0)
        return strengths_to_try(
            settings.scale,
            self.first_strength,
            self.highest_strength,
            settings.points,
            lambda strength: self.budget.allows(before, measured.clean(strength)),
        )

    def _race(self, strengths: Sequence[float], measured: Attacked) -> tuple[Race, list[Heat]]:
        """Prepare a race; return it and the list of its heats, which it fills."""
        heats: list[Heat] = []
        budget, before = self.budget, measured.clean(0.0)

        def heard(count: int, left: Sequence[float]) -> None:
            heats.append((count, left))
            # The network before hardening races too, and is none of the strengths.
            untried = len(strengths) - (len(race.robust) - 1)
            self._next(f"race, {count} samples", self.at_most.heat, count, len(left), untried)

        race = Race(
            strengths,
            measured,
            # A larger jump may cost less by chance, so that bisection alone is not enough.
            inside=lambda strength: budget.allows(before, measured.clean(strength)),
            heard=heard,
        )
        self._next("race", self.at_most.begin, len(strengths))
        return race, heats

    def _refined(self, chosen: float, edge: float, measured: Attacked) -> Refined:
        """Look for a strength of each site, and keep them if they are better under all attacks."""
        self._next("refinement", self.at_most.refinement)
        start = (chosen,) * self.sites
        highest = math.inf if self.settings.scale == "shared" else 1.0
        refined = refine(start, edge, measured, self.budget, highest)
        if not refined.taken:
            return refined
        judge = measured if self.settings.objective == "paper" else measured.with_all_attacks()
        if confirmed(refined.strengths, start, judge) == refined.strengths:
            return refined
        return dataclasses.replace(refined, strengths=start, taken=0)
