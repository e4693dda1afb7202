"""Regions of images: RoiAlign, MaxRoiPool and NonMaxSuppression."""

import functools
import itertools
import math

import torch

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.windows import Sizes
from onnxfit.twin.registry import converter


@converter("RoiAlign", since=16)
def roi_align(node: Node) -> Outputs:
    return _roi_align(node, node.get("coordinate_transformation_mode", "half_pixel"))


@converter("RoiAlign", since=10)
def roi_align_without_shift(node: Node) -> Outputs:
    """Pool as the first version did, without a shift by half an element."""
    return _roi_align(node, "output_half_pixel")


def _roi_align(node: Node, coordinates: str) -> Outputs:
    mode = node.get("mode", "avg")
    if mode not in ("avg", "max") or coordinates not in ("half_pixel", "output_half_pixel"):
        node.unsupported(f"its mode is {mode!r}, its coordinates are {coordinates!r}")
    inputs = [node.input(index) for index in range(3)]
    size = (node.get("output_height", 1), node.get("output_width", 1))
    ratio, scale = node.get("sampling_ratio", 0), node.get("spatial_scale", 1.0)
    return node.emit(align, *inputs, size, ratio, scale, coordinates == "half_pixel", mode)


def align(
    x: torch.Tensor,
    rois: torch.Tensor,
    samples: torch.Tensor,
    size: Sizes,
    ratio: int,
    scale: float,
    half_pixel: bool,
    mode: str,
) -> torch.Tensor:
    """Pool regions, each sampled at a grid of points between the elements.

    Args:
        x: Images.
        rois: The corners ``x1, y1, x2, y2`` of each region.
        samples: The image of each region.
        size: Height and width of the result.
        ratio: How many points there are along each side of a bin, 0 for one per element.
        scale: The size of the images in the measure of ``rois``.
        half_pixel: Whether the centres of elements have half-numbers.
        mode: ``avg`` or ``max``.
    """
    height, width = x.shape[2:]
    left, top, right, bottom = (rois.to(x.dtype) * scale - 0.5 * half_pixel).unbind(1)
    rows = _points(top, bottom, height, size[0], ratio, half_pixel)
    columns = _points(left, right, width, size[1], ratio, half_pixel)
    elements = x.permute(0, 2, 3, 1).flatten(0, 2)
    images = samples.to(torch.int64)[:, None, None, None, None] * height
    parts = (
        elements[(images + row[:, :, None, :, None]) * width + column[:, None, :, None, :]]
        * (row_weight[:, :, None, :, None, None] * column_weight[:, None, :, None, :, None])
        for (row, row_weight), (column, column_weight) in itertools.product(rows[0], columns[0])
    )
    if mode == "avg":
        total = functools.reduce(torch.add, (part.sum((3, 4)) for part in parts))
        count = (rows[1].sum(-1) * columns[1].sum(-1)).clamp(min=1)
        return (total / count[:, None, None, None]).permute(0, 3, 1, 2)
    used = rows[1][:, None, None, :, None] & columns[1][:, None, None, None, :]
    most = functools.reduce(torch.maximum, parts)
    most = most.masked_fill(~used.unsqueeze(-1), -torch.inf).amax((3, 4))
    return most.masked_fill(most == -torch.inf, 0).permute(0, 3, 1, 2)


