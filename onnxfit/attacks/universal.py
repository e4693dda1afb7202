"""One perturbation for all samples, made by gradients, and what it does."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.attack import Samples, above_0, as_tensor, at_least, checked
from onnxfit.attacks.ball import Ball, Bounds, Norm, unit_steps
from onnxfit.attacks.gradient import BIM
from onnxfit.attacks.layout import evaluated, laid_out, weights_laid_out
from onnxfit.attacks.losses import cross_entropy_margin
from onnxfit.attacks.search import Search
from onnxfit.attacks.surrogates import scales_of, surrogate
from onnxfit.errors import DataError, ModelError
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import device_of, gradient_of
from onnxfit.twin.precision import full_precision
from onnxfit.verification.statistics import Interval, wilson

_SHARE_OF_STEP = 0.8  # A step's default length, as a share of eps.


@dataclass(frozen=True, kw_only=True)
class UniversalPerturbation:
    """Settings of a universal perturbation, SGD-UAP; a call makes it of samples.

    It is a single δ, of the shape of a sample, that is added to every sample. From δ = 0 each batch
    takes a step along the mean gradient of min(L, cap), L the cross-entropy, at the points
    clip(x + δ): along its sign for ``linf``, along itself for ``l2``; then δ is projected to the
    norm. The clip to the bounds takes no part in the gradient, so that values at a bound have
    theirs. The method is that of Co, Rego and Lupu (2021, arXiv 2104.10459), after Mummadi et al.
    (2019) and Shafahi et al. (2020).

    Attributes:
        eps: Largest perturbation, in units of the bounds and the norm.
        norm: ``linf`` or ``l2``.
        bounds: Smallest and largest value of a sample.
        seed: Of the order of the samples, another one in each epoch.
        epochs: How often each sample is used.
        batch_size: Samples of each step, at least 1.
        step_size: Length of a step in units of the bounds and the norm; None for 0.8 · eps.
        cap: Largest loss that counts, in nats: samples beyond it no longer pull.
        target: A class that samples shall be taken for; each step then lowers min(L, cap) of it.
            None for any wrong class. Where all of a batch are beyond the cap, none is.
        backward: Which slope a JumpReLU has in the backward pass; see
            :class:`onnxfit.attacks.attack.GradientAttack`.
        tau: Width of the smooth gate, as a share of a site's scale.
    """

    eps: float
    norm: Norm = "linf"
    bounds: Bounds = (0.0, 1.0)
    seed: int = 0
    epochs: int = 10
    batch_size: int = 100
    step_size: float | None = None
    cap: float = 12.0
    target: int | None = None
    backward: str = "true"
    tau: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: One is out of its range.
        """
        # Made for its checks alone: it has these settings too.
        BIM(
            eps=self.eps,
            norm=self.norm,
            bounds=self.bounds,
            step_size=self.step_size,
            backward=self.backward,
            tau=self.tau,
        )
        above_0("eps", self.eps)
        above_0("cap", self.cap)
        at_least("epochs", self.epochs, 1)
        at_least("batch_size", self.batch_size, 1)
        if self.target is not None:
            at_least("target", self.target, 0)

    @property
    def length_of_step(self) -> float:
        """The length of a step, whether it was given or not."""
        return _SHARE_OF_STEP * self.eps if self.step_size is None else self.step_size

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them, with the length of a step."""
        return {**dataclasses.asdict(self), "step_size": self.length_of_step}

    def __call__(
        self,
        model: torch.nn.Module,
        inputs: Samples,
        labels: torch.Tensor | NDArray[Any],
        *,
        scales: Mapping[str, float] | None = None,
        advance: Callable[[int], object] = lambda count: None,
    ) -> Samples:
        """Make the perturbation of samples.

        The module is in evaluation mode for the length of the call. What comes out depends on the
        seed, on nothing random outside.

        Args:
            model: Returns logits, N×C with at least two classes.
            inputs: Samples within the bounds, N×… with N at least 1; float32 or float64.
            labels: Their classes, N integers.
            scales: The width of each JumpReLU that ``tau`` is a share of, by site; by default
                measured on the first batch, see :func:`onnxfit.attacks.scales_of`.
            advance: Is called with the number of samples of each batch; epochs · N in all.

        Returns:
            δ, of the shape of a sample, of the kind and type that the samples were. In double
            precision its norm is at most ``eps``.

        Raises:
            DataError: The samples or labels are not what they should be, or there are none.
            ModelError: The module does not return logits, has no class ``target``, or no gradient
                reaches its input.
        """
        x, y = checked(inputs, labels, self.bounds)
        if not len(x):
            raise DataError("there is no sample to make a universal perturbation of")
        y = y.to(x.device)
        with full_precision(), evaluated(model), weights_laid_out(model, x):
            with torch.no_grad():
                first = as_logits(model(x[:1].to(device_of(model))), 1)
            _check_classes(first.shape[1], y, self.target)
            found: Any = self._made(model, x, y, scales, advance)
        return found.to(inputs.device) if isinstance(inputs, torch.Tensor) else found.cpu().numpy()

    def _made(
        self,
        model: torch.nn.Module,
        x: torch.Tensor,
        labels: torch.Tensor,
        scales: Mapping[str, float] | None,
        advance: Callable[[int], object],
    ) -> torch.Tensor:
        """Return δ, on the module's device."""
        device = device_of(model)
        generator = torch.Generator().manual_seed(self.seed)
        delta = torch.zeros_like(x[:1], device=device).contiguous()
        ball = Ball(delta, self.eps, self.norm, (-self.eps, self.eps))
        for _ in range(self.epochs):
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for rows in order.split(self.batch_size):
                points = laid_out((x[rows].to(device) + delta).clamp(*self.bounds))
                if scales is None and self.backward == "smooth":
                    scales = scales_of(model, points)
                with surrogate(model, self.backward, self.tau, scales):
                    gradient = self._gradient(model, points, labels[rows].to(device))
                if gradient is not None:
                    direction = unit_steps(gradient, self.norm)
                    if not direction.any():  # A plateau, which only chance leaves.
                        noise = torch.randn(delta.shape, generator=generator, dtype=delta.dtype)
                        direction = unit_steps(noise.to(delta), self.norm)
                    delta = ball.project(torch.add(delta, direction, alpha=self.length_of_step))
                advance(len(rows))
        return delta[0].contiguous()

    def _gradient(
        self, model: torch.nn.Module, points: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the direction of the mean gradient, 1×…; None where no sample counts any more.

        Its length means nothing: a factor that all samples share keeps it from underflow.
        """
        if self.target is not None:
            labels = torch.full_like(labels, self.target)
        with torch.enable_grad():
            # Points are leaves: nothing that clipped them takes part in the gradient.
            leaf = points.detach().requires_grad_()
            gaps = cross_entropy_margin(as_logits(model(leaf), len(leaf)), labels)
            losses = torch.nn.functional.softplus(gaps.detach())
            counted = losses < self.cap
            if self.target is not None and not counted.any():
                counted = ~losses.isnan()
            # The gradient of the cross-entropy is that of the gap times its sigmoid.
            slopes = torch.nn.functional.logsigmoid(gaps.detach())
            slopes = slopes.masked_fill(~counted, -math.inf)
            weights = (slopes - slopes.max()).exp().nan_to_num()
            gradient = gradient_of((weights * gaps).sum(), leaf)
        if not counted.any():
            return None
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        gradient = gradient / gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)
        mean = gradient.mean(0, keepdim=True)
        return mean if self.target is None else -mean


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
    at_least("batch_size", batch_size, 1)
    x, y = checked(inputs, labels, bounds)
    if not len(x):
        raise DataError("there is no sample to measure a universal perturbation on")
    device = device_of(model)
    sums = np.zeros(5, dtype=np.int64)
    with torch.no_grad(), full_precision(), evaluated(model), weights_laid_out(model, x):
        for rows in torch.arange(len(x), device=x.device).split(batch_size):
            clean, part = x[rows], y.to(x.device)[rows].to(device)
            moved = apply(clean, delta, bounds)
            before, after = (
                as_logits(model(laid_out(points.to(device))), len(rows))
                for points in (clean, moved)
            )
            _check_classes(before.shape[1], y, target)
            right, evaded = ~Search.wrong(before, part), Search.wrong(after, part)
            # No class is -1, and no label.
            goal = -1 if target is None else target
            others = part != goal
            reached = others & ~Search.wrong(after, torch.full_like(part, goal))
            counts = (right, evaded, right & evaded, others, reached)
            sums += [int(each.sum()) for each in counts]
    n_correct, evaded_all, evaded_correct, n_others, n_reached = sums.tolist()
    return UniversalEvasion(
        n=len(x),
        n_correct=n_correct,
        evaded=evaded_all,
        evaded_correct=evaded_correct,
        n_others=None if target is None else n_others,
        reached=None if target is None else n_reached,
    )


def _check_classes(classes: int, labels: torch.Tensor, target: int | None) -> None:
    """Check labels and target against a model's classes.

    Raises:
        DataError: A label is none of them.
        ModelError: There are fewer than two, or the target is none of them.
    """
    if classes < 2:
        raise ModelError("the model gives one number per sample, not the logits of classes")
    if int(labels.max()) >= classes:
        at = int(labels.argmax())
        raise DataError(
            f"the label of sample {at} is {int(labels[at])}, but the model has "
            f"{classes} classes, 0 to {classes - 1}"
        )
    if target is not None and not 0 <= target < classes:
        raise ModelError(
            f"the model has {classes} classes, 0 to {classes - 1}, but no class {target}"
        )
