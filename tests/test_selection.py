"""The choice among jumps: what a budget allows, bisection, and the race of candidates."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxfit.calibration.selection import (
    FIRST_HEAT,
    Budget,
    Mask,
    Race,
    boundary,
    confirmed,
    heats,
    last_inside,
)
from onnxfit.verification.statistics import drop_limit, paired_difference

STRENGTHS = [i / 20 for i in range(1, 21)]

# Robust accuracy over strengths from 0 to 1, in truth.
CURVES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "a peak in the middle": lambda t: 0.3 + 0.3 * np.exp(-(((t - 0.5) / 0.2) ** 2)),
    "a peak near 0": lambda t: 0.3 + 0.3 * np.exp(-(((t - 0.15) / 0.1) ** 2)),
    "a small peak": lambda t: 0.4 + 0.03 * np.exp(-(((t - 0.6) / 0.2) ** 2)),
    "hardly anything right": lambda t: 0.01 + 0.02 * np.exp(-(((t - 0.5) / 0.2) ** 2)),
    "rising": lambda t: 0.3 + 0.3 * t,
    "slowly rising": lambda t: 0.3 + 0.05 * t,
    "falling": lambda t: 0.6 - 0.4 * t,
    "flat": lambda t: 0.4 + 0 * t,
}


@dataclass
class Table:
    """Measurements that are known beforehand, and a count of what was asked.

    Attributes:
        masks: Which attacked samples stay right, by strength.
        rights: Which of all samples are right, by strength.
        asked: Of how many samples each strength was measured.
        asked_clean: Of which strengths all samples were classified.
        attacked: How many samples the attacks may use.
    """

    masks: dict[float, Mask]
    rights: dict[float, Mask] = field(default_factory=dict)
    asked: dict[float, int] = field(default_factory=dict)
    asked_clean: list[float] = field(default_factory=list)
    attacked: int = field(init=False)

    def __post_init__(self) -> None:
        self.attacked = max(map(len, self.masks.values()), default=0)

    @property
    def work(self) -> float:
        """Attacked samples, as a share of those of all strengths and none."""
        return sum(self.asked.values()) / (self.attacked * len(self.masks))

    def clean(self, strength: float) -> Mask:
        """Return which samples are right."""
        self.asked_clean.append(strength)
        return self.rights[strength]

    def robust(self, strengths: Sequence[float], count: int) -> dict[float, Mask]:
        """Return which of the first samples stay right."""
        for strength in strengths:
            self.asked[strength] = max(count, self.asked.get(strength, 0))
        return {strength: self.masks[strength][:count] for strength in strengths}


def lost(count: int, n: int = 1000) -> Mask:
    """Return which samples are right where so many are not."""
    return np.arange(n) >= count


def drawn(curve: str, n: int, seed: int, strengths: Sequence[float] = STRENGTHS) -> Table:
    """Draw outcomes with these accuracies; those of a sample agree between strengths."""
    rng, grid = np.random.default_rng(seed), np.array([0.0, *strengths])
    limits = [NormalDist().inv_cdf(share) for share in CURVES[curve](grid)]
    own = rng.standard_normal((len(grid), n))
    hardness = math.sqrt(0.7) * rng.standard_normal(n) + math.sqrt(0.3) * own
    masks = hardness < np.array(limits)[:, None]
    return Table(dict(zip(grid.tolist(), masks, strict=True)))


def as_good(table: Table, found: float, strengths: Sequence[float] = STRENGTHS) -> bool:
    """Say whether a choice is beside that of a full measurement, or as good within noise."""
    best = max(strengths, key=lambda strength: (table.masks[strength].sum(), -strength))
    if abs(strengths.index(best) - strengths.index(found)) <= 1:
        return True
    more = int((table.masks[best] & ~table.masks[found]).sum())
    fewer = int((table.masks[found] & ~table.masks[best]).sum())
    return paired_difference(more, fewer, table.attacked)[0] <= 0


@pytest.mark.parametrize("max_drop", [0.001, 0.01, 0.02, 0.05, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_samples_needed_is_the_least_number(max_drop: float, confidence: float) -> None:
    """It is the first n at which a drop of nothing is inside the budget."""
    least = next(n for n in itertools.count(1) if drop_limit(0, 0, n, confidence) <= max_drop)
    assert least == Budget(max_drop=max_drop, confidence=confidence).samples_needed


def test_a_drop_of_one_percent_takes_three_hundred_samples() -> None:
    """The rule of three: 3/0.01, less the rounding of 2.996 to 3."""
    assert 299 == Budget().samples_needed


def test_the_limit_is_that_of_the_paired_drop() -> None:
    """Lost and gained samples are counted apart; those that agree do not matter."""
    before = np.array([True] * 700 + [False] * 300)
    after = before.copy()
    after[:4], after[700:709] = False, True
    budget = Budget(max_drop=0.02, confidence=0.9)
    assert drop_limit(4, 9, 1000, 0.9) == budget.limit(before, after)
    assert drop_limit(9, 4, 1000, 0.9) == budget.limit(after, before)


def test_a_drop_is_allowed_up_to_the_limit() -> None:
    """With 1000 samples and a drop of at most 1 %, four may be lost and five may not."""
    limits = {count: drop_limit(count, 0, 1000) for count in (4, 5)}
    assert limits[4] <= 0.01 < limits[5]
    assert Budget().allows(lost(0), lost(4))
    assert not Budget().allows(lost(0), lost(5))
    assert not Budget().allows(lost(0, 298), lost(0, 298))
    assert Budget(max_drop=limits[5]).allows(lost(0), lost(5))


def test_a_network_that_names_one_class_for_all_is_outside() -> None:
    """However few samples of the others there are; unless it was right for one class before."""
    labels = np.zeros(1000, np.int64)
    labels[:4] = 1
    budget = Budget(labels=labels)
    assert Budget().allows(lost(0), lost(4))
    assert not budget.allows(lost(0), ~(labels == 1))
    assert budget.allows(lost(0), lost(3))
    assert budget.allows(~(labels == 1), ~(labels == 1))


@pytest.mark.parametrize("max_drop", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_a_drop_out_of_range_is_refused(max_drop: float) -> None:
    """It is a share of the samples, neither none nor all."""
    message = f"expected a max_drop between 0 and 1, got {max_drop}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Budget(max_drop=max_drop)


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, 95.0, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    """It is at least that of a toss of a coin, and never certainty."""
    message = f"expected a confidence from 0.5 to below 1, got {confidence}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Budget(confidence=confidence)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 20, 100])
def test_bisection_finds_the_last_place_inside(count: int) -> None:
    """Wherever it is, with no more questions than log2(count + 1), rounded up."""
    for last in range(-1, count):
        asked: list[int] = []

        def inside(i: int, last: int = last, asked: list[int] = asked) -> bool:
            asked.append(i)
            return i <= last

        assert last == last_inside(count, inside)
        assert len(asked) <= math.ceil(math.log2(count + 1))
        assert set(asked) <= set(range(count))


def test_the_boundary_is_found_where_smaller_strengths_are_outside() -> None:
    """Bisection alone would ask for the fifth of nine, and find none."""
    rights = {t: lost(4 if i in (2, 3) else 5) for i, t in enumerate(STRENGTHS[:9])}
    assert 3 == boundary(STRENGTHS[:9], Table({}, {0.0: lost(0), **rights}), Budget())


@pytest.mark.parametrize("inside", [0, 1, 7, 20])
def test_the_boundary_is_the_largest_strength_inside(inside: int) -> None:
    """Those below it lose up to 4 of 1000 samples, those beyond it 5."""
    rights = {t: lost(4 if i < inside else 5) for i, t in enumerate(STRENGTHS)}
    table = Table({}, {0.0: lost(0), **rights})
    assert inside - 1 == boundary(STRENGTHS, table, Budget())
    assert 0.0 == table.asked_clean[0]
    # Where none seems to be inside, all are asked for.
    assert len(table.asked_clean) <= 1 + 5 + (0 if inside else 20)


@pytest.mark.parametrize(
    ("attacked", "expected"),
    [(1, [1]), (64, [64]), (65, [64, 65]), (128, [64, 128]), (1000, [64, 128, 256, 512, 1000])],
)
def test_each_heat_has_twice_the_samples(attacked: int, expected: list[int]) -> None:
    """The last one has all of them."""
    assert expected == heats(attacked)


@pytest.mark.parametrize("attacked", [1, 30, FIRST_HEAT, 100, 128, 129, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 20, 57])
def test_a_clear_peak_is_found_wherever_it_is(attacked: int, count: int) -> None:
    """Each step towards the peak keeps every third sample more, or one more of three."""
    strengths = [float(i) for i in range(1, count + 1)]
    order = np.random.default_rng(attacked).permutation(attacked)
    for peak in range(count):
        masks = {0.0: np.zeros(attacked, np.bool_)}
        for i, strength in enumerate(strengths):
            share = 1 - abs(i - peak) / (count + 1)
            masks[strength] = order < round(share * attacked)
        table = Table(masks)
        found = Race(strengths, table).run()
        assert masks[found].sum() == max(mask.sum() for mask in masks.values())
        assert abs(found - strengths[peak]) <= max(1, (count + 1) / attacked)


@pytest.mark.parametrize("attacked", [10, 100, 500])
def test_ties_go_to_the_smaller_strength(attacked: int) -> None:
    """Of a plateau, its first; where all are alike, the first of all."""
    order = np.random.default_rng(0).permutation(attacked)
    low, high = order < attacked // 5, order < attacked // 2
    for start in (0, 1, 3, 9, 19):
        masks = {t: low if i < start else high for i, t in enumerate(STRENGTHS)}
        assert STRENGTHS[start] == Race(STRENGTHS, Table({0.0: low, **masks})).run()


@pytest.mark.parametrize(("right", "expected"), [(150, STRENGTHS[0]), (151, STRENGTHS[9])])
def test_a_winner_must_beat_the_smallest_under_all_attacks(right: int, expected: float) -> None:
    """A larger jump that hides something from the attacks of the race wins that alone."""
    n = 300
    masks = {t: np.arange(n) % 6 < (5 if t >= STRENGTHS[9] else 3) for t in (0.0, *STRENGTHS)}
    race = Race(STRENGTHS, Table(masks))
    winner = race.run()
    assert STRENGTHS[9] == winner
    everything = Table({STRENGTHS[0]: np.arange(n) < 150, winner: np.arange(n) < right})
    assert expected == confirmed(winner, race.smallest, everything)
    assert {STRENGTHS[0]: n, winner: n} == everything.asked


def test_a_candidate_outside_the_budget_never_runs() -> None:
    """Neither in the first heat nor as a neighbour, though it would win."""
    n = 300
    for allowed in (0, 5, 11, 19):
        inside = {t for i, t in enumerate(STRENGTHS) if i == allowed or i % 5 == 0}
        masks = {t: np.arange(n) % 3 < (1 if t in inside else 3) for t in (0.0, *STRENGTHS)}
        table = Table(masks)
        found = Race(STRENGTHS, table, inside=inside.__contains__).run()
        assert found in inside
        assert set(table.asked) - {0.0} <= inside


def test_the_network_before_hardening_takes_part_in_every_heat() -> None:
    """Strength 0 and the winner are measured on all samples, but 0 is never the choice."""
    table = drawn("falling", 1000, 0)
    race = Race(STRENGTHS, table)
    found = race.run()
    assert 1000 == table.asked[0.0] == len(race.robust[0.0])
    assert 1000 == table.asked[found] == len(race.robust[found])
    assert found > 0 and table.masks[0.0].sum() > table.masks[found].sum()  # noqa: PT018
    assert set(table.asked) == set(race.robust)


def test_every_heat_but_the_last_is_told() -> None:
    """The number of samples and the strengths that are left, the choice among the last ones."""
    told: list[tuple[int, Sequence[float]]] = []
    race = Race(
        STRENGTHS,
        drawn("a peak in the middle", 1000, 0),
        heard=lambda count, left: told.append((count, left)),
    )
    found = race.run()
    assert [64, 128, 256, 512] == [count for count, _ in told]
    assert all(list(left) == sorted(set(left) & set(STRENGTHS)) for _, left in told)
    assert all(1 <= len(left) for _, left in told)
    assert len(told[0][1]) <= 3
    assert min(abs(found - t) for t in told[-1][1]) <= 1.5 / 20


@pytest.mark.parametrize("attacked", [1, 5, FIRST_HEAT])
def test_all_candidates_run_where_there_is_a_single_heat(attacked: int) -> None:
    """Nobody could join later."""
    table = drawn("flat", attacked, 0)
    found = Race(STRENGTHS, table).run()
    assert dict.fromkeys([0.0, *STRENGTHS], attacked) == table.asked
    assert table.masks[found].sum() == max(table.masks[t].sum() for t in STRENGTHS)


@pytest.mark.parametrize("curve", CURVES)
def test_a_race_chooses_as_well_as_a_full_measurement_with_less_work(curve: str) -> None:
    """In 95 % of 60 draws: at most a step beside the best, or not worse beyond noise.

    At most 35 % of all is measured on average and half of it in any draw.
    """
    agreed, work = 0, []
    for seed in range(60):
        table = drawn(curve, 1000, seed)
        agreed += as_good(table, Race(STRENGTHS, table).run())
        work.append(table.work)
    assert agreed >= 0.95 * 60
    assert np.mean(work) <= 0.35
    assert max(work) <= 0.5


@pytest.mark.parametrize("attacked", [40, 100, 128, 200])
@pytest.mark.parametrize("curve", ["a peak near 0", "rising", "flat"])
def test_a_race_on_few_samples_chooses_as_well(curve: str, attacked: int) -> None:
    """It has one heat, two or three, where not every neighbour could join."""
    tables = [drawn(curve, attacked, seed) for seed in range(40)]
    agreed = sum(as_good(table, Race(STRENGTHS, table).run()) for table in tables)
    assert agreed >= 0.95 * 40


def test_many_candidates_are_searched_to_the_last_step() -> None:
    """Of 200 of them the race finds the peak's neighbourhood and measures few of them."""
    strengths = [i / 200 for i in range(1, 201)]
    tables = [drawn("a peak in the middle", 1000, seed, strengths) for seed in range(10)]
    found = [Race(strengths, table).run() for table in tables]
    assert all(abs(t - 0.5) <= 0.1 for t in found)
    assert max(table.work for table in tables) <= 0.15
