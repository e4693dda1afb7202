"""What a search takes as the choice, and what its test may rest on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxfit.calibration.at_most import AtMost
from onnxfit.calibration.document import Findings
from onnxfit.calibration.refinement import JUDGED_ON
from onnxfit.calibration.search import Search
from onnxfit.calibration.selection import Mask
from onnxfit.calibration.settings import Settings
from onnxfit.calibration.work import Work

SAMPLES, ATTACKED, SITES = 400, 300, 2
EQUAL, GAINED = 100, 10


@dataclass
class Table:
    """Measurements of a network whose sites are better apart, as far as two attacks see.

    Attributes:
        gained: How many more stay right under all attacks where sites differ.
        attacks: Which are used.
        attacked: How many samples they may use.
    """

    gained: int
    attacks: str = "smooth"
    attacked: int = ATTACKED

    def with_all_attacks(self) -> "Table":
        """Return the same with every attack."""
        return replace(self, attacks="all")

    def clean(self, candidate: Any) -> Mask:
        """Return a mask: no jump costs anything."""
        return np.ones(SAMPLES, np.bool_)

    def robust(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return masks: the more sites have another strength than the first one, the better."""
        more = GAINED if self.attacks == "smooth" else self.gained
        rows = np.arange(self.attacked)
        return {
            c: (rows < EQUAL + more * len(set(np.broadcast_to(c, SITES)) - {0.1}))[:count]
            for c in candidates
        }

    def native(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return the same."""
        return self.robust(candidates, count)


def search(table: Table, **settings: Any) -> Findings:
    """Search among three strengths."""
    chosen = Settings(strengths=(0.1, 0.2, 0.3), max_drop=0.05, **settings)
    stages: dict[Any, int] = {"native": 2, "smooth": 2, "all": 9}
    bound = AtMost(
        samples=SAMPLES, attacked=ATTACKED, strengths=3, sites=SITES, race="smooth", stages=stages
    )
    return Search(
        settings=chosen,
        sites=SITES,
        budget=chosen.budget,
        first_strength=0.5,
        highest_strength=1e9,
        at_most=bound,
        work=Work(),
    ).run(table)


@pytest.mark.parametrize(("gained", "taken"), [(1, True), (0, False), (-1, False)])
def test_refined_strengths_must_be_better_under_all_attacks(gained: int, taken: bool) -> None:
    """A refinement is made by two attacks, and may win by what it hides from these."""
    found = search(Table(gained), refine=True)
    assert found.refined is not None
    assert found.refined.tried > 0
    assert taken == (found.refined.taken > 0) == (len(set(found.refined.strengths)) > 1)
    assert found.refined.strengths == found.candidate


def test_the_paper_refines_by_native_gradients_alone() -> None:
    """As it chooses by them."""
    refined = search(Table(-1), refine=True, objective="paper").refined
    assert refined is not None
    assert refined.taken > 0


def test_refined_strengths_are_tested_by_samples_that_they_were_not_made_by() -> None:
    """There are as many candidates as strengths, and each of them refined."""
    refined = search(Table(1), refine=True)
    assert slice(JUDGED_ON, None) == refined.tested
    assert 2 * 3 == refined.candidates
    untaken = search(Table(-1), refine=True)
    assert slice(0, None) == untaken.tested
    assert 2 * 3 == untaken.candidates
    plain = search(Table(1))
    assert slice(0, None) == plain.tested
    assert 3 == plain.candidates
