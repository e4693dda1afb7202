"""Sampling between the elements: GridSample, AffineGrid and DeformConv."""

import itertools

import torch
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.windows import Pads, Sizes, read_window
from onnxfit.twin.registry import converter

MODES = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "cubic": "bicubic",
    "bicubic": "bicubic",
    "nearest": "nearest",
}


@converter("GridSample", since=16)
def grid_sample(node: Node) -> Outputs:
    mode, padding = node.get("mode", "linear"), node.get("padding_mode", "zeros")
    if mode not in MODES or padding not in ("zeros", "border", "reflection"):
        node.unsupported(f"its mode is {mode!r} and its padding_mode {padding!r}")
    align_corners = bool(node.get("align_corners", 0))
    return node.emit(sample, node.input(0), node.input(1), MODES[mode], padding, align_corners)


def sample(
    x: torch.Tensor, grid: torch.Tensor, mode: str, padding: str, align_corners: bool
) -> torch.Tensor:
    """Sample in one to three dimensions, in the finer type of input and grid."""
    if not x.is_floating_point() and mode != "nearest":
        raise ValueError("integers are sampled in the mode 'nearest' only")
    dtype = torch.promote_types(x.dtype, grid.dtype)
    values, grid = x.to(dtype), grid.to(dtype)
    if (mode, padding) == ("nearest", "reflection"):
        grid = _rounded(grid, x.shape[:1:-1], align_corners)
    if x.dim() != 3:
        return functional.grid_sample(values, grid, mode, padding, align_corners).to(x.dtype)
    grid = functional.pad(grid, (0, 1)).unsqueeze(1)
    y = functional.grid_sample(values.unsqueeze(2), grid, mode, padding, align_corners)
    return y.squeeze(2).to(x.dtype)


def _rounded(grid: torch.Tensor, sides: Sizes, align_corners: bool) -> torch.Tensor:
    """Move each point of a grid onto the nearest element: ONNX does so before it reflects."""
    length = grid.new_tensor(sides)
    if align_corners:
        length = (length - 1).clamp(min=1)
        return ((grid + 1) / 2 * length).round() * 2 / length - 1
    return ((((grid + 1) * length - 1) / 2).round() * 2 + 1) / length - 1


@converter("AffineGrid", since=20)
def affine_grid(node: Node) -> Outputs:
    return node.emit(grid_of, node.input(0), node.host(1), bool(node.get("align_corners", 0)))


def grid_of(theta: torch.Tensor, size: Sizes, align_corners: bool) -> torch.Tensor:
    """Return the grid of an affine map for each sample there is."""
    return functional.affine_grid(theta, [theta.shape[0], *size[1:]], align_corners)


@converter("DeformConv", since=19)
def deform_conv(node: Node) -> Outputs:
    weight = node.known(1)
    kernel = node.get("kernel_shape", ()) if weight is None else tuple(weight.shape[2:])
    if not kernel:
        node.unsupported("its weight is computed and it has no kernel_shape")
    window = read_window(node, kernel)
    geometry = (kernel, window.strides, window.dilations, window.pads)
    groups = (node.get("group", 1), node.get("offset_group", 1))
    return node.emit(convolve_deformed, *(node.input(i) for i in range(5)), *geometry, *groups)


def convolve_deformed(
    x: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    kernel: Sizes,
    strides: Sizes,
    dilations: Sizes,
    pads: Pads,
    group: int,
    offset_group: int,
) -> torch.Tensor:
    """Convolve with kernels whose elements are moved by offsets."""
    batch, rank, size = x.shape[0], len(kernel), offset.shape[2:]
    taps = torch.Size(kernel).numel()
    offset = offset.reshape(batch * offset_group, taps, rank, *size)
    positions = _positions(x, size, kernel, strides, dilations, pads) + offset
    channels = x.reshape(batch * offset_group, -1, *x.shape[2:])
    columns = interpolate(channels, positions.transpose(1, 2).flatten(2))
    columns = columns.reshape(batch, offset_group, -1, taps, size.numel())
    if mask is not None:
        columns = columns * mask.reshape(batch, offset_group, 1, taps, -1)
    columns = columns.reshape(batch, group, -1, size.numel())
    y = weight.reshape(group, weight.shape[0] // group, -1) @ columns
    y = y.reshape(batch, -1, *size)
    return y if bias is None else y + bias.reshape(-1, *(1 for _ in size))


def _positions(
    x: torch.Tensor, size: Sizes, kernel: Sizes, strides: Sizes, dilations: Sizes, pads: Pads
) -> torch.Tensor:
    """Return where each element of a kernel lies for each output: taps × axes × outputs."""
    rank = len(kernel)
    axes = []
    for axis, (n, taps) in enumerate(zip(size, kernel, strict=True)):
        starts = torch.arange(n, dtype=x.dtype, device=x.device) * strides[axis] - pads[axis][0]
        steps = torch.arange(taps, dtype=x.dtype, device=x.device) * dilations[axis]
        steps = steps.reshape(*(-1 if i == axis else 1 for i in range(rank)), *(1 for _ in size))
        starts = starts.reshape(
            *(1 for _ in kernel), *(-1 if i == axis else 1 for i in range(rank))
        )
        axes.append((starts + steps).expand(*kernel, *size).reshape(-1, *size))
    return torch.stack(axes, 1)


def interpolate(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Interpolate linearly between the elements; there are zeros around them.

    Args:
        x: Samples × channels × any number of axes.
        positions: Samples × axes × points.

    Returns:
        Samples × channels × points.
    """
    values, low = x.flatten(2), positions.floor()
    fraction = positions - low
    total = x.new_zeros(())
    for corner in itertools.product((0, 1), repeat=positions.shape[1]):
        index, weight = torch.zeros_like(low[:, 0], dtype=torch.int64), x.new_ones(())
        for axis, (upper, n) in enumerate(zip(corner, x.shape[2:], strict=True)):
            place = low[:, axis] + upper
            part = fraction[:, axis] if upper else 1 - fraction[:, axis]
            weight = weight * torch.where((place >= 0) & (place < n), part, 0)
            index = index * n + place.clamp(0, n - 1).to(torch.int64)
        index = index.unsqueeze(1).expand(-1, x.shape[1], -1)
        total = total + values.gather(2, index) * weight.unsqueeze(1)
    return total
