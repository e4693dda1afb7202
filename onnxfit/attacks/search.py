"""The state of an attack: what remains, what was found, and the model's logits and gradients."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from onnxfit.attacks.ball import QuantizedBall, axes, dimensions, make_ball
from onnxfit.attacks.layout import laid_out, select
from onnxfit.attacks.losses import LossFunction
from onnxfit.attacks.surrogates import scales_of, surrogate
from onnxfit.errors import DataError, ModelError
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import gradient_of

if TYPE_CHECKING:
    from onnxfit.attacks.attack import Attack


class Search:
    """Samples under attack, and the best adversarial point of each so far.

    An attack takes the samples that remain, computes logits and gradients through this, and
    records what it finds. Once a sample is broken within a budget it does not remain, so that no
    success is forgotten and no more work is done; for a minimal attack shorter perturbations
    replace longer ones.

    Attributes:
        attack: The settings.
        model: Whose logits and gradients are followed.
        judge: What says whether a point is misclassified: the model too, or another.
        passes: How many passes a gradient and logits are averaged over.
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
        attack: "Attack",
        model: torch.nn.Module,
        x: torch.Tensor,
        labels: torch.Tensor,
        scales: Mapping[str, float] | None,
        advance: Callable[[int], object] = lambda count: None,
        judge: torch.nn.Module | None = None,
    ) -> None:
        self.attack, self.model, self._advance = attack, model, advance
        self.judge = model if judge is None else judge
        self._scales, self._sloped = scales, False
        self.x, self.labels = laid_out(x), labels
        self.best = self.x.clone()
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.distance = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        self.generator = torch.Generator().manual_seed(attack.seed)
        self.passes = attack.passes
        self._done = 0
        # A search for the smallest perturbation may pass through points farther away.
        radius = math.inf if attack.is_minimal else attack.radius
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
        check_classes(self.classes, labels)
        wrong = self._judged(self.x, labels, self.logits)
        self.broken |= wrong
        self.distance[wrong] = 0.0
        self._report()

    @property
    def remaining(self) -> torch.Tensor:
        """Which samples still need work, N booleans: a minimal attack improves on its finds."""
        if self.attack.is_minimal:
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
        return self._computed(self.model, points)

    def _computed(self, module: torch.nn.Module, points: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            passes = [as_logits(module(points), len(points)) for _ in range(self.passes)]
        return passes[0] if len(passes) == 1 else torch.stack(passes).mean(0)

    def _judged(
        self, points: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        """Say which points are misclassified; ``logits`` are the model's."""
        if self.judge is not self.model:
            logits = self._computed(self.judge, points)
        return self.wrong(logits, labels)

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
        for _ in range(self.passes):
            leaf = points.detach().requires_grad_()
            with self.backward():
                logits = as_logits(self.model(leaf), len(leaf))
                losses = loss(logits)
                gradient = gradient_of(losses.sum(), leaf)
            parts = [logits.detach(), losses.detach(), gradient]
            sums = parts if not sums else [a + b for a, b in zip(sums, parts, strict=True)]
        logits, losses, gradient = (
            part / self.passes if self.passes > 1 else part for part in sums
        )
        return logits, losses, gradient

    @contextmanager
    def slopes(self) -> Iterator[None]:
        """Give every JumpReLU the slope that the attack asks for, in a ``with`` block."""
        mode, tau = self.attack.slope
        if mode == "smooth" and self._scales is None:
            self._scales = scales_of(self.model, self.x)
        with surrogate(self.model, mode, tau, self._scales):
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
            logits: What the model makes of the points, n×C.

        Returns:
            Which points are adversarial and were kept, n booleans. With ``quantize`` that is judged
            of the nearest points that 8 bits can hold, which are what is kept.
        """
        found = self._judged(points, self.labels[rows], logits)
        if not found.any():
            return found
        at = found.nonzero().squeeze(1)
        chosen, candidates = rows[at], select(points, at)
        candidates, still = self._confirmed(chosen, candidates)
        kept = torch.zeros_like(found)
        if self.attack.is_minimal:
            lengths = self.ball[chosen].distances(candidates)
            still &= (lengths < self.distance[chosen]) & (lengths <= self.attack.radius)
            self.distance[chosen[still]] = lengths[still]
        self.best[chosen[still]] = select(candidates, still)
        self.broken[chosen[still]] = True
        kept[at[still]] = True
        self._report()
        return kept

    def keep(self, rows: torch.Tensor, points: torch.Tensor) -> None:
        """Keep points as the best so far of those samples that are not broken."""
        open_ = ~self.broken[rows]
        chosen, points = rows[open_], select(points, open_)
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
        return points, self.wrong(self._computed(self.judge, points), self.labels[rows])

    def rounded(self, rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Return the nearest points that may be given back."""
        ball = self.ball[rows]
        return ball.quantize(points) if isinstance(ball, QuantizedBall) else ball.project(points)

    def progress(self, share: float) -> None:
        """Tell that a share of a minimal attack's work is done, as that share of the samples."""
        self._tell(int(share * len(self.x)))

    def _report(self) -> None:
        """Tell how many samples were newly broken; minimal attacks tell of shares instead."""
        if not self.attack.is_minimal:
            self._tell(int(self.broken.sum()))

    def _tell(self, done: int) -> None:
        self._advance(done - self._done)
        self._done = done


def diameter(search: Search) -> float:
    """Return how far two points within the bounds can be from each other."""
    low, high = search.attack.bounds
    return (high - low) * (dimensions(search.x) ** 0.5 if search.attack.norm == "l2" else 1.0)


def with_labels(loss: LossFunction, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make a loss of logits alone."""
    return lambda logits: loss(logits, labels)


def check_classes(classes: int, labels: torch.Tensor, target: int | None = None) -> None:
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
