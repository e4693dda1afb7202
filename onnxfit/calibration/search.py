"""The search for the jumps: strengths to try, a race, a refinement, the curve, the comparison."""

import dataclasses
import math
from collections.abc import Sequence

from onnxfit.calibration.curve import Attacked, measure_curve
from onnxfit.calibration.document import Findings
from onnxfit.calibration.refinement import Refined, refine
from onnxfit.calibration.selection import Race, boundary
from onnxfit.calibration.settings import Settings
from onnxfit.calibration.strengths import strengths_to_try
from onnxfit.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """How jumps are searched for.

    Attributes:
        settings: The budget, the scale, and more.
        sites: How many sites there are.
        first: A strength to try first, where the settings name none.
    """

    settings: Settings
    sites: int
    first: float

    def run(self, measured: Attacked) -> Findings:
        """Find the jumps inside the budget that keep most samples right, and measure the curve.

        Args:
            measured: Tells which samples stay right.

        Raises:
            DataError: No jump is inside.
        """
        strengths = self._strengths(measured)
        budget, before = self.settings.budget, measured.clean(0.0)
        edge = boundary(strengths, measured, budget)
        if edge < 0:
            raise DataError(f"no jump meets the budget, not even at the strength {strengths[0]:g}")
        heats: list[tuple[int, Sequence[float]]] = []
        race = Race(
            strengths[: edge + 1],
            measured,
            # A larger jump may cost less by chance, so that bisection alone is not enough.
            inside=lambda strength: budget.allows(before, measured.clean(strength)),
            heard=lambda count, left: heats.append((count, left)),
        )
        chosen = race.run()
        refined = self._refined(chosen, strengths[edge], measured) if self.settings.refine else None
        candidate = chosen if refined is None else refined.strengths
        curve = measure_curve(strengths, race, measured)
        # After the curve, whose adversarial points are tried on both.
        worst = measured.with_all_attacks().robust([0.0, candidate], measured.attacked)
        return Findings(
            curve=curve,
            chosen=[point.strength for point in curve].index(chosen),
            candidate=candidate,
            candidates=edge + 1 + (0 if refined is None else refined.tried),
            clean=measured.clean(candidate),
            worst=(worst[0.0], worst[candidate]),
            heats=heats,
            refined=refined,
        )

    def _strengths(self, measured: Attacked) -> list[float]:
        """Return what to try."""
        settings, before = self.settings, measured.clean(0.0)
        if settings.strengths is not None:
            return [float(strength) for strength in settings.strengths]
        return strengths_to_try(
            settings.scale,
            self.first,
            settings.points,
            lambda strength: settings.budget.allows(before, measured.clean(strength)),
        )

    def _refined(self, chosen: float, edge: float, measured: Attacked) -> Refined:
        """Look for a strength of each site; those that begin stay where all samples say so."""
        start = (chosen,) * self.sites
        highest = math.inf if self.settings.scale == "shared" else 1.0
        refined = refine(start, edge, measured, self.settings.budget, highest)
        found = measured.robust([start, refined.strengths], measured.attacked)
        if int(found[refined.strengths].sum()) > int(found[start].sum()):
            return refined
        return dataclasses.replace(refined, strengths=start, taken=0)
