"""Blocks of an image: DepthToSpace, SpaceToDepth and Col2Im."""

import torch
from onnx import TensorProto
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.windows import Sizes, spans
from onnxfit.twin.registry import converter


def _check_type(node: Node) -> None:
    if node.element_type(0) == TensorProto.STRING:
        node.unsupported("PyTorch has no strings")


@converter("DepthToSpace")
def depth_to_space(node: Node) -> Outputs:
    _check_type(node)
    outer = node.get("mode", "DCR") == "DCR"
    return node.emit(spread, node.input(0), node.get("blocksize"), outer)


def spread(x: torch.Tensor, block: int, outer: bool) -> torch.Tensor:
    """Move channels into blocks; ``outer`` tells that a block is the outer axis of channels."""
    n, c, h, w = x.shape
    c //= block**2
    if outer:
        blocks = x.reshape(n, block, block, c, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, c, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c, h * block, w * block)


@converter("SpaceToDepth")
def space_to_depth(node: Node) -> Outputs:
    _check_type(node)
    outer = node.get("mode", "DCR") == "DCR"
    return node.emit(gather, node.input(0), node.get("blocksize"), outer)


def gather(x: torch.Tensor, block: int, outer: bool) -> torch.Tensor:
    """Move blocks into channels, the inverse of :func:`spread`."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if outer else (0, 1, 3, 5, 2, 4)
    return blocks.permute(order).reshape(n, c * block**2, h // block, w // block)


@converter("Col2Im", since=18)
def col2im(node: Node) -> Outputs:
    _check_type(node)
    names = ("strides", "dilations", "pads")
    lists = [node.get(name, ()) for name in names]
    return node.emit(image_of, node.input(0), node.host(1), node.host(2), *lists)


def image_of(
    x: torch.Tensor, image: Sizes, block: Sizes, strides: Sizes, dilations: Sizes, pads: Sizes
) -> torch.Tensor:
    """Sum up blocks that may overlap, in any number of dimensions."""
    rank = len(image)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    pads = pads or (0,) * (2 * rank)
    begins, ends = pads[:rank], pads[rank:]
    if rank == 2 and begins == ends and x.is_floating_point():
        return functional.fold(x, image, block, dilations, begins, strides)
    whole = [n + b + e for n, b, e in zip(image, begins, ends, strict=True)]
    index = torch.zeros((), dtype=torch.int64, device=x.device)
    for axis, span in enumerate(spans(block, dilations)):
        count = (whole[axis] - span) // strides[axis] + 1
        steps = torch.arange(block[axis], device=x.device) * dilations[axis]
        starts = torch.arange(count, device=x.device) * strides[axis]
        places = steps[:, None] + starts
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = places.shape
        index = index * whole[axis] + places.reshape(shape)
    columns = x.reshape(x.shape[0], -1, index.numel())
    y = columns.new_zeros(*columns.shape[:2], torch.Size(whole).numel())
    y = y.index_add(2, index.flatten(), columns).reshape(*columns.shape[:2], *whole)
    for axis, (begin, n) in enumerate(zip(begins, image, strict=True)):
        y = y.narrow(2 + axis, begin, n)
    return y
