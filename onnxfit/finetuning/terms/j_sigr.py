"""The Jacobian and the input gradient where it should not be."""

from collections.abc import Callable
from math import ceil

import torch

from onnxfit.attacks.ball import by_sample
from onnxfit.attacks.losses import of_label
from onnxfit.finetuning.terms.jacobian import squared_norm
from onnxfit.finetuning.terms.term import Batch, Term
from onnxfit.saliency.occlusion import ROUNDING, patches_of, rises
from onnxfit.twin.gradients import gradient_of
from onnxfit.twin.image_layout import channels_first
from onnxfit.twin.ops.batch_normalization import learning_statistics

# Patches of an image along each side; other samples have the square of it as runs of values.
_GRID = 7
# τ: a patch counts where the logit drops by more than this share of the sample's largest drop.
_THRESHOLD = 0.2
# How many patches are replaced in one forward pass, each in a copy of the whole batch.
_AT_ONCE = 4


class SelectiveInputGradient(Term):
    """The Jacobian, and the gradient of the label's logit where the sample does not matter.

    ``‖J‖²_F + ‖∇_x z_y ⊙ (1 − M(x))‖²``, a mean over the batch, with ``J`` the derivative of the
    logits, by one random projection, and ``z_y`` the label's logit. The mask is 1 where
    ``S > τ·max S``, and ``S`` is by how much ``z_y`` drops when the patch around a pixel is
    replaced by the sample's mean of each channel, 0 where it rises. So the gradient may point to
    what the prediction rests on, and nowhere else. A reconstruction of J-SIGR (Liu et al. 2022,
    arXiv 2207.13036).

    Images, C×H×W or H×W×C, have a grid of at most 7×7 patches, across all channels; other samples
    at most 49 runs of their flattened values. Where nothing drops, M is 0 everywhere.
    """

    name = "j-sigr"
    differentiates = True

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Compute the mean over the batch.

        Raises:
            ModelError: The logits do not depend on the samples.
        """
        labels = of_label(batch.logits, batch.y)
        gradient = gradient_of(labels.sum(), batch.x, create_graph=True)
        _, gradient = _images(batch.model, gradient)
        elsewhere = gradient.masked_fill(important(batch), 0.0)
        return squared_norm(batch, 1) + elsewhere.square().sum() / len(batch.x)


def important(batch: Batch) -> torch.Tensor:
    """Find where the label's logit drops most when values are replaced.

    BatchNorms are in inference form: replaced patches are no samples to learn statistics of.

    Returns:
        M, n×1×H×W booleans; n×1×1×D for samples of D values that are no images.
    """
    model, images = _images(batch.model, batch.x.detach())
    height, width = images.shape[2:]
    sides = ceil(height / _GRID), ceil(width / (_GRID if batch.x.dim() == 4 else _GRID**2))
    with learning_statistics(0.0):
        with torch.no_grad():
            logits = batch.model(batch.x)
        drops = rises(
            model,
            images,
            batch.y,
            patches_of((height, width), sides, sides),
            _fall(logits, batch.y),
            _fall,
            at_once=_AT_ONCE,
        )
    least = ROUNDING * logits.abs().amax(1)
    drops = torch.where(drops > by_sample(least, drops), drops, 0.0)
    return drops > _THRESHOLD * drops.amax((1, 2, 3), keepdim=True)


def _fall(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return what rises as the label's logit falls, N×C and N → N."""
    return -of_label(logits, labels)


def _images(
    model: torch.nn.Module, x: torch.Tensor
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return samples as images, n×C×H×W, others as images of one row; and what takes them so."""
    if x.dim() == 4:
        return channels_first(model, x)
    return lambda rows: model(rows.reshape(-1, *x.shape[1:])), x.reshape(len(x), 1, 1, -1)
