"""MatMulNBits of ONNX Runtime: a product with weights of 2, 4 or 8 bits."""

import torch
from torch import Tensor
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

WIDTHS = (2, 4, 8)


@converter("MatMulNBits", domain="com.microsoft")
def matmul_nbits(node: Node) -> Outputs:
    """Multiply with a weight that is unpacked when the twin is built, where it is constant."""
    bits = node.get("bits", 4)
    if bits not in WIDTHS:
        node.unsupported(f"weights of {bits} bits are not supported")
    if node.get("weight_prepacked", 0):
        node.unsupported("its weight is in the order of a GPU's kernel")
    if node.has(4):
        node.unsupported("its input g_idx is not supported")
    sizes = node.get("N"), node.get("K"), node.get("block_size")
    packed = node.frozen(1), node.frozen(2), node.frozen(3)
    weight = node.emit(unpacked_weight, *packed, *sizes, bits)
    return node.emit(functional.linear, node.input(0), weight, node.input(5))


def unpacked_weight(
    packed: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    rows: int,
    columns: int,
    block: int,
    bits: int,
) -> Tensor:
    """Return the weight, rows × columns, of blocks of columns with a scale and zero point each."""
    blocks = -(-columns // block)
    numbers = unpacked(packed.reshape(rows, blocks, -1), bits).to(scales.dtype)
    if zero_points is None:
        zeros = torch.full_like(scales, 2 ** (bits - 1)).reshape(rows, blocks)
    elif zero_points.dtype == torch.uint8:
        zeros = unpacked(zero_points.reshape(rows, -1), bits)[:, :blocks].to(scales.dtype)
    else:
        zeros = zero_points.reshape(rows, blocks)
    weight = (numbers - zeros.unsqueeze(2)) * scales.reshape(rows, blocks, 1)
    return weight.reshape(rows, blocks * block)[:, :columns].contiguous()


def unpacked(packed: Tensor, bits: int) -> Tensor:
    """Return the numbers in bytes, the first one in the lowest bits."""
    shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    return ((packed.unsqueeze(-1) >> shifts) & (2**bits - 1)).flatten(-2)
