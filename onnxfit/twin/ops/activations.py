"""Activations."""

import torch

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter


@converter("Relu")
def relu(node: Node) -> Outputs:
    return node.emit(torch.relu, node.input(0))
