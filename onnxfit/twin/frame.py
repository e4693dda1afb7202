"""A graph or a call of a function while its nodes become steps."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from onnxfit.edits import CONSTANT_PREFIX
from onnxfit.element_types import UNKNOWN, function_scope, subgraph_scope
from onnxfit.errors import ModelError
from onnxfit.graph import reads
from onnxfit.lowering import INPUT_PREFIX, Hardened
from onnxfit.twin import registry
from onnxfit.twin.definitions import definition
from onnxfit.twin.node import Node, Outputs, call, describe
from onnxfit.twin.program import Block, Step, leaves
from onnxfit.twin.values import Constant, Part, Value, Variable, Weight

if TYPE_CHECKING:
    from onnxfit.twin.builder import Builder
    from onnxfit.twin.registry import Converter


# They only choose among numbers, so that quantised ones are the same in floating point.
CHOOSING = ("Clip", "Max", "MaxPool", "Min", "Relu")


class Frame:
    """A graph, a subgraph or a call of a function while its nodes become steps of a block."""

    def __init__(
        self,
        builder: "Builder",
        block: Block,
        scope: str,
        opsets: Mapping[str, int],
        outer: "Frame | None" = None,
        attributes: Mapping[str, AttributeProto] | None = None,
        types: Mapping[str, int] | None = None,
    ) -> None:
        self.builder = builder
        self.block = block
        self.scope = scope
        self.opsets = opsets
        self._outer = outer
        self._attributes = attributes
        self._types = types
        self._values: dict[str, Value] = {}
        self._initializers: dict[str, TensorProto] = {}
        self._tensors: dict[int, Value] = {}

    def hold(self, graph: GraphProto) -> None:
        """Make the initializers of a graph known."""
        self._initializers.update({tensor.name: tensor for tensor in graph.initializer})
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            self._values[name] = self.builder.sparse_initializer(self.scope, sparse)

    def variable(self, name: str) -> Variable:
        """Make a value known that is given at run time."""
        variable = Variable()
        self._values[name] = variable
        return variable

    def bind(self, names: Iterable[str], values: Iterable[Value]) -> None:
        """Give values their names."""
        self._values.update(zip(names, values, strict=False))

    def find(self, name: str) -> Value:
        """Return the value of a name, looking outwards.

        Raises:
            ModelError: Nothing writes it.
        """
        frame: Frame | None = self
        while frame is not None:
            if name in frame._values:
                return frame._values[name]
            if name in frame._initializers:
                value = self.builder.initializer(frame.scope, frame._initializers[name])
                frame._values[name] = value
                return value
            frame = frame._outer
        raise ModelError(f"nothing in the model writes {name!r}")

    def type_of(self, name: str) -> int:
        """Return the ``TensorProto`` type of a value, 0 where it is not known."""
        types = self.builder.types.get(self.scope, {}) if self._types is None else self._types
        return max(types.get(name, UNKNOWN), UNKNOWN)

    def attributes_of(self, proto: NodeProto) -> list[AttributeProto]:
        """Return a node's attributes, those of the function around it filled in."""
        if self._attributes is None:
            return list(proto.attribute)
        found = []
        for attribute in proto.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name not in self._attributes:
                    continue
                given = AttributeProto()
                given.CopyFrom(self._attributes[attribute.ref_attr_name])
                given.name = attribute.name
                found.append(given)
            else:
                found.append(attribute)
        return found

    def run(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> tuple[Value, ...]:
        """Turn the nodes that some names need into steps; return the values of the names."""
        for proto in self._needed(nodes, outputs):
            results = self._convert(proto)
            results = results if isinstance(results, tuple) else (results,)
            self.bind(proto.output, results)
        return tuple(self.output(name) for name in outputs)

    def _needed(self, nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
        """Return the nodes that some values depend on, in order."""
        wanted = set(outputs)
        kept = []
        for node in reversed(nodes):
            if not wanted.isdisjoint(node.output):
                kept.append(node)
                site = self._site(node)
                wanted.update(reads(node) if site is None else (site.x, *jump_names(site)))
        return kept[::-1]

    def _site(self, proto: NodeProto) -> Hardened | None:
        """Return the JumpReLU whose result a node writes, if it does."""
        found = self.builder.hardened
        return found.get((self.scope, proto.output[0])) if found and proto.output else None

    def output(self, name: str) -> Value:
        """Return a value in the form in which a graph or function gives it out."""
        value = self.find(name) if name else Constant(None)
        return self.as_tensor(value) if isinstance(value, Variable) else value

    def _convert(self, proto: NodeProto) -> Outputs:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        site = self._site(proto)
        if site is not None:
            return self._jump_relu(proto, site)
        function = self.builder.functions.get((proto.domain, proto.op_type, proto.overload))
        if function is not None:
            return self._call(proto, function, function_scope(function))
        node = Node(self, proto, self.opsets.get(domain, 1))
        rank = self._host_rank(proto)
        on_host = None if rank is None else registry.find_on_host(domain, proto.op_type, rank)
        if on_host is not None:
            results = on_host(node)
            if results is not NotImplemented:
                return results
        converter = registry.find(domain, proto.op_type, node.opset)
        if converter is not None:
            results = converter(node)
            if domain == "" and proto.op_type in CHOOSING:
                choose_in_floats(node, converter, results)
            return results
        body = definition(node)
        if body is None:
            node.unsupported("there is no converter for it")
        return self._call(proto, body, None)

    def _host_rank(self, proto: NodeProto) -> int | None:
        """Return the largest rank of a node's inputs where all are integers without a tensor.

        Only a call must know one of them, at least; else, and for tensors, None is returned.
        """
        values = [self.find(name) for name in proto.input if name]
        variables = [value for value in values if isinstance(value, Variable)]
        others = [value for value in values if not isinstance(value, Variable)]
        if not variables or not all(value.host for value in variables):
            return None
        if not all(isinstance(value, Constant) and small_integers(value) for value in others):
            return None
        return max(1 if value.rank is None else value.rank for value in variables)

    def _jump_relu(self, proto: NodeProto, site: Hardened) -> Outputs:
        x = self.as_tensor(self.find(site.x))
        jump = next((self.as_tensor(self.find(name)) for name in jump_names(site)), None)
        if len(site.jumps) == 1:
            jump = Constant(torch.tensor(site.jumps[0]))
        # Each call of a function may give a jump of its own, and they share the module.
        known = to_known(jump) if site.jumps else None
        module = self.builder.jump_relu(self.scope, site, known)
        args = [x, jump] if known is None else [x]
        return self.emit(describe(proto), call, (Part(module), *args), {}, 0, fold=False)

    def _call(self, proto: NodeProto, function: FunctionProto, scope: str | None) -> Outputs:
        """Inline a function at a node that calls it."""
        attributes = {a.name: a for a in function.attribute_proto}
        attributes.update({a.name: a for a in self.attributes_of(proto)})
        types = None
        if scope is None:
            scope = f"{self.scope}/{proto.output[0]}"
            types = {n: self.type_of(i) for n, i in zip(function.input, proto.input, strict=False)}
        opsets = {**self.opsets, **versions(function.opset_import)}
        inner = Frame(self.builder, self.block, scope, opsets, None, attributes, types)
        given = [self.find(name) if name else Constant(None) for name in proto.input]
        inner.bind(function.input, given)
        inner.bind(function.input[len(given) :], [Constant(None)] * len(function.input))
        with self.builder.call(describe(proto)):
            return inner.run(function.node, function.output[: len(proto.output)])

    def _child(self, proto: NodeProto, graph: GraphProto, attribute: str, block: Block) -> "Frame":
        scope = subgraph_scope(proto, self.scope, attribute)
        child = Frame(self.builder, block, scope, self.opsets, self, self._attributes, self._types)
        child.hold(graph)
        return child

    def body(self, proto: NodeProto, graph: GraphProto, attribute: str) -> Block:
        """Build the graph of a node's attribute as a block."""
        block = Block()
        child = self._child(proto, graph, attribute, block)
        block.inputs = [child.variable(value.name) for value in graph.input]
        block.outputs = list(child.run(graph.node, [value.name for value in graph.output]))
        block.drop_unused()
        return block

    def inline(self, proto: NodeProto, graph: GraphProto, attribute: str) -> tuple[Value, ...]:
        """Build the graph of a node's attribute, one without inputs, into this block."""
        child = self._child(proto, graph, attribute, self.block)
        return child.run(graph.node, [value.name for value in graph.output])

    def as_tensor(self, value: Value) -> Value:
        """Return a value as a tensor: integers on the host become one."""
        if not (isinstance(value, Variable) and value.host):
            return value
        if id(value) not in self._tensors:
            like = self.builder.like(torch.float32)
            self._tensors[id(value)] = self.emit(
                "", tensor_of, (value, value.dtype, like), {}, 0, fold=False
            )
        return self._tensors[id(value)]

    def emit(
        self,
        label: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        outputs: int,
        fold: bool = True,
    ) -> Any:
        """Add a step, as in :meth:`onnxfit.twin.node.Node.emit`."""
        held = list(leaves([args, dict(kwargs)]))
        if fold and not any(isinstance(a, (Variable, Weight, Part, Block)) for a in held):
            return self._fold(label, function, args, kwargs, outputs)
        results = [Variable() for _ in range(max(outputs, 1))]
        step = Step(function, args, dict(kwargs), results, not outputs, label)
        self.block.steps.append(step)
        return tuple(results) if outputs else results[0]

    def emit_host(
        self,
        label: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        dtype: torch.dtype,
        rank: int | None = None,
    ) -> Variable:
        """Add a step whose result is a Python number or a tuple of them."""
        result = Variable(host=True, dtype=dtype, rank=rank)
        self.block.steps.append(Step(function, args, {}, [result], True, label))
        return result

    @staticmethod
    def _fold(
        label: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        outputs: int,
    ) -> Any:
        try:
            with torch.no_grad():
                results = function(
                    *map(to_known, args), **{k: to_known(v) for k, v in kwargs.items()}
                )
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise ModelError(f"{label} cannot be computed: {error}") from error
        return tuple(map(Constant, results)) if outputs else Constant(results)


def choose_in_floats(node: Node, converter: "Converter", results: Outputs) -> None:
    """Let gradients pass through a node that chooses among quantised numbers."""
    values = {index: node.value(index) for index in range(len(node)) if node.has(index)}
    floats = {i: v.floats for i, v in values.items() if isinstance(v, Variable) and v.floats}
    if floats:
        chosen = converter(node.with_inputs(floats))
        first, other = (r[0] if isinstance(r, tuple) else r for r in (results, chosen))
        if isinstance(first, Variable) and isinstance(other, Variable):
            first.floats = other


def versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Return domain → version, ONNX's own domain under its empty name."""
    return {"" if i.domain == "ai.onnx" else i.domain: i.version for i in imports}


def to_known(argument: Any) -> Any:
    """Return what the constants and weights in an argument hold."""
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(to_known, argument))
    if isinstance(argument, Weight):
        return argument.tensor
    return argument.value if isinstance(argument, Constant) else argument


def small_integers(value: Constant) -> bool:
    """Tell whether a constant is a number or a row of numbers that shapes are computed with."""
    tensor = value.value
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.dim() <= 1
        and tensor.dtype in (torch.int64, torch.int32, torch.bool)
    )


def jump_names(site: Hardened) -> list[str]:
    """Return the name of the value that is a site's jump; none where an attribute is."""
    if site.lowering == "operator":
        return [name for name in site.nodes[-1].input[1:2] if name]
    inputs = (name for node in site.nodes for name in node.input)
    return [name for name in inputs if name.startswith((CONSTANT_PREFIX, INPUT_PREFIX))][:1]


def tensor_of(numbers: Any, dtype: torch.dtype, like: torch.Tensor) -> torch.Tensor:
    """Turn Python numbers into a tensor on the twin's device."""
    return torch.tensor(numbers, dtype=dtype, device=like.device)
