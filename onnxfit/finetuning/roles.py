"""Which tensors of a file a training may move, by what reads them.

Shapes do not tell: the epsilon of a decomposed LayerNorm may lie in the file as ``[1]``, the mean
of the pixels as ``[1, 3, 1, 1]`` beside a bias of the same shape.
"""

from collections import ChainMap
from collections.abc import Collection, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from onnxfit.element_types import function_scope, subgraph_scope
from onnxfit.finetuning.operators import (
    BENDING,
    CARRIED,
    COMBINING,
    COMPARING,
    DESCRIBING,
    JOINING,
    LAYERS,
    LOOKING_UP,
    MOVING,
    PLACING,
    TAKING_AWAY,
)
from onnxfit.op import is_our_function
from onnxfit.rewrites import unrewritten
from onnxfit.twin.write_back import tensors_of

# A tensor: the graph or function that holds it, and its name.
Place = tuple[str, str]


@dataclass(frozen=True)
class _Value:
    """What is known of a value.

    Attributes:
        tensors: Those of the file that it is made of alone, where no sample changes it.
        parts: Of these, what is in it as it is, as a summand or as a factor.
        several: These have more than one element, before they are broadcast.
        varies: It depends on the samples.
        behind: It depends on what a layer made of them.
    """

    tensors: frozenset[Place] = frozenset()
    parts: frozenset[Place] = frozenset()
    several: bool = False
    varies: bool = False
    behind: bool = False


_Values = MutableMapping[str, _Value]


@dataclass(frozen=True)
class Roles:
    """What the tensors of a model are.

    Attributes:
        weights: What a training may move.
        statistics: What a BatchNorm reads as mean or variance.
        operands: For each value that a layer reads as a weight, what it is made of.
    """

    weights: frozenset[Place]
    statistics: frozenset[Place]
    operands: frozenset[frozenset[Place]]


def roles_of(model: ModelProto) -> Roles:
    """Say which tensors of a model a training may move.

    Weights are the operands of layers, also reshaped, cast, or computed of several tensors in any
    way: of a weight that is normalised by its own length, direction and length are trained. And
    what has more than one element and is added to, multiplied with, or put beside something behind
    a layer: biases, scales, the gamma and beta of a decomposed norm. What is subtracted there or
    divided by is a constant, the mean or deviation of a BatchNorm that was written out. Where it is
    computed before, as in ``gamma / Sqrt(var + eps)`` and ``beta - mean * scale``, only summands
    and factors are weights; what goes through a root, a power, a logarithm or their inverses, or is
    subtracted or divided by, is none for that, and stays unless another reader makes it a weight:
    gamma is in what is subtracted from beta.

    What else reads a tensor makes it a constant, whatever reads it besides: the statistics of a
    BatchNorm, exponents, epsilons, limits, and all that is done to samples before the first layer.
    """
    found = unrewritten(model)
    walk = _Walk(found)
    given = [_Value(varies=True)] * len(found.graph.input)
    walk.body(found.graph, ChainMap(), "", given)
    weights = frozenset(walk.weights - walk.constants)
    return Roles(weights, frozenset(walk.statistics), frozenset(walk.operands))


