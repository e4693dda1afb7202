"""One perturbation for all samples, made by gradients."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from onnxfit import checks
from onnxfit.attacks.attack import Samples, checked
from onnxfit.attacks.ball import NORMS, Ball, Bounds, Norm, unit_steps
from onnxfit.attacks.layout import evaluated, laid_out, weights_laid_out
from onnxfit.attacks.losses import cross_entropy_margin
from onnxfit.attacks.search import check_classes
from onnxfit.attacks.surrogates import scales_of, surrogate
from onnxfit.errors import DataError
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import device_of, gradient_of
from onnxfit.twin.jump_relu import BACKWARDS
from onnxfit.twin.precision import full_precision

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
        checks.above_0("eps", self.eps)
        checks.one_of("norm", self.norm, NORMS)
        checks.bounds(self.bounds)
        checks.seed(self.seed)
        if self.step_size is not None:
            checks.above_0("step_size", self.step_size)
        checks.one_of("backward", self.backward, BACKWARDS)
        checks.above_0("tau", self.tau)
        checks.above_0("cap", self.cap)
        checks.whole("epochs", self.epochs, 1)
        checks.whole("batch_size", self.batch_size, 1)
        if self.target is not None:
            checks.whole("target", self.target, 0)

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
            check_classes(first.shape[1], y, self.target)
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
