"""Both maps of some samples, from a model's twin and its file."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.saliency.gradient import gradient_map
from onnxfit.saliency.occlusion import occlusion_map
from onnxfit.twin.image_layout import channels_first


class Saliency(NamedTuple):
    """Maps of n samples, n×H×W, or of one, H×W.

    Attributes:
        gradient: The size of the margin's gradient; None where the model has none.
        occlusion: By how much the margin drops when the patch around a pixel is replaced.
    """

    gradient: NDArray[np.float32] | None
    occlusion: NDArray[np.float32]

    def of(self, rows: int | NDArray[np.bool_]) -> "Saliency":
        """Return the maps of one of the samples, by number, or of some, by mask."""
        gradient = None if self.gradient is None else self.gradient[rows]
        return Saliency(gradient, self.occlusion[rows])


def saliency_of(
    twin: torch.nn.Module | None,
    deployed: torch.nn.Module,
    x: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    device: torch.device | None = None,
    batch_size: int = 64,
) -> Saliency:
    """Compute both maps of samples.

    Args:
        twin: From samples to logits with gradients; None where there are none.
        deployed: The same without gradients, which the occlusion is measured on.
        x: Images, n×C×H×W or n×H×W×C.
        labels: Their classes, n.
        device: Where the twin computes; by default the CPU.
        batch_size: Images computed at a time.
    """
    samples, classes = torch.from_numpy(x), torch.from_numpy(labels)
    deployed, images = channels_first(deployed, samples)
    gradient = None
    if twin is not None:
        twin, _ = channels_first(twin, samples)
        batches = zip(images.split(batch_size), classes.split(batch_size), strict=True)
        parts = [gradient_map(twin, part.to(device), rows.to(device)) for part, rows in batches]
        gradient = np.concatenate(parts)
    occlusion = occlusion_map(deployed, images, classes, batch_size=batch_size)
    return Saliency(gradient, occlusion.float().numpy())
