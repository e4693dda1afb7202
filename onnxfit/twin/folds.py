"""Which nodes keep the samples apart that a Reshape has folded into a larger dimension."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import ModelProto, NodeProto

from onnxfit.twin.batches import Place, Shape
from onnxfit.twin.frame import reads

ELEMENTWISE = {
    *("Abs", "Add", "And", "BiasGelu", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Dropout"),
    *("Elu", "Equal", "Erf", "Exp", "FastGelu", "Floor", "Gelu", "Greater", "GreaterOrEqual"),
    *("HardSigmoid", "HardSwish", "Identity", "IsNaN", "JumpReLU", "LeakyRelu", "Less"),
    *("LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Not", "Or", "Pow"),
    *("QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"),
    *("Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where", "Xor"),
}
# They compute with all elements from an axis on.
FROM_AXIS = {"LayerNormalization": -1, "RMSNormalization": -1}
ALONG_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "LpNormalization": -1}
REDUCTIONS = {
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
}
OF_IMAGES = {
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool"),
    *("GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "MaxPool"),
}


class Use:
    """An input of a node, with the dimension of it that has folded samples."""

    def __init__(self, folds: "Folds", node: NodeProto, position: int, axis: int) -> None:
        self.folds = folds
        self.node = node
        self.position = position
        self.axis = axis
        self.rank = len(folds.shapes[node.input[position]])

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
            return self.folds.numbers.get(inputs[position])
        value = self.get(name, None)
        return None if value is None else list(value)

    def along(self, axis: int, rank: int | None = None) -> int:
        """Return an axis counted from the front."""
        return axis + (self.rank if rank is None else rank) if axis < 0 else axis

    def aligned(self) -> int:
        """Return the axis after broadcasting."""
        return self.axis + len(self.folds.shapes[self.node.output[0]]) - self.rank


class Folds:
    """The values of a main graph in which samples are folded into a larger dimension.

    Attributes:
        shapes: The values' shapes in the file.
        places: The values known so far, and where the samples are in them.
        numbers: What small constants hold.
    """

    def __init__(
        self, model: ModelProto, shapes: dict[str, Shape], constants: dict[str, torch.Tensor]
    ) -> None:
        self.shapes = shapes
        self.places: dict[str, Place] = {}
        self.opset = next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 1)
        graph = model.graph
        self.numbers = {name: t.reshape(-1).tolist() for name, t in constants.items()}
        self._final = {value.name for value in graph.output}
        self._uses: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        self._given = {v.name for v in graph.input} - {t.name for t in graph.initializer}
        for node in graph.node:
            for position, name in enumerate(node.input):
                self._uses[name].append((node, position))
            self._final.update(set(reads(node)) - set(node.input))
            if not self._given.isdisjoint(reads(node)):
                self._given.update(node.output)

    def is_constant(self, name: str) -> bool:
        """Tell whether a value does not depend on the graph's inputs."""
        return name not in self._given

    def admit(self, name: str, place: Place) -> bool:
        """Note that samples are folded in a value; return False where nodes could mix them."""
        found = {name: place}
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current in self._final or current not in self.shapes:
                return False
            for node, position in self._uses[current]:
                if node.op_type in ("Reshape", "Flatten", "Shape") and position == 0:
                    continue
                after = self._after(node, position, found[current])
                if after is None:
                    return False
                for output, goal in after.items():
                    if found.get(output, goal) != goal or self.places.get(output, goal) != goal:
                        return False
                    if output not in found:
                        found[output] = goal
                        waiting.append(output)
        self.places.update(found)
        return True

    def _after(self, node: NodeProto, position: int, place: Place) -> dict[str, Place] | None:
        rule = RULES.get(node.op_type)
        if rule is None or any(output not in self.shapes for output in node.output if output):
            return None
        axis = rule(Use(self, node, position, place.axis))
        if axis is None:
            return None
        return {output: Place(axis, place.outer) for output in node.output if output}


Rule = Callable[[Use], int | None]


def _elementwise(use: Use) -> int | None:
    return use.aligned()


def _quantised(use: Use) -> int | None:
    return use.axis if use.position == 0 else None


def _from_axis(use: Use) -> int | None:
    first = use.along(use.get("axis", FROM_AXIS[use.node.op_type]))
    outputs = [output for output in use.node.output if output]
    return use.axis if use.position == 0 and use.axis < first and len(outputs) == 1 else None


def _along_axis(use: Use) -> int | None:
    old = use.folds.opset < 13 and use.node.op_type != "LpNormalization"
    axis = use.along(use.get("axis", 1 if old else -1))
    return use.axis if (use.axis < axis if old else use.axis != axis) else None


def _reduction(use: Use) -> int | None:
    axes = use.numbers("axes", 1)
    if not axes or use.position:
        return None
    axes = [use.along(axis) for axis in axes]
    if use.axis in axes:
        return None
    return use.axis if use.get("keepdims", 1) else use.axis - sum(a < use.axis for a in axes)


def _of_images(use: Use) -> int | None:
    alone = use.axis == 0 and use.position == 0 and len(use.node.output) == 1
    return 0 if alone and use.rank > 2 else None


def _transpose(use: Use) -> int | None:
    order = list(use.get("perm", range(use.rank)[::-1]))
    return order.index(use.axis)


def _squeeze(use: Use) -> int | None:
    axes = use.numbers("axes", 1)
    if not axes or use.position:
        return None
    return use.axis - sum(use.along(axis) < use.axis for axis in axes)


def _unsqueeze(use: Use) -> int | None:
    axes = use.numbers("axes", 1)
    if not axes or use.position:
        return None
    rank = use.rank + len(axes)
    kept = [a for a in range(rank) if a not in {use.along(axis, rank) for axis in axes}]
    return kept[use.axis]


def _concat_or_split(use: Use) -> int | None:
    return use.axis if use.along(use.get("axis", 0)) != use.axis else None


def _slices(use: Use) -> int | None:
    axes = use.numbers("axes", 3)
    if not axes or use.position or use.axis in map(use.along, axes):
        return None
    return use.axis


def _gather(use: Use) -> int | None:
    axis = use.along(use.get("axis", 0))
    if use.position or axis == use.axis or not use.folds.is_constant(use.node.input[1]):
        return None
    added = len(use.folds.shapes[use.node.output[0]]) - use.rank
    return use.axis + added if axis < use.axis else use.axis


def _matmul(use: Use) -> int | None:
    """Keep samples in the stacked matrices, or in what a constant is multiplied with."""
    if use.axis > use.aligned():
        return None
    if use.axis < use.rank - 2:
        return use.aligned()
    other = use.node.input[1 - use.position]
    free = use.rank - 2 if use.position == 0 else use.rank - 1
    if use.rank < 2 or use.axis != free or not use.folds.is_constant(other):
        return None
    return use.aligned()


def _gemm(use: Use) -> int | None:
    if use.position == 2:
        return use.aligned()
    free = use.get("transA", 0) if use.position == 0 else 1 - use.get("transB", 0)
    if use.axis != free or not use.folds.is_constant(use.node.input[1 - use.position]):
        return None
    return use.position


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantised),
    **dict.fromkeys(FROM_AXIS, _from_axis),
    **dict.fromkeys(ALONG_AXIS, _along_axis),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(OF_IMAGES, _of_images),
    **dict.fromkeys(("Concat", "Split"), _concat_or_split),
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slices,
    "Gather": _gather,
    "MatMul": _matmul,
    "Gemm": _gemm,
}
