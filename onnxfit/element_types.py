"""Element types of the values in a model, without shapes and without touching a weight.

Which function body a JumpReLU needs depends on the type of its input, and most files do not
declare the types of their inner values. ``onnx.shape_inference`` serialises the whole model and
says nothing about values inside functions, so the types are propagated here, from the operator
schemas that the ``onnx`` package ships.
"""

from collections import ChainMap
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from functools import cache
from typing import NamedTuple

import onnx
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
)

from onnxfit.op import DEFAULT_DOMAINS, ELEMENT_TYPES

UNKNOWN = TensorProto.UNDEFINED
# A value inside a function that is called with several types.
MIXED = -1

Types = MutableMapping[str, int]

_WITH_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")
# The attributes that name the type of an operator's output.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")
# ONNX Runtime's operators on quantised tensors, and which input has the type of the result.
_QUANTISED = {
    **dict.fromkeys(("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu"), 0),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSoftmax"), 0),
    "QLinearConcat": 1,
    "QuantizeLinear": 2,
    "QGemm": 8,
}
_CONSTANTS = ("Constant", "ConstantOfShape")
_CONSTANT_TYPES = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
    "value_string": TensorProto.STRING,
    "value_strings": TensorProto.STRING,
}


def default_opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int | None:
    """Return the version of the default domain among opset imports, or None."""
    return next((i.version for i in imports if i.domain in DEFAULT_DOMAINS), None)


def function_scope(function: FunctionProto) -> str:
    """Return the name that sites inside a model-local function are prefixed with."""
    overload = f":{function.overload}" if function.overload else ""
    return f"{function.domain}::{function.name}{overload}"


