"""Why activations cannot become a JumpReLU: no rectifiers, and rectifiers inside of others."""

import numpy as np
from onnx import NodeProto

from onnxfit.graph import Scope
from onnxfit.op import OP_TYPE

_SCALES = "it scales negative inputs and does not cut them off"
_SMOOTH = "it is no rectifier"
_OTHER_ACTIVATIONS = {
    "BiasGelu": _SMOOTH,
    "Celu": _SMOOTH,
    "Elu": _SMOOTH,
    "FastGelu": _SMOOTH,
    "Gelu": _SMOOTH,
    "HardSigmoid": _SMOOTH,
    "HardSwish": _SMOOTH,
    "LeakyRelu": _SCALES,
    "Max": "a maximum with 0 acts as a Relu: write it as one to harden it",
    "Mish": _SMOOTH,
    "PRelu": _SCALES,
    "QuickGelu": _SMOOTH,
    "Selu": _SMOOTH,
    "Shrink": _SMOOTH,
    "Sigmoid": _SMOOTH,
    "Softplus": _SMOOTH,
    "Softsign": _SMOOTH,
    "Swish": _SMOOTH,
    "Tanh": _SMOOTH,
    "ThresholdedRelu": "it has a jump of its own, alpha",
}
_RECURRENT = ("RNN", "GRU", "LSTM")
_QUANTISERS = ("QuantizeLinear", "QLinearConv")
# Operators behind which a converter would have found the Relu that it folded away.
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization")
_KEEP_SIGN = (
    "AveragePool",
    "DequantizeLinear",
    "Flatten",
    "GlobalAveragePool",
    "MaxPool",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
)
# The operators of the default domain, besides Relu and Clip, that may act as an activation.
OTHERS = {*_OTHER_ACTIVATIONS, *_RECURRENT, *_QUANTISERS}


def why_no_rectifier(clip: NodeProto, scope: Scope) -> str:
    """Say why a Clip of a scope cannot be hardened; empty where it can."""
    lower: object = None
    for attribute in clip.attribute:
        if attribute.name == "min":
            if attribute.ref_attr_name:
                return "its lower bound is an argument of the function"
            lower = attribute.f
    if len(clip.input) > 1 and clip.input[1]:
        lower = scope.scalar(clip.input[1])
        if lower is None:
            return "its lower bound is not a constant of the file"
    if lower is None:
        return "it has no lower bound"
    return "" if lower == 0 else f"its lower bound is {lower}, not 0"


def why_it_stays(node: NodeProto, scope: Scope) -> str:
    """Say why a node of a scope that acts as an activation stays; empty for other nodes."""
    if node.op_type in _RECURRENT:
        activations = (s for a in node.attribute if a.name == "activations" for s in a.strings)
        inside = any(activation.lower() == b"relu" for activation in activations)
        return "the Relu is inside a recurrent operator" if inside else ""
    if node.op_type == "Max" and not any(scope.scalar(name) == 0 for name in node.input):
        return ""
    if node.op_type in _QUANTISERS:
        folded = "a Relu was folded into the zero point: harden first, quantise second"
        return folded if _folds_relu(node, scope) else ""
    return _OTHER_ACTIVATIONS.get(node.op_type, "")


def _folds_relu(node: NodeProto, scope: Scope) -> bool:
    """Tell whether cutting off at the quantiser's zero point does the work of a Relu."""
    if not _cuts_at_zero(node, scope):
        return False
    if node.op_type == "QLinearConv":
        return True
    producer = scope.producers.get(node.input[0])
    seen = set()
    while producer is not None and producer.op_type in _KEEP_SIGN and id(producer) not in seen:
        seen.add(id(producer))  # A damaged file may go round in a circle.
        if producer.op_type == "QuantizeLinear" and _cuts_at_zero(producer, scope):
            return False
        producer = scope.producers.get(producer.input[0])
    if producer is None or producer.op_type not in _LINEAR:
        return False
    # A quantiser that kept its Relu has it behind the DequantizeLinear.
    behind = [user for dequantise in scope.users(node) for user in scope.users(dequantise)]
    return not any(user.op_type in ("Relu", "Clip", OP_TYPE) for user in behind)


def _cuts_at_zero(quantiser: NodeProto, scope: Scope) -> bool:
    """Tell whether the lowest quantised number stands for 0."""
    place = 7 if quantiser.op_type == "QLinearConv" else 2
    if len(quantiser.input) <= place:
        return True
    zero_point = scope.scalar(quantiser.input[place])
    if zero_point is None or not np.issubdtype(zero_point.dtype, np.integer):
        return False
    return int(zero_point) == int(np.iinfo(zero_point.dtype.name).min)
