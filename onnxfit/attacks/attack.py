"""What every attack does: check what it is given, attack, and judge what came out."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.ball import NORMS, Bounds, Norm, QuantizedBall, axes, make_ball
from onnxfit.attacks.layout import laid_out, weights_laid_out
from onnxfit.attacks.losses import LossFunction
from onnxfit.attacks.surrogates import scales_of, surrogate
from onnxfit.errors import DataError, ModelError
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.jump_relu import BACKWARDS

Samples = TypeVar("Samples", bound=torch.Tensor | NDArray[Any])


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Settings of an attack; a call attacks samples.

    Attributes:
        norm: What measures a perturbation: ``linf``, the largest change of a value, or ``l2``, its
            Euclidean length.
        bounds: Smallest and largest value of a sample.
        seed: Of everything random in a call.
        quantize: Look only at points that 8 bits can hold between the bounds.
        norms: Which norms the attack knows.
    """

    norm: Norm = "linf"
    bounds: Bounds = (0.0, 1.0)
    seed: int = 0
    quantize: bool = False

    norms: ClassVar[tuple[Norm, ...]] = NORMS

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: One is out of its range.
        """
        if self.norm not in self.norms:
            raise ValueError(f"expected a norm of {' or '.join(self.norms)}, got {self.norm!r}")
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"expected finite bounds, the lower one first, got {self.bounds}")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return dataclasses.asdict(self)

    @property
    def radius(self) -> float:
        """How far the attack may go; infinite if as far as it needs to."""
        return math.inf

    def __call__(
        self,
        model: torch.nn.Module,
        inputs: Samples,
        labels: torch.Tensor | NDArray[Any],
        *,
        scales: Mapping[str, float] | None = None,
        advance: Callable[[int], object] = lambda count: None,
    ) -> Samples:
        """Attack samples.

        The module is in evaluation mode for the length of the call. What comes out depends on the
        seed, on nothing random outside; a module with randomness of its own aside.

        Args:
            model: Returns logits, N×C with at least two classes.
            inputs: Samples within the bounds, N×…; float32 or float64.
            labels: Their classes, N integers.
            scales: The width of each JumpReLU, by site, that the smooth gate's ``tau`` is a share
                of; by default measured on the inputs, see :func:`onnxfit.attacks.scales_of`.
            advance: Is called with a number of samples as soon as they are done with, N in all.

        Returns:
            For each sample a point within the bounds and the attack's reach, of the kind that the
            samples were: misclassified where the attack found one, the sample itself where it is
            misclassified already, else the best that the attack came to.

        Raises:
            DataError: The samples or labels are not what they should be.
            ModelError: The module does not return logits, or no gradient reaches its input.
        """
        x, y = _checked(inputs, labels, self.bounds)
        device = device_of(model)
        training = [part for part in model.modules() if part.training]
        model.eval()
        try:
            with weights_laid_out(model, x):
                search = Search(self, model, x.to(device), y.to(device), scales, advance)
                if len(x) and search.remaining.any():
                    with search.slopes():
                        self._attack(search)
            search.finish()
        finally:
            for part in training:
                part.training = True
        found: Any = search.best.contiguous()
        return found.to(inputs.device) if isinstance(inputs, torch.Tensor) else found.cpu().numpy()

    @abstractmethod
    def _attack(self, search: "Search") -> None:
        """Look for adversarial points of the samples that remain, and record them."""


@dataclass(frozen=True, kw_only=True)
class BudgetAttack(Attack):
    """An attack that stays within ``eps`` of each sample and maximises a loss.

    Attributes:
        eps: Largest perturbation, in units of the bounds and the norm.
    """

    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"expected eps >= 0, got {self.eps}")

    @property
    def radius(self) -> float:
        """How far the attack may go."""
        return self.eps


@dataclass(frozen=True, kw_only=True)
class MinimalAttack(Attack):
    """An attack that looks for the smallest perturbation that changes the class.

    Attributes:
        eps: Only points within this count, in units of the bounds and the norm; None for all.
    """

    eps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is not None and not 0 <= self.eps < math.inf:
            raise ValueError(f"expected eps >= 0 or None, got {self.eps}")

    @property
    def radius(self) -> float:
        """How far a point may be to count; infinite for any distance."""
        return math.inf if self.eps is None else self.eps


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack that follows gradients.

    Attributes:
        backward: Which slope a JumpReLU has in the backward pass: ``true``, ``relu``, ``smooth``
            or ``straight-through``; see :class:`onnxfit.twin.jump_relu.JumpReLU`. The forward pass
            is exact whatever it is. Modules without JumpReLU have their own gradient.
        tau: Width of the smooth gate, as a share of a site's scale: its jump or the standard
            deviation of its input, whichever is larger.
        eot: Average every gradient, and the logits, over so many passes, for a model with
            randomness inside (expectation over transformation, Athalye et al., 2018).
    """

    backward: str = "true"
    tau: float = 0.1
    eot: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backward not in BACKWARDS:
            raise ValueError(
                f"expected a backward of {', '.join(BACKWARDS)}, got {self.backward!r}"
            )
        if not 0 < self.tau < math.inf:
            raise ValueError(f"expected tau > 0, got {self.tau}")
        at_least("eot", self.eot, 1)


