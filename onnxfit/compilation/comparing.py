"""How far a compiled model's outputs are from the hardened model's, on random inputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxfit.errors import ModelError
from onnxfit.runtime import quiet_options, session

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
# What an axis of unknown length is tried with, one after the other: the first axis is the batch.
_BATCH, _LENGTHS = 2, (32, 224)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Outputs of two models on the same inputs.

    Attributes:
        outputs: How many numbers were compared.
        different: How many of them differ in a bit.
        largest: Largest difference, as a share of the output's largest number.
    """

    outputs: int
    different: int
    largest: float

    @property
    def words(self) -> str:
        """What was found, for people."""
        if not self.different:
            return f"the same bits as the hardened model's, {self.outputs} of them compared"
        return (
            f"{self.different} of {self.outputs} differ from the hardened model's, by at most "
            f"{self.largest:.2g} of the largest: ONNX Runtime sums in another order, or in float"
        )


def compare(
    hard: ModelProto,
    compiled: ModelProto,
    *,
    base_dir: Path | None = None,
    data_dir: Path | None = None,
    seed: int = 0,
) -> Comparison | None:
    """Run a hardened model and its compiled form on the same standard normal numbers.

    Args:
        hard: The hardened model.
        compiled: What was made of it.
        base_dir: Folder of the external data of the hardened model.
        data_dir: The same of the compiled one.
        seed: Of the numbers.

    Returns:
        What was found; None where an input is of no floating type, or no length that was tried for
        the axes of unknown length fits.
    """
    sessions = [
        session(hard, quiet_options(), base_dir=base_dir),
        session(compiled, quiet_options(), base_dir=data_dir),
    ]
    inputs = sessions[0].get_inputs()
    if any(value.type not in _DTYPES for value in inputs):
        return None
    for length in _LENGTHS:
        rng = np.random.default_rng(seed)
        feeds = {
            value.name: rng.standard_normal(_shape(value.shape, length)).astype(_DTYPES[value.type])
            for value in inputs
        }
        try:
            expected, actual = (each.run(None, feeds) for each in sessions)
        except Exception:  # noqa: S112 - ONNX Runtime raises classes that it does not export
            continue
        return _compared(expected, actual)
    return None


def _shape(dimensions: list[int | str | None], length: int) -> list[int]:
    """Return a shape with numbers for the axes of unknown length."""
    return [
        size if isinstance(size, int) else (_BATCH if axis == 0 else length)
        for axis, size in enumerate(dimensions)
    ]


def _compared(expected: list[Any], actual: list[Any]) -> Comparison:
    """Compare outputs.

    Raises:
        ModelError: They are not of the same shapes.
    """
    outputs = different = 0
    largest = 0.0
    for one, other in zip(expected, actual, strict=True):
        if not isinstance(one, np.ndarray):
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ModelError("the compiled model gives outputs of other shapes")
        unequal = _bits(one) != _bits(other)
        outputs, different = outputs + one.size, different + int(unequal.sum())
        if unequal.any():
            away = np.abs(one.astype(np.float64) - other)
            largest = max(largest, float(away.max() / max(np.abs(one).max(), 1e-30)))
    return Comparison(outputs=outputs, different=different, largest=largest)


def _bits(x: NDArray[Any]) -> NDArray[Any]:
    """Return the bytes of each number."""
    bits: NDArray[Any] = np.ascontiguousarray(x).view(np.dtype((np.void, x.dtype.itemsize)))
    return bits
