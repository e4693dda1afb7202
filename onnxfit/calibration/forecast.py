"""What is left of a search: it is run on what is known already, with guesses for the rest."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxfit.calibration.measurements import BLOCK, Attacks, Measurements
from onnxfit.calibration.search import Search
from onnxfit.calibration.selection import Mask
from onnxfit.calibration.work import Kind, Work
from onnxfit.errors import DataError

# Where no strength outside the budget is known, the edge is taken to lie so much higher than the
# largest one inside; the other way round likewise.
FARTHER = 1.5


@dataclass(frozen=True)
class Known:
    """What has been measured.

    Attributes:
        clean: By candidate: which of all samples are right.
        robust: By attacks and candidate, for each block by its first sample: which stay right.
        answers: What was asked for about attacks, in order. With the same answers the search goes
            the same way, whatever points were found later.
    """

    clean: dict[Any, Mask] = field(default_factory=dict)
    robust: dict[tuple[Attacks, Any], dict[int, Mask]] = field(default_factory=dict)
    answers: list[dict[Any, Mask]] = field(default_factory=list)

    def copy(self) -> "Known":
        """Return the same, to which more can be added."""
        return Known(dict(self.clean), {key: dict(masks) for key, masks in self.robust.items()})

    def blocks(self, attacks: Attacks, candidate: Any) -> dict[int, Mask]:
        """Return the blocks of a candidate, to be filled."""
        return self.robust.setdefault((attacks, _plain(candidate)), {})


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Says how much of a search is left.

    Attributes:
        search: It is run on guesses.
        samples: How many there are.
        attacked: How many of them attacks may use.
        stages: How many attacks there are of each kind.
        attacks: Which the search uses.
    """

    search: Search
    samples: int
    attacked: int
    stages: Mapping[Attacks, int]
    attacks: Attacks

    def left(self, known: Known) -> Mapping[Kind, float]:
        """Return how much of each kind of work is left, from what was measured."""
        guess = Guess(
            forecast=self,
            known=known,
            answered=known.copy(),
            replay=iter(known.answers),
            attacks=self.attacks,
            edge=self._edge(known),
            attacked=self.attacked,
        )
        with contextlib.suppress(DataError):
            self.search.run(guess)
        return guess.needed

    def _edge(self, known: Known) -> float:
        """Return up to which strength the budget is likely to be met."""
        settings, clean = self.search.settings, known.clean
        inside, outside = 0.0, math.inf
        for strength in sorted(c for c in clean if c and not isinstance(c, tuple)):
            if settings.budget.allows(clean[0.0], clean[strength]):
                inside = strength
            else:
                outside = min(outside, strength)
        if inside and outside < math.inf:
            return (inside + outside) / 2
        if inside:
            return FARTHER * inside
        if outside < math.inf:
            return outside / FARTHER
        given = settings.strengths
        return self.search.first if given is None else float(np.median(given))


