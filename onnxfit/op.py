"""The meaning of the operator ``onnxfit::JumpReLU``: its reference and its standard-operator forms.

JumpReLU (Erichson, Yao and Mahoney, arXiv 1904.03750) is ``0`` where ``x <= jump`` and ``x``
elsewhere. It selects and never computes, so everything that implements it is compared bit for
bit with :func:`jump_relu`.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import onnx.parser
from numpy.typing import ArrayLike, NDArray
from onnx import FunctionProto, NodeProto, TensorProto

# The two spellings of ONNX's own domain.
DEFAULT_DOMAINS = ("", "ai.onnx")
DOMAIN = "onnxfit"
OP_TYPE = "JumpReLU"
# JumpReLU of a sum; only rewrites make such nodes.
ADD_OP_TYPE = "AddJumpReLU"
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

# One jump size per element, in a type that holds those of every activation.
Jumps = NDArray[np.float32]


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
        ValueError: The jump size is not a finite number of that type, or becomes 0 in it.
    """
    rounded = float(_round(np.asarray(check_jump(jump)), element_type))
    if complaint := _lost(jump, rounded, element_type):
        raise ValueError(complaint)
    return rounded


def is_array(jump: ArrayLike) -> bool:
    """Tell whether a jump is an array, one size per element: it has at least one axis.

    Raises:
        TypeError: NumPy makes no array of it.
    """
    try:
        return np.ndim(jump) > 0
    except (ValueError, RuntimeError, TypeError):
        raise TypeError(f"a jump per element is an array of numbers, got {jump!r}") from None


def round_jumps(jumps: ArrayLike, element_type: int) -> Jumps:
    """Round an array of jump sizes as :func:`round_jump` does, element by element.

    Raises:
        TypeError: They are no numbers.
        ValueError: There are none, one is negative or not finite, or becomes 0 in the type.
    """
    given = np.asarray(jumps)
    if given.dtype.kind not in "iuf" and given.dtype.name != "bfloat16":
        raise TypeError(f"a jump per element is an array of numbers, got {jumps!r}")
    if not given.size:
        raise ValueError(f"there are no jump sizes in an array of shape {given.shape}")
    sizes = given.astype(np.float64)
    bad = ~(np.isfinite(sizes) & (sizes >= 0))
    if bad.any():
        check_jump(float(sizes[bad][0]))
    rounded = _round(np.abs(sizes), element_type)
    lost = ~np.isfinite(rounded) | ((rounded == 0) & (sizes != 0))
    if lost.any():
        raise ValueError(_lost(float(sizes[lost][0]), float(rounded[lost][0]), element_type))
    return rounded


