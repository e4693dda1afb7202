"""Convolutions with strides over few channels, as networks begin with, for gradients of images.

PyTorch takes several times as long for the input's gradient as for the convolution itself. The
elements of the input that lie a stride apart get theirs from a convolution without strides; all
of these are computed in one, a channel of its output for each place within a stride.
"""

import math
from typing import Any

import torch
from torch.nn import functional

from onnxfit.twin.ops.windows import Sizes
from onnxfit.twin.transforms import is_batched, transformed

CONV = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
# Up to so many channels the gradient is faster in this way.
FEW_CHANNELS = 8


def convolve_strided(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sizes,
    pads: Sizes,
) -> torch.Tensor:
    """Convolve; where only the input asks for a gradient, on the CPU, in the faster way."""
    constant = not (weight.requires_grad or (bias is not None and bias.requires_grad))
    alone = constant and x.requires_grad and torch.is_grad_enabled()
    fits = weight.shape[1] <= FEW_CHANNELS and x.is_cpu and x.dtype == torch.float32
    plain = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or transformed()
    if alone and fits and not plain:
        y: torch.Tensor = _Strided.apply(x, weight, bias, strides, pads)
        return y
    return CONV[len(strides)](x, weight, bias, strides, pads)


class _Strided(torch.autograd.Function):
    """A convolution by constant weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        strides: Sizes,
        pads: Sizes,
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.sizes, ctx.strides, ctx.pads = x.shape[2:], strides, pads
        return CONV[len(strides)](x, weight, bias, strides, pads)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        gradient = input_gradient(grads[0], weight, ctx.sizes, ctx.strides, ctx.pads)
        return gradient, None, None, None, None


def input_gradient(
    y: torch.Tensor, weight: torch.Tensor, sizes: Sizes, strides: Sizes, pads: Sizes
) -> torch.Tensor:
    """Compute the gradient of a convolution's input from that of its output.

    Args:
        y: The gradient of the output, N×O×….
        weight: O×C×kernel.
        sizes: Of the input, without N and C.
        strides: Of each axis.
        pads: The zeros before each axis, and after it.

    Returns:
        N×C×sizes, of the layout of ``y``.
    """
    rank, channels = len(strides), weight.shape[1]
    axes = range(rank)
    # How many strides the kernel covers, along each axis.
    counts = [-(-length // step) for length, step in zip(weight.shape[2:], strides, strict=True)]
    missing = [
        count * step - length
        for count, step, length in zip(counts, strides, weight.shape[2:], strict=True)
    ]
    weight = functional.pad(weight, [each for end in reversed(missing) for each in (0, end)])
    pairs = [each for pair in zip(counts, strides, strict=True) for each in pair]
    weight = weight.reshape(*weight.shape[:2], *pairs).flip([2 + 2 * axis for axis in axes])
    inside, between = [3 + 2 * axis for axis in axes], [2 + 2 * axis for axis in axes]
    weight = weight.permute(*inside, 1, 0, *between)
    weight = weight.reshape(math.prod(strides) * channels, -1, *counts)
    if _channels_last(y):
        weight = weight.contiguous(memory_format=torch.channels_last)
    places = CONV[rank](y, weight, padding=[count - 1 for count in counts])
    # From (N, strides, C, places) to (N, place and stride of each axis, C), or C after N.
    last = _channels_last(places)
    places = places.reshape(len(places), *strides, channels, *places.shape[2:])
    order = [each for axis in axes for each in (2 + rank + axis, 1 + axis)]
    order = [0, *order, 1 + rank] if last else [0, 1 + rank, *order]
    found = places.permute(order)
    lengths = [a * b for a, b in zip(places.shape[2 + rank :], strides, strict=True)]
    if last:
        found = found.reshape(len(y), *lengths, channels).movedim(-1, 1)
    else:
        found = found.reshape(len(y), channels, *lengths)
    for axis, (length, size, pad) in enumerate(zip(lengths, sizes, pads, strict=True), start=2):
        found = found.narrow(axis, pad, min(size, length - pad))
    beyond = [size - found.shape[axis] for axis, size in enumerate(sizes, start=2)]
    # What no window reaches has the gradient 0.
    if any(beyond):
        found = functional.pad(found, [each for end in reversed(beyond) for each in (0, end)])
    return found


def _channels_last(values: torch.Tensor) -> bool:
    if is_batched(values):  # Which has no layout.
        return False
    return values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
