"""Images whose channels are on the other side than a module has them."""

import torch

from onnxfit.image_layout import channel_axis


class Turned(torch.nn.Module):
    """A module that is given images of the other layout than it takes.

    Args:
        module: Takes N×H×W×C, and is given N×C×H×W; or the other way round.
        last: Whether it takes the channels last.
    """

    def __init__(self, module: torch.nn.Module, *, last: bool) -> None:
        super().__init__()
        self.module, self._last = module, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn images and call the module."""
        result: torch.Tensor = self.module(with_channels(x, last=self._last))
        return result


def with_channels(x: torch.Tensor, *, last: bool) -> torch.Tensor:
    """Return images of one layout, N×C×H×W or N×H×W×C, in the other; ``last``: in the second."""
    return x.movedim(1, -1) if last else x.movedim(-1, 1)


def channels_first(model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return images as N×C×H×W, and the module that takes them so.

    Args:
        model: Takes samples of the shape of ``x``.
        x: Images of either layout. What has its channels first, or is no image, stays, and so does
            the module.
    """
    if channel_axis(x.shape[1:]) != 2:
        return model, x
    return Turned(model, last=True), with_channels(x, last=False)
