"""Batch normalization, at inference and in training mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.normalization import epsilon, unspecified, widest
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Variable

# The share of a batch in the running statistics, while they are learnt, else 0.
_learning = 0.0


@contextmanager
def learning_statistics(share: float = 0.1) -> Iterator[None]:
    """Let BatchNorms in inference form normalise by the batch, in a ``with`` block.

    Their mean and variance, buffers of the twin, move towards those of each batch, whether or not
    their scale is trained. A search for adversarial points has a block of its own, with 0.

    Args:
        share: How far, up to 1; 0 for the inference form inside a block that learns.
    """
    global _learning  # noqa: PLW0603 - what torch.compile cannot read is no way to tell steps of it
    before, _learning = _learning, share
    try:
        yield
    finally:
        _learning = before


@converter("BatchNormalization", since=7)
def batch_normalization_with_spatial(node: Node) -> Outputs:
    """Normalize as version 9 does, or each activation by statistics of its own."""
    if node.get("spatial", 1):
        return batch_normalization_by_outputs(node)
    if is_training(node):
        node.unsupported("it is in training mode with spatial = 0")
    return emit_given_statistics(node)


@converter("BatchNormalization", since=9)
def batch_normalization_by_outputs(node: Node) -> Outputs:
    """Normalize in training mode where more outputs than one are named."""
    if not is_training(node):
        return emit_batch_norm(node)
    x = node.input(0)
    saved = (node.emit(batch_mean, x, x), node.emit_random(unspecified, "saved_var"))
    return (*emit_training(node), *saved)[: node.number_of_outputs]


def is_training(node: Node) -> bool:
    """Tell whether outputs are named that only training has."""
    return any(node.wants(index) for index in range(1, node.number_of_outputs))


@converter("BatchNormalization", since=14)
def batch_normalization(node: Node) -> Outputs:
    """Normalize by given statistics, or by those of the batch in training mode."""
    return emit_training(node) if node.get("training_mode", 0) else emit_batch_norm(node)


def emit_batch_norm(node: Node) -> Outputs:
    """Add the step of inference, PyTorch's where no gradient reaches mean and variance."""
    if any(isinstance(node.value(index), Variable) for index in (3, 4)):
        return emit_given_statistics(node)
    parameters = (node.input(1), node.input(2), node.frozen(3), node.frozen(4))
    types = {node.element_type(index) for index in range(5)}
    function = batch_norm if len(types) == 1 else mixed_batch_norm
    return node.emit(function, node.input(0), *parameters, epsilon(node))


def emit_given_statistics(node: Node) -> Outputs:
    """Add the step that normalizes by statistics of any shape, which may be computed."""
    parameters = (node.input(1), node.input(2), node.frozen(3), node.frozen(4))
    return node.emit(given_statistics, node.input(0), *parameters, epsilon(node))


def emit_training(node: Node) -> tuple[Any, ...]:
    """Add the steps of training mode: the result, the running mean and the running variance."""
    x, mean, variance = node.input(0), node.frozen(3), node.frozen(4)
    momentum = node.get("momentum", 0.9)
    y = node.emit(batch_norm_of_batch, x, node.input(1), node.input(2), epsilon(node))
    current = (node.emit(batch_mean, x, mean), node.emit(batch_variance, x, variance))
    return (
        y,
        node.emit(running, mean, current[0], momentum),
        node.emit(running, variance, current[1], momentum),
    )


def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Any:
    """Normalize each channel; a single axis is that of the batch."""
    if x.dim() == 1:
        return batch_norm(x.unsqueeze(1), scale, bias, mean, var, eps).squeeze(1)
    if mean.requires_grad or var.requires_grad:  # The file has one tensor for mean and bias.
        return given_statistics(x, scale, bias, mean, var, eps)
    return functional.batch_norm(x, mean, var, scale, bias, _learning > 0, _learning, eps)


def mixed_batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Any:
    """Normalize each channel in the widest of several types."""
    wide = widest(x, scale, bias, mean, var)
    parameters = scale.to(wide), bias.to(wide), mean.to(wide), var.to(wide)
    return batch_norm(x.to(wide), *parameters, eps).to(x.dtype)


def given_statistics(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """Normalize with tensors that have the axes after the batch's, or only the channel's."""
    wide = widest(x, scale, bias, mean, var)
    rank = max(x.dim() - 1, 1)
    scale, bias, mean, var = (
        t.to(wide).reshape(t.shape + (1,) * (rank - t.dim())) for t in (scale, bias, mean, var)
    )
    return ((x.to(wide) - mean) * (torch.rsqrt(var + eps) * scale) + bias).to(x.dtype)


def batch_norm_of_batch(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize each channel by the batch's own statistics."""
    if x.dim() == 1:
        return batch_norm_of_batch(x.unsqueeze(1), scale, bias, eps).squeeze(1)
    wide = widest(x, scale, bias)
    scale, bias = scale.to(wide), bias.to(wide)
    cudnn = torch.backends.cudnn.enabled
    return torch.batch_norm(x.to(wide), scale, bias, None, None, True, 0.0, eps, cudnn).to(x.dtype)


def batch_mean(x: Tensor, like: Tensor) -> Tensor:
    """Return the mean of each channel, in the type of another tensor."""
    wide = widest(x, like)
    return x.to(wide).mean(_all_but_channel(x)).reshape(-1).to(like.dtype)


def batch_variance(x: Tensor, like: Tensor) -> Tensor:
    """Return the population variance of each channel, in the type of another tensor."""
    wide = widest(x, like)
    return x.to(wide).var(_all_but_channel(x), correction=0).reshape(-1).to(like.dtype)


def _all_but_channel(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def running(before: Tensor, current: Tensor, momentum: float) -> Tensor:
    """Return what a running statistic becomes."""
    return before * momentum + current * (1 - momentum)
