"""Shapes of a model's values, as far as the file fixes them."""

import math

import onnx
from onnx import ModelProto, TensorProto

# Larger initializers are no shapes, and shape inference copies the model.
LARGEST = 64


def inferred_shapes(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of the main graph's values, None for what depends on the inputs given."""
    try:
        inferred = onnx.shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    except onnx.shape_inference.InferenceError:
        return {}
    found = {}
    graph = inferred.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims:
            found[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in dims
            )
    return found


def _without_weights(model: ModelProto) -> ModelProto:
    """Copy a model without what its larger tensors hold."""
    slim = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    slim.functions.extend(model.functions)
    graph = slim.graph
    graph.name = model.graph.name
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.node.extend(model.graph.node)
    known = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        inside = tensor.data_location != TensorProto.EXTERNAL
        if inside and math.prod(tensor.dims) <= LARGEST:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return slim
