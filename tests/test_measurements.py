"""Which samples stay right under which jumps: masks of a network of the repository."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import MODELS

import onnxfit
from onnxfit.data import Dataset, from_arrays
from onnxfit.errors import DataError

torch = pytest.importorskip("torch")

from onnxfit.attacks import PGD  # noqa: E402
from onnxfit.calibration.cache import Cache  # noqa: E402
from onnxfit.calibration.curve import measure_curve  # noqa: E402
from onnxfit.calibration.measurements import (  # noqa: E402
    Measurements,
    Plan,
    Sample,
    key_of,
)
from onnxfit.calibration.pool import Pool  # noqa: E402
from onnxfit.calibration.selection import Race  # noqa: E402
from onnxfit.calibration.tunable import Tunable  # noqa: E402
from onnxfit.calibration.work import Kind, Work  # noqa: E402
from onnxfit.verification.suites import FEW_STEPS, Stage, Threat, stages  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS = MODELS / "digits_cnn.onnx"
EPS = 0.1
CANDIDATES = (0.0, 0.3, 0.6)
FEW = 24

Mask = NDArray[np.bool_]


def suite(steps: int = 2) -> list[Stage]:
    """Return those of a calibration."""
    every = stages("quick", Threat(eps=EPS), jumps=True, transfer=False, steps=steps)
    return [stage for stage in every if stage.needs_gradients and stage.name != FEW_STEPS]


def data(n: int = 200) -> Dataset:
    """Return the first samples."""
    with np.load(MODELS / "digits_val.npz") as file:
        return from_arrays(file["x"][:n], file["y"][:n])


def measurements(
    cache: Path | None = None,
    *,
    seed: int = 0,
    attacks: Any = "all",
    steps: int = 2,
    batch_size: int = 64,
    work: Work | None = None,
) -> Measurements:
    """Prepare to measure a shared jump."""
    network = Tunable(Target(DIGITS))
    samples = data()
    plan = Plan(
        jumps_of=lambda jump: dict.fromkeys(network.sites, jump),
        spreads=dict.fromkeys(network.sites, 1.0),
        stages=suite(steps),
        attacks=attacks,
        seed=seed,
        batch_size=batch_size,
    )
    sample = Sample(*samples.spread(FEW))
    return Measurements(network, samples, sample, plan, Cache(cache, {}), work or Work())


def of_file(jump: float, x: NDArray[np.float32], y: NDArray[np.int64]) -> Mask:
    """Say which samples a file that is hardened classifies rightly."""
    right: Mask = Target(onnxfit.retrofit(DIGITS, jump)).predictions(x) == y
    return right


def same(one: dict[Any, Mask], other: dict[Any, Mask]) -> bool:
    """Tell whether masks are the same."""
    return one.keys() == other.keys() and all(np.array_equal(one[c], other[c]) for c in one)


def points_of(measured: Measurements, start: int = 0) -> Pool:
    """Return the points that candidates fell for."""
    return Pool(measured._cache, f"{measured.plan.search}-{start}-points")


def assert_tried(measured: Measurements, robust: dict[float, Mask]) -> None:
    """Check that no point that was found fools a file on a sample said to be robust."""
    _, y = data().spread(FEW)
    rows, points = points_of(measured).points(np.ones(FEW, bool))
    for jump, mask in robust.items():
        fooled = rows[~of_file(jump, points, y[rows])]
        assert len(fooled)
        assert not mask[fooled].any()


class Told(Work):
    """Adds up what it is told.

    Attributes:
        amounts: By kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.amounts: dict[str, float] = {}

    def did(self, kind: Kind, amount: float) -> None:
        """Add it."""
        self.amounts[kind] = self.amounts.get(kind, 0) + amount


