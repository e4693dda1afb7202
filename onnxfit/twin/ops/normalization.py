"""Normalization by the statistics of a layer, a channel or a group of channels."""

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.tensors import DTYPES


@converter("InstanceNormalization", since=6)
def instance_normalization(node: Node) -> Outputs:
    return node.emit(instance_norm, node.input(0), node.input(1), node.input(2), epsilon(node))


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize each channel of each sample, of a single element too."""
    cudnn = torch.backends.cudnn.enabled
    return torch.instance_norm(x, scale, bias, None, None, True, 0.0, eps, cudnn)


@converter("GroupNormalization", since=18)
def group_normalization_by_group(node: Node) -> Outputs:
    """Normalize groups of channels, with scale and bias for each group."""
    return emit_group_norm(node, group_norm_by_group)


@converter("GroupNormalization", since=21)
def group_normalization(node: Node) -> Outputs:
    """Normalize groups of channels, with scale and bias for each channel."""
    refuse_stash_type(node)
    return emit_group_norm(node, group_norm)


def emit_group_norm(node: Node, function: Any) -> Outputs:
    """Add the step that normalizes groups of channels."""
    groups = node.get("num_groups")
    return node.emit(function, node.input(0), groups, node.input(1), node.input(2), epsilon(node))


def group_norm(x: Tensor, groups: int, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize groups of channels, of a single element too."""
    return torch.group_norm(x, groups, scale, bias, eps, torch.backends.cudnn.enabled)


def group_norm_by_group(x: Tensor, groups: int, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize groups of channels, with scale and bias for each group."""
    size = x.shape[1] // groups
    scale, bias = scale.repeat_interleave(size), bias.repeat_interleave(size)
    return group_norm(x, groups, scale, bias, eps)


def refuse_stash_type(node: Node) -> int:
    """Return the type to compute in; refuse those that are narrower than what is used."""
    stash: int = node.get("stash_type", TensorProto.FLOAT)
    if stash not in (TensorProto.FLOAT, node.element_type(0)):
        node.unsupported(f"its stash_type is {TensorProto.DataType.Name(stash)}")
    return stash


@converter("LayerNormalization")
def layer_normalization(node: Node) -> Outputs:
    """Normalize all axes from one on; older files have it from ONNX Runtime."""
    stash, axis = refuse_stash_type(node), node.get("axis", -1)
    x = node.input(0)
    y = node.emit(layer_norm, x, node.input(1), node.input(2), axis, epsilon(node))
    like = node.like(DTYPES[stash])
    mean = node.emit(layer_mean, x, axis, like)
    return (y, mean, node.emit(inverse_deviation, x, axis, epsilon(node), like))[
        : node.number_of_outputs
    ]


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, eps: float) -> Tensor:
    """Normalize all axes from one on; the result has the type of the scale."""
    shape = x.shape[axis:]
    if x.dtype != scale.dtype:
        wide = widest(x, scale)
        wide_bias = None if bias is None else bias.to(wide)
        return layer_norm(x.to(wide), scale.to(wide), wide_bias, axis, eps).to(scale.dtype)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, eps)
    y = functional.layer_norm(x, shape, None, None, eps) * scale
    return y if bias is None else y + bias


def layer_mean(x: Tensor, axis: int, like: Tensor) -> Tensor:
    """Return the mean over all axes from one on."""
    return x.to(widest(x, like)).mean(axes_from(x, axis), keepdim=True).to(like.dtype)


def inverse_deviation(x: Tensor, axis: int, eps: float, like: Tensor) -> Tensor:
    """Return one by the standard deviation over all axes from one on."""
    variance = x.to(widest(x, like)).var(axes_from(x, axis), correction=0, keepdim=True)
    return torch.rsqrt(variance + eps).to(like.dtype)


def axes_from(x: Tensor, axis: int) -> list[int]:
    """List the axes of a tensor from one on."""
    return list(range(x.dim())[axis:])


@converter("RMSNormalization", since=23)
def rms_normalization(node: Node) -> Outputs:
    """Divide by the root of the mean square over all axes from one on."""
    refuse_stash_type(node)
    return node.emit(rms_norm, *node.inputs, node.get("axis", -1), epsilon(node))


@converter("SimplifiedLayerNormalization")
def simplified_layer_normalization(node: Node) -> Outputs:
    """Divide as RMSNormalization does: ONNX Runtime's operator, in ONNX's own domain."""
    stash, axis = refuse_stash_type(node), node.get("axis", -1)
    x = node.input(0)
    y = node.emit(rms_norm, x, node.input(1), axis, epsilon(node))
    like = node.like(DTYPES[stash])
    return (y, node.emit(inverse_rms, x, axis, epsilon(node), like))[: node.number_of_outputs]


def rms_norm(x: Tensor, scale: Tensor, axis: int, eps: float) -> Tensor:
    """Divide by the root of the mean square; the result has the type of the scale."""
    shape = x.shape[axis:]
    if x.dtype != scale.dtype:
        wide = widest(x, scale)
        return rms_norm(x.to(wide), scale.to(wide), axis, eps).to(scale.dtype)
    if scale.shape == shape:
        return functional.rms_norm(x, shape, scale, eps)
    return functional.rms_norm(x, shape, None, eps) * scale


def inverse_rms(x: Tensor, axis: int, eps: float, like: Tensor) -> Tensor:
    """Return one by the root of the mean square over all axes from one on."""
    wide = x.to(widest(x, like))
    return torch.rsqrt(wide.square().mean(axes_from(x, axis), keepdim=True) + eps).to(like.dtype)


def epsilon(node: Node) -> float:
    """Return the number that keeps a variance away from 0."""
    value: float = node.get("epsilon", 1e-5)
    return value


def unspecified(output: str) -> Any:
    """Refuse to compute an output that something reads."""
    raise ValueError(f"the specification does not say what its output {output} holds")


def widest(*tensors: Tensor) -> torch.dtype:
    """Return the type that holds the values of all tensors."""
    found = tensors[0].dtype
    for tensor in tensors[1:]:
        found = torch.promote_types(found, tensor.dtype)
    return found
