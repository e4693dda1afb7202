"""Normalization of sums, as ONNX Runtime's optimiser writes it for transformers."""

from typing import Any

import torch

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.normalization import (
    inverse_deviation,
    inverse_rms,
    layer_mean,
    layer_norm,
    rms_norm,
    unspecified,
)
from onnxfit.twin.registry import converter

MICROSOFT = "com.microsoft"


@converter("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(node: Node) -> Outputs:
    """Normalize the last axis of the sum of input, skip and bias."""
    total, eps, like = emit_sum(node, (1, 4)), epsilon(node), node.like(torch.float32)
    y = node.emit(layer_norm, total, node.input(2), node.input(3), -1, eps)
    mean = node.emit(layer_mean, total, -1, like)
    inverse = node.emit(inverse_deviation, total, -1, eps, like)
    return (y, mean, inverse, total)[: node.number_of_outputs]


@converter("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(node: Node) -> Outputs:
    """Divide the sum of input, skip and bias by the root mean square of its last axis."""
    total, eps = emit_sum(node, (1, 3)), epsilon(node)
    y = node.emit(rms_norm, total, node.input(2), -1, eps)
    mean = node.emit_random(unspecified, "mean")
    inverse = node.emit(inverse_rms, total, -1, eps, node.like(torch.float32))
    return (y, mean, inverse, total)[: node.number_of_outputs]


@converter("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(node: Node) -> Outputs:
    """Normalize the sum of the embeddings of words, positions and segments."""
    ids, segments, words, positions, kinds, gamma, beta, mask, places = (
        node.input(index) for index in range(9)
    )
    total = node.emit(embedded, ids, words, positions, places)
    if segments is not None:
        total = node.emit(torch.add, total, node.emit(rows, kinds, segments))
    y = node.emit(layer_norm, total, gamma, beta, -1, epsilon(node))
    return (y, node.emit(length, ids, mask), total)[: node.number_of_outputs]


def epsilon(node: Node) -> float:
    """Return the number that keeps a variance away from 0."""
    value: float = node.get("epsilon", 1e-12)
    return value


def emit_sum(node: Node, others: tuple[int, ...]) -> Any:
    """Add the steps that add some inputs to the first."""
    total = node.input(0)
    for index in others:
        if node.has(index):
            total = node.emit(torch.add, total, node.input(index))
    return total


def rows(table: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Look embeddings up."""
    return torch.nn.functional.embedding(indices, table)


def embedded(
    ids: torch.Tensor, words: torch.Tensor, positions: torch.Tensor, places: torch.Tensor | None
) -> torch.Tensor:
    """Add the embeddings of words and of their positions, which count from 0 where not given."""
    here = positions[: ids.shape[1]] if places is None else rows(positions, places)
    return rows(words, ids) + here


def length(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Count the words that a mask lets through; without a mask the counts are 0."""
    if mask is None:
        return ids.new_zeros(ids.shape[0])
    return (mask == 1).sum(1, dtype=mask.dtype)
