"""Interpolation along one axis, as Resize defines it: coordinates in float32, then weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

Sizes = tuple[int, ...]
# What the rounding of a coordinate may add to a point halfway between two elements.
TIE = 1e-6


@dataclass(frozen=True)
class Scaling:
    """How the length of an axis changes.

    Attributes:
        axis: Which one.
        length: Its number of elements.
        resized: The number of elements in the output.
        scale: The factor that coordinates are computed with.
        region: The part of the axis that the output shows, as fractions.
    """

    axis: int
    length: int
    resized: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)

    @property
    def is_identity(self) -> bool:
        """Tell whether nothing changes."""
        return self.resized == self.length and self.scale == 1 and self.region == (0, 1)

    @property
    def is_plain(self) -> bool:
        """Tell whether the factor is the ratio of the lengths."""
        return self.resized == self.length * self.scale

    def points(self, coordinates: str, device: torch.device) -> torch.Tensor:
        """Return where each element of the output lies on the input's axis."""
        n, m = self.length, self.resized
        index = torch.arange(m, dtype=torch.float32, device=device)
        if coordinates == "tf_crop_and_resize":
            start, end = self.region
            if m == 1:
                return index + 0.5 * (start + end) * (n - 1)
            return start * (n - 1) + quotient(index * ((end - start) * (n - 1)), m - 1)
        if coordinates == "align_corners":
            return quotient(index * (n - 1), max(m - 1, 1))
        if coordinates == "pytorch_half_pixel" and m == 1:
            return index
        if coordinates == "half_pixel_symmetric":
            margin = single(n / 2 * single(1 - single(m / single(self.scale * n))))
            points = quotient(index.double() + 0.5, self.scale) + margin - 0.5
            return points.to(torch.float32)
        points = quotient(index + 0.5 * (coordinates != "asymmetric"), self.scale)
        return points - 0.5 * coordinates.startswith(("half_pixel", "pytorch"))


def quotient(x: torch.Tensor, divisor: float) -> torch.Tensor:
    """Divide by a number, exactly: on some devices PyTorch multiplies by its inverse."""
    return x / torch.full_like(x, divisor)


def single(value: float) -> float:
    """Round a number to float32."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(mantissa, 24)), exponent - 24)


def by_scales(shape: Sequence[int], scales: Sequence[float], axes: Sequence[int]) -> list[Scaling]:
    """Return how axes change that are given factors."""
    pairs = zip(axes, scales, strict=True)
    return [
        Scaling(axis, shape[axis], int(single(shape[axis] * scale)), scale) for axis, scale in pairs
    ]


def by_sizes(
    shape: Sequence[int],
    sizes: Sequence[int],
    axes: Sequence[int],
    roi: Sequence[float],
    policy: str,
) -> list[Scaling]:
    """Return how axes change that are given lengths; a policy keeps the ratio of the sides."""
    scales = [single(size / shape[axis]) for axis, size in zip(axes, sizes, strict=True)]
    if policy != "stretch":
        scale = min(scales) if policy == "not_larger" else max(scales)
        scales = [scale] * len(axes)
        sizes = [math.floor(single(scale * shape[axis]) + 0.5) for axis in axes]
    return [
        Scaling(axis, shape[axis], size, scale, region)
        for axis, size, scale, region in zip(
            axes, sizes, scales, regions(roi, len(axes)), strict=True
        )
    ]


def regions(roi: Sequence[float], count: int) -> list[tuple[float, float]]:
    """Return the part of each axis that is shown: all of it where no region is given."""
    return list(zip(roi[:count], roi[count:], strict=True)) or [(0.0, 1.0)] * count


def nearest_index(points: torch.Tensor, scaling: Scaling, rounding: str) -> torch.Tensor:
    """Return the element nearest to each point."""
    low = points.floor()
    if rounding == "simple":
        # Before it had a choice, the mode was to round up when it makes an axis shorter.
        rounding = "ceil" if scaling.scale < 1 else "floor"
    if rounding == "ceil":
        low = points.ceil()
    elif rounding == "round_prefer_floor":
        low = low + (points - low > 0.5 + TIE)
    elif rounding == "round_prefer_ceil":
        low = low + (points - low >= 0.5 - TIE)
    return low.clamp(0, scaling.length - 1).to(torch.int64)


def taps(
    points: torch.Tensor,
    length: int,
    cubic: bool,
    stretch: float,
    coefficient: float,
    exclude_outside: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the elements around each point and their weights, taps × points.

    Args:
        points: Where the points lie.
        length: The number of elements.
        cubic: Whether it is a cubic interpolation, else it is a linear one.
        stretch: At most 1; less makes the filter wider by the inverse.
        coefficient: The cubic filter's parameter.
        exclude_outside: Whether elements that do not exist count nothing; else they are equal to
            the nearest one that does.
    """
    reach = math.ceil((2 if cubic else 1) / stretch)
    low = points.floor()
    offsets = torch.arange(1 - reach, reach + 1, dtype=points.dtype, device=points.device)
    index = low + offsets[:, None]
    distance = ((index - points) * stretch).abs()
    if cubic:
        a, d = coefficient, distance
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        weights = torch.where(d <= 1, near, torch.where(d < 2, far, 0))
    else:
        weights = (1 - distance).clamp(min=0)
    if exclude_outside:
        weights = torch.where((index >= 0) & (index < length), weights, 0)
    if exclude_outside or stretch < 1:
        weights = weights / weights.sum(0)
    return index.clamp(0, length - 1).to(torch.int64), weights


def gathered(
    x: torch.Tensor, axis: int, index: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return weighted sums of the elements along an axis."""
    shape = [-1 if i == axis else 1 for i in range(x.dim())]
    total = x.new_zeros(())
    for row, weight in zip(index, weights.to(x.dtype), strict=True):
        total = total + x.index_select(axis, row) * weight.reshape(shape)
    return total
