"""The points that an attack may use: near a sample, within the bounds, as floats hold them."""

from collections.abc import Callable
from typing import Literal, Self

import torch

from onnxfit.attacks.layout import select

Norm = Literal["linf", "l2"]
Bounds = tuple[float, float]

NORMS: tuple[Norm, ...] = ("linf", "l2")
LEVELS = 255  # Steps of an 8-bit value.

# What summing squares in single precision may lose, as a share of a norm, with room to spare.
_SUM_ERROR = 1e-5
# Where more than this share of a radius would be left for rounding, lengths are measured exactly.
_LARGEST_LOSS = 1e-4
_SHRINKS = 6  # Rounds in which a length that rounding made too large is scaled down.
# What summing squares in double precision may lose, with room to spare.
_DOUBLE_ERROR = 1e-12
# How far off a level a float may be that was computed as one, in units of its rounding.
_LEVEL_ULPS = 4
# What rounding may do to a distance counted in levels, as a share of it.
_LEVEL_ERROR = 1e-9


class Ball:
    """The points within ``eps`` of each sample and within the bounds.

    Every point that comes out of :meth:`project` is inside as floats hold it: its difference to the
    sample, in double precision, has a norm of at most ``eps``, and no value is out of bounds.

    Args:
        x: The samples, N×…, within the bounds.
        eps: Radius in units of the bounds; infinite for no limit but the bounds.
        norm: ``linf`` or ``l2``.
        bounds: Smallest and largest value.

    Attributes:
        x: The samples.
        eps: The radius.
        norm: The norm.
        bounds: The bounds.
    """

    def __init__(self, x: torch.Tensor, eps: float, norm: Norm, bounds: Bounds) -> None:
        self.x, self.eps, self.norm, self.bounds = x, eps, norm, bounds
        low, high = (_rounded(bound, x.dtype) for bound in bounds)
        self._low: torch.Tensor | float = low
        self._high: torch.Tensor | float = high
        if norm == "linf":
            self._low = _toward(x, -eps).clamp_(min=low)
            self._high = _toward(x, eps).clamp_(max=high)
        # Rounding x + δ moves each value by half a unit in the last place of the largest one.
        unit = torch.finfo(x.dtype).eps / 2 * max(abs(low), abs(high))
        self._safe = max(eps - unit * dimensions(x) ** 0.5, 0.0) * (1 - _SUM_ERROR)

    def __getitem__(self, rows: torch.Tensor) -> Self:
        """Return the balls of some samples, by number or mask."""
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen.x = select(self.x, rows)
        if isinstance(self._low, torch.Tensor) and isinstance(self._high, torch.Tensor):
            chosen._low, chosen._high = select(self._low, rows), select(self._high, rows)
        return chosen

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """Return points inside, N×…: the nearest of the ball, clipped to the bounds."""
        if self.norm == "l2" and self._safe < (1 - _LARGEST_LOSS) * self.eps:
            points = self._shortened(points)
        elif self.norm == "l2" and self.eps < float("inf"):
            moved = points - self.x
            length = norms(moved)
            # Not divided by 0, which a length is that underflows.
            share = self._safe / length.clamp(min=torch.finfo(length.dtype).tiny)
            inside = by_sample(share > 1, points)
            points = torch.where(inside, points, self.x + moved * by_sample(share, moved))
        return torch.clamp(points, self._low, self._high)

    def _shortened(self, points: torch.Tensor) -> torch.Tensor:
        """Scale perturbations to the radius by lengths in double precision, for l2.

        Where rounding makes them longer they are scaled again, and where that does not help each
        value is rounded toward the sample.
        """
        limit = self.eps * (1 - _DOUBLE_ERROR)
        x = self.x.double()
        moved = points.double() - x
        length = norms(moved)
        far = (length > limit).nonzero().squeeze(1)
        if not len(far):
            return points
        x, moved, length = x[far], moved[far], length[far]
        share = limit / length
        for _ in range(_SHRINKS):
            rounded = (x + moved * by_sample(share, moved)).to(points.dtype)
            real = norms(rounded.double() - x)
            over = real > limit
            if not over.any():
                break
            share = torch.where(over, share * (limit / real) * (1 - _LARGEST_LOSS), share)
        else:
            ahead = moved * by_sample(share, moved)
            rounded = (x + ahead).to(points.dtype)
            beyond = ((rounded.double() - x).abs() > ahead.abs()) & by_sample(over, moved)
            rounded = torch.where(beyond, torch.nextafter(rounded, self.x[far]), rounded)
        return points.index_copy(0, far, rounded)

    def random(self, generator: torch.Generator) -> torch.Tensor:
        """Draw a point inside for each sample, uniformly from the ball, then clipped."""
        x = self.x
        if self.norm == "linf":
            noise = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1
            reach = min(self.eps, self.bounds[1] - self.bounds[0])
            return self.project(x + reach * noise.to(x))
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x)
        radius = torch.rand(len(x), generator=generator, dtype=x.dtype).to(x)
        # Nothing is farther than the diagonal of the bounds.
        reach = min(self.eps, (self.bounds[1] - self.bounds[0]) * dimensions(x) ** 0.5)
        radius = reach * radius ** (1 / dimensions(x))
        return self.project(x + unit_steps(direction, "l2") * by_sample(radius, x))

    def distances(self, points: torch.Tensor) -> torch.Tensor:
        """Measure how far points are from the samples, in double precision, N×… → N."""
        return norms(points.double() - self.x, self.norm)

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Say of each point whether it is inside, computed in double precision; N booleans."""
        low, high = (_rounded(bound, points.dtype) for bound in self.bounds)
        within = (points.amin(axes(points)) >= low) & (points.amax(axes(points)) <= high)
        return within & (self.distances(points) <= self.eps)


class QuantizedBall(Ball):
    """The points of a ball that 8 bits can hold: 256 levels from bound to bound.

    The samples must lie on the levels themselves. Distances are between levels, so that for
    instance 8/255 from 0 to 1 is eight levels, whatever floats make of the two values.

    Raises:
        ValueError: A sample does not lie on the levels.
    """

    def __init__(self, x: torch.Tensor, eps: float, norm: Norm, bounds: Bounds) -> None:
        super().__init__(x, eps, norm, bounds)
        self._level = (bounds[1] - bounds[0]) / LEVELS
        if not self.on_levels(x).all():
            raise ValueError("the samples are not on the 256 levels of 8 bits between the bounds")

    def on_levels(self, points: torch.Tensor) -> torch.Tensor:
        """Say of each point whether 8 bits hold it, to within rounding of its type; N booleans."""
        steps = (points.double() - self.bounds[0]) / self._level
        largest = max(map(abs, self.bounds)) / self._level
        slack = _LEVEL_ULPS * torch.finfo(points.dtype).eps * largest
        return (steps - steps.round()).abs().amax(axes(points)) <= slack

    def levels(self, points: torch.Tensor) -> torch.Tensor:
        """Return the numbers of the nearest levels, 0 to 255, in double precision."""
        return ((points.double() - self.bounds[0]) / self._level).round_().clamp_(0, LEVELS)

    def quantize(self, points: torch.Tensor) -> torch.Tensor:
        """Return points inside that 8 bits hold: each value rounded, or nearer to the sample."""
        start, reach = self.levels(self.x), self.eps / self._level * (1 + _LEVEL_ERROR / 2)
        moved = self.levels(points) - start
        if self.norm == "linf":
            moved = moved.clamp_(-int(min(reach, LEVELS)), int(min(reach, LEVELS)))
        else:
            far = norms(moved) > reach
            exact = (points.double() - self.x.double()) / self._level
            # Toward the sample, each value alone: a norm only shrinks.
            shorter = exact * by_sample((reach / norms(exact).clamp(min=1e-30)).clamp(max=1), exact)
            moved = torch.where(by_sample(far, moved), shorter.trunc(), moved)
        # What does not move keeps the very bits of the sample.
        values = self.bounds[0] + (start + moved) * self._level
        values = values.to(points.dtype).clamp(*self.bounds)
        return torch.where(moved == 0, self.x, values)

    def distances(self, points: torch.Tensor) -> torch.Tensor:
        """Measure how far the levels of points are from those of the samples, N×… → N."""
        moved = self.levels(points) - self.levels(self.x)
        # The least that they can be if the width of a level was rounded.
        return norms(moved, self.norm) * self._level * (1 - _LEVEL_ERROR)

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Say of each point whether it is inside and on the levels; N booleans."""
        return self.on_levels(points) & super().contains(points)


