"""How much work a search has left at most, before each of its phases."""

import functools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnxfit.calibration.curve import SHOWN
from onnxfit.calibration.measurements import COMMON, Attacks
from onnxfit.calibration.refinement import JUDGED_ON, LARGER
from onnxfit.calibration.selection import first_candidates, heats
from onnxfit.calibration.work import Kind

Amounts = Counter[Kind]


@dataclass(frozen=True, kw_only=True)
class AtMost:
    """Says how much of each kind of work is left at most, for a phase and all that follow.

    Attributes:
        samples: How many there are.
        attacked: How many of them attacks may use.
        strengths: How many are tried.
        sites: How many are refined; 0 for no refinement.
        race: The attacks that candidates are compared by.
        stages: How many attacks there are of each kind.
    """

    samples: int
    attacked: int
    strengths: int
    sites: int
    race: Attacks
    stages: Mapping[Attacks, int]

    def search(self, passes: int = 0) -> Amounts:
        """Return what is left before the edge of the budget is known.

        Args:
            passes: How many may be needed to find the strengths to try.
        """
        race = max(self._raced(inside) for inside in range(1, self.strengths + 1))
        return self._with(1 + passes + self.strengths, race) + self.confirmation()

    def begin(self, inside: int) -> Amounts:
        """Return what is left before a race of so many candidates."""
        return self._with(inside, self._raced(inside)) + self.confirmation()

    def heat(self, done: int, left: int, untried: int) -> Amounts:
        """Return what is left after a heat.

        Args:
            done: How many samples it had.
            left: How many candidates stay.
            untried: How many did not race yet.
        """
        race = _joining(self.attacked, done, left, untried)
        return self._with(untried, race) + self.confirmation()

    def confirmation(self) -> Amounts:
        """Return what is left after the race, whose winner may be compared with the smallest."""
        if self.race != "smooth":
            return self.refinement()
        winner, smallest = self._others, self.stages["all"]
        both: Amounts = Counter({"all": self.attacked * (winner + smallest)})
        return both + self.refinement()

    def refinement(self) -> Amounts:
        """Return what is left before a refinement: each site alone, and two offers for each.

        What it finds is compared with what it began with on all attacked samples, as the winner of
        a race is.
        """
        if not self.sites:
            return self.curve()
        candidates, judged = self.sites * (1 + len(LARGER)), min(JUDGED_ON, self.attacked)
        work = self._with(candidates, candidates * judged) + self.curve()
        if self.race == "smooth":
            work["all"] += self.attacked * (self._others + self.stages["all"])
        else:
            work[self.race] += (self.attacked - judged) * self.stages[self.race]
        return work

    def curve(self) -> Amounts:
        """Return what is left before the curve."""
        shown, common = min(SHOWN, self.strengths + 1), min(COMMON, self.attacked)
        every: Amounts = Counter({"all": shown * common * self._others})
        return self._with(shown, shown * common) + every + self.comparison()

    def comparison(self, confirmed: bool = False) -> Amounts:
        """Return what is left when two candidates are compared; refined ones are on no curve.

        Args:
            confirmed: The strength was chosen after all attacks on all samples.
        """
        known = common = min(COMMON, self.attacked)
        if not self.sites:
            known += self.attacked if confirmed else common
        return Counter({"all": (2 * self.attacked - known) * self._others})

    @property
    def _others(self) -> int:
        """How many attacks the race leaves to be made among all."""
        return self.stages["all"] - (self.stages["smooth"] if self.race == "smooth" else 0)

    def _with(self, passes: int, attacked: int) -> Amounts:
        """Return passes over all samples, and samples that are attacked as in the race."""
        return Counter(
            {"clean": passes * self.samples, self.race: attacked * self.stages[self.race]}
        )

    def _raced(self, inside: int) -> int:
        """Return how many samples a race attacks, the network before hardening included."""
        first, _ = first_candidates(inside, self.attacked)
        count = heats(self.attacked)[0]
        left = math.ceil(len(first) / 2)
        after = _joining(self.attacked, count, left, inside - len(first))
        return count * (len(first) + 1) + after


@functools.cache
def _joining(attacked: int, done: int, left: int, untried: int) -> int:
    """Return how many samples the heats after one attack, whichever candidates join when.

    Two may join beside each that stays. A candidate that joins late is attacked on more samples at
    once, so that as many as may join at once are not always the most work.
    """
    following = [count for count in heats(attacked) if count > done]
    if not following:
        return 0
    count = following[0]
    return max(
        (count - done) * (left + 1)
        + count * joining
        + _joining(attacked, count, math.ceil((left + joining) / 2), untried - joining)
        for joining in range(min(2 * left, untried) + 1)
    )
