"""Find the first value of a graph that a twin and ONNX Runtime compute differently."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from onnxfit.deployed import Deployed
from onnxfit.element_types import UNKNOWN, element_types
from onnxfit.errors import ModelError
from onnxfit.twin.frame import reads
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.twin.module import Twin, to_torch
from onnxfit.twin.tensors import COMPARABLE

Array = NDArray[Any]
# Approximations of exp are off by a number, not by a share: outputs smaller than this compare as
# if they were of this size.
SMALL = 0.1


def first_difference(
    model: ModelProto,
    twin: torch.nn.Module,
    inputs: Sequence[Array],
    tolerance: float,
    folder: Path | None = None,
    samples: int = 4,
) -> str | None:
    """Name the first value of the main graph that a twin computes otherwise.

    The graph is cut after some of its nodes, and what the rest reads across the cut is compared;
    bisection finds the node before which all agrees and after which something does not.

    Returns:
        The value's name; None where a twin built anew agrees everywhere, so that the difference
        is in the twin's state and not in a node.
    """
    if all(array.ndim and len(array) == len(inputs[0]) for array in inputs):
        inputs = [array[:samples] for array in inputs]
    types = element_types(model)[""]

    def differing(count: int) -> str | None:
        names = _across(model, count, types)
        if not names:
            return None
        cut = _cut(model, count, names, types)
        try:
            expected = Deployed(cut, folder)(*inputs)
            rebuilt = to_torch(cut, folder)
            _take_state(rebuilt, twin)
            found = run_twin(rebuilt, inputs)
        except ModelError:
            return names[-1]
        pairs = zip(names, expected, found, strict=True)
        return next((n for n, a, b in pairs if not difference(a, b)[1] <= tolerance), None)

    low, high = 0, len(model.graph.node)
    name = differing(high)
    if name is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        inner = differing(middle)
        low, high, name = (middle, high, name) if inner is None else (low, middle, inner)
    return name


def _across(model: ModelProto, count: int, types: Mapping[str, int]) -> list[str]:
    """Return the tensors that the first ``count`` nodes write and the others, or the user, read."""
    nodes = model.graph.node
    later = {name for node in nodes[count:] for name in reads(node)}
    later.update(value.name for value in model.graph.output)
    return [
        name
        for node in nodes[:count]
        for name in node.output
        if name in later and types.get(name, UNKNOWN) in COMPARABLE
    ]


def _cut(
    model: ModelProto, count: int, names: Sequence[str], types: Mapping[str, int]
) -> ModelProto:
    """Return the model with its first nodes alone, and some of their values as outputs."""
    cut = ModelProto()
    cut.CopyFrom(model)
    del cut.graph.node[count:]
    del cut.graph.output[:]
    for name in names:
        cut.graph.output.append(onnx.helper.make_tensor_value_info(name, types[name], None))
    return cut


def _take_state(rebuilt: Twin, twin: torch.nn.Module) -> None:
    """Give a twin of a part of the model the weights and jumps of the twin of all of it."""
    whole = dict(twin.named_parameters()) | dict(twin.named_buffers())
    with torch.no_grad():
        for path in rebuilt.weight_names:
            if path in whole:
                tensor = rebuilt.state_dict()[path]
                tensor.copy_(whole[path])
    jumps = {site.site: site.jump for site in jump_relus(twin)}
    for site in jump_relus(rebuilt):
        site.jump = jumps.get(site.site, site.jump)


def run_twin(twin: torch.nn.Module, arrays: Sequence[Array]) -> list[Array]:
    """Compute a twin's outputs as arrays, where its parameters are."""
    like = next((t for t in (*twin.parameters(), *twin.buffers())), torch.empty(0))
    tensors = [torch.from_numpy(np.ascontiguousarray(array)).to(like.device) for array in arrays]
    with torch.no_grad():
        outputs = twin(*tensors)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [_to_array(output) for output in outputs]


def _to_array(output: Any) -> Array:
    if not isinstance(output, torch.Tensor):
        return np.asarray(output)
    output = output.detach().cpu()
    return output.float().numpy() if output.dtype == torch.bfloat16 else output.numpy()


def difference(expected: Array, found: Array) -> tuple[float, float]:
    """Return the largest absolute difference, and the same as a share of the largest value.

    Where all values are small, as probabilities near 0 are, the share is one of ``SMALL``.
    Infinities and NaN must be in the same places; else both differences are infinite.
    """
    if expected.shape != found.shape:
        return float("inf"), float("inf")
    if expected.dtype.kind not in "fiub":
        same = bool((expected == found).all())
        return (0.0, 0.0) if same else (float("inf"), float("inf"))
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    odd = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    if not odd or not np.isfinite(b[finite]).all():
        return float("inf"), float("inf")
    largest = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return largest, largest / scale_of(a[finite])


def scale_of(values: Array) -> float:
    """Return the size that differences are measured against."""
    return max(float(np.abs(values).max(initial=0.0)), SMALL)
