"""Normalisation as a part of the model, so that an attack need not know of it."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class Preprocessed(torch.nn.Module):
    """A module whose samples are normalised first: it computes ``module((x - mean) / std)``.

    Samples, and with them gradients and perturbations, stay in the units of the data.

    Args:
        module: Takes N×C×… and is given the normalised samples in the type they came in.
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
        for name, given in (("mean", mean), ("std", std)):
            values = [float(v) for v in (given if isinstance(given, Sequence) else [given])]
            if not values or not all(
                math.isfinite(v) and (v > 0 or name == "mean") for v in values
            ):
                least = " above 0" if name == "std" else ""
                raise ValueError(f"expected finite numbers{least} as {name}, got {given}")
            self.register_buffer(name, torch.tensor(values))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise samples along axis 1 and call the module."""
        result: torch.Tensor = self.module(self.normalised(x))
        return result

    def normalised(self, x: torch.Tensor | NDArray[np.float32]) -> torch.Tensor:
        """Return samples, N×C×…, as the module is given them."""
        x = torch.as_tensor(x)
        mean, std = (self._along_channels(name, x) for name in ("mean", "std"))
        return (x - mean) / std

    def _along_channels(self, name: str, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = getattr(self, name).to(x.dtype)
        if len(values) not in (1, x.shape[1]):
            raise ValueError(
                f"expected a {name} of 1 number or {x.shape[1]}, one per channel, got {len(values)}"
            )
        values = values.reshape(-1, *[1] * (x.dim() - 2))
        # As large as a sample and laid out like it: far faster than channels that broadcast.
        return torch.empty_like(x[:1]).copy_(values) if values.numel() > 1 else values
