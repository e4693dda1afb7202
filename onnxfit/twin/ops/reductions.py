"""Reductions over axes: an attribute in older versions, an input in newer ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from onnxfit.twin import integers
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.host_arithmetic import dtype_of, rank_of
from onnxfit.twin.registry import converter, host_converter
from onnxfit.twin.values import Variable

Axes = tuple[int, ...]
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
NO_INTEGERS = "its input is of integers, whose logarithm is none"


def integer_sum(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Add up in the type of the input."""
    return torch.sum(x, axes, keepdim, dtype=x.dtype)


def mean(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Take the mean; that of integers is truncated."""
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim)
    count = math.prod([x.shape[axis] for axis in axes]) if axes else x.numel()
    # The sum of nothing is 0, and so is its mean.
    return torch.div(integer_sum(x, axes, keepdim), max(count, 1), rounding_mode="trunc")


def maximum(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Take the largest; the gradient is split evenly between several."""
    return torch.amax(x, axes, keepdim) if x.numel() else _of_nothing(x, axes, keepdim, -1)


def minimum(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Take the smallest; the gradient is split evenly between several."""
    return torch.amin(x, axes, keepdim) if x.numel() else _of_nothing(x, axes, keepdim, 1)


def _of_nothing(x: torch.Tensor, axes: Axes, keepdim: bool, sign: int) -> torch.Tensor:
    """Return the least or the greatest number of the type, in the shape of the result."""
    if x.is_floating_point():
        number: Any = sign * math.inf
    elif x.dtype == torch.bool:
        number = sign > 0
    else:
        limits = torch.iinfo(x.dtype)
        number = limits.max if sign > 0 else limits.min
    return x.new_full(torch.sum(x, axes, keepdim).shape, number)


def product(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Multiply, in the type of the input."""
    for axis in sorted((axis % x.dim() for axis in axes or range(x.dim())), reverse=True):
        x = torch.prod(x, axis, keepdim, dtype=x.dtype)
    return x


def l1(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Add absolute values up."""
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 1, axes, keepdim)
    return integer_sum(torch.abs(x), axes, keepdim)


def l2(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Take the root of the sum of squares; that of integers is truncated."""
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, axes, keepdim)
    return torch.sqrt(sum_of_squares(x, axes, keepdim).to(torch.float64)).to(x.dtype)


def sum_of_squares(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Add squares up."""
    return integer_sum(x * x, axes, keepdim)


def log_of_sum(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Take the logarithm of the sum."""
    return torch.log(torch.sum(_floating(x), axes, keepdim))


def log_of_sum_of_exponentials(x: torch.Tensor, axes: Axes, keepdim: bool) -> torch.Tensor:
    """Take the logarithm of the sum of exponentials."""
    return torch.logsumexp(_floating(x), axes or tuple(range(x.dim())), keepdim)


def _floating(x: torch.Tensor) -> torch.Tensor:
    if not x.is_floating_point():
        raise ValueError(NO_INTEGERS)
    return x


def numpy_sum(x: NDArray[Any], axes: Axes, keepdim: bool) -> Any:
    """Add unsigned integers up."""
    return np.sum(x, axes or None, x.dtype, keepdims=keepdim)


def numpy_mean(x: NDArray[Any], axes: Axes, keepdim: bool) -> Any:
    """Take the truncated mean of unsigned integers."""
    count = math.prod(x.shape[axis] for axis in axes) if axes else x.size
    return (numpy_sum(x, axes, keepdim) // max(count, 1)).astype(x.dtype)


def numpy_max(x: NDArray[Any], axes: Axes, keepdim: bool) -> Any:
    """Take the largest of unsigned integers."""
    return np.max(x, axes or None, keepdims=keepdim, initial=0)


def numpy_min(x: NDArray[Any], axes: Axes, keepdim: bool) -> Any:
    """Take the smallest of unsigned integers."""
    return np.min(x, axes or None, keepdims=keepdim, initial=np.iinfo(x.dtype).max)


def numpy_product(x: NDArray[Any], axes: Axes, keepdim: bool) -> Any:
    """Multiply unsigned integers."""
    return np.prod(x, axes or None, x.dtype, keepdims=keepdim)


def numpy_l2(x: NDArray[Any], axes: Axes, keepdim: bool) -> Any:
    """Take the truncated root of the sum of squares of unsigned integers."""
    return np.sqrt(numpy_sum(x * x, axes, keepdim).astype(np.float64)).astype(x.dtype)


def numpy_sum_of_squares(x: NDArray[Any], axes: Axes, keepdim: bool) -> Any:
    """Add squares of unsigned integers up."""
    return numpy_sum(x * x, axes, keepdim)


@dataclass(frozen=True)
class Reduction:
    """How an operator is computed; functions take tensor, axes (none for all) and keepdim.

    Attributes:
        function: Its function.
        of_floats: Its function of floating-point numbers alone, where PyTorch has it.
        by_numpy: Its function of unsigned integers, None where all integers are refused.
        elementwise: What is left of it, also in NumPy, where no axes are reduced.
    """

    function: Callable[..., Any]
    of_floats: Callable[..., Any] | None = None
    by_numpy: Any = None
    elementwise: tuple[Any, Any] | None = None


REDUCTIONS = {
    "ReduceSum": Reduction(integer_sum, torch.sum, numpy_sum),
    "ReduceMean": Reduction(mean, torch.mean, numpy_mean),
    "ReduceMax": Reduction(maximum, None, numpy_max),
    "ReduceMin": Reduction(minimum, None, numpy_min),
    "ReduceProd": Reduction(product, None, numpy_product),
    "ReduceL1": Reduction(l1, None, numpy_sum, (torch.abs, np.abs)),
    "ReduceL2": Reduction(l2, None, numpy_l2, (torch.abs, np.abs)),
    "ReduceSumSquare": Reduction(
        sum_of_squares, None, numpy_sum_of_squares, (torch.square, np.square)
    ),
    "ReduceLogSum": Reduction(log_of_sum, None, None, (torch.log, np.log)),
    "ReduceLogSumExp": Reduction(log_of_sum_of_exponentials),
}


def by_attribute(node: Node) -> Outputs:
    """Reduce the axes of an attribute, by default all."""
    return emit_reduction(node, node.get("axes", ()), False)


def by_input(node: Node) -> Outputs:
    """Reduce the axes of an input; where there are none, all or nothing."""
    axes = node.host(1) if node.has(1) else ()
    return emit_reduction(node, axes, bool(node.get("noop_with_empty_axes", 0)))


for op_type in REDUCTIONS:
    converter(op_type)(by_attribute)
    converter(op_type, since=13 if op_type == "ReduceSum" else 18)(by_input)


def emit_reduction(node: Node, axes: Any, noop: bool) -> Outputs:
    """Add the step of a reduction."""
    reduction, x, keepdim = REDUCTIONS[node.op_type], node.input(0), bool(node.get("keepdims", 1))
    element_type = node.element_type(0)
    function = reduction.function
    if element_type in FLOATS:
        function = reduction.of_floats or function
    elif reduction.by_numpy is None and element_type != TensorProto.UNDEFINED:
        node.unsupported(NO_INTEGERS)
    if noop and axes == ():
        return integers.emit(node, *reduction.elementwise, x) if reduction.elementwise else x
    if noop and isinstance(axes, Variable):
        if element_type in integers.UNSIGNED:
            node.unsupported("its axes are not constant and may be empty")
        kept = reduction.elementwise and reduction.elementwise[0]
        return node.emit(reduce_or_keep, function, kept, x, axes, keepdim)
    return integers.emit(node, function, reduction.by_numpy, x, axes, keepdim)


def reduce_or_keep(
    function: Callable[..., Any],
    elementwise: Callable[..., Any] | None,
    x: torch.Tensor,
    axes: Axes,
    keepdim: bool,
) -> Any:
    """Reduce some axes; where there are none, do what is left of the operator."""
    if axes:
        return function(x, axes, keepdim)
    return x if elementwise is None else elementwise(x)


ON_HOST: dict[str, Callable[..., int]] = {
    "ReduceSum": sum,
    "ReduceProd": math.prod,
    "ReduceMax": max,
    "ReduceMin": min,
}


@host_converter(*ON_HOST)
def reduction_on_host(node: Node) -> Outputs:
    """Reduce a row of numbers that are known without any tensor."""
    if node.get("noop_with_empty_axes", 0):
        return NotImplemented
    keepdim = bool(node.get("keepdims", 1))
    return node.emit_host(
        reduced_numbers,
        ON_HOST[node.op_type],
        node.host(0),
        keepdim,
        dtype=dtype_of(node.value(0)),
        rank=rank_of(node.value(0)) if keepdim else 0,
    )


def reduced_numbers(function: Callable[..., int], numbers: Any, keepdim: bool) -> Any:
    """Reduce a row of numbers; a single number stays as it is."""
    if not isinstance(numbers, tuple):
        return numbers
    return (function(numbers),) if keepdim else function(numbers)
