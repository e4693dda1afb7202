"""The first part of a model, up to a value in the middle of it."""

import onnx
from onnx import ModelProto, TensorProto

from onnxfit.element_types import element_types
from onnxfit.op import DOMAIN

_ROWS = f"{DOMAIN}.rows"


def up_to(model: ModelProto, value: str) -> ModelProto:
    """Return a model that gives a value of the main graph, N×…, as N×values.

    Args:
        model: It stays untouched; what the value does not depend on stays in the copy.
        value: One that a node writes.
    """
    cut = ModelProto()
    cut.CopyFrom(model)
    kind = element_types(model)[""].get(value, TensorProto.FLOAT)
    cut.graph.node.append(onnx.helper.make_node("Flatten", [value], [_ROWS], axis=1))
    del cut.graph.output[:]
    cut.graph.output.append(onnx.helper.make_tensor_value_info(_ROWS, kind, None))
    return cut
