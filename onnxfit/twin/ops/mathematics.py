"""Functions of one number, element by element."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto

from onnxfit.twin import integers
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

if TYPE_CHECKING:
    from onnxfit.twin.registry import Converter


def unary(function: Any) -> "Converter":
    """Make the converter of an operator that is one function of its input."""

    def convert(node: Node) -> Outputs:
        return node.emit(function, node.input(0))

    return convert


UNARY: dict[str, Any] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
for op_type, function in UNARY.items():
    converter(op_type)(unary(function))


@converter("Abs", "Sign")
def abs_or_sign(node: Node) -> Outputs:
    """Take the absolute value or the sign."""
    functions = (torch.abs, np.abs) if node.op_type == "Abs" else (sign, np.sign)
    return integers.emit(node, *functions, node.input(0))


def sign(x: torch.Tensor) -> torch.Tensor:
    """Take the sign; that of NaN is NaN, for which PyTorch's function gives 0."""
    signs = torch.sign(x)
    return torch.clamp(x.detach(), signs, signs) if x.is_floating_point() else signs


@converter("Erf")
def erf(node: Node) -> Outputs:
    """Take the error function, which version 9 declares for integers without saying how."""
    if node.element_type(0) in {
        *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
        *(TensorProto.UINT8, *integers.UNSIGNED),
    }:
        node.unsupported("its input is of integers, for which the operator is not specified")
    return node.emit(torch.erf, node.input(0))
