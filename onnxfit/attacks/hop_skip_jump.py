"""HopSkipJump: nothing but the class that the model names."""

import math
from dataclasses import dataclass

import torch

from onnxfit import checks
from onnxfit.attacks.attack import MinimalAttack
from onnxfit.attacks.ball import Norm, dimensions, norms
from onnxfit.attacks.layout import laid_out
from onnxfit.attacks.search import Search

_TRIALS = 100  # Random images tried for a first misclassified one.
_NEIGHBOURS = 3  # Samples of other classes tried as first points.
_POOL = 256  # Samples that neighbours are looked for among.
_LEAST_PASSES = 10  # Halvings in a bisection.
_MOST_PASSES = 16  # A point nearer to the boundary is on either side as rounding has it.
_COARSE = 6  # Halvings of the way from a first point to the sample.
_HALVINGS = 12  # Of a step that leads to no misclassified point.
_FEWEST = 10  # Evaluations below which no direction is estimated.
_FINEST = 1e-4  # Mean change of a value by which linf estimates, as a share of the bounds.
_AT_ONCE = 2**22  # Values of the points that are evaluated together.
_OUTWARD = (1.0, 1.01, 1.03, 1.1, 1.3)  # Where rounded points are tried, as shares of the way.


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(MinimalAttack):
    """HopSkipJump (Chen, Jordan and Wainwright, 2020): needs classes alone, no logits.

    Starts at a misclassified point and walks along the decision boundary towards the sample. Each
    step finds the boundary between point and sample by bisection, estimates the boundary's normal
    from which of many near points are misclassified, and goes along it as far as ``distance /
    sqrt(step)``, or the largest half, quarter, … of that which is misclassified.

    First points are the nearest other samples that the model gives another class, and random
    images: noise, noise at the bounds, and single colours. A sample for which none is
    misclassified stays as it is.

    Attributes:
        steps: Largest number of steps.
        queries: Points that the model is given of each sample at most.
        initial_evaluations: Points by which the first step estimates the normal; step t takes
            sqrt(t) times as many.
        max_evaluations: The most of them.
        gamma: Precision: the bisection stops at gamma / d^1.5 of the way for ``l2``, gamma / d^2
            for ``linf``, where d is the number of values of a sample; but after 10 halvings at the
            earliest and 16 at the latest.
    """

    norm: Norm = "l2"
    steps: int = 20
    queries: int = 2500
    initial_evaluations: int = 100
    max_evaluations: int = 10000
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("steps", self.steps, 1)
        checks.whole("queries", self.queries, 1)
        checks.whole("initial_evaluations", self.initial_evaluations, 1)
        checks.whole("max_evaluations", self.max_evaluations, self.initial_evaluations)
        checks.above_0("gamma", self.gamma)

    def _attack(self, search: Search) -> None:
        walk = _Walk(self, search)
        walk.begin()
        for step in range(1, self.steps + 1):
            search.progress((step - 1) / self.steps)
            walk.drop_the_done()
            if not len(walk.rows):
                return
            walk.hop(step)


