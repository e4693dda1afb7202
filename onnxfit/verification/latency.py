"""How long a file takes beside another, in ONNX Runtime, measured in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # The benchmarks of the CUDA kernels measure where there is no ONNX, too.
    import torch

    from onnxfit.verification.deployed_classifier import DeployedClassifier

# A round lasts at least this long, so that the clock's own steps do not matter.
_ROUND_SECONDS = 1e-2
_WARM_UP = 3
# Of 31 sorted rounds, those that bound the median with 95 % confidence: 10th and 22nd.
ROUNDS = 31
_LOW, _HIGH = 9, 21


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of a model beside that of its baseline.

    Attributes:
        ratio: Median over the rounds of the model's time as a share of the baseline's.
        ci95: Interval of the median, from the sorted rounds.
        model_ms: Median time of one call in milliseconds.
        baseline_ms: The same of the baseline.
        rounds: How often both were measured, in turns.
        batch_size: Samples of a call.
        threads: Of the session; 0 where ONNX Runtime chooses.
        provider: That the session prefers.
    """

    ratio: float
    ci95: tuple[float, float]
    model_ms: float
    baseline_ms: float
    rounds: int
    batch_size: int
    threads: int
    provider: str


def measure(
    model: "DeployedClassifier", baseline: "DeployedClassifier", x: "torch.Tensor"
) -> Latency:
    """Measure one file beside another; a file takes exactly as long as itself.

    Args:
        model: The one.
        baseline: The other.
        x: The samples of a call, n×….
    """
    times = in_turns([model.call(x), baseline.call(x)])
    if model is baseline:
        times[:, 0] = times[:, 1]
    middle, ci95 = ratio(times[:, 0], times[:, 1])
    milliseconds = np.median(times, axis=0) * 1000
    session = model.deployed.session
    return Latency(
        ratio=middle,
        ci95=ci95,
        model_ms=float(milliseconds[0]),
        baseline_ms=float(milliseconds[1]),
        rounds=ROUNDS,
        batch_size=len(x),
        threads=session.get_session_options().intra_op_num_threads,
        provider=session.get_providers()[0],
    )


def in_turns(calls: Sequence[Callable[[], Any]], rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Measure some calls in turns, each first as often as the others.

    Args:
        calls: What to measure.
        rounds: How often; :func:`ratio` needs ROUNDS.

    Returns:
        The seconds of one call, rounds × calls.
    """
    for _ in range(_WARM_UP):
        once = [_seconds(call, 1) for call in calls]
    repeats = max(1, int(_ROUND_SECONDS / max(min(once), 1e-9)))
    times = np.zeros((rounds, len(calls)))
    for number in range(rounds):
        for which in np.roll(range(len(calls)), number):
            times[number, which] = _seconds(calls[which], repeats)
    return times


def ratio(
    times: NDArray[np.float64], others: NDArray[np.float64]
) -> tuple[float, tuple[float, float]]:
    """Return the median ratio of two columns of :func:`in_turns` and its 95 % interval."""
    ratios = np.sort(times / others)
    return float(np.median(ratios)), (float(ratios[_LOW]), float(ratios[_HIGH]))


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return how long a call takes, the mean of some."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats
