"""Does the twin compute what ONNX Runtime computes? Attacks and verification ask this first.

A JumpReLU is not continuous: a value within rounding of its jump may be kept by one and dropped
by the other, and the difference is then as large as the jump. So the numbers are compared where
every jump is 0, with a tolerance, and the hardened model itself by its decisions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto

from onnxfit.deployed import Deployed
from onnxfit.errors import ParityError
from onnxfit.files import as_model, folder_of
from onnxfit.hardening import retrofit
from onnxfit.sites import find_sites
from onnxfit.twin.bisection import difference, first_difference, run_twin, scale_of
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.twin.tensors import DTYPES

# The largest difference that rounding explains, as a share of the largest value of the output.
TOLERANCES = {
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
TOLERANCE = 1e-4
# Where values are rounded to integers, one step is a difference that rounding explains as well.
QUANTISED_TOLERANCE = 1e-1
MIN_AGREEMENT = 0.98

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a twin and its file in ONNX Runtime agree.

    Attributes:
        samples: How many samples were compared.
        largest_difference: Largest absolute difference of an output with every jump at 0.
        relative_difference: The same as a share of the largest value of that output, or of 0.1
            where all are smaller.
        tolerance: How large ``relative_difference`` may be.
        top1_agreement: Share of the samples for which both name the same class, with the jumps
            of the file; two classes whose logits are within tolerance count as the same.
        flips: Samples whose outputs differ by more than the tolerance with the jumps of the
            file: somewhere a value lies within rounding of its jump.
        largest_flip: The largest absolute difference among those.
        first_difference: The first value of the graph that differs, where they do not agree.
        agrees: Whether attacks with the twin's gradients tell something about the file.
    """

    samples: int
    largest_difference: float
    relative_difference: float
    tolerance: float
    top1_agreement: float
    flips: int
    largest_flip: float
    first_difference: str | None
    agrees: bool


def parity(
    model: ModelProto | str | Path,
    twin: torch.nn.Module,
    inputs: ArrayLike | torch.Tensor | Sequence[ArrayLike | torch.Tensor],
    base_dir: str | Path | None = None,
    *,
    tolerance: float | None = None,
    batch_size: int = 64,
) -> Parity:
    """Compare a twin with its file in ONNX Runtime on samples.

    Args:
        model: The model that the twin was made from, hardened or not, or its path.
        twin: What :func:`onnxfit.to_torch` made of it.
        inputs: Samples, N×…, as the file takes them; a list or tuple where the graph has several
            inputs. Real ones, for what random ones show is not what matters.
        base_dir: Folder of the external data; by default that of the path.
        tolerance: Largest difference with every jump at 0, as a share of the output's largest
            value; by default 1e-4, more for 16-bit and quantised models.
        batch_size: How many samples are computed at a time.

    Raises:
        ModelError: ONNX Runtime or the twin cannot compute the samples.
        ValueError: There are no samples.
    """
    proto, folder = as_model(model), folder_of(model, base_dir)
    arrays = _arrays(inputs, proto)
    if tolerance is None:
        tolerance = _tolerance(proto)
    hardened = any(site.jump for site in find_sites(proto))
    plain = retrofit(proto, 0.0) if hardened else proto
    with jumps_at_zero(twin):
        at_zero = _compare(plain, folder, twin, arrays, tolerance, batch_size)
    own = _compare(proto, folder, twin, arrays, tolerance, batch_size) if hardened else at_zero
    agrees = at_zero.relative <= tolerance and own.agreement >= MIN_AGREEMENT
    first = None
    if not agrees:
        numbers = at_zero.relative > tolerance
        with jumps_at_zero(twin) if numbers else _as_it_is():
            compared = plain if numbers else proto
            first = first_difference(compared, twin, arrays, tolerance, folder)
    return Parity(
        samples=len(arrays[0]),
        largest_difference=at_zero.largest,
        relative_difference=at_zero.relative,
        tolerance=tolerance,
        top1_agreement=own.agreement,
        flips=own.beyond if hardened else 0,
        largest_flip=own.largest if hardened and own.beyond else 0.0,
        first_difference=first,
        agrees=agrees,
    )


def require_parity(*args: Any, **kwargs: Any) -> Parity:
    """Return what :func:`parity` finds, or refuse to go on.

    Raises:
        ParityError: Twin and file disagree; the message names the first value that differs.
    """
    found = parity(*args, **kwargs)
    if not found.agrees:
        first = found.first_difference
        where = f"; the first value that differs is {first!r}" if first else ""
        raise ParityError(
            f"the twin and ONNX Runtime disagree: by {found.relative_difference:.2g} of the "
            f"largest output with every jump at 0 ({found.tolerance:.2g} allowed), and on the "
            f"class of {1 - found.top1_agreement:.1%} of {found.samples} samples{where}"
        )
    return found


