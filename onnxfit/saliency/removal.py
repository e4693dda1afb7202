"""Deletion and insertion: whether the pixels that a map ranks first are those that matter."""

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.losses import of_label
from onnxfit.twin.image_layout import channels_first

STEPS = 20


def removal_order(saliency: NDArray[np.floating], ties: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort the pixels of images by a map, those first that matter most.

    Args:
        saliency: n×H×W; NaN counts as least.
        ties: Numbers by which equal pixels are sorted, n×H·W. A map of equal values, which says
            nothing, so gives their order.

    Returns:
        The numbers of the pixels, n×H·W.
    """
    values = np.nan_to_num(saliency.reshape(ties.shape), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    return np.lexsort((ties, -values), axis=-1)


def removal_areas(
    model: torch.nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    order: NDArray[np.int64],
    *,
    steps: int = STEPS,
    batch_size: int = 64,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute deletion and insertion AUC of images (Petsiuk, Das and Saenko 2018, RISE).

    Deletion replaces the pixels in their order, equally many at each step, by the image's mean of
    each channel; insertion puts them back in the same order into an image of nothing but these
    means. (RISE inserts into a blurred image.) The area is that under the label's probability, by
    softmax, over the share of pixels, by the trapezoid rule. An order is good where the area of
    deletion is small and that of insertion large.

    Args:
        model: From images to logits, n×classes. Needs no gradients.
        x: Images, n×C×H×W or n×H×W×C, on the device of the model.
        labels: Their classes, n.
        order: Of the pixels of each image, n×H·W.
        steps: Of the removal; fewer where an image has fewer pixels.
        batch_size: Images computed at a time.

    Returns:
        Both areas, from 0 to 1, n each.
    """
    model, x = channels_first(model, x)
    ranks = torch.from_numpy(order.argsort(axis=1)).to(x.device).reshape(len(x), 1, *x.shape[2:])
    means, pixels = x.mean((2, 3), keepdim=True), order.shape[1]
    counts = np.unique(np.linspace(0, pixels, steps + 1).round().astype(np.int64)).tolist()
    shares = torch.tensor(counts, dtype=torch.float64) / pixels
    areas = []
    for first, others in ((means, x), (x, means)):
        curve = [
            _probabilities(model, torch.where(ranks < count, first, others), labels, batch_size)
            for count in counts
        ]
        areas.append(torch.trapezoid(torch.stack(curve, 1), shares, dim=1).numpy())
    return areas[0], areas[1]


def _probabilities(
    model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """Compute the probability of each image's label, n float64."""
    parts = []
    for images, classes in zip(x.split(batch_size), labels.split(batch_size), strict=True):
        with torch.no_grad():
            parts.append(of_label(model(images).double().softmax(1), classes))
    return torch.cat(parts).cpu()
