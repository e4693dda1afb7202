"""The record of what was rewritten, and how it is taken back.

The metadata entry ``onnxfit.rewrites`` is JSON::

    {"applied": {"maxpool": 1},
     "scopes": {"": [["p", "5c0d…", ["<node>", "<node>"]]]}}

For each scope it lists, in the order of the file, what to put in the place of a node, which is
named by the first value that it writes: the nodes as they were, serialised and in base64. The
digest is of the node that is to go. Where it is empty the node stays, behind those listed; where
the name is empty they go to the end.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto

from onnxfit.edits import remove_where
from onnxfit.element_types import every_graph
from onnxfit.errors import ModelError
from onnxfit.lowering import REWRITE_PREFIX
from onnxfit.op import ADD_OP_TYPE, DOMAIN, is_add_jump_relu
from onnxfit.rewrites.order import is_sorted, order_of
from onnxfit.rewrites.region import Region, regions

KEY = f"{DOMAIN}.rewrites"

_ADVICE = "take the hardened file before that, or the source"
_DAMAGED = f"the metadata entry {KEY} is damaged; {_ADVICE}"


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Nodes to put before one, or in its place.

    Attributes:
        slot: Where the node is; the number of nodes for the end.
        replaced: Whether it goes.
        nodes: What to put there.
    """

    slot: int
    replaced: bool
    nodes: list[NodeProto]


def write_record(model: ModelProto, applied: dict[str, int], changed: list[Region]) -> None:
    """Note what was rewritten."""
    scopes = {region.scope.name: _entries(region) for region in changed}
    content = json.dumps({"applied": {k: n for k, n in applied.items() if n}, "scopes": scopes})
    model.metadata_props.add(key=KEY, value=content)


def is_rewritten(model: ModelProto) -> bool:
    """Tell whether a model was rewritten.

    Raises:
        ModelError: It was, and the record of it is lost.
    """
    if any(entry.key == KEY for entry in model.metadata_props):
        return True
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        _check_nothing_is_left(model)
    return False


def names_of(model: ModelProto) -> list[str]:
    """Return the rewrites that the record of a model tells of; none where there is no record.

    Raises:
        ModelError: The record is damaged.
    """
    try:
        records = [json.loads(entry.value) for entry in model.metadata_props if entry.key == KEY]
        return [str(name) for record in records for name in record["applied"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(_DAMAGED) from None


def undo(model: ModelProto) -> None:
    """Take back what the record of a model tells.

    Raises:
        ModelError: The record is damaged, or the nodes are no longer those that were written.
    """
    content = next(entry.value for entry in model.metadata_props if entry.key == KEY)
    found = {region.scope.name: region for region in regions(model)}
    try:
        record = json.loads(content)
        if not all(isinstance(count, int) for count in record["applied"].values()):
            raise ValueError
        steps = [
            (found[name], [_step(found[name], entry) for entry in entries])
            for name, entries in record["scopes"].items()
        ]
    except (ValueError, TypeError, KeyError, AttributeError, DecodeError, RecursionError):
        raise ModelError(_DAMAGED) from None
    for region, of_region in steps:
        nodes: Any = region.scope.nodes
        sorted_before = is_sorted(order_of(nodes))
        for step in sorted(of_region, key=lambda step: step.slot, reverse=True):
            if step.replaced:
                del nodes[step.slot]
            for node in reversed(step.nodes):
                nodes.insert(step.slot, node)
        # Another tool may have moved a node ahead of what belongs before it.
        order = order_of(nodes)
        if sorted_before and not is_sorted(order):
            moved = [NodeProto.FromString(nodes[i].SerializeToString()) for i in order]
            del nodes[:]
            nodes.extend(moved)
    remove_where(model.functions, lambda f: (f.domain, f.name) == (DOMAIN, ADD_OP_TYPE))
    remove_where(model.metadata_props, lambda entry: entry.key == KEY)
    _check_nothing_is_left(model)


def _entries(region: Region) -> list[list[Any]]:
    entries: list[list[Any]] = []
    waiting: list[str] = []
    for slot, node in enumerate(region.slots):
        if slot in region.before:
            waiting.append(base64.b64encode(region.before[slot]).decode())
        if node is not None and waiting:
            digest = _digest(node) if slot in region.before else ""
            entries.append([_name(node), digest, waiting])
            waiting = []
    return [*entries, ["", "", waiting]] if waiting else entries


def _step(region: Region, entry: Any) -> _Step:
    name, digest, encoded = entry
    slot = region.writer(name) if name else len(region.slots)
    if slot is None or (digest and digest != _digest(region.node(slot))):
        raise ModelError(
            f"another tool changed what onnxfit rewrote: the node that wrote {name!r} is another "
            f"or gone; {_ADVICE}"
        )
    nodes = [NodeProto.FromString(base64.b64decode(one, validate=True)) for one in encoded]
    return _Step(slot=slot, replaced=bool(digest), nodes=nodes)


def _name(node: NodeProto) -> str:
    return next((value for value in node.output if value), "")


def _digest(node: NodeProto) -> str:
    """Return what tells a node from others that compute something else."""
    parts = [node.domain, node.op_type, list(node.input), list(node.output)]
    attributes = sorted((a.name, a.SerializeToString(deterministic=True)) for a in node.attribute)
    return hashlib.sha256(repr([*parts, attributes]).encode()).hexdigest()[:16]


def _check_nothing_is_left(model: ModelProto) -> None:
    """Refuse nodes that a rewrite made."""
    for graph in every_graph(model):
        for node in graph.node:
            made = any(value.startswith(REWRITE_PREFIX) for value in node.output)
            if made or is_add_jump_relu(node):
                raise ModelError(
                    "the model has nodes that onnxfit rewrote and no record of what they were: "
                    f"another tool changed it; {_ADVICE}"
                )
