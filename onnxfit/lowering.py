"""Write an activation as a JumpReLU, read it back, and undo it: nodes only, no files.

What a hardened file holds in the place of one activation that wrote ``y``:

=========  ==================================================================
relu       ``x → JumpReLU → y``
clip       ``x → JumpReLU → onnxfit.site/y/jump → Clip → y``
fused      ``… → FusedConv → onnxfit.site/y/linear → JumpReLU → y``, where a fused
           Clip adds ``→ onnxfit.site/y/jump → Clip → y``
=========  ==================================================================

With the standard lowering, the nodes of :func:`onnxfit.op.select_nodes` stand for JumpReLU; the
values between them are ``onnxfit.site/y/…`` too. Constants are ``onnxfit.constant/<type>/<number>``
at the top of the main graph or function; an array of jumps is the site's own constant there,
``onnxfit.constant/<type>/<site>/elements``. So the names alone tell what was done.
"""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from onnxfit.edits import CONSTANT_PREFIX, Edits, remove_where
from onnxfit.element_types import UNKNOWN
from onnxfit.graph import Scope
from onnxfit.op import DOMAIN, OP_TYPE, Jumps, is_jump_relu, select_nodes

SITE_PREFIX = "onnxfit.site/"
# The graph inputs of a model whose jumps are given at run time.
INPUT_PREFIX = "onnxfit.jump/"
# The values that rewrites make in the place of others.
REWRITE_PREFIX = "onnxfit.rewritten/"
RESERVED = (SITE_PREFIX, CONSTANT_PREFIX, INPUT_PREFIX, REWRITE_PREFIX)
# The values at the ends of a site that is no simple Relu.
_ENDS = ("/jump", "/linear")
# How to undo what cannot be read off the file: JSON-able, by site name.
Record = dict[str, Any]


@dataclass(kw_only=True)
class Hardened:
    """A JumpReLU in a scope, whatever nodes it is written with.

    Attributes:
        value: The value that the original activation wrote.
        kind: ``relu``, ``clip`` or ``fused``.
        lowering: ``operator`` or ``standard``.
        x: The value that it acts on.
        jumps: The jump size, or one per element of J; empty where J is computed at run time.
        shape: Of J; empty where the jump is one number, or computed at run time.
        nodes: The nodes that compute it; the last one writes its result.
        clip: The Clip behind it, where it has an upper bound.
    """

    value: str
    kind: str
    lowering: str
    x: str
    jumps: tuple[float, ...]
    shape: tuple[int, ...] = ()
    nodes: list[NodeProto]
    clip: NodeProto | None = None

    @property
    def jump(self) -> float | Jumps | None:
        """The jump as it was given: a number or an array; None where it is computed."""
        if not self.shape:
            return self.jumps[0] if self.jumps else None
        return np.reshape(np.asarray(self.jumps, np.float32), self.shape)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A node that computes an activation.

    Attributes:
        scope: The graph or function it stands in.
        node: The node; its first output is the activation's value.
        kind: ``relu``, ``clip`` or ``fused``.
        element_type: ``TensorProto`` type of the activation; UNKNOWN where there is no one type.
    """

    scope: Scope
    node: NodeProto
    kind: str
    element_type: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a JumpReLU is written.

    Attributes:
        jump: The jump size, rounded to the type of the activation, or an array of them; or the
            name of the value that holds it at run time.
        standard: Standard operators in place of the JumpReLU node.
        attribute: The node's attribute alone carries the jump where that is a number. Otherwise
            the input J does, and the attribute repeats a number for readers.
    """

    jump: float | Jumps | str
    standard: bool
    attribute: bool


def is_part(node: NodeProto) -> bool:
    """Tell whether a node belongs to an activation that is hardened already."""
    if node.output and node.output[0].startswith(RESERVED):
        return True
    return bool(node.input) and node.input[0].startswith(SITE_PREFIX)


def write(edits: Edits, place: Place, form: Form) -> Record:
    """Harden an activation.

    Returns:
        What :func:`undo` must know beyond the file, empty in the ordinary case.
    """
    node = place.node
    value = node.output[0]
    if place.kind == "relu":
        record: Record = {"domain": node.domain} if node.HasField("domain") else {}
        *others, last = _rectify(edits, place, node.input[0], value, form)
        node.op_type, node.domain = last.op_type, last.domain
        node.input[:] = last.input
        node.attribute.extend(last.attribute)
        if others:
            edits.before(place.scope, node, others)
        return record
    if place.kind == "clip":
        limited = _inner(value, "jump")
        edits.before(place.scope, node, _rectify(edits, place, node.input[0], limited, form))
        node.input[0] = limited
        return {}
    return _split(edits, place, form)


