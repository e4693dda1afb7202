"""Convolutions: Conv, ConvTranspose, and the fused and causal forms of Conv."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.strided_convolution import CONV, convolve_strided
from onnxfit.twin.ops.windows import (
    SAME,
    Pads,
    Sizes,
    flat,
    padded,
    read_window,
    same_pads,
    spans,
    split,
    symmetric,
)
from onnxfit.twin.registry import converter

CONV_TRANSPOSE = {
    1: torch.conv_transpose1d,
    2: torch.conv_transpose2d,
    3: torch.conv_transpose3d,
}
# From so many elements of a kernel on, patches beside each other are multiplied by a matrix.
PATCH = 64
# Activation → function and, in order, its parameters' names in PyTorch.
ACTIVATIONS = {
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "LeakyRelu": functional.leaky_relu,
    "Clip": torch.clamp,
}


@converter("Conv")
def conv(node: Node) -> Outputs:
    x, weight, bias = (node.input(index) for index in range(3))
    return emit_conv(node, x, weight, bias, kernel_of(node))


@converter("FusedConv", domain="com.microsoft")
def fused_conv(node: Node) -> Outputs:
    """Convolve, add Z, then activate."""
    x, weight, bias = (node.input(index) for index in range(3))
    y = emit_conv(node, x, weight, bias, kernel_of(node))
    if node.has(3):
        y = node.emit(torch.add, y, node.input(3))
    return activated(node, y)


def kernel_of(node: Node) -> Sizes | None:
    """Return the size of a convolution's kernel, None where only a call tells its rank."""
    weight = node.known(1)
    return node.get("kernel_shape") if weight is None else tuple(weight.shape[2:])


def emit_conv(node: Node, x: Any, weight: Any, bias: Any, kernel: Sizes | None) -> Any:
    """Add the steps of a convolution with the attributes of a node."""
    group = node.get("group", 1)
    if kernel is None:
        names = ("strides", "pads", "dilations")
        lists = [node.get(name, ()) for name in names]
        return node.emit(convolve, x, weight, bias, *lists, group, node.get("auto_pad", ""))
    window = read_window(node, kernel)
    pads = window.fixed_pads
    if pads is None:
        upper = window.auto_pad == "SAME_UPPER"
        return node.emit(
            convolve_same, x, weight, bias, window.strides, window.dilations, group, upper
        )
    if not symmetric(pads):
        x = node.emit(functional.pad, x, flat(pads))
        pads = ((0, 0),) * len(kernel)
    begins = tuple(begin for begin, _ in pads)
    beside = window.strides == window.span == kernel and not any(begins)
    if beside and group == 1 and math.prod(kernel) >= PATCH:
        return node.emit(convolve_patches, x, weight, bias)
    wide = all(a >= b for a, b in zip(kernel, window.strides, strict=True))
    if group == 1 and wide and max(window.strides) > 1 and set(window.dilations) == {1}:
        return node.emit(convolve_strided, x, weight, bias, window.strides, begins)
    function = CONV[len(kernel)]
    return node.emit(function, x, weight, bias, window.strides, begins, window.dilations, group)


def activated(node: Node, y: Any) -> Any:
    """Add the activation of a fused node, which attributes give."""
    activation = node.get("activation", "")
    parameters = node.get("activation_params", ())
    if activation in ("", "Identity"):
        return y
    if activation == "HardSigmoid":
        return node.emit(hard_sigmoid, y, *parameters)
    if activation not in ACTIVATIONS:
        node.unsupported(f"its activation {activation!r} is not supported")
    return node.emit(ACTIVATIONS[activation], y, *parameters)


