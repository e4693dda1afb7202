"""FAB, the fast adaptive boundary attack (Croce and Hein, 2020): small perturbations."""

import math
from dataclasses import dataclass

import torch

from onnxfit import checks
from onnxfit.attacks.attack import GradientAttack, MinimalAttack
from onnxfit.attacks.ball import Bounds, Norm, axes, by_sample, norms, random_directions
from onnxfit.attacks.layout import select
from onnxfit.attacks.losses import likeliest, margin, of_label
from onnxfit.attacks.search import Search

# How far from a sample a random start may lie where nothing is known of its distance: in ranges
# of the bounds.
_REACH: dict[Norm, float] = {"linf": 0.3, "l2": 1.0}
_FINAL_STEPS = 3
# Where that search aims at, in margins of the sample: so far beyond the boundary that a point stays
# misclassified however a runtime rounds.
_BEYOND = 1e-3


@dataclass(frozen=True, kw_only=True)
class FAB(GradientAttack, MinimalAttack):
    """The fast adaptive boundary attack in its targeted form, FAB-T (Croce and Hein, 2020).

    For each of the likeliest other classes: linearise the difference of its logit to the label's;
    step onto the plane where it is 0, from the point and from the sample, both within the bounds,
    and go to a mean of the two that lies nearer to the point; where the point is misclassified, go
    back toward the sample. Three steps of a search between the nearest misclassified point and the
    sample end it. Any misclassification counts.

    With ``eps`` a sample is done with once it has a point within; without, the search goes on for
    the nearest. From a place with a gradient of 0 everywhere it goes on at a random point.

    Attributes:
        steps: Number of steps for each class and restart.
        restarts: How often to start for each class: at the sample, then at random points half as
            far as the nearest misclassified point, or half of ``eps``.
        targets: How many classes to try, at most all but the sample's own.
        alpha_max: Largest share of the sample's own step in the mean.
        eta: How far to step, 1 being up to the plane.
        beta: Where to go back to from a misclassified point, 1 being the point, 0 the sample.
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "restarts", "targets"):
            checks.whole(name, getattr(self, name), 1)
        checks.at_least("eta", self.eta, 1)
        for name in ("alpha_max", "beta"):
            checks.share(name, getattr(self, name))

    def _attack(self, search: Search) -> None:
        classes = likeliest(search.logits, search.labels, self.targets).unbind(1)
        for k, targets in enumerate(classes):
            for restart in range(self.restarts):
                search.progress((k + restart / self.restarts) / len(classes))
                open_ = search.remaining if self.eps is None else ~search.broken
                rows = open_.nonzero().squeeze(1)
                if not len(rows):
                    return
                self._approach(search, rows, targets[rows], at_random=restart > 0)

    def _approach(
        self, search: Search, rows: torch.Tensor, targets: torch.Tensor, *, at_random: bool
    ) -> None:
        x = search.x[rows]
        far = x.new_full((len(x),), math.inf)
        labels = search.labels[rows]
        state = _State(rows, x, labels, targets, x, x, far, far)
        if at_random:
            state.points = self._random(search, rows)
        for _ in range(self.steps):
            _, gaps, gradient = search.gradient(state.points, state.gap)
            self._step(search, state, gaps, torch.nan_to_num(gradient))
            logits = search.compute(state.points)
            state.take(search, logits, self.beta)
            if self.eps is not None:
                left = ~search.broken[state.rows]
                if not left.any():
                    return
                state = state.only(left)
        self._search_line(search, state)

    def _step(
        self, search: Search, state: "_State", gaps: torch.Tensor, gradient: torch.Tensor
    ) -> None:
        """Move each point to where the linearised gap to its target closes."""
        ball = search.ball
        points, x, norm = state.points, state.x, ball.norm
        # The plane where gap + w·(z - point) is 0, seen from the point and from the sample.
        from_x = gaps + _sums(gradient * (x - points))
        step = steps_to_plane(points, gradient, -gaps, norm, ball.bounds)
        own = steps_to_plane(x, gradient, -from_x, norm, ball.bounds)
        length, own_length = (norms(part, norm).clamp(min=1e-8) for part in (step, own))
        alpha = (length / (length + own_length)).clamp(max=self.alpha_max)
        share = by_sample(alpha, points)
        ahead = (1 - share) * (points + self.eta * step) + share * (x + self.eta * own)
        state.points = ball[state.rows].project(ahead)
        flat = gradient.abs().amax(axes(gradient)) == 0
        if flat.any():
            state.points[flat] = self._random(search, state.rows[flat])

    def _random(self, search: Search, rows: torch.Tensor) -> torch.Tensor:
        """Draw a point for each sample half as far as there is any use in looking."""
        x, norm, (low, high) = search.x[rows], search.ball.norm, search.ball.bounds
        reach = (high - low) * _REACH[norm] if self.eps is None else self.eps
        radius = search.distance[rows].clamp(max=reach).to(x.dtype) / 2
        directions = random_directions(x, norm, search.generator)
        return search.ball[rows].project(x + by_sample(radius, x) * directions)

    def _search_line(self, search: Search, state: "_State") -> None:
        """Look between the nearest misclassified points and the samples, by the rule of secants."""
        found = state.distances < math.inf
        if not found.any():
            return
        state = state.only(found)
        ball, inside = search.ball[state.rows], state.x
        low = margin(search.logits[state.rows], state.labels)
        aim = -_BEYOND * low
        for _ in range(_FINAL_STEPS):
            share = (state.margins - aim) / (state.margins - low)
            share = torch.nan_to_num(share, nan=0.5).clamp(0, 1)
            outside = state.nearest
            state.points = ball.project(outside + by_sample(share, inside) * (inside - outside))
            logits = search.compute(state.points)
            wrong = search.wrong(logits, state.labels)
            inside = torch.where(by_sample(wrong, inside), inside, state.points)
            low = torch.where(wrong, low, margin(logits, state.labels))
            state.take(search, logits, 1.0)


@dataclass
class _State:
    """Samples that are being attacked: a row of each tensor belongs to one of them.

    Attributes:
        rows: Their numbers.
        x: The samples.
        labels: Their classes.
        targets: The classes they are led to.
        points: Where the search is.
        nearest: The nearest misclassified points that it came to.
        distances: How far these are; infinite where there is none.
        margins: How much they are misclassified.
    """

    rows: torch.Tensor
    x: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    points: torch.Tensor
    nearest: torch.Tensor
    distances: torch.Tensor
    margins: torch.Tensor

    def only(self, left: torch.Tensor) -> "_State":
        """Return some of the samples."""
        if left.all():
            return self
        return _State(*(select(part, left) for part in vars(self).values()))

    def gap(self, logits: torch.Tensor) -> torch.Tensor:
        """Return how far the target's logit is above the label's, n×C → n."""
        return of_label(logits, self.targets) - of_label(logits, self.labels)

    def take(self, search: Search, logits: torch.Tensor, beta: float) -> None:
        """Record the points that are misclassified, and go back from them toward the samples."""
        search.record(self.rows, self.points, logits)
        wrong = search.wrong(logits, self.labels)
        moved = self.points - self.x
        lengths = norms(moved, search.ball.norm)
        nearer = wrong & (lengths < self.distances)
        self.nearest = torch.where(by_sample(nearer, moved), self.points, self.nearest)
        self.distances = torch.where(nearer, lengths, self.distances)
        self.margins = torch.where(nearer, margin(logits, self.labels), self.margins)
        self.points = torch.where(by_sample(wrong, moved), self.x + beta * moved, self.points)


def steps_to_plane(
    points: torch.Tensor, weights: torch.Tensor, gaps: torch.Tensor, norm: Norm, bounds: Bounds
) -> torch.Tensor:
    """Compute the shortest steps δ onto a plane within bounds: ``w·δ = gap``.

    The shortest step goes everywhere as far as ``λ·a`` or as there is room, with ``a = 1`` for
    ``linf`` and ``a = |w|`` for ``l2``; ``w·δ`` then rises with λ along a concave line of straight
    pieces. Newton's method from λ = 0 comes to the exact λ from below: each step that does not end
    it meets the limits of more values.

    Args:
        points: Within the bounds, N×….
        weights: w of each, N×….
        gaps: N.
        norm: What measures a step.
        bounds: Smallest and largest value.

    Returns:
        The steps, N×…. Where no point within the bounds is on the plane, those to the nearest to
        it; where w is 0 everywhere, 0.
    """
    signs = weights.sign() * by_sample(gaps.sign(), weights)
    sizes = weights.abs()
    largest = sizes.amax(axes(sizes)).clamp(min=torch.finfo(points.dtype).tiny)
    sizes, needed = sizes / by_sample(largest, sizes), gaps.abs() / largest
    room = torch.where(signs > 0, bounds[1] - points, points - bounds[0]).clamp(min=0)
    pace = (signs != 0).to(sizes) if norm == "linf" else sizes
    gains, rates = sizes * room, sizes * pace
    free = rates > 0
    while True:
        missing = needed - _sums(torch.where(free, 0.0, gains))
        rate = _sums(torch.where(free, rates, 0.0))
        # Without a free value this is infinite: every value goes as far as there is room.
        scale = by_sample(missing.clamp(min=0) / rate, pace)
        still = free & (scale * pace < room)
        if torch.equal(still, free):
            break
        free = still
    return signs * torch.where(free, scale * pace, room)


def _sums(values: torch.Tensor) -> torch.Tensor:
    """Sum the values of each sample, N×… → N."""
    return values.sum(axes(values))
