"""Attacks that take steps along the gradient of a loss: FGSM, BIM, PGD."""

from dataclasses import dataclass
from typing import Any

import torch

from onnxfit import checks
from onnxfit.attacks.attack import BudgetAttack, GradientAttack
from onnxfit.attacks.ball import Ball, axes, by_sample, scaled, unit_steps
from onnxfit.attacks.layout import select
from onnxfit.attacks.losses import LOSSES, Loss
from onnxfit.attacks.search import Search, with_labels


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack, BudgetAttack):
    """Projected gradient descent (Madry et al., 2018), with momentum MI-FGSM (Dong et al., 2018).

    From a random point, steps along the sign of the loss's gradient (``linf``) or along the
    gradient itself (``l2``), each followed by a projection. A gradient that is 0 everywhere gives
    way to a random direction.

    Attributes:
        steps: Number of steps of each restart.
        step_size: Length of a step; None for 2.5 · eps / steps (BIM: eps / steps; FGSM: eps).
        restarts: How often to start, each time with the samples that remain.
        random_start: Start at a random point inside, not at the sample.
        momentum: Share of the earlier steps' direction that each keeps: 0 for none, 1 in MI-FGSM.
        loss: ``ce``, the cross-entropy in a form that does not underflow; ``margin`` (Carlini and
            Wagner, 2017); or ``dlr`` (Croce and Hein, 2020).
        early_stop: Stop with a sample once it is misclassified. Otherwise go on to the last step
            and return the last point that is misclassified, or else the very last, which transfers
            better to other models.
    """

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    momentum: float = 0.0
    loss: Loss = "ce"
    early_stop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("steps", self.steps, 1)
        checks.whole("restarts", self.restarts, 1)
        checks.at_least("momentum", self.momentum, 0)
        if self.step_size is not None:
            checks.above_0("step_size", self.step_size)
        checks.one_of("loss", self.loss, tuple(LOSSES))

    @property
    def length_of_step(self) -> float:
        """The length of a step, whether it was given or not."""
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them, with the length of a step."""
        return {**super().settings, "step_size": self.length_of_step}

    def _attack(self, search: Search) -> None:
        for _ in range(self.restarts):
            rows = search.rows()
            if not len(rows):
                return
            self.descend(search, rows)

    def descend(self, search: Search, rows: torch.Tensor) -> None:
        """Attack some samples of a search, by number, from one start."""
        ball = search.ball[rows]
        start = ball.random(search.generator) if self.random_start else ball.x
        state = _State(rows, start, search.labels[rows], ball)
        for _ in range(self.steps):
            loss = with_labels(LOSSES[self.loss], state.labels)
            logits, _, gradient = search.gradient(state.points, loss)
            found = search.record(state.rows, state.points, logits)
            state.step(gradient, self.length_of_step, self.momentum, search.generator)
            if self.early_stop and found.any():
                if found.all():
                    return
                state = state.only(~found)
        search.record(state.rows, state.points, search.compute(state.points))
        search.keep(state.rows, state.points)


@dataclass
class _State:
    """Samples that are being attacked: a row of each tensor belongs to one of them."""

    rows: torch.Tensor
    points: torch.Tensor
    labels: torch.Tensor
    ball: Ball
    velocity: torch.Tensor | None = None

    def only(self, left: torch.Tensor) -> "_State":
        """Return some of the samples."""
        left = left.nonzero().squeeze(1)
        velocity = None if self.velocity is None else select(self.velocity, left)
        parts = (self.rows[left], select(self.points, left), self.labels[left], self.ball[left])
        return _State(*parts, velocity)

    def step(
        self, gradient: torch.Tensor, size: float, momentum: float, generator: torch.Generator
    ) -> None:
        """Move each point along its gradient, and back inside."""
        norm = self.ball.norm
        if momentum:
            gradient = scaled(gradient)
            mean = gradient.abs().mean(axes(gradient)).clamp(min=torch.finfo(gradient.dtype).tiny)
            gradient = gradient / by_sample(mean, gradient)
            if self.velocity is not None:
                gradient = gradient + momentum * self.velocity
            self.velocity = gradient
        direction = unit_steps(gradient, norm)
        still = direction.abs().amax(axes(direction)) == 0
        if still.any():
            shape = direction[still].shape
            noise = torch.randn(shape, generator=generator, dtype=gradient.dtype).to(gradient)
            direction[still] = unit_steps(noise, norm)
        self.points = self.ball.project(torch.add(self.points, direction, alpha=size))


@dataclass(frozen=True, kw_only=True)
class BIM(PGD):
    """The basic iterative method, also called I-FGSM (Kurakin et al., 2017): PGD from the sample.

    Each step is projected into the ball, and is eps / steps long unless told otherwise.
    """

    steps: int = 10
    random_start: bool = False

    @property
    def length_of_step(self) -> float:
        """The length of a step, whether it was given or not."""
        return self.eps / self.steps if self.step_size is None else self.step_size


@dataclass(frozen=True, kw_only=True)
class FGSM(PGD):
    """The fast gradient sign method (Goodfellow et al., 2015): one step of length ``eps``.

    With ``l2`` the step goes along the gradient itself (fast gradient method).
    """

    steps: int = 1
    random_start: bool = False

    @property
    def length_of_step(self) -> float:
        """The length of the step, whether it was given or not."""
        return self.eps if self.step_size is None else self.step_size
