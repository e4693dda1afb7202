"""Change the nodes of a model: insertions and removals collected first, made together."""

from collections.abc import Callable, MutableSequence
from typing import TypeVar

import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, NodeProto, TensorProto

from onnxfit.graph import Scope
from onnxfit.op import ELEMENT_TYPES, Jumps

CONSTANT_PREFIX = "onnxfit.constant/"
Item = TypeVar("Item")


class Edits:
    """Nodes to insert around others and nodes to remove, all at once in the end."""

    def __init__(self) -> None:
        self._scopes: dict[int, Scope] = {}
        self._around: dict[int, tuple[NodeProto, list[NodeProto], list[NodeProto]]] = {}
        self._removed: dict[int, NodeProto] = {}
        self._constants: dict[int, dict[str, NodeProto]] = {}

    def before(self, scope: Scope, node: NodeProto, new: list[NodeProto]) -> None:
        """Put nodes before another."""
        self._scopes[id(scope)] = scope
        self._around[id(node)] = (node, new, [])

    def after(self, scope: Scope, node: NodeProto, new: list[NodeProto]) -> None:
        """Put nodes behind another."""
        self._scopes[id(scope)] = scope
        self._around[id(node)] = (node, [], new)

    def remove(self, scope: Scope, node: NodeProto) -> None:
        """Take a node out."""
        self._scopes[id(scope)] = scope
        self._removed[id(node)] = node

    def constant(self, scope: Scope, element_type: int, number: float) -> str:
        """Return the name of a constant, which is put at the top of the graph or function."""
        return self._constant(scope, element_type, repr(number), np.asarray(number, np.float32))

    def array(self, scope: Scope, element_type: int, site: str, numbers: Jumps) -> str:
        """Return the name of a site's own constant with at least one axis, put there too."""
        return self._constant(scope, element_type, f"{site}/elements", numbers)

    def _constant(self, scope: Scope, element_type: int, label: str, numbers: Jumps) -> str:
        self._scopes[id(scope.top)] = scope.top
        constants = self._constants.setdefault(id(scope.top), {})
        name = f"{CONSTANT_PREFIX}{ELEMENT_TYPES[element_type]}/{label}"
        if name not in constants:
            content = _to_bytes(numbers, element_type)
            tensor = TensorProto(
                data_type=element_type, dims=numbers.shape, raw_data=content, name=name
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
                if node in self._removed:
                    del nodes[i]
                elif node in self._around:
                    _, before, after = self._around[node]
                    for new in reversed(after):
                        nodes.insert(i + 1, new)
                    for new in reversed(before):
                        nodes.insert(i, new)
            for new in reversed(self._constants.get(key, {}).values()):
                nodes.insert(0, new)


def remove_where(items: MutableSequence[Item], unwanted: Callable[[Item], bool]) -> None:
    """Take items out of a repeated field.

    Args:
        items: The field, which is changed.
        unwanted: Tells whether an item is to go.
    """
    # From the back, so that the places before stay where they are.
    for i in reversed(range(len(items))):
        if unwanted(items[i]):
            del items[i]


def rename_values(graph: GraphProto | FunctionProto, renamed: Callable[[str], str]) -> None:
    """Give values other names, in one graph without those inside.

    Args:
        graph: The graph, which is changed; of a function the nodes alone.
        renamed: The new name of each.
    """
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [renamed(value) for value in values]
    if isinstance(graph, GraphProto):
        # Before IR version 4 initializers are inputs too; and a subgraph has outputs.
        for item in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
            item.name = renamed(item.name)


def _to_bytes(numbers: Jumps, element_type: int) -> bytes:
    """Encode numbers, little-endian, in a type that represents them."""
    if element_type == TensorProto.BFLOAT16:
        return (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
    code = {"float16": "<f2", "float": "<f4", "double": "<f8"}[ELEMENT_TYPES[element_type]]
    return numbers.astype(code).tobytes()
