"""Does a file that fixes its batch treat the samples one by one, and where are they in its values?

A file made for a batch of one size can be computed with another in one go where each node treats
the samples one by one. The rules here follow the dimension that has them from node to node, also
where a Reshape has folded it into a larger one. A node without a rule is taken to mix them: such
a file is computed as many samples at a time as it was made for.
"""

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import ModelProto, NodeProto

from onnxfit.element_types import inputs_of
from onnxfit.graph import reads
from onnxfit.op import DEFAULT_DOMAINS, DOMAIN, is_our_function
from onnxfit.sites import FUSED_DOMAINS
from onnxfit.twin.batches import Place, Shape, move_to

# The ends of a slice that goes to the end.
INT_MAX = 2**31 - 1


class Use:
    """An input of a node, and the dimension of it that has the samples."""

    def __init__(self, places: "Places", node: NodeProto, position: int, axis: int) -> None:
        self.places = places
        self.node = node
        self.position = position
        self.axis = axis
        self.shape = places.shapes[node.input[position]]
        self.rank = len(self.shape)

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return onnx.helper.get_attribute_value(attribute)
        return default

    def numbers(self, name: str, position: int) -> list[int] | None:
        """Return what is an attribute in old versions and an input in new ones, if it is known."""
        inputs = self.node.input
        if position < len(inputs) and inputs[position]:
            return self.places.numbers.get(inputs[position])
        value = self.get(name, None)
        return None if value is None else list(value)

    def along(self, axis: int, rank: int | None = None) -> int:
        """Return an axis counted from the front."""
        return axis + (self.rank if rank is None else rank) if axis < 0 else axis

    def aligned(self) -> int | None:
        """Return the axis after broadcasting; None where its dimension meets a larger one."""
        shape = self.places.shapes[self.node.output[0]]
        axis = self.axis + len(shape) - self.rank
        return axis if axis >= 0 and shape[axis] == self.shape[self.axis] else None

    def other_is_constant(self) -> bool:
        """Tell whether the other one of two inputs does not depend on the graph's inputs."""
        return self.node.input[1 - self.position] not in self.places.given


class Places:
    """The samples' places in a main graph.

    Attributes:
        shapes: The values' shapes in the file.
        numbers: What small constants hold.
        given: The values that depend on the graph's inputs.
        places: Value → where the samples are in it.
        mixed: The first output of the first node that mixes samples, or may; None where all treat
            them one by one.
    """

    def __init__(
        self,
        model: ModelProto,
        fixed: int,
        shapes: dict[str, Shape],
        constants: dict[str, torch.Tensor],
    ) -> None:
        graph = model.graph
        self.shapes = shapes
        self.numbers = {name: t.reshape(-1).tolist() for name, t in constants.items()}
        inputs = inputs_of(graph)
        self.given = {value.name for value in inputs}
        self.places: dict[str, Place] = {}
        self.mixed: str | None = None
        self.opset = next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 1)
        self._fixed = fixed
        self._functions = {(f.domain, f.name) for f in model.functions if not is_our_function(f)}
        # Values with samples in them, wherever that is; and numbers that follow from how many.
        self._samples = set()
        self._counts: set[str] = set()
        for value in inputs:
            dims = value.type.tensor_type.shape.dim
            if dims and dims[0].dim_value == fixed:
                self._samples.add(value.name)
                if value.name in shapes:
                    self.places[value.name] = Place(0, 1)
        for node in graph.node:
            if not self.given.isdisjoint(reads(node)):
                self.given.update(node.output)
                if self.mixed is None and not self._follow(node):
                    self.mixed = node.output[0]
        if self.mixed is None:
            self.mixed = next((o.name for o in graph.output if not self._is_row(o.name)), None)

    def _is_row(self, name: str) -> bool:
        """Tell whether an output has a row for each sample, or no samples at all."""
        if name in self._counts:
            return False
        return name not in self._samples or (
            self.places.get(name) == Place(0, 1) and self.shapes[name][0] == self._fixed
        )

    def _follow(self, node: NodeProto) -> bool:
        """Find the places in a node's outputs; tell whether it treats samples one by one."""
        everything = set(reads(node))
        if self._counts & everything and not self._counted(node):
            return False
        touched = self._samples & everything
        if touched and node.op_type in ("Shape", "Size") and node.domain in DEFAULT_DOMAINS:
            self._counts.update(node.output)
            return True
        return not touched or self._placed(node, touched)

    def _placed(self, node: NodeProto, touched: set[str]) -> bool:
        """Find the places in the outputs of a node that reads samples."""
        goals = set()
        for position, name in enumerate(node.input):
            if name in touched:
                place = self.places.get(name)
                goals.add(None if place is None else self._goal(node, position, place))
        goal = goals.pop() if len(goals) == 1 and touched <= set(node.input) else None
        if goal is None:
            return False
        for output in filter(None, node.output):
            shape = self.shapes.get(output, ())
            self._samples.add(output)
            if goal.axis < len(shape) and not shape[goal.axis] % (goal.outer * self._fixed):
                self.places[output] = goal
        return True

    def _counted(self, node: NodeProto) -> bool:
        """Tell whether a node only carries the batch size on, or reshapes to it."""
        if node.op_type == "Reshape":
            return node.input[0] not in self._counts
        if node.op_type not in CARRYING or node.domain not in DEFAULT_DOMAINS:
            return False
        self._counts.update(node.output)
        return True

    def _goal(self, node: NodeProto, position: int, place: Place) -> Place | None:
        """Return the place in a node's outputs, or None where samples may be mixed."""
        shape, after = self.shapes[node.input[position]], self.shapes.get(node.output[0])
        if after is None or (node.domain, node.op_type) in self._functions:
            return None
        if node.domain not in (*DEFAULT_DOMAINS, *FUSED_DOMAINS, DOMAIN):
            return None
        if node.op_type in ("Reshape", "Flatten"):
            move = move_to(place, shape, after, self._fixed) if position == 0 else None
            return None if move is None else move[0]
        rule = RULES.get(node.op_type)
        axis = None if rule is None else rule(Use(self, node, position, place.axis))
        return None if axis is None else Place(axis, place.outer)


