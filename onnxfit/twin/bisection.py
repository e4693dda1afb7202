"""Find the first value of a graph that a twin and ONNX Runtime compute differently."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxfit.deployed import Deployed
from onnxfit.element_types import UNKNOWN, element_types
from onnxfit.errors import ModelError
from onnxfit.graph import reads
from onnxfit.rewrites import unrewritten
from onnxfit.twin.agreement import differ
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.twin.module import Twin, to_torch
from onnxfit.twin.precision import full_precision
from onnxfit.twin.tensors import COMPARABLE
from onnxfit.twin.tolerances import twin_type
from onnxfit.twin.write_back import tensor_at

Array = NDArray[Any]


def first_difference(
    model: ModelProto,
    twin: torch.nn.Module,
    inputs: Sequence[Array],
    tolerance: float,
    folder: Path | None = None,
    batch_size: int = 64,
) -> str | None:
    """Name the first value of the main graph that a twin computes otherwise.

    The graph is cut after some of its nodes, and what the rest reads across the cut is compared;
    bisection finds the node before which all agrees and after which something does not.

    Returns:
        The value's name; None where a twin built anew agrees everywhere, so that the difference
        is in the twin's state and not in a node.
    """
    model = unrewritten(model)
    types = element_types(model)[""]

    def differing(count: int) -> str | None:
        names = _across(model, count, types)
        if not names:
            return None
        cut = _cut(model, count, names, types)
        try:
            deployed = Deployed(cut, folder)
            expected = in_batches(deployed, inputs, deployed.batch_size or batch_size)
        except ModelError:  # What the whole file computes; so this says nothing of the twin.
            return None
        try:
            rebuilt = to_torch(cut, folder)
            _take_state(rebuilt, twin)
            found = in_batches(lambda *part: run_twin(rebuilt, part), inputs, batch_size)
        except ModelError:
            return names[-1]
        for name, one, other in zip(names, expected, found, strict=True):
            # A value that does not go by samples is another one where the batch is another.
            if len(one) == len(other) and any(map(differ, one, other, [tolerance] * len(one))):
                return name
        return None

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
    kinds = {*COMPARABLE, TensorProto.STRING}
    return [
        name
        for node in nodes[:count]
        for name in node.output
        if name in later and types.get(name, UNKNOWN) in kinds
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
    """Give a twin of a part of the model the type, weights and jumps of the twin of all of it."""
    dtype = twin_type(twin)
    if dtype is not torch.float32:
        rebuilt.to(dtype)
    paths = {place: path for path, place in getattr(twin, "weight_names", {}).items()}
    state = rebuilt.state_dict(keep_vars=True)
    with torch.no_grad():
        for path, place in rebuilt.weight_names.items():
            if place in paths:
                state[path].copy_(tensor_at(twin, paths[place]))
    jumps = {site.site: site.jump for site in jump_relus(twin)}
    for site in jump_relus(rebuilt):
        jump = jumps.get(site.site, site.jump)
        site.jump = None if jump is None else jump.detach().cpu()


def in_batches(
    run: Callable[..., Sequence[Any]], arrays: Sequence[Array], size: int
) -> list[list[Array]]:
    """Compute samples some at a time; all at once where an input does not go by samples.

    Returns:
        For each output one array with all samples; or, where it does not go by samples, what each
        batch gave.

    Raises:
        ModelError: An output is a sequence or a map.
    """
    parts = list(_batches(arrays, size))
    computed = [run(*part) for part in parts]
    return [
        _joined(index, outputs, [len(part[0]) for part in parts])
        for index, outputs in enumerate(zip(*computed, strict=True))
    ]


def _batches(arrays: Sequence[Array], size: int) -> Iterator[list[Array]]:
    n = len(arrays[0])
    if not all(array.ndim and len(array) == n for array in arrays):
        yield list(arrays)
        return
    for start in range(0, n, size):
        yield [array[start : start + size] for array in arrays]


def _joined(index: int, outputs: Sequence[Any], lengths: Sequence[int]) -> list[Array]:
    if not all(isinstance(output, (np.ndarray, np.generic)) for output in outputs):
        raise ModelError(
            f"output {index + 1} of the model is a sequence or a map, which cannot be compared"
        )
    arrays = [np.asarray(output) for output in outputs]
    by_samples = all(a.ndim and len(a) == n for a, n in zip(arrays, lengths, strict=True))
    if by_samples and len({array.shape[1:] for array in arrays}) == 1:
        return [np.concatenate(arrays)]
    return arrays


def run_twin(twin: torch.nn.Module, arrays: Sequence[Array]) -> list[Any]:
    """Compute a twin's outputs as arrays, where its parameters are and in their type."""
    like = next((t for t in (*twin.parameters(), *twin.buffers())), torch.empty(0))
    dtype = twin_type(twin)
    tensors: list[Any] = []
    for array in arrays:
        if array.dtype.kind in "OSU":  # Words stay where they are.
            tensors.append(array)
            continue
        # Of the types in the file float32 alone says nothing of what it was moved to.
        tensor = torch.from_numpy(np.array(array, order="C"))
        moved = tensor.is_floating_point() and dtype is not torch.float32
        tensors.append(tensor.to(like.device, dtype if moved else None))
    with torch.no_grad(), full_precision():
        outputs = twin(*tensors)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [_to_array(output) for output in outputs]


def _to_array(output: Any) -> Any:
    if not isinstance(output, torch.Tensor):
        return output
    output = output.detach().cpu()
    return output.float().numpy() if output.dtype == torch.bfloat16 else output.numpy()