@dataclass(kw_only=True)
class Guess:
    """Stands for measurements: answers from what is known, guesses the rest, and counts that.

    Clean: all is as before hardening up to an edge between the largest strength inside the budget
    and the smallest outside, and nothing is right beyond. Attacked: a candidate goes on as it
    began, or as the nearest one; of sites that are hardened alone, every other one buys something.

    Attributes:
        forecast: What is asked for.
        known: What was measured.
        answered: The same, and what was guessed.
        replay: The answers that were given, to be given again.
        attacks: Which are used.
        edge: The largest strength taken to be inside the budget.
        attacked: How many samples attacks may use.
        needed: How much of each kind of work was asked for that is not done.
    """

    forecast: Forecast
    known: Known
    answered: Known
    replay: Iterator[dict[Any, Mask]]
    attacks: Attacks
    edge: float
    attacked: int
    needed: Counter[Kind] = field(default_factory=Counter)

    def with_all_attacks(self) -> "Guess":
        """Return the same with every attack."""
        return replace(self, attacks="all")

    def clean(self, candidate: Any) -> Mask:
        """Return which of all samples are right, by a guess if need be."""
        candidate = _plain(candidate)
        if candidate not in self.answered.clean:
            self.needed["clean"] += self.forecast.samples
            before = self.answered.clean.get(0.0, np.ones(self.forecast.samples, bool))
            inside = not candidate or np.mean(candidate) <= self.edge
            self.answered.clean[candidate] = before if inside else np.zeros_like(before)
        return self.answered.clean[candidate]

    def robust(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return which of the first samples stay right, by a guess if need be."""
        given = next(self.replay, None)
        if given is not None:
            return given
        return {c: self._robust(c, count)[:count] for c in candidates}

    def native(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return the same: both come of the same attacks."""
        return self.robust(candidates, count)

    def _robust(self, candidate: Any, count: int) -> Mask:
        masks = self.answered.blocks(self.attacks, candidate)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, self.attacked - start)
            if start not in masks:
                smooth = self.answered.blocks("smooth", candidate)
                spared = self.attacks == "all" and start in smooth
                count_of = self.forecast.stages
                stages = count_of[self.attacks] - (count_of["smooth"] if spared else 0)
                self.needed[self.attacks] += stages * size
                masks[start] = smooth[start] if spared else self._like(candidate, size)
        return np.concatenate([masks[start] for start in range(0, count, BLOCK)])

    def _like(self, candidate: Any, size: int) -> Mask:
        """Return a guess for a block."""
        candidate = _plain(candidate)
        known = {c: m for (kind, c), m in self.known.robust.items() if kind == self.attacks and m}
        if candidate not in known and isinstance(candidate, tuple):
            guess = self._like(0.0, size)
            alone = np.flatnonzero(candidate)
            if len(alone) == 1 and alone[0] % 2 == 0:
                guess[np.argmin(guess)] = True
            return guess
        numbers = [c for c in known if not isinstance(c, tuple)]
        if candidate not in known and not numbers:
            half: Mask = np.arange(size) % 2 == 0
            return half
        if candidate not in known:
            candidate = min(numbers, key=lambda number: abs(number - candidate))
        found: Mask = np.resize(np.concatenate([*known[candidate].values()]), size)
        return found


class Watched:
    """Measurements that tell how much of the whole search is left as they are asked for.

    Args:
        measured: They measure.
        forecast: Tells from what is known how much is left.
        work: Is told.
        known: What was measured.
    """

    def __init__(
        self,
        measured: Measurements,
        forecast: Forecast,
        work: Work,
        known: Known | None = None,
    ) -> None:
        self._measured, self._forecast, self._work = measured, forecast, work
        self._known = Known() if known is None else known
        self.attacked = measured.attacked

    def with_all_attacks(self) -> "Watched":
        """Return the same with every attack."""
        other = self._measured.with_all_attacks()
        return Watched(other, self._forecast, self._work, self._known)

    def clean(self, candidate: Any) -> Mask:
        """Return which of all samples are right."""
        known, plain = self._known.clean, _plain(candidate)
        if plain not in known:
            if self._measured.kept_clean(candidate) is None:
                self._work.expect(self._forecast.left(self._known), "clean accuracy")
            known[plain] = self._measured.clean(candidate)
        return known[plain]

    def robust(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return which of the first samples stay right."""
        return self._told(candidates, count, self._measured.robust)

    def native(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return the same under the attacks with native gradients alone."""
        return self._told(candidates, count, self._measured.native)

    def _told(
        self, candidates: Sequence[Any], count: int, ask: Callable[..., dict[Any, Mask]]
    ) -> dict[Any, Mask]:
        if self._note(candidates, count):
            what = f"{len(candidates)} candidates attacked on {count} samples"
            self._work.expect(self._forecast.left(self._known), what)
        found = ask(candidates, count)
        self._note(candidates, count)
        self._known.answers.append(found)
        return found

    def _note(self, candidates: Sequence[Any], count: int) -> int:
        """Note what was measured of candidates; return how many blocks are missing."""
        missing = 0
        for candidate in candidates:
            masks = self._known.blocks(self._measured.plan.attacks, candidate)
            for start in range(0, count, BLOCK):
                kept = self._measured.kept(candidate, start)
                missing += kept is None
                if kept is not None:
                    masks[start] = kept
        return missing


def _plain(candidate: Any) -> Any:
    """Return a candidate as the one strength of all sites where they have the same."""
    if isinstance(candidate, tuple) and len({*candidate}) == 1:
        return candidate[0]
    return candidate
