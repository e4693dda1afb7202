"""What one perturbation does to all samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit import checks
from onnxfit.attacks.attack import Samples, as_tensor, checked
from onnxfit.attacks.ball import Bounds
from onnxfit.attacks.layout import evaluated, laid_out, weights_laid_out
from onnxfit.attacks.search import check_classes
from onnxfit.errors import DataError
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import device_of
from onnxfit.twin.precision import full_precision
from onnxfit.verification.statistics import Interval, wilson

Classes = NDArray[np.int64]


def apply(
    inputs: Samples, delta: torch.Tensor | NDArray[Any], bounds: Bounds = (0.0, 1.0)
) -> Samples:
    """Add a perturbation to samples and clip them to the bounds: clip(x + δ).

    Args:
        inputs: N×….
        delta: Of the shape of a sample.
        bounds: Smallest and largest value of a sample.

    Returns:
        N×…, of the kind and type that the samples were.

    Raises:
        DataError: δ does not have the shape of a sample, or holds a value that is not finite.
    """
    x, moved = as_tensor(inputs), as_tensor(delta)
    if moved.shape != x.shape[1:]:
        raise DataError(
            f"expected a perturbation of the samples' shape {tuple(x.shape[1:])}, "
            f"got {tuple(moved.shape)}"
        )
    if not moved.isfinite().all():
        raise DataError("the perturbation holds values that are not finite")
    found: Any = (x + moved.to(x)).clamp(*bounds)
    return found if isinstance(inputs, torch.Tensor) else found.numpy()


@dataclass(frozen=True, kw_only=True)
class UniversalEvasion:
    """What one perturbation does to samples: counts, shares and their 95 % Wilson intervals.

    A sample with a logit of NaN is misclassified. Where a share is of no sample at all, it and its
    interval are None.

    Attributes:
        n: Number of samples.
        n_correct: Number of those that are classified rightly without the perturbation.
        evaded: Number of all that are misclassified with it.
        evaded_correct: Number of the ``n_correct`` that are.
        n_others: Number of samples whose label is not the target; None without a target.
        reached: Number of those that are taken for the target; None without a target.
    """

    n: int
    n_correct: int
    evaded: int
    evaded_correct: int
    n_others: int | None = None
    reached: int | None = None

    @classmethod
    def counted(
        cls, labels: Classes, before: Classes, after: Classes, target: int | None = None
    ) -> Self:
        """Count what became of samples.

        Args:
            labels: Their classes, N.
            before: What a model takes them for, N; -1 where a logit is NaN.
            after: The same with the perturbation.
            target: Also count the samples that are taken for this class.
        """
        right, evaded, others = before == labels, after != labels, labels != target
        return cls(
            n=len(labels),
            n_correct=int(right.sum()),
            evaded=int(evaded.sum()),
            evaded_correct=int((right & evaded).sum()),
            n_others=None if target is None else int(others.sum()),
            reached=None if target is None else int((others & (after == target)).sum()),
        )

    @property
    def record(self) -> Mapping[str, Any]:
        """The shares as the documents hold them; that of the target where there is one."""
        shares: dict[str, Any] = {
            "evasion_rate": self.of_all,
            "evasion_rate_ci95": self.of_all_interval,
            "evasion_rate_of_correct": self.of_correct,
            "evasion_rate_of_correct_ci95": self.of_correct_interval,
        }
        if self.reached is not None:
            shares |= {"to_target": self.to_target, "to_target_ci95": self.to_target_interval}
        return shares

    @property
    def of_all(self) -> float:
        """The share of all samples that are misclassified with the perturbation."""
        return self.evaded / self.n

    @property
    def of_all_interval(self) -> Interval:
        """The limits of that share."""
        return wilson(self.evaded, self.n)

    @property
    def of_correct(self) -> float | None:
        """The share of those classified rightly before that are misclassified with it."""
        return self.evaded_correct / self.n_correct if self.n_correct else None

    @property
    def of_correct_interval(self) -> Interval | None:
        """The limits of that share."""
        return wilson(self.evaded_correct, self.n_correct) if self.n_correct else None

    @property
    def to_target(self) -> float | None:
        """The share of the samples of other classes that are taken for the target with it."""
        return self.reached / self.n_others if self.n_others and self.reached is not None else None

    @property
    def to_target_interval(self) -> Interval | None:
        """The limits of that share."""
        if not self.n_others or self.reached is None:
            return None
        return wilson(self.reached, self.n_others)


def universal_evasion_rate(
    model: torch.nn.Module,
    inputs: torch.Tensor | NDArray[Any],
    labels: torch.Tensor | NDArray[Any],
    delta: torch.Tensor | NDArray[Any],
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 100,
    target: int | None = None,
) -> UniversalEvasion:
    """Measure what a universal perturbation does to samples.

    Args:
        model: Returns logits, N×C; needs no gradients, so that it may be a file in ONNX Runtime.
        inputs: Samples within the bounds, N×… with N at least 1; float32 or float64.
        labels: Their classes, N integers.
        delta: The perturbation, of the shape of a sample.
        bounds: Smallest and largest value of a sample.
        batch_size: Samples given to the model at a time.
        target: Also count the samples that are taken for this class.

    Raises:
        DataError: The samples, labels or δ are not what they should be, or there are no samples.
        ModelError: The module does not return logits, or has no class ``target``.
        ValueError: The batch size is less than 1.
    """
    checks.whole("batch_size", batch_size, 1)
    x, y = checked(inputs, labels, bounds)
    if not len(x):
        raise DataError("there is no sample to measure a universal perturbation on")
    device = device_of(model)
    before: list[Classes] = []
    after: list[Classes] = []
    with torch.no_grad(), full_precision(), evaluated(model), weights_laid_out(model, x):
        for part in x.split(batch_size):
            for points, found in ((part, before), (apply(part, delta, bounds), after)):
                logits = as_logits(model(laid_out(points.to(device))), len(part))
                check_classes(logits.shape[1], y, target)
                classes = logits.argmax(1).masked_fill(logits.isnan().any(1), -1)
                found.append(classes.cpu().numpy())
    return UniversalEvasion.counted(
        y.cpu().numpy(), np.concatenate(before), np.concatenate(after), target
    )
