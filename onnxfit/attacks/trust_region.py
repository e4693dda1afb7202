"""The trust-region attack."""

from dataclasses import dataclass

import torch

from onnxfit import checks
from onnxfit.attacks.attack import GradientAttack, MinimalAttack
from onnxfit.attacks.ball import norms
from onnxfit.attacks.deepfool import NUDGE, cleared, nearest_boundary
from onnxfit.attacks.losses import likeliest
from onnxfit.attacks.search import Search, diameter

# The ratios above and below which a radius changes.
_GOOD, _POOR = 0.9, 0.5
# By what radii change.
GROWTH = 1.2
# Radii shrink to a twentieth of the first one and no further, as the authors' do.
_SMALLEST = 1 / 20


@dataclass(frozen=True, kw_only=True)
class TrustRegion(GradientAttack, MinimalAttack):
    """The first-order trust-region attack (Yao, Gholami, Xu, Keutzer and Mahoney, 2019).

    The rival is chosen once: the class whose boundary is nearest to the sample by the gradients
    there. Each step goes straight to that boundary as far as it is by the gradient, but no farther
    than a radius, and a little longer, by ``overshoot``. With ``adaptive`` the radius follows the
    ratio ρ of the decrease of the gap between the two logits to the decrease that the gradient
    promised: above 0.9 it grows, below 0.5 it shrinks. Stops with a sample once its class has
    changed by more than rounding could undo, where its gradient is exactly 0 or the bounds let it
    go no further, and past ``eps``.

    Attributes:
        steps: Largest number of steps.
        trust_radius: Of the first step, in units of the bounds and the norm; None for a hundredth
            of the longest way within the bounds.
        adaptive: Change the radius as described; otherwise it stays.
        growth: By what a radius is multiplied or divided.
        candidates: How many classes the rival is chosen from, the likeliest ones of the sample
            with its label; None for all.
        overshoot: How much longer, as a share, a step is made.
    """

    steps: int = 100
    trust_radius: float | None = None
    adaptive: bool = True
    growth: float = GROWTH
    candidates: int | None = 10
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("steps", self.steps, 1)
        checks.at_least("growth", self.growth, 1)
        checks.at_least("overshoot", self.overshoot, 0)
        if self.candidates is not None:
            checks.whole("candidates", self.candidates, 2)
        if self.trust_radius is not None:
            checks.above_0("trust_radius", self.trust_radius)

    def _attack(self, search: Search) -> None:
        rows = search.rows()
        points, labels = search.x[rows], search.labels[rows]
        others = None if self.candidates is None else self.candidates - 1
        rivals = likeliest(search.logits[rows], labels, others)
        first = diameter(search) / 100 if self.trust_radius is None else self.trust_radius
        radius = torch.full_like(search.logits[rows, 0], first)
        nudge = NUDGE * (self.bounds[1] - self.bounds[0])
        gap = promised = radius  # Set by the first step.
        for step in range(self.steps):
            search.progress(step / self.steps)
            near = nearest_boundary(search, points, labels, rivals)
            if self.adaptive and step:
                radius = adapted(radius, (gap - near.gap) / promised, first, self.growth)
            done = search.record(rows, points, cleared(near.logits, labels))
            done |= norms(points - search.x[rows], self.norm) > self.radius
            length = torch.minimum(near.distance, radius)
            ahead = search.ball[rows].project(points + near.step(length, self.overshoot, nudge))
            moves = (ahead != points).flatten(1).any(1)
            left, stuck = ~done & moves, ~done & ~moves
            search.record(rows[stuck], points[stuck], near.logits[stuck])
            if not left.any():
                return
            promised = promise(near.gradient, ahead - points)[left]
            near, points = near[left], ahead[left]
            rows, labels, radius = rows[left], labels[left], radius[left]
            rivals, gap = near.rival[:, None], near.gap
        search.record(rows, points, search.compute(points))


def adapted(
    radius: torch.Tensor, ratio: torch.Tensor, first: float, growth: float = GROWTH
) -> torch.Tensor:
    """Return the radii of the next step by how true the gradient was of the last one.

    Args:
        radius: Of the last step, n.
        ratio: Of the decrease of the gap between two logits to the one that was promised, n.
        first: The radius of the first step.
        growth: By what a radius is multiplied or divided.
    """
    smaller = (radius / growth).clamp(min=first * _SMALLEST)
    radius = torch.where(ratio > _GOOD, radius * growth, radius)
    return torch.where(ratio < _POOR, smaller, radius)


def promise(gradient: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Return by how much gradients say that a gap decreases on the way, n×… and n×… → n."""
    decrease = (gradient * moved).flatten(1).sum(1)
    return decrease.clamp(min=torch.finfo(decrease.dtype).tiny)
