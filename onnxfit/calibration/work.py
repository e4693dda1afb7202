"""How long a calibration takes: what is done, and what is left at most, in seconds."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Literal

from onnxfit.verification.progress import Advance, nobody

# A sample that goes through the network for its statistics or for the clean accuracy; or that one
# attack of those that the race uses (native or smooth), or of all, is made on.
Kind = Literal["statistics", "clean", "native", "smooth", "all"]

# Of a sample that is classified, before one was measured, in seconds.
FIRST_GUESS = 1e-4
# How many times as long the other kinds take, before they are measured: that of statistics, and
# that of each step of an attack.
STATISTICS, STEP = 8.0, 3.0


class Work:
    """Counts what is done of each kind, and learns from the clock how long it takes.

    What was in the cache is not told, so that it is never taken for fast work.

    Args:
        steps: Of an attack.
        advance: Is told of the seconds that went by, and those of the whole as now expected.
        clock: Gives seconds.
    """

    def __init__(
        self,
        steps: int = 1,
        advance: Advance = nobody,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._weights: dict[Kind, float] = {"statistics": STATISTICS, "clean": 1.0}
        self._weights |= dict.fromkeys(("native", "smooth", "all"), STEP * steps)
        self._advance, self._clock = advance, clock
        self._last, self._done = clock(), 0.0
        self._amounts: dict[Kind, float] = dict.fromkeys(self._weights, 0.0)
        self._seconds: dict[Kind, float] = dict.fromkeys(self._weights, 0.0)
        self._left: dict[Kind, float] = {}

    def expect(self, left: Callable[[], Mapping[Kind, float]], what: str = "") -> None:
        """Correct how much of each kind is left, and tell what is done next.

        Args:
            left: Says how much. It is not asked where nobody is told, and no failure of it counts.
            what: What is done next.
        """
        if self._advance is not nobody:
            with contextlib.suppress(Exception):
                self._left = dict(left())
        self._tell(self._passed(), what)

    def start(self) -> None:
        """Begin a measurement: the time since the last call is done, but of no kind."""
        self._tell(self._passed())

    def did(self, kind: Kind, amount: float) -> None:
        """Count some work; the time since the last call was spent on it."""
        seconds = self._passed()
        self._amounts[kind] += amount
        self._seconds[kind] += seconds
        self._left[kind] = max(0.0, self._left.get(kind, 0.0) - amount)
        self._tell(seconds)

    def _passed(self) -> float:
        """Return the seconds since the last call."""
        before, self._last = self._last, self._clock()
        return self._last - before

    def _tell(self, seconds: float, what: str = "") -> None:
        self._done += seconds
        left = sum(self._rate(kind) * amount for kind, amount in self._left.items())
        self._advance(seconds, self._done + left, what)

    def _rate(self, kind: Kind) -> float:
        """Return how many seconds one of a kind takes."""
        if self._amounts[kind]:
            return self._seconds[kind] / self._amounts[kind]
        weighted = sum(self._weights[known] * amount for known, amount in self._amounts.items())
        guess = sum(self._seconds.values()) / weighted if weighted else FIRST_GUESS
        return self._weights[kind] * guess
