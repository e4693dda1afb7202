"""The attack of Carlini and Wagner."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from onnxfit import checks
from onnxfit.attacks.attack import GradientAttack, MinimalAttack
from onnxfit.attacks.ball import Norm, by_sample
from onnxfit.attacks.layout import select
from onnxfit.attacks.losses import margin
from onnxfit.attacks.search import Search

# Keeps the arctanh of a value at its bound finite.
_WITHIN = 0.999999
# Constants beyond this find nothing that smaller ones did not.
_LARGEST = 1e10


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(GradientAttack, MinimalAttack):
    """The ℓ2 attack of Carlini and Wagner (2017).

    Minimises ``‖x' − x‖² / (2h)² + c · max(z_y − max_{j≠y} z_j + confidence, 0)`` by Adam, where
    ``x' = m + h · tanh(w)`` with the middle m and half the width h of the bounds, so that no w is
    outside; distances count in widths of the bounds, so that a constant means the same in any
    units. A binary search finds for each sample the smallest constant c that still leads to
    another class; of all points on the way the nearest adversarial one counts.

    Attributes:
        binary_search_steps: How many constants are tried for each sample.
        steps: Largest number of Adam's steps for each of them (the paper takes 10000).
        step_size: Adam's, in units of w.
        confidence: By how much another logit must be ahead.
        initial_const: The first constant; times 10 until one succeeds.
        abort_early: Leave a constant with a sample when the lowest objective in a tenth of
            ``steps`` is not lower by 0.01 % than in the tenth before.
    """

    norm: Norm = "l2"
    binary_search_steps: int = 9
    steps: int = 1000
    step_size: float = 0.01
    confidence: float = 0.0
    initial_const: float = 1e-3
    abort_early: bool = True

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("binary_search_steps", self.binary_search_steps, 1)
        checks.whole("steps", self.steps, 1)
        checks.at_least("confidence", self.confidence, 0)
        for name in ("step_size", "initial_const"):
            checks.above_0(name, getattr(self, name))

    def _attack(self, search: Search) -> None:
        rows = search.rows()
        consts = torch.full_like(search.logits[rows, 0], self.initial_const)
        lower, upper = torch.zeros_like(consts), torch.full_like(consts, math.inf)
        for step in range(self.binary_search_steps):
            search.progress(step / self.binary_search_steps)
            tried = consts <= _LARGEST
            found = torch.zeros_like(tried)
            found[tried] = self._minimise(search, rows[tried], consts[tried])
            upper, lower = torch.where(found, consts, upper), torch.where(found, lower, consts)
            consts = torch.where(upper.isinf(), consts * 10, (lower + upper) / 2)

    def _minimise(self, search: Search, rows: torch.Tensor, consts: torch.Tensor) -> torch.Tensor:
        """Run Adam once with one constant for each sample, n; say which were adversarial, n."""
        found = torch.zeros_like(consts, dtype=torch.bool)
        low, high = self.bounds
        middle, half = (low + high) / 2, (high - low) / 2
        state = _started(rows, consts, _WITHIN * (search.x[rows] - middle) / half)
        for step in range(self.steps):
            y = state.w.tanh()
            points = (middle + half * y).clamp_(low, high)
            labels = search.labels[state.rows]
            logits, behind, gradient = search.gradient(points, _hinge(labels, self.confidence))
            # What the confidence asks for is taken from the others' lead.
            logits = logits.scatter_add(
                1, labels[:, None], torch.full_like(behind, self.confidence)[:, None]
            )
            found[state.at] |= search.wrong(logits, labels)
            search.record(state.rows, points, logits)
            moved = (y - state.origin) / 2
            objective = state.consts * behind + moved.flatten(1).square().sum(1)
            gradient = by_sample(half * state.consts, gradient) * gradient + moved
            gradient *= 1 - y.square()
            left = self._worth_it(step, objective, gradient, state)
            if not left.all():
                state, gradient = state.only(left), gradient[left]
                if not len(state.at):
                    break
            state.step(gradient, self.step_size, step + 1)
        return found

    def _worth_it(
        self, step: int, objective: torch.Tensor, gradient: torch.Tensor, state: "_State"
    ) -> torch.Tensor:
        """Say with which samples to go on, n booleans."""
        left = torch.ones_like(state.at, dtype=torch.bool)
        if step == 0:
            return (gradient != 0).flatten(1).any(1) & gradient.isfinite().flatten(1).all(1)
        # Adam goes up at first, and then up and down: lowest values are compared.
        state.lowest = torch.fmin(state.lowest, objective)
        if self.abort_early and step % math.ceil(self.steps / 10) == 0:
            left = state.lowest <= 0.9999 * state.earlier
            state.earlier = state.lowest
            state.lowest = torch.full_like(objective, math.inf)
        return left


@dataclass
class _State:
    """Samples under attack: a row of each tensor belongs to one of them.

    ``at`` is its number among those that Adam began with, ``rows`` among all; ``w`` is what is
    optimised, ``origin`` the tanh of its start, ``mean`` and ``square`` are Adam's averages, and
    ``lowest`` is the lowest objective since it was last looked at, ``earlier`` that of before.
    """

    at: torch.Tensor
    rows: torch.Tensor
    consts: torch.Tensor
    lowest: torch.Tensor
    earlier: torch.Tensor
    w: torch.Tensor
    origin: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor

    def only(self, left: torch.Tensor) -> "_State":
        """Return some of the samples."""
        return _State(*(select(part, left) for part in vars(self).values()))

    def step(self, gradient: torch.Tensor, size: float, count: int) -> None:
        """Take Adam's step number ``count`` (Kingma and Ba, 2015, with its own constants)."""
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.001)
        mean, square = self.mean / (1 - 0.9**count), self.square / (1 - 0.999**count)
        self.w -= size * mean / (square.sqrt() + 1e-8)


def _started(rows: torch.Tensor, consts: torch.Tensor, origin: torch.Tensor) -> _State:
    """Begin at samples that are scaled to between -1 and 1."""
    at = torch.arange(len(rows), device=rows.device)
    w = origin.atanh()
    zeros = torch.zeros_like(w)
    high = torch.full_like(consts, math.inf)
    return _State(at, rows, consts, high, high, w, w.tanh(), zeros, zeros.clone())


def _hinge(labels: torch.Tensor, confidence: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make the loss: how far the others are behind what they should be ahead, at least 0."""
    return lambda logits: (confidence - margin(logits, labels)).clamp(min=0)
