"""The place of a network's head: its last dense layer, and what comes behind it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto

from onnxfit.element_types import UNKNOWN, element_types
from onnxfit.errors import ModelError
from onnxfit.graph import reads

Ending = Literal["logits", "probabilities", "log-probabilities"]

_ENDINGS: dict[str, Ending] = {"Softmax": "probabilities", "LogSoftmax": "log-probabilities"}
# What may stand between the dense layer and the output without changing a value.
_SAME_VALUES = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout"})
_BY_NAME = "name the value that holds the features with --feature"


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where features end and the head begins.

    Attributes:
        feature: The value that holds the features, N×….
        output: The graph's output, which the head writes.
        ending: What the head gives.
        element_type: Of the features.
    """

    feature: str
    output: str
    ending: Ending
    element_type: int


def find_head(model: ModelProto, feature: str | None = None) -> Head:
    """Find the last dense layer of a classifier.

    Args:
        model: It has one output.
        feature: The value of the main graph to take as features; by default what the last dense
            layer multiplies by its weights.

    Raises:
        ModelError: There are several outputs, there is no such value, or no dense layer.
    """
    graph = model.graph
    if len(graph.output) != 1:
        names = ", ".join(repr(output.name) for output in graph.output)
        raise ModelError(
            f"the model has the outputs {names}; a head is replaced where there is one"
        )
    output = graph.output[0].name
    writers = {value: node for node in graph.node for value in node.output if value}
    ending: Ending = "logits"
    value, last = output, None
    for node in _back_from(output, writers):
        if node.op_type in _ENDINGS and node.domain == "" and ending == "logits":
            ending = _ENDINGS[node.op_type]
        elif node.op_type not in _SAME_VALUES:
            last = node
            break
        value = node.input[0]
    if feature is None:
        feature = _features_of(last, value, writers, {t.name for t in graph.initializer})
    elif feature not in writers or feature == output:
        raise ModelError(f"no node of the main graph writes features named {feature!r}")
    elif feature not in _before(output, writers):
        raise ModelError(f"the output {output!r} does not depend on {feature!r}")
    known = element_types(model)[""].get(feature, UNKNOWN)
    return Head(feature=feature, output=output, ending=ending, element_type=known)


def _back_from(value: str, writers: dict[str, NodeProto]) -> Iterator[NodeProto]:
    """Yield the node that writes a value, the one that writes its first input, and so on."""
    while (node := writers.get(value)) is not None:
        yield node
        value = node.input[0] if node.input else ""


def _features_of(
    node: NodeProto | None, value: str, writers: dict[str, NodeProto], weights: set[str]
) -> str:
    """Return what a dense layer multiplies by its weights."""
    known = weights | {v for v, writer in writers.items() if writer.op_type == "Constant"}
    if node is not None and node.op_type == "Add":
        addends = [name for name in node.input if name not in known]
        node = writers.get(addends[0]) if len(addends) == 1 else None
    if node is not None and node.op_type in ("Gemm", "MatMul"):
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        if node.input[1] in known and node.input[0] not in known and not turned:
            return str(node.input[0])
    raise ModelError(
        f"what writes {value!r} is no dense layer with weights of the file; {_BY_NAME}"
    )


def _before(value: str, writers: dict[str, NodeProto]) -> set[str]:
    """Return the values that a value depends on."""
    found: set[str] = set()
    left = [value]
    while left:
        node = writers.get(left.pop())
        inputs = set(reads(node)) - found if node is not None else set()
        found |= inputs
        left += inputs
    return found