def dimensions(x: torch.Tensor) -> int:
    """Return how many values a sample has."""
    return x[:1].numel() if len(x) else 1


def by_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape one value per sample, N, so that it broadcasts over samples, N×…."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def axes(x: torch.Tensor) -> tuple[int, ...]:
    """Return the axes of a sample. To reduce over them is faster than to flatten them first."""
    return tuple(range(1, x.dim()))


def norms(moved: torch.Tensor, norm: Norm = "l2") -> torch.Tensor:
    """Return the norm of each sample's perturbation, N×… → N."""
    size = moved.abs() if norm == "linf" else moved.square()
    return size.amax(axes(moved)) if norm == "linf" else size.sum(axes(moved)).sqrt()


def unit_steps(gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the steepest directions of length 1: signs for ``linf``, unit vectors for ``l2``.

    Where a gradient is 0 everywhere, so is the direction; NaN counts as 0.
    """
    if norm == "linf":
        return gradient.sign()
    # Scaled first, for the squares of small numbers are 0 and of large ones infinite.
    gradient = scaled(gradient)
    return gradient / by_sample(norms(gradient).clamp(min=1e-12), gradient)


def random_directions(like: torch.Tensor, norm: Norm, generator: torch.Generator) -> torch.Tensor:
    """Draw a direction of length 1 in the norm for each sample, N×….

    For ``linf`` each value is uniform, stretched so that the largest is 1; for ``l2`` the direction
    is uniform.
    """
    draw = torch.rand if norm == "linf" else torch.randn
    noise = draw(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    if norm == "linf":
        noise = 2 * noise - 1
    tiny = torch.finfo(like.dtype).tiny
    return noise / by_sample(norms(noise, norm).clamp(min=tiny), noise)


def scaled(gradient: torch.Tensor) -> torch.Tensor:
    """Divide each sample's gradient by its largest value; NaN counts as 0, and 0 stays 0."""
    gradient = torch.nan_to_num(gradient)
    largest = gradient.abs().amax(axes(gradient)).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / by_sample(largest, gradient)


def make_ball(
    x: torch.Tensor, eps: float, norm: Norm, bounds: Bounds, *, quantize: bool = False
) -> Ball:
    """Make the ball around samples, with 256 levels where ``quantize`` says so."""
    kind: Callable[..., Ball] = QuantizedBall if quantize else Ball
    return kind(x, eps, norm, bounds)


def _toward(x: torch.Tensor, move: float) -> torch.Tensor:
    """Return ``x + move`` in the type of ``x``, and no more than ``move`` away from it."""
    # What the addition loses is computed without an error of its own (Knuth's TwoSum).
    step = _rounded_to_zero(move, x.dtype)
    moved = x + step
    part = moved - x
    lost = (x - (moved - part)).add_(step - part)
    beyond = lost < 0 if move > 0 else lost > 0
    return torch.where(beyond, torch.nextafter(moved, x), moved)


def _rounded_to_zero(value: float, dtype: torch.dtype) -> float:
    """Round to a number of the type that is no larger."""
    near = torch.tensor(value, dtype=dtype)
    if abs(near.item()) > abs(value):
        near = torch.nextafter(near, torch.zeros((), dtype=dtype))
    return near.item()


def _rounded(bound: float, dtype: torch.dtype) -> float:
    """Round a bound as data is rounded: to the nearest number of the type."""
    return float(torch.tensor(bound, dtype=dtype))