def _round(sizes: NDArray[np.float64], element_type: int) -> Jumps:
    """Round numbers of at least 0 to float, then to the type, which float can hold."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = sizes.astype(np.float32)
        if element_type == TensorProto.FLOAT16:
            rounded = rounded.astype(np.float16).astype(np.float32)
    if element_type == TensorProto.BFLOAT16:
        # Round to nearest, ties to even, on the upper 16 bits.
        bits = rounded.view(np.uint32)
        upper = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        rounded = upper.astype(np.uint32).view(np.float32)
    return rounded


def _lost(jump: float, rounded: float, element_type: int) -> str:
    """Say what rounding has made of a jump size that is none any more; else nothing."""
    name = ELEMENT_TYPES.get(element_type, "float")
    if not math.isfinite(rounded):
        return f"the jump size {jump} is not a finite {name}"
    if jump and not rounded:
        return f"the jump size {jump} is 0 in {name}; give 0 where that is meant"
    return ""


@lru_cache
def shortest(jump: float, element_type: int) -> float:
    """Return the number with the fewest digits that rounds to the jump size ``jump``.

    A number that is no jump size of the type, as in a file edited by hand, is returned as it is.
    """
    try:
        rounded = round_jump(jump, element_type)
        candidates = (float(f"{rounded:.{digits}g}") for digits in range(1, 18))
        return next(c for c in candidates if c and round_jump(c, element_type) == rounded)
    except (ValueError, StopIteration):
        return jump


def shortest_of_each(jumps: ArrayLike, element_type: int) -> list[float]:
    """Return what :func:`shortest` has for each of many jump sizes, in one row."""
    flat = np.ravel(jumps)
    if len(flat) == 1:
        return [shortest(float(flat[0]), element_type)]
    try:
        rounded, places = np.unique(round_jumps(flat, element_type), return_inverse=True)
    except ValueError:
        return [shortest(float(jump), element_type) for jump in flat]
    if element_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        found = [shortest(float(jump), element_type) for jump in rounded]
    else:
        # NumPy writes a float with the fewest digits, in a fraction of the time.
        found = [float(str(jump)) for jump in rounded]
    return [found[place] for place in places]


def readable(jump: float | Jumps, element_type: int) -> Any:
    """Return a jump as :func:`shortest` has it; an array as nested lists of such numbers."""
    if isinstance(jump, float):
        return shortest(jump, element_type)
    return np.reshape(shortest_of_each(jump, element_type), jump.shape).tolist()


def is_our_function(function: FunctionProto) -> bool:
    """Tell whether a model-local function is the body of JumpReLU or AddJumpReLU."""
    return function.domain == DOMAIN and function.name in (OP_TYPE, ADD_OP_TYPE)


def is_jump_relu(node: NodeProto) -> bool:
    """Tell whether a node is a JumpReLU."""
    return (node.domain, node.op_type) == (DOMAIN, OP_TYPE)


def is_add_jump_relu(node: NodeProto) -> bool:
    """Tell whether a node is an AddJumpReLU."""
    return (node.domain, node.op_type) == (DOMAIN, ADD_OP_TYPE)


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
    inputs, prelude = "X, J", ""
    if attribute:
        cast = _cast("jump_float", opset, element_type)
        inputs = "X"
        prelude = f"jump_float = Constant<value_float: float = @jump>() J = {cast} "
    if opset >= 9:
        zero = "Constant<value = float {0}>()"
        narrow = element_type == TensorProto.BFLOAT16
        cast = _cast("zero_float", opset, element_type)
        prelude += f"zero = {zero} " if narrow else f"zero_float = {zero} zero = {cast} "
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]> {OP_TYPE} <jump> ({inputs}) => (Y) '
        f"{{ {prelude}{_select(opset, element_type)} }}"
    )
    return onnx.parser.parse_function(text)


def add_function(body: FunctionProto) -> FunctionProto:
    """Write AddJumpReLU as a function: the sum of two inputs, then a body of JumpReLU.

    Args:
        body: What :func:`function` returned.
    """
    x, *others = body.input
    added = FunctionProto()
    added.CopyFrom(body)
    added.name = ADD_OP_TYPE
    added.input[:] = ["A", "B", *others]
    added.node.insert(0, NodeProto(op_type="Add", input=["A", "B"], output=[x]))
    return added


@lru_cache
def select_nodes(opset: int, element_type: int) -> tuple[NodeProto, ...]:
    """Give the standard nodes that compute ``Y`` from ``X`` and the constants ``J`` and ``zero``.

    ``zero`` is of the type of ``X``, but float where that is bfloat16.
    """
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]> {OP_TYPE} (X, J, zero) => (Y) '
        f"{{ {_select(opset, element_type)} }}"
    )
    return tuple(onnx.parser.parse_function(text).node)


def _cast(value: str, opset: int, element_type: int) -> str:
    """Give the operator that turns a float constant into the type of X, as ONNX text."""
    return f"CastLike({value}, X)" if opset >= 15 else f"Cast<to={element_type}>({value})"


def _select(opset: int, element_type: int) -> str:
    """Give the body that computes Y from X, J and zero, as ONNX text.

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
    if element_type == TensorProto.BFLOAT16:
        # The CPU provider has no bfloat16 kernels for comparisons and Where.
        return (
            f"limit = Cast<to={TensorProto.FLOAT}>(J) x = Cast<to={TensorProto.FLOAT}>(X) "
            "drop = LessOrEqual(x, limit) y = Where(drop, zero, x) "
            f"Y = Cast<to={TensorProto.BFLOAT16}>(y)"
        )
    if opset < 12:
        return "nan = IsNaN(X) above = Less(J, X) keep = Or(nan, above) Y = Where(keep, X, zero)"
    return "drop = LessOrEqual(X, J) Y = Where(drop, zero, X)"
