"""Does the twin compute what ONNX Runtime computes? Attacks and verification ask this first.

A JumpReLU is not continuous: a value within rounding of its jump may be kept by one and dropped
by the other, and the difference is then as large as the jump. So the numbers are compared where
every jump is 0, with a tolerance, and the hardened model itself by its decisions.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto, TensorProto

from onnxfit.deployed import Deployed
from onnxfit.element_types import inputs_of
from onnxfit.errors import ParityError
from onnxfit.files import as_model, folder_of
from onnxfit.hardening import with_jumps
from onnxfit.randomness import drawn_value
from onnxfit.sites import find_sites
from onnxfit.twin import agreement
from onnxfit.twin.bisection import first_difference, in_batches, run_twin
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.twin.tolerances import Tolerances, tolerances_of
from onnxfit.twin.write_back import unwrapped

# So many samples, those that differ most, are enough to find where they begin to.
WORST = 8
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a twin and its file in ONNX Runtime agree.

    Attributes:
        samples: How many samples were compared.
        largest_difference: Largest absolute difference of an output with every jump at 0.
        relative_difference: The largest difference as a share of the largest value of its output,
            or of its class where that is N×C; smaller where rounding of other values explains
            a part of it.
        typical_difference: The same of the median sample.
        tolerance: How large ``relative_difference`` may be.
        top1_agreement: Share of the samples for which both name the same class, with the jumps
            of the file. The class is the largest of the first floating-point output N×C; two
            whose logits are within rounding count as the same. Outputs that are labels must
            agree as well, and the smallest share is given. Where nothing names a class it is the
            share of samples whose values agree to a tenth.
        flips: Samples whose outputs differ by more than the tolerance with the jumps of the
            file: somewhere a value lies within rounding of its jump.
        largest_flip: The largest absolute difference among those.
        first_difference: The first value of the graph that differs, where they do not agree.
        agrees: Whether attacks with the twin's gradients tell something about the file.
    """

    samples: int
    largest_difference: float
    relative_difference: float
    typical_difference: float
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
        twin: What :func:`onnxfit.to_torch` made of it, as it is or moved to another type.
        inputs: Samples, N×…, as the file takes them; a list or tuple where the graph has several
            inputs. Real ones, for what random ones show is not what matters. Floating-point
            numbers are converted to the type that the file declares.
        base_dir: Folder of the external data; by default that of the path.
        tolerance: Largest difference with every jump at 0, as a share of the output's largest
            value; by default 1e-4, more where the outputs are computed in 16 bits or from
            quantised values.
        batch_size: How many samples the twin is given at a time, even where the file fixes
            another number.

    Raises:
        ModelError: ONNX Runtime or the twin cannot compute the samples, or an output is a
            sequence or a map.
        ValueError: There are no samples, or the batch size is not at least 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, got {batch_size}")
    proto, folder = as_model(model), folder_of(model, base_dir)
    arrays = _arrays(inputs, proto)
    allowed = tolerances_of(proto, twin, tolerance)
    hardened = any(site.jump == () or np.any(site.jump or 0) for site in find_sites(proto))
    plain = with_jumps(proto, 0.0) if hardened else proto
    with jumps_at_zero(twin):
        at_zero = _compare(plain, folder, twin, arrays, allowed, batch_size)
    own = _compare(proto, folder, twin, arrays, allowed, batch_size) if hardened else at_zero
    numbers = at_zero.relative <= allowed.largest and at_zero.typical <= allowed.typical
    agrees = numbers and own.agreement >= agreement.MIN_AGREEMENT
    first = None
    if not agrees:
        compared, worst = (proto, own.worst) if numbers else (plain, at_zero.worst)
        if at_zero.relative > allowed.largest:
            limit = allowed.largest
        else:
            limit = allowed.tie if numbers else allowed.typical
        part = [x[worst] if x.ndim and len(x) == len(arrays[0]) else x for x in arrays]
        with contextlib.nullcontext() if numbers else jumps_at_zero(twin):
            inner = unwrapped(twin)
            first = first_difference(compared, inner, part, limit, folder, batch_size)
    return Parity(
        samples=len(arrays[0]),
        largest_difference=at_zero.largest,
        relative_difference=at_zero.relative,
        typical_difference=at_zero.typical,
        tolerance=allowed.largest,
        top1_agreement=own.agreement,
        flips=own.beyond if hardened else 0,
        largest_flip=own.largest if hardened and own.beyond else 0.0,
        first_difference=first,
        agrees=agrees,
    )


def require_parity(*args: Any, **kwargs: Any) -> Parity:
    """Return what :func:`parity` finds, or refuse to go on.

    Raises:
        ParityError: Twin and file disagree; the message names the first value that differs, or one
            that the model draws at random.
    """
    found = parity(*args, **kwargs)
    if not found.agrees:
        if drawn := drawn_value(as_model(args[0])):
            raise ParityError(
                f"the model draws {drawn!r} at random, so that two runs of it differ and its twin "
                "cannot be compared; a denoising that drops pixels keeps the same ones with "
                "--tv-seed"
            )
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
    """Set every jump in a module to 0 for a ``with`` block, those of run-time inputs too."""
    sites = jump_relus(module)
    before = [site.jump for site in sites]
    like = next((t for t in (*module.parameters(), *module.buffers())), torch.empty(0))
    for site in sites:
        missing = site.jump is None
        site.jump = torch.zeros((), device=like.device) if missing else torch.zeros_like(site.jump)
    try:
        yield
    finally:
        for site, jump in zip(sites, before, strict=True):
            site.jump = jump


