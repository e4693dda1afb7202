"""Rotary position embeddings, of ONNX's domain and of ONNX Runtime's."""

import torch
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter


@converter("RotaryEmbedding", since=23)
def rotary_embedding(node: Node) -> Outputs:
    heads, size = node.get("num_heads", 0), node.get("rotary_embedding_dim", 0)
    caches = (node.frozen(1), node.frozen(2))
    details = (heads, size, bool(node.get("interleaved", 0)))
    return node.emit(embed, node.input(0), *caches, node.input(3), *details)


@converter("RotaryEmbedding", domain="com.microsoft")
def rotary_embedding_of_runtime(node: Node) -> Outputs:
    """Convert ONNX Runtime's operator, whose positions may be the first one alone."""
    if node.get("is_packed_batching", 0):
        node.unsupported("packed batches are not supported")
    if node.get("scale", 1.0) != 1.0:
        node.unsupported("ONNX Runtime does not apply its scale")
    heads, size = node.get("num_heads", 0), node.get("rotary_embedding_dim", 0)
    caches = (node.frozen(2), node.frozen(3))
    details = (heads, size, bool(node.get("interleaved", 0)))
    return node.emit(embed, node.input(0), *caches, node.input(1), *details)


def embed(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    heads: int,
    size: int,
    interleaved: bool,
) -> Tensor:
    """Rotate the pairs in each head by angles that grow with the position.

    Args:
        x: ``[batch, heads, length, size]``, or ``[batch, length, heads · size]``.
        cos: ``[positions, pairs]``, or ``[batch, length, pairs]`` where no positions are given.
        sin: Like ``cos``.
        positions: ``[batch, length]``, or the first one alone.
        heads: How many heads an ``x`` of 3 axes has; 0 to tell by the pairs.
        size: How much of each head is rotated; 0 for all.
        interleaved: A pair is of neighbours, else of the halves.
    """
    if positions is not None:
        if positions.dim() < 2:
            length = x.shape[1 if x.dim() == 3 else 2]
            positions = (positions.reshape(1) + torch.arange(length, device=x.device))[None]
        cos, sin = cos[positions], sin[positions]
    if x.dim() == 4:
        return rotate(x, cos[:, None], sin[:, None], size, interleaved)
    last = (heads, -1) if heads else (-1, size or 2 * cos.shape[-1])
    y = rotate(x.unflatten(2, last), cos[:, :, None], sin[:, :, None], size, interleaved)
    return y.flatten(2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, size: int, interleaved: bool) -> Tensor:
    """Rotate the pairs in the first ``size`` numbers of the last axis."""
    rotated = x[..., :size] if size else x
    if interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = rotated.chunk(2, -1)
    if first.shape[-1] != cos.shape[-1]:
        raise ValueError(
            f"the cache is for {cos.shape[-1]} pairs, and {first.shape[-1]} are to be rotated"
        )
    pair = (cos * first - sin * second, sin * first + cos * second)
    y = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat((y, x[..., size:]), -1) if size else y
