"""DeepFool, and the linearised distance to a decision boundary that other attacks share."""

import math
from dataclasses import dataclass

import torch

from onnxfit import checks
from onnxfit.attacks.attack import GradientAttack, MinimalAttack
from onnxfit.attacks.ball import Norm, by_sample, norms, unit_steps
from onnxfit.attacks.layout import select
from onnxfit.attacks.losses import likeliest, of_label
from onnxfit.attacks.search import Search, diameter
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import gradient_of

# Added to every step, in widths of the bounds: a share of a small one is lost in rounding.
NUDGE = 1e-4

# How far apart batches of another size may round logits: in units of the largest one's rounding.
_ROUNDING = 64


@dataclass(frozen=True)
class Boundary:
    """The nearest decision boundary of a network taken as linear, for each of n points.

    Attributes:
        norm: What distances are measured in.
        logits: n×C.
        rival: The class on its other side, n.
        gap: How far the rival's logit is below the label's, n; below 0 on the other side.
        gradient: Of the rival's logit less the label's, n×….
        distance: How far it is by ``|gap| / ‖gradient‖`` in the dual norm, n; infinite where the
            gradient is 0.
    """

    norm: Norm
    logits: torch.Tensor
    rival: torch.Tensor
    gap: torch.Tensor
    gradient: torch.Tensor
    distance: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> "Boundary":
        """Return those of some points, by number or mask."""
        parts = (self.logits, self.rival, self.gap, self.gradient, self.distance)
        return Boundary(self.norm, *(select(part, rows) for part in parts))

    @property
    def reachable(self) -> torch.Tensor:
        """Say of each point whether there is a way to it, n booleans."""
        return self.distance.isfinite()

    def step(self, length: torch.Tensor, overshoot: float, nudge: float) -> torch.Tensor:
        """Return steps toward it, n×…, that are a little longer than ``length``, n."""
        length = (1 + overshoot) * (length + nudge)
        return by_sample(length, self.gradient) * unit_steps(self.gradient, self.norm)


def nearest_boundary(
    search: Search, points: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor | int
) -> Boundary:
    """Find the boundary to a rival that is nearest by the gradients at each point.

    The network is computed forward, and backward once for each rival; with several passes the
    rivals are chosen first.

    Args:
        search: Computes them.
        points: n×….
        labels: n.
        rivals: The classes to look at, n×k, or how many of the likeliest at each point.

    Raises:
        ModelError: No gradient reaches the input.
    """
    if isinstance(rivals, int) and search.passes > 1:
        rivals = likeliest(search.compute(points), labels, rivals)
    logits, rivals, gradients = _one_pass(search, points, labels, rivals)
    for _ in range(search.passes - 1):
        again, _, others = _one_pass(search, points, labels, rivals)
        logits, gradients = logits + again, gradients + others
    logits, gradients = logits / search.passes, gradients / search.passes
    gaps = of_label(logits, labels)[:, None] - logits.gather(1, rivals)
    slopes = torch.stack([_slopes(gradient, search.ball.norm) for gradient in gradients], 1)
    distances = torch.where(slopes > 0, gaps.abs() / slopes, math.inf)
    nearest, k = distances.min(1)
    at = torch.arange(len(points), device=points.device)
    rival, gradient = rivals[at, k], gradients[k, at]
    return Boundary(search.ball.norm, logits, rival, gaps[at, k], gradient, nearest)


def _one_pass(
    search: Search, points: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor | int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute logits n×C, rivals n×k, and gradients of these logits less the label's, k×n×….

    What is not finite in a gradient counts as 0.
    """
    with search.backward():
        leaf = points.detach().requires_grad_()
        logits = as_logits(search.model(leaf), len(leaf))
        if isinstance(rivals, int):
            rivals = likeliest(logits.detach(), labels, rivals)
        totals = (logits.gather(1, rivals) - logits.gather(1, labels[:, None])).sum(0)
        last = len(totals) - 1
        gradients = [
            gradient_of(total, leaf, retain_graph=k < last) for k, total in enumerate(totals)
        ]
    stacked = torch.stack(gradients).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return logits.detach(), rivals, stacked


def _slopes(gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return by how much the steepest step of length 1 climbs: the gradient's dual norm, n."""
    return (gradient * unit_steps(gradient, norm)).flatten(1).sum(1)


def cleared(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Raise each label's logit by what rounding may do: what is misclassified then stays so."""
    slack = _ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(1, keepdim=True)
    return logits.scatter_add(1, labels[:, None], slack)


@dataclass(frozen=True, kw_only=True)
class DeepFool(GradientAttack, MinimalAttack):
    """DeepFool (Moosavi-Dezfooli et al., 2016).

    Takes the network as linear, steps just across the nearest boundary, and does so again until
    the class has changed, by more than rounding could undo. Stops there, or with a sample whose
    gradients are all exactly 0, or with one that has gone farther than ``eps``.

    Attributes:
        steps: Largest number of steps.
        candidates: How many classes to look at, the likeliest ones of the sample itself with its
            label; None for all.
        overshoot: How much longer, as a share, the sum of all steps is made.
    """

    steps: int = 50
    candidates: int | None = 10
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("steps", self.steps, 1)
        checks.at_least("overshoot", self.overshoot, 0)
        if self.candidates is not None:
            checks.whole("candidates", self.candidates, 2)

    def _attack(self, search: Search) -> None:
        rows = search.rows()
        points, labels = search.x[rows], search.labels[rows]
        moved = torch.zeros_like(points)
        others = None if self.candidates is None else self.candidates - 1
        rivals = likeliest(search.logits[rows], labels, others)
        farthest, nudge = diameter(search), NUDGE * (self.bounds[1] - self.bounds[0])
        for step in range(self.steps):
            search.progress(step / self.steps)
            near = nearest_boundary(search, points, labels, rivals)
            done = search.record(rows, points, cleared(near.logits, labels))
            done |= norms(points - search.x[rows], self.norm) > self.radius
            left = ~done & near.reachable
            stuck = ~done & ~near.reachable
            search.record(rows[stuck], points[stuck], near.logits[stuck])
            if not left.any():
                return
            rows, labels, rivals, near = rows[left], labels[left], rivals[left], near[left]
            moved = select(moved, left) + near.step(near.distance.clamp(max=farthest), 0.0, nudge)
            points = search.ball[rows].project(search.x[rows] + (1 + self.overshoot) * moved)
        search.record(rows, points, search.compute(points))