Rule = Callable[[Use], int | None]


def _elementwise(use: Use) -> int | None:
    return use.aligned()


def _quantised(use: Use) -> int | None:
    return use.axis if use.position == 0 else None


def _from_axis(use: Use) -> int | None:
    first = use.along(use.get("axis", -1))
    return use.axis if use.position == 0 and use.axis < first else None


def _along_axis(use: Use) -> int | None:
    if use.node.op_type == "CumSum":
        axes = use.numbers("axis", 1)
        return use.axis if axes and use.position == 0 and use.along(axes[0]) != use.axis else None
    old = use.places.opset < 13 and use.node.op_type in ("Hardmax", "LogSoftmax", "Softmax")
    axis = use.along(use.get("axis", DEFAULT_AXES.get(use.node.op_type, 1 if old else -1)))
    return (
        use.axis if use.position == 0 and (use.axis < axis if old else use.axis != axis) else None
    )


def _reduction(use: Use) -> int | None:
    axes = use.numbers("axes", 1)
    if use.node.op_type in ("ArgMax", "ArgMin"):
        axes = [use.get("axis", 0)]
    if not axes or use.position:
        return None
    axes = [use.along(axis) for axis in axes]
    if use.axis in axes:
        return None
    return use.axis if use.get("keepdims", 1) else use.axis - sum(a < use.axis for a in axes)


def _of_samples(use: Use) -> int | None:
    # FusedConv adds its fourth input to what it computes.
    added = use.position == 3 and use.node.op_type == "FusedConv"
    by_batch = use.get("training_mode", 0)
    return 0 if use.axis == 0 and (use.position == 0 or added) and not by_batch else None


def _attention(use: Use) -> int | None:
    return 0 if use.axis == 0 and use.position < 3 else None


def _transpose(use: Use) -> int | None:
    order = list(use.get("perm", range(use.rank)[::-1]))
    return order.index(use.axis)


def _squeeze(use: Use) -> int | None:
    axes = use.numbers("axes", 1)
    if axes is None and len(use.node.input) == 1:
        axes = [axis for axis, size in enumerate(use.shape) if size == 1]
    if axes is None or use.position:
        return None
    axes = [use.along(axis) for axis in axes]
    return None if use.axis in axes else use.axis - sum(axis < use.axis for axis in axes)


