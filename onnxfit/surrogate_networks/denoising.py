"""Surrogates of a model that denoises its images first.

A gradient goes through the denoising, but it is long, and what it smooths away has none.
"""

import onnx
import torch
from onnx import ModelProto

from onnxfit.passes.total_variation import take_back
from onnxfit.record import provenance
from onnxfit.surrogate_networks.cutting import up_to

PAST = "past denoising"


class Past(torch.nn.Module):
    """What is in front of a network computed as it is, and passed over by the gradient.

    That is backward pass differentiable approximation with the identity (BPDA, Athalye et al.,
    2018, arXiv 1802.00420). Where what is in front draws random numbers, attacks average the
    gradients of several calls (``eot``).

    Args:
        front: From samples, N×…, to what the network is given, N×values.
        network: From that, as N×… again, to logits.
    """

    def __init__(self, front: torch.nn.Module, network: torch.nn.Module) -> None:
        super().__init__()
        self.front, self.network = front, network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of samples, N×classes."""
        with torch.no_grad():
            given = self.front(x).reshape(x.shape)
        # The sum is exactly what is given, its gradient that of x.
        logits: torch.Tensor = self.network(given + (x - x.detach()))
        return logits


def apart(model: ModelProto) -> tuple[ModelProto, ModelProto]:
    """Return what denoises, as a model of N×values, and the model without it.

    Raises:
        ModelError: The record of the denoising is damaged, or it is gone.
    """
    bare = ModelProto()
    bare.CopyFrom(model)
    take_back(bare)
    record = provenance(model)["denoising"]
    # Where an interpolation names the denoised images as features, they are there.
    same = onnx.helper.make_node("Identity", [record["input"]], [record["denoised"]])
    bare.graph.node.insert(0, same)
    return up_to(model, record["denoised"]), bare
