"""Normalization by neighbouring channels, by a norm along an axis, and over given axes."""

import torch
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter


@converter("LRN")
def lrn(node: Node) -> Outputs:
    """Divide by a power of the neighbouring channels' mean square."""
    factors = (node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0))
    return node.emit(local_response, node.input(0), node.get("size"), *factors)


def local_response(
    x: torch.Tensor, size: int, alpha: float, beta: float, bias: float
) -> torch.Tensor:
    """Divide by ``(bias + alpha·mean)^beta`` of the squares in a window of channels."""
    around = (0, 0) * (x.dim() - 2) + ((size - 1) // 2, size // 2)
    padded = functional.pad(x.square(), around)
    total = padded.narrow(1, 0, x.shape[1])
    for start in range(1, size):
        total = total + padded.narrow(1, start, x.shape[1])
    return x / torch.pow(bias + alpha / size * total, beta)


@converter("LpNormalization")
def lp_normalization(node: Node) -> Outputs:
    return node.emit(lp_normalized, node.input(0), node.get("p", 2), node.get("axis", -1))


def lp_normalized(x: torch.Tensor, p: int, axis: int) -> torch.Tensor:
    """Divide by the norm along an axis; zeros stay zeros."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, 1.0, norm)


@converter("MeanVarianceNormalization")
def mean_variance_normalization(node: Node) -> Outputs:
    return node.emit(standardized, node.input(0), node.get("axes", (0, 2, 3)))


def standardized(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Subtract the mean over some axes and divide by the standard deviation."""
    deviation, mean = torch.std_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (deviation + 1e-9)
