"""Samples that two sets of data share."""

import numpy as np

from onnxfit.data import from_arrays
from onnxfit.overlap import among


def test_samples_are_compared_by_their_values() -> None:
    """Not by labels, order or how they are stored; bytes stand for numbers within the bounds."""
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (50, 1, 4, 4), np.uint8)
    labels = np.zeros(50, np.int64)
    stored = from_arrays(levels, labels)
    x = (levels[[4, 9, 9, 30]] / 255).astype(np.float32)
    x[1, 0, 0, 0] = (x[1, 0, 0, 0] + 0.5) / 2
    given = from_arrays(x, np.ones(4, np.int64))
    assert [True, False, True, True] == among(given.batches(3), stored).tolist()
    assert [4, 9, 30] == np.flatnonzero(among(stored.batches(7), given)).tolist()


def test_zeros_of_both_signs_are_the_same() -> None:
    """As any model has it."""
    zeros = from_arrays(np.zeros((2, 3), np.float32), np.zeros(2, np.int64))
    others = from_arrays(np.full((1, 3), -0.0, np.float32), np.zeros(1, np.int64))
    assert [True] == among(others.batches(1), zeros).tolist()


def test_samples_of_another_shape_are_others() -> None:
    """No sample has the bytes of a part of another."""
    small = from_arrays(np.zeros((2, 3), np.float32), np.zeros(2, np.int64))
    large = from_arrays(np.zeros((2, 6), np.float32), np.zeros(2, np.int64))
    assert [False, False] == among(large.batches(2), small).tolist()
