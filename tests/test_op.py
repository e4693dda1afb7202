"""The meaning of JumpReLU: the reference, and the standard-operator forms against it."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support import (
    NAMES,
    dtype_of,
    edge_values,
    nans,
    newest_opset,
    plain_session,
    quiet,
    run_one,
    same_bits,
)

from onnxfit import op

JUMPS = (0.0, 0.1, 0.5, 1.0)
OPSETS = range(op.MIN_OPSET, newest_opset() + 1)
TYPES = tuple(op.ELEMENT_TYPES)


def test_reference_follows_the_definition() -> None:
    """The reference is 0 up to and at the jump and x beyond; NaN stays, -0 becomes +0."""
    x = np.array([-1, -0.0, 0, 0.5, np.nextafter(np.float32(0.5), 1), np.inf, np.nan], np.float32)
    result = op.jump_relu(x, 0.5)
    assert same_bits(np.array([0, 0, 0, 0, x[4], np.inf, np.nan], np.float32), result)


def test_reference_with_jump_0_is_relu_by_value() -> None:
    """A jump of 0 is Relu."""
    x = np.linspace(-3, 3, 101, dtype=np.float32)
    np.testing.assert_array_equal(np.maximum(x, 0), op.jump_relu(x, 0))


def test_reference_takes_a_jump_per_channel() -> None:
    """An array of jumps broadcasts."""
    x = np.ones((1, 2, 2), np.float32)
    expected = np.array([[[1, 1], [0, 0]]], np.float32)
    assert same_bits(expected, op.jump_relu(x, np.array([[[0.5], [1]]], np.float32)))


@pytest.mark.parametrize("element_type", TYPES, ids=NAMES.get)
def test_reference_keeps_every_nan_bit_for_bit(element_type: int) -> None:
    """NaN passes with its sign and payload."""
    x = nans(element_type)
    assert same_bits(x, op.jump_relu(x, 0.5))


@pytest.mark.parametrize("jump", [-0.1, np.inf, np.nan, -np.inf])
def test_a_jump_is_finite_and_not_negative(jump: float) -> None:
    """What is no jump size is a ValueError that quotes it."""
    with pytest.raises(ValueError, match=rf"^a jump size is finite and at least 0, got {jump}$"):
        op.check_jump(jump)


@pytest.mark.parametrize("jump", [True, "0.5", None])
def test_a_jump_is_a_number(jump: object) -> None:
    """What is no number is a TypeError."""
    with pytest.raises(TypeError, match="a jump size is a number"):
        op.check_jump(jump)  # type: ignore[arg-type]


def test_minus_zero_is_taken_as_zero() -> None:
    """No file carries a jump of -0."""
    assert np.copysign(1, op.check_jump(-0.0)) == 1


@pytest.mark.parametrize("element_type", TYPES, ids=NAMES.get)
@pytest.mark.parametrize("jump", [0.0, 0.1, 1 / 3, 0.5, 1.0039, 8 / 255])
def test_a_jump_is_rounded_to_the_nearest_of_its_type(jump: float, element_type: int) -> None:
    """Rounding agrees with the types' own conversion from float, and is idempotent."""
    rounded = op.round_jump(jump, element_type)
    assert float(np.float32(jump).astype(dtype_of(element_type))) == rounded
    assert rounded == op.round_jump(rounded, element_type)
    assert rounded == op.round_jump(op.shortest(rounded, element_type), element_type)


def test_a_rounded_jump_is_shown_as_it_was_typed() -> None:
    """The shortest number that rounds to the same jump is the one that users wrote."""
    for element_type in TYPES:
        assert op.shortest(op.round_jump(0.1, element_type), element_type) == 0.1


def test_a_jump_beyond_the_type_is_refused() -> None:
    """70000 is no float16."""
    with pytest.raises(ValueError, match=r"^the jump size 70000 is not a finite float16$"):
        op.round_jump(70000, TensorProto.FLOAT16)


@pytest.mark.parametrize("attribute", [True, False], ids=["attribute", "input J"])
@pytest.mark.parametrize("element_type", TYPES, ids=NAMES.get)
def test_function_bodies_equal_the_reference_bit_for_bit(
    element_type: int, attribute: bool
) -> None:
    """Every body, at every opset it serves and for both ways of giving κ, equals the reference."""
    tried = 0
    for opset in OPSETS:
        if element_type == TensorProto.BFLOAT16 and opset < op.MIN_OPSET_BFLOAT16:
            continue
        if attribute and not op.carries_attribute(opset):
            continue
        for jump in JUMPS:
            rounded = op.round_jump(jump, element_type)
            model = call(op.function(opset, element_type, attribute), rounded, element_type)
            onnx.checker.check_model(model, full_check=True)
            session = plain_session(model)
            for x in (edge_values(element_type, rounded), np.zeros(0, dtype_of(element_type))):
                expected = op.jump_relu(x, np.array(rounded).astype(x.dtype))
                assert same_bits(expected, run_one(session, x)), f"opset {opset}, jump {jump}"
                tried += 1
            assert np.isnan(run_one(session, nans(element_type))).all()
    assert tried >= 8 * len([opset for opset in OPSETS if opset >= 13])


def test_one_body_serves_the_types_that_it_is_said_to() -> None:
    """Where a body is said to serve another type, it runs for that type bit for bit."""
    for opset, main, other in itertools.product(OPSETS, TYPES, TYPES):
        if main != other and op.serves(opset, main, other):
            rounded = op.round_jump(0.1, other)
            x = edge_values(other, rounded)
            expected = op.jump_relu(x, np.array(rounded).astype(x.dtype))
            for attribute in (True, False):
                model = call(op.function(opset, main, attribute), rounded, other)
                assert same_bits(expected, run_one(plain_session(model), x))
    assert op.serves(15, TensorProto.FLOAT, TensorProto.FLOAT16)


@pytest.mark.parametrize("element_type", TYPES, ids=NAMES.get)
def test_a_function_body_loads_without_a_warning(
    element_type: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime folds the body's constants for every type; a server's log stays clean."""
    for opset in OPSETS:
        if element_type == TensorProto.BFLOAT16 and opset < op.MIN_OPSET_BFLOAT16:
            continue
        attribute = op.carries_attribute(opset)
        model = call(op.function(opset, element_type, attribute), 0.5, element_type)
        options = quiet()
        options.log_severity_level = 2
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        assert capfd.readouterr().err == "", f"opset {opset}"


def call(function: onnx.FunctionProto, jump: float, element_type: int) -> onnx.ModelProto:
    """Make a model that calls the function once."""
    inputs, nodes = ["x"], []
    if len(function.input) == 2:
        tensor = helper.make_tensor("J", element_type, [], [jump])
        nodes.append(helper.make_node("Constant", [], ["J"], value=tensor))
        inputs.append("J")
    nodes.append(helper.make_node("JumpReLU", inputs, ["y"], domain="onnxfit", jump=jump))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element_type, ["N"])],
        [helper.make_tensor_value_info("y", element_type, ["N"])],
    )
    opset = function.opset_import[0].version
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("onnxfit", 1)],
        functions=[function],
        ir_version=8,
    )
