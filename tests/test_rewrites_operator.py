"""AddJumpReLU's function bodies: the sum as Add rounds it, then JumpReLU."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from support import NAMES, dtype_of, edge_values, newest_opset, parse, quiet, same_bits

from onnxfit import op

TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
JUMPS = (0.0, 0.1, 1.0)


def model_of(opset: int, element_type: int, jump: float, *, attribute: bool) -> ModelProto:
    """Make a model of one AddJumpReLU with its function body."""
    name = NAMES[element_type]
    made = f"<jump = {jump}>(a, b)" if attribute else "(a, b, k)"
    model = parse(
        f'<ir_version: 8, opset_import: ["": {opset}, "onnxfit": 1]> '
        f"g ({name}[N] a, {name}[N] b) => ({name}[N] y) {{ y = onnxfit.AddJumpReLU{made} }}"
    )
    size = np.asarray(np.float32(jump).astype(dtype_of(element_type)))
    if not attribute:
        model.graph.initializer.append(onnx.numpy_helper.from_array(size, "k"))
    body = op.function(opset, element_type, attribute)
    model.functions.append(op.add_function(body))
    return model


def pairs(element_type: int, jump: float) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Pair every edge value with every other."""
    values = edge_values(element_type, jump)
    a, b = np.meshgrid(values, values)
    return a.ravel(), b.ravel()


def run(model: ModelProto, a: NDArray[np.generic], b: NDArray[np.generic]) -> NDArray[np.generic]:
    """Run a model in ONNX Runtime."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), quiet(), providers=["CPUExecutionProvider"]
    )
    result: NDArray[np.generic] = session.run(None, {"a": a, "b": b})[0]
    return result


def in_two(model: ModelProto) -> ModelProto:
    """Write the AddJumpReLU of a model as Add and JumpReLU."""
    apart = ModelProto()
    apart.CopyFrom(model)
    (fused,) = apart.graph.node
    add = onnx.helper.make_node("Add", fused.input[:2], ["sum"])
    fused.op_type = "JumpReLU"
    fused.input[:] = ["sum", *fused.input[2:]]
    apart.graph.node.insert(0, add)
    (body,) = apart.functions
    body.name = "JumpReLU"
    del body.node[0], body.input[:2]
    body.input.insert(0, "X")
    return apart


@pytest.mark.parametrize("element_type", TYPES, ids=NAMES.get)
@pytest.mark.parametrize("opset", range(op.MIN_OPSET, newest_opset() + 1))
def test_the_body_is_exact_at_every_opset(opset: int, element_type: int) -> None:
    """JumpReLU of the rounded sum, bit for bit; NaN stays NaN.

    ONNX Runtime adds float16 in float on the CPU and need not round before it compares, which is
    the same for one node as for two.
    """
    attributes = [False, True] if op.carries_attribute(opset) else [False]
    for jump in JUMPS:
        a, b = pairs(element_type, jump)
        for attribute in attributes:
            model = model_of(opset, element_type, jump, attribute=attribute)
            actual = run(model, a, b)
            assert same_bits(run(in_two(model), a, b), actual)
            if element_type == TensorProto.FLOAT16:
                continue
            with np.errstate(all="ignore"):
                expected = op.jump_relu(np.add(a, b), jump)
            nan = np.isnan(expected)
            np.testing.assert_array_equal(nan, np.isnan(actual))
            assert same_bits(expected[~nan], actual[~nan])


def test_the_body_takes_what_jump_relu_takes() -> None:
    """Two values in the place of one, then J where it travels as an input."""
    for attribute, inputs in ((True, ["A", "B"]), (False, ["A", "B", "J"])):
        body = op.add_function(op.function(17, TensorProto.FLOAT, attribute))
        assert (inputs, ["Y"]) == (list(body.input), list(body.output))
        assert ["jump"] == list(body.attribute)
        assert op.is_our_function(body)


@pytest.mark.parametrize("element_type", op.ELEMENT_TYPES, ids=NAMES.get)
@pytest.mark.parametrize("opset", [13, 17, newest_opset()])
def test_the_checker_accepts_the_body(opset: int, element_type: int) -> None:
    """Of every type, bfloat16 included, for which ONNX Runtime has no addition on the CPU."""
    onnx.checker.check_model(model_of(opset, element_type, 0.5, attribute=True), full_check=True)