def _split(edits: Edits, place: Place, form: Form) -> Record:
    """Take the activation out of a fused node and put a JumpReLU behind it."""
    node = place.node
    value, linear = node.output[0], _inner(node.output[0], "linear")
    fused = [(i, a) for i, a in enumerate(node.attribute) if _is_of_activation(a)]
    record: Record = {"attributes": [[i, _encode(a)] for i, a in fused]}
    result, clip = value, []
    if any(a.s == b"Clip" for _, a in fused):
        upper = next(a.floats[1] for _, a in fused if a.name == "activation_params")
        result = _inner(value, "jump")
        if place.scope.opset < 11:
            clip = [onnx.helper.make_node("Clip", [result], [value], min=0.0, max=upper)]
        else:
            bound = edits.constant(place.scope, place.element_type or TensorProto.FLOAT, upper)
            clip = [onnx.helper.make_node("Clip", [result, "", bound], [value])]
    edits.after(place.scope, node, _rectify(edits, place, linear, result, form) + clip)
    node.output[0] = linear
    remove_where(node.attribute, _is_of_activation)
    if node.op_type == "FusedGemm":
        # Without an activation ONNX Runtime knows it as Gemm alone.
        record["operator"] = [node.op_type, node.domain]
        node.op_type, node.domain = "Gemm", ""
    return record


def read(scope: Scope) -> dict[str, Hardened]:
    """Find the JumpReLUs of a scope, by the value that each of them writes."""
    found: dict[str, Hardened | None] = {}
    pieces: dict[str, list[NodeProto]] = {}
    for node in scope.nodes:
        result = node.output[0] if node.output else ""
        if is_jump_relu(node) and result and node.input:
            found[result] = _hardened(scope, "operator", [node], node.input[0], [*node.input[1:2]])
        elif result.startswith(SITE_PREFIX) and not result.endswith("/linear"):
            pieces.setdefault(_site_value(result), []).append(node)
    for node in scope.nodes if pieces else ():
        # The last node, whatever name another tool has given to what it writes.
        between = next((name for name in node.input if _is_between(name)), "")
        if node.output and not node.output[0].startswith(SITE_PREFIX) and between:
            pieces.setdefault(_site_value(between), []).append(node)
    for nodes in pieces.values():
        inputs = [name for node in nodes for name in node.input]
        x = next((n for n in inputs if not n.startswith(RESERVED) or _is_end(n)), None)
        jump = next((n for n in inputs if n.startswith((CONSTANT_PREFIX, INPUT_PREFIX))), "")
        # Names alone, as after a tool that rewrote the nodes, make no JumpReLU.
        known = jump.startswith(INPUT_PREFIX) or scope.constant(jump) is not None
        if x is not None and jump and known:
            result = nodes[-1].output[0]
            found[result] = _hardened(scope, "standard", nodes, x, [jump])
    return {result: hardened for result, hardened in found.items() if hardened is not None}


def undo(edits: Edits, scope: Scope, hardened: Hardened, record: Record) -> None:
    """Put the original activation back."""
    *others, last = hardened.nodes
    if hardened.kind == "fused":
        linear = scope.producers[hardened.x]
        linear.output[0] = hardened.value
        if linear.op_type == "Gemm":
            linear.op_type, linear.domain = record.get("operator", ("FusedGemm", "com.microsoft"))
        for i, encoded in record.get("attributes") or _fused_attributes(scope, hardened.clip):
            linear.attribute.insert(i, AttributeProto.FromString(base64.b64decode(encoded)))
        others.append(last)
        if hardened.clip is not None:
            others.append(hardened.clip)
    elif hardened.clip is not None:
        hardened.clip.input[0] = hardened.x
        others.append(last)
    else:
        last.op_type = "Relu"
        last.ClearField("domain")
        if "domain" in record:
            last.domain = record["domain"]
        last.input[:] = [hardened.x]
        standard = hardened.lowering == "standard"
        remove_where(last.attribute, lambda a: standard or a.name == "jump")
    for node in others:
        edits.remove(scope, node)


def remove_constants(edits: Edits, scope: Scope) -> None:
    """Take out the constants that hardening put at the top of a graph or function."""
    for node in scope.nodes:
        if node.output and node.output[0].startswith(CONSTANT_PREFIX):
            edits.remove(scope, node)


def _rectify(edits: Edits, place: Place, x: str, y: str, form: Form) -> list[NodeProto]:
    """Make the nodes that compute JumpReLU of ``x`` into ``y``."""
    if form.standard:
        return _select(edits, place, x, y, form.jump)
    node = NodeProto(op_type=OP_TYPE, domain=DOMAIN, input=[x], output=[y])
    if isinstance(form.jump, float):
        node.attribute.add(name="jump", type=AttributeProto.FLOAT, f=form.jump)
    if not form.attribute or not isinstance(form.jump, float):
        node.input.append(_limit(edits, place, _site_value(y), form.jump))
    return [node]


