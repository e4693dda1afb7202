"""The pool keeps a few adversarial points of each sample, in order, and in the cache."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxfit.calibration.cache import Cache
from onnxfit.calibration.pool import MOST_POINTS, Pool

ALL = np.ones(6, np.bool_)


def rows(*numbers: int) -> NDArray[np.intp]:
    """Return the numbers of samples."""
    return np.array(numbers, np.intp)


def points(*values: float) -> NDArray[np.float32]:
    """Return points of 1×2 that hold these values."""
    return np.repeat(np.array(values, np.float32), 2).reshape(-1, 1, 2)


def filled(cache: Cache) -> Pool:
    """Make a pool that was given five points of four samples in two steps."""
    pool = Pool(cache, "block")
    pool.add(rows(4, 0, 2), points(1, 2, 3))
    pool.add(rows(5, 4), points(4, 5))
    return pool


def given(pool: Pool, left: NDArray[np.bool_] = ALL, first: int = 0) -> list[tuple[int, float]]:
    """Return what a pool gives as pairs of a sample's number and its point's value."""
    numbers, found = pool.points(left, first)
    assert (len(numbers), 1, 2) == found.shape
    assert np.float32 == found.dtype
    return list(zip(numbers.tolist(), found[:, 0, 0].tolist(), strict=True))


@pytest.fixture
def cache() -> Cache:
    """Make a cache that is gone in the end."""
    return Cache(None, {})


def test_points_are_given_in_the_order_in_which_they_came(cache: Cache) -> None:
    """With the number of the sample of each."""
    pool = filled(cache)
    assert 5 == len(pool)
    assert [(4, 1), (0, 2), (2, 3), (5, 4), (4, 5)] == given(pool)


def test_only_points_of_the_samples_left_are_given(cache: Cache) -> None:
    """Neither of those broken before nor of those without points."""
    pool = filled(cache)
    assert [(4, 1), (4, 5)] == given(pool, np.arange(6) == 4)
    assert [] == given(pool, np.arange(6) == 3)
    assert [] == given(pool, ~ALL)


def test_a_part_of_the_points_can_be_asked_for(cache: Cache) -> None:
    """Numbers count all points, whether their samples are left or not."""
    pool = filled(cache)
    assert [(2, 3), (5, 4), (4, 5)] == given(pool, first=2)
    assert [(5, 4)] == given(pool, np.arange(6) == 5, first=1)
    assert [] == given(pool, first=5)


def test_a_sample_has_no_more_than_four_points(cache: Cache) -> None:
    """The first four stay, and other samples still get theirs."""
    pool = Pool(cache, "block")
    for value in range(6):
        pool.add(rows(1, 3) if value % 2 else rows(1), points(*[value] * (1 + value % 2)))
    pool.add(rows(1, 3, 0), points(7, 8, 9))
    of_sample_1 = [value for row, value in given(pool) if row == 1]
    assert 4 == MOST_POINTS
    assert [0, 1, 2, 3] == of_sample_1
    assert [1, 3, 5, 8] == [value for row, value in given(pool) if row == 3]
    assert [(0, 9)] == given(pool)[-1:]


def test_an_empty_pool_gives_nothing(cache: Cache) -> None:
    """Nor does one that was given no points."""
    pool = Pool(cache, "block")
    assert [0, 0] == [len(part) for part in pool.points(ALL)]
    pool.add(rows(), points())
    assert 0 == len(pool)
    assert [0, 0] == [len(part) for part in pool.points(ALL)]


def test_a_pool_is_found_again_in_the_cache(tmp_path: Path) -> None:
    """With its order and its limits; that of another block is another."""
    path = tmp_path / "cache"
    first = Cache(path, {})
    expected = given(filled(first))
    first.close()
    second = Cache(path, {})
    pool = Pool(second, "block")
    assert expected == given(pool)
    assert 0 == len(Pool(second, "another"))
    for value in (6, 7, 8):
        pool.add(rows(4), points(value))
    second.close()
    third = Cache(path, {})
    assert [*expected, (4, 6), (4, 7)] == given(Pool(third, "block"))
    third.close()


def test_what_is_put_beside_points_is_kept_without_any(cache: Cache) -> None:
    """With points, with none, and where no sample has room for more."""
    pool = Pool(cache, "block")
    pool.add(rows(1), points(1), beside={"a": {"x": ALL}})
    pool.add(rows(), points(), beside={"b": {"x": ALL}})
    for value in range(MOST_POINTS):
        pool.add(rows(1), points(value), beside={f"c{value}": {"x": ALL}})
    assert all(cache.get(name) is not None for name in ("a", "b", f"c{MOST_POINTS - 1}"))
    assert MOST_POINTS == len(pool) == len(Pool(cache, "block"))
