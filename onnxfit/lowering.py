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
at the top of the main graph or function. So the names alone tell what was done.
"""

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from onnxfit.graph import Scope
from onnxfit.op import DOMAIN, ELEMENT_TYPES, OP_TYPE, select_nodes

PREFIX = "onnxfit."
_SITE = f"{PREFIX}site/"
_CONSTANT = f"{PREFIX}constant/"
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
        jumps: The jump size, or one per element of J.
        nodes: The nodes that compute it; the last one writes its result.
    """

    value: str
    kind: str
    lowering: str
    x: str
    jumps: tuple[float, ...]
    nodes: list[NodeProto] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A node that computes an activation.

    Attributes:
        scope: The graph or function it stands in.
        node: The node; its first output is the activation's value.
        kind: ``relu``, ``clip`` or ``fused``.
        element_type: ``TensorProto`` type of the activation.
    """

    scope: Scope
    node: NodeProto
    kind: str
    element_type: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a JumpReLU is written.

    Attributes:
        jump: The jump size, rounded to the type of the activation.
        standard: Standard operators in place of the JumpReLU node.
        attribute: The node's attribute alone carries the jump. Otherwise the input J does, and
            the attribute repeats it for readers.
    """

    jump: float
    standard: bool
    attribute: bool


class Edits:
    """Nodes to insert around others and nodes to remove, all at once in the end."""

    def __init__(self) -> None:
        self._scopes: dict[int, Scope] = {}
        self._around: dict[int, tuple[NodeProto, list[NodeProto], list[NodeProto]]] = {}
        self._removed: dict[int, NodeProto] = {}
        self._constants: dict[int, dict[str, NodeProto]] = {}

    def insert(
        self,
        place: Place,
        before: list[NodeProto] | None = None,
        after: list[NodeProto] | None = None,
    ) -> None:
        """Put nodes before and behind a node."""
        self._scopes[id(place.scope)] = place.scope
        self._around[id(place.node)] = (place.node, before or [], after or [])

    def remove(self, scope: Scope, node: NodeProto) -> None:
        """Take a node out."""
        self._scopes[id(scope)] = scope
        self._removed[id(node)] = node

    def constant(self, scope: Scope, element_type: int, number: float) -> str:
        """Return the name of a constant, which is put at the top of the scope's root."""
        self._scopes[id(scope.top)] = scope.top
        constants = self._constants.setdefault(id(scope.top), {})
        name = f"{_CONSTANT}{ELEMENT_TYPES[element_type]}/{number!r}"
        if name not in constants:
            tensor = TensorProto(
                data_type=element_type, raw_data=_to_bytes(number, element_type), name=name
            )
            constants[name] = onnx.helper.make_node("Constant", [], [name], value=tensor)
        return name

    def apply(self) -> None:
        """Carry out everything that was asked for."""
        for key, scope in self._scopes.items():
            nodes = scope.nodes
            # From the back, so that the places before stay where they are.
            for i in reversed(range(len(nodes))):
                node = id(nodes[i])
                if node in self._around:
                    _, before, after = self._around[node]
                    for new in reversed(after):
                        nodes.insert(i + 1, new)
                    for new in reversed(before):
                        nodes.insert(i, new)
                elif node in self._removed:
                    del nodes[i]
            for new in reversed(self._constants.get(key, {}).values()):
                nodes.insert(0, new)


def is_part(node: NodeProto) -> bool:
    """Tell whether a node belongs to an activation that is hardened already."""
    if node.output and node.output[0].startswith(PREFIX):
        return True
    return bool(node.input) and node.input[0].startswith(_SITE)


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
            edits.insert(place, before=others)
        return record
    if place.kind == "clip":
        limited = _inner(value, "jump")
        edits.insert(place, before=_rectify(edits, place, node.input[0], limited, form))
        node.input[0] = limited
        return {}
    return _split(edits, place, form)


def _split(edits: Edits, place: Place, form: Form) -> Record:
    """Take the activation out of a fused node and put a JumpReLU behind it."""
    node = place.node
    value, linear = node.output[0], _inner(node.output[0], "linear")
    fused = [(i, a) for i, a in enumerate(node.attribute) if a.name.startswith("activation")]
    record: Record = {"attributes": [[i, _encode(a)] for i, a in fused]}
    result, clip = value, []
    if any(a.s == b"Clip" for _, a in fused):
        upper = next(a.floats[1] for _, a in fused if a.name == "activation_params")
        result = _inner(value, "jump")
        if place.scope.opset < 11:
            clip = [onnx.helper.make_node("Clip", [result], [value], min=0.0, max=upper)]
        else:
            bound = edits.constant(place.scope, place.element_type, upper)
            clip = [onnx.helper.make_node("Clip", [result, "", bound], [value])]
    edits.insert(place, after=_rectify(edits, place, linear, result, form) + clip)
    node.output[0] = linear
    for i, _ in reversed(fused):
        del node.attribute[i]
    return record


