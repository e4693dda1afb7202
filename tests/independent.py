"""A second opinion on hardened files, without onnxfit: what differs and what they must compute.

:func:`differences` compares a file with its source proto by proto, and :func:`swapped` writes the
source's activations as a few standard operators, other ones than onnxfit's function bodies.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array, to_array

Jump = Callable[[str], float]


def jump_of(value: str, base: float = 0.1) -> float:
    """Give every value a jump size of its own, so that no test passes with them mixed up."""
    return round(base * (1 + zlib.crc32(value.encode()) % 4), 6)


def differences(source: ModelProto, hardened: ModelProto) -> list[str]:
    """List what a hardened model changed beyond its activations, its function and its record."""
    found = _other_fields(
        source,
        hardened,
        "model",
        ("ir_version", "opset_import", "functions", "metadata_props", "graph"),
    )
    if hardened.ir_version not in (source.ir_version, max(source.ir_version, 8)):
        found.append(f"model.ir_version: {source.ir_version} became {hardened.ir_version}")
    kept = [entry for entry in hardened.metadata_props if not entry.key.startswith("onnxfit.")]
    found += _lists(source.metadata_props, kept, "model.metadata_props")
    found += _imports(source, hardened, "model")
    found += _graphs(source.graph, hardened.graph, "graph")
    functions = [f for f in hardened.functions if (f.domain, f.name) != ("onnxfit", "JumpReLU")]
    if len(source.functions) != len(functions):
        found.append("model.functions: one is missing or was added")
    for old, new in zip(source.functions, functions, strict=False):
        place = f"function {old.domain}::{old.name}"
        found += _other_fields(old, new, place, ("node", "opset_import"))
        found += _imports(old, new, place)
        found += _nodes(old.node, new.node, place)
    return found


def _graphs(old: GraphProto, new: GraphProto, place: str) -> list[str]:
    return _other_fields(old, new, place, ("node",)) + _nodes(old.node, new.node, place)


def _nodes(source: Iterable[NodeProto], hardened: Iterable[NodeProto], place: str) -> list[str]:
    """Walk two lists of nodes side by side, a hardened activation against its original."""
    found: list[str] = []
    rest = [node for node in hardened if not _is_added_constant(node)]
    for old in source:
        if not rest:
            return [*found, f"{place}: {old.op_type} {old.output[:1]} is missing"]
        where = f"{place}, {old.op_type} {old.output[0] if old.output else old.name}"
        if old.op_type == "Relu" and rest[0] != old:
            group = _take_until(rest, old.output[0])
            found += _rectifier(old.input[0], group, where)
            found += _other_fields(
                old, group[-1], where, ("op_type", "domain", "input", "attribute")
            )
        elif old.op_type == "Clip" and rest[0] != old:
            *group, clip = _take_until(rest, old.output[0])
            found += _rectifier(old.input[0], group, where)
            found += _other_fields(old, clip, where, ("input",))
            if [group[-1].output[0] if group else "", *old.input[1:]] != list(clip.input):
                found.append(f"{where}: the bounds or the order")
        elif any(a.name == "activation" for a in old.attribute) and rest[0] != old:
            linear, *group = _take_until(rest, old.output[0])
            clips = [node for node in group if node.op_type == "Clip"]
            found += _rectifier(linear.output[0], group[: len(group) - len(clips)], where)
            changed = ("op_type", "domain", "output", "attribute")
            found += _other_fields(old, linear, where, changed)
            kept = [a for a in old.attribute if not a.name.startswith("activation")]
            found += _lists(kept, linear.attribute, where)
        else:
            new = rest.pop(0)
            found += _other_fields(old, new, where, ("attribute",))
            for one, other in zip_longest(old.attribute, new.attribute):
                if one is None or other is None:
                    found.append(f"{where}: an attribute is missing or was added")
                elif one.type == AttributeProto.GRAPH:
                    found += _other_fields(one, other, where, ("g",))
                    found += _graphs(one.g, other.g, f"{where}.{one.name}")
                elif one != other:
                    found.append(f"{where}: attribute {one.name}")
    return found + [f"{place}: {node.op_type} {node.output[:1]} was added" for node in rest]


def _is_added_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.output[0].startswith("onnxfit.constant/")


def _take_until(nodes: list[NodeProto], value: str) -> list[NodeProto]:
    """Take the nodes up to the one that writes a value; all of them where none does."""
    writes = [value in node.output for node in nodes]
    count = writes.index(True) + 1 if True in writes else len(nodes)
    taken = nodes[:count]
    del nodes[:count]
    return taken


def _rectifier(x: str, nodes: Sequence[NodeProto], where: str) -> list[str]:
    """Check that nodes read a value and constants, and write into onnxfit's own names."""
    found = []
    if not nodes:
        return [f"{where}: nothing stands for it"]
    own = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input} - own
    if {name for name in read if not name.startswith("onnxfit.constant/")} != {x}:
        found.append(f"{where}: it reads {sorted(read)}")
    if not all(name.startswith("onnxfit.site/") for node in nodes[:-1] for name in node.output):
        found.append(f"{where}: an inner value has a foreign name")
    if [node.op_type for node in nodes] == ["JumpReLU"]:
        if nodes[0].domain != "onnxfit" or any(a.name != "jump" for a in nodes[0].attribute):
            found.append(f"{where}: it is not onnxfit's operator, or has more than a jump")
    elif any(node.domain for node in nodes):
        found.append(f"{where}: an operator that is not standard")
    return found


