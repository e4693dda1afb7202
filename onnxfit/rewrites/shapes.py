"""Shapes of a model's values, as far as they follow from its inputs."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxfit.element_types import every_graph, subgraphs
from onnxfit.graph import Scope
from onnxfit.op import DEFAULT_DOMAINS, DOMAIN, is_add_jump_relu, is_our_function

# Larger initializers are no shapes.
_LARGEST = 1024

# A length by its number or name, or None.
Shape = tuple[int | str | None, ...]


class Shapes:
    """The shapes of a model's values, inferred when the first one is asked for.

    What a file notes of its inner values is not believed where it can be inferred: a tool that
    changed the batch size may have left it. Lengths of one name are taken to be equal.

    Args:
        model: The model, which must stay as it is until then.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = model

    def of(self, scope: Scope, value: str) -> Shape | None:
        """Return the shape of a value that a scope can see; None where nothing is known."""
        holder: Scope | None = scope
        while holder is not None:
            found = self._found.get(holder.name, {}).get(value)
            if found is not None:
                return found
            holder = holder.outer
        return None

    def same(self, scope: Scope, first: str, second: str) -> bool:
        """Tell whether two values have the same shape for sure."""
        shape = self.of(scope, first)
        if first == second:
            return True
        return shape is not None and None not in shape and shape == self.of(scope, second)

    @cached_property
    def _found(self) -> dict[str, dict[str, Shape]]:
        try:
            inferred = onnx.shape_inference.infer_shapes(_slim(self._model), data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return {}
        found: dict[str, dict[str, Shape]] = {}
        graphs: list[tuple[str, GraphProto]] = [("", inferred.graph)]
        for name, graph in graphs:
            found[name] = _shapes(graph)
            for node in graph.node:
                graphs += subgraphs(node, name)
        return found


def _shapes(graph: GraphProto) -> dict[str, Shape]:
    """Read the shapes of a graph's values."""
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type") and tensor.HasField("shape"):
            shapes[value.name] = tuple(_length(dim) for dim in tensor.shape.dim)
    return shapes


def _length(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


def _slim(model: ModelProto) -> ModelProto:
    """Copy a model without its weights, with what has a JumpReLU's shape in the place of each."""
    slim = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    slim.functions.extend(f for f in model.functions if not is_our_function(f))
    graph, source = slim.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    inputs = {value.name for value in source.input}
    # Since IR version 4 an initializer that is also an input is only that input's default.
    defaults = inputs if model.ir_version >= 4 else set()
    for tensor in source.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and tensor.ByteSize() <= _LARGEST:
            if tensor.name not in defaults:
                graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    for index, inner in enumerate(every_graph(slim)):
        _forget_notes(inner, keep_inputs=index == 0)
        for node in inner.node:
            _simplify(node)
    return slim


def _forget_notes(graph: GraphProto | FunctionProto, *, keep_inputs: bool) -> None:
    """Drop the shapes that can be inferred, or go wrong if they are believed."""
    foreign = {
        o for n in graph.node if n.domain not in (*DEFAULT_DOMAINS, DOMAIN) for o in n.output
    }
    kept = [value for value in graph.value_info if value.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    if isinstance(graph, GraphProto):
        _drop(value for value in graph.output if value.name not in foreign)
        if not keep_inputs:
            _drop(graph.input)


def _drop(values: Iterable[ValueInfoProto]) -> None:
    for value in values:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def _simplify(node: NodeProto) -> None:
    """Write our operators as standard ones of the same shape."""
    if node.domain == DOMAIN:
        added = is_add_jump_relu(node)
        node.op_type, node.domain = "Add" if added else "Identity", ""
        del node.input[2 if added else 1 :], node.attribute[:]
