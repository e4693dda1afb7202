"""Times measured in turns, and their ratios."""

import functools
import subprocess
import sys
import time

import numpy as np
import pytest

from onnxfit.verification.latency import ROUNDS, in_turns, ratio

WITHOUT_ONNX = """
import sys
sys.modules["onnx"] = sys.modules["onnxruntime"] = None
from onnxfit.verification.latency import in_turns
print(in_turns([int], 2).shape)
"""


def test_every_call_goes_first_as_often_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes first in a round finds another cache than the second: no call always does."""
    order: list[int] = []
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    times = in_turns([functools.partial(order.append, i) for i in range(3)])
    assert (ROUNDS, 3) == times.shape
    rounds = np.reshape(order[-3 * ROUNDS :], (ROUNDS, 3))
    assert [[0, 1, 2]] * ROUNDS == np.sort(rounds, axis=1).tolist()
    assert {10, 11} >= set(np.bincount(rounds[:, 0]).tolist())
    assert (2, 3) == in_turns([lambda: None] * 3, 2).shape


def test_a_call_that_sleeps_longer_takes_longer() -> None:
    """The ratio of two calls is that of their times, each in its own column."""
    times = in_turns([lambda: time.sleep(0.02), lambda: time.sleep(0.002)])
    middle, (low, high) = ratio(times[:, 0], times[:, 1])
    assert 2 < middle
    assert low <= middle <= high
    assert ratio(times[:, 1], times[:, 0])[0] == pytest.approx(1 / middle, rel=0.01)


def test_the_interval_is_of_the_tenth_and_the_twenty_second_of_31_rounds() -> None:
    """These bound the median with 95 %, whatever the distribution."""
    times = np.random.default_rng(0).permutation(np.arange(1.0, ROUNDS + 1))
    assert (16.0, (10.0, 22.0)) == ratio(times, np.ones(ROUNDS))


def test_calls_are_measured_without_onnx() -> None:
    """As the CUDA kernels are, beside what PyTorch has, on a machine that has no more than that."""
    assert "(2, 1)\n" == subprocess.check_output([sys.executable, "-c", WITHOUT_ONNX], text=True)