class Watch:
    """Counts attacks, and interrupts one of them.

    Attributes:
        calls: How many began.
        stop: The number of the one that is interrupted, from 1; 0 for none.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.stop = 0, 0
        attack = PGD._attack

        def watched(attacker: PGD, search: Any) -> None:
            self.calls += 1
            if self.calls == self.stop:
                attack(attacker, search)
                raise KeyboardInterrupt
            attack(attacker, search)

        monkeypatch.setattr(PGD, "_attack", watched)


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of sixteen samples, so that few make several."""
    for name in ("BLOCK", "COMMON"):
        monkeypatch.setattr(f"onnxfit.calibration.measurements.{name}", 16)
    return 16


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Count attacks."""
    return Watch(monkeypatch)


@pytest.fixture(scope="module")
def together() -> tuple[Measurements, dict[float, Mask], dict[float, Mask]]:
    """Three candidates measured with each other: robust and native."""
    measured = measurements()
    robust = measured.robust(CANDIDATES, FEW)
    return measured, robust, measured.native(CANDIDATES, FEW)


def test_clean_is_what_a_hardened_file_classifies_rightly() -> None:
    """Of all samples, also those that are not attacked."""
    measured, samples = measurements(), data()
    x, y = samples.spread(samples.n)
    for jump in CANDIDATES:
        np.testing.assert_array_equal(of_file(jump, x, y), measured.clean(jump))
    assert (200,) == measured.clean(0.0).shape
    assert not measured.clean(3.0).all()


def test_clean_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again, or for another candidate of the same jumps, no sample is computed."""
    measured = measurements()
    first = measured.clean(0.3)
    monkeypatch.setattr(Tunable, "predictions", None)
    np.testing.assert_array_equal(first, measured.clean(0.3))
    np.testing.assert_array_equal(first, measured.clean(np.float64(0.3)))


def test_what_counts_fools_the_file(together: Any) -> None:
    """Every point that is kept is near its sample, and a file that is hardened gets it wrong."""
    measured, robust, _ = together
    x, y = data().spread(FEW)
    pool = points_of(measured)
    rows, points = pool.points(np.ones(FEW, bool))
    assert 10 < len(pool)
    assert np.abs(points.astype(np.float64) - x[rows]).max() <= EPS
    assert points.min() >= 0
    assert points.max() <= 1
    for jump in CANDIDATES:
        broken = of_file(jump, x, y) & ~robust[jump]
        fooling = np.unique(rows[~of_file(jump, points, y[rows])])
        assert set(np.flatnonzero(broken)) <= set(fooling)


def test_robust_is_inside_native_is_inside_clean(together: Any) -> None:
    """More attacks leave fewer, and what is wrong without one is not robust."""
    _, robust, native = together
    x, y = data().spread(FEW)
    for jump in CANDIDATES:
        assert not (robust[jump] & ~native[jump]).any()
        assert not (native[jump] & ~of_file(jump, x, y)).any()
    assert any((native[jump] & ~robust[jump]).any() for jump in CANDIDATES)


def test_every_point_is_tried_on_every_candidate(together: Any) -> None:
    """A sample is not robust if any candidate's point of it fools the file."""
    measured, robust, _ = together
    assert_tried(measured, robust)


def test_others_take_from_what_is_robust_alone(together: Any) -> None:
    """Exactly so for the one attacked first, whose attacks are the same with and without others.

    Where the points of others broke a sample before, later attacks begin elsewhere. Native masks
    of the first block know no others.
    """
    _, robust, native = together
    found = []
    for jump in CANDIDATES:
        alone = measurements()
        found.append(alone.robust([jump], FEW)[jump])
        np.testing.assert_array_equal(native[jump], alone.native([jump], FEW)[jump])
    assert not (robust[CANDIDATES[0]] & ~found[0]).any()
    assert sum(map(int, map(np.sum, found))) >= sum(int(mask.sum()) for mask in robust.values())


def test_the_order_of_candidates_does_not_matter_to_the_rule(together: Any) -> None:
    """Native masks are the same, and all points are tried on all, whoever is attacked first."""
    _, _, native = together
    other = measurements()
    robust = other.robust(CANDIDATES[::-1], FEW)
    assert same(native, other.native(CANDIDATES, FEW))
    assert_tried(other, robust)


