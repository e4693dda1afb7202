"""Which samples stay right under which jumps, clean and attacked; everything is measured once.

Attacks follow the twin's gradients, and what they find counts when ONNX Runtime is fooled. Every
adversarial point that one candidate falls for is tried on the others too, before they are attacked
and afterwards: that is one pass where an attack is hundreds, and no candidate looks better for
having been attacked first.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxfit.calibration.cache import KEPT_EVERY, Cache
from onnxfit.calibration.pool import Pool
from onnxfit.calibration.scales import Jump
from onnxfit.calibration.selection import FIRST_HEAT, Mask
from onnxfit.calibration.tunable import Tunable
from onnxfit.calibration.work import Work
from onnxfit.data import Dataset
from onnxfit.verification.suites import Stage

# Samples of the first block, and of the largest.
BLOCK = FIRST_HEAT
LARGEST_BLOCK = 4 * BLOCK
# The first samples, on which native gradients are to show what they find themselves.
COMMON = 4 * BLOCK

# What is known of each candidate.
_KINDS = ("robust", "native")

Attacks = Literal["all", "smooth", "native"]
# The backward passes that find nearly all that all of them together find.
SMOOTH = ("smooth 0.05", "smooth 0.1")


class Sample(NamedTuple):
    """The samples that attacks may use, in the order of their use.

    Attributes:
        x: n×….
        y: Their labels.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How candidates are measured.

    A candidate is whatever ``jumps_of`` makes jumps of; the network before hardening is one too.

    Attributes:
        jumps_of: Gives the jumps of a candidate.
        spreads: The standard deviation of each site's input.
        stages: The attacks, those with native gradients first.
        attacks: Which of them are used: ``all``; ``smooth``, a few that find nearly as much; or
            ``native``, those with the network's own gradient.
        search: What the order of the attacks depends on, and so which of the points that others
            fell for they find: another search measures anew.
        seed: Of everything random.
        batch_size: Samples computed at a time.
    """

    jumps_of: Callable[[Any], Mapping[str, Jump]]
    spreads: Mapping[str, float]
    stages: Sequence[Stage]
    attacks: Attacks = "all"
    search: str = ""
    seed: int = 0
    batch_size: int = 64

    @property
    def numbers(self) -> list[int]:
        """The numbers of the stages that are used."""
        return numbers_of(self.stages, self.attacks)


class Measurements:
    """What candidates do to samples.

    Args:
        network: Its jumps are set for each candidate.
        data: All samples.
        sample: Those that attacks may use.
        plan: How they are measured.
        cache: What is measured already is there.
        work: Is told of what is done.
        calls: Numbers what is asked for, from 0; the measurements of one search share it.

    Attributes:
        attacked: How many samples the attacks may use.
        plan: How they are measured.
    """

    def __init__(
        self,
        network: Tunable,
        data: Dataset,
        sample: Sample,
        plan: Plan,
        cache: Cache,
        work: Work,
        calls: Iterator[int] | None = None,
    ) -> None:
        self._calls = itertools.count() if calls is None else calls
        self._network, self._data, self._sample, self._cache = network, data, sample, cache
        self.plan, self._work = plan, work
        self.attacked = len(sample.y)

    def with_all_attacks(self) -> "Measurements":
        """Return the same with every attack, where the plan has some of them."""
        plan = dataclasses.replace(self.plan, attacks="all")
        given = self._network, self._data, self._sample, plan, self._cache, self._work
        return Measurements(*given, self._calls)

    def clean(self, candidate: Any) -> Mask:
        """Return which of all samples the network classifies rightly, N booleans.

        What is done is kept every few thousand samples, and an interrupted pass goes on from there.
        """
        jumps = self.plan.jumps_of(candidate)
        name = f"clean-{key_of(jumps)}"
        kept = self._cache.get(name)
        right: Mask = np.zeros(0, bool) if kept is None else kept["right"]
        if len(right) == self._data.n:
            return right
        self._set(jumps)
        size, parts, since = self.plan.batch_size, [right], 0
        for x, y in itertools.islice(self._data.batches(size), len(right) // size, None):
            parts.append(self._right(x, y))
            self._work.did("clean", len(y))
            since += len(y)
            if since >= KEPT_EVERY:
                since = 0
                self._cache.put(name, {"right": np.concatenate(parts)})
        right = np.concatenate(parts)
        self._cache.put(name, {"right": right})
        return right

    def robust(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return which of the first samples stay right, for each candidate."""
        return self._masks(candidates, count, "robust")

    def native(self, candidates: Sequence[Any], count: int) -> dict[Any, Mask]:
        """Return the same under the attacks with native gradients alone; at most ``COMMON``.

        The plan must have them. Unless it has none but these, later samples are spared them where
        others did.
        """
        return self._masks(candidates, count, "native")

    def _masks(self, candidates: Sequence[Any], count: int, kind: str) -> dict[Any, Mask]:
        parts: dict[Any, list[Mask]] = {candidate: [] for candidate in candidates}
        for start in starts(count):
            for candidate, outcome in self._block(start, list(parts)).items():
                parts[candidate].append(outcome[kind])
        return {candidate: np.concatenate(masks)[:count] for candidate, masks in parts.items()}

    def _block(self, start: int, candidates: Sequence[Any]) -> dict[Any, dict[str, Any]]:
        """Measure candidates on a block of samples, each with the others' adversarial points.

        The answer is kept. A search that goes on from a cache is given what it was given before:
        measured anew, a candidate would be tried on points that were found only later.
        """
        plan = self.plan
        asked = hashlib.sha256("".join(key_of(plan.jumps_of(c)) for c in candidates).encode())
        answer = f"{plan.search}-{next(self._calls)}-{asked.hexdigest()}-answer"
        if (kept := self._cache.get(answer)) is not None:
            return {
                candidate: {kind: kept[f"{kind}{number}"] for kind in _KINDS}
                for number, candidate in enumerate(candidates)
            }
        keys = {c: self._key(plan.attacks, start, c) for c in candidates}
        outcomes: dict[Any, dict[str, Any]] = {}
        pool = Pool(self._cache, f"{plan.search}-{start}-points")
        for candidate, key in keys.items():
            # Only now, as the jumps of an earlier one may be the same.
            found = self._cache.get(key)
            if found is None:
                found, rows, points = self._attack(candidate, start, pool)
                # All at once, so that an interrupted attack leaves nothing and can be repeated.
                pool.add(rows, points, beside={key: found})
            outcomes[candidate] = found
        for candidate, outcome in outcomes.items():
            if plan.attacks != "native" and int(outcome["tried"]) < len(pool):
                self._set(self.plan.jumps_of(candidate))
                self._try(pool, int(outcome["tried"]), start, outcome["robust"])
                outcome["tried"] = np.array(len(pool))
                self._cache.put(keys[candidate], outcome)
        self._cache.put(
            answer,
            {
                f"{kind}{number}": outcome[kind]
                for number, outcome in enumerate(outcomes.values())
                for kind in _KINDS
            },
        )
        return outcomes

    def _attack(
        self, candidate: Any, start: int, pool: Pool
    ) -> tuple[dict[str, Any], NDArray[np.intp], NDArray[np.float32]]:
        """Attack a candidate on a block.

        Returns:
            What stays right and what was tried; the points that break a sample, for the pool, and
            the numbers of these samples.
        """
        jumps = self.plan.jumps_of(candidate)
        self._set(jumps)
        left = self._right(*self._block_of(start))
        # What the smooth gates alone have found already is not looked for again.
        smooth = self._cache.get(self._key("smooth", start, candidate))
        numbers = self.plan.numbers if smooth is None else self._without_smooth()
        native = [n for n in numbers if self.plan.stages[n].family == "native"]
        others = [n for n in numbers if n not in native]
        apart = bool(native) and (start < COMMON or not others)
        tried = len(pool)
        if not apart:
            self._try(pool, 0, start, left)
        broken = [self._stage(number, jumps, start, left) for number in native]
        under_native = left.copy()
        if others:
            if apart:
                self._try(pool, 0, start, left)
            if smooth is not None:
                left &= smooth["robust"]
            broken += [self._stage(number, jumps, start, left) for number in others]
        rows, points = (np.concatenate(parts) for parts in zip(*broken, strict=True))
        # Native gradients alone share nothing.
        kept = slice(None if others else 0)
        found = {"robust": left, "native": under_native, "tried": np.array(tried)}
        return found, rows[kept], points[kept]

    def _set(self, jumps: Mapping[str, Jump]) -> None:
        """Set the jumps; what that took, and what came before, is no part of a measurement."""
        self._network.set(jumps)
        self._work.start()

    def _key(self, attacks: Attacks, start: int, candidate: Any) -> str:
        """Return the name under which an outcome is kept."""
        return f"{attacks}-{self.plan.search}-{start}-{key_of(self.plan.jumps_of(candidate))}"

    def _without_smooth(self) -> list[int]:
        """Return the numbers of the stages in use but for those of the smooth gates alone."""
        smooth = dataclasses.replace(self.plan, attacks="smooth").numbers
        return [number for number in self.plan.numbers if number not in smooth]

    def _stage(
        self, number: int, jumps: Mapping[str, Jump], start: int, left: Mask
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Run one attack on the samples of a block that are left; return what it breaks."""
        scales = {
            site: max(float(np.mean(jump)), self.plan.spreads.get(site, 0.0)) or 1.0
            for site, jump in jumps.items()
        }
        rows, block = np.flatnonzero(left), self._block_of(start)
        points = block.x[rows]
        # As few batches as there can be, all of them nearly as large.
        count = math.ceil(len(rows) / self.plan.batch_size)
        for part in np.array_split(np.arange(len(rows)), count) if count else ():
            words = [self.plan.seed, number, start, part[0]]
            seed = int(np.random.SeedSequence(words).generate_state(1)[0])
            attack = self.plan.stages[number].on(None, seed)
            points[part] = attack(
                self._network.twin,
                points[part],
                block.y[rows[part]],
                scales=scales,
                advance=lambda count: self._work.did(self.plan.attacks, count),
            )
            left[rows[part]] = self._right(points[part], block.y[rows[part]])
        # Those that were spared it are done as well.
        self._work.did(self.plan.attacks, len(left) - len(rows))
        fooled = ~left[rows]
        return rows[fooled], points[fooled]

    def _try(self, pool: Pool, first: int, start: int, left: Mask) -> None:
        """Try the points of a pool from one number on, and take out the samples they break."""
        rows, points = pool.points(left, first)
        left[rows[~self._right(points, self._block_of(start).y[rows])]] = False
        # Its time is part of that of an attack.
        self._work.did(self.plan.attacks, 0)

    def _block_of(self, start: int) -> Sample:
        part = slice(start, min(start + size_of(start), self.attacked))
        return Sample(np.asarray(self._sample.x[part]), self._sample.y[part])

    def _right(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> Mask:
        """Say which samples the session classifies rightly."""
        right = np.zeros(len(y), bool)
        for at in range(0, len(y), self.plan.batch_size):
            part = slice(at, at + self.plan.batch_size)
            right[part] = self._network.predictions(x[part]) == y[part]
        return right


def starts(count: int) -> Iterator[int]:
    """Yield where the blocks begin that hold the first so many samples."""
    start = 0
    while start < count:
        yield start
        start += size_of(start)


def size_of(start: int) -> int:
    """Return how many samples the block that begins there has: as many as come before it.

    All candidates are attacked on a block before the next one. The larger it is, the fuller are the
    batches of what is left in it, and the more an interrupted attack has to repeat.
    """
    return min(max(start, BLOCK), LARGEST_BLOCK)


def numbers_of(stages: Sequence[Stage], attacks: Attacks) -> list[int]:
    """Return the numbers of the stages that are used."""
    if attacks == "smooth":
        used = [stage.name == "pgd" and stage.backward in SMOOTH for stage in stages]
    else:
        used = [attacks in ("all", stage.family) for stage in stages]
    return [number for number, use in enumerate(used) if use]


def key_of(jumps: Mapping[str, Jump]) -> str:
    """Return a name for jumps, the same for the same ones."""
    digest = hashlib.sha256()
    for site in sorted(jumps):
        numbers = np.asarray(jumps[site], np.float32)
        digest.update(f"{site}\0{numbers.shape}\0".encode() + numbers.tobytes())
    return digest.hexdigest()[:32]
