"""JumpReLU → MaxPool becomes MaxPool → JumpReLU, which then acts on fewer elements.

A maximum commutes with every function that does not fall, and with a jump of at least 0 JumpReLU
is one: what it drops becomes +0, what it keeps is larger. So is a Clip between them, which moves
along; a change of the layout stays where it is. What must hold besides:

* A window has an element that is no padding, or MaxPool gives the lowest number there, which
  JumpReLU would make 0.
* The jump is the same within a window: one number, or an array that is constant along the axes
  that are pooled.

NaN is left out: which of several elements ONNX Runtime's MaxPool returns where one is NaN depends
on their order, and differs between types.
"""

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto

from onnxfit.graph import BLOCKED_DOMAIN
from onnxfit.lowering import REWRITE_PREFIX
from onnxfit.op import DEFAULT_DOMAINS, DOMAIN, is_jump_relu
from onnxfit.rewrites.jumps import constant, jump_of
from onnxfit.rewrites.region import Region, copy_of, is_default, is_reorder

_POOLS = ("MaxPool", "GlobalMaxPool")


def pull(region: Region, slot: int) -> bool:
    """Put the JumpReLU before a MaxPool behind it; tell whether that was done."""
    pool = region.node(slot)
    if pool.op_type not in _POOLS or not _is_plain(pool):
        return False
    last = region.sole(pool.input[0], slot)
    first = None if last is None else _jump_relu_before(region, last)
    if first is None or last is None:
        return False
    jump_relu, between = region.node(first), region.node(last)
    reorders = is_reorder(between)
    if not _is_constant_in_windows(region, jump_relu, pool, reordered=reorders):
        return False
    value, result, moved = jump_relu.input[0], pool.output[0], REWRITE_PREFIX + pool.output[0]
    slots, behind = [first, last, slot], [moved, *jump_relu.input[1:]]
    if first == last:
        nodes = [copy_of(pool, [value], moved), copy_of(jump_relu, behind, result)]
        slots = [first, slot]
    elif reorders:
        inner = f"{moved}/order"
        nodes = [copy_of(between, [value], inner), copy_of(pool, [inner], moved)]
        nodes.append(copy_of(jump_relu, behind, result))
    else:
        inner = f"{moved}/jump"
        nodes = [copy_of(pool, [value], moved), copy_of(jump_relu, behind, inner)]
        nodes.append(copy_of(between, [inner, *between.input[1:]], result))
    for place, node in zip(reversed(slots), reversed(nodes), strict=True):
        region.put(place, node)
    return True


def _jump_relu_before(region: Region, slot: int) -> int | None:
    """Return the slot of what may be the JumpReLU: this one, or that before a Clip or the like."""
    node = region.node(slot)
    clips = is_default(node, "Clip")
    if clips and not _is_monotonic(region, node):
        return None
    return region.sole(node.input[0], slot) if clips or is_reorder(node) else slot


def _is_plain(pool: NodeProto) -> bool:
    """Tell whether a node is a pooling operator of values alone, each of a real element."""
    if pool.domain not in (*DEFAULT_DOMAINS, BLOCKED_DOMAIN) or any(pool.output[1:]):
        return False
    return pool.op_type == "GlobalMaxPool" or _shrinks_full_windows(pool)


def _shrinks_full_windows(pool: NodeProto) -> bool:
    """Tell whether no window is of padding alone, and there are fewer windows than elements."""
    attributes = {a.name: a for a in pool.attribute}
    if any(a.ref_attr_name for a in pool.attribute) or "kernel_shape" not in attributes:
        return False
    kernel = list(attributes["kernel_shape"].ints)
    axes = len(kernel)
    strides = _numbers(attributes.get("strides"), [1] * axes)
    dilations = _numbers(attributes.get("dilations"), [1] * axes)
    pads = _numbers(attributes.get("pads"), [0] * 2 * axes)
    if (len(strides), len(dilations), len(pads)) != (axes, axes, 2 * axes) or max(strides) < 2:
        return False
    ceil = "ceil_mode" in attributes and attributes["ceil_mode"].i != 0
    rule = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
    if rule in (b"SAME_UPPER", b"SAME_LOWER"):
        # Less padding than a window is long, by their definition.
        return not ceil and set(dilations) == {1}
    return all(
        _is_full(begin, end, size, stride if ceil else 1, dilation)
        for begin, end, size, stride, dilation in zip(
            pads[:axes], pads[axes:], kernel, strides, dilations, strict=True
        )
    )


def _is_full(begin: int, end: int, size: int, late: int, dilation: int) -> bool:
    """Tell whether every window reaches an element along one axis.

    Args:
        begin: Padding before the elements.
        end: Padding behind them.
        size: How many elements a window has.
        late: 1, or the stride where a last window may start so much later for ``ceil_mode``.
        dilation: The distance of a window's elements.
    """
    if (begin, end, late) == (0, 0, 1):
        return True
    return dilation == 1 and 0 <= begin < size and 0 <= end <= size - late


def _numbers(attribute: AttributeProto | None, default: list[int]) -> list[int]:
    return default if attribute is None else list(attribute.ints)


def _is_monotonic(region: Region, clip: NodeProto) -> bool:
    """Tell whether a Clip falls nowhere and leaves every zero positive."""
    bounds: list[NDArray[np.float64] | None] = []
    for name in clip.input[1:]:
        if name:
            bounds.append(constant(region.scope, name))
    for attribute in clip.attribute:
        bounds.append(None if attribute.ref_attr_name else np.asarray(attribute.f))
    return all(
        bound is not None
        and bound.size == 1
        and not np.isnan(bound).any()
        and not (np.signbit(bound) & (bound == 0)).any()
        for bound in bounds
    )


def _is_constant_in_windows(
    region: Region, jump_relu: NodeProto, pool: NodeProto, *, reordered: bool
) -> bool:
    """Tell whether a node is a JumpReLU whose jump is one number within each window."""
    blocked = pool.domain == BLOCKED_DOMAIN
    by_channel = blocked and (jump_relu.domain, jump_relu.op_type) == (DOMAIN, "NchwcJumpReLU")
    if not by_channel and not is_jump_relu(jump_relu):
        return False
    jump = jump_of(region.scope, jump_relu)
    if jump is None:
        return False
    if by_channel or jump.size == 1:
        return True
    axes = None if blocked or reordered else _pooled_axes(region, jump_relu, pool)
    return axes is not None and set(jump.shape[-axes:]) == {1}


def _pooled_axes(region: Region, jump_relu: NodeProto, pool: NodeProto) -> int | None:
    """Return how many axes at the end are pooled."""
    for attribute in pool.attribute:
        if attribute.name == "kernel_shape":
            return len(attribute.ints)
    shape = region.shapes.of(region.scope, jump_relu.input[0])
    return None if shape is None or len(shape) < 3 else len(shape) - 2
