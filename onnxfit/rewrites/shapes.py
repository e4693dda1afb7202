"""Shapes of a model's values, as far as they follow from its inputs."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import count
from typing import Any

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxfit.element_types import every_graph, subgraphs
from onnxfit.graph import BLOCKED_DOMAIN, Scope
from onnxfit.op import DEFAULT_DOMAINS, DOMAIN, is_add_jump_relu, is_our_function

# Larger initializers are no shapes.
_LARGEST = 1024
# The tensors of a sequence may differ in length, and onnx gives the lengths of all one name.
_FROM_INSIDE = ("ConcatFromSequence", "OptionalGetElement", "SequenceAt", "SequenceMap")
_FUSED = ("com.microsoft", "FusedConv")

# A length by its number or name, or None.
Shape = tuple[int | str | None, ...]


class Shapes:
    """The shapes of a model's values, inferred when the first one is asked for.

    What a file notes of its inner values is not believed where it can be inferred: a tool that
    changed the batch size may have left it. Nor are the names that it gives to lengths: ONNX
    Runtime runs two inputs ``[N, 8]`` of 1 and of 4 rows. Each axis of an input gets a name of its
    own instead, so that equal names are equal lengths.

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
        """Tell whether two values have the same shape in every run.

        They have where they are one value, or each length is the same number or follows from the
        same axis of one input. Numbers are believed as :class:`Shapes` tells.
        """
        if first == second:
            return True
        shape = self.of(scope, first)
        return shape is not None and None not in shape and shape == self.of(scope, second)

    @cached_property
    def _found(self) -> dict[str, dict[str, Shape]]:
        slim = _slim(self._model)
        try:
            inferred = onnx.shape_inference.infer_shapes(slim, data_prop=True)
            if _distrust_windows(slim, inferred):
                inferred = onnx.shape_inference.infer_shapes(slim, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return {}
        found: dict[str, dict[str, Shape]] = {}
        graphs: list[tuple[str, GraphProto]] = [("", inferred.graph)]
        for name, graph in graphs:
            found[name] = _followed(graph, _shapes(graph))
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


def _followed(graph: GraphProto, shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Follow lengths through what ONNX Runtime made of convolutions, which onnx does not know.

    These keep the first axis. A sum has the shape of what it adds where that is one, and got other
    names while it was not known to be.
    """
    same: dict[str, int | str | None] = {}

    def of(value: str) -> Shape:
        given = shapes.get(value, (None,))
        return tuple(same.get(n, n) if isinstance(n, str) else n for n in given)

    for node in graph.node:
        read = [of(value) for value in node.input if value]
        if not read or None in read[0][:1]:
            continue
        if node.domain == BLOCKED_DOMAIN or (node.domain, node.op_type) == _FUSED:
            axes = 1
        elif _is_sum(node) and set(read) == {read[0]} and None not in read[0]:
            axes = len(read[0])
        else:
            continue
        written = shapes.get(node.output[0], ())[:axes]
        same.update({n: m for n, m in zip(written, read[0], strict=False) if isinstance(n, str)})
    return {value: of(value) for value in shapes}


def _is_sum(node: NodeProto) -> bool:
    return node.domain in DEFAULT_DOMAINS and node.op_type in ("Add", "Sum")


def _distrust_windows(slim: ModelProto, inferred: ModelProto) -> bool:
    """Take for unknown what ONNX Runtime and onnx count differently, and all notes where that is.

    With ``ceil_mode`` a last window may begin behind the values and what pads their start: onnx
    counts it at the operators' earlier versions, ONNX Runtime at none. With ``auto_pad`` they
    differ where a pool is dilated, or a transposed convolution pads its output. Where the shapes
    do not tell, as in a function or for a value from outside a subgraph, that may be so.

    Args:
        slim: The model, which is changed.
        inferred: The same with shapes.

    Returns:
        Whether there is such an operator.
    """
    doubted = False
    for graph, told in zip(every_graph(slim), every_graph(inferred), strict=True):
        shapes = _shapes(told) if isinstance(told, GraphProto) else {}
        for node in graph.node:
            if _is_doubtful(node, shapes):
                node.op_type, doubted = "Unknown", True
    for index, graph in enumerate(every_graph(slim) if doubted else ()):
        _forget_notes(graph, set(), keep_inputs=index == 0)
    return doubted


def _is_doubtful(node: NodeProto, shapes: dict[str, Shape]) -> bool:
    is_pool = node.op_type.endswith("Pool")
    if not is_pool and node.op_type != "ConvTranspose":
        return False
    given = {attribute.name: attribute for attribute in node.attribute}
    if any(attribute.ref_attr_name for attribute in node.attribute):
        return True
    if "auto_pad" in given and given["auto_pad"].s.startswith(b"SAME"):
        dilated = "dilations" in given and any(n != 1 for n in given["dilations"].ints)
        return (is_pool and dilated) or "output_padding" in given
    if "ceil_mode" not in given or not given["ceil_mode"].i:
        return False
    known = node.domain in (*DEFAULT_DOMAINS, BLOCKED_DOMAIN)
    lists = {name: list(attribute.ints) for name, attribute in given.items()}
    return not known or not _begin_inside(node, lists, shapes)


def _begin_inside(node: NodeProto, given: dict[str, list[int]], shapes: dict[str, Shape]) -> bool:
    """Tell whether all windows of a pool begin among the values, or what pads their start."""
    read, written = (shapes.get(names[0]) if names else None for names in (node.input, node.output))
    if read is None or written is None or len(read) != len(written):
        return False
    axes = len(read) - 2
    kernel = given.get("kernel_shape", [])
    strides, dilations = (given.get(name) or [1] * axes for name in ("strides", "dilations"))
    pads = given.get("pads") or [0] * 2 * axes
    if {len(kernel), len(strides), len(dilations)} != {axes} or len(pads) != 2 * axes:
        return False
    for axis, (length, windows) in enumerate(zip(read[2:], written[2:], strict=True)):
        if windows is None:
            continue
        if not isinstance(length, int) or not isinstance(windows, int):
            return False
        padded = length + pads[axis] + pads[axis + axes]
        if padded < dilations[axis] * (kernel[axis] - 1) + 1:
            return False
        if (windows - 1) * strides[axis] >= length + pads[axis]:
            return False
    return True


def _length(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


def _slim(model: ModelProto) -> ModelProto:
    """Copy a model without its weights, with what has a JumpReLU's shape in the place of each."""
    slim = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    slim.functions.extend(f for f in model.functions if not is_our_function(f))
    functions = {(f.domain, f.name) for f in slim.functions}
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
    names = (f"length {number}" for number in count())
    for index, inner in enumerate(every_graph(slim)):
        foreign = {o for node in inner.node if _is_foreign(node, functions) for o in node.output}
        _forget_notes(inner, foreign, keep_inputs=index == 0)
        _rename_lengths(inner, names)
        for node in inner.node:
            _simplify(node)
    return slim


def _is_foreign(node: NodeProto, functions: set[tuple[str, str]]) -> bool:
    """Tell whether nothing but a note can tell the shape of what a node writes."""
    known = node.domain in (*DEFAULT_DOMAINS, DOMAIN)
    return not known and (node.domain, node.op_type) not in functions


def _forget_notes(
    graph: GraphProto | FunctionProto, foreign: set[str], *, keep_inputs: bool
) -> None:
    """Drop the shapes that can be inferred, or go wrong if they are believed."""
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


def _rename_lengths(graph: GraphProto | FunctionProto, names: Iterator[str]) -> None:
    """Give each axis that a graph notes without a number a name that no other has."""
    notes = [*graph.value_info]
    if isinstance(graph, GraphProto):
        notes += [*graph.input, *graph.output]
    for value in notes:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                dim.dim_param = next(names)


def _simplify(node: NodeProto) -> None:
    """Write our operators as standard ones of the same shape."""
    if node.domain == DOMAIN:
        added = is_add_jump_relu(node)
        node.op_type, node.domain = "Add" if added else "Identity", ""
        del node.input[2 if added else 1 :], node.attribute[:]
    elif node.domain in DEFAULT_DOMAINS and node.op_type in _FROM_INSIDE:
        node.op_type = "Unknown"
