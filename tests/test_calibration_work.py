"""How long a calibration takes at most is told honestly while it runs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from support import MODELS

torch = pytest.importorskip("torch")

from onnxfit.calibration.at_most import AtMost  # noqa: E402
from onnxfit.calibration.calibrator import calibrate  # noqa: E402
from onnxfit.calibration.measurements import Attacks, size_of, starts  # noqa: E402
from onnxfit.calibration.search import Search  # noqa: E402
from onnxfit.calibration.selection import Mask  # noqa: E402
from onnxfit.calibration.settings import Settings  # noqa: E402
from onnxfit.calibration.work import FIRST_GUESS, STEP, Kind, Work  # noqa: E402
from onnxfit.verification.progress import Advance, nobody  # noqa: E402

STAGES: dict[Attacks, int] = {"native": 2, "smooth": 2, "all": 9}
SAMPLES, SITES = 400, 3
FEW: dict[str, Any] = {"max_drop": 0.05, "eps": 0.1, "steps": 1, "attack_limit": 80, "points": 8}
THREE: dict[str, Any] = {**FEW, "strengths": (0.2, 0.4, 0.6)}


@dataclass
class Told:
    """Notes what a calibration tells.

    Attributes:
        begun: What it began with.
        counts: What was done.
        totals: What the whole was expected to be, after each of them.
        whats: What was done next.
    """

    begun: list[tuple[float, str]] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    whats: list[str] = field(default_factory=list)

    @contextmanager
    def begin(self, total: float, what: str) -> Iterator[Advance]:
        """Note what is begun."""
        self.begun.append((total, what))
        yield self.advance

    def advance(self, count: float, /, total: float | None = None, what: str = "") -> None:
        """Note what is done."""
        assert total is not None
        self.counts.append(count)
        self.totals.append(total)
        self.whats += [what] if what else []

    @property
    def left(self) -> float:
        """The seconds that were told to be left."""
        return self.totals[-1] - sum(self.counts)


@dataclass
class Watch:
    """A clock that is set by hand.

    Attributes:
        now: The time in seconds.
    """

    now: float = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Watch:
    """Make a clock."""
    return Watch()


@pytest.fixture
def told() -> Told:
    """Note what is told."""
    return Told()


@pytest.fixture(scope="module")
def data() -> Any:
    """Samples of the validation set."""
    with np.load(MODELS / "digits_val.npz") as file:
        return file["x"][:160], file["y"][:160]


def test_the_time_left_is_learnt_from_what_was_done(clock: Watch, told: Told) -> None:
    """Of each kind apart: passes are fast, attacks are slow."""
    work = Work(steps=10, advance=told.advance, clock=clock)
    work.expect(lambda: {"clean": 100, "smooth": 20})
    assert 100 * FIRST_GUESS + 20 * STEP * 10 * FIRST_GUESS == pytest.approx(told.left)
    clock.now = 2.0
    work.did("clean", 50)
    # 0.04 s a sample, and an attack of ten steps 30 times as long.
    assert 50 * 0.04 + 20 * 0.04 * 10 * STEP == pytest.approx(told.left)
    clock.now = 12.0
    work.did("smooth", 10)
    assert 50 * 0.04 + 10 * 1.0 == pytest.approx(told.left)
    clock.now = 20.0
    work.did("smooth", 10)
    assert 50 * 0.04 == pytest.approx(told.left)
    work.expect(dict, "done")
    assert [0, 2, 10, 8, 0] == told.counts
    assert 20 == told.totals[-1]
    assert ["done"] == told.whats


def test_at_fixed_rates_what_is_told_is_what_it_takes(clock: Watch, told: Told) -> None:
    """At every point, though between measurements something else takes seconds."""
    work = Work(steps=10, advance=told.advance, clock=clock)
    rates: dict[Kind, float] = {"clean": 0.01, "smooth": 0.5}
    plan: list[tuple[Kind, float]] = [("clean", 100), ("smooth", 8)] * 4
    left: Counter[Kind] = Counter()
    for kind, amount in plan:
        left[kind] += amount  # type: ignore[assignment]
    for i, (kind, amount) in enumerate(plan):
        clock.now += 3.0
        (work.start if i % 2 else lambda: work.expect(lambda: left))()
        clock.now += rates[kind] * amount
        work.did(kind, amount)
        left[kind] -= amount  # type: ignore[assignment]
        actual = sum(rates[each] * count for each, count in left.items())
        if i:
            assert actual == pytest.approx(told.left)
    assert clock.now == pytest.approx(sum(told.counts))


def test_what_a_pass_beside_an_attack_takes_is_part_of_it(clock: Watch, told: Told) -> None:
    """No sample more is done, but each took longer."""
    work = Work(advance=told.advance, clock=clock)
    work.expect(lambda: {"smooth": 20})
    clock.now = 1.0
    work.did("smooth", 0)
    clock.now = 3.0
    work.did("smooth", 10)
    assert 3 == pytest.approx(told.left)


def test_more_than_was_expected_is_no_negative_time(clock: Watch, told: Told) -> None:
    """The total is never less than what is done."""
    work = Work(advance=told.advance, clock=clock)
    work.expect(lambda: {"clean": 10})
    clock.now = 1.0
    work.did("clean", 30)
    assert [1.0] == told.totals[-1:]


def fail() -> Mapping[Kind, float]:
    """Fail."""
    raise ArithmeticError("no idea")


def test_an_estimate_that_fails_ends_nothing(clock: Watch, told: Told) -> None:
    """What was left before still is."""
    work = Work(advance=told.advance, clock=clock)
    work.expect(lambda: {"clean": 10})
    clock.now = 1.0
    work.did("clean", 5)
    work.expect(fail, "race")
    assert 1 == pytest.approx(told.left)
    assert ["race"] == told.whats


def test_nothing_is_estimated_where_nobody_looks(clock: Watch) -> None:
    """Nor is a search that tells nobody slower for it."""
    asked: list[int] = []

    def left() -> dict[Kind, float]:
        asked.append(1)
        return {}

    Work(advance=nobody, clock=clock).expect(left)
    assert [] == asked
    Work(advance=Told().advance, clock=clock).expect(left)
    assert [1] == asked


def at_most(**changes: Any) -> AtMost:
    """Say how much is left of a search among eight strengths."""
    given: dict[str, Any] = {"attacked": 1000, "strengths": 8, "sites": 0, "race": "smooth"}
    return AtMost(samples=SAMPLES, stages=STAGES, **{**given, **changes})


def test_the_last_phases_are_known_exactly() -> None:
    """The curve has 256 samples of each point; both that are compared lie on it, or one of them."""
    others = STAGES["all"] - STAGES["smooth"]
    assert {"all": 2 * 744 * others} == at_most().comparison()
    assert {"all": (744 + 1000) * others} == at_most(sites=3).comparison()
    assert {"all": 744 * others} == at_most().comparison(confirmed=True)
    assert {"all": 2 * 744 * STAGES["all"]} == at_most(race="native").comparison()
    assert {
        "all": 8 * 256 * others + 2 * 744 * others,
        "smooth": 8 * 256 * STAGES["smooth"],
        "clean": 8 * SAMPLES,
    } == at_most().curve()


def test_a_winner_may_be_compared_with_one_that_raced_less() -> None:
    """Of the winner the attacks of the race are known, of the other they may not be."""
    more = at_most().confirmation() - at_most().refinement()
    assert {"all": 1000 * (2 * STAGES["all"] - STAGES["smooth"])} == more
    native = at_most(race="native")
    assert native.refinement() == native.confirmation()


def test_a_refinement_is_each_site_alone_and_two_offers() -> None:
    """On 256 samples each; then both are compared on all. Without one nothing is added."""
    more = at_most(sites=3).refinement() - at_most(sites=3).curve()
    both = 2 * STAGES["all"] - STAGES["smooth"]
    smooth = 3 * 3 * 256 * STAGES["smooth"]
    assert {"clean": 9 * SAMPLES, "smooth": smooth, "all": 1000 * both} == more
    native = at_most(sites=3, race="native")
    more = native.refinement() - native.curve()
    assert {"clean": 9 * SAMPLES, "native": (3 * 3 * 256 + 744) * STAGES["native"]} == more
    assert at_most().curve() == at_most().refinement()


def test_of_a_race_half_stay_and_two_join_beside_each() -> None:
    """On 64 samples, then 128: five begin, three stay, and all others may join."""
    few = at_most(attacked=128, strengths=20)
    # 0, 2, 4, 6 and so on: joining all is most.
    for left, untried, joining in ((3, 10, 6), (3, 4, 4), (1, 0, 0)):
        attacked = 64 * (left + 1) + 128 * joining
        passes = {"clean": untried * SAMPLES, "smooth": attacked * STAGES["smooth"]}
        assert Counter(passes) + few.confirmation() == few.heat(64, left, untried)
    assert few.confirmation() == few.heat(128, 3, 0)


def test_candidates_that_join_late_are_more_work() -> None:
    """As many as may join at once are not the most: of 2 that stay, 4 that join at 256 samples."""
    three = at_most(attacked=256)
    at_once = 64 * 3 + 128 * 4 + 128 * 4
    later = 64 * 3 + 128 * 2 + 128 * 3 + 256 * 2
    attacked = (three.heat(64, 2, 4) - three.confirmation())["smooth"] / STAGES["smooth"]
    assert at_once < later <= attacked


@dataclass
class Simulated:
    """Measurements at random, which count how much of each kind was to be done.

    Attributes:
        seed: Of all of them.
        attacked: How many samples the attacks may use.
        attacks: Which are used.
        edge: Up to which strength next to nothing is lost.
        done: What was to be done.
        known: What need not be done again.
    """

    seed: int
    attacked: int
    attacks: Attacks
    edge: float
    done: Counter[Kind] = field(default_factory=Counter)
    known: set[Any] = field(default_factory=set)

    def with_all_attacks(self) -> "Simulated":
        """Return the same with every attack."""
        return replace(self, attacks="all")

    def clean(self, candidate: Any) -> Mask:
        """Return a mask; now and then a larger jump costs less."""
        strength = float(np.mean(candidate))
        self._do("clean", SAMPLES, "clean", self._numbers(candidate))
        lost = 2 * round(strength / self.edge) if self._random(candidate).random() < 0.8 else 0
        return np.arange(SAMPLES) >= (lost if strength <= self.edge else 100)

    def robust(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return masks by candidate."""
        for candidate in candidates:
            key = self._numbers(candidate)
            for start in starts(count):
                spared = self.attacks == "all" and ("smooth", key, start) in self.known
                stages = STAGES[self.attacks] - (STAGES["smooth"] if spared else 0)
                size = min(size_of(start), self.attacked - start)
                self._do(self.attacks, stages * size, self.attacks, key, start)
        return {c: self._mask(c)[:count] for c in candidates}

    def native(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return the same."""
        return self.robust(candidates, count)

    def _do(self, kind: Kind, amount: int, *key: Any) -> None:
        if key not in self.known:
            self.known.add(key)
            self.done[kind] += amount

    def _mask(self, candidate: Any) -> Mask:
        random = self._random(candidate)
        mask: Mask = random.random(self.attacked) < random.uniform(0.3, 0.4)
        return mask

    def _random(self, candidate: Any) -> np.random.Generator:
        return np.random.default_rng([self.seed, *self._numbers(candidate)])

    def _numbers(self, candidate: Any) -> tuple[int, ...]:
        return tuple(round(1e6 * float(s)) for s in np.broadcast_to(candidate, SITES))


class Noted(Work):
    """Notes what it is told before each phase.

    Attributes:
        told: The phase, how much is left at most, and what was done before.
    """

    def __init__(self, measured: Simulated) -> None:
        super().__init__()
        self.told: list[tuple[str, Mapping[Kind, float], Counter[Kind]]] = []
        self._measured = measured

    def expect(self, left: Callable[[], Mapping[Kind, float]], what: str = "") -> None:
        """Note it."""
        self.told.append((what, left(), self._measured.done.copy()))


@pytest.mark.parametrize("attacked", [40, 300, 1000])
@pytest.mark.parametrize(
    "settings",
    [{}, {"refine": True}, {"objective": "paper"}, {"strengths": (0.2, 0.3, 0.5, 0.6, 0.7)}],
    ids=["plain", "refined", "paper", "given"],
)
def test_no_phase_takes_more_than_was_told(attacked: int, settings: dict[str, Any]) -> None:
    """Of no kind of work, wherever the edge is and whichever candidates stay."""
    confirmations = 0
    for seed in range(12):
        chosen = Settings(**{"max_drop": 0.05, **settings})
        attacks: Attacks = "native" if chosen.objective == "paper" else "smooth"
        measured = Simulated(seed, attacked, attacks, edge=0.25 * 1.3**seed)
        bound = at_most(
            attacked=attacked,
            race=attacks,
            strengths=len(chosen.strengths or range(20)),
            sites=SITES if chosen.refine else 0,
        )
        noted = Noted(measured)
        Search(
            settings=chosen,
            sites=SITES,
            budget=chosen.budget,
            first_strength=0.5,
            highest_strength=1e9,
            at_most=bound,
            work=noted,
        ).run(measured)
        phases = {phase for phase, _, _ in noted.told}
        assert {"race", "curve"} < phases
        confirmations += "confirmation" in phases
        for phase, most, before in noted.told:
            for kind in get_args(Kind):
                assert measured.done[kind] - before[kind] <= most.get(kind, 0), (phase, kind)
        last, most, before = noted.told[-1]
        assert "comparison" == last
        if not chosen.refine:
            assert most == measured.done - before
    assert bool(confirmations) == (settings.get("objective") != "paper")


@pytest.mark.parametrize(
    "settings",
    [{}, {"scale": "quantile", "refine": True, "max_drop": 0.06}, {**THREE, "objective": "paper"}],
    ids=["shared", "refined", "paper"],
)
def test_the_work_adds_up(
    settings: dict[str, Any], data: Any, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bar for all; no phase takes more than was told before it, and in the end none is left."""
    done: Counter[Kind] = Counter()
    expected: list[tuple[dict[Kind, float], Counter[Kind]]] = []
    did, expect = Work.did, Work.expect

    def count(work: Work, kind: Kind, amount: float) -> None:
        done[kind] += amount  # type: ignore[assignment]
        did(work, kind, amount)

    def note(work: Work, left: Callable[[], Mapping[Kind, float]], what: str = "") -> None:
        expected.append((dict(left()), done.copy()))
        expect(work, left, what)

    monkeypatch.setattr(Work, "did", count)
    monkeypatch.setattr(Work, "expect", note)
    calibrate(MODELS / "digits_cnn.onnx", data, begin=told.begin, **{**FEW, **settings})
    assert [(0.0, "activations")] == told.begun
    assert min(told.counts) >= 0
    assert told.left == pytest.approx(0, abs=1e-9)
    assert all(
        done <= total + 1e-9
        for done, total in zip(np.cumsum(told.counts), told.totals, strict=True)
    )
    refined = ["refinement"] if "refine" in settings else []
    first = [] if "strengths" in settings else ["strengths to try"]
    heats = ["race, 64 samples"]
    # Where a larger jump than the smallest wins.
    confirmed = ["confirmation"] if "confirmation" in told.whats else []
    middle = ["edge of the budget", "race", *heats, *confirmed, *refined]
    assert [*first, *middle, "curve", "comparison"] == told.whats
    for most, before in expected:
        for kind in get_args(Kind):
            assert done[kind] - before[kind] <= most.get(kind, 0)
    assert {"statistics", "clean", "all"} < done.keys()


def test_a_run_that_was_kept_does_no_work(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is in the cache, which is no fast work."""
    model, kinds = MODELS / "digits_cnn.onnx", []
    monkeypatch.setattr(Work, "did", lambda work, kind, amount: kinds.append(kind))
    for expected in ({"statistics", "clean", "smooth", "all"}, set()):
        told = Told()
        calibrate(model, data, begin=told.begin, cache=tmp_path / "cache", **THREE)
        assert expected == {*kinds}
        kinds.clear()
    assert 0 == pytest.approx(told.left, abs=1e-9)