def inputs_of(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the inputs that a caller must give: those that no initializer is a default of."""
    defaults = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in defaults]


def subgraph_scope(node: NodeProto, scope: str, attribute: str) -> str:
    """Return the name of the scope that a graph among a node's attributes makes."""
    label = next((name for name in node.output if name), node.name)
    prefix = f"{scope}/" if scope else ""
    return f"{prefix}{label}.{attribute}"


def subgraphs(node: NodeProto, scope: str) -> Iterator[tuple[str, GraphProto]]:
    """Yield the graphs among a node's attributes with the scope of each."""
    # Of the default domain only these hold graphs, and most nodes are neither.
    if node.op_type not in _WITH_SUBGRAPHS and node.domain in DEFAULT_DOMAINS:
        return
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield subgraph_scope(node, scope, attribute.name), attribute.g


def every_graph(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """Yield the main graph, each function, and every graph inside them."""
    owners: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    for owner in owners:
        yield owner
        for node in owner.node:
            owners += [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def element_types(model: ModelProto) -> dict[str, Types]:
    """Infer the element type of every value.

    Returns:
        Scope name → value name → ``TensorProto`` type. The main graph's scope is ``""``; a value
        of an outer scope is found in the mapping of an inner one. Where an operator without a
        schema stands in the way, its output is taken to be of the first floating type among its
        inputs.
    """
    inference = _Inference(model)
    inference.graph(model.graph, "", {})
    for key, function in inference.functions.items():
        if function_scope(function) not in inference.scopes:
            inference.call(key, [UNKNOWN] * len(function.input))
    return inference.scopes


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {"" if i.domain == "ai.onnx" else i.domain: i.version for i in imports}


class _Inference:
    """One walk over a model, function bodies at their call sites included."""

    def __init__(self, model: ModelProto) -> None:
        self.scopes: dict[str, Types] = {}
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.versions = _versions(model.opset_import)
        self.called: dict[tuple[tuple[str, str, str], tuple[int, ...]], list[int]] = {}

    def graph(
        self, graph: GraphProto, scope: str, outer: Types, given: Sequence[int] = ()
    ) -> Types:
        types: Types = ChainMap({}, outer) if outer else {}
        types.update(zip((value.name for value in graph.input), given, strict=False))
        for initializer in graph.initializer:
            types[initializer.name] = initializer.data_type
        for sparse in graph.sparse_initializer:
            types[sparse.values.name] = sparse.values.data_type
        for values in (graph.input, graph.value_info, graph.output):
            for value in values:
                tensor = value.type.WhichOneof("value") == "tensor_type"
                if tensor and (value.type.tensor_type.elem_type or value.name not in types):
                    types[value.name] = value.type.tensor_type.elem_type
        self.nodes(graph.node, scope, types, self.versions)
        self.record(scope, types)
        return types

    def nodes(
        self, nodes: Iterable[NodeProto], scope: str, types: Types, versions: dict[str, int]
    ) -> None:
        simple: dict[tuple[str, str], _Output | None] = {}
        for node in nodes:
            key = (node.domain, node.op_type)
            if key not in simple:
                simple[key] = self.simple_output(*key, versions)
            names, output = node.output, simple[key]
            if output is not None and len(names) == 1:
                found = [_resolve(output, node.input, types)]
            else:
                found = self.node(node, scope, types, versions)
            for name, element_type in zip(names, found, strict=False):
                if types.get(name, UNKNOWN) == UNKNOWN:
                    types[name] = element_type

    def simple_output(
        self, domain: str, op_type: str, versions: dict[str, int]
    ) -> "_Output | None":
        """Return the rule for the first output of an operator with nothing special, or None."""
        if domain not in DEFAULT_DOMAINS or op_type in _WITH_SUBGRAPHS:
            return None
        if any(key[:2] == (domain, op_type) for key in self.functions):
            return None
        rule = _rule("", op_type, versions.get("", 1))
        return None if rule.named or not rule.outputs else rule.outputs[0]

    def node(
        self, node: NodeProto, scope: str, types: Types, versions: dict[str, int]
    ) -> list[int]:
        inputs = [types.get(name, UNKNOWN) for name in node.input]
        domain, op_type = node.domain, node.op_type
        if self.functions and (key := (domain, op_type, node.overload)) in self.functions:
            return self.call(key, inputs)
        if op_type in _WITH_SUBGRAPHS:
            return self.subgraph_outputs(node, scope, types)
        if domain not in DEFAULT_DOMAINS:
            self.subgraph_outputs(node, scope, types)
        domain = "" if domain == "ai.onnx" else domain
        rule = _rule(domain, op_type, versions.get(domain, 1))
        if rule is _NO_SCHEMA:
            source = (
                _QUANTISED.get(op_type, len(inputs)) if domain == "com.microsoft" else len(inputs)
            )
            if source < len(inputs):
                return [inputs[source]]
            # It may turn integers into anything; floating types it is taken to keep.
            kept = next((t for t in inputs if t in ELEMENT_TYPES), UNKNOWN)
            return [_named_by_attribute(node) or kept] * len(node.output)
        if rule.named and (element_type := _named_by_attribute(node)) != UNKNOWN:
            return [element_type] * len(node.output)
        last = len(rule.outputs) - 1
        return [
            _resolve(rule.outputs[min(index, last)], node.input, types)
            for index in range(len(node.output))
        ]

    def subgraph_outputs(self, node: NodeProto, scope: str, types: Types) -> list[int]:
        outputs: list[int] = []
        given = self.given(node, types)
        for name, graph in subgraphs(node, scope):
            inner = self.graph(graph, name, types, given)
            # A Loop's body returns its condition before the values that the node writes.
            results = graph.output[1:] if node.op_type == "Loop" else graph.output
            outputs = outputs or [inner.get(value.name, UNKNOWN) for value in results]
        return outputs

    def given(self, node: NodeProto, types: Types) -> list[int]:
        """Return what a node gives its body, which need not declare the types of its inputs."""
        inputs = [types.get(name, UNKNOWN) for name in node.input]
        if node.domain not in DEFAULT_DOMAINS or node.op_type not in ("Loop", "Scan"):
            return []
        if node.op_type == "Loop":
            return [TensorProto.INT64, TensorProto.BOOL, *inputs[2:]]
        return inputs[1:] if self.versions.get("", 1) == 8 else inputs

    def call(self, key: tuple[str, str, str], inputs: list[int]) -> list[int]:
        signature = (key, tuple(inputs))
        if signature not in self.called:
            # Set first: a function that calls itself is invalid, but must not recurse for ever.
            self.called[signature] = []
            function = self.functions[key]
            versions = self.versions | _versions(function.opset_import)
            types: Types = dict(zip(function.input, inputs, strict=False))
            scope = function_scope(function)
            self.nodes(function.node, scope, types, versions)
            self.record(scope, types)
            self.called[signature] = [types.get(name, UNKNOWN) for name in function.output]
        return self.called[signature]

    def record(self, scope: str, types: Types) -> None:
        """Keep a scope's types, marking what an earlier call of a function typed otherwise."""
        earlier = self.scopes.get(scope)
        if earlier is not None:
            for name, element_type in types.items():
                if earlier.get(name, UNKNOWN) not in (UNKNOWN, element_type):
                    types[name] = MIXED
        self.scopes[scope] = types


def _named_by_attribute(node: NodeProto) -> int:
    """Return the output type that a node's own attributes state, or UNKNOWN."""
    for attribute in node.attribute:
        if node.op_type in _CONSTANTS and attribute.name in _CONSTANT_TYPES:
            return _CONSTANT_TYPES[attribute.name]
        if attribute.ref_attr_name:
            continue
        if attribute.name in _TYPE_ATTRIBUTES and attribute.type == AttributeProto.INT:
            return int(attribute.i)
        if node.op_type in _CONSTANTS and attribute.type == AttributeProto.TENSOR:
            return int(attribute.t.data_type)
    return TensorProto.FLOAT if node.op_type == "ConstantOfShape" else UNKNOWN


class _Output(NamedTuple):
    """Where the type of an output comes from: fixed, else shared with one of these inputs."""

    fixed: int
    sources: tuple[int, ...]


def _resolve(output: _Output, inputs: Sequence[str], types: Types) -> int:
    if output.fixed != UNKNOWN:
        return output.fixed
    count = len(inputs)
    for source in output.sources:
        if source < count and (element_type := types.get(inputs[source], UNKNOWN)) != UNKNOWN:
            return element_type
    return UNKNOWN


class _Rule(NamedTuple):
    """Where the types of an operator's outputs come from.

    Attributes:
        named: An attribute may state the type.
        outputs: One per output; the last goes for all further outputs.
    """

    named: bool
    outputs: tuple[_Output, ...]


_NO_SCHEMA = _Rule(named=True, outputs=())


@cache
def _rule(domain: str, op_type: str, version: int) -> _Rule:
    """Read an operator's rule from its schema."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return _NO_SCHEMA
    formal = [i.type_str for i in schema.inputs]
    if formal and schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
        formal += [formal[-1]] * 16
    # A type variable with one type to choose from is as good as that type: Shape's int64.
    only = {
        constraint.type_param_str: constraint.allowed_type_strs[0]
        for constraint in schema.type_constraints
        if len(constraint.allowed_type_strs) == 1
    }
    outputs = []
    for output in schema.outputs:
        sources = tuple(i for i, type_str in enumerate(formal) if type_str == output.type_str)
        fixed = _fixed_type(only.get(output.type_str, output.type_str))
        outputs.append(_Output(fixed, sources))
    named = op_type in _CONSTANTS or any(name in schema.attributes for name in _TYPE_ATTRIBUTES)
    return _Rule(named, tuple(outputs))


def _fixed_type(type_str: str) -> int:
    """Return the type that a schema writes out, as in ``tensor(bool)``, or UNKNOWN."""
    if not type_str.startswith("tensor("):
        return UNKNOWN
    return int(TensorProto.DataType.Value(type_str[len("tensor(") : -1].upper()))
