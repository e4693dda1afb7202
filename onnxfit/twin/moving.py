"""Moving elements of any type: of those too that PyTorch has no kernels or no tensors for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from onnxfit.twin.node import Node
from onnxfit.twin.values import Variable

FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)
# The type with kernels whose bits stand for those of one without.
BITS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    **dict.fromkeys(FLOAT8, torch.uint8),
}
WITHOUT_KERNELS = (
    TensorProto.UNDEFINED,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
    TensorProto.FLOAT8E8M0,
)


def emit(node: Node, function: Callable[..., Any], *args: Any, outputs: int = 0) -> Any:
    """Add a step that moves elements of its first argument and does not compute with them.

    Args:
        node: The node, whose first input has the elements.
        function: Takes ``args``.
        args: As for :meth:`onnxfit.twin.node.Node.emit`.
        outputs: As for :meth:`onnxfit.twin.node.Node.emit`.
    """
    return with_floats(node, _emit(node, function, args, outputs), function, *args)


def with_floats(node: Node, results: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Return a step's results; where its first argument is quantised, gradients pass through."""
    floats = _floats(args[0])
    if floats is not None:
        outputs = len(results) if isinstance(results, tuple) else 0
        moved = node.emit(function, floats, *args[1:], outputs=outputs)
        pairs = zip(results, moved, strict=True) if outputs else [(results, moved)]
        for result, other in pairs:
            result.floats = other
    return results


def _emit(node: Node, function: Callable[..., Any], args: tuple[Any, ...], outputs: int) -> Any:
    element_type = node.element_type(0)
    if element_type == TensorProto.STRING:
        return node.emit(on_strings, function, *args, outputs=outputs)
    if element_type in WITHOUT_KERNELS:
        return node.emit(on_bits, function, *args, outputs=outputs)
    return node.emit(function, *args, outputs=outputs)


def _floats(argument: Any) -> Any:
    """Return the floating-point numbers behind quantised ones, None where they are not."""
    if isinstance(argument, (list, tuple)):
        found = [_floats(item) for item in argument]
        return None if None in found else found
    return argument.floats if isinstance(argument, Variable) else None


def on_bits(function: Callable[..., Any], x: torch.Tensor, *args: Any) -> Any:
    """Move the bits of elements whose type has no kernels, in all arguments of that type."""
    if isinstance(x, np.ndarray):
        return on_strings(function, x, *args)
    bits = BITS.get(x.dtype)
    if bits is None:
        return function(x, *args)
    viewed = [
        a.view(bits) if isinstance(a, torch.Tensor) and a.dtype == x.dtype else a for a in args
    ]
    result = function(x.view(bits), *viewed)
    if isinstance(result, (tuple, list)):
        return tuple(item.view(x.dtype) for item in result)
    return result.view(x.dtype)


def on_strings(function: Callable[..., Any], x: NDArray[Any], *args: Any) -> Any:
    """Move strings, in all arguments that have some: the function moves their numbers."""
    arrays = [a for a in (x, *args) if isinstance(a, np.ndarray)]
    table = np.concatenate([array.ravel() for array in arrays])
    numbers = torch.arange(table.size).split([array.size for array in arrays])
    given = iter([n.reshape(a.shape) for n, a in zip(numbers, arrays, strict=True)])
    result = function(*(next(given) if isinstance(a, np.ndarray) else a for a in (x, *args)))
    if isinstance(result, (tuple, list)):
        return tuple(_strings(table, item) for item in result)
    return _strings(table, result)


def _strings(table: NDArray[Any], numbers: torch.Tensor) -> NDArray[Any]:
    taken: NDArray[Any] = table[numbers.numpy().ravel()].reshape(tuple(numbers.shape))
    return taken
