"""The state that a module and samples are in while it is attacked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from onnxfit.twin.module import Twin


def laid_out(x: torch.Tensor) -> torch.Tensor:
    """Lay samples out as convolutions compute them fastest: channels last for images."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def select(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return some samples, by number or mask, laid out as they were.

    The same as ``values[rows]``, which for images is several times slower.
    """
    if rows.dtype == torch.bool:
        rows = rows.nonzero().squeeze(1)
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return values.index_select(0, rows)


@contextmanager
def evaluated(model: torch.nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode, the weights of twins constant, in a ``with`` block.

    A twin computes gradients of samples faster then. Other modules may need those of weights.
    """
    training = [part for part in model.modules() if part.training]
    twins = [part for part in model.modules() if isinstance(part, Twin)]
    weights = [weight for twin in twins for weight in twin.parameters()]
    learning = [weight for weight in weights if weight.requires_grad and weight.is_leaf]
    try:
        model.eval()
        for weight in learning:
            weight.requires_grad = False
        yield
    finally:
        for part in training:
            part.training = True
        for weight in learning:
            weight.requires_grad = True


@contextmanager
def weights_laid_out(model: torch.nn.Module, x: torch.Tensor) -> Iterator[None]:
    """Lay the weights of convolutions out like the samples, in a ``with`` block.

    Samples of one channel look the same in both layouts, and then the weights decide which of the
    two PyTorch computes in.
    """
    weights = model.parameters() if x.dim() == 4 else ()
    earlier = [(weight, weight.data) for weight in weights if weight.dim() == 4]
    for weight, data in earlier:
        # Unlike ``contiguous``, this changes the strides of one channel too, which is what counts.
        weight.data = data.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight, data in earlier:
            weight.data = data
