"""Shapes of a model's values, as far as the file fixes them."""

import math
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

# Larger initializers are no shapes, and shape inference copies the model.
LARGEST = 64


def inferred_shapes(
    model: ModelProto, constants: Mapping[str, torch.Tensor]
) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of the main graph's values, None for what depends on the inputs given.

    Args:
        model: The model.
        constants: Values known before any input is.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_slim(model, constants), data_prop=True)
    except onnx.shape_inference.InferenceError:
        return {}
    found: dict[str, tuple[int | None, ...]] = {n: tuple(t.shape) for n, t in constants.items()}
    graph = inferred.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims:
            found[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in dims
            )
    return found


def _slim(model: ModelProto, constants: Mapping[str, torch.Tensor]) -> ModelProto:
    """Copy a model without what its larger tensors hold, and with constants for nodes."""
    slim = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    slim.functions.extend(model.functions)
    graph = slim.graph
    graph.name = model.graph.name
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for name, tensor in constants.items():
        if tensor.dtype in (torch.int64, torch.int32):
            graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), name))
    replaced = {tensor.name for tensor in graph.initializer}
    graph.node.extend(n for n in model.graph.node if replaced.isdisjoint(n.output))
    known = replaced | {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if tensor.name in known:
            continue
        if is_small(tensor):
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return slim


def is_small(tensor: TensorProto) -> bool:
    """Tell whether a tensor is in the file itself and may be a shape."""
    inside = tensor.data_location != TensorProto.EXTERNAL
    return inside and math.prod(tensor.dims) <= LARGEST


def can_fold(node: NodeProto, known: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether a node computes with known values alone, or is a small constant."""
    kinds = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    if any(a.type in kinds or not is_small(a.t) for a in node.attribute):
        return False
    inputs = [name for name in node.input if name]
    if not inputs or any(name not in known for name in inputs):
        return node.op_type == "Constant"
    return node.op_type != "ConstantOfShape" or int(known[inputs[0]].prod()) <= LARGEST


def shape_of(node: NodeProto, shapes: Mapping[str, tuple[int | None, ...]]) -> Any:
    """Return what a Shape node gives for a known shape, None for another one."""
    shape = shapes.get(node.input[0], (None,))
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    part = shape[bounds.get("start") : bounds.get("end")]
    return None if None in part else torch.tensor(part, dtype=torch.int64)