def _points(
    start: torch.Tensor, end: torch.Tensor, length: int, bins: int, ratio: int, half_pixel: bool
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Return where a region's points lie along an axis.

    Returns:
        The two elements around each point with their weights, regions × bins × points; which
        points of a bin the region has, regions × points.
    """
    step = (end - start if half_pixel else (end - start).clamp(min=1)) / bins
    counts = torch.full_like(step, ratio) if ratio > 0 else step.ceil().clamp(min=0)
    most = ratio if ratio > 0 else max(int(counts.max()), 1) if counts.numel() else 1
    numbers = torch.arange(most, dtype=start.dtype, device=start.device)
    used = numbers < counts[:, None]
    within = (numbers + 0.5) * (step / counts.clamp(min=1))[:, None]
    places = torch.arange(bins, dtype=start.dtype, device=start.device)
    points = (start[:, None] + places * step[:, None])[:, :, None] + within[:, None]
    inside = (points >= -1) & (points <= length) & used[:, None]
    points = points.clamp(0, length - 1)
    low = points.floor()
    fraction = points - low
    low = low.to(torch.int64)
    high = (low + 1).clamp(max=length - 1)
    return [(low, (1 - fraction) * inside), (high, fraction * inside)], used


@converter("MaxRoiPool")
def max_roi_pool(node: Node) -> Outputs:
    size, scale = node.get("pooled_shape"), node.get("spatial_scale", 1.0)
    return node.emit(pool_regions, node.input(0), node.input(1), size, scale)


def pool_regions(x: torch.Tensor, rois: torch.Tensor, size: Sizes, scale: float) -> torch.Tensor:
    """Return the maximum of each bin of regions ``sample, x1, y1, x2, y2``, 0 in empty bins."""
    samples = rois[:, 0].to(torch.int64).tolist()
    corners = rois[:, 1:].detach().to(torch.float32) * scale
    corners = corners.sign() * (corners.abs() + 0.5).floor()
    first, last = corners.reshape(-1, 2, 2).flip(-1).unbind(1)
    steps = (last - first + 1).clamp(min=1) / torch.tensor(size, device=x.device)
    rows, columns = (
        _bins(first[:, axis], steps[:, axis], size[axis], x.shape[2 + axis]) for axis in (0, 1)
    )
    pooled = []
    for sample, row, column in zip(samples, rows, columns, strict=True):
        for (top, bottom), (left, right) in itertools.product(row, column):
            part = x[sample, :, top:bottom, left:right].flatten(1)
            pooled.append(part.amax(1) if part.shape[1] else x.new_zeros(x.shape[1]))
    if not pooled:
        return x.new_zeros(0, x.shape[1], *size)
    return torch.stack(pooled).reshape(-1, *size, x.shape[1]).permute(0, 3, 1, 2)


def _bins(
    first: torch.Tensor, step: torch.Tensor, count: int, length: int
) -> list[list[tuple[int, int]]]:
    """Return the first element of each bin and the one after its last, for each region."""
    numbers = torch.arange(count, dtype=step.dtype, device=step.device)
    starts = (numbers * step[:, None]).floor() + first[:, None]
    ends = ((numbers + 1) * step[:, None]).ceil() + first[:, None]
    pairs = torch.stack((starts, ends), -1).clamp(0, length).to(torch.int64)
    return [[(start, end) for start, end in region] for region in pairs.tolist()]


@converter("NonMaxSuppression", since=10)
def non_max_suppression(node: Node) -> Outputs:
    centred = bool(node.get("center_point_box", 0))
    limits = [node.host(index) for index in (2, 3, 4)]
    return node.emit(suppress, node.input(0), node.input(1), *limits, centred)


def suppress(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    limit: int | Sizes | None,
    overlap: float | tuple[float] | None,
    least: float | tuple[float] | None,
    centred: bool,
) -> torch.Tensor:
    """Return sample, class and number of the best boxes that do not overlap, best first."""
    most, overlap = int(_number(limit, 0)), _number(overlap, 0.0)
    least = _number(least, -math.inf)
    corners = _corners(boxes, centred)
    chosen = []
    for sample, kind in itertools.product(range(scores.shape[0]), range(scores.shape[1])):
        values = scores[sample, kind]
        order = values.argsort(descending=True, stable=True)
        order = order[values[order] > least]
        kept = 0
        while kept < most and order.numel():
            chosen.append((sample, kind, int(order[0])))
            kept += 1
            shared = _overlaps(corners[sample, order[0]], corners[sample, order[1:]])
            order = order[1:][~(shared > overlap)]
    return torch.tensor(chosen, dtype=torch.int64, device=scores.device).reshape(-1, 3)


def _number(value: float | tuple[float, ...] | None, default: float) -> float:
    """Return a number that may be in a tuple of its own."""
    value = value[0] if isinstance(value, tuple) and value else value
    return default if value is None or isinstance(value, tuple) else value


def _corners(boxes: torch.Tensor, centred: bool) -> torch.Tensor:
    """Return the lower corner of each box and its upper one."""
    one, other = boxes[..., :2], boxes[..., 2:]
    if centred:
        one, other = one - other / 2, one + other / 2
    return torch.cat((torch.minimum(one, other), torch.maximum(one, other)), -1)


def _overlaps(box: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the intersection of a box with others, as a fraction of their union."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    area = (box[2:] - box[:2]).prod()
    fraction = shared / (area + areas - shared)
    return torch.where((area > 0) & (areas > 0) & (shared > 0), fraction, 0)
