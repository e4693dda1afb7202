"""The refinement spends the budget on the sites whose jumps buy most, and never on others."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from onnxfit.calibration.refinement import (
    JUDGED_ON,
    LARGER,
    Attribution,
    Refined,
    Strengths,
    corrected,
    refine,
)
from onnxfit.calibration.selection import Budget, Mask

N = 1000
ATTACKED = 300
BUDGET = Budget(max_drop=0.02)


def most_lost(budget: Budget) -> int:
    """Return the largest number of samples that a budget allows to lose."""
    before = np.ones(N, bool)
    return next(k for k in range(N) if not budget.allows(before, np.arange(N) > k))


@dataclass
class Network:
    """A network whose sites act apart from each other.

    Attributes:
        buys: How many attacked samples a strength of 1 keeps right, of each site.
        costs: How many of all samples it loses.
        saturates: A larger strength of a site buys and costs no more than this one.
        attacked: How many samples the attacks may use.
        asked: Of how many samples each candidate was measured.
    """

    buys: Sequence[float]
    costs: Sequence[float]
    saturates: float = float("inf")
    attacked: int = ATTACKED
    asked: dict[Strengths, int] = field(default_factory=dict)

    def lost(self, candidate: Strengths) -> int:
        """Return how many samples a candidate loses."""
        return 50 + round(self._sum(self.costs, candidate))

    def right(self, candidate: Strengths) -> int:
        """Return how many of the samples that are judged on stay right."""
        return 100 + round(self._sum(self.buys, candidate))

    def clean(self, candidate: Strengths) -> Mask:
        """Return which of all samples are right."""
        return np.arange(N) >= self.lost(candidate)

    def robust(self, candidates: Sequence[Strengths], count: int) -> dict[Strengths, Mask]:
        """Return which of the first samples stay right."""
        self.asked |= dict.fromkeys(candidates, count)
        return {candidate: np.arange(count) < self.right(candidate) for candidate in candidates}

    def _sum(self, weights: Sequence[float], candidate: Strengths) -> float:
        together = zip(weights, candidate, strict=True)
        return sum(weight * min(strength, self.saturates) for weight, strength in together)


def refined(network: Network, start: Strengths = (1.0, 1.0, 1.0), edge: float = 1.5) -> Refined:
    """Refine and check what holds of every refinement."""
    found = refine(start, edge, network, BUDGET)
    before = network.clean((0.0,) * len(start))
    assert any(found.strengths)
    assert network.right(found.strengths) >= network.right(start)
    assert found.strengths == start or BUDGET.allows(before, network.clean(found.strengths))
    assert 0 <= found.taken <= found.tried <= len(LARGER) * len(start)
    assert (found.taken == 0) == (found.strengths == start)
    assert {found.judged_on} == set(network.asked.values())
    return found


def test_a_site_that_buys_is_hardened_more_and_one_that_costs_not_at_all() -> None:
    """The middle one costs robustness, the last one does nothing."""
    found = refined(Network(buys=(10, -5, 0), costs=(1, 1, 1)))
    assert (3.0, 0.0, 1.0) == found.strengths
    assert (1.5, 256) == (found.edge, found.judged_on)
    assert (3, 3) == (found.tried, found.taken)


def test_the_budget_is_spent_where_it_buys_most() -> None:
    """What is left of it goes to the second site, though the first would buy too."""
    network = Network(buys=(5, 20, 0), costs=(3, 4, 0))
    found = refined(network)
    assert (1.0, 1.5, 1.0) == found.strengths
    assert 59 == network.lost(found.strengths)
    cheap = refined(Network(buys=(5, 20, 0), costs=(1, 1, 0)))
    assert (3.0, 3.0, 1.0) == cheap.strengths


def test_of_sites_that_buy_alike_the_cheaper_one_is_first() -> None:
    """There is room for only one of them."""
    found = refined(Network(buys=(10, 10), costs=(5, 2.5)), start=(1.0, 1.0))
    assert (1.0, 1.5) == found.strengths
    found = refined(Network(buys=(10, 10), costs=(2.5, 5)), start=(1.0, 1.0))
    assert (1.5, 1.0) == found.strengths


@pytest.mark.parametrize("buys", [(0, 0, 0), (10, 10, 10)])
def test_where_nothing_is_better_the_start_stays(buys: tuple[int, int, int]) -> None:
    """Neither where jumps do nothing, nor where more of them buys no more."""
    found = refined(Network(buys=buys, costs=(1, 1, 1), saturates=1.0))
    assert (1.0, 1.0, 1.0) == found.strengths
    assert 0 == found.taken


def test_what_is_outside_the_budget_is_not_taken_and_not_attacked() -> None:
    """The start takes all of the budget."""
    network = Network(buys=(10, 10, 10), costs=(4, 4, 4))
    found = refined(network)
    assert (1.0, 1.0, 1.0) == found.strengths
    assert (6, 0) == (found.tried, found.taken)
    assert 5 == len(network.asked)


@pytest.mark.parametrize("sites", [1, 2, 4])
def test_the_network_before_hardening_is_never_taken(sites: int) -> None:
    """Though it is the best where every jump costs robustness: one jump stays."""
    start = (1.0,) * sites
    found = refined(Network(buys=(-5,) * sites, costs=(1,) * sites), start)
    assert sites - 1 == sorted(found.strengths).count(0.0)
    assert 1.0 == max(found.strengths)


def test_no_strength_is_as_large_as_the_highest() -> None:
    """A quantile of 1 would zero everything."""
    network = Network(buys=(10, 10), costs=(0, 0))
    found = refine((0.4, 0.4), 0.5, network, BUDGET, highest=1.0)
    assert (0.5, 0.5) == found.strengths
    assert 1.0 not in {strength for candidate in network.asked for strength in candidate}


def test_a_site_is_never_made_smaller_but_zero() -> None:
    """The edge may be below the start, where a larger jump cost less by chance."""
    found = refined(Network(buys=(10, 10, 10), costs=(0, 0, 0)), start=(2.0, 2.0, 2.0), edge=1.5)
    assert (3.0, 3.0, 3.0) == found.strengths
    assert 3 == found.tried


@pytest.mark.parametrize("attacked", [1, 100, 256, 1000])
def test_changes_are_judged_on_some_samples(attacked: int) -> None:
    """On 256 of them, or on all where they are fewer."""
    found = refined(Network(buys=(10, -5, 0), costs=(1, 1, 1), attacked=attacked))
    assert min(attacked, JUDGED_ON) == found.judged_on == len(found.attribution[0].robust)


def test_each_site_is_hardened_alone_at_the_edge() -> None:
    """The attribution is in the order of the sites, against the network before hardening."""
    network = Network(buys=(10, -4, 0), costs=(2, 0, -4))
    found = refined(network)
    assert [15, -6, 0] == [site.buys for site in found.attribution]
    assert [3, 0, -6] == [site.costs for site in found.attribution]
    for site, alone in zip(found.attribution, [(1.5, 0, 0), (0, 1.5, 0), (0, 0, 1.5)], strict=True):
        np.testing.assert_array_equal(network.clean(alone), site.clean)
        np.testing.assert_array_equal(network.clean((0, 0, 0)), site.clean_without)
        assert JUDGED_ON == len(site.robust) == len(site.robust_without)


def test_an_attribution_counts_what_is_gained_less_what_is_lost() -> None:
    """Samples that change sides in both directions cancel."""
    found = Attribution(
        clean=np.array([True, False, False, True]),
        clean_without=np.array([False, True, True, True]),
        robust=np.array([True, True, False]),
        robust_without=np.array([False, False, True]),
    )
    assert (1, 1) == (found.buys, found.costs)


def test_a_single_site_has_the_start_of_the_race_as_its_own() -> None:
    """Where the start is the edge, the site alone is the start."""
    found = refined(Network(buys=(10,), costs=(1,)), start=(1.5,), edge=1.5)
    assert (3.0,) == found.strengths
    assert (15, 2) == (found.attribution[0].buys, found.attribution[0].costs)


def test_the_budget_is_corrected_for_what_may_be_tried() -> None:
    """With three sites seven candidates share the risk: 9 samples may be lost, not 12."""
    assert 1 - 0.05 / 7 == pytest.approx(corrected(BUDGET, 3).confidence)
    assert BUDGET.max_drop == corrected(BUDGET, 3).max_drop
    assert (12, 9) == (most_lost(BUDGET), most_lost(corrected(BUDGET, 3)))
    assert BUDGET.samples_needed < corrected(BUDGET, 3).samples_needed


@pytest.mark.parametrize(("cost", "strength"), [(8.0, 1.0), (6.0, 1.5)])
def test_no_change_is_inside_by_chance(cost: float, strength: float) -> None:
    """A change that a single candidate could make is not taken where many are tried."""
    found = refined(Network(buys=(10,), costs=(cost,), saturates=1.5), start=(1.0,))
    assert cost * 1.5 <= most_lost(BUDGET)
    assert (strength,) == found.strengths
