"""What is known of a JumpReLU node's jump, and of other constants."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxfit.graph import Scope
from onnxfit.op import is_add_jump_relu


def jump_of(scope: Scope, node: NodeProto) -> NDArray[np.float64] | None:
    """Return a node's jump sizes, without axes where the jump is one number.

    Returns:
        None where they are not known, or are no jump sizes, as in a file edited by hand.
    """
    width = len(data_inputs(node))
    if len(node.input) > width and node.input[width]:
        numbers = constant(scope, node.input[width])
    else:
        attribute = next((a for a in node.attribute if a.name == "jump"), None)
        if attribute is not None and attribute.ref_attr_name:
            return None
        numbers = np.asarray(0.0 if attribute is None else attribute.f)
    if numbers is None or not numbers.size:
        return None
    try:
        sizes = numbers.astype(np.float64)
    except (TypeError, ValueError):
        return None
    return sizes if bool(np.all(np.isfinite(sizes) & (sizes >= 0))) else None


def constant(scope: Scope, value: str) -> NDArray[Any] | None:
    """Return what an initializer or a Constant node holds; None for other values."""
    holder: Scope | None = scope
    while holder is not None and value not in holder.initializers:
        if value in holder.producers:
            if holder.producers[value].op_type != "Constant":
                return None  # A Cast of a constant may round it.
            break
        holder = holder.outer
    return scope.numbers(value)


def data_inputs(node: NodeProto) -> list[str]:
    """Return what a JumpReLU acts on, without J: one value, or the two that are added."""
    return list(node.input[: 2 if is_add_jump_relu(node) else 1])


def with_jump_of(node: NodeProto, other: NodeProto) -> NodeProto:
    """Return a copy of a JumpReLU node with another one's jump."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [*data_inputs(node), *other.input[len(data_inputs(other)) :]]
    kept = [a for a in node.attribute if a.name != "jump"]
    del copy.attribute[:]
    copy.attribute.extend([*kept, *(a for a in other.attribute if a.name == "jump")])
    return copy
