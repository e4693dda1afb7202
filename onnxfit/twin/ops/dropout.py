"""Dropout, which is random only where a file asks for training."""

import torch
from onnx import TensorProto
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.normalization import unspecified
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Constant


@converter("Dropout", since=7)
def dropout_at_inference(node: Node) -> Outputs:
    """Pass the input through."""
    return (node.value(0), node.emit_random(unspecified, "mask"))[: node.number_of_outputs]


@converter("Dropout", since=12)
def dropout(node: Node) -> Outputs:
    """Pass the input through, or drop some of it where training_mode says so."""
    training = node.known(2) if node.has(2) else torch.tensor(False)
    x = node.input(0)
    if training is not None and not training.item():
        return (node.value(0), node.emit(all_kept, x))[: node.number_of_outputs]
    if node.element_type(0) not in FLOATS:
        node.unsupported("it is in training mode, on numbers of 8 bits")
    ratio = node.frozen(1) if node.has(1) else Constant(torch.tensor(0.5))
    known = node.known(1) if node.has(1) else ratio.value
    if known is not None and training is not None and not node.wants(1):
        return node.emit_random(functional.dropout, x, known.item(), True)
    mask = node.emit_random(drawn, x, ratio, node.input(2))
    return (node.emit(dropped, x, mask, ratio, node.input(2)), mask)[: node.number_of_outputs]


FLOATS = (
    TensorProto.UNDEFINED,
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
)


def all_kept(x: torch.Tensor) -> torch.Tensor:
    """Return the mask of inference."""
    return torch.ones_like(x, dtype=torch.bool)


def drawn(x: torch.Tensor, ratio: torch.Tensor, training: torch.Tensor) -> torch.Tensor:
    """Draw which elements stay; all of them where it is not training."""
    return (torch.rand_like(x) >= ratio) | ~training


def dropped(
    x: torch.Tensor, mask: torch.Tensor, ratio: torch.Tensor, training: torch.Tensor
) -> torch.Tensor:
    """Set what is dropped to 0 and scale the rest, in training."""
    scale = torch.where(training, 1 / (1 - ratio), 1.0).to(x.dtype)
    return torch.where(mask, x * scale, 0.0)
