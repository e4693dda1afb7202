"""What the Jacobians of two samples have in common, and whether one perturbation fools both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.ball import Bounds, Norm, unit_steps
from onnxfit.attacks.losses import LOSSES
from onnxfit.correlation import spearman
from onnxfit.data import Dataset
from onnxfit.jacobians.products import (
    Advance,
    gram_of,
    inner_of,
    jacobians_of,
    largest_of,
    logits_at,
    smaller_gram_of,
    trace_of,
)
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import gradient_of

# Names the classes of samples.
Classify = Callable[[torch.Tensor], NDArray[np.int64]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Measures of P pairs of samples i and j.

    Attributes:
        rows: The numbers of both samples, i < j, int64, P×2.
        cosine: ⟨Jᵢ, Jⱼ⟩_F / (‖Jᵢ‖_F·‖Jⱼ‖_F), from −1 to 1, float64, P; NaN where one of them is 0.
        spectral_ratio: σ_max([Jᵢ; Jⱼ])² / (σ_max(Jᵢ)² + σ_max(Jⱼ)²), from ½ where they have nothing
            in common to 1, float64, P; NaN where both are 0.
        correct: Whether both samples are classified correctly, booleans, P.
        fooled: Whether, beside that, one perturbation makes both of another class, booleans, P.
    """

    rows: NDArray[np.int64]
    cosine: NDArray[np.float64]
    spectral_ratio: NDArray[np.float64]
    correct: NDArray[np.bool_]
    fooled: NDArray[np.bool_]

    def correlation(self, metric: Literal["cosine", "spectral_ratio"]) -> float:
        """Correlate a measure with joint success, over the pairs that are classified correctly.

        Returns:
            Spearman's ρ; NaN where all or none of these pairs are fooled.
        """
        values: NDArray[np.float64] = getattr(self, metric)
        used = self.correct & np.isfinite(values)
        return spearman(values[used], self.fooled[used])


@dataclass(frozen=True)
class Step:
    """One step of a perturbation that two samples share, and what names the classes then."""

    eps: float
    norm: Norm
    bounds: Bounds
    classify: Classify

    def moved(self, model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return samples, P×2×…, each pair moved together along the gradient of its loss."""
        leaf, logits = logits_at(model, x.flatten(0, 1))
        gradient = gradient_of(LOSSES["ce"](logits, labels.flatten()).sum(), leaf)
        together = gradient.reshape(x.shape).sum(1)
        moved = x + self.eps * unit_steps(together, self.norm).unsqueeze(1)
        return moved.clamp(*self.bounds)

    def outcome(
        self, model: torch.nn.Module, x: torch.Tensor, labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Say which pairs, P×2×…, are classified correctly, and which of them are both fooled."""
        moved = self.moved(model, x, torch.from_numpy(labels).to(x.device))
        before, after = (
            self.classify(points.flatten(0, 1)).reshape(labels.shape) == labels
            for points in (x, moved)
        )
        correct = before.all(1)
        return correct, correct & ~after.any(1)


def classes_by(model: torch.nn.Module, device: torch.device) -> Classify:
    """Return what names the classes that a model finds."""

    def classify(x: torch.Tensor) -> NDArray[np.int64]:
        with torch.no_grad():
            classes = as_logits(model(x.to(device)), len(x)).argmax(1)
        found: NDArray[np.int64] = classes.cpu().numpy()
        return found

    return classify


def draw_pairs(n: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw different pairs i < j of n samples; all of them if there are no more than ``count``.

    Returns:
        int64, P×2, in order.
    """
    total = n * (n - 1) // 2
    if count >= total:
        numbers = np.arange(total)
    else:
        numbers = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    # Pair number k of the order (0, 1), (0, 2), (1, 2), (0, 3), …
    pairs = []
    for number in numbers.tolist():
        j = (1 + math.isqrt(1 + 8 * number)) // 2
        pairs.append((number - j * (j - 1) // 2, j))
    return np.array(pairs, np.int64).reshape(-1, 2)


def all_pairs(
    model: torch.nn.Module,
    data: Dataset,
    rows: NDArray[np.int64],
    per_batch: int,
    step: Step,
    device: torch.device,
    advance: Advance,
) -> Pairs:
    """Measure pairs of samples, P×2, so many at a time."""
    used = np.unique(rows)
    samples = _gathered(data, used, 2 * per_batch)
    found: list[tuple[NDArray[Any], ...]] = []
    for start in range(0, len(rows), per_batch):
        here = rows[start : start + per_batch]
        x = samples[torch.from_numpy(np.searchsorted(used, here))].to(device)
        found.append((*pair_metrics(model, x), *step.outcome(model, x, data.labels[here])))
        advance(len(here))
    cosine, ratio, correct, fooled = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Pairs(rows=rows, cosine=cosine, spectral_ratio=ratio, correct=correct, fooled=fooled)


def pair_metrics(
    model: torch.nn.Module, x: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute both measures of pairs, see :class:`Pairs`.

    Args:
        model: From samples to logits, each sample's its own.
        x: Samples, P×2×….

    Returns:
        The cosines and the spectral ratios, P each.

    Raises:
        ModelError: As :func:`jacobians_of`.
    """
    jacobians = jacobians_of(model, x.flatten(0, 1)).unflatten(0, (len(x), 2))
    first, second = jacobians.unbind(1)
    own, other = smaller_gram_of(first), smaller_gram_of(second)
    apart = largest_of(own) + largest_of(other)
    lengths = trace_of(own).sqrt() * trace_of(other).sqrt()
    classes, dimensions = first.shape[1:]
    if 2 * classes <= dimensions:  # Then the blocks of the smaller Gram matrix are there already.
        both = gram_of(first, second)
        inner = trace_of(both)
        stacked = torch.cat([torch.cat([own, both], 2), torch.cat([both.mT, other], 2)], 1)
    else:
        inner = inner_of(first, second)
        stacked = smaller_gram_of(jacobians.flatten(1, 2))
    ratio, cosine = largest_of(stacked) / apart, inner / lengths
    return cosine.clamp(-1, 1).cpu().numpy(), ratio.clamp(0.5, 1).cpu().numpy()


def numbers_of(classes: int, dimensions: int) -> int:
    """Return how many float32 numbers :func:`pair_metrics` takes the memory of, for each pair.

    There are two Jacobians, or what there is of their Gram matrices: four of the stacked ones and
    four of those of one sample, all in double precision.
    """
    stacked, alone = min(2 * classes, dimensions), min(classes, dimensions)
    return max(2 * classes * dimensions, 2 * 4 * (stacked**2 + alone**2))


def _gathered(data: Dataset, rows: NDArray[np.int64], batch_size: int) -> torch.Tensor:
    """Return some samples by their numbers, which are in order."""
    parts, start = [], 0
    for x, _ in data.batches(batch_size):
        parts.append(x[rows[(rows >= start) & (rows < start + len(x))] - start])
        start += len(x)
    return torch.from_numpy(np.concatenate(parts))