class Search:
    """Samples under attack, and the best adversarial point of each so far.

    An attack takes the samples that remain, computes logits and gradients through this, and
    records what it finds. Once a sample is broken within a budget it does not remain, so that no
    success is forgotten and no more work is done; for a minimal attack shorter perturbations
    replace longer ones.

    Attributes:
        x: All samples, N×….
        labels: N.
        ball: Where points must lie.
        best: The point of each sample that will be returned, N×….
        broken: Which have one that is misclassified, N booleans.
        generator: Of random numbers, on the CPU; started with the attack's seed.
        classes: Number of logits.
        logits: Of the samples, N×C.
    """

    def __init__(
        self,
        attack: Attack,
        model: torch.nn.Module,
        x: torch.Tensor,
        labels: torch.Tensor,
        scales: Mapping[str, float] | None,
        advance: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.attack, self._model, self._advance = attack, model, advance
        self._scales, self._sloped = scales, False
        self.x, self.labels = laid_out(x), labels
        self.best = self.x.clone()
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.distance = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        self.generator = torch.Generator().manual_seed(attack.seed)
        self._eot = attack.eot if isinstance(attack, GradientAttack) else 1
        self._done = 0
        # A search for the smallest perturbation may pass through points farther away.
        radius = math.inf if isinstance(attack, MinimalAttack) else attack.radius
        try:
            self.ball = make_ball(
                self.x, radius, attack.norm, attack.bounds, quantize=attack.quantize
            )
        except ValueError as error:
            raise DataError(str(error)) from error
        self.classes = 0
        if not len(x):
            return
        self.logits = self.compute(self.x)
        self.classes = self.logits.shape[1]
        if self.classes < 2:
            raise ModelError("the model gives one number per sample, not the logits of classes")
        if int(labels.max()) >= self.classes:
            at = int(labels.argmax())
            raise DataError(
                f"the label of sample {at} is {int(labels[at])}, but the model has "
                f"{self.classes} classes, 0 to {self.classes - 1}"
            )
        wrong = self.wrong(self.logits, labels)
        self.broken |= wrong
        self.distance[wrong] = 0.0
        self._report()

    @property
    def remaining(self) -> torch.Tensor:
        """Which samples still need work, N booleans: a minimal attack improves on its finds."""
        if isinstance(self.attack, MinimalAttack):
            return self.distance > 0
        return ~self.broken

    def rows(self) -> torch.Tensor:
        """Return the numbers of the samples that remain."""
        return self.remaining.nonzero().squeeze(1)

    @staticmethod
    def wrong(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Say which samples are misclassified; NaN is no class."""
        return (logits.argmax(1) != labels) | logits.isnan().any(1)

    def compute(self, points: torch.Tensor) -> torch.Tensor:
        """Return the logits of points, n×C, without gradients."""
        with torch.no_grad():
            passes = [as_logits(self._model(points), len(points)) for _ in range(self._eot)]
        return passes[0] if len(passes) == 1 else torch.stack(passes).mean(0)

    def gradient(
        self, points: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the gradient of each point's own loss.

        Points are leaves here: nothing that clipped them takes part in the gradient.

        Args:
            points: n×….
            loss: Makes of the logits, n×C, one number for each point, n.

        Returns:
            Logits n×C, losses n, gradients n×…; none of them part of a graph.

        Raises:
            ModelError: No gradient reaches the input.
        """
        sums: list[torch.Tensor] = []
        for _ in range(self._eot):
            leaf = points.detach().requires_grad_()
            with self.backward():
                logits = as_logits(self._model(leaf), len(leaf))
                losses = loss(logits)
                gradient = gradient_of(losses.sum(), leaf)
            parts = [logits.detach(), losses.detach(), gradient]
            sums = parts if not sums else [a + b for a, b in zip(sums, parts, strict=True)]
        logits, losses, gradient = (part / self._eot if self._eot > 1 else part for part in sums)
        return logits, losses, gradient

    @contextmanager
    def slopes(self) -> Iterator[None]:
        """Give every JumpReLU the slope that the attack asks for, in a ``with`` block."""
        mode, tau = "true", 1.0
        if isinstance(self.attack, GradientAttack):
            mode, tau = self.attack.backward, self.attack.tau
        if mode == "smooth" and self._scales is None:
            self._scales = scales_of(self._model, self.x)
        with surrogate(self._model, mode, tau, self._scales):
            self._sloped = True
            try:
                yield
            finally:
                self._sloped = False

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Allow gradients, with the slopes that the attack asks for, in a ``with`` block."""
        with torch.enable_grad(), nullcontext() if self._sloped else self.slopes():
            yield

    def record(
        self, rows: torch.Tensor, points: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        """Keep what is adversarial of some points; for a minimal attack, if nearer than before.

        Args:
            rows: The numbers of the samples, n.
            points: One inside the ball for each, n×….
            logits: Of the points, n×C.

        Returns:
            Which points are adversarial and were kept, n booleans. With ``quantize`` that is judged
            of the nearest points that 8 bits can hold, which are what is kept.
        """
        found = self.wrong(logits, self.labels[rows])
        if not found.any():
            return found
        at = found.nonzero().squeeze(1)
        chosen, candidates = rows[at], points[at]
        candidates, still = self._confirmed(chosen, candidates)
        kept = torch.zeros_like(found)
        if isinstance(self.attack, MinimalAttack):
            lengths = self.ball[chosen].distances(candidates)
            still &= (lengths < self.distance[chosen]) & (lengths <= self.attack.radius)
            self.distance[chosen[still]] = lengths[still]
        self.best[chosen[still]] = candidates[still]
        self.broken[chosen[still]] = True
        kept[at[still]] = True
        self._report()
        return kept

    def keep(self, rows: torch.Tensor, points: torch.Tensor) -> None:
        """Keep points as the best so far of those samples that are not broken."""
        open_ = ~self.broken[rows]
        chosen, points = rows[open_], points[open_]
        self.best[chosen] = self.rounded(chosen, points)

    def finish(self) -> None:
        """Report what is left as done, and make sure that every point is where it must be.

        Raises:
            RuntimeError: A point is outside; the attack is wrong.
        """
        unmoved = (self.best - self.x).abs().amax(axes(self.x)) == 0
        outside = ~(self.ball.contains(self.best) | unmoved)
        if outside.any():
            raise RuntimeError(f"{type(self.attack).__name__} left the ball of its perturbations")
        self._advance(len(self.x) - self._done)

    def _confirmed(
        self, rows: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Round points as asked and say which are adversarial then and inside."""
        if not isinstance(self.ball, QuantizedBall):
            return points, self.ball[rows].contains(points)
        points = self.rounded(rows, points)
        return points, self.wrong(self.compute(points), self.labels[rows])

    def rounded(self, rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Return the nearest points that may be given back."""
        ball = self.ball[rows]
        return ball.quantize(points) if isinstance(ball, QuantizedBall) else ball.project(points)

    def _report(self) -> None:
        """Tell how many samples were newly broken; minimal attacks tell at the end."""
        if not isinstance(self.attack, MinimalAttack):
            done = int(self.broken.sum())
            self._advance(done - self._done)
            self._done = done


def gradient_of(total: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a sum with respect to what it was computed from.

    Raises:
        ModelError: It does not depend on it.
    """
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    if gradient is None:
        raise ModelError("no gradient reaches the model's input: its logits do not depend on it")
    return gradient


def with_labels(loss: LossFunction, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make a loss of logits alone."""
    return lambda logits: loss(logits, labels)


def at_least(name: str, value: float, least: float) -> None:
    """Check a setting.

    Raises:
        ValueError: It is smaller.
    """
    if not value >= least:
        raise ValueError(f"expected {name} >= {least}, got {value}")


def device_of(module: torch.nn.Module) -> torch.device:
    """Return where the first tensor of a module is."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def _checked(
    inputs: torch.Tensor | NDArray[Any], labels: torch.Tensor | NDArray[Any], bounds: Bounds
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples and labels as tensors.

    Raises:
        DataError: They are not samples within the bounds and one class each.
    """
    x, y = _tensor(inputs), _tensor(labels)
    if not x.is_floating_point() or x.dim() < 2:
        raise DataError(
            f"expected floating-point samples N×…, got {x.dtype} of shape {tuple(x.shape)}"
        )
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    if y.is_floating_point() or y.dtype == torch.bool or y.shape != x.shape[:1]:
        raise DataError(
            f"expected {len(x)} integer labels, got {y.dtype} of shape {tuple(y.shape)}"
        )
    low, high = (
        float(np.float32(bound)) if x.dtype == torch.float32 else bound for bound in bounds
    )
    outside = ~((x >= low) & (x <= high)).flatten(1).all(1)
    if outside.any():
        at = int(outside.nonzero()[0])
        values = x[at][~((x[at] >= low) & (x[at] <= high))]
        raise DataError(
            f"sample {at} has {values.numel()} values that are not within {low:g} and {high:g}, "
            f"such as {float(values[0]):g}"
        )
    y = y.long()
    if len(y) and int(y.min()) < 0:
        raise DataError(f"the label of sample {int(y.argmin())} is {int(y.min())}, not a class")
    return x, y


def _tensor(values: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    """Return a tensor that no graph leads to, of an array of any byte order and strides."""
    if isinstance(values, torch.Tensor):
        return values.detach()
    array = np.asarray(values)
    array = np.require(array, array.dtype.newbyteorder("="), ["C_CONTIGUOUS", "WRITEABLE"])
    return torch.from_numpy(array)
