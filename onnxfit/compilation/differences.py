"""Outputs of two models on the same inputs: how many numbers differ, and how far."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Outputs of two models on the same inputs.

    Attributes:
        outputs: How many numbers were compared.
        different: How many of them differ in a bit; NaN has but one.
        largest: Largest difference, as a share of the output's largest number; infinity where one
            of two numbers is not finite.
        mean: The mean difference, likewise, of the output where it is largest.
        samples: Rows of the outputs N×C.
        same_class: How many of them have their largest number at the same place.
        float16: The model has activations of that type.
        at_zero: Largest difference, as ``largest``, of the compiled form at jump 0 from the model
            before hardening; None where that does not run, or nothing differs.
    """

    outputs: int
    different: int
    largest: float
    mean: float = 0.0
    samples: int = 0
    same_class: int = 0
    float16: bool = False
    at_zero: float | None = None

    @property
    def words(self) -> str:
        """What was found, for people."""
        if not self.different:
            return f"the same bits as the hardened model's, {self.outputs} of them compared"
        found = (
            f"{self.different} of {self.outputs} differ from the hardened model's, by at most "
            f"{self.largest:.2g} of the largest"
        )
        if self.samples:
            found += f", classes equal for {self.same_class} of {self.samples}"
        if self.at_zero != 0:
            return f"{found}: rounding"
        how = "in float" if self.float16 else "in another order"
        return f"{found}: ONNX Runtime sums {how}; at jump 0 they are the original's"


def compared(expected: list[Any], actual: list[Any]) -> Comparison:
    """Compare outputs.

    Raises:
        ModelError: They are not of the same shapes.
    """
    found = Comparison(outputs=0, different=0, largest=0.0)
    for one, other in zip(expected, actual, strict=True):
        if not isinstance(one, np.ndarray):
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ModelError("the compiled model gives outputs of other shapes")
        classes = one.ndim == 2 and one.shape[1] > 1 and one.dtype.kind == "f"
        same = np.sum(one.argmax(1) == other.argmax(1)) if classes else 0
        unequal = _unequal(one, other)
        largest, mean = _distances(one, other, unequal)
        found = replace(
            found,
            outputs=found.outputs + one.size,
            different=found.different + int(unequal.sum()),
            largest=max(found.largest, largest),
            mean=max(found.mean, mean),
            samples=found.samples + (len(one) if classes else 0),
            same_class=found.same_class + int(same),
        )
    return found


def _unequal(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which numbers differ in a bit, NaN and NaN in none."""
    if one.dtype.kind not in "fiub":
        return np.asarray(one != other)
    bits = np.dtype(f"u{one.dtype.itemsize}")
    x, y = (np.ascontiguousarray(each).view(bits) for each in (one, other))
    unequal = np.reshape(x != y, one.shape)
    if one.dtype.kind == "f":
        unequal &= ~(np.isnan(one) & np.isnan(other))
    return unequal


def _distances(
    one: NDArray[Any], other: NDArray[Any], unequal: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the largest and the mean difference as shares of the largest number.

    Both are infinity where a difference is not defined.
    """
    if not unequal.any():
        return 0.0, 0.0
    if one.dtype.kind not in "fiub":
        return float("inf"), float("inf")
    x, y = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite[unequal].all():
        return float("inf"), float("inf")
    away = np.abs(np.subtract(x, y, where=finite, out=np.zeros_like(x)))
    scale = max(np.abs(x[finite]).max(), 1e-30)
    return float(away.max() / scale), float(away.mean() / scale)
