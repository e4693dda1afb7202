"""The meaning of the operator ``onnxfit::JumpReLU``: its reference and its standard-operator forms.

JumpReLU (Erichson, Yao and Mahoney, arXiv 1904.03750) is ``0`` where ``x <= jump`` and ``x``
elsewhere. It selects and never computes, so everything that implements it is compared bit for
bit with :func:`jump_relu`.
"""

import math
from functools import lru_cache

import numpy as np
import onnx.parser
from numpy.typing import ArrayLike, NDArray
from onnx import FunctionProto, NodeProto, TensorProto

DOMAIN = "onnxfit"
OP_TYPE = "JumpReLU"
VERSION = 1

MIN_OPSET = 7
MIN_OPSET_BFLOAT16 = 13
# The first IR version whose models may carry functions.
FUNCTION_IR_VERSION = 8

ELEMENT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "double",
}


def jump_relu(x: ArrayLike, jump: ArrayLike) -> NDArray[np.generic]:
    """Compute JumpReLU in NumPy, the reference for every other implementation.

    Args:
        x: Array of any shape, of a floating type (bfloat16 through ml_dtypes).
        jump: The jump size κ: a Python number (rounded like the attribute: to float, then to the
            type of ``x``), or an array of the type of ``x`` that broadcasts to it (the input J).

    Returns:
        An array of the shape and type of ``x``: +0 where ``x <= jump``, else ``x``. NaN stays NaN.
    """
    x = np.asarray(x)
    if isinstance(jump, (int, float)):
        jump = np.float32(jump).astype(x.dtype)
    with np.errstate(invalid="ignore"):
        return np.where(x <= np.asarray(jump), np.zeros((), x.dtype), x)


def check_jump(jump: float) -> float:
    """Return ``jump`` as a float, or say why it is not a jump size.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative, infinite or NaN.
    """
    if isinstance(jump, bool) or not isinstance(jump, (int, float, np.integer, np.floating)):
        raise TypeError(f"a jump size is a number, got {jump!r}")
    value = float(jump)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"a jump size is finite and at least 0, got {value}")
    return abs(value)


@lru_cache
def round_jump(jump: float, element_type: int) -> float:
    """Round a jump size to the attribute's type (float), then to the type of the activation.

    The rounded number is what a hardened file carries, so that no implementation rounds again.

    Raises:
        ValueError: The jump size is not a finite number of that type.
    """
    with np.errstate(over="ignore"):
        value = np.float32(check_jump(jump))
        if element_type == TensorProto.FLOAT16:
            value = np.float32(np.float16(value))
    if element_type == TensorProto.BFLOAT16:
        # Round to nearest, ties to even, on the upper 16 bits.
        bits = int(value.view(np.uint32))
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        value = np.uint32(bits).view(np.float32)
    rounded = float(value)
    if not math.isfinite(rounded):
        name = ELEMENT_TYPES.get(element_type, "float")
        raise ValueError(f"the jump size {jump} is not a finite {name}")
    return rounded


@lru_cache
def shortest(jump: float, element_type: int) -> float:
    """Return the number with the fewest digits that rounds to the jump size ``jump``."""
    candidates = (float(f"{jump:.{digits}g}") for digits in range(1, 18))
    return next(c for c in candidates if round_jump(c, element_type) == jump)


def carries_attribute(opset: int) -> bool:
    """Tell whether a function body can take the jump from the node's attribute.

    ``Constant`` takes a float attribute from opset 12 on; before, the jump travels as the input J.
    """
    return opset >= 12


def serves(opset: int, element_type: int, other: int) -> bool:
    """Tell whether the function body for one element type also serves another.

    ``CastLike``, from opset 15 on, turns the body's constants into whatever type X has.
    """
    return element_type == other or (
        opset >= 15 and TensorProto.BFLOAT16 not in (element_type, other)
    )


@lru_cache
def function(opset: int, element_type: int, attribute: bool) -> FunctionProto:
    """Write JumpReLU as a model-local function of standard operators.

    Args:
        opset: Version of the default domain that the *model* imports; ONNX Runtime inlines the
            body at that version whatever the function itself imports.
        element_type: ``TensorProto`` type of the activations that the body must serve.
        attribute: Take the jump from the attribute ``jump``, else from the input J.
    """
    inputs, body = "X, J", _select(opset, element_type)
    if attribute:
        jump = "jump_float = Constant<value_float: float = @jump>() J = "
        inputs, body = "X", f"{jump}{_cast('jump_float', opset, element_type)} {body}"
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]> '
        f"{OP_TYPE} <jump> ({inputs}) => (Y) {{ {body} }}"
    )
    return onnx.parser.parse_function(text)


@lru_cache
def select_nodes(opset: int, element_type: int) -> tuple[NodeProto, ...]:
    """Give the standard nodes that compute ``Y`` from ``X`` and the constant ``J``."""
    return tuple(function(opset, element_type, attribute=False).node)


def _cast(value: str, opset: int, element_type: int) -> str:
    """Give the operator that turns a float constant into the type of X, as ONNX text."""
    return f"CastLike({value}, X)" if opset >= 15 else f"Cast<to={element_type}>({value})"


def _select(opset: int, element_type: int) -> str:
    """Give the body that computes Y from X and J, as ONNX text.

    Every body is exact on ONNX Runtime's CPU provider at each opset, signed zeros and infinities
    included; NaN stays NaN, though its sign and payload may change where the body computes with
    it (opset 7 and 8) or ONNX Runtime casts it (the 16-bit types).
    """
    if opset < 9:
        # Relu keeps NaN and makes -inf a zero, which times 0 is not NaN; Abs makes -0 a +0.
        return (
            "rectified = Relu(X) magnitude = Abs(rectified) above = Less(J, X) "
            f"mask = Cast<to={element_type}>(above) Y = Mul(magnitude, mask)"
        )
    zero = "zero_float = Constant<value = float {0}>() "
    if element_type == TensorProto.BFLOAT16:
        # The CPU provider has no bfloat16 kernels for comparisons and Where.
        return (
            f"{zero} limit = Cast<to={TensorProto.FLOAT}>(J) x = Cast<to={TensorProto.FLOAT}>(X) "
            "drop = LessOrEqual(x, limit) y = Where(drop, zero_float, x) "
            f"Y = Cast<to={TensorProto.BFLOAT16}>(y)"
        )
    zero += f"zero = {_cast('zero_float', opset, element_type)} "
    if opset < 12:
        return f"{zero} nan = IsNaN(X) above = Less(J, X) keep = Or(nan, above) " + (
            "Y = Where(keep, X, zero)"
        )
    return f"{zero} drop = LessOrEqual(X, J) Y = Where(drop, zero, X)"
