"""DeepFool, and the linearised distance to a decision boundary that other attacks share."""

import math
from dataclasses import dataclass

import torch

from onnxfit.attacks.attack import GradientAttack, MinimalAttack, at_least
from onnxfit.attacks.ball import Norm, by_sample, dimensions, norms, unit_steps
from onnxfit.attacks.search import Search
from onnxfit.errors import ModelError
from onnxfit.twin.classifier import as_logits

# Added to every step: a share of a small one is lost in rounding.
NUDGE = 1e-4


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
        return Boundary(self.norm, *(part[rows] for part in parts))

    @property
    def reachable(self) -> torch.Tensor:
        """Say of each point whether there is a way to it, n booleans."""
        return self.distance.isfinite()

    def step(self, length: torch.Tensor, overshoot: float) -> torch.Tensor:
        """Return steps toward it, n×…, that are a little longer than ``length``, n."""
        length = (1 + overshoot) * (length + NUDGE)
        return by_sample(length, self.gradient) * unit_steps(self.gradient, self.norm)


def nearest_boundary(
    search: Search, points: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor | int
) -> Boundary:
    """Find the boundary to a rival that is nearest by the gradients at each point.

    The network is computed once, forward, and backward once for each rival.

    Args:
        search: Computes them.
        points: n×….
        labels: n.
        rivals: The classes to look at, n×k, or how many of the likeliest at each point.

    Raises:
        ModelError: No gradient reaches the input.
    """
    norm = search.ball.norm
    with search.backward():
        leaf = points.detach().requires_grad_()
        passes = [as_logits(search.model(leaf), len(leaf)) for _ in range(search.passes)]
        logits = passes[0] if len(passes) == 1 else torch.stack(passes).mean(0)
        if isinstance(rivals, int):
            rivals = likeliest(logits.detach(), labels, rivals)
        ahead = logits.gather(1, rivals) - logits.gather(1, labels[:, None])
        nearest = torch.full_like(logits[:, 0], math.inf)
        best, steepest = torch.zeros_like(labels), torch.zeros_like(points)
        for k in range(rivals.shape[1]):
            gradient = _gradient_of(ahead[:, k].sum(), leaf)
            # The steepest step of length 1 climbs by the gradient's dual norm.
            slope = (gradient * unit_steps(gradient, norm)).flatten(1).sum(1)
            distance = torch.where(slope > 0, ahead[:, k].detach().abs() / slope, math.inf)
            nearer = distance < nearest
            nearest = torch.where(nearer, distance, nearest)
            best[nearer] = k
            steepest[nearer] = gradient[nearer]
    chosen = best[:, None]
    gap = -ahead.detach().gather(1, chosen).squeeze(1)
    rival = rivals.gather(1, chosen).squeeze(1)
    return Boundary(norm, logits.detach(), rival, gap, steepest, nearest)


def likeliest(logits: torch.Tensor, labels: torch.Tensor, count: int | None) -> torch.Tensor:
    """Return the classes with the largest logits but the label, largest first.

    Args:
        logits: n×C.
        labels: n.
        count: How many, at most C − 1; None for these.

    Returns:
        n×count or fewer.
    """
    others = logits.shape[1] - 1
    count = others if count is None else min(count, others)
    return logits.scatter(1, labels[:, None], -math.inf).topk(count).indices


@dataclass(frozen=True, kw_only=True)
class DeepFool(GradientAttack, MinimalAttack):
    """DeepFool (Moosavi-Dezfooli et al., 2016).

    Takes the network as linear, steps just across the nearest boundary, and does so again until
    the class has changed. Stops there, or with a sample whose gradients are all exactly 0, or with
    one that has gone farther than ``eps``.

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
        at_least("steps", self.steps, 1)
        at_least("overshoot", self.overshoot, 0)
        if self.candidates is not None:
            at_least("candidates", self.candidates, 2)

    def _attack(self, search: Search) -> None:
        rows = search.rows()
        points, labels = search.x[rows], search.labels[rows]
        moved = torch.zeros_like(points)
        others = None if self.candidates is None else self.candidates - 1
        rivals = likeliest(search.logits[rows], labels, others)
        farthest = diameter(search)
        for _ in range(self.steps):
            near = nearest_boundary(search, points, labels, rivals)
            done = search.record(rows, points, near.logits)
            done |= norms(points - search.x[rows], self.norm) > self.radius
            left = ~done & near.reachable
            if not left.any():
                return
            rows, labels, rivals, near = rows[left], labels[left], rivals[left], near[left]
            moved = moved[left] + near.step(near.distance.clamp(max=farthest), 0.0)
            points = search.ball[rows].project(search.x[rows] + (1 + self.overshoot) * moved)
        search.record(rows, points, search.compute(points))


def diameter(search: Search) -> float:
    """Return how far two points within the bounds can be from each other."""
    low, high = search.attack.bounds
    return (high - low) * (dimensions(search.x) ** 0.5 if search.ball.norm == "l2" else 1.0)


def _gradient_of(total: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """Return one of several gradients of the same graph, with 0 for what is not finite."""
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ModelError("no gradient reaches the model's input: its logits do not depend on it")
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
