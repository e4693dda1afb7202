"""Gradient saliency: where a small change of an image moves its margin most."""

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.losses import margin
from onnxfit.saliency.shading import strength
from onnxfit.twin.gradients import gradient_of


def gradient_map(
    model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor
) -> NDArray[np.float32]:
    """Compute the size of the margin's gradient in each pixel (Simonyan et al. 2014).

    It is the largest absolute value over the channels. A model with jumps gives its own gradient,
    which knows nothing of a jump.

    Args:
        model: From images to logits, n×classes, each sample's its own.
        x: Images, n×C×H×W, on the device of the model.
        labels: Their classes, n.

    Returns:
        In units of logits / the data's bounds, n×H×W.

    Raises:
        ModelError: The logits do not depend on the images as far as gradients know.
    """
    leaf = x.detach().clone().requires_grad_()
    gradient = gradient_of(margin(model(leaf), labels).sum(), leaf)
    sizes: NDArray[np.float32] = strength(gradient.float().cpu().numpy())
    return sizes