def _limit(edits: Edits, place: Place, site: str, jump: float | Jumps | str) -> str:
    """Return the name of the value that holds a site's jump."""
    if isinstance(jump, str):
        return jump
    element_type = place.element_type or TensorProto.FLOAT
    if isinstance(jump, float):
        return edits.constant(place.scope, element_type, jump)
    return edits.array(place.scope, element_type, place.scope.full_name(site), jump)


def _select(
    edits: Edits, place: Place, x: str, y: str, jump: float | Jumps | str
) -> list[NodeProto]:
    """Make the standard nodes that compute JumpReLU of ``x`` into ``y``."""
    scope, site = place.scope, _site_value(y)
    element_type = place.element_type or TensorProto.FLOAT
    limit = _limit(edits, place, site, jump)
    # The body for bfloat16 computes in float.
    narrow = element_type == TensorProto.BFLOAT16
    zero = edits.constant(scope, TensorProto.FLOAT if narrow else element_type, 0.0)
    new = []
    if place.element_type == UNKNOWN:
        for constant, name in ((limit, "limit"), (zero, "zero")):
            new.append(onnx.helper.make_node("CastLike", [constant, x], [_inner(site, name)]))
        limit, zero = _inner(site, "limit"), _inner(site, "zero")
    names = {"X": x, "Y": y, "J": limit, "zero": zero}
    for pattern in select_nodes(scope.opset, element_type):
        node = NodeProto()
        node.CopyFrom(pattern)
        for values in (node.input, node.output):
            values[:] = [names.get(name) or _inner(site, name) for name in values]
        new.append(node)
    return new


def _hardened(
    scope: Scope, lowering: str, nodes: list[NodeProto], x: str, jump: list[str]
) -> Hardened | None:
    """Describe a JumpReLU, or return None where other tools left only a part of it."""
    value = nodes[-1].output[0]
    kind, clip = "relu", None
    if value.startswith(SITE_PREFIX):
        kind = "clip"
        clip = next((user for user in scope.users(nodes[-1]) if user.op_type == "Clip"), None)
        if clip is None or not clip.output:
            return None
        value = clip.output[0]
    if x.startswith(SITE_PREFIX):
        kind = "fused"
        if x not in scope.producers:
            return None
    shape: tuple[int, ...] = ()
    if jump and jump[0]:
        numbers = scope.numbers(jump[0])
        jumps = () if numbers is None else tuple(float(j) for j in np.ravel(numbers))
        shape = () if numbers is None else numbers.shape
    else:
        jumps = (next((a.f for a in nodes[-1].attribute if a.name == "jump"), 0.0),)
    return Hardened(
        value=value,
        kind=kind,
        lowering=lowering,
        x=x,
        jumps=jumps,
        shape=shape,
        nodes=nodes,
        clip=clip,
    )


def _inner(value: str, piece: str) -> str:
    """Name a value between the nodes of a site."""
    return f"{SITE_PREFIX}{value}/{piece}"


def _is_between(name: str) -> bool:
    """Tell whether a value lies between the standard nodes of a site."""
    return name.startswith(SITE_PREFIX) and not _is_end(name)


def _is_end(name: str) -> bool:
    """Tell whether a value lies at an end of a site that is no simple Relu."""
    return name.startswith(SITE_PREFIX) and name.endswith(_ENDS)


def _site_value(name: str) -> str:
    """Return ``y`` for ``y`` itself and for every value ``onnxfit.site/y/…``."""
    return (
        name.removeprefix(SITE_PREFIX).rpartition("/")[0] if name.startswith(SITE_PREFIX) else name
    )


def _is_of_activation(attribute: AttributeProto) -> bool:
    """Tell whether an attribute of a fused node names its activation or that one's numbers."""
    return attribute.name.startswith("activation")


def _encode(attribute: AttributeProto) -> str:
    return base64.b64encode(attribute.SerializeToString()).decode()


def _fused_attributes(scope: Scope, clip: NodeProto | None) -> list[tuple[int, str]]:
    """Make the activation that a fused node gets back where the record of its own is lost."""
    if clip is None:
        return [(0, _encode(onnx.helper.make_attribute("activation", "Relu")))]
    upper: Any = next((a.f for a in clip.attribute if a.name == "max"), None)
    if upper is None:
        upper = scope.scalar(clip.input[2])
    parameters = onnx.helper.make_attribute("activation_params", [0.0, float(upper)])
    return [
        (0, _encode(onnx.helper.make_attribute("activation", "Clip"))),
        (1, _encode(parameters)),
    ]
