"""Constants and pass-throughs."""

import numpy as np
import torch

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter, host_converter
from onnxfit.twin.tensors import dense_tensor
from onnxfit.twin.values import Constant


@converter("Constant")
def constant(node: Node) -> Outputs:
    """Turn a Constant into a weight, or into a constant where it is one number."""
    name = node.proto.output[0]
    for attribute in node.proto.attribute:
        if attribute.ref_attr_name:
            # The caller of the function gives it: it has no place in the file of its own.
            return Constant(_value(node))
    return node.frame.builder.constant_node(node.frame.scope, name, _value(node))


def _value(node: Node) -> object:
    """Read whichever of its attributes a Constant has."""
    for key, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        for name in (key, f"{key}s"):
            if (number := node.get(name)) is not None:
                return torch.tensor(number, dtype=dtype)
    for name in ("value_string", "value_strings"):
        if (text := node.get(name)) is not None:
            return np.array(text, dtype=object)
    if (sparse := node.get("sparse_value")) is not None:
        return dense_tensor(sparse, node.frame.builder.folder)
    return node.get("value")


@converter("Identity")
def identity(node: Node) -> Outputs:
    """Pass a value of any kind through."""
    return node.value(0)


@host_converter("Identity")
def identity_on_host(node: Node) -> Outputs:
    return node.value(0)