def _imports(old: Any, new: Any, place: str) -> list[str]:
    kept = [i for i in new.opset_import if i.domain != "onnxfit" or i in old.opset_import]
    added = [i for i in new.opset_import if i not in kept]
    found = _lists(old.opset_import, kept, f"{place}.opset_import")
    if [(i.domain, i.version) for i in added] not in ([], [("onnxfit", 1)]):
        found.append(f"{place}.opset_import: onnxfit is not imported once, in version 1")
    return found


def _lists(old: Iterable[Message], new: Iterable[Message], place: str) -> list[str]:
    return [] if list(old) == list(new) else [place]


def _other_fields(old: Message, new: Message, place: str, but: tuple[str, ...]) -> list[str]:
    """Compare two messages field by field, presence included, but for some fields."""
    found = []
    for descriptor in old.DESCRIPTOR.fields:
        name = descriptor.name
        if name in but:
            continue
        same = getattr(old, name) == getattr(new, name)
        if same and descriptor.has_presence:
            same = old.HasField(name) == new.HasField(name)
        if not same:
            found.append(f"{place}: {name}")
    return found


def swapped(source: ModelProto, jump: Jump, element_type: int = TensorProto.FLOAT) -> ModelProto:
    """Write every activation as standard operators that compute JumpReLU exactly.

    Args:
        source: A model that is not hardened; it stays as it is.
        jump: Gives the jump size from the name of the value that the activation writes.
        element_type: Of all activations.
    """
    model = ModelProto()
    model.CopyFrom(source)
    opset = next(i.version for i in model.opset_import if i.domain in ("", "ai.onnx"))
    constants = {t.name: t for t in model.graph.initializer}
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        _swap(nodes, opset, jump, element_type, constants)
    return model


def _swap(
    nodes: Any, opset: int, jump: Jump, element_type: int, constants: dict[str, TensorProto]
) -> None:
    new: list[NodeProto] = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _swap(attribute.g.node, opset, jump, element_type, constants)
            elif node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = attribute.t
        y = node.output[0] if node.output else ""
        linear, limited = f"reference/{y}/linear", f"reference/{y}/limited"
        fused = {a.name: a for a in node.attribute if a.name.startswith("activation")}
        if node.op_type == "Relu":
            new += _select(node.input[0], y, opset, jump(y), element_type)
        elif node.op_type == "Clip" and _lower_bound(node, constants) == 0:
            new += _select(node.input[0], limited, opset, jump(y), element_type)
            new.append(make_node("Clip", [limited, *node.input[1:]], [y]))
            new[-1].attribute.extend(node.attribute)
        elif node.domain.startswith("com.microsoft") and "activation" in fused:
            gemm = node.op_type == "FusedGemm"
            inner = make_node(
                "Gemm" if gemm else node.op_type,
                node.input,
                [linear],
                domain=None if gemm else node.domain,
            )
            inner.attribute.extend(a for a in node.attribute if a.name not in fused)
            new.append(inner)
            if fused["activation"].s == b"Relu":
                new += _select(linear, y, opset, jump(y), element_type)
            else:
                lower, upper = fused["activation_params"].floats
                assert (b"Clip", 0) == (fused["activation"].s, lower)
                new += _select(linear, limited, opset, jump(y), element_type)
                bound = from_array(np.asarray(upper, np.float32), f"{limited}/bound")
                new.append(make_node("Constant", [], [bound.name], value=bound))
                new.append(make_node("Min", [limited, bound.name], [y]))
        else:
            new.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in new]
    del nodes[:]
    nodes.extend(copies)


def _lower_bound(clip: NodeProto, constants: dict[str, TensorProto]) -> float | None:
    attribute = next((a.f for a in clip.attribute if a.name == "min"), None)
    if len(clip.input) < 2:
        return attribute
    return float(to_array(constants[clip.input[1]])) if clip.input[1] in constants else None


def _select(x: str, y: str, opset: int, jump: float, element_type: int) -> list[NodeProto]:
    """Write JumpReLU of ``x`` into ``y``."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))
    at = np.float32(jump).astype(dtype)
    nodes: list[NodeProto] = []

    def constant(name: str, value: Any) -> str:
        tensor = from_array(np.asarray(value, dtype), f"reference/{y}/{name}")
        nodes.append(make_node("Constant", [], [tensor.name], value=tensor))
        return tensor.name

    def operator(op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"reference/{y}/{op_type}"
        nodes.append(make_node(op_type, inputs, [output], **attributes))
        return output

    zero = constant("zero", 0)
    if opset >= 12:
        operator("Where", [operator("LessOrEqual", [x, constant("jump", at)]), zero, x], y)
        return nodes
    # At most the jump is less than the next number.
    drop = operator("Less", [x, constant("next", np.nextafter(at, dtype.type(np.inf)))])
    if opset >= 9:
        operator("Where", [drop, zero, x], y)
        return nodes
    keep = operator("Cast", [operator("Not", [drop])], to=element_type)
    product = operator("Mul", [operator("Relu", [x]), keep])
    operator("Add", [product, zero], y)
    return nodes


def main_graph_values(model: ModelProto) -> Iterator[str]:
    """Yield the values that rectifiers of the main graph write."""
    for node in model.graph.node:
        if node.op_type in ("Relu", "Clip"):
            yield node.output[0]


def expose(model: ModelProto, values: Iterable[str], element_type: int) -> ModelProto:
    """Return the model with inner values as outputs, to see more than the last ones."""
    copy = ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    for value in values:
        if value not in present:
            tensor = copy.graph.output.add(name=value).type.tensor_type
            tensor.elem_type = element_type
    return copy
