"""Softmax and its relatives: one axis since version 13, all axes from one on before it."""

from typing import TYPE_CHECKING, Any

import torch
from onnx import TensorProto

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

if TYPE_CHECKING:
    from onnxfit.twin.registry import Converter


def hardmax(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return 1 at the first of the largest elements along an axis, else 0."""
    if not x.numel():
        return x
    first = torch.argmax(x, axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1.0)


def softmax_of_rest(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Compute Softmax over all axes from one on."""
    if axis in (-1, x.dim() - 1):
        return torch.softmax(x, -1)
    return torch.softmax(_rows(x, axis), 1).reshape(x.shape)


def log_softmax_of_rest(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Compute LogSoftmax over all axes from one on."""
    if axis in (-1, x.dim() - 1):
        return torch.log_softmax(x, -1)
    return torch.log_softmax(_rows(x, axis), 1).reshape(x.shape)


def hardmax_of_rest(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Compute Hardmax over all axes from one on."""
    return hardmax(_rows(x, axis), 1).reshape(x.shape)


def _rows(x: torch.Tensor, axis: int) -> torch.Tensor:
    return x.reshape(x.shape[:axis].numel(), x.shape[axis:].numel())


def along(function: Any, axis: int) -> "Converter":
    """Make the converter of an operator that is a function along an axis, by default this one."""

    def convert(node: Node) -> Outputs:
        return node.emit(function, node.input(0), node.get("axis", axis))

    return convert


def softmax_by_steps(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Compute Softmax with every step rounded to the type of the values."""
    if not x.numel():
        return x
    powers = (x - x.amax(axis, keepdim=True)).exp()
    return powers / powers.sum(axis, keepdim=True)


OF_REST = {
    "Softmax": softmax_of_rest,
    "LogSoftmax": log_softmax_of_rest,
    "Hardmax": hardmax_of_rest,
}
for op_type, of_rest in OF_REST.items():
    converter(op_type)(along(of_rest, 1))
converter("LogSoftmax", since=13)(along(torch.log_softmax, -1))
converter("Hardmax", since=13)(along(hardmax, -1))


@converter("Softmax", since=13)
def softmax(node: Node) -> Outputs:
    """Normalise along an axis; in float16 step by step, as the specification's reference does."""
    halves = node.element_type(0) == TensorProto.FLOAT16
    function = softmax_by_steps if halves else torch.softmax
    return node.emit(function, node.input(0), node.get("axis", -1))
