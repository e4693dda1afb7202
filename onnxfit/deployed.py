"""The deployed file: a model in ONNX Runtime, given batches of any size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from onnxfit.errors import DataError, ModelError
from onnxfit.runtime import Provider, session

Array = NDArray[Any]


class Deployed:
    """A model as ONNX Runtime computes it.

    A file that fixes its batch size is run that many samples at a time, the last ones filled up
    with copies.

    Args:
        model: A model or its path.
        base_dir: Folder of the external data; by default that of the path.
        providers: Execution providers in order of preference; by default the CPU's alone.

    Attributes:
        session: The ``onnxruntime.InferenceSession``.
        output_names: The names of the outputs, in order.

    Raises:
        ModelError, NativeLibraryError: As in :func:`onnxfit.session`.
    """

    def __init__(
        self,
        model: ModelProto | str | Path,
        base_dir: str | Path | None = None,
        providers: Sequence[Provider] | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # Errors alone: what the optimiser drops is no news here.
        self.session = session(model, options, providers, base_dir=base_dir)
        self.output_names = [output.name for output in self.session.get_outputs()]
        self._inputs = [value.name for value in self.session.get_inputs()]
        shapes = [value.shape for value in self.session.get_inputs()]
        first = shapes[0][0] if shapes and shapes[0] else None
        self._batch = first if isinstance(first, int) and first > 0 else None

    def __call__(self, *inputs: Array) -> list[Any]:
        """Compute the outputs of a batch.

        Args:
            inputs: One array for each input of the graph, in order and of its type; N×….

        Returns:
            One array for each output, N×….

        Raises:
            DataError: There are too few or too many inputs.
            ModelError: ONNX Runtime cannot compute them.
        """
        if len(inputs) != len(self._inputs):
            raise DataError(f"the model takes {len(self._inputs)} inputs, {len(inputs)} were given")
        n = len(inputs[0]) if inputs and np.ndim(inputs[0]) else 0
        if self._batch is None or n in (0, self._batch):
            return self._run(inputs)
        missing = -n % self._batch
        full = [np.concatenate([x, np.repeat(x[-1:], missing, 0)]) for x in inputs]
        parts = [
            self._run([x[start : start + self._batch] for x in full])
            for start in range(0, n, self._batch)
        ]
        return [np.concatenate(outputs)[:n] for outputs in zip(*parts, strict=True)]

    def _run(self, inputs: Sequence[Array]) -> list[Any]:
        feed = dict(zip(self._inputs, inputs, strict=True))
        try:
            return list(self.session.run(None, feed))
        except Exception as error:  # ONNX Runtime raises classes that it does not export.
            raise ModelError(f"ONNX Runtime cannot compute the model: {error}") from error
