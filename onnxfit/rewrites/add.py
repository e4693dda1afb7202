"""Add → JumpReLU becomes one node, AddJumpReLU, which passes over memory once.

The two values must have the same shape in every run, which lengths by name alone do not promise
(:mod:`onnxfit.rewrites.shapes`). A sum with a constant stays: ONNX Runtime takes it for the bias of
the operator before.
"""

from onnxfit.op import ADD_OP_TYPE, is_jump_relu
from onnxfit.rewrites.region import Region, copy_of, is_default


def fuse(region: Region, slot: int) -> bool:
    """Put an Add and the JumpReLU behind it into one node; tell whether that was done."""
    jump_relu = region.node(slot)
    if not is_jump_relu(jump_relu):
        return False
    before = region.sole(jump_relu.input[0], slot)
    if before is None:
        return False
    add = region.node(before)
    if not is_default(add, "Add", "Sum") or len(add.input) != 2 or not all(add.input):
        return False
    first, second = add.input
    if any(region.scope.constant(name) is not None for name in add.input):
        return False
    if not region.shapes.same(region.scope, first, second):
        return False
    fused = copy_of(jump_relu, [first, second, *jump_relu.input[1:]], jump_relu.output[0])
    fused.op_type = ADD_OP_TYPE
    region.put(before, None)
    region.put(slot, fused)
    return True
