"""The order of an image's values in memory, which PyTorch's gradients do not keep by themselves."""

from typing import Any

import torch

from onnxfit.twin.transforms import is_batched, transformed


def keeping_layout(x: torch.Tensor) -> torch.Tensor:
    """Return images as they are, whose gradient comes in their layout.

    That of a flattened image comes with the channels first. Where convolutions compute with the
    channels last, each operator before would mix the two, at several times the cost.
    """
    if not (x.dim() == 4 and x.requires_grad and torch.is_grad_enabled()):
        return x
    if torch.compiler.is_compiling() or transformed():
        return x
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return x
    kept: torch.Tensor = _ChannelsLast.apply(x)
    return kept


class _ChannelsLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        del ctx
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        del ctx
        # Of several gradients at once each has its own layout.
        if is_batched(grads[0]):
            return grads[0]
        return grads[0].contiguous(memory_format=torch.channels_last)