class _Walk:
    """A walk over a model in the order of its nodes, functions at each call.

    Attributes:
        weights: What a layer reads, or what is joined to something behind one.
        constants: What anything else reads.
        statistics: Of these, what a BatchNorm reads.
        operands: For each value that a layer reads as a weight, what it is made of.
    """

    def __init__(self, model: ModelProto) -> None:
        self.weights: set[Place] = set()
        self.constants: set[Place] = set()
        self.statistics: set[Place] = set()
        self.operands: set[frozenset[Place]] = set()
        self._functions = {
            (f.domain, f.name, f.overload): f for f in model.functions if not is_our_function(f)
        }
        self._tensors = tensors_of(model)

    def body(
        self, graph: GraphProto, outer: _Values, scope: str, given: Sequence[_Value]
    ) -> list[_Value]:
        """Walk a graph, whose values are its own from here on; return its outputs."""
        values = ChainMap({}, outer)
        values.update(zip((value.name for value in graph.input), given, strict=False))
        names = [tensor.name for tensor in graph.initializer]
        names += [sparse.values.name for sparse in graph.sparse_initializer]
        values.update((name, self._stored((scope, name))) for name in names)
        self._nodes(graph.node, values, scope)
        return [values.get(value.name, _Value()) for value in graph.output]

    def _nodes(self, nodes: Iterable[NodeProto], values: _Values, scope: str) -> None:
        for node in nodes:
            inputs = [values.get(name, _Value()) for name in node.input]
            values.update(
                zip(node.output, self._outputs(node, inputs, values, scope), strict=False)
            )

    def _outputs(
        self, node: NodeProto, inputs: list[_Value], values: _Values, scope: str
    ) -> list[_Value]:
        function = self._functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            return self._call(function, inputs)
        graphs = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
        if graphs:
            scopes = {name: subgraph_scope(node, scope, name) for name in graphs}
            if node.op_type == "If":
                branches = [self.body(g, values, scopes[name], ()) for name, g in graphs.items()]
                return [self._either(pair) for pair in zip(*branches, strict=False)]
            (name,) = graphs
            return self._repeated(node, graphs[name], inputs, values, scopes[name])
        if node.op_type == "Constant":
            taken = any(attribute.ref_attr_name for attribute in node.attribute)
            return [_Value() if taken else self._stored((scope, node.output[0]))]
        return [self._operator(node, inputs)] * len(node.output)

    def _call(self, function: FunctionProto, inputs: list[_Value]) -> list[_Value]:
        values: _Values = dict(zip(function.input, inputs, strict=False))
        self._nodes(function.node, values, function_scope(function))
        return [values.get(name, _Value()) for name in function.output]

    def _repeated(
        self,
        node: NodeProto,
        graph: GraphProto,
        inputs: list[_Value],
        values: _Values,
        scope: str,
    ) -> list[_Value]:
        """Walk the body of a Loop, a Scan or a SequenceMap until its states stay what they are."""
        given = inputs[max(len(inputs) - len(graph.input), 0) :]
        states, first = range(0), 0
        if node.op_type == "Loop":
            states, first = range(2, len(given)), 1
        elif node.op_type == "Scan":
            count = next(a.i for a in node.attribute if a.name == "num_scan_inputs")
            states = range(len(given) - count)
        for index in states:
            self._fix(given[index])
            given[index] = _Value(varies=True, behind=given[index].behind)
        while True:
            known = set(self.weights), set(self.constants)
            outputs = self.body(graph, values, scope, given)[first:]
            grown = [
                index
                for index, output in zip(states, outputs, strict=False)
                if output.behind and not given[index].behind
            ]
            if not grown:
                break
            self.weights, self.constants = known
            for index in grown:
                given[index] = _Value(varies=True, behind=True)
        for output in outputs:
            self._fix(output)
        return [_Value(varies=True, behind=output.behind) for output in outputs]

    def _operator(self, node: NodeProto, inputs: list[_Value]) -> _Value:
        if not inputs or node.op_type in DESCRIBING:
            return _Value()
        if node.op_type == "CastLike":
            inputs = inputs[:1]
        domain = "" if node.domain == "ai.onnx" else node.domain
        weights = LAYERS.get((domain, node.op_type))
        if node.op_type in LOOKING_UP and inputs[1].varies and not inputs[0].varies:
            weights = (0,)
        varies = any(value.varies for value in inputs)
        if weights is not None:
            self._layer(inputs, weights)
            if node.op_type == "BatchNormalization":
                self.statistics.update(*(value.tensors for value in inputs[3:]))
            return _Value(varies=varies, behind=varies)
        if not varies:
            return self._computed(node.op_type, inputs)
        behind = any(value.behind for value in inputs)
        if node.op_type in JOINING and behind:
            self._joined(node.op_type, inputs)
            return _Value(varies=True, behind=True)
        passed = node.op_type in (*MOVING, *LOOKING_UP)
        for value in inputs[passed:]:
            self._fix(value)
        return inputs[0] if passed else _Value(varies=True, behind=behind)

    def _layer(self, inputs: list[_Value], weights: Collection[int]) -> None:
        """Read the inputs of a layer, some of which are weights where the file fixes them."""
        for index, value in enumerate(inputs):
            if index not in weights:
                self._fix(value)
            elif value.tensors:
                self.weights |= value.tensors
                self.operands.add(value.tensors)

    def _joined(self, op_type: str, inputs: list[_Value]) -> None:
        """Read what is put beside something behind a layer."""
        for index, value in enumerate(inputs):
            if value.several and not (op_type in TAKING_AWAY and index):
                self.weights |= value.parts
            else:
                self._fix(value)

    def _computed(self, op_type: str, inputs: list[_Value]) -> _Value:
        """Return what an operator that is no layer makes of values that the file fixes."""
        if op_type in COMPARING:
            return _Value()
        if op_type not in COMBINING:
            for value in inputs[1:]:
                self._fix(value)
            return replace(inputs[0], parts=frozenset()) if op_type in BENDING else inputs[0]
        kept: list[_Value] = []
        for index, value in enumerate(inputs):
            carried = index in CARRIED.get(op_type, (index,))
            if not carried or not (value.several or op_type in PLACING):
                self._fix(value)
            elif op_type in TAKING_AWAY and index:
                kept.append(replace(value, parts=frozenset()))
            else:
                kept.append(value)
        made = _made_of(kept)
        return replace(made, several=bool(made.tensors))

    def _either(self, values: Sequence[_Value]) -> _Value:
        """Return what is known of a value that is one of several."""
        if any(value.varies for value in values):
            for value in values:
                self._fix(value)
            return _Value(varies=True, behind=any(value.behind for value in values))
        return _made_of(values)

    def _stored(self, place: Place) -> _Value:
        """Return the value that a tensor of the file is; a Constant of strings is none."""
        tensor = self._tensors.get(place)
        if tensor is None:
            return _Value()
        shape = [len(tensor.floats)] if isinstance(tensor, AttributeProto) else tensor.dims
        own = frozenset({place})
        return _Value(own, own, several=prod(shape) > 1)

    def _fix(self, value: _Value) -> None:
        self.constants |= value.tensors


def _made_of(values: Sequence[_Value]) -> _Value:
    """Return a value that the file fixes and in which all that is in others is."""
    tensors: frozenset[Place] = frozenset().union(*(value.tensors for value in values))
    parts: frozenset[Place] = frozenset().union(*(value.parts for value in values))
    return _Value(tensors, parts, several=any(value.several for value in values))
