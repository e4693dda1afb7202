"""Jumps by channel in ONNX Runtime's blocked layout, in which a channel is no axis."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx.parser
import onnxruntime
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnxfit.compilation.optimising import optimise
from onnxfit.edits import remove_where
from onnxfit.native_library import CPU
from onnxfit.op import DOMAIN, Jumps
from onnxfit.planning import sites_of
from onnxfit.runtime import quiet_options
from onnxfit.sites import scan

OP_TYPE = "NchwcJumpReLU"
_ONE_TO_ONE = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1,32,1,2] x) => (float[1,32,1,2] y) { y = Conv(x, w) }
"""


def can_be_blocked(jump: Jumps) -> bool:
    """Tell whether jumps differ by the channel alone: C×1×1, or 1×C×1×1."""
    return jump.ndim in (3, 4) and jump.size == jump.shape[-3]


def write_blocked(model: ModelProto, jumps: Mapping[str, Jumps]) -> None:
    """Give JumpReLUs on the blocked layout a jump for each channel.

    Args:
        model: An optimised model with a JumpReLU at each of some sites.
        jumps: Their jumps, C×1×1, by the site.
    """
    if not jumps:
        return
    block = block_size()
    for found in sites_of(list(scan(model))):
        jump = jumps.get(found.site.name)
        if jump is not None and found.hardened is not None:
            # The layout fills the last block up.
            padded = np.zeros(-(-jump.size // block) * block, np.float32)
            padded[: jump.size] = jump.ravel()
            name = f"onnxfit.constant/{found.site.name}"
            model.graph.initializer.append(numpy_helper.from_array(padded, name))
            _rewrite(found.hardened.nodes[-1], name, block)


def _rewrite(node: NodeProto, jumps: str, block: int) -> None:
    """Make a JumpReLU one on the blocked layout."""
    node.op_type, node.domain = OP_TYPE, DOMAIN
    node.input[1:] = [jumps]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("block", block))


@cache
def block_size() -> int:
    """Return how many channels lie beside each other in the blocked layout of this machine."""
    model = onnx.parser.parse_model(_ONE_TO_ONE)
    weights = np.eye(32, dtype=np.float32)[..., None, None]
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    blocked = optimise(model, None, None)
    convolution = next(node for node in blocked.graph.node if node.op_type == "Conv")
    blocked.graph.output[0].name = convolution.output[0]
    remove_where(blocked.graph.node, lambda node: node.op_type == "ReorderOutput")
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = onnxruntime.InferenceSession(blocked.SerializeToString(), options, providers=[CPU]).run
    # Two numbers a channel: the second of the first channel follows the block's first ones.
    (result,) = run(None, {"x": np.arange(64, dtype=np.float32).reshape(1, 32, 1, 2)})
    return int(np.flatnonzero(np.ravel(result) == 1)[0])
