"""Helpers of the tests that compare operators of the twin with ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxfit.twin.module import Twin, to_torch
from onnxfit.twin.tensors import from_numpy, to_numpy


def parse(text: str) -> onnx.ModelProto:
    """Read a model written as ONNX text."""
    return onnx.parser.parse_model(text)


def runtime_outputs(model: onnx.ModelProto, *arrays: NDArray[Any]) -> list[Any]:
    """Return what ONNX Runtime computes on the CPU, without its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def twin_outputs(twin: Twin, model: onnx.ModelProto, *arrays: NDArray[Any]) -> tuple[Any, ...]:
    """Return what a twin computes, as it carries it."""
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
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
        array = to_numpy(other, value.type.tensor_type.elem_type)
        assert one.dtype == array.dtype
        assert one.shape == array.shape
        if one.dtype.kind in "OUS":
            assert list(one.ravel()) == list(array.ravel())
        else:
            np.testing.assert_allclose(array, one, rtol=rtol, atol=atol)
    return twin
