"""Auto-PGD (Croce and Hein, 2020): gradient ascent that sets the length of its steps by itself."""

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch

from onnxfit import checks
from onnxfit.attacks.attack import BudgetAttack, GradientAttack
from onnxfit.attacks.ball import Ball, axes, by_sample, random_directions, unit_steps
from onnxfit.attacks.layout import select
from onnxfit.attacks.losses import LOSSES, Loss, likeliest, margin, targeted_dlr
from onnxfit.attacks.search import Search

# Share of a move that is the new step; the rest goes on as the last move did.
_NEW_STEP = 0.75
# The share of steps between two checkpoints that must raise the loss, or steps become shorter.
_RISING = 0.75


@dataclass(frozen=True, kw_only=True)
class _AutoPGD(GradientAttack, BudgetAttack):
    """What untargeted and targeted Auto-PGD have in common (Croce and Hein, 2020, algorithm 1).

    Attributes:
        steps: Number of steps of each restart.
        restarts: How often to start, each time with the samples that remain.
    """

    steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("steps", self.steps, 1)
        checks.whole("restarts", self.restarts, 1)

    @abstractmethod
    def _objective(
        self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return what to maximise, n×C, n and n → n."""

    def _ascend(
        self, search: Search, rows: torch.Tensor, targets: torch.Tensor, heights: torch.Tensor
    ) -> None:
        """Attack samples from one random start.

        Args:
            search: Is told what is found.
            rows: The numbers of the samples, n.
            targets: The class that each is led to, n; whatever where the objective has none.
            heights: The margin of the best point kept of each sample, N; brought up to date.
        """
        state = _State.start(search, rows, targets, 2 * self.eps)
        checks = checkpoints(self.steps)
        for step in range(self.steps):
            loss = partial(self._objective, labels=state.labels, targets=state.targets)
            logits, losses, gradient = search.gradient(state.points, loss)
            left = ~search.record(state.rows, state.points, logits)
            if not left.all():
                if not left.any():
                    return
                state = state.only(left)
                logits, losses = logits[left], losses[left]
                gradient = select(gradient, left)
            state.note(logits, losses, gradient)
            if step in checks:
                state.check(step)
            state.move(search.generator, momentum=step > 0)
        logits = search.compute(state.points)
        left = ~search.record(state.rows, state.points, logits)
        state.note(logits, self._objective(logits, state.labels, state.targets), state.gradient)
        left &= state.margins > heights[state.rows]
        chosen = state.only(left)
        search.keep(chosen.rows, chosen.best)
        heights[chosen.rows] = chosen.margins


@dataclass(frozen=True, kw_only=True)
class APGD(_AutoPGD):
    """Auto-PGD (Croce and Hein, 2020).

    Steps with momentum along the sign of the loss's gradient (``linf``) or along the gradient
    (``l2``), ``2 · eps`` long at first. At checkpoints that follow each other faster and faster,
    the steps of samples whose loss did not rise enough are halved, and they go on from their best
    point. Only the number of steps must be chosen. A gradient that is 0 everywhere gives way to a
    random direction and the first length. A sample is done with once it is misclassified.

    Attributes:
        loss: ``ce``, the cross-entropy in a form that does not underflow; ``dlr``, the difference
            of logits ratio; or ``margin`` (Carlini and Wagner, 2017).
    """

    loss: Loss = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("loss", self.loss, tuple(LOSSES))

    def _objective(
        self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        del targets
        return LOSSES[self.loss](logits, labels)

    def _attack(self, search: Search) -> None:
        heights = no_heights(search)
        for _ in range(self.restarts):
            rows = search.rows()
            if not len(rows):
                return
            self._ascend(search, rows, search.labels[rows], heights)


@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(_AutoPGD):
    """Auto-PGD toward each of the likeliest other classes (Croce and Hein, 2020: APGD-T).

    The loss is the targeted difference of logits ratio. The classes are those with the largest
    logits for the sample; each has its own restarts, with the samples that remain. Any
    misclassification counts, also as a class that is not the target.

    Attributes:
        targets: How many classes to try, at most all but the sample's own.
    """

    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("targets", self.targets, 1)

    def _objective(
        self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        return targeted_dlr(logits, labels, targets)

    def _attack(self, search: Search) -> None:
        heights = no_heights(search)
        for targets in likeliest(search.logits, search.labels, self.targets).unbind(1):
            for _ in range(self.restarts):
                rows = search.rows()
                if not len(rows):
                    return
                self._ascend(search, rows, targets[rows], heights)


@dataclass
class _State:
    """Samples that are being attacked: a row of each tensor belongs to one of them.

    Attributes:
        rows: Their numbers.
        labels: Their classes.
        targets: The classes they are led to.
        ball: Where their points must lie.
        points: Where they are now.
        before: Where they were before the last move.
        gradient: Of the loss at the points.
        losses: At the points.
        best: The points of the highest loss so far.
        best_gradient: Of the loss there.
        best_losses: The loss there.
        margins: How near the best points are to misclassified.
        sizes: Length of a step.
        rises: How many moves since the last checkpoint have raised the loss.
        checked: The highest loss at the last checkpoint.
        halved: Whether steps were halved there.
        since: The number of the last checkpoint's step, the same for all.
    """

    rows: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    ball: Ball
    points: torch.Tensor
    before: torch.Tensor
    gradient: torch.Tensor
    losses: torch.Tensor
    best: torch.Tensor
    best_gradient: torch.Tensor
    best_losses: torch.Tensor
    margins: torch.Tensor
    sizes: torch.Tensor
    rises: torch.Tensor
    checked: torch.Tensor
    halved: torch.Tensor
    since: int = 0

    @classmethod
    def start(
        cls, search: Search, rows: torch.Tensor, targets: torch.Tensor, size: float
    ) -> "_State":
        """Start each sample at a random point of the ball's surface, clipped to the bounds."""
        ball = search.ball[rows]
        x = ball.x
        points = ball.project(x + ball.eps * random_directions(x, ball.norm, search.generator))
        losses = x.new_full((len(x),), float("inf"))
        return cls(
            rows=rows,
            labels=search.labels[rows],
            targets=targets,
            ball=ball,
            points=points,
            before=points,
            gradient=points,
            losses=losses,
            best=points,
            best_gradient=points,
            best_losses=-losses,
            margins=-losses,
            sizes=torch.full_like(losses, size),
            rises=torch.zeros_like(rows),
            checked=-losses,
            # Before the first checkpoint there is none whose best point could be compared.
            halved=torch.ones_like(rows, dtype=torch.bool),
        )

    def only(self, left: torch.Tensor) -> Self:
        """Return some of the samples."""
        left = left.nonzero().squeeze(1)
        parts = dict(vars(self))
        del parts["since"]
        tensors = {name: select(part, left) for name, part in parts.items() if name != "ball"}
        return dataclasses.replace(self, ball=self.ball[left], **tensors)

    def note(self, logits: torch.Tensor, losses: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take in what the model says of the points."""
        self.rises = self.rises + (losses > self.losses)
        self.losses, self.gradient = losses, gradient
        better = losses > self.best_losses
        wide = by_sample(better, gradient)
        self.best = torch.where(wide, self.points, self.best)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)
        self.best_losses = torch.where(better, losses, self.best_losses)
        self.margins = torch.where(better, margin(logits, self.labels), self.margins)

    def check(self, step: int) -> None:
        """Halve the steps of samples that do not get on, and put them back to their best points."""
        window = step - self.since
        slow = self.rises < _RISING * window
        halved = slow | (~self.halved & (self.best_losses <= self.checked))
        self.sizes = torch.where(halved, self.sizes / 2, self.sizes)
        wide = by_sample(halved, self.points)
        self.points = torch.where(wide, self.best, self.points)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.losses = torch.where(halved, self.best_losses, self.losses)
        self.checked, self.halved, self.since = self.best_losses, halved, step
        self.rises = torch.zeros_like(self.rises)

    def move(self, generator: torch.Generator, *, momentum: bool) -> None:
        """Move each point along its gradient, and back inside."""
        direction = unit_steps(self.gradient, self.ball.norm)
        still = direction.abs().amax(axes(direction)) == 0
        sizes = self.sizes
        if still.any():
            direction[still] = random_directions(direction[still], self.ball.norm, generator)
            # Shorter steps are for a loss that can be followed.
            sizes = torch.where(still, 2 * self.ball.eps, sizes)
        ahead = self.ball.project(self.points + by_sample(sizes, direction) * direction)
        if momentum:
            mixed = _NEW_STEP * (ahead - self.points)
            mixed = mixed + (1 - _NEW_STEP) * (self.points - self.before)
            ahead = self.ball.project(self.points + mixed)
        self.before, self.points = self.points, ahead


def checkpoints(steps: int) -> set[int]:
    """Return after how many steps to check: ``⌈p_j · steps⌉`` of algorithm 1.

    ``p_1 = 0.22`` and ``p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06)``, here in hundredths.
    """
    shares, period = [], 22
    share = period
    while share <= 100:
        shares.append(share)
        period = max(period - 3, 6)
        share += period
    return {-(-share * steps // 100) for share in shares}


def no_heights(search: Search) -> torch.Tensor:
    """Return the margins of the points kept before there are any, N."""
    return search.logits.new_full((len(search.x),), float("-inf"))