class _Walk:
    """Samples under attack and their points, n×d each, with what is left of their queries."""

    def __init__(self, attack: HopSkipJump, search: Search) -> None:
        self.attack, self.search = attack, search
        self.rows = search.rows()
        self.x = search.x[self.rows].flatten(1)
        self.points = self.x.clone()
        self.distance = torch.full((len(self.x),), math.inf, dtype=self.x.dtype).to(self.x.device)
        self.left = torch.full((len(self.x),), attack.queries, device=self.x.device)
        self.keeps = not attack.quantize  # Rounded points are recorded by themselves.
        self.d = dimensions(search.x)
        power = 1.5 if attack.norm == "l2" else 2
        self.passes = max(math.ceil(math.log2(self.d**power / attack.gamma)), _LEAST_PASSES)
        self.passes = min(self.passes, _MOST_PASSES)

    def ask(self, at: torch.Tensor, points: torch.Tensor, *, keep: bool = True) -> torch.Tensor:
        """Say which points are misclassified, and record them; False where no queries are left.

        Args:
            at: Whose points they are, m numbers below n; no two the same where they are kept.
            points: m×d.
            keep: Record what is misclassified.
        """
        reserve = 1 if self.attack.quantize else 0  # Recording gives rounded points once more.
        may = self.left[at] > reserve
        found = torch.zeros_like(may)
        at, points = at[may], points[may]
        if not len(at):
            return found
        shaped = laid_out(points.reshape(len(at), *self.search.x.shape[1:]))
        logits = self.search.compute(shaped)
        wrong = self.search.wrong(logits, self.search.labels[self.rows[at]])
        self.left -= torch.bincount(at, minlength=len(self.left))
        if keep:
            self.search.record(self.rows[at], shaped, logits)
            if self.attack.quantize:
                self.left[at[wrong]] -= 1
        found[may] = wrong
        return found

    def begin(self) -> None:
        """Find a misclassified point for each sample, then the boundary."""
        self._neighbours()
        for trial in range(_TRIALS):
            at = torch.arange(len(self.rows), device=self.x.device)
            if trial:
                at = at[self.distance.isinf()]
            if not len(at):
                break
            images = self._images(at, trial)
            found = self.ask(at, images, keep=self.keeps)
            self._take(at[found], self._boundary(at[found], images[found], _COARSE))
        at = self.distance.isfinite().nonzero().squeeze(1)
        self._take(at, self._boundary(at, self.points[at], self.passes))
        self._round()

    def hop(self, step: int) -> None:
        """Take one step along the boundary of each sample."""
        at = torch.arange(len(self.rows), device=self.x.device)
        direction = self._normals(step)
        if self.attack.norm == "linf":
            direction = direction.sign()
        size = self.distance / math.sqrt(step)
        moved, still = self.points.clone(), torch.ones_like(self.left, dtype=torch.bool)
        for _ in range(_HALVINGS):
            points = self._clipped(self.points[at] + size[at, None] * direction[at])
            found = self.ask(at, points, keep=self.keeps)
            moved[at[found]], still[at[found]] = points[found], False
            at = at[~found]
            if not len(at):
                break
            size[at] /= 2
        at = (~still).nonzero().squeeze(1)
        self._take(at, self._boundary(at, moved[at], self.passes))
        self._round()

    def drop_the_done(self) -> None:
        """Leave out samples without a point, those within eps, and those without queries."""
        needed = self.passes + _HALVINGS // 2 + _FEWEST
        going = self.distance.isfinite() & (self.left >= needed)
        if self.attack.eps is not None:
            going &= ~self.search.broken[self.rows]
        if going.all():
            return
        names = ("rows", "x", "points", "distance", "left")
        for name in names:
            setattr(self, name, getattr(self, name)[going])

    def _normals(self, step: int) -> torch.Tensor:
        """Estimate which way misclassified points lie, n×d unit vectors.

        The mean of random directions, each times 1 or -1 as the point that way is misclassified
        or not, less the mean of these signs where they differ.
        """
        wanted = min(
            int(self.attack.initial_evaluations * math.sqrt(step)), self.attack.max_evaluations
        )
        reserve = self.passes + _HALVINGS // 2
        counts = (self.left - reserve).clamp(max=wanted)
        # Few at a time, for the matrix below has a row for each sample of a group.
        together = max(math.isqrt(_AT_ONCE // wanted), 1)
        groups = torch.arange(len(counts), device=counts.device).split(together)
        owners = [torch.repeat_interleave(group, counts[group]) for group in groups]
        radius = self._probe(step)
        signed, plain = torch.zeros_like(self.points), torch.zeros_like(self.points)
        signs = torch.zeros_like(self.distance)
        size = max(_AT_ONCE // self.d, 1)
        for owner in (part for group in owners for part in group.split(size)):
            points = self.points[owner]
            around = self._clipped(points + radius[owner, None] * self._directions(len(owner)))
            found = self.ask(owner, around, keep=False)
            moved, sign = (around - points) / radius[owner, None], 2 * found.to(points.dtype) - 1
            # Sums by sample as a product of matrices: the same on every device and run.
            first, last = int(owner[0]), int(owner[-1]) + 1
            of = torch.arange(first, last, device=owner.device)[:, None] == owner
            signed[first:last] += (of * sign) @ moved
            plain[first:last] += of.to(moved) @ moved
            signs[first:last] += (of * sign).sum(1)
        mean = signs / counts.clamp(min=1)
        one_sided = mean.abs() == 1
        baseline = torch.where(one_sided, torch.zeros_like(mean), mean)
        normal = signed - baseline[:, None] * plain
        return normal / norms(normal).clamp(min=1e-30)[:, None]

    def _probe(self, step: int) -> torch.Tensor:
        """Return how far from a point the normal is estimated, n."""
        low, high = self.attack.bounds
        if step == 1:
            return torch.full_like(self.distance, 0.1 * (high - low))
        radius = self.distance * self.attack.gamma / self.d
        if self.attack.norm == "l2":
            return radius
        # The paper's radius moves a value by less than float32 and a network resolve.
        return radius.clamp(min=_FINEST * (high - low) * math.sqrt(self.d))

    def _directions(self, count: int) -> torch.Tensor:
        """Draw unit vectors, count×d."""
        shape, generator = (count, self.d), self.search.generator
        if self.attack.norm == "l2":
            drawn = torch.randn(shape, generator=generator, dtype=self.x.dtype)
        else:
            drawn = torch.rand(shape, generator=generator, dtype=self.x.dtype) * 2 - 1
        return (drawn / norms(drawn).clamp(min=1e-30)[:, None]).to(self.x)

    def _images(self, at: torch.Tensor, trial: int) -> torch.Tensor:
        """Draw images: in turn noise, noise at the bounds, and single colours."""
        low, high = self.attack.bounds
        shape = [len(at), *self.search.x.shape[1:]]
        if trial % 3 == 2:
            first = 2 if len(shape) > 2 else 1
            shape[first:] = [1] * (len(shape) - first)
        drawn = torch.rand(shape, generator=self.search.generator, dtype=self.x.dtype)
        if trial % 3 == 1:
            drawn = drawn.round()
        drawn = drawn.expand(len(at), *self.search.x.shape[1:]).reshape(len(at), -1)
        return self._clipped(low + (high - low) * drawn.to(self.x))

    def _neighbours(self) -> None:
        """Start from the nearest samples that the model gives another class."""
        search, n = self.search, len(self.search.x)
        pool = torch.randperm(n, generator=search.generator)[:_POOL].to(self.x.device)
        others = search.x[pool].flatten(1)
        far = torch.cdist(self.x, others, p=2.0 if self.attack.norm == "l2" else math.inf)
        classes = search.logits[pool].argmax(1)
        far[classes[None] == search.labels[self.rows][:, None]] = math.inf
        for _ in range(min(_NEIGHBOURS, len(pool))):
            nearest = far.argmin(1)
            at = far.gather(1, nearest[:, None]).squeeze(1).isfinite().nonzero().squeeze(1)
            if not len(at):
                return
            self._take(at, self._boundary(at, others[nearest[at]], _COARSE))
            far.scatter_(1, nearest[:, None], math.inf)

    def _boundary(self, at: torch.Tensor, points: torch.Tensor, passes: int) -> torch.Tensor:
        """Bisect the way from misclassified points to their samples, m×d to m×d."""
        low, high = torch.zeros_like(points[:, 0]), torch.ones_like(points[:, 0])
        for _ in range(passes):
            middle = (low + high) / 2
            found = self.ask(at, self._on_the_way(at, points, middle), keep=self.keeps)
            low, high = torch.where(found, low, middle), torch.where(found, middle, high)
        return torch.where((high < 1)[:, None], self._on_the_way(at, points, high), points)

    def _on_the_way(
        self, at: torch.Tensor, points: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        """Go back to the samples until a share of each perturbation's norm is left."""
        x = self.x[at]
        if self.attack.norm == "l2":
            return self._clipped(x + share[:, None] * (points - x))
        reach = (share * norms(points - x, "linf"))[:, None]
        return self._clipped(torch.clamp(points, x - reach, x + reach))

    def _take(self, at: torch.Tensor, points: torch.Tensor) -> None:
        """Move to points that are nearer to their samples."""
        distance = norms(points - self.x[at], self.attack.norm)
        nearer = distance < self.distance[at]
        self.points[at[nearer]], self.distance[at[nearer]] = points[nearer], distance[nearer]

    def _round(self) -> None:
        """With ``quantize``, record the nearest misclassified points that 8 bits can hold."""
        at = self.distance.isfinite().nonzero().squeeze(1)
        for share in _OUTWARD if self.attack.quantize else ():
            if not len(at):
                return
            x = self.x[at]
            points = self._clipped(x + share * (self.points[at] - x))
            points = points.reshape(len(at), *self.search.x.shape[1:])
            points = self.search.rounded(self.rows[at], points).flatten(1)
            at = at[~self.ask(at, points)]

    def _clipped(self, points: torch.Tensor) -> torch.Tensor:
        return points.clamp(*self.attack.bounds)
