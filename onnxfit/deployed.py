"""The deployed file: a model in ONNX Runtime, given batches of any size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxfit.errors import DataError, ModelError
from onnxfit.runtime import Provider, quiet_options, session

Array = NDArray[Any]

# How far sums of float16 may be from 1.
_SUM = 1e-3
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class Deployed:
    """A model as ONNX Runtime computes it.

    A file that fixes its batch size is run that many samples at a time, the last ones filled up
    with copies.

    Args:
        model: A model or its path.
        base_dir: Folder of the external data; by default that of the path.
        providers: Execution providers in order of preference; by default the CPU's alone.
        constants: Inputs of the graph that are not samples, by name: the same for all of them.

    Attributes:
        session: The ``onnxruntime.InferenceSession``.
        output_names: The names of the outputs, in order.
        types: The NumPy type of each of ``constants``.
        constants: Their values, to be set before a call.
        batch_size: The batch size that the file fixes, or None.

    Raises:
        ModelError, NativeLibraryError: As in :func:`onnxfit.session`.
    """

    def __init__(
        self,
        model: ModelProto | str | Path,
        base_dir: str | Path | None = None,
        providers: Sequence[Provider] | None = None,
        constants: Sequence[str] = (),
    ) -> None:
        self.session = session(model, quiet_options(), providers, base_dir=base_dir)
        self.output_names = [output.name for output in self.session.get_outputs()]
        inputs = self.session.get_inputs()
        self._inputs = [value.name for value in inputs if value.name not in constants]
        self.types: dict[str, Any] = {}
        for value in inputs:
            if value.name in constants:
                if value.type not in _TYPES:
                    raise ModelError(f"the input {value.name!r} cannot be given from Python")
                self.types[value.name] = _TYPES[value.type]
        self.constants: dict[str, Array] = {}
        shapes = [value.shape for value in self.session.get_inputs()]
        first = shapes[0][0] if shapes and shapes[0] else None
        self.batch_size = first if isinstance(first, int) and first > 0 else None

    def __call__(self, *inputs: Array) -> list[Any]:
        """Compute the outputs of a batch.

        Args:
            inputs: One array for each input of the graph, in order and of its type; N×….

        Returns:
            One array for each output, N×…; a list for a sequence.

        Raises:
            DataError: There are too few or too many inputs.
            ModelError: ONNX Runtime cannot compute them, or the file fixes another batch size and
                an output does not go by samples.
        """
        if len(inputs) != len(self._inputs):
            raise DataError(f"the model takes {len(self._inputs)} inputs, {len(inputs)} were given")
        n = len(inputs[0]) if inputs and np.ndim(inputs[0]) else 0
        if self.batch_size is None or n in (0, self.batch_size):
            return self._run(inputs)
        size, missing = self.batch_size, -n % self.batch_size
        by_samples = [bool(np.ndim(x)) and len(x) == n for x in inputs]
        full = [
            np.concatenate([x, np.repeat(x[-1:], missing, 0)]) if split else x
            for x, split in zip(inputs, by_samples, strict=True)
        ]
        parts = []
        for start in range(0, n, size):
            pairs = zip(full, by_samples, strict=True)
            parts.append(self._run([x[start : start + size] if split else x for x, split in pairs]))
        columns = zip(self.output_names, zip(*parts, strict=True), strict=True)
        return [self._joined(name, outputs)[:n] for name, outputs in columns]

    def _joined(self, name: str, outputs: Sequence[Any]) -> Array:
        """Join what the batches gave for an output."""
        size = self.batch_size
        if not all(isinstance(x, np.ndarray) and x.ndim and len(x) == size for x in outputs):
            raise ModelError(
                f"the model fixes a batch of {size} and its output {name!r} does not go by "
                f"samples, so it can only be given {size} at a time"
            )
        return np.concatenate(outputs)

    def _run(self, inputs: Sequence[Array]) -> list[Any]:
        feed = {**dict(zip(self._inputs, inputs, strict=True)), **self.constants}
        try:
            return list(self.session.run(None, feed))
        except Exception as error:  # ONNX Runtime raises classes that it does not export.
            raise ModelError(f"ONNX Runtime cannot compute the model: {error}") from error


def are_probabilities(y: Array) -> bool:
    """Tell whether outputs, N×classes, look like probabilities: from 0 to 1, of sum 1."""
    sums = y.sum(1, dtype=np.float64)
    return bool(((y >= 0) & (y <= 1)).all() and (np.abs(sums - 1) < _SUM).all())
