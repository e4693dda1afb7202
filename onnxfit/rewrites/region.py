"""A graph or function that is rewritten: its nodes, each in a slot, and who reads what."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from onnxfit.element_types import function_scope, subgraph_scope
from onnxfit.graph import BLOCKED_DOMAIN, Scope
from onnxfit.op import DEFAULT_DOMAINS, is_our_function
from onnxfit.rewrites.shapes import Shapes


@dataclass(kw_only=True)
class Region:
    """The nodes of one scope while they are rewritten; the model changes with :meth:`commit`.

    A rewrite puts other nodes into slots and empties slots, and never adds one.

    Attributes:
        scope: The graph or function.
        shapes: Those of all values of the model.
        slots: The nodes in the order of the file; None where one was taken out.
        before: Slot → what it held at first, serialised, for the slots that changed.
        pinned: The values that are read from elsewhere: by subgraphs, or as outputs.
    """

    scope: Scope
    shapes: Shapes
    pinned: set[str]
    slots: list[NodeProto | None] = field(init=False)
    before: dict[int, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.slots = list(self.scope.nodes)
        self._readers: Counter[str] = Counter()
        self._writers: dict[str, int] = {}
        for slot, node in enumerate(self.slots):
            if node is not None:
                # Of a value that is written twice, as in a damaged file, nothing is known.
                self.pinned.update(name for name in node.output if name in self._writers)
                self._register(slot, node)

    def sole(self, value: str, slot: int) -> int | None:
        """Return the slot of the node before ``slot`` whose one output nobody else reads."""
        writer = self._writers.get(value)
        if writer is None or writer >= slot or self._readers[value] != 1 or value in self.pinned:
            return None
        node = self.slots[writer]
        return writer if node is not None and len(node.output) == 1 else None

    def writer(self, value: str) -> int | None:
        """Return the slot of the node that writes a value."""
        return self._writers.get(value)

    def node(self, slot: int) -> NodeProto:
        """Return the node in a slot that holds one."""
        node = self.slots[slot]
        if node is None:
            raise IndexError(f"slot {slot} is empty")
        return node

    def put(self, slot: int, node: NodeProto | None) -> None:
        """Put another node into a slot, or none."""
        old = self.node(slot)
        self.before.setdefault(slot, old.SerializeToString())
        self._readers.subtract(old.input)
        for name in old.output:
            if self._writers.get(name) == slot:
                del self._writers[name]
        self.slots[slot] = node
        if node is not None:
            self._register(slot, node)

    def commit(self) -> None:
        """Make the model's own nodes those of the slots."""
        nodes = self.scope.nodes
        for slot in sorted(self.before, reverse=True):
            node = self.slots[slot]
            if node is None:
                del nodes[slot]
            else:
                nodes[slot].CopyFrom(node)

    def _register(self, slot: int, node: NodeProto) -> None:
        self._readers.update(node.input)
        self._writers.update((name, slot) for name in node.output if name)


def is_default(node: NodeProto, *op_types: str) -> bool:
    """Tell whether a node is one of some operators of ONNX's own domain."""
    return node.op_type in op_types and node.domain in DEFAULT_DOMAINS


def is_reorder(node: NodeProto) -> bool:
    """Tell whether a node leads into ONNX Runtime's blocked layout, or out of it."""
    return node.op_type in ("ReorderInput", "ReorderOutput") and node.domain == BLOCKED_DOMAIN


def copy_of(node: NodeProto, inputs: list[str], output: str) -> NodeProto:
    """Return a copy of a node that reads and writes other values."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = inputs
    copy.output[:] = [output]
    return copy


def regions(model: ModelProto) -> Iterator[Region]:
    """Yield every graph and function, those left out whose name another one has too."""
    walk = _Walk(model)
    inputs = {value.name for value in model.graph.input} if model.ir_version >= 4 else set()
    walk.visit(model.graph, "", None, inputs)
    for function in model.functions:
        if not is_our_function(function):
            walk.visit(function, function_scope(function), None, set())
    names = Counter(region.scope.name for region in walk.found)
    yield from (region for region in walk.found if names[region.scope.name] == 1)


class _Walk:
    def __init__(self, model: ModelProto) -> None:
        self.shapes = Shapes(model)
        self.found: list[Region] = []

    def visit(
        self, owner: GraphProto | FunctionProto, name: str, outer: Scope | None, inputs: set[str]
    ) -> set[str]:
        """Find the regions of a graph and those inside; return every value that they read."""
        tensors = owner.initializer if isinstance(owner, GraphProto) else ()
        scope = Scope(
            name=name,
            nodes=owner.node,
            opset=0,
            types={},
            initializers={t.name: t for t in tensors if t.name not in inputs},
            outer=outer,
        )
        pinned: set[str] = set()
        for node in owner.node:
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else []
                for graph in (*inner, *attribute.graphs):
                    label = subgraph_scope(node, name, attribute.name)
                    pinned |= self.visit(graph, label, scope, set())
        pinned.update(
            owner.output
            if isinstance(owner, FunctionProto)
            else (value.name for value in owner.output)
        )
        read = pinned.union(*(node.input for node in owner.node))
        self.found.append(Region(scope=scope, shapes=self.shapes, pinned=pinned))
        return read