@dataclass(frozen=True)
class _Comparison:
    """What a comparison found.

    Attributes:
        largest: Largest absolute difference.
        relative: The same as a share of the values' size.
        typical: The share of the median sample.
        beyond: How many samples differ by more than the tolerance.
        agreement: Share of samples of the same class.
        worst: The samples that differ most, another class first.
    """

    largest: float
    relative: float
    typical: float
    beyond: int
    agreement: float
    worst: NDArray[np.intp]


def _compare(
    model: ModelProto,
    folder: Path | None,
    twin: torch.nn.Module,
    arrays: Sequence[Array],
    tolerances: Tolerances,
    batch_size: int,
) -> _Comparison:
    n = len(arrays[0])
    expected = in_batches(Deployed(model, folder), arrays, batch_size)
    found = in_batches(lambda *part: run_twin(twin, part), arrays, batch_size)
    if len(expected) != len(found):
        raise ValueError(f"the model has {len(expected)} outputs, the twin gives {len(found)}")
    largest, whole, samples = 0.0, 0.0, np.zeros(n)
    for one, other in zip(expected, found, strict=True):
        if len(one) != len(other):
            largest = whole = np.inf
            continue
        for a, b in zip(one, other, strict=True):
            if not agreement.are_numbers(a):
                continue
            largest = max(largest, float(agreement.gaps(a, b).max(initial=0.0)))
            shares = agreement.excess(a, b, tolerances.largest)
            if a.shape != b.shape:
                largest = whole = np.inf
            elif _by_samples(one, n):
                samples = np.maximum(samples, shares)
            else:
                whole = max(whole, float(shares.max(initial=0.0)))
    same, share = _same_decisions(expected, found, n, tolerances)
    order = np.lexsort((samples, ~same))[::-1]
    return _Comparison(
        largest=largest,
        relative=tolerances.largest * max(whole, float(samples.max())),
        typical=tolerances.largest * float(np.median(samples)),
        beyond=int((samples > 1).sum()),
        agreement=share,
        worst=order[:WORST],
    )


def _by_samples(outputs: Sequence[Array], n: int) -> bool:
    return len(outputs) == 1 and outputs[0].ndim > 0 and len(outputs[0]) == n


def _same_decisions(
    expected: Sequence[Sequence[Array]],
    found: Sequence[Sequence[Array]],
    n: int,
    tolerances: Tolerances,
) -> tuple[NDArray[np.bool_], float]:
    """Tell sample by sample whether all decisions are the same, and the smallest share of one."""
    same, share = np.ones(n, bool), 1.0
    excused, named = np.zeros(n, bool), False
    values = []
    for one, other in zip(expected, found, strict=True):
        if not _by_samples(one, n) or not agreement.are_numbers(one[0]) or not one[0].size:
            continue
        values.append((one[0], other[0]))
        logits = agreement.by_class(one[0])
        if logits is not None and not named:
            twins = other[0].reshape(logits.shape) if one[0].shape == other[0].shape else other[0]
            named, same = True, agreement.same_class(logits, twins, tolerances.tie)
            share, excused = float(same.mean()), agreement.tied(logits, tolerances.tie)
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(one, other, strict=False):
            if agreement.are_numbers(a) or not a.size:
                continue
            labels, named = agreement.same_labels(a, b), True
            if _by_samples(one, n) and len(labels) == n:
                labels = labels.reshape(n, -1) | excused[:, None]
                same &= labels.all(1)
            share = min(share, float(labels.mean()))
    if not named:
        for a, b in values:
            same &= agreement.excess(a, b, agreement.FLIP) <= 1
        share = float(same.mean())
    return same, share


def _arrays(inputs: Any, model: ModelProto) -> list[Array]:
    """Return the inputs as arrays of the types that the file declares."""
    expected = inputs_of(model.graph)
    several = isinstance(inputs, (list, tuple)) and len(expected) > 1
    found = []
    for i, item in enumerate(inputs if several else [inputs]):
        array = _to_array(item)
        number = expected[i].type.tensor_type.elem_type if i < len(expected) else 0
        if array.dtype.kind == "f" and number in FLOATS:
            array = array.astype(onnx.helper.tensor_dtype_to_np_dtype(number), copy=False)
        found.append(array)
    if not found or not found[0].ndim or not len(found[0]):
        raise ValueError("parity needs at least one sample")
    return found


def _to_array(item: Any) -> Array:
    if not isinstance(item, torch.Tensor):
        return np.asarray(item)
    item = item.detach().cpu()
    array: Array = (item.float() if item.dtype == torch.bfloat16 else item).numpy()
    return array
