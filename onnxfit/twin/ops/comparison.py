"""Comparisons, logic, and the choice between two tensors."""

from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from onnxfit.twin import integers
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.arithmetic import binary
from onnxfit.twin.registry import converter

BINARY: dict[str, tuple[Any, Any, int]] = {
    "Greater": (torch.gt, np.greater, 7),
    "Less": (torch.lt, np.less, 7),
    "GreaterOrEqual": (torch.ge, np.greater_equal, 12),
    "LessOrEqual": (torch.le, np.less_equal, 12),
    "And": (torch.logical_and, np.logical_and, 7),
    "Or": (torch.logical_or, np.logical_or, 7),
    "Xor": (torch.logical_xor, np.logical_xor, 7),
}
for op_type, (function, by_numpy, since) in BINARY.items():
    converter(op_type, since=since)(binary(function, by_numpy))


@converter("Equal", since=7)
def equal(node: Node) -> Outputs:
    """Compare numbers or strings."""
    if node.element_type(0) == TensorProto.STRING:
        return node.emit(equal_strings, node.input(0), node.input(1), node.like(torch.float32))
    return integers.emit(node, torch.eq, np.equal, node.input(0), node.input(1))


def equal_strings(a: Any, b: Any, like: torch.Tensor) -> torch.Tensor:
    """Compare strings; the result is on the twin's device."""
    return torch.from_numpy(np.array(a == b, dtype=bool)).to(like.device)


@converter("Not")
def not_(node: Node) -> Outputs:
    return node.emit(torch.logical_not, node.input(0))


@converter("Where")
def where(node: Node) -> Outputs:
    """Choose between numbers or strings."""
    function = where_strings if node.element_type(1) == TensorProto.STRING else torch.where
    return node.emit(function, *node.inputs)


def where_strings(condition: torch.Tensor, a: Any, b: Any) -> Any:
    """Choose between strings."""
    return np.where(condition.cpu().numpy(), a, b)


@converter("IsNaN")
def is_nan(node: Node) -> Outputs:
    return node.emit(torch.isnan, node.input(0))


@converter("IsInf")
def is_inf(node: Node) -> Outputs:
    """Tell which elements are infinite, of either sign or of one."""
    signs = (bool(node.get("detect_negative", 1)), bool(node.get("detect_positive", 1)))
    if node.element_type(0) in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        function = {
            (True, True): torch.isinf,
            (True, False): torch.isneginf,
            (False, True): torch.isposinf,
        }.get(signs)
        if function is not None:
            return node.emit(function, node.input(0))
    return node.emit(infinite, node.input(0), *signs)


def infinite(x: torch.Tensor, negative: bool, positive: bool) -> torch.Tensor:
    """Tell which elements are infinite, for types of 8 bits too."""
    if x.element_size() == 1:
        x = x.to(torch.float32)
    found = torch.zeros_like(x, dtype=torch.bool)
    if negative:
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if positive else found