@contextmanager
def jumps_at_zero(module: torch.nn.Module) -> Iterator[None]:
    """Set every jump in a module to 0 for the length of a ``with`` block."""
    sites = jump_relus(module)
    before = [site.jump for site in sites]
    for site in sites:
        site.jump = torch.zeros_like(site.jump) if site.jump is not None else None
    try:
        yield
    finally:
        for site, jump in zip(sites, before, strict=True):
            site.jump = jump


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@dataclass(frozen=True)
class _Comparison:
    """Largest differences, samples beyond the tolerance, share of samples of the same class."""

    largest: float
    relative: float
    beyond: int
    agreement: float


def _compare(
    model: ModelProto,
    folder: Path | None,
    twin: torch.nn.Module,
    arrays: Sequence[Array],
    tolerance: float,
    batch_size: int,
) -> _Comparison:
    deployed = Deployed(model, folder)
    expected: list[list[Array]] = []
    found: list[list[Array]] = []
    for part in _batches(arrays, batch_size):
        expected.append(deployed(*part))
        found.append(run_twin(twin, part))
    columns = list(zip(*map(_joined, (expected, found)), strict=True))
    differences = [difference(a, b) for a, b in columns]
    beyond = np.zeros(len(arrays[0]), bool)
    for a, b in columns:
        if a.ndim and len(a) == len(beyond):
            beyond |= _rows_beyond(a, b, tolerance)
    return _Comparison(
        largest=max((d[0] for d in differences), default=0.0),
        relative=max((d[1] for d in differences), default=0.0),
        beyond=int(beyond.sum()),
        agreement=_top1_agreement(columns[0], tolerance),
    )


def _batches(arrays: Sequence[Array], batch_size: int) -> Iterator[list[Array]]:
    """Yield the samples some at a time; all at once where an input does not go by samples."""
    n = len(arrays[0])
    size = batch_size if all(array.ndim and len(array) == n for array in arrays) else n
    for start in range(0, n, size):
        yield [array[start : start + size] if size < n else array for array in arrays]


def _joined(batches: list[list[Array]]) -> list[Array]:
    columns = zip(*batches, strict=True)
    return [np.concatenate(parts) if parts[0].ndim else parts[0] for parts in columns]


def _rows_beyond(expected: Array, found: Array, tolerance: float) -> NDArray[np.bool_]:
    n = len(expected)
    if expected.shape != found.shape or expected.dtype.kind != "f":
        return np.zeros(n, bool)
    gap = np.abs(expected.astype(np.float64) - found.astype(np.float64)).reshape(n, -1)
    return ~(gap.max(1, initial=0.0) <= tolerance * scale_of(expected))


def _top1_agreement(outputs: tuple[Array, Array], tolerance: float) -> float:
    """Return the share of samples for which two outputs name the same class."""
    expected, found = outputs
    if expected.shape != found.shape or not expected.size:
        return 0.0
    if expected.ndim < 2 or expected.dtype.kind != "f":
        return float(np.mean(expected == found))
    a, b = (x.astype(np.float64).reshape(len(x), -1) for x in (expected, found))
    rows = np.arange(len(a))
    one, other = a.argmax(1), b.argmax(1)
    near = a[rows, one] - a[rows, other] <= tolerance * scale_of(a)
    return float(np.mean((one == other) | near))


def _arrays(inputs: Any, model: ModelProto) -> list[Array]:
    given = {tensor.name for tensor in model.graph.initializer}
    expected = [value.name for value in model.graph.input if value.name not in given]
    several = isinstance(inputs, (list, tuple)) and len(expected) > 1
    found = []
    for item in inputs if several else [inputs]:
        array = item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else np.asarray(item)
        found.append(array)
    if not found or not found[0].ndim or not len(found[0]):
        raise ValueError("parity needs at least one sample")
    return found


def _tolerance(model: ModelProto) -> float:
    types = {tensor.data_type for tensor in model.graph.initializer}
    wanted = [TOLERANCES.get(DTYPES.get(t, torch.float32), TOLERANCE) for t in types]
    quantised = any(
        "Quantize" in node.op_type or node.op_type.startswith("QLinear")
        for node in model.graph.node
    )
    return max([QUANTISED_TOLERANCE if quantised else TOLERANCE, *wanted])
