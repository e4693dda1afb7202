"""The twin as an estimator of the Adversarial Robustness Toolbox, whose attacks then take it."""

from typing import Any

import torch

from onnxfit.attacks.ball import Bounds
from onnxfit.errors import ModelError
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import device_of
from onnxfit.twin.module import Twin


def as_art_classifier(
    twin: torch.nn.Module,
    *,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    bounds: Bounds = (0.0, 1.0),
) -> Any:
    """Wrap a module for the attacks of the Adversarial Robustness Toolbox (ART).

    The estimator holds the module itself, in evaluation mode, with the cross-entropy as its loss
    and without an optimizer. The slopes that :func:`onnxfit.set_backward` chooses, also later, are
    those that ART's attacks follow; the true ones do not see across a jump.

    Args:
        twin: Returns logits, N×C: a twin, alone or with its preprocessing.
        shape: Of one sample; by default what the file says, if it fixes all of it.
        classes: Number of logits; by default found by one forward pass.
        bounds: Smallest and largest value of a sample.

    Returns:
        An ``art.estimators.classification.PyTorchClassifier``.

    Raises:
        ImportError: ART is not installed.
        ModelError: The module does not return logits, or the shape is not known.
    """
    try:
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise ImportError(
            "as_art_classifier needs the package adversarial-robustness-toolbox, which cannot be "
            f"imported: {error}"
        ) from error
    shape = _shape_of(twin) if shape is None else tuple(shape)
    device = device_of(twin)
    twin.eval()
    if classes is None:
        middle = torch.full((1, *shape), sum(bounds) / 2, device=device)
        with torch.no_grad():
            classes = as_logits(twin(middle), 1).shape[1]
    return PyTorchClassifier(
        model=_Logits(twin),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        clip_values=bounds,
        device_type="cpu" if device.type == "cpu" else "gpu",
    )


class _Logits(torch.nn.Module):
    """A module with one output, N×C, whatever else the graph has."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return as_logits(self.module(x), len(x))


def _shape_of(module: torch.nn.Module) -> tuple[int, ...]:
    """Return the shape that the file of a twin gives its samples.

    Raises:
        ModelError: There is no file, or it leaves a length open.
    """
    for part in module.modules():
        if isinstance(part, Twin) and part.shape is not None and None not in part.shape:
            return tuple(length for length in part.shape if length is not None)
    raise ModelError("the shape of a sample is not known: give it as shape, without the batch")
