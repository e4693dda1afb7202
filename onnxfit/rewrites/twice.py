"""Two JumpReLUs, one behind the other, become one with the larger jump; a Relu counts as one.

Operators that only arrange elements anew may lie between, where both jumps are numbers.
"""

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxfit.op import is_add_jump_relu, is_jump_relu
from onnxfit.rewrites.jumps import jump_of, with_jump_of
from onnxfit.rewrites.region import Region, copy_of, is_default, is_reorder

_ARRANGE = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def merge(region: Region, slot: int) -> bool:
    """Take out a JumpReLU behind another, which gets the larger jump; tell if that was done."""
    second = region.node(slot)
    if not is_jump_relu(second):
        return False
    last = writer = region.sole(second.input[0], slot)
    while writer is not None and _arranges(region.node(writer)):
        writer = region.sole(region.node(writer).input[0], writer)
    if writer is None or last is None:
        return False
    merged = _merged(region, region.node(writer), second, apart=writer != last)
    if merged is None or any(_is_late(region, value, writer) for value in merged.input):
        return False
    result = second.output[0]
    region.put(slot, None)
    if writer == last:
        merged.output[:] = [result]
    else:
        arranging = region.node(last)
        region.put(last, copy_of(arranging, list(arranging.input), result))
    region.put(writer, merged)
    return True


def _arranges(node: NodeProto) -> bool:
    """Tell whether a node only puts elements elsewhere; those that fill up a block are 0."""
    return is_default(node, *_ARRANGE) or is_reorder(node)


def _is_late(region: Region, value: str, slot: int) -> bool:
    """Tell whether a node reads what is written behind its slot, as a J in a Constant may be."""
    writer = region.writer(value)
    return writer is not None and writer >= slot


def _merged(
    region: Region, first: NodeProto, second: NodeProto, *, apart: bool
) -> NodeProto | None:
    """Return the node that does the work of two, or None where there is none.

    Args:
        region: Where both are.
        first: What may be a Relu or a JumpReLU.
        second: A JumpReLU.
        apart: Operators lie between, so that an array fits one of them alone.
    """
    high = jump_of(region.scope, second)
    if high is None or (apart and high.ndim):
        return None
    if is_default(first, "Relu"):
        merged = copy_of(first, [], first.output[0])
        merged.op_type, merged.domain = second.op_type, second.domain
        merged.input[:] = [*first.input, *second.input[1:]]
        merged.attribute.extend(a for a in second.attribute if a.name == "jump")
        return merged
    ours = is_jump_relu(first) or is_add_jump_relu(first)
    low = jump_of(region.scope, first) if ours else None
    if low is None or (apart and low.ndim):
        return None
    if _at_most(low, high):
        return with_jump_of(first, second)
    return with_jump_of(first, first) if _at_most(high, low) else None


def _at_most(low: NDArray[np.float64], high: NDArray[np.float64]) -> bool:
    """Tell whether jumps are nowhere larger than others that broadcast to the same values."""
    try:
        return bool(np.all(low <= high))
    except ValueError:  # They do not fit each other.
        return False
