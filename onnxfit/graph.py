"""Walk a model: its graph, subgraphs and functions, with the types and constants of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
)

from onnxfit.element_types import Types, default_opset, element_types, function_scope, subgraphs
from onnxfit.errors import ModelError
from onnxfit.op import MIN_OPSET, is_our_function

# ONNX Runtime's operators on a layout in which several channels lie beside each other.
BLOCKED_DOMAIN = "com.microsoft.nchwc"


@dataclass(kw_only=True)
class Scope:
    """A graph, a subgraph or a function body during a walk.

    Attributes:
        name: Empty for the main graph; ``domain::name`` for a function; a subgraph adds
            ``value.attribute`` of the node that holds it, as in ``y.then_branch``.
        nodes: The protobuf list of nodes, to be edited in place.
        opset: Version of the default domain that the nodes are read at.
        types: Value name → ``TensorProto`` type, outer scopes included.
        initializers: Value name → tensor that no run can change.
        outer: The scope that holds the node whose attribute this one is.
        function: The function that the scope belongs to, if any.
    """

    name: str
    nodes: Any
    opset: int
    types: Types
    initializers: Mapping[str, TensorProto]
    outer: "Scope | None" = None
    function: FunctionProto | None = None

    @property
    def top(self) -> "Scope":
        """The graph or function at the top, whose values every inner scope can see."""
        return self.outer.top if self.outer else self

    def full_name(self, value: str) -> str:
        """Return a value's name with the scope in front."""
        return f"{self.name}/{value}" if self.name else value

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """Value name → the node of this scope that writes it."""
        return {value: node for node in self.nodes for value in node.output}

    @cached_property
    def blocked(self) -> set[str]:
        """The values in ONNX Runtime's blocked layout, which ordinary operators pass on."""
        blocked: set[str] = set()
        for node in self.nodes:
            if node.domain == BLOCKED_DOMAIN:
                if node.op_type != "ReorderOutput":
                    blocked.update(node.output)
            elif blocked and not blocked.isdisjoint(node.input):
                blocked.update(node.output)
        return blocked

    def constant(self, value: str) -> TensorProto | None:
        """Return the tensor that a value always has, or None, looking outwards."""
        if value in self.initializers:
            return self.initializers[value]
        if value in self.producers:
            node = self.producers[value]
            if node.op_type in ("Identity", "Cast", "CastLike") and node.input:
                return self.constant(node.input[0])
            return _constant_of(node) if node.op_type == "Constant" else None
        return self.outer.constant(value) if self.outer else None

    def numbers(self, value: str) -> NDArray[Any] | None:
        """Return what a constant holds, or None where the value is no constant of the file."""
        tensor = self.constant(value)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        try:
            return onnx.numpy_helper.to_array(tensor)
        except (KeyError, TypeError, ValueError):  # Of no known type, or of too few bytes.
            return None

    def scalar(self, value: str) -> np.generic | None:
        """Return a constant of one element, or None where the value is no such thing."""
        numbers = self.numbers(value)
        if numbers is None or numbers.size != 1:
            return None
        scalar: np.generic = numbers.ravel()[0]
        return scalar

    def users(self, node: NodeProto) -> list[NodeProto]:
        """Return the nodes of this scope that read what a node writes."""
        return [user for value in node.output for user in self._users.get(value, ())]

    @cached_property
    def _users(self) -> dict[str, list[NodeProto]]:
        users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for value in node.input:
                users.setdefault(value, []).append(node)
        return users


def model_opset(model: ModelProto) -> int:
    """Return the version of the default domain that the model's nodes are read at.

    Raises:
        ModelError: It is older or newer than what can be hardened.
    """
    opset = default_opset(model.opset_import)
    if opset is None:
        versions = [default_opset(function.opset_import) for function in model.functions]
        opset = max((version for version in versions if version), default=None)
    if opset is None:
        raise ModelError("the model imports no version of the default operator set")
    if opset < MIN_OPSET:
        raise ModelError(
            f"the model is of opset {opset}, onnxfit needs {MIN_OPSET} or newer; "
            "convert it with onnx.version_converter first"
        )
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ModelError(
            f"the model is of opset {opset}, onnx {onnx.__version__} knows none "
            f"after {newest}; upgrade onnx"
        )
    return opset


def scopes(model: ModelProto) -> Iterator[Scope]:
    """Yield the main graph, then its subgraphs, then each function with its subgraphs."""
    opset = model_opset(model)
    types = element_types(model)
    # Since IR version 4 an initializer that is also an input is only that input's default.
    inputs = {value.name for value in model.graph.input} if model.ir_version >= 4 else set()
    main = Scope(
        name="",
        nodes=model.graph.node,
        opset=opset,
        types=types[""],
        initializers={t.name: t for t in model.graph.initializer if t.name not in inputs},
    )
    yield from _with_subgraphs(main, types)
    for function in model.functions:
        name = function_scope(function)
        if is_our_function(function):
            continue
        scope = Scope(
            name=name,
            nodes=function.node,
            # ONNX Runtime inlines a body at the model's own opset.
            opset=min(default_opset(function.opset_import) or opset, opset),
            types=types[name],
            initializers={},
            function=function,
        )
        yield from _with_subgraphs(scope, types)


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def reads(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, in its subgraphs too."""
    yield from node.input
    for graph in inner_graphs(node):
        for inner in graph.node:
            yield from reads(inner)
        yield from (value.name for value in graph.output)


def _constant_of(node: NodeProto) -> TensorProto | None:
    """Return the tensor of a Constant node, or None where a function's caller gives it."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            return None
        if attribute.name == "value":
            tensor: TensorProto = attribute.t
            return tensor
        if attribute.name == "value_float":
            return onnx.helper.make_tensor("", TensorProto.FLOAT, [], [attribute.f])
        if attribute.name == "value_int":
            return onnx.helper.make_tensor("", TensorProto.INT64, [], [attribute.i])
    return None


def _with_subgraphs(scope: Scope, types: Mapping[str, Types]) -> Iterator[Scope]:
    inner = [found for node in scope.nodes for found in subgraphs(node, scope.name)]
    yield scope
    for name, graph in inner:
        subscope = Scope(
            name=name,
            nodes=graph.node,
            opset=scope.opset,
            types=types[name],
            initializers={t.name: t for t in graph.initializer},
            outer=scope,
            function=scope.function,
        )
        yield from _with_subgraphs(subscope, types)
