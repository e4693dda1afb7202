"""How long a calibration takes is told honestly while it runs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import MODELS

torch = pytest.importorskip("torch")

from onnxfit.calibration.calibrator import calibrate  # noqa: E402
from onnxfit.calibration.forecast import Forecast, Known  # noqa: E402
from onnxfit.calibration.search import Search  # noqa: E402
from onnxfit.calibration.selection import Mask  # noqa: E402
from onnxfit.calibration.settings import Settings  # noqa: E402
from onnxfit.calibration.work import FIRST_GUESS, STEP, Work  # noqa: E402
from onnxfit.verification.progress import Advance  # noqa: E402

STAGES = {"native": 2, "smooth": 2, "all": 9}
SAMPLES, ATTACKED = 400, 256
FEW: dict[str, Any] = {"max_drop": 0.05, "eps": 0.1, "steps": 1, "attack_limit": 80, "points": 8}
THREE: dict[str, Any] = {**FEW, "strengths": (0.2, 0.4, 0.6)}


@dataclass
class Told:
    """Notes what a calibration tells.

    Attributes:
        begun: How often it began.
        counts: What was done.
        totals: What the whole was expected to be, after each of them.
        whats: What was done next.
    """

    begun: int = 0
    counts: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    whats: list[str] = field(default_factory=list)

    @contextmanager
    def begin(self, total: float, what: str) -> Iterator[Advance]:
        """Note what is begun."""
        self.begun += 1
        self.totals.append(total)
        self.whats.append(what)
        yield self.advance

    def advance(self, count: float, /, total: float | None = None, what: str = "") -> None:
        """Note what is done."""
        assert total is not None
        self.counts.append(count)
        self.totals.append(total)
        self.whats += [what] if what else []


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
    work.expect({"clean": 100, "smooth": 20})
    clock.now = 2.0
    work.did("clean", 50)
    # 0.04 s a sample, and an attack of ten steps 30 times as long.
    assert 2 + 50 * 0.04 + 20 * 0.04 * 10 * STEP == pytest.approx(told.totals[-1])
    clock.now = 12.0
    work.did("smooth", 10)
    assert 12 + 50 * 0.04 + 10 * 1.0 == pytest.approx(told.totals[-1])
    clock.now = 20.0
    work.did("smooth", 10)
    assert 20 + 50 * 0.04 == pytest.approx(told.totals[-1])
    work.expect({}, "done")
    assert [0, 2, 10, 8, 0] == told.counts
    assert 20 == told.totals[-1] == sum(told.counts)
    assert ["done"] == told.whats


def test_before_anything_is_done_it_is_guessed(clock: Watch) -> None:
    """From what a pass may take."""
    work = Work(clock=clock)
    assert 0 == work.total
    work.expect({"clean": 100})
    assert 100 * FIRST_GUESS == work.total


def test_what_the_cache_held_is_no_fast_work(clock: Watch, told: Told) -> None:
    """The expectation shrinks, and what is left takes as long as before."""
    work = Work(advance=told.advance, clock=clock)
    work.expect({"clean": 300})
    clock.now = 1.0
    work.did("clean", 100)
    assert 3 == pytest.approx(told.totals[-1])
    work.expect({"clean": 100})
    assert 2 == pytest.approx(told.totals[-1])
    assert 1 == sum(told.counts)


def test_more_than_was_expected_is_no_negative_time(clock: Watch, told: Told) -> None:
    """The total is never less than what is done."""
    work = Work(advance=told.advance, clock=clock)
    work.expect({"clean": 10})
    clock.now = 1.0
    work.did("clean", 30)
    assert [1.0] == told.totals[-1:]


def forecast(**settings: Any) -> Forecast:
    """Make a forecast of a search among eight strengths."""
    strengths = [i / 10 for i in range(1, 9)]
    chosen = Settings(**{"max_drop": 0.05, "strengths": strengths, **settings})
    search = Search(settings=chosen, sites=4, first=0.5)
    attacks: Any = "native" if chosen.objective == "paper" else "smooth"
    stages: Any = STAGES
    return Forecast(
        search=search, samples=SAMPLES, attacked=ATTACKED, stages=stages, attacks=attacks
    )


def first_right(count: int, n: int = 64) -> Mask:
    """Return a mask of which the first are right."""
    return np.arange(n) < count


def measured_clean(edge: float) -> Known:
    """Return what is known when the edge of the budget is found."""
    known = Known()
    for strength in [0.0, *(i / 10 for i in range(1, 9))]:
        known.clean[strength] = first_right(SAMPLES if strength <= edge else 0, SAMPLES)
    return known


def after_a_heat(robust: Sequence[int], attacks: Any = "smooth") -> Known:
    """Return what is known after a first heat of all strengths, and of the one before hardening."""
    known = measured_clean(edge=0.8)
    for i, count in enumerate(robust):
        known.blocks(attacks, i / 10)[0] = first_right(count)
    return known


def test_a_search_is_expected_to_need_all_of_its_steps() -> None:
    """Before anything is known: passes for the edge, attacks for the race and of all kinds."""
    left = forecast().left(Known())
    assert {"clean", "smooth", "all"} == left.keys()
    assert 4 * SAMPLES <= left["clean"] <= 9 * SAMPLES
    assert 2 * 64 * STAGES["smooth"] < left["smooth"]
    # The curve on the first block, the comparison on all samples; what is smooth is not repeated.
    others = STAGES["all"] - STAGES["smooth"]
    assert others * (9 * 64 + 2 * (ATTACKED - 64)) == left["all"]
    assert {"clean", "native", "all"} == forecast(objective="paper").left(Known()).keys()


def test_candidates_that_drop_out_make_less_work() -> None:
    """Where one is clearly the best after the first heat, less is left than where all are alike."""
    alike = forecast().left(after_a_heat([20] * 9))
    clear = forecast().left(after_a_heat([20, 2, 3, 40, 4, 3, 2, 1, 0]))
    assert clear["smooth"] < alike["smooth"]
    assert alike["smooth"] < forecast().left(measured_clean(edge=0.8))["smooth"]


def test_a_lower_edge_makes_less_work() -> None:
    """Fewer candidates race."""
    assert (
        forecast().left(measured_clean(edge=0.2))["smooth"]
        < forecast().left(measured_clean(edge=0.8))["smooth"]
    )


def test_a_refinement_makes_more_work() -> None:
    """Each site alone, and changes of some."""
    plain, refined = (forecast(refine=refine).left(Known()) for refine in (False, True))
    assert refined["smooth"] >= plain["smooth"] + 4 * ATTACKED * STAGES["smooth"]
    assert refined["clean"] >= plain["clean"] + 4 * SAMPLES


def test_where_nothing_meets_the_budget_little_is_left() -> None:
    """The search is about to end."""
    assert {} == forecast().left(measured_clean(edge=0.05))


def test_a_forecast_changes_nothing_that_is_known() -> None:
    """Its guesses are not taken for measurements later."""
    known = after_a_heat([20] * 9)
    first = forecast(refine=True).left(known)
    assert 9 == len(known.clean)
    assert 9 == sum(map(len, known.robust.values()))
    assert first == forecast(refine=True).left(known)


@pytest.mark.parametrize(
    "settings",
    [{}, {"scale": "quantile", "refine": True, "max_drop": 0.06}, {**THREE, "objective": "paper"}],
    ids=["shared", "refined", "paper"],
)
def test_the_work_adds_up(
    settings: dict[str, Any], data: Any, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bar for all; it never goes backwards, and what is told to be left becomes nothing.

    When the last attacks begin, exactly these are left.
    """
    done: Counter[str] = Counter()
    expected: list[tuple[dict[str, float], dict[str, float]]] = []
    did, expect = Work.did, Work.expect

    def count(work: Work, kind: Any, amount: float) -> None:
        done[kind] += amount  # type: ignore[assignment]
        did(work, kind, amount)

    def note(work: Work, left: Any, what: str = "") -> None:
        expected.append((dict(left), dict(done)))
        expect(work, left, what)

    monkeypatch.setattr(Work, "did", count)
    monkeypatch.setattr(Work, "expect", note)
    calibrate(MODELS / "digits_cnn.onnx", data, begin=told.begin, **{**FEW, **settings})
    assert 1 == told.begun
    assert min(told.counts) >= 0
    assert sum(told.counts) == pytest.approx(told.totals[-1])
    assert all(
        done <= total + 1e-9
        for done, total in zip(np.cumsum(told.counts), told.totals[1:], strict=True)
    )
    assert ["activations", "clean accuracy"] == told.whats[:2]
    assert "2 candidates attacked on 80 samples" == told.whats[-1]
    *_, (last, before), (nothing, _) = expected
    assert {} == nothing
    assert last == {kind: done[kind] - before[kind] for kind in last}
    first = sum(expected[0][0].values())
    assert first / 4 < sum(done.values()) < 4 * first


def test_a_run_that_was_kept_tells_no_work(data: Any, tmp_path: Path, told: Told) -> None:
    """All is in the cache, so that hardly a second is told, and none is left."""
    model, again = MODELS / "digits_cnn.onnx", Told()
    for each in (told, again):
        calibrate(model, data, begin=each.begin, cache=tmp_path / "cache", **THREE)
    assert told.counts.count(0.0) < len(told.counts) / 2
    assert [0.0] == again.counts
    assert ["activations"] == again.whats
    assert 0 == again.totals[-1]
