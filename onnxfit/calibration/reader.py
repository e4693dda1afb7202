"""Samples from a ``CalibrationDataReader`` of ``onnxruntime.quantization``, which has no labels."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from onnx import ModelProto

from onnxfit.data import Bounds, Dataset, open_data
from onnxfit.element_types import inputs_of
from onnxfit.errors import DataError
from onnxfit.npz import writing
from onnxfit.verification.target import Target


@runtime_checkable
class Reader(Protocol):
    """What ``onnxruntime.quantization.CalibrationDataReader`` promises."""

    def get_next(self) -> dict[str, Any] | None:
        """Return a batch by the names of the inputs, as the model takes them; None at the end."""


def from_reader(
    reader: Reader, plain: Target, folder: Path, *, limit: int | None, bounds: Bounds
) -> Dataset:
    """Copy all samples of a reader to a file, each with the class that the model names for it.

    Args:
        reader: It is read to its end.
        plain: The network before hardening, without normalisation of its own.
        folder: For the file.
        limit: Take no more samples than that.
        bounds: Smallest and largest value of a sample.

    Raises:
        DataError: There is no sample, or they are not for the model.
    """
    name, path, n = _input(plain.model), folder / "reader.npz", 0
    with writing(path) as append:
        while limit is None or n < limit:
            batch = reader.get_next()
            if batch is None:
                break
            if list(batch) != [name]:
                raise DataError(
                    f"the reader gives {', '.join(map(repr, batch)) or 'nothing'}, and the model "
                    f"takes {name!r}"
                )
            x = np.asarray(batch[name], np.float32)[: None if limit is None else limit - n]
            if x.ndim < 2 or not len(x):
                raise DataError(f"the reader gives {name!r} of shape {x.shape}, not samples N×…")
            plain.classifier.check(x.shape[1:])
            append(x=x, y=plain.predictions(x))
            n += len(x)
        if not n:
            raise DataError("the reader gives no samples")
    return open_data(path, bounds=bounds)


def _input(model: ModelProto) -> str:
    """Return the name of the model's one input."""
    return str(inputs_of(model.graph)[0].name)
