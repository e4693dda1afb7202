"""Nodes that compute with matrices in one precision."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import DTypeLike, NDArray

from onnxfit.passes.building import Builder


class Arithmetic(Builder):
    """Adds nodes that compute in one type.

    Args:
        prefix: What names begin with.
        opset: Version of the default domain that nodes are written for.
        dtype: The NumPy type.

    Attributes:
        prefix: As given.
        dtype: The NumPy type.
        element_type: The ``TensorProto`` type.
    """

    def __init__(self, prefix: str, opset: int, dtype: DTypeLike) -> None:
        super().__init__(prefix, opset)
        self.prefix = prefix
        self.dtype = np.dtype(dtype)
        self.element_type = int(onnx.helper.np_dtype_to_tensor_dtype(self.dtype))
        self._held: dict[str, gs.Constant] = {}

    def constant(self, name: str, values: NDArray[Any]) -> gs.Constant:
        """Return an initializer, the same one for the same name."""
        if name not in self._held:
            self._held[name] = super().constant(name, values)
        return self._held[name]

    def number(self, name: str, number: float) -> gs.Constant:
        """Return an initializer of one number."""
        return self.constant(name, np.array(number, self.dtype))

    def stored(self, name: str, values: NDArray[Any]) -> gs.Tensor:
        """Return numbers that the file holds in float32."""
        held = self.constant(name, values.astype(np.float32))
        return self.cast(held, onnx.TensorProto.FLOAT, self.element_type)

    def cast(self, x: gs.Tensor, before: int, after: int) -> gs.Tensor:
        """Return a value in another ``TensorProto`` type, itself where that is its own."""
        return x if before == after else self("Cast", x, to=after)

    def line(self, x: gs.Tensor, name: str, index: int, axis: int = 1) -> gs.Variable:
        """Return a column of a matrix, N×1, or a row; ``name`` says of what."""
        at = self.constant(name, np.array([index], np.int64))
        found: gs.Variable = self("Gather", x, at, axis=axis)
        return found

    def largest(self, x: gs.Tensor, name: str, count: int, axis: int = 1) -> list[gs.Variable]:
        """Return the largest along an axis, from the largest on, and their places."""
        if self.opset < 10:
            found: list[gs.Variable] = self("TopK", x, results=2, k=count, axis=axis)
        else:
            number = self.constant(name, np.array([count], np.int64))
            found = self("TopK", x, number, results=2, axis=axis)
        return found

    def total(self, x: gs.Tensor, axis: int) -> gs.Variable:
        """Return the sums of a matrix along an axis, as a matrix."""
        found: gs.Variable = self.with_list("ReduceSum", x, "axes", [axis], since=13, keepdims=1)
        return found
