"""Which tensors of a file a training may move, by what reads them.

Shapes do not tell: the epsilon of a decomposed LayerNorm may lie in the file as ``[1]``, the mean
of the pixels as ``[1, 3, 1, 1]`` beside a bias of the same shape.
"""

from collections import ChainMap
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from math import prod

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from onnxfit.element_types import function_scope, subgraph_scope
from onnxfit.op import is_our_function
from onnxfit.rewrites import unrewritten
from onnxfit.twin.write_back import tensors_of

# A tensor: the graph or function that holds it, and its name.
Place = tuple[str, str]

_MICROSOFT, _BLOCKED = "com.microsoft", "com.microsoft.nchwc"
_CONV, _PRODUCT = (1, 2), (0, 1)
# Layers, by domain and operator: which inputs are weights where the file fixes them.
_LAYERS: dict[tuple[str, str], tuple[int, ...]] = {
    **dict.fromkeys((("", "Conv"), ("", "ConvTranspose"), (_BLOCKED, "Conv")), _CONV),
    (_MICROSOFT, "FusedConv"): _CONV,
    ("", "CausalConvWithState"): _CONV,
    ("", "DeformConv"): (1, 3),
    ("", "MatMul"): _PRODUCT,
    **dict.fromkeys(((_MICROSOFT, "FusedMatMul"), (_MICROSOFT, "TransposeMatMul")), _PRODUCT),
    **dict.fromkeys((("", "Gemm"), (_MICROSOFT, "FusedGemm")), (0, 1, 2)),
    ("", "Einsum"): tuple(range(8)),
    ("", "BatchNormalization"): (1, 2),
    ("", "InstanceNormalization"): (1, 2),
    ("", "GroupNormalization"): (1, 2),
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    ("", "SimplifiedLayerNormalization"): (1,),
    (_MICROSOFT, "SkipLayerNormalization"): (1, 2, 3, 4),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): (1, 2, 3),
    (_MICROSOFT, "EmbedLayerNormalization"): (2, 3, 4, 5, 6),
    ("", "PRelu"): (1,),
    (_MICROSOFT, "BiasGelu"): (1,),
    (_MICROSOFT, "FastGelu"): (1,),
    **dict.fromkeys((("", "RNN"), ("", "GRU"), ("", "LSTM")), (1, 2, 3, 5, 6, 7)),
    ("", "Attention"): (0, 1, 2),
    ("", "LinearAttention"): (0, 1, 2),
    (_MICROSOFT, "Attention"): (1, 2),
    (_MICROSOFT, "MultiHeadAttention"): (0, 1, 2, 3),
}
# They take elements of the first input to another place or type; the others say where.
_MOVING = {
    *("Cast", "CastLike", "Compress", "DepthToSpace", "DequantizeLinear", "Dropout", "Expand"),
    *("Flatten", "Identity", "Pad", "QuantizeLinear", "ReorderInput", "ReorderOutput", "Reshape"),
    *("Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu"),
    *("Unsqueeze", "Upsample"),
}
# They read of a value what no training changes: its shape and type.
_DESCRIBING = {"EyeLike", "RandomNormalLike", "RandomUniformLike", "Shape", "Size"}
_LOOKING_UP = {"Gather", "GatherElements", "GatherND"}
# They put what the file fixes beside what is computed, element by element.
_JOINING = {"Add", "Concat", "Div", "Mul", "Sub", "Sum"}


@dataclass(frozen=True)
class _Value:
    """What is known of a value.

    Attributes:
        tensors: Those of the file that it is made of alone, where no sample changes it.
        several: These have more than one element, before they are broadcast.
        varies: It depends on the samples.
        behind: It depends on what a layer made of them.
    """

    tensors: frozenset[Place] = frozenset()
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
    """

    weights: frozenset[Place]
    statistics: frozenset[Place]


def roles_of(model: ModelProto) -> Roles:
    """Say which tensors of a model a training may move.

    Weights are the operands of layers, also reshaped, cast, or computed of several tensors; and
    what has more than one element and is added to, subtracted from, multiplied with, or put beside
    something behind a layer: biases, scales, the gamma and beta of a decomposed norm. What else
    reads a tensor makes it a constant, whatever reads it besides: the statistics of a BatchNorm,
    exponents, epsilons, limits, and all that is done to samples before the first layer.
    """
    found = unrewritten(model)
    walk = _Walk(found)
    given = [_Value(varies=True)] * len(found.graph.input)
    walk.body(found.graph, ChainMap(), "", given)
    return Roles(frozenset(walk.weights - walk.constants), frozenset(walk.statistics))


class _Walk:
    """A walk over a model in the order of its nodes, functions at each call.

    Attributes:
        weights: What a layer reads, or what is joined to something behind one.
        constants: What anything else reads.
        statistics: Of these, what a BatchNorm reads.
    """

    def __init__(self, model: ModelProto) -> None:
        self.weights: set[Place] = set()
        self.constants: set[Place] = set()
        self.statistics: set[Place] = set()
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
        if not inputs or node.op_type in _DESCRIBING:
            return _Value()
        if node.op_type == "CastLike":
            inputs = inputs[:1]
        domain = "" if node.domain == "ai.onnx" else node.domain
        weights = _LAYERS.get((domain, node.op_type))
        if node.op_type in _LOOKING_UP and inputs[1].varies and not inputs[0].varies:
            weights = (0,)
        varies = any(value.varies for value in inputs)
        if weights is not None:
            for index, value in enumerate(inputs):
                (self.weights if index in weights else self.constants).update(value.tensors)
            if node.op_type == "BatchNormalization":
                self.statistics.update(*(value.tensors for value in inputs[3:]))
            return _Value(varies=varies, behind=varies)
        if node.op_type in _JOINING:
            return self._joined(inputs, appended=node.op_type == "Concat")
        passed = node.op_type in (*_MOVING, *_LOOKING_UP) or not varies
        for value in inputs[passed:]:
            self._fix(value)
        behind = any(value.behind for value in inputs)
        return inputs[0] if passed else _Value(varies=True, behind=behind)

    def _joined(self, inputs: list[_Value], *, appended: bool) -> _Value:
        """Return what comes of values that are joined, ``appended`` or element by element."""
        varies = any(value.varies for value in inputs)
        behind = any(value.behind for value in inputs)
        kept: set[Place] = set()
        for value in inputs:
            if value.several or (appended and not varies):
                kept |= value.tensors
            else:
                self._fix(value)
        if not varies:
            return _Value(frozenset(kept), several=bool(kept))
        (self.weights if behind else self.constants).update(kept)
        return _Value(varies=True, behind=behind)

    def _either(self, values: Sequence[_Value]) -> _Value:
        """Return what is known of a value that is one of several."""
        if any(value.varies for value in values):
            for value in values:
                self._fix(value)
            return _Value(varies=True, behind=any(value.behind for value in values))
        tensors = frozenset().union(*(value.tensors for value in values))
        return _Value(tensors, several=any(value.several for value in values))

    def _stored(self, place: Place) -> _Value:
        """Return the value that a tensor of the file is; a Constant of strings is none."""
        tensor = self._tensors.get(place)
        if tensor is None:
            return _Value()
        shape = [len(tensor.floats)] if isinstance(tensor, AttributeProto) else tensor.dims
        return _Value(frozenset({place}), several=prod(shape) > 1)

    def _fix(self, value: _Value) -> None:
        self.constants |= value.tensors
