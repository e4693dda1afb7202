"""The place of a network's head: its last dense layer, and what comes behind it."""

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from onnxfit.element_types import UNKNOWN, element_types, inputs_of
from onnxfit.errors import ModelError
from onnxfit.graph import reads
from onnxfit.op import DEFAULT_DOMAINS, ELEMENT_TYPES

# What may stand between the dense layer and the output: it names the same class.
_BEHIND = frozenset(
    {
        *("Softmax", "LogSoftmax", "Log"),
        *("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Cast"),
    }
)
_BY_NAME = "name the value that holds the features with --feature"


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where features end and the head begins.

    Attributes:
        feature: The value that holds the features, N×….
        output: The graph's output, which the head writes.
        element_type: Of the features.
        output_type: Of the output.
    """

    feature: str
    output: str
    element_type: int
    output_type: int


def find_head(model: ModelProto, feature: str | None = None) -> Head:
    """Find the last dense layer of a classifier.

    Args:
        model: It has one output.
        feature: The value of the main graph to take as features; by default what the last dense
            layer multiplies by its weights.

    Raises:
        ModelError: There are several outputs, or one of no floating-point numbers; there is no such
            value, or no dense layer.
    """
    graph = model.graph
    if len(graph.output) != 1:
        names = ", ".join(repr(output.name) for output in graph.output)
        raise ModelError(
            f"the model has the outputs {names}; a head is replaced where there is one"
        )
    output, types = graph.output[0].name, element_types(model)[""]
    output_type = types.get(output, UNKNOWN)
    if output_type not in ELEMENT_TYPES:
        raise ModelError(f"the output {output!r} holds no floating-point numbers for classes")
    writers = {value: node for node in graph.node for value in node.output if value}
    if feature is None:
        feature = _features_of(output, writers, {value.name for value in inputs_of(graph)})
    elif feature not in writers or feature == output:
        raise ModelError(f"no node of the main graph writes features named {feature!r}")
    elif feature not in _before(output, writers):
        raise ModelError(f"the output {output!r} does not depend on {feature!r}")
    known = types.get(feature, UNKNOWN)
    return Head(feature=feature, output=output, element_type=known, output_type=output_type)


def _features_of(value: str, writers: Mapping[str, NodeProto], inputs: set[str]) -> str:
    """Return what the dense layer in front of a value multiplies by its weights.

    Weights are what depends on none of the graph's inputs: of the file, or computed from them.
    """

    def varies(name: str) -> bool:
        return not inputs.isdisjoint({name, *_before(name, writers)})

    node = _writer(value, writers)
    while node is not None and node.op_type in _BEHIND:
        value = node.input[0]
        node = _writer(value, writers)
    if node is not None and node.op_type == "Add":
        addends = [name for name in node.input if varies(name)]
        node = _writer(addends[0], writers) if len(addends) == 1 else None
    if node is not None and node.op_type in ("Gemm", "MatMul"):
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        if varies(node.input[0]) and not varies(node.input[1]) and not turned:
            return str(node.input[0])
    raise ModelError(
        f"what writes {value!r} is no dense layer with weights of the file; {_BY_NAME}"
    )


def _writer(value: str, writers: Mapping[str, NodeProto]) -> NodeProto | None:
    """Return the standard node that writes a value, or None."""
    node = writers.get(value)
    return node if node is not None and node.domain in DEFAULT_DOMAINS else None


def _before(value: str, writers: Mapping[str, NodeProto]) -> set[str]:
    """Return the values that a value depends on."""
    found: set[str] = set()
    left = [value]
    while left:
        node = writers.get(left.pop())
        inputs = set(reads(node)) - found if node is not None else set()
        found |= inputs
        left += inputs
    return found
