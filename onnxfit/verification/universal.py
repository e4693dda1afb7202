"""One perturbation for all samples: made on some of them, and judged by the file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.ball import QuantizedBall, make_ball
from onnxfit.attacks.evasion import Classes, UniversalEvasion, apply
from onnxfit.attacks.procedural import chessboard, perlin
from onnxfit.attacks.universal import UniversalPerturbation
from onnxfit.data import Batch
from onnxfit.errors import DataError
from onnxfit.image_layout import pixels_of
from onnxfit.verification.result import Document
from onnxfit.verification.suites import Threat, backward_name
from onnxfit.verification.target import Target

Kind = Literal["uap", "chessboard", "perlin"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Fields of the chessboards that are tried, in pixels.
CELLS = (1, 2, 4, 8)
# How many Perlin noises are tried, and the most octaves that one has.
NOISES = 16
OCTAVES = 4
SHORTEST_PERIOD = 2.0
UNFOLLOWED = (
    "Universal perturbations of the {} followed its own gradients alone, none of its surrogate "
    "networks."
)

Points = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A universal perturbation that is tried.

    Attributes:
        delta: The perturbation, of the shape of a sample.
        settings: How it was made, as JSON can hold it.
        backward: What reports call the backward pass that it was made with.
    """

    delta: Points
    settings: Document
    backward: str = "none"


def followed(
    attacks: Sequence[UniversalPerturbation], target: Target, samples: Batch, **how: Any
) -> list[Candidate]:
    """Make perturbations along the gradients of a model's twin.

    Args:
        attacks: A perturbation is made with each.
        target: The model.
        samples: What they are made on.
        **how: ``scales`` and ``advance`` of :class:`UniversalPerturbation`.

    Raises:
        DataError, ModelError: As :class:`UniversalPerturbation`.
    """
    return [
        Candidate(
            delta=attack(target.twin, *samples, **how),
            settings=attack.settings,
            backward=backward_name(attack),
        )
        for attack in attacks
    ]


def patterns(kind: Kind, shape: tuple[int, ...], threat: Threat, seed: int) -> list[Candidate]:
    """Make the perturbations of a kind that need no model, to choose from.

    Chessboards have fields of several sizes. Of Perlin noise the period, the octaves and the seed
    are drawn at random, which is the random search of Co et al. (2019, arXiv 1810.00470) in few
    trials: periods from two pixels to the longer side, evenly on a logarithmic scale.

    Args:
        kind: ``chessboard`` or ``perlin``.
        shape: Of a sample, C×H×W or H×W×C.
        threat: Its eps and norm are those of the perturbations.
        seed: Of the random search.

    Raises:
        DataError: The samples are no images.
    """
    side = max(pixels_of(shape))
    if kind == "chessboard":
        make: Callable[..., Points] = chessboard
        tried: list[Document] = [{"cell": cell} for cell in CELLS if cell == 1 or 2 * cell <= side]
    else:
        make, generator = perlin, np.random.default_rng(seed)
        tried = [
            {
                "period": float(SHORTEST_PERIOD * (side / SHORTEST_PERIOD) ** generator.random()),
                "octaves": int(generator.integers(1, OCTAVES + 1)),
                "seed": int(generator.integers(2**32)),
            }
            for _ in range(NOISES)
        ]
    return [
        Candidate(delta=make(shape, threat.eps, threat.norm, **settings), settings=settings)
        for settings in tried
    ]


def perturbed(x: Points, delta: Points, threat: Threat) -> Points:
    """Add a perturbation to samples: clip(x + δ), no farther than eps as floats hold it.

    Args:
        x: The samples, N×….
        delta: Of the shape of a sample.
        threat: How far points may be, the bounds, and whether 8 bits must hold them.

    Raises:
        DataError: δ does not fit, or 8 bits do not hold the samples.
    """
    samples = torch.from_numpy(x)
    try:
        ball = make_ball(samples, threat.eps, threat.norm, threat.bounds, quantize=threat.quantize)
    except ValueError as error:
        raise DataError(str(error)) from error
    points = ball.project(apply(samples, delta, threat.bounds))
    if isinstance(ball, QuantizedBall):
        points = ball.quantize(points)
    found: Points = points.numpy()
    return found


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What the file takes samples for, alone and with each of K perturbations; -1 for NaN.

    Attributes:
        labels: Their classes, N.
        before: What the samples themselves are taken for, N.
        after: What they are taken for with each perturbation, K×N.
    """

    labels: Classes
    before: Classes
    after: Classes

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which samples are classified correctly, N."""
        return self.before == self.labels

    @property
    def misclassified(self) -> NDArray[np.bool_]:
        """Which are not with each perturbation, K×N."""
        return self.after != self.labels

    @property
    def fooled(self) -> NDArray[np.bool_]:
        """Which are classified correctly but with a perturbation, K×N."""
        return self.misclassified & self.right

    def evasions(self, goal: int | None = None) -> list[UniversalEvasion]:
        """Return what each perturbation does; ``goal`` is the class that it aims at."""
        counted = UniversalEvasion.counted
        return [counted(self.labels, self.before, after, goal) for after in self.after]


def judge(
    target: Target,
    batches: Iterable[Batch],
    candidates: Sequence[Candidate],
    threat: Threat,
    advance: Callable[[int], object] = lambda count: None,
) -> Verdicts:
    """Let the file in ONNX Runtime judge samples with perturbations.

    Args:
        target: The model.
        batches: The samples, at least one.
        candidates: The perturbations.
        threat: As in :func:`perturbed`.
        advance: Is called with the number of points of each batch.
    """
    labels, before, after = [], [], []
    for x, y in batches:
        if not len(x):
            continue
        labels.append(y)
        before.append(target.predictions(x))
        points = (perturbed(x, candidate.delta, threat) for candidate in candidates)
        classes = [target.predictions(each) for each in points]
        after.append(np.array(classes, np.int64).reshape(len(candidates), len(x)))
        advance(len(candidates) * len(x))
    return Verdicts(
        labels=np.concatenate(labels),
        before=np.concatenate(before),
        after=np.concatenate(after, axis=1),
    )


def best(verdicts: Verdicts, goal: int | None = None) -> int:
    """Return the number of the perturbation that does most, the first of equals.

    It is the one with the highest share of misclassified samples among those classified correctly
    before; with a class to aim at, of samples of other classes taken for it.
    """
    shares = [
        evasion.of_correct if goal is None else evasion.to_target
        for evasion in verdicts.evasions(goal)
    ]
    return int(np.argmax([-1.0 if share is None else share for share in shares]))


def halves(labels: Classes, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples in two at random, each class evenly: what is made on, what is measured on.

    A class of at least two samples is in both. Of an odd number the first half has one more.

    Args:
        labels: The classes, N.
        seed: Of the split.

    Returns:
        The numbers of the samples of each half, ascending.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    return np.sort(order[::2]), np.sort(order[1::2])


def in_batches(samples: Batch, size: int) -> Iterator[Batch]:
    """Yield samples that are in memory, ``size`` at a time."""
    for start in range(0, len(samples.x), size):
        rows = slice(start, start + size)
        yield Batch(samples.x[rows], samples.y[rows])
