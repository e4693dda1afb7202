"""Sites: the activations of a model that can become a JumpReLU."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto

from onnxfit import lowering
from onnxfit.element_types import MIXED, UNKNOWN
from onnxfit.errors import ModelError
from onnxfit.files import as_model
from onnxfit.graph import BLOCKED_DOMAIN, Scope, scopes
from onnxfit.op import DEFAULT_DOMAINS, ELEMENT_TYPES, MIN_OPSET_BFLOAT16, shortest_of_each
from onnxfit.passes import PREFIXES
from onnxfit.rewrites import unrewritten
from onnxfit.unreplaced import OTHERS, why_it_stays, why_no_rectifier

# Where ONNX Runtime's optimiser puts the operators that carry a fused activation.
FUSED_DOMAINS = ("com.microsoft", BLOCKED_DOMAIN, "com.ms.internal.nhwc")
# The operators of the default domain that are looked at more closely.
_ACTIVATIONS = {"Relu", "Clip", *OTHERS}


@dataclass(frozen=True)
class Site:
    """An activation that can become a JumpReLU, named after the value it writes.

    Attributes:
        name: The value's name, behind its scope and ``/`` where it is not in the main graph.
        kind: ``relu``; ``clip``, a Clip with the lower bound 0; or ``fused``, the activation
            of an operator that ONNX Runtime fused it into.
        jump: The jump size, None where the activation is not hardened; a tuple where the jump
            differs between elements, an empty one where it is computed at run time.
        scope: Empty in the main graph, else the path of subgraphs or the function's name.
        element_type: ``float``, ``float16``, ``bfloat16`` or ``double``; empty where unknown.
        lowering: ``operator`` (a JumpReLU node) or ``standard`` (standard operators) for a
            hardened activation, else None.
    """

    name: str
    kind: str
    jump: float | tuple[float, ...] | None = None
    scope: str = ""
    element_type: str = ""
    lowering: str | None = None


@dataclass(frozen=True)
class Unreplaced:
    """An activation that stays as it is, named after the value it writes, and the reason."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """A site, its place in the model, and how it is written where it is hardened already."""

    site: Site
    place: lowering.Place
    hardened: lowering.Hardened | None = None


def find_sites(model: ModelProto | str | Path, base_dir: str | Path | None = None) -> list[Site]:
    """List the activations that can become a JumpReLU and those that already are one.

    Args:
        model: A model or the path of one. No weight is read.
        base_dir: Folder of the external data; not needed here.

    Raises:
        ModelError: The file is no ONNX model, or of an opset that is not supported.
    """
    del base_dir
    return [found.site for found in scan(unrewritten(as_model(model))) if isinstance(found, Found)]


def scan(model: ModelProto) -> Iterator[Found | Unreplaced]:
    """Yield every activation of the model, scope by scope, in the order of the file.

    Nodes of what was put in front of the network or behind it are none of its activations.

    Raises:
        ModelError: A name in the model is not UTF-8, which protobuf hands over as bytes.
    """
    try:
        yield from _scan(model)
    except TypeError as error:
        if "bytes" in str(error):
            raise ModelError("the model has names that are not UTF-8") from error
        raise


def check_layout(sites: Iterable[Found]) -> None:
    """Refuse sites to which an array of jumps does not broadcast as to a plain tensor.

    Raises:
        ModelError: One acts on ONNX Runtime's blocked layout.
    """
    for found in sites:
        if is_blocked(found):
            raise ModelError(
                f"{found.site.name!r} acts on ONNX Runtime's blocked layout, in which a channel "
                "is not an axis: give it one number, or harden the model before it is optimised"
            )


def is_blocked(found: Found) -> bool:
    """Tell whether an activation acts on ONNX Runtime's blocked layout."""
    return found.place.node.output[0] in found.place.scope.blocked


def _scan(model: ModelProto) -> Iterator[Found | Unreplaced]:
    for scope in scopes(model):
        written = lowering.read(scope)
        for node in scope.nodes:
            value = node.output[0] if node.output else ""
            if value.startswith(PREFIXES):
                continue
            if value in written:
                yield _hardened(node, scope, written[value])
            elif node.op_type in _ACTIVATIONS or node.domain in FUSED_DOMAINS:
                found = None if written and lowering.is_part(node) else _activation(node, scope)
                if found is not None:
                    yield found


