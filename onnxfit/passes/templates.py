"""What a network makes of labelled samples in front of its last layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxfit.data import Dataset
from onnxfit.deployed import Deployed, are_probabilities
from onnxfit.element_types import UNKNOWN, inputs_of
from onnxfit.errors import DataError, ModelError
from onnxfit.passes.head import Head
from onnxfit.passes.units import Units

BATCH = 64
_TYPES: dict[int, Any] = {TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}


class Templates(NamedTuple):
    """Templates as the head of a network sees them.

    Attributes:
        features: M×D.
        labels: M integers.
        shape: What the head gives for one, of as many numbers as it knows classes.
        probabilities: Whether it gives probabilities of them.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    shape: tuple[int, ...]
    probabilities: bool

    @property
    def classes(self) -> int:
        """How many classes the head knows."""
        return int(np.prod(self.shape))


def features_of(
    model: ModelProto,
    head: Head,
    data: Dataset,
    *,
    base_dir: Path | None,
    units: Units,
    advance: Callable[[int], object] = lambda count: None,
) -> Templates:
    """Compute the features of templates in ONNX Runtime.

    Args:
        model: With its own head.
        head: Its place.
        data: The templates.
        base_dir: Folder of the model's external data.
        units: How they are normalised before the model.
        advance: Is called with the number of samples of each batch.

    Raises:
        DataError: The samples are damaged.
        ModelError: The model cannot compute them, or takes several inputs.
        ValueError: There are neither one nor as many means or stds as channels.
    """
    units.check_channels(data.shape[0])
    deployed = Deployed(_cut(model, head), base_dir)
    (given,) = inputs_of(model.graph)
    kind = _TYPES.get(given.type.tensor_type.elem_type, np.float32)
    shape = (-1, *[1] * (len(data.shape) - 1))
    middle, width = (
        np.asarray(numbers, np.float32).reshape(shape) for numbers in (units.mean, units.std)
    )
    parts, probable = [], True
    for x, _ in data.batches(BATCH):
        features, output = deployed(((x - middle) / width).astype(kind))
        if features.shape[:1] != (len(x),) or output.shape[:1] != (len(x),):
            raise ModelError(f"the value {head.feature!r} has no features for each sample")
        parts.append(features.reshape(len(x), -1).astype(np.float32))
        probable = probable and are_probabilities(output.reshape(len(x), -1))
        advance(len(x))
    if not parts:
        raise DataError(f"{data.path} has no sample")
    return Templates(np.concatenate(parts), data.labels, output.shape[1:], probable)


def _cut(model: ModelProto, head: Head) -> ModelProto:
    """Return a model that gives the features before its output."""
    cut = ModelProto()
    cut.CopyFrom(model)
    kind = TensorProto.FLOAT if head.element_type == UNKNOWN else head.element_type
    cut.graph.output.insert(0, onnx.helper.make_tensor_value_info(head.feature, kind, None))
    return cut