def hard_sigmoid(x: torch.Tensor, alpha: float = 0.2, beta: float = 0.5) -> torch.Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def convolve_patches(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Convolve with strides as long as the kernel, as transformers read an image.

    One product of matrices, which on the CPU has its gradient in a tenth of a convolution's time.
    """
    kernel = weight.shape[2:]
    sizes = [length // side for length, side in zip(x.shape[2:], kernel, strict=True)]
    if 0 in sizes:
        raise ValueError(f"the input, {tuple(x.shape)}, is smaller than the kernel {tuple(kernel)}")
    for axis, (count, side) in enumerate(zip(sizes, kernel, strict=True), start=2):
        if x.shape[axis] != count * side:
            x = x.narrow(axis, 0, count * side)
    pairs = [each for pair in zip(sizes, kernel, strict=True) for each in pair]
    places, insides = range(2, 2 + len(pairs), 2), range(3, 3 + len(pairs), 2)
    patches = x.reshape(*x.shape[:2], *pairs).permute(0, *places, 1, *insides)
    y = functional.linear(patches.flatten(1 + len(sizes)), weight.flatten(1), bias)
    return y.movedim(-1, 1)


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sizes,
    pads: Sizes,
    dilations: Sizes,
    group: int,
    auto_pad: str,
) -> torch.Tensor:
    """Convolve with a kernel whose rank a call tells; empty attributes have their defaults."""
    rank = weight.dim() - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    if auto_pad in SAME:
        return convolve_same(x, weight, bias, strides, dilations, group, auto_pad == SAME[0])
    pads = pads or (0,) * (2 * rank)
    x = padded(x, tuple(zip(pads[:rank], pads[rank:], strict=True)))
    return CONV[rank](x, weight, bias, strides, 0, dilations, group)


def convolve_same(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sizes,
    dilations: Sizes,
    group: int,
    upper: bool,
) -> torch.Tensor:
    """Convolve so that the output has as many elements as there are strides in the input."""
    span = spans(weight.shape[2:], dilations)
    pads = same_pads(x.shape[2:], span, strides, upper)
    function = CONV[len(span)]
    if symmetric(pads):
        begins = [begin for begin, _ in pads]
        return function(x, weight, bias, strides, begins, dilations, group)
    return function(padded(x, pads), weight, bias, strides, 0, dilations, group)


@converter("ConvTranspose")
def conv_transpose(node: Node) -> Outputs:
    """Turn it into PyTorch's function, or into a step where a call tells the padding."""
    kernel = kernel_of(node)
    inputs = [node.input(index) for index in range(3)]
    group, size = node.get("group", 1), node.get("output_shape", ())
    adjustment = node.get("output_padding", ())
    if kernel is None:
        lists = [node.get(name, ()) for name in ("strides", "pads", "dilations")]
        auto_pad = node.get("auto_pad", "")
        return node.emit(transpose, *inputs, size, *lists, adjustment, group, auto_pad)
    window = read_window(node, kernel)
    rank, strides, dilations = len(kernel), window.strides, window.dilations
    adjustment = adjustment or (0,) * rank
    if size:
        auto_pad = window.auto_pad
        return node.emit(
            transpose, *inputs, size, strides, (), dilations, adjustment, group, auto_pad
        )
    try:
        margins = fixed_margins(window.span, strides, window.pads, adjustment, window.auto_pad)
    except ValueError as error:
        node.unsupported(str(error))
    if _is_native(*margins, strides, dilations):
        function = CONV_TRANSPOSE[rank]
        return node.emit(function, *inputs, strides, *margins, group, dilations)
    return node.emit(transpose_and_pad, *inputs, strides, *margins, group, dilations)


def transpose(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    size: Sizes,
    strides: Sizes,
    pads: Sizes,
    dilations: Sizes,
    adjustment: Sizes,
    group: int,
    auto_pad: str,
) -> torch.Tensor:
    """Compute a transposed convolution; empty attributes have their defaults."""
    rank = weight.dim() - 2
    ones, zeros = (1,) * rank, (0,) * rank
    strides, dilations, adjustment = strides or ones, dilations or ones, adjustment or zeros
    span = spans(weight.shape[2:], dilations)
    if size:
        reaches = zip(x.shape[2:], strides, span, strict=True)
        whole = [stride * (n - 1) + reach for n, stride, reach in reaches]
        margins = margins_to(size[-rank:], whole, adjustment, auto_pad)
    else:
        pads = pads or (0,) * (2 * rank)
        pairs = tuple(zip(pads[:rank], pads[rank:], strict=True))
        margins = fixed_margins(span, strides, pairs, adjustment, auto_pad)
    if _is_native(*margins, strides, dilations):
        return CONV_TRANSPOSE[rank](x, weight, bias, strides, *margins, group, dilations)
    return transpose_and_pad(x, weight, bias, strides, *margins, group, dilations)


def margins_to(
    size: Sequence[int], whole: Sequence[int], adjustment: Sizes, auto_pad: str
) -> tuple[Sizes, Sizes]:
    """Return the margins with which a transposed convolution's output has a given size.

    Returns:
        What is cut off both ends of each axis, and what is added to the end after that.
    """
    begins, extras = [], []
    for full, added, wanted in zip(whole, adjustment, size, strict=True):
        # A longer side is filled up with zeros at its end.
        begin, _ = split(max(full + added - wanted, 0), auto_pad == SAME[0])
        begins.append(begin)
        extras.append(wanted - (full - 2 * begin))
    return tuple(begins), tuple(extras)


def fixed_margins(
    span: Sizes, strides: Sizes, pads: Pads, adjustment: Sizes, auto_pad: str
) -> tuple[Sizes, Sizes]:
    """Return the margins of a transposed convolution, like :func:`margins_to`.

    Raises:
        ValueError: They would be negative, which is read differently.
    """
    if auto_pad in SAME:
        # Each element of the input makes as many as its stride.
        if any(map(operator.gt, strides, map(operator.add, span, adjustment))):
            raise ValueError(f"its kernel is shorter than its stride, with auto_pad {auto_pad}")
        return margins_to(strides, span, adjustment, auto_pad)
    if auto_pad == "VALID":
        pads = ((0, 0),) * len(span)
    extras = (added + b - e for added, (b, e) in zip(adjustment, pads, strict=True))
    return tuple(begin for begin, _ in pads), tuple(extras)


def transpose_and_pad(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sizes,
    begins: Sizes,
    extras: Sizes,
    group: int,
    dilations: Sizes,
) -> torch.Tensor:
    """Compute a transposed convolution with margins that PyTorch's own does not take."""
    pads = tuple((-begin, extra - begin) for begin, extra in zip(begins, extras, strict=True))
    y = CONV_TRANSPOSE[len(pads)](x, weight, None, strides, 0, 0, group, dilations)
    y = padded(y, pads)
    return y if bias is None else y + bias.reshape(-1, *(1 for _ in pads))


def _is_native(begins: Sizes, extras: Sizes, strides: Sizes, dilations: Sizes) -> bool:
    """Tell whether PyTorch takes the margins as they are."""
    limits = [max(pair) for pair in zip(strides, dilations, strict=True)]
    fits = [0 <= extra < limit for extra, limit in zip(extras, limits, strict=True)]
    return min(begins) >= 0 and all(fits)


@converter("CausalConvWithState", since=27)
def causal_conv_with_state(node: Node) -> Outputs:
    """Convolve each channel with what came before it; return the state for the next call."""
    activation = node.get("activation", "none")
    if activation not in ("none", "silu", "swish"):
        node.unsupported(f"its activation {activation!r} is not supported")
    inputs = [node.input(index) for index in range(4)]
    y, state = node.emit(convolve_causally, *inputs, outputs=2)
    return (y if activation == "none" else node.emit(functional.silu, y)), state


def convolve_causally(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    past: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    channels, _, kernel = weight.shape
    x = functional.pad(x, (kernel - 1, 0)) if past is None else torch.cat((past, x), -1)
    y = torch.conv1d(x, weight, bias, groups=channels)
    return y, x[..., x.shape[-1] - (kernel - 1) :]
