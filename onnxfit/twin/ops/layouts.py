"""Layouts that ONNX Runtime gives tensors when it writes an optimised model to a file.

In the domain ``com.microsoft.nchwc`` the channels are cut into blocks that lie side by side:
a tensor of N × C × H × W holds N × C/b × H × W × b. Other operators may come in between, so the
twin holds such tensors in the same order; next to each other, its own steps pass on the plain one.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.convolution import activated, emit_conv, kernel_of
from onnxfit.twin.ops.pooling import (
    emit_average_pool,
    emit_max_pool,
    global_maximum,
    global_mean,
)
from onnxfit.twin.ops.resize import emit_resize
from onnxfit.twin.registry import converter

DOMAIN = "com.microsoft.nchwc"
PROBE = """<ir_version: 8, opset_import: ["" : 13]>
probe (float[1, 1, 1, 1] x) => (float[1, 1, 1, 1] y)
<float[1, 1, 1, 1] w = {1}> { y = Conv(x, w) }"""


@cache
def block_size() -> int:
    """Return how many channels ONNX Runtime keeps side by side on this machine, 0 for none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        options.optimized_model_filepath = str(path)
        model = onnx.parser.parse_model(PROBE).SerializeToString()
        onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        graph = onnx.load(path).graph
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    blocked = [
        shapes[node.input[1]][0]
        for node in graph.node
        if node.domain == DOMAIN and node.op_type == "Conv"
    ]
    return blocked[0] if blocked else 0


def block_of(node: Node) -> int:
    """Return the size of a block, which no file tells: it is that of the machine."""
    return block_size() or node.unsupported("this machine's ONNX Runtime has no such layout")


@converter("ReorderInput", domain=DOMAIN)
def reorder_input(node: Node) -> Outputs:
    x = node.input(0)
    if node.get("channels_last", 0):
        x = node.emit(torch.movedim, x, -1, 1)
    return node.emit(to_blocks, node.emit(filled_up, x, block_of(node)), block_of(node))


@converter("ReorderOutput", domain=DOMAIN)
def reorder_output(node: Node) -> Outputs:
    y = node.emit(torch.narrow, plain(node, 0), 1, 0, node.get("channels"))
    return node.emit(torch.movedim, y, 1, -1) if node.get("channels_last", 0) else y


@converter("Conv", domain=DOMAIN)
def blocked_conv(node: Node) -> Outputs:
    """Convolve, add, then activate; an image with few channels is not in blocks."""
    weight, block = node.known(1), block_of(node)
    if weight is None or weight.dim() != 4 or weight.shape[0] % block:
        node.unsupported(f"its weight is not in blocks of {block} as on this machine")
    few = weight.shape[1] < block
    x = node.input(0) if few and node.get("group", 1) == 1 else plain(node, 0)
    plain_weight = node.emit(plain_kernel, node.input(1), block, 1 if few else block)
    y = emit_conv(node, x, plain_weight, node.input(2), kernel_of(node))
    if node.has(3):
        y = node.emit(torch.add, y, plain(node, 3))
    return node.emit(to_blocks, activated(node, y), block)


@converter("MaxPool", domain=DOMAIN)
def blocked_max_pool(node: Node) -> Outputs:
    y, _ = emit_max_pool(node, plain(node, 0))
    return node.emit(to_blocks, y, block_of(node))


@converter("AveragePool", domain=DOMAIN)
def blocked_average_pool(node: Node) -> Outputs:
    return node.emit(to_blocks, emit_average_pool(node, plain(node, 0)), block_of(node))


@converter("GlobalMaxPool", domain=DOMAIN)
def blocked_global_max_pool(node: Node) -> Outputs:
    y = node.emit(global_maximum, plain(node, 0))
    return node.emit(to_blocks, y, block_of(node))


@converter("GlobalAveragePool", domain=DOMAIN)
def blocked_global_average_pool(node: Node) -> Outputs:
    y = node.emit(global_mean, plain(node, 0))
    return node.emit(to_blocks, y, block_of(node))


@converter("Upsample", domain=DOMAIN)
def blocked_upsample(node: Node) -> Outputs:
    scales = tuple(float(scale) for scale in node.get("scales"))
    options = {
        "mode": node.get("mode", "nearest"),
        "coordinates": node.get("coordinate_transformation_mode", "asymmetric"),
        "rounding": "floor",
    }
    y = emit_resize(node, plain(node, 0), scales, None, **options)
    return node.emit(to_blocks, y, block_of(node))


@converter("NhwcMaxPool", domain="com.microsoft")
def max_pool_of_channels_last(node: Node) -> Outputs:
    y, _ = emit_max_pool(node, node.emit(torch.movedim, node.input(0), -1, 1))
    return node.emit(torch.movedim, y, 1, -1)


def plain(node: Node, index: int) -> Any:
    """Return an input that is in blocks in its plain order."""
    x = node.input(index)
    for step in reversed(node.frame.block.steps):
        if step.results[0] is x:
            if step.function is to_blocks:
                return step.args[0]
            break
    return node.emit(from_blocks, x, block_of(node))


def filled_up(x: torch.Tensor, block: int) -> torch.Tensor:
    """Add channels of zeros until there are only whole blocks."""
    missing = -x.shape[1] % block
    return functional.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x


def to_blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, c // block, block, h, w).movedim(2, -1).reshape(n, c, h, w)


def from_blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, c // block, h, w, block).movedim(-1, 2).reshape(n, c, h, w)


def plain_kernel(weight: torch.Tensor, block: int, inner: int) -> torch.Tensor:
    """Return a weight in its plain order.

    Args:
        weight: It has the shape O × I × H × W and holds O/b × I/i × H × W × i × b.
        block: The number b.
        inner: The number i.
    """
    o, i, h, w = weight.shape
    blocks = weight.reshape(o // block, i // inner, h, w, inner, block)
    return blocks.permute(0, 5, 1, 4, 2, 3).reshape(o, i, h, w)