def _unsqueeze(use: Use) -> int | None:
    axes = use.numbers("axes", 1)
    if not axes or use.position:
        return None
    rank = use.rank + len(axes)
    added = {use.along(axis, rank) for axis in axes}
    return [axis for axis in range(rank) if axis not in added][use.axis]


def _join_or_split(use: Use) -> int | None:
    return use.axis if use.along(use.get("axis", 0)) != use.axis else None


def _slice(use: Use) -> int | None:
    starts, ends = use.numbers("starts", 1), use.numbers("ends", 2)
    axes, steps = use.numbers("axes", 3), use.numbers("steps", 4)
    if axes is None and starts is not None and len(use.node.input) < 4:
        axes = list(range(len(starts)))
    if axes is None or use.position:
        return None
    for index, axis in enumerate(axes):
        if use.along(axis) == use.axis:
            step = 1 if steps is None else steps[index]
            everything = starts and ends and (starts[index], step) == (0, 1)
            return use.axis if everything and ends and ends[index] >= INT_MAX else None
    return use.axis


def _gather(use: Use) -> int | None:
    axis = use.along(use.get("axis", 0))
    if use.position == 1:
        # Each index takes what it points at: the samples are where the indices' are.
        return axis + use.axis if use.other_is_constant() else None
    if axis == use.axis or not use.other_is_constant():
        return None
    added = len(use.places.shapes[use.node.output[0]]) - use.rank
    return use.axis + added if axis < use.axis else use.axis


def _pad(use: Use) -> int | None:
    pads = use.numbers("pads", 1)
    if use.position or pads is None or len(pads) != 2 * use.rank:
        return use.axis if use.axis == 0 and use.position == 0 else None
    return use.axis if pads[use.axis] == pads[use.axis + use.rank] == 0 else None


def _tile(use: Use) -> int | None:
    repeats = use.numbers("repeats", 1)
    return use.axis if repeats and use.position == 0 and repeats[use.axis] == 1 else None


def _matmul(use: Use) -> int | None:
    """Follow samples in stacked matrices, or in what a constant is multiplied with."""
    after = len(use.places.shapes[use.node.output[0]])
    if after < use.rank:
        return None
    if use.axis < use.rank - 2:
        return use.aligned()
    free = use.rank - 2 if use.position == 0 else use.rank - 1
    if use.rank < 2 or use.axis != free or not use.other_is_constant():
        return None
    return use.axis + after - use.rank


def _gemm(use: Use) -> int | None:
    if use.position == 2:
        return use.aligned()
    free = use.get("transA", 0) if use.position == 0 else 1 - use.get("transB", 0)
    if use.axis != free or not use.other_is_constant():
        return None
    return use.position


ELEMENTWISE = {
    *("Abs", "Add", "And", "BiasGelu", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Dropout"),
    *("Elu", "Equal", "Erf", "Exp", "Expand", "FastGelu", "Floor", "Gelu", "Greater"),
    *("GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "JumpReLU"),
    *("LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul"),
    *("Neg", "Not", "Or", "PRelu", "Pow", "QuickGelu", "Reciprocal", "Relu", "Round", "Selu"),
    *("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh"),
    *("ThresholdedRelu", "Where", "Xor"),
}
# They carry a row of sizes on as it is.
CARRYING = {"Cast", "Concat", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"}
ALONG_AXIS = {"CumSum", "Hardmax", "LogSoftmax", "LpNormalization", "Softmax", "TopK"}
DEFAULT_AXES = {"LpNormalization": -1, "TopK": -1}
REDUCTIONS = {
    *("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
}
OF_SAMPLES = {
    *("AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace"),
    *("FusedConv", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization"),
    *("InstanceNormalization", "LRN", "LpPool", "MaxPool", "QLinearAveragePool", "QLinearConv"),
    *("QLinearGlobalAveragePool", "ReorderInput", "ReorderOutput", "Resize", "SpaceToDepth"),
    "Upsample",
}
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _quantised),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _from_axis),
    **dict.fromkeys(ALONG_AXIS, _along_axis),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(OF_SAMPLES, _of_samples),
    **dict.fromkeys(("Concat", "Split"), _join_or_split),
    **dict.fromkeys(("Attention", "RotaryEmbedding"), _attention),
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
