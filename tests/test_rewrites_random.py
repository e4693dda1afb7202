"""Rewrites against random networks: the same bits as without them, in every way to run them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from corpus import Feeds, all_same_bits, run
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper
from onnx.numpy_helper import from_array
from support import dtype_of

import onnxfit
from onnxfit import rewrites

Shape = tuple[int, ...]

WITHOUT_ADD = [name for name in rewrites.ALL if name != "add"]

TYPES = {"float": 24, "float16": 12, "double": 9}


@dataclass
class Network:
    """A random network over samples of 3×9×9 and of any number, node by node.

    Attributes:
        rng: Decides everything.
        element_type: Of all activations.
        nodes: The nodes so far.
        tensors: The initializers.
        live: Value → the shape of one sample.
        used: The values that something reads.
    """

    rng: np.random.Generator
    element_type: int
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    live: dict[str, Shape] = field(default_factory=lambda: {"x": (3, 9, 9)})
    used: Counter[str] = field(default_factory=Counter)

    def choose(self, items: Any) -> Any:
        """Return one of several things."""
        return items[int(self.rng.integers(len(items)))]

    def pick(self, rank: int = 3) -> str:
        """Return a value, most often one that nothing reads yet."""
        fitting = [name for name, shape in self.live.items() if len(shape) == rank]
        fresh = [name for name in fitting if not self.used[name]]
        return str(fresh[-1] if fresh and self.rng.random() < 0.75 else self.choose(fitting))

    def add(self, op_type: str, inputs: list[str], shape: Shape, **attributes: Any) -> str:
        """Append a node and return what it writes."""
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        self.used.update(inputs)
        self.live[name] = shape
        return name

    def constant(self, values: NDArray[Any]) -> str:
        """Add an initializer."""
        name = f"w{len(self.tensors)}"
        dtype = values.dtype if values.dtype == np.int64 else dtype_of(self.element_type)
        self.tensors.append(from_array(values.astype(dtype), name))
        return name

    def linear(self, x: str) -> str:
        """Add a convolution, or what ONNX Runtime has for each type."""
        channels, height, width = self.live[x]
        if self.element_type == TensorProto.FLOAT and self.rng.random() < 0.6:
            more = int(self.choose([3, 8, 16]))
            kernel = self.constant(self.rng.normal(size=(more, channels, 3, 3)) / 3)
            return self.add("Conv", [x, kernel], (more, height, width), pads=[1, 1, 1, 1])
        scale = self.constant(self.rng.choice([-1, -0.5, 0.5, 1], (channels, 1, 1)))
        return self.add("Mul", [x, scale], self.live[x])

    def activation(self, x: str) -> str:
        """Add an activation that becomes a JumpReLU."""
        if self.rng.random() < 0.7:
            return self.add("Relu", [x], self.live[x])
        bounds = [self.constant(np.asarray(0.0)), self.constant(np.asarray(1.0))]
        return self.add("Clip", [x, *bounds], self.live[x])

    def pool(self, x: str) -> str:
        """Add a pooling, of some sort, most often behind an activation."""
        channels, height, width = self.live[x]
        if min(height, width) < 3:
            return self.linear(x)
        x = self.activation(x) if self.rng.random() < 0.7 else x
        if self.rng.random() < 0.15 and self.element_type != TensorProto.DOUBLE:
            return self.add("GlobalMaxPool", [x], (channels, 1, 1))
        size, stride = int(self.choose([2, 3])), int(self.choose([1, 2, 2, 3]))
        ceil = bool(self.rng.random() < 0.3) and size >= stride
        pad = 0 if ceil else int(self.choose([0, 0, 1]))
        spare = [length + 2 * pad - size for length in (height, width)]
        steps = [-(-n // stride) if ceil else n // stride for n in spare]
        return self.add(
            "MaxPool",
            [x],
            (channels, steps[0] + 1, steps[1] + 1),
            kernel_shape=[size] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            ceil_mode=int(ceil),
        )

    def join(self, x: str) -> str:
        """Add a Concat of values that fit each other, each behind an activation of its own."""
        channels, *size = self.live[x]
        parts = []
        for _ in range(int(self.choose([2, 3]))):
            part = self.linear(x)
            parts.append(self.add("Relu", [part], self.live[part]))
        total = sum(self.live[part][0] for part in parts)
        if self.rng.random() < 0.2:
            parts, total = [*parts, x], total + channels
        return self.add("Concat", parts, (total, *size), axis=1)

    def sum(self, x: str) -> str:
        """Add an addition: of values of one shape, of a value to itself, or with broadcasting."""
        kind = self.choose(["residual", "residual", "self", "broadcast", "bias"])
        shape, other = self.live[x], x
        if kind == "residual":
            other = self.choose([n for n, s in self.live.items() if s == shape])
        elif kind == "broadcast":
            if self.element_type == TensorProto.DOUBLE:
                other = self.add("ReduceMax", [x], (shape[0], 1, 1), axes=[2, 3])
            else:
                other = self.add("GlobalMaxPool", [x], (shape[0], 1, 1))
        elif kind == "bias":
            other = self.constant(self.rng.choice([-0.5, 0.25, 1], (shape[0], 1, 1)))
        return self.add(str(self.choose(["Add", "Sum"])), [x, other], shape)

    def arrange(self, x: str) -> str:
        """Add an activation, an operator that keeps all numbers, and another activation."""
        shape = self.live[self.activation(x)]
        x = next(reversed(self.live))
        kind = self.choose(["Transpose", "Identity", "Flatten", "Reshape"])
        if kind == "Transpose":
            x = self.add(kind, [x], (shape[0], shape[2], shape[1]), perm=[0, 1, 3, 2])
        elif kind == "Reshape":
            flat = (shape[0], 1, shape[1] * shape[2])
            x = self.add(kind, [x, self.constant(np.array([0, 0, 1, -1]))], flat)
        else:
            x = self.add(kind, [x], shape if kind == "Identity" else (int(np.prod(shape)),))
        return self.activation(x)

    def branch(self, x: str) -> str:
        """Add an If whose branches read values from outside and have a pooling of their own."""
        channels, height, width = self.live[x]
        inner = []
        for name, op_type in (("then", "Neg"), ("else", "Identity")):
            tag = f"{name}{len(self.nodes)}"
            nodes = [
                helper.make_node(op_type, [x], [f"{tag}a"]),
                helper.make_node("Add", [f"{tag}a", x], [f"{tag}b"]),
                helper.make_node("Relu", [f"{tag}b"], [f"{tag}c"]),
                helper.make_node(
                    "MaxPool", [f"{tag}c"], [f"{tag}d"], kernel_shape=[1, 1], strides=[2, 2]
                ),
            ]
            result = helper.make_tensor_value_info(f"{tag}d", self.element_type, [None] * 4)
            inner.append(helper.make_graph(nodes, tag, [], [result]))
        self.used[x] += 1
        shape = (channels, (height + 1) // 2, (width + 1) // 2)
        return self.add("If", ["c"], shape, then_branch=inner[0], else_branch=inner[1])

    def build(self) -> ModelProto:
        """Grow the network and return the model; what nothing reads is an output, and more."""
        steps = [self.linear, self.activation, self.activation, self.pool, self.pool]
        steps += [self.join, self.sum, self.sum, self.arrange, self.branch]
        while len(self.nodes) < 20:
            self.choose(steps)(self.pick())
        self.activation(self.pick())
        ends = [name for name in self.live if not self.used[name]]
        ends += [n for n in self.live if self.used[n] and self.rng.random() < 0.05 and n != "x"]
        size: list[int | str] = ["N", *self.live["x"]]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [
                helper.make_tensor_value_info("x", self.element_type, size),
                helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            ],
            [
                helper.make_tensor_value_info(
                    name, self.element_type, [None] * (len(self.live[name]) + 1)
                )
                for name in ends
            ],
            self.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        checker.check_model(model)
        return model


def hardened(seed: int, element_type: int) -> ModelProto:
    """Return a random network with jumps: one number, few different ones, or by channel."""
    rng = np.random.default_rng([seed, element_type])
    source = Network(rng, element_type).build()
    kind = seed % 3
    if kind == 0:
        return onnxfit.retrofit(source, 0.25)
    jumps: dict[str, Any] = {
        site.name: float(rng.choice([0.0, 0.25, 0.5])) for site in onnxfit.find_sites(source)
    }
    if kind == 2:
        shapes = Network(np.random.default_rng([seed, element_type]), element_type)
        shapes.build()
        for name in jumps:
            shape = shapes.live.get(name, ())
            if len(shape) == 3 and rng.random() < 0.5:
                jumps[name] = rng.choice([0.0, 0.25, 0.5], (shape[0], 1, 1))
    return onnxfit.retrofit(source, jumps=jumps)


NETWORKS = [
    pytest.param(seed, TensorProto.DataType.Value(name.upper()), id=f"{name}-{seed}")
    for name, count in TYPES.items()
    for seed in range(count)
]


def feeds_for(seed: int, element_type: int) -> Feeds:
    """Return inputs at the jumps and beside them, with signed zeros; and any numbers.

    ONNX Runtime computes float16 in float, and where it rounds depends on the graph: of that type
    there are only numbers whose sums need no rounding.
    """
    rng = np.random.default_rng(seed)
    grid = rng.choice(np.array([-1, -0.5, -0.0, 0, 0.25, 0.5, 0.75, 1, 2]), (2, 3, 9, 9))
    other = grid[::-1] if element_type == TensorProto.FLOAT16 else rng.normal(size=grid.shape)
    dtype = dtype_of(element_type)
    return [
        {"x": grid.astype(dtype), "c": np.array(True)},
        {"x": other.astype(dtype), "c": np.array(False)},
    ]


@pytest.mark.parametrize(("seed", "element_type"), NETWORKS)
def test_rewritten_networks_compute_the_same_bits(seed: int, element_type: int) -> None:
    """Optimised or not, with the library or without; and taken back they are what they were.

    ONNX Runtime's optimiser fuses an addition into a convolution, which rounds otherwise, but not
    where a kernel makes it: there the additions are left out.
    """
    hard = hardened(seed, element_type)
    feeds = feeds_for(seed, element_type)
    for library in (False, True):
        for optimise in (False, True):
            rewritten = ModelProto.FromString(hard.SerializeToString())
            alone = optimise and library
            counts = rewrites.apply(rewritten, WITHOUT_ADD if alone else rewrites.ALL)
            expected = run(hard, feeds, library=library, optimise=optimise)
            actual = run(rewritten, feeds, library=library, optimise=optimise)
            assert all_same_bits(expected, actual)
            assert any(counts.values()) == rewrites.take_back(rewritten)
            assert hard.SerializeToString() == rewritten.SerializeToString()


def test_random_networks_hold_something_for_every_rewrite() -> None:
    """Each rewrite applies several times, and not everywhere where its operator is."""
    counts: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for seed in range(TYPES["float"]):
        model = hardened(seed, TensorProto.FLOAT)
        there.update(node.op_type for node in model.graph.node)
        counts.update(rewrites.apply(model))
    assert set(rewrites.ALL) == {name for name, count in counts.items() if count >= 5}
    assert there["MaxPool"] + there["GlobalMaxPool"] > counts["maxpool"]
    assert there["Concat"] > counts["concat"]
