"""How much of a difference between a twin and its file rounding explains."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from onnx import FunctionProto, ModelProto, NodeProto

from onnxfit.element_types import element_types, function_scope, inputs_of, subgraphs
from onnxfit.graph import reads
from onnxfit.twin.tensors import DTYPES


@dataclass(frozen=True)
class Tolerances:
    """How far values may be off, as shares of an output's own size.

    Attributes:
        largest: Any value.
        typical: The values of the median sample.
        tie: Two logits for which it does not matter which is the larger.
    """

    largest: float
    typical: float
    tie: float

    def beside(self, other: "Tolerances") -> "Tolerances":
        """Return the larger of each."""
        return Tolerances(
            max(self.largest, other.largest),
            max(self.typical, other.typical),
            max(self.tie, other.tie),
        )


FLOAT = Tolerances(1e-4, 1e-4, 1e-4)
NARROW = {
    torch.float16: Tolerances(2e-2, 2e-2, 1e-2),
    torch.bfloat16: Tolerances(1e-1, 1e-1, 5e-2),
}
# Rounding may turn a tie between two steps, and one step is a large difference. A right twin does
# so in some samples and not in most.
QUANTISED = Tolerances(1e-1, 2e-2, 1e-2)
_QUANTISES = re.compile(r"Quantize|^Q[A-Z]")


def tolerances_of(
    model: ModelProto, twin: torch.nn.Module, largest: float | None = None
) -> Tolerances:
    """Return the tolerances for a file and its twin, by the lower precision of the two.

    What counts is how the outputs are computed from the inputs: weights that are stored in 16 bits
    or quantised are exact numbers for both. ``largest`` takes the place of the first two.
    """
    found = FLOAT.beside(NARROW.get(twin_type(twin), FLOAT))
    types = element_types(model)
    for node, scope in _between(model):
        if _QUANTISES.search(node.op_type):
            found = found.beside(QUANTISED)
        for name in node.output:
            number = types.get(scope, {}).get(name, 0)
            found = found.beside(NARROW.get(DTYPES.get(number, torch.float32), FLOAT))
    return found if largest is None else replace(found, largest=largest, typical=largest)


def twin_type(twin: torch.nn.Module) -> torch.dtype:
    """Return the type that all of a twin was moved to; float32 where it has several or none."""
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    tensors = (*twin.parameters(), *twin.buffers())
    types = {tensor.dtype for tensor in tensors if tensor.dtype in floats}
    return types.pop() if len(types) == 1 else torch.float32


def _between(model: ModelProto) -> Iterator[tuple[NodeProto, str]]:
    """Yield the nodes that compute the outputs from the inputs, with their scopes."""
    graph = model.graph
    inputs = {value.name for value in inputs_of(graph)}
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    yield from _walk(graph.node, [o.name for o in graph.output], inputs, "", functions)


def _walk(
    nodes: Iterable[NodeProto],
    outputs: Iterable[str],
    inputs: set[str],
    scope: str,
    functions: dict[tuple[str, str, str], FunctionProto],
) -> Iterator[tuple[NodeProto, str]]:
    varying = []
    changing = set(inputs)
    for node in nodes:
        if not changing.isdisjoint(reads(node)):
            varying.append(node)
            changing.update(node.output)
    wanted = set(outputs)
    for node in reversed(varying):
        if wanted.isdisjoint(node.output):
            continue
        wanted.update(reads(node))
        yield node, scope
        for inner, body in subgraphs(node, scope):
            given = changing | {value.name for value in body.input}
            yield from _walk(body.node, [o.name for o in body.output], given, inner, functions)
        # Each function is looked at once.
        function = functions.pop((node.domain, node.op_type, node.overload), None)
        if function is not None:
            inner = function_scope(function)
            yield from _walk(function.node, function.output, set(function.input), inner, functions)
