"""Helpers of the tests that compare operators of the twin with ONNX Runtime."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from onnxfit.element_types import inputs_of
from onnxfit.twin.module import Twin, to_torch
from onnxfit.twin.tensors import from_numpy, to_numpy


def parse(text: str) -> onnx.ModelProto:
    """Read a model written as ONNX text."""
    return onnx.parser.parse_model(text)


def node_model(
    op: str,
    opset: int,
    given: Mapping[str, NDArray[Any]],
    slots: str,
    outputs: str = "y",
    attributes: str = "",
    output_type: str = "float",
) -> onnx.ModelProto:
    """Write a model of one node.

    Args:
        op: The operator, after its domain and a dot.
        opset: The version of ONNX's own domain.
        given: The inputs of the graph, whose types and ranks they tell.
        slots: The names of the node's inputs; one that is not given is left empty.
        outputs: The names of the node's outputs, ``""`` for one that is not wanted.
        attributes: Its attributes as ONNX text.
        output_type: The type of each output.
    """
    types = {"float32": "float", "float64": "double", "object": "string"}
    inputs = ", ".join(
        f"{types.get(str(array.dtype), array.dtype)}[{','.join('ABCDEF'[: array.ndim])}] {name}"
        for name, array in given.items()
    )
    inputs = inputs.replace("[]", "")
    names = ", ".join(slot if slot in given else '""' for slot in slots.split())
    while names.endswith(', ""'):
        names = names.removesuffix(', ""')
    typed = ", ".join(f"{output_type} {name}" for name in outputs.split() if name != '""')
    written = f"{op} <{attributes}> ({names})" if attributes else f"{op} ({names})"
    return parse(
        f'<ir_version: 10, opset_import: ["": {opset}, "ai.onnx.ml": 3, "com.microsoft": 1]>'
        f"g ({inputs}) => ({typed}) {{ {outputs.replace(' ', ', ')} = {written} }}"
    )


def constants_in(model: onnx.ModelProto, given: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Copy a model, with some inputs of the graph as constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [value for value in model.graph.input if value.name not in given]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    copy.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in given.items()
    )
    return copy


def agrees_both_ways(
    op: str, opset: int, arrays: Sequence[Any], attributes: str = "", outputs: str = "y"
) -> Twin:
    """Compare a node with ONNX Runtime, with its inputs but the first given and as constants.

    Args:
        op: The operator, after its domain and a dot.
        opset: The version of ONNX's own domain.
        arrays: Its inputs, None for one left out.
        attributes: Its attributes as ONNX text.
        outputs: The names of its outputs.

    Returns:
        The twin with constants.
    """
    names = [f"i{index}" for index in range(len(arrays))]
    given = {n: np.asarray(a) for n, a in zip(names, arrays, strict=True) if a is not None}
    model = node_model(op, opset, given, " ".join(names), outputs, attributes)
    for value in model.graph.output:
        value.ClearField("type")
    agrees(model, *given.values())
    first = given.pop("i0")
    return agrees(constants_in(model, given), first)


def runtime_outputs(model: onnx.ModelProto, *arrays: NDArray[Any]) -> list[Any]:
    """Return what ONNX Runtime computes on the CPU, without its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, arrays, strict=True))))


def twin_outputs(twin: Twin, model: onnx.ModelProto, *arrays: NDArray[Any]) -> tuple[Any, ...]:
    """Return what a twin computes, as it carries it."""
    inputs = inputs_of(model.graph)
    carried = [
        from_numpy(array, value.type.tensor_type.elem_type)
        for array, value in zip(arrays, inputs, strict=True)
    ]
    found = twin(*carried)
    return found if isinstance(found, tuple) else (found,)


def agrees(
    model: onnx.ModelProto | str, *arrays: NDArray[Any], rtol: float = 1e-4, atol: float = 1e-5
) -> Twin:
    """Assert that the twin of a model computes what ONNX Runtime does; return the twin.

    Args:
        model: The model or its ONNX text.
        arrays: The inputs of the graph.
        rtol: How far values may differ, as a fraction of the expected one.
        atol: How far values may differ.
    """
    model = parse(model) if isinstance(model, str) else model
    twin = to_torch(model)
    expected = runtime_outputs(model, *arrays)
    found = twin_outputs(twin, model, *arrays)
    for one, other, value in zip(expected, found, model.graph.output, strict=True):
        element_type = value.type.tensor_type.elem_type
        if not element_type:
            element_type = onnx.helper.np_dtype_to_tensor_dtype(one.dtype)
            assert from_numpy(one, element_type).dtype == other.dtype
        array = to_numpy(other, element_type)
        assert one.dtype == array.dtype
        assert one.shape == array.shape
        if one.dtype.kind in "OUS":
            assert list(one.ravel()) == list(array.ravel())
        else:
            np.testing.assert_allclose(array, one, rtol=rtol, atol=atol)
    return twin


def compiled(module: torch.nn.Module, backend: str = "eager") -> Any:
    """Compile a module into one graph, with a compiler that has seen no other.

    The compiler counts what it compiled of each function, for all modules together, and refuses
    after eight.
    """
    torch.compiler.reset()
    return torch.compile(module, backend=backend, fullgraph=True)