def _fused_activation(node: NodeProto) -> tuple[str, list[float]]:
    """Return the name and the parameters of the activation that was fused into a node."""
    name, parameters = "", []
    for attribute in node.attribute:
        if attribute.name == "activation":
            name = attribute.s.decode() or attribute.ref_attr_name
        elif attribute.name == "activation_params":
            parameters = list(attribute.floats)
    return name, parameters


def _activation(node: NodeProto, scope: Scope) -> Found | Unreplaced | None:
    """Decide whether a node is a site, an activation that stays, or neither."""
    reason = ""
    if not (node.output and node.output[0] and node.input and node.input[0]):
        return None
    if node.domain in DEFAULT_DOMAINS:
        if node.op_type == "Relu":
            return _site(node, scope, "relu")
        if node.op_type == "Clip":
            reason = why_no_rectifier(node, scope)
            if not reason:
                return _site(node, scope, "clip")
    elif node.domain in FUSED_DOMAINS:
        activation, parameters = _fused_activation(node)
        from_zero = activation == "Clip" and len(parameters) == 2 and parameters[0] == 0
        if activation == "Relu" or from_zero:
            return _site(node, scope, "fused")
        if activation:
            reason = f"the activation fused into it is {activation}"
    else:
        return None
    reason = reason or why_it_stays(node, scope)
    return _unreplaced(node, scope, reason) if reason else None


def _site(node: NodeProto, scope: Scope, kind: str) -> Found | Unreplaced:
    value = node.output[0]
    element_type = scope.types.get(value, UNKNOWN) or scope.types.get(node.input[0], UNKNOWN)
    if element_type == MIXED and scope.opset < 15:
        reason = "its function is called with several element types, which needs opset 15"
        return _unreplaced(node, scope, reason)
    if element_type == TensorProto.BFLOAT16 and scope.opset < MIN_OPSET_BFLOAT16:
        reason = f"bfloat16 needs opset {MIN_OPSET_BFLOAT16}"
        return _unreplaced(node, scope, reason)
    if element_type not in (UNKNOWN, MIXED) and element_type not in ELEMENT_TYPES:
        names = {number: name for name, number in TensorProto.DataType.items()}
        name = names.get(element_type, f"type {element_type}").lower()
        return _unreplaced(node, scope, f"it acts on {name}, not on a floating type")
    site = Site(
        scope.full_name(value), kind, scope=scope.name, element_type=_type_name(element_type)
    )
    return Found(site=site, place=_place(node, scope, kind, element_type))


def _hardened(node: NodeProto, scope: Scope, hardened: lowering.Hardened) -> Found:
    element_type = scope.types.get(hardened.x, UNKNOWN)
    place = _place(node, scope, hardened.kind, element_type)
    jumps = tuple(shortest_of_each(hardened.jumps, place.element_type) if hardened.jumps else ())
    site = Site(
        scope.full_name(hardened.value),
        hardened.kind,
        jump=jumps[0] if len(jumps) == 1 else jumps,
        scope=scope.name,
        element_type=_type_name(element_type),
        lowering=hardened.lowering,
    )
    return Found(site=site, place=place, hardened=hardened)


def _place(node: NodeProto, scope: Scope, kind: str, element_type: int) -> lowering.Place:
    known = element_type if element_type in ELEMENT_TYPES else UNKNOWN
    if known == UNKNOWN and scope.opset < 15:
        # No body serves several types there, and nearly every activation is float.
        known = TensorProto.FLOAT
    return lowering.Place(scope=scope, node=node, kind=kind, element_type=known)


def _type_name(element_type: int) -> str:
    return ELEMENT_TYPES.get(element_type, "")


def _unreplaced(node: NodeProto, scope: Scope, reason: str) -> Unreplaced:
    value = next((value for value in node.output if value), node.name)
    return Unreplaced(scope.full_name(value), node.op_type, reason)