@pytest.mark.parametrize("blind_first", [True, False])
def test_points_of_others_count_before_and_afterwards(
    blind_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate whose own attacks find nothing falls for what another one fell for."""
    measured, order = measurements(steps=1), [0.0, 0.3]
    blind = order[0 if blind_first else 1]
    found = {}
    for jump in order:
        with monkeypatch.context() as patch:
            if jump == blind:
                patch.setattr(PGD, "_attack", lambda attack, search: None)
            found[jump] = measured.robust([jump], FEW)[jump]
    x, y = data().spread(FEW)
    again = measured.robust([blind], FEW)[blind]
    assert again.sum() < of_file(blind, x, y).sum()
    assert (not np.array_equal(found[blind], again)) == blind_first
    assert_tried(measured, {blind: again})


@pytest.mark.parametrize("attacks", ["smooth", "native", "all"])
def test_candidates_of_the_same_jumps_are_one(attacks: Any, watch: Watch) -> None:
    """As strengths are where inputs have few distinct values: the second is not attacked again."""
    measured = measurements(attacks=attacks)
    (alone,) = measured.robust([0.3], FEW).values()
    calls, watch.calls = watch.calls, 0
    twins = 0.3, 0.3 + 1e-12
    together = measurements(attacks=attacks).robust(twins, FEW)
    assert calls == watch.calls
    assert 2 == len(together)
    for jump in twins:
        np.testing.assert_array_equal(alone, together[jump])


def test_the_seed_decides() -> None:
    """The same one twice gives the same masks and points; another one other points."""
    runs = []
    for seed in (0, 0, 1):
        measured = measurements(seed=seed, steps=1)
        robust = measured.robust(CANDIDATES[:2], FEW)
        runs.append((robust, points_of(measured).points(np.ones(FEW, bool))[1]))
    assert same(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][1], runs[2][1])


def test_native_gradients_alone(watch: Watch) -> None:
    """Then no other attack runs, no point is shared, and no candidate knows of another."""
    measured = measurements(attacks="native")
    robust = measured.robust(CANDIDATES, FEW)
    native = sum(stage.family == "native" for stage in suite())
    assert 0 < watch.calls <= native * len(CANDIDATES)
    assert same(robust, measured.native(CANDIDATES, FEW))
    assert 0 == len(points_of(measured))
    alone = measurements(attacks="native").robust([CANDIDATES[1]], FEW)
    np.testing.assert_array_equal(alone[CANDIDATES[1]], robust[CANDIDATES[1]])
    worst = measured.with_all_attacks().robust(CANDIDATES, FEW)
    assert all(not (worst[jump] & ~robust[jump]).any() for jump in CANDIDATES)
    assert any((robust[jump] & ~worst[jump]).any() for jump in CANDIDATES)


def test_smooth_gates_alone(watch: Watch) -> None:
    """Two attacks find most of what all find, and need not be run again among all."""
    smooth = measurements(attacks="smooth", steps=10)
    assert ["smooth 0.05", "smooth 0.1"] == [
        smooth.plan.stages[n].backward for n in smooth.plan.numbers
    ]
    (few,) = smooth.robust([0.5], FEW).values()
    assert 2 == watch.calls
    everything = smooth.with_all_attacks()
    (worst,) = everything.robust([0.5], FEW).values()
    assert len(suite()) == watch.calls
    assert not (worst & ~few).any()
    native = everything.native([0.5], FEW)[0.5]
    assert int(worst.sum()) <= int(few.sum()) < int(native.sum())
    assert_tried(everything, {0.5: worst})


def test_blocks_are_measured_apart(short_blocks: int) -> None:
    """More samples change nothing of the first ones; later ones are spared what others broke."""
    measured = measurements()
    few = measured.robust(CANDIDATES, 10)
    many = measured.robust(CANDIDATES, FEW)
    assert [10] * 3 == [len(mask) for mask in few.values()]
    for jump in CANDIDATES:
        np.testing.assert_array_equal(few[jump], many[jump][:10])
    pool, block = points_of(measured, short_blocks), slice(short_blocks, FEW)
    assert len(pool)
    x, y = data().spread(FEW)
    rows, points = pool.points(np.ones(FEW - short_blocks, bool))
    assert np.abs(points.astype(np.float64) - x[block][rows]).max() <= EPS
    for jump in CANDIDATES:
        assert not (many[jump] & ~of_file(jump, x, y)).any()
        assert not many[jump][block][rows[~of_file(jump, points, y[block][rows])]].any()


def test_no_batch_is_larger_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks and the session are given at most so many samples at a time, and all of them."""
    sizes: dict[str, list[int]] = {"twin": [], "session": []}
    measured = measurements(batch_size=10)
    network = measured._network
    network.twin.register_forward_pre_hook(lambda _, given: sizes["twin"].append(len(given[0])))
    session = network.predictions

    def counted(x: Any) -> Any:
        sizes["session"].append(len(x))
        return session(x)

    monkeypatch.setattr(network, "predictions", counted)
    (robust,) = measured.robust([0.5], FEW).values()
    assert len(robust) == FEW > 10
    assert 10 == max(sizes["session"])
    # Of an attack they are as few as there can be, and about as large as each other.
    first = sizes["twin"][0]
    assert -(-FEW // 10) == -(-FEW // first)
    assert first == max(sizes["twin"]) <= 10
    broken = measurements().clean(0.5)[:FEW] & ~robust
    assert broken.any()


@pytest.mark.usefixtures("short_blocks")
def test_the_cache_spares_all_attacks(tmp_path: Path, watch: Watch) -> None:
    """Another run with the same file gives the same masks, and attacks nothing."""
    path = tmp_path / "cache"
    first = measurements(path)
    expected = first.robust(CANDIDATES, FEW), first.native(CANDIDATES, FEW), first.clean(0.3)
    first._cache.close()
    assert watch.calls
    watch.calls = 0
    second = measurements(path)
    assert same(expected[0], second.robust(CANDIDATES, FEW))
    assert same(expected[1], second.native(CANDIDATES, FEW))
    np.testing.assert_array_equal(expected[2], second.clean(0.3))
    assert 0 == watch.calls


def test_an_interrupted_run_goes_on(tmp_path: Path, watch: Watch, short_blocks: int) -> None:
    """Whichever attack is broken off, masks and points are those of a run without a break.

    The attacks on that candidate are repeated; those on others before are not.
    """
    whole = measurements(steps=1)
    expected, total = whole.robust(CANDIDATES, FEW), watch.calls
    for stop in (1, 5, 30):
        watch.calls, watch.stop = 0, stop
        first = measurements(tmp_path / f"{stop}", steps=1)
        with pytest.raises(KeyboardInterrupt):
            first.robust(CANDIDATES, FEW)
        first._cache.close()
        watch.stop = 0
        second = measurements(tmp_path / f"{stop}", steps=1)
        assert same(expected, second.robust(CANDIDATES, FEW))
        assert total < watch.calls <= total + len(suite())
        for start in (0, short_blocks):
            pools = [points_of(each, start) for each in (whole, second)]
            found = [pool.points(np.ones(short_blocks, bool)) for pool in pools]
            for one, other in zip(*found, strict=True):
                np.testing.assert_array_equal(one, other)


def test_work_is_told() -> None:
    """Samples that are classified, and those times the attacks; what is known already is none."""
    told = Told()
    measured = measurements(attacks="smooth", work=told)
    measured.clean(0.3)
    measured.robust(CANDIDATES, FEW)
    expected = {"clean": 200, "smooth": 3 * 2 * FEW}
    assert expected == told.amounts
    measured.clean(0.3)
    measured.robust(CANDIDATES, FEW)
    assert expected == told.amounts
    measured.with_all_attacks().robust(CANDIDATES[:1], FEW)
    assert {**expected, "all": (len(suite()) - 2) * FEW} == told.amounts


def test_what_comes_between_is_not_charged_to_a_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making a session or reading the cache is time that went by, and no rate."""
    now, told = [0.0], [0.0, 0.0]

    def advance(count: float, /, total: float | None = None, what: str = "") -> None:
        del what
        assert total is not None
        told[:] = told[0] + count, total

    work = Work(advance=advance, clock=lambda: now[0])
    measured = measurements(tmp_path / "cache", attacks="smooth", work=work)
    set_jumps, predict, attack = Tunable.set, Tunable.predictions, PGD._attack

    def slowly(network: Tunable, jumps: Any) -> None:
        now[0] += 1000
        set_jumps(network, jumps)

    def predicted(network: Tunable, x: Any) -> Any:
        now[0] += 0.01 * len(x)
        return predict(network, x)

    def attacked(attacker: PGD, search: Any) -> None:
        now[0] += 5
        attack(attacker, search)

    monkeypatch.setattr(Tunable, "set", slowly)
    monkeypatch.setattr(Tunable, "predictions", predicted)
    monkeypatch.setattr(PGD, "_attack", attacked)
    measured.clean(0.3)
    measured.robust([0.3], FEW)
    work.expect(lambda: {"clean": 100, "smooth": 2 * FEW})
    assert now[0] == pytest.approx(told[0])
    left = told[1] - told[0]
    # Two attacks, and passes over the samples before and after each.
    assert 1 + 10 < left < 1 + 10 + 3 * 0.01 * FEW + 1e-9


@pytest.mark.parametrize(("stop", "again"), [(2, [64, 64, 64, 8]), (3, [64, 8]), (4, [64, 8])])
def test_an_interrupted_pass_goes_on(
    stop: int, again: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last part that was kept; in the end there is the mask of a whole pass."""
    expected = measurements().clean(0.3)
    monkeypatch.setattr("onnxfit.calibration.measurements.KEPT_EVERY", 100)
    predict = Tunable.predictions
    sizes: list[int] = []
    interrupts = True

    def interrupted(network: Tunable, x: Any) -> Any:
        sizes.append(len(x))
        if interrupts and len(sizes) == stop:
            raise KeyboardInterrupt
        return predict(network, x)

    monkeypatch.setattr(Tunable, "predictions", interrupted)
    first = measurements(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        first.clean(0.3)
    first._cache.close()
    sizes.clear()
    interrupts = False
    # Of batches of 64, two are kept at a time.
    np.testing.assert_array_equal(expected, measurements(tmp_path / "cache").clean(0.3))
    assert again == sizes


def test_points_and_outcome_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    """A failure between the two leaves neither, so that nothing is found twice."""
    whole, path = measurements(steps=1), tmp_path / "cache"
    expected = whole.robust(CANDIDATES, FEW)
    first = measurements(path, steps=1)
    condition = "NEW.name LIKE '%-points-%' BEGIN SELECT RAISE(ABORT, 'no space')"
    first._cache._database.execute(f"CREATE TRIGGER t BEFORE INSERT ON part WHEN {condition}; END")
    with pytest.raises(DataError, match=r"cannot be written: no space$"):
        first.robust(CANDIDATES, FEW)
    assert first._cache.get(first._key("all", 0, CANDIDATES[0])) is None
    assert 0 == len(points_of(first))
    outcomes = condition.replace("%-points-%", "all-%")
    for statement in (
        "DROP TRIGGER t",
        f"CREATE TRIGGER t BEFORE INSERT ON part WHEN {outcomes}; END",
    ):
        first._cache._database.execute(statement)
    with pytest.raises(DataError, match=r"cannot be written: no space$"):
        first.robust(CANDIDATES, FEW)
    assert 0 == len(points_of(first))
    first._cache._database.execute("DROP TRIGGER t")
    first._cache.close()
    second = measurements(path, steps=1)
    assert same(expected, second.robust(CANDIDATES, FEW))
    points = [points_of(each).points(np.ones(FEW, bool))[1] for each in (whole, second)]
    np.testing.assert_array_equal(points[0], points[1])


def test_the_name_of_jumps() -> None:
    """The same for the same numbers in any order of the sites; another for others."""
    array = np.array([[[0.1]], [[0.2]]], np.float32)
    above = float(np.nextafter(np.float32(0.5), np.float32(1)))
    name = key_of({"a": 0.5, "b": array})
    assert name == key_of({"b": array.copy(), "a": 0.5})
    others: list[dict[str, Any]] = [
        {"a": 0.5, "b": array.reshape(2)},
        {"a": 0.5, "b": array[::-1]},
        {"a": above, "b": array},
        {"a": 0.5, "c": array},
        {"a": 0.5},
    ]
    assert len(others) + 1 == len({name, *map(key_of, others)})


def test_what_fools_the_twin_alone_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session has the last word: where it is never wrong, all stay right."""
    measured, (_, y) = measurements(), data().spread(FEW)
    monkeypatch.setattr(Tunable, "predictions", lambda network, points: y[: len(points)])
    assert measured.robust([0.6], FEW)[0.6].all()
    assert 0 == len(points_of(measured))


def test_a_curve_repeats_no_attack(watch: Watch) -> None:
    """A strength that did not race is attacked by each attack once; all that is found counts."""
    measured = measurements(attacks="smooth")
    race = Race([0.1, 0.2], measured)
    race.robust = measured.robust([0.0, 0.1, 0.2], FEW)
    watch.calls = 0
    curve = measure_curve([0.1, 0.2, 0.4, 0.6], race, 0.1, measured)
    assert [0.0, 0.1, 0.2, 0.4, 0.6] == [point.strength for point in curve]
    # All attacks on the two that are new, and all but the two smooth ones on the others.
    assert 5 * len(suite()) - 3 * 2 == watch.calls
    for point in curve:
        assert not (point.worst & ~point.robust).any()
    assert_tried(measured, {point.strength: point.worst for point in curve})
