"""Attack a model, and the one that it is compared with, on all samples, and keep the score.

Samples are taken a shard at a time; within it each attack works on those that are left, in
batches. What an attack found counts when the file in ONNX Runtime misclassifies it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.search import Search
from onnxfit.attacks.surrogates import scales_of
from onnxfit.data import Batch, Dataset
from onnxfit.verification.curve import Curve
from onnxfit.verification.journal import Journal
from onnxfit.verification.suites import Stage
from onnxfit.verification.target import Target

Side = Literal["model", "baseline"]
Mask = NDArray[np.bool_]

# Samples that are held at a time: enough to fill batches again as attacks succeed.
SHARD_SAMPLES = 1000
SHARD_BYTES = 64 * 2**20
# Samples that the scales of the jumps are measured on.
SCALE_SAMPLES = 256

_NO_ATTACK = -1


@dataclass
class Tally:
    """What one attack did to all samples: a value for each.

    Attributes:
        attacked: Whether the attack was given the sample.
        twin: Whether its point fools the twin.
        deployed: Whether it fools the file.
        seconds: How long it took.
        ran: Whether it could run: a model through which no gradient passes has none to follow, and
            one without the stage's surrogate network has not got that.
    """

    attacked: Mask
    twin: Mask
    deployed: Mask
    seconds: float = 0.0
    ran: bool = True


class Score:
    """What happened to all samples of one model.

    Attributes:
        correct: Whether the file classifies the sample itself correctly, N booleans.
        tallies: One for each stage.
        finder: The number of the stage that first broke a sample; -1 for none.
    """

    def __init__(self, n: int, stages: Sequence[Stage]) -> None:
        self.stages = stages
        self.correct: Mask = np.zeros(n, bool)
        self.tallies = [
            Tally(np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)) for _ in stages
        ]
        self.finder = np.full(n, _NO_ATTACK)

    def robust(self, *families: str) -> Mask:
        """Return which samples are right after the stages of some families; without any, all."""
        left = self.correct.copy()
        for stage, tally in zip(self.stages, self.tallies, strict=True):
            if not families or stage.family in families:
                left &= ~tally.deployed
        return left

    def broken_through(self) -> dict[str, int]:
        """Count the samples that attacks through each surrogate network were the first to break."""
        counts: dict[str, int] = {}
        for number, stage in enumerate(self.stages):
            if stage.network is not None:
                first = int((self.finder == number).sum())
                counts[stage.network] = counts.get(stage.network, 0) + first
        return counts


@dataclass(frozen=True, kw_only=True)
class Found:
    """A shard as it is when all attacks are done.

    Attributes:
        start: The number of its first sample.
        x: Its samples, n×….
        y: Their labels.
        points: For each side, what fooled its file, n×…; the sample where nothing did.
    """

    start: int
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    points: dict[Side, NDArray[np.float32]]


class Campaign:
    """Attacks on a model and on the one that it is compared with, with the same samples and budget.

    Args:
        targets: The models under attack: one, or two to compare.
        data: The samples.
        stages: The attacks.
        seed: Of everything random.
        batch_size: Samples computed at a time.
        sources: For each side, the module that transferred attacks start from; by default the
            twin of the other side.
        journal: What is already done.

    Attributes:
        curves: What else is measured of each side.
        advance: Is called with a number of samples as attacks are done with them; :attr:`work`
            in all.
        scores: What happened, by side.
        scales: The scale of each jump, the same for both sides.
    """

    def __init__(
        self,
        targets: dict[Side, Target],
        data: Dataset,
        stages: Sequence[Stage],
        *,
        seed: int = 0,
        batch_size: int = 64,
        sources: dict[Side, torch.nn.Module] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.targets, self.data, self.stages = targets, data, stages
        self._seed, self._batch_size = seed, batch_size
        self._sources = sources or _others(targets)
        self.curves: dict[Side, Curve] = {}
        self._journal = journal or Journal(None, {}, resume=False)
        self.advance: Callable[[int], object] = lambda count: None
        self.scores: dict[Side, Score] = {side: Score(data.n, stages) for side in targets}
        self.scales = self._measured_scales()

    @property
    def work(self) -> int:
        """How many samples :attr:`advance` will be told of."""
        return self.data.n * len(self.stages) * len(self.targets)

    def run(self) -> Iterator[Found]:
        """Attack everything, and yield each shard as soon as it is done.

        Raises:
            DataError, ModelError: As the data, the attacks and ONNX Runtime do.
        """
        start = 0
        for shard in _shards(self.data, self._batch_size):
            points = {side: self._attack(side, shard, start) for side in self.targets}
            yield Found(start=start, x=shard.x, y=shard.y, points=points)
            start += len(shard.x)

    def _measured_scales(self) -> dict[str, float]:
        """Measure the scales on samples of all data; the model's go before the baseline's."""
        some = self.data.spread(SCALE_SAMPLES)
        scales: dict[str, float] = {}
        for target in reversed(self.targets.values()):
            scales.update(scales_of(target.twin, torch.from_numpy(some.x).to(target.device)))
        return scales

    def _attack(self, side: Side, shard: Batch, start: int) -> NDArray[np.float32]:
        """Run every stage on a shard; return the points that fool the file."""
        target, score = self.targets[side], self.scores[side]
        rows = slice(start, start + len(shard.x))
        right = np.concatenate(
            [target.predictions(x) == y for x, y in self._batches(shard, np.arange(len(shard.x)))]
        )
        score.correct[rows] = right
        left, points = right.copy(), shard.x.copy()
        one = torch.from_numpy(shard.x[:1])
        followed = {stage.network: target.followed(stage.network, one) for stage in self.stages}
        for number, stage in enumerate(self.stages):
            given = np.flatnonzero(right if stage.everyone else left)
            tally = score.tallies[number]
            if stage.needs_gradients and not followed[stage.network]:
                tally.ran, given = False, given[:0]
            self.advance(len(right) - len(given))
            found = self._stage(side, number, shard, start, given)
            tally.attacked[rows][given] = True
            tally.twin[rows][given] = found["twin"]
            tally.deployed[rows][given] = found["deployed"]
            tally.seconds += float(found["seconds"].sum())
            new = given[found["deployed"] & left[given]]
            fooled = given[found["deployed"]]
            points[new] = found["points"][np.isin(fooled, new)]
            score.finder[rows][new] = number
            left[new] = False
        if side in self.curves:
            name = f"{start}-{side}-curve"
            counts = self._journal.get(name)
            if counts is None:
                native = score.robust("native")[rows]
                counts = self.curves[side].measure(target, shard, right, left, native)
                self._journal.put(name, counts)
            self.curves[side].add(counts)
        return points

    def _stage(
        self, side: Side, number: int, shard: Batch, start: int, given: NDArray[np.intp]
    ) -> dict[str, NDArray[Any]]:
        """Run one attack on some samples of a shard; take what an earlier run found of them.

        Returns:
            ``twin`` and ``deployed``: whether a sample's point fools each; ``points``: those that
            fool the file, in order; ``seconds``.
        """
        parts = []
        for first, (x, y) in zip(
            given[:: self._batch_size], self._batches(shard, given), strict=True
        ):
            name = f"{start + first}-{side}-{number}"
            part = self._journal.get(name)
            if part is None:
                part = self._batch(side, number, start + int(first), x, y)
                self._journal.put(name, part)
            else:
                self.advance(len(x))
            parts.append(part)
        return _joined(parts, shard.x)

    def _batch(
        self, side: Side, number: int, first: int, x: torch.Tensor, y: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Run one attack on a batch, and judge what comes out by the twin and by the file."""
        target, stage = self.targets[side], self.stages[number]
        module = target.deployed if stage.deployed else target.twin
        followed = module if stage.network is None else target.networks[stage.network]
        began = time.perf_counter()
        seed = int(np.random.SeedSequence([self._seed, number, first]).generate_state(1)[0])
        attack, labels = stage.on(self._sources.get(side), seed), torch.from_numpy(y)
        how: dict[str, Any] = {"scales": self.scales, "advance": self.advance, "judge": module}
        points = attack(followed, x, labels, **how)
        with torch.no_grad():
            logits = target.twin(points.to(target.device)).cpu()
        deployed = target.predictions(points) != y
        return {
            "points": points.numpy()[deployed],
            "twin": Search.wrong(logits, labels).numpy(),
            "deployed": deployed,
            "seconds": np.array([time.perf_counter() - began]),
        }

    def _batches(
        self, shard: Batch, rows: NDArray[np.intp]
    ) -> Iterator[tuple[torch.Tensor, NDArray[np.int64]]]:
        """Yield some samples of a shard, a batch at a time."""
        for start in range(0, len(rows), self._batch_size):
            chosen = rows[start : start + self._batch_size]
            yield torch.from_numpy(shard.x[chosen]), shard.y[chosen]


def _others(targets: dict[Side, Target]) -> dict[Side, torch.nn.Module]:
    """Return the twin of the other side for each."""
    if len(targets) < 2:
        return {}
    return {"model": targets["baseline"].twin, "baseline": targets["model"].twin}


def _joined(
    parts: Sequence[dict[str, NDArray[Any]]], like: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """Join what the batches of a stage gave."""
    none = np.zeros(0, bool)
    nothing = {"points": like[:0], "twin": none, "deployed": none, "seconds": np.zeros(0)}
    everything = [nothing, *parts]
    return {name: np.concatenate([part[name] for part in everything]) for name in nothing}


def _shards(data: Dataset, batch_size: int) -> Iterator[Batch]:
    """Yield the samples, as many at a time as memory is meant for."""
    bytes_each = 4 * int(np.prod(data.shape, dtype=np.int64))
    size = min(SHARD_SAMPLES, SHARD_BYTES // max(bytes_each, 1))
    yield from data.batches(max(size, batch_size))
