"""Products of matrices: MatMul, Gemm, Einsum, Det, and ONNX Runtime's fused ones."""

import string
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from onnxfit.twin import moving
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.activations import clipped_line
from onnxfit.twin.registry import converter

UNSIGNED = (TensorProto.UNDEFINED, TensorProto.UINT32, TensorProto.UINT64)
INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64)
MICROSOFT = "com.microsoft"


@converter("MatMul")
def matmul(node: Node) -> Outputs:
    """Multiply matrices, or stacks of them."""
    return product(node, torch.matmul, node.input(0), node.input(1))


def product(node: Node, function: Any, *args: Any) -> Outputs:
    """Add a step that multiplies; unsigned integers do so as signed ones of the same bits."""
    if node.element_type(0) in UNSIGNED:
        return node.emit(moving.on_bits, function, *args)
    return node.emit(function, *args)


@converter("Gemm", since=7)
def gemm(node: Node) -> Outputs:
    """Compute ``alpha · A · B + beta · C``, as a linear layer where it is one."""
    return linear(node, node.get("alpha", 1.0), node.get("beta", 1.0))


def linear(node: Node, alpha: float, beta: float) -> Outputs:
    """Add the steps of a Gemm."""
    a, b, c = (node.input(index) for index in range(3))
    if node.element_type(0) in INTEGERS:
        if not (alpha.is_integer() and beta.is_integer()):
            node.unsupported("integers are multiplied with an alpha or beta that is none")
        alpha, beta = int(alpha), int(beta)
    if node.get("transA", 0):
        a = node.emit(torch.t, a)
    bias = node.known(2)
    plain = alpha == 1 and (c is None or (bias is not None and bias.dim() == 1 and beta == 1))
    if plain and node.get("transB", 0) and node.element_type(0) not in UNSIGNED:
        width = getattr(node.known(1), "shape", None)
        if c is None or (width is not None and bias.shape[0] == width[0]):
            return node.emit(functional.linear, a, b, c)
    if node.get("transB", 0):
        b = node.emit(torch.t, b)
    if c is None:
        result = product(node, torch.matmul, a, b)
        return result if alpha == 1 else node.emit(torch.mul, result, alpha)
    return product(node, add_product, c, a, b, alpha, beta)


def add_product(c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float) -> Tensor:
    """Compute ``alpha · a · b + beta · c``."""
    return torch.addmm(c, a, b, alpha=alpha, beta=beta)


@converter("Einsum")
def einsum(node: Node) -> Outputs:
    """Multiply and sum as the equation says."""
    return product(node, einsum_of, node.input(0), node.inputs[1:], explicit(node.get("equation")))


def einsum_of(first: Tensor, others: list[Tensor], equation: str) -> Tensor:
    """Multiply and sum as the equation says."""
    return torch.einsum(equation, first, *others).to(first.dtype)


def explicit(equation: str) -> str:
    """Return an equation that names the letters of the result."""
    equation = equation.replace(" ", "")
    if "->" in equation:
        return equation
    letters = [letter for letter in equation if letter in string.ascii_letters]
    ellipsis = "..." if "..." in equation else ""
    once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
    return f"{equation}->{ellipsis}{''.join(once)}"


@converter("Det")
def det(node: Node) -> Outputs:
    """Return the determinants of stacked matrices."""
    return node.emit(determinant, node.input(0))


def determinant(x: Tensor) -> Tensor:
    """Return the determinants of stacked matrices."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return torch.linalg.det(wide).to(x.dtype)


@converter("TransposeMatMul", "FusedMatMul", domain=MICROSOFT)
def fused_matmul(node: Node) -> Outputs:
    """Multiply matrices that are transposed first, and scale the product."""
    result = node.emit(torch.matmul, transposed(node, 0, "A"), transposed(node, 1, "B"))
    alpha = node.get("alpha", 1.0)
    return result if alpha == 1 else node.emit(torch.mul, result, alpha)


def transposed(node: Node, index: int, name: str) -> Any:
    """Add the steps that transpose an input of a FusedMatMul."""
    x = node.input(index)
    if node.get(f"transBatch{name}", 0):
        x = node.emit(transpose_batch, x)
    return node.emit(transpose_last, x) if node.get(f"trans{name}", 0) else x


def transpose_last(x: Tensor) -> Tensor:
    """Swap the last two dimensions, if there are two."""
    return x if x.dim() == 1 else x.transpose(-1, -2)


def transpose_batch(x: Tensor) -> Tensor:
    """Move the first dimension behind all others but the last."""
    return x.movedim(0, -2)


# The activation of a FusedGemm, and which attributes it takes.
ACTIVATIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Celu": (functional.celu, ("alpha",)),
    "Elu": (functional.elu, ("alpha",)),
    "HardSigmoid": (clipped_line, ("alpha", "beta")),
    "LeakyRelu": (functional.leaky_relu, ("alpha",)),
    "Relu": (torch.relu, ()),
    "Sigmoid": (torch.sigmoid, ()),
    "Softplus": (functional.softplus, ()),
    "Softsign": (functional.softsign, ()),
    "Tanh": (torch.tanh, ()),
}


@converter("FusedGemm", domain=MICROSOFT)
def fused_gemm(node: Node) -> Outputs:
    """Compute a Gemm and an activation of it."""
    y = linear(node, node.get("alpha", 1.0), node.get("beta", 1.0))
    name = node.get("activation", "")
    if not name:
        return y
    function, attributes = ACTIVATIONS.get(name, (None, ()))
    values = [node.get(f"activation_{attribute}") for attribute in attributes]
    if function is None or None in values:
        node.unsupported(f"its activation {name!r} is not supported with these attributes")
    return node.emit(function, y, *values)
