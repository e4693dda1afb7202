"""Computing with the unsigned integers that PyTorch stores but has hardly any kernels for."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto

from onnxfit.twin.program import leaves

if TYPE_CHECKING:
    from onnxfit.twin.node import Node

# Without kernels → of the same size, and with them.
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
UNSIGNED = (TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)


def emit(
    node: "Node", function: Callable[..., Any], by_numpy: Callable[..., Any], *args: Any
) -> Any:
    """Add a step that calls a PyTorch function, or NumPy's on integers without kernels.

    Args:
        node: The node, whose first input has the type that decides.
        function: Takes ``args``.
        by_numpy: Takes the same with arrays for tensors.
        args: As for :meth:`onnxfit.twin.node.Node.emit`.
    """
    if node.element_type(0) not in (TensorProto.UNDEFINED, *UNSIGNED):
        return node.emit(function, *args)
    return node.emit(compute, function, by_numpy, *args)


def compute(function: Callable[..., Any], by_numpy: Callable[..., Any], *args: Any) -> Any:
    """Call a PyTorch function, or NumPy's where the first tensor has a type without kernels."""
    first = next(leaf for leaf in leaves(list(args)) if isinstance(leaf, torch.Tensor))
    if first.dtype not in SIGNED:
        return function(*args)
    with np.errstate(all="ignore"):
        result = by_numpy(*map(_to_array, args))
    if isinstance(result, (tuple, list)):
        return tuple(_from_array(item, first) for item in result)
    return _from_array(result, first)


def _to_array(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_to_array, argument))
    return argument.cpu().numpy() if isinstance(argument, torch.Tensor) else argument


def _from_array(result: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(result)).to(like.device)
