"""Losses of classifiers."""

from typing import Any

import torch
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

# PyTorch's default: as a label it means nothing.
NONE_IGNORED = -100


@converter("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(node: Node) -> Outputs:
    return emit_loss(node, node.input(0))


@converter("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(node: Node) -> Outputs:
    """Compute the loss, and the logarithms of Softmax where they are wanted."""
    log_softmax = node.emit(torch.log_softmax, node.input(0), 1)
    return (emit_loss(node, log_softmax), log_softmax)[: node.number_of_outputs]


def emit_loss(node: Node, logarithms: Any) -> Any:
    """Add the step that picks the labels' negative logarithms and reduces them."""
    ignored = node.get("ignore_index", NONE_IGNORED)
    reduction = node.get("reduction", "mean")
    labels, weight = node.input(1), node.frozen(2) if node.has(2) else None
    return node.emit(picked, logarithms, labels, weight, ignored, reduction)


def picked(
    logarithms: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor | None,
    ignored: int,
    reduction: str,
) -> torch.Tensor:
    """Return the labels' negative logarithms, reduced."""
    return functional.nll_loss(
        logarithms, labels.long(), weight, ignore_index=ignored, reduction=reduction
    )
