"""Occlusion saliency: what a classifier loses when a patch of an image is replaced."""

from collections.abc import Callable, Sequence
from math import ceil

import torch

from onnxfit.attacks.ball import by_sample
from onnxfit.attacks.losses import LossFunction, margin

# Which part of images: an index of their four axes.
Patch = tuple[slice, ...]

# So many patches along each side would not overlap.
_GRID = 7
# A change of less than this share of a sample's largest logit may be rounding.
ROUNDING = 1e-4


def occlusion_map(
    model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, *, batch_size: int = 64
) -> torch.Tensor:
    """Compute by how much the margin drops when the patch around each pixel is replaced.

    Patches are about a seventh of each side and stand half of that apart. What is replaced takes
    the image's mean of each channel, and a pixel the mean of the four patches that cover it
    (Zeiler and Fergus 2014). Below 0 the margin rises; what may be rounding is 0.

    Args:
        model: From images to logits, n×classes, each sample's its own. Needs no gradients.
        x: Images, n×C×H×W, on the device of the model.
        labels: Their classes, n.
        batch_size: Images computed at a time.

    Returns:
        In logits, n×H×W.
    """
    height, width = (ceil(side / (2 * _GRID)) for side in x.shape[2:])
    patches = patches_of(x.shape[2:], (2 * height, 2 * width), (height, width))
    maps = []
    for images, classes in zip(x.split(batch_size), labels.split(batch_size), strict=True):
        with torch.no_grad():
            logits = model(images)
        before, least = margin(logits, classes), ROUNDING * logits.abs().amax(1)
        at_once = batch_size // len(images)
        found = rises(model, images, classes, patches, before, at_once=at_once).squeeze(1)
        maps.append(torch.where(found.abs() > by_sample(least, found), found, 0.0))
    return torch.cat(maps)


def patches_of(sides: Sequence[int], size: Sequence[int], step: Sequence[int]) -> list[Patch]:
    """List patches of an image, cut off at its border, as indices.

    Args:
        sides: Height and width of the image.
        size: Those of a patch, whole numbers of steps.
        step: From one patch to the next; as many patches cover each pixel.
    """
    rows, columns = (
        [slice(max(start, 0), start + length) for start in range(move - length, side, move)]
        for side, length, move in zip(sides, size, step, strict=True)
    )
    return [(slice(None), slice(None), row, column) for row in rows for column in columns]


def rises(
    model: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    patches: Sequence[Patch],
    before: torch.Tensor,
    loss: LossFunction = margin,
    *,
    at_once: int = 1,
) -> torch.Tensor:
    """Measure by how much a loss rises when patches are replaced by an image's means.

    Args:
        model: From images to logits, n×classes.
        images: n×C×H×W.
        labels: Their classes, n.
        patches: Which together cover the image.
        before: The loss of the images as they are, n.
        loss: Of each sample.
        at_once: How many patches are replaced in one pass, each in a copy of all images.

    Returns:
        In each pixel the mean over the patches that cover it, n×1×H×W.
    """
    means = images.mean((2, 3), keepdim=True)
    total = torch.zeros_like(images[:, :1])
    covers = torch.zeros_like(total[:1])
    for start in range(0, len(patches), at_once):
        chunk = patches[start : start + at_once]
        points = torch.cat([_replaced(images, patch, means) for patch in chunk])
        with torch.no_grad():
            after = loss(model(points), labels.repeat(len(chunk)))
        for patch, values in zip(chunk, after.split(len(images)), strict=True):
            total[patch] += by_sample(values - before, total)
            covers[patch] += 1
    return total / covers


def _replaced(images: torch.Tensor, patch: Patch, means: torch.Tensor) -> torch.Tensor:
    """Return images with a patch replaced by their means, laid out as they were."""
    points = images.clone()
    points[patch] = means
    return points
