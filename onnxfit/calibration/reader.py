"""Samples from a ``CalibrationDataReader`` of ``onnxruntime.quantization``, which has no labels."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
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
        ValueError: The network has a normalisation of its own.
    """
    if any(plain.mean) or any(divisor != 1 for divisor in plain.std):
        raise ValueError("a reader gives samples as the model takes them: give no mean and no std")
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
            x = _samples(name, batch[name])[: None if limit is None else limit - n]
            plain.classifier.check(x.shape[1:])
            classes = plain.predictions(x)
            if (classes < 0).any():
                at = n + int(classes.argmin())
                raise DataError(f"the model gives NaN for sample {at} of the reader")
            append(x=x, y=classes)
            n += len(x)
        if not n:
            raise DataError("the reader gives no samples")
    data = open_data(path, bounds=bounds)
    source = dataclasses.replace(data.source, sha256=data.sha256)
    return dataclasses.replace(data, path=Path(type(reader).__name__), source=source)


def _samples(name: str, values: Any) -> NDArray[np.float32]:
    """Return samples, float32 of shape N×….

    Raises:
        DataError: They are of another form.
    """
    try:
        x = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"the reader gives {name!r} that is no array of numbers") from error
    if x.ndim < 2 or not len(x):
        raise DataError(f"the reader gives {name!r} of shape {x.shape}, not samples N×…")
    return x


def _input(model: ModelProto) -> str:
    """Return the name of the model's one input."""
    return str(inputs_of(model.graph)[0].name)
