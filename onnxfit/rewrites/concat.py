"""Several JumpReLUs of one jump before a Concat become one behind it."""

from onnxfit.lowering import REWRITE_PREFIX
from onnxfit.op import is_jump_relu
from onnxfit.rewrites.jumps import jump_of
from onnxfit.rewrites.region import Region, copy_of, is_default


def pull(region: Region, slot: int) -> bool:
    """Put the JumpReLUs before a Concat behind it as one; tell whether that was done."""
    concat = region.node(slot)
    if not is_default(concat, "Concat") or len(concat.input) < 2:
        return False
    slots = [region.sole(name, slot) for name in concat.input]
    before = [writer for writer in slots if writer is not None]
    if len(before) < len(slots):
        return False
    nodes = [region.node(writer) for writer in before]
    first, jump = nodes[0], jump_of(region.scope, nodes[0])
    if not all(is_jump_relu(node) for node in nodes) or jump is None or jump.ndim:
        return False
    if any(
        list(node.attribute) != list(first.attribute) or node.input[1:] != first.input[1:]
        for node in nodes
    ):
        return False
    moved, last = REWRITE_PREFIX + concat.output[0], max(before)
    behind = copy_of(region.node(last), [moved, *first.input[1:]], concat.output[0])
    joined = copy_of(concat, [node.input[0] for node in nodes], moved)
    for writer in before:
        region.put(writer, joined if writer == last else None)
    region.put(slot, behind)
    return True
