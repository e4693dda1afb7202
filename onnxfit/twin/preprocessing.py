"""Normalisation as a part of the model, so that an attack need not know of it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit import checks
from onnxfit.image_layout import channel_axis


class Preprocessed(torch.nn.Module):
    """A module whose samples are normalised first: it computes ``module((x - mean) / std)``.

    Samples, and with them gradients and perturbations, stay in the units of the data.

    Args:
        module: Takes N×C×…, or images N×H×W×C, and is given the normalised samples in the type
            they came in.
        mean: One number, or one per channel, in the units of the samples.
        std: The same; above 0.

    Raises:
        ValueError: A number is not finite or a ``std`` is not above 0; or in the call, there are
            neither one nor C numbers.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        module: torch.nn.Module,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.module = module
        given = [each if isinstance(each, Sequence) else [each] for each in (mean, std)]
        checks.normalisation(*given)
        for name, values in zip(("mean", "std"), given, strict=True):
            self.register_buffer(name, torch.tensor([float(value) for value in values]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise samples along their channels and call the module."""
        result: torch.Tensor = self.module(self.normalised(x))
        return result

    def normalised(self, x: torch.Tensor | NDArray[np.float32]) -> torch.Tensor:
        """Return samples, N×C×… or images N×H×W×C, as the module is given them."""
        x = torch.as_tensor(x)
        mean, std = (self._along_channels(name, x) for name in ("mean", "std"))
        return (x - mean) / std

    def _along_channels(self, name: str, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = getattr(self, name).to(x.dtype)
        axis = 1 + (channel_axis(x.shape[1:]) or 0)
        checks.per_channel(name, values, x.shape[axis])
        values = values.reshape(*(-1 if at == axis else 1 for at in range(x.dim())))
        # As large as a sample and laid out like it: far faster than channels that broadcast.
        return torch.empty_like(x[:1]).copy_(values) if values.numel() > 1 else values
