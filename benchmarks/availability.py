"""What the benchmarks for a GPU need to leave a part out with a reason."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class UnavailableError(Exception):
    """A part cannot run here; the message says why."""


class DiffersError(Exception):
    """Two implementations disagree."""


def load(name: str) -> Any:
    """Import a module.

    Raises:
        UnavailableError: It is not installed, or does not load.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a build for CUDA without its driver raises OSError and others
        raise UnavailableError(f"{name}: {error}") from error


def in_turns(calls: Sequence[Callable[[], Any]], device: str) -> NDArray[np.float64]:
    """Return the seconds of some calls, rounds × calls; not measured on a CPU, but called once."""
    latency = load("onnxfit.verification.latency")
    if device == "cpu":
        for call in calls:
            call()
        return np.ones((latency.ROUNDS, len(calls)))
    times: NDArray[np.float64] = latency.in_turns(calls)
    return times