def read(scope: Scope) -> dict[str, Hardened]:
    """Find the JumpReLUs of a scope, by the value that each of them writes."""
    found: dict[str, Hardened] = {}
    pieces: dict[str, list[NodeProto]] = {}
    for node in scope.nodes:
        result = node.output[0] if node.output else ""
        if node.domain == DOMAIN and node.op_type == OP_TYPE:
            found[result] = _hardened(scope, "operator", [node], node.input[0], [*node.input[1:2]])
        elif result.startswith(_SITE) and not result.endswith("/linear"):
            pieces.setdefault(_site_value(result), []).append(node)
    for node in scope.nodes if pieces else ():
        result = node.output[0] if node.output else ""
        between = (n for n in node.input if n.startswith(_SITE) and not n.endswith(_ENDS))
        if result in pieces and any(between):
            pieces[result].append(node)
    for nodes in pieces.values():
        written = {node.output[0] for node in nodes}
        inputs = [name for node in nodes for name in node.input if name not in written]
        jump = [name for name in inputs if name.startswith(_CONSTANT)]
        x = next(name for name in inputs if name not in jump)
        found[nodes[-1].output[0]] = _hardened(scope, "standard", nodes, x, jump[:1])
    return found


def undo(edits: Edits, scope: Scope, hardened: Hardened, record: Record) -> None:
    """Put the original activation back."""
    *others, last = hardened.nodes
    if hardened.kind == "relu":
        last.op_type = "Relu"
        last.ClearField("domain")
        if "domain" in record:
            last.domain = record["domain"]
        last.input[:] = [hardened.x]
        for i in reversed(range(len(last.attribute))):
            if hardened.lowering == "standard" or last.attribute[i].name == "jump":
                del last.attribute[i]
    elif hardened.kind == "clip":
        scope.producers[hardened.value].input[0] = hardened.x
        others.append(last)
    else:
        linear = scope.producers[hardened.x]
        linear.output[0] = hardened.value
        for i, encoded in record.get("attributes", _FUSED_RELU):
            linear.attribute.insert(i, AttributeProto.FromString(base64.b64decode(encoded)))
        others.append(last)
        if last.output[0] != hardened.value:
            others.append(scope.producers[hardened.value])
    for node in others:
        edits.remove(scope, node)


def remove_constants(edits: Edits, scope: Scope) -> None:
    """Take out the constants that hardening put at the top of a graph or function."""
    for node in scope.nodes:
        if node.op_type == "Constant" and node.output[0].startswith(_CONSTANT):
            edits.remove(scope, node)


def _rectify(edits: Edits, place: Place, x: str, y: str, form: Form) -> list[NodeProto]:
    """Make the nodes that compute JumpReLU of ``x`` into ``y``."""
    scope, element_type = place.scope, place.element_type
    if form.standard:
        names = {"X": x, "Y": y, "J": edits.constant(scope, element_type, form.jump)}
        new = []
        for pattern in select_nodes(scope.opset, element_type):
            node = NodeProto()
            node.CopyFrom(pattern)
            for values in (node.input, node.output):
                values[:] = [names.get(name) or _inner(_site_value(y), name) for name in values]
            new.append(node)
        return new
    inputs = [x] if form.attribute else [x, edits.constant(scope, element_type, form.jump)]
    node = NodeProto(op_type=OP_TYPE, domain=DOMAIN, input=inputs, output=[y])
    node.attribute.add(name="jump", type=AttributeProto.FLOAT, f=form.jump)
    return [node]


def _hardened(
    scope: Scope, lowering: str, nodes: list[NodeProto], x: str, jump: list[str]
) -> Hardened:
    result = nodes[-1].output[0]
    kind = "relu"
    if x.startswith(_SITE):
        kind = "fused"
    elif result.startswith(_SITE):
        kind = "clip"
    attribute = next((a.f for a in nodes[-1].attribute if a.name == "jump"), 0.0)
    jumps: tuple[float, ...] = (attribute,)
    if jump and (tensor := scope.constant(jump[0])) is not None:
        array = onnx.numpy_helper.to_array(tensor)
        jumps = tuple(float(j) for j in np.ravel(array))
    return Hardened(
        value=_site_value(result), kind=kind, lowering=lowering, x=x, jumps=jumps, nodes=nodes
    )


def _inner(value: str, piece: str) -> str:
    """Name a value between the nodes of a site."""
    return f"{_SITE}{value}/{piece}"


def _site_value(name: str) -> str:
    """Return ``y`` for ``y`` itself and for every value ``onnxfit.site/y/…``."""
    return name[len(_SITE) :].rpartition("/")[0] if name.startswith(_SITE) else name


def _encode(attribute: AttributeProto) -> str:
    return base64.b64encode(attribute.SerializeToString()).decode()


# What a fused node gets back where the record of its attributes is lost.
_FUSED_RELU = [[0, _encode(onnx.helper.make_attribute("activation", "Relu"))]]


def _to_bytes(number: float, element_type: int) -> bytes:
    """Encode a number, little-endian, in a type that represents it."""
    if element_type == TensorProto.BFLOAT16:
        return np.array(number, "<f4").tobytes()[2:]
    code = {"float16": "<f2", "float": "<f4", "double": "<f8"}[ELEMENT_TYPES[element_type]]
    return np.array(number, code).tobytes()
