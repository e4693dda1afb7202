"""Files that fix their batch, computed with another: right for each sample, or refused."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

torch = pytest.importorskip("torch")

from twin_support import parse  # noqa: E402

from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.twin.module import Twin, to_torch  # noqa: E402

# Nodes from images x, 2 channels of 4 by 6 in a batch of 1, to y with a row for each sample.
KEEPS_SAMPLES_APART = {
    "a target with the batch": "s = Constant <value_ints = [1, 48]> () y = Reshape (x, s)",
    "a target with -1": "s = Constant <value_ints = [1, -1]> () y = Reshape (x, s)",
    "-1 for the batch": "s = Constant <value_ints = [-1, 48]> () y = Reshape (x, s)",
    "0 for the batch": "s = Constant <value_ints = [0, -1]> () y = Reshape (x, s)",
    "a flattened batch": "f = Flatten <axis = 0> (x) y = Relu (f)",
    "a channel shuffle": """
        a = Constant <value_ints = [1, 2, 2, 2, 6]> () g = Reshape (x, a)
        t = Transpose <perm = [0, 2, 1, 3, 4]> (g)
        b = Constant <value_ints = [1, -1, 4, 6]> () y = Reshape (t, b)""",
    "heads that the batch is folded into": """
        a = Constant <value_ints = [2, 4, 6]> () h = Reshape (x, a)
        t = Transpose <perm = [0, 2, 1]> (h)
        m = MatMul (h, t) p = Softmax <axis = -1> (m) r = MatMul (p, h)
        b = Constant <value_ints = [1, 2, 4, 6]> () y = Reshape (r, b)""",
    "a batch in the second dimension": """
        a = Constant <value_ints = [1, 8, 6]> () h = Reshape (x, a)
        t = Transpose <perm = [1, 0, 2]> (h) b = Constant <value_ints = [8, 2, 3]> ()
        f = Reshape (t, b) u = Transpose <perm = [1, 0, 2]> (f) m = Softmax <axis = -1> (u)
        v = Transpose <perm = [1, 0, 2]> (m) c = Constant <value_ints = [8, 6]> ()
        g = Reshape (v, c) w = Constant <value = float[6, 2] {1,2,3,4,5,6,7,8,9,10,11,12}> ()
        n = MatMul (g, w) d = Constant <value_ints = [8, 1, 2]> () z = Reshape (n, d)
        y = Transpose <perm = [1, 0, 2]> (z)""",
    "a Transpose that became a Reshape": """
        a = Constant <value_ints = [8, 3, 2]> () h = Reshape (x, a)
        t = Transpose <perm = [1, 0, 2]> (h) b = Constant <value_ints = [1, 3, 8, 2]> ()
        y = Reshape (t, b)""",
    "a class token": """
        a = Constant <value_ints = [1, 8, 6]> () h = Reshape (x, a)
        k = Constant <value = float[1, 1, 6] {1, 2, 3, 4, 5, 6}> ()
        s = Constant <value_ints = [1, 1, 1]> () e = Expand (k, s)
        y = Concat <axis = 1> (e, h)""",
    "a shape computed at run time": """
        s = Shape <start = 0, end = 2> (x) r = Constant <value_ints = [-1]> ()
        t = Concat <axis = 0> (s, r) y = Reshape (x, t)""",
    "pads computed at run time": """
        s = Shape <start = 2> (x) z = Constant <value_ints = [0, 0]> ()
        p = Concat <axis = 0> (z, s, z, z) q = Pad (x, p)
        t = Constant <value_ints = [16, 12]> () f = Reshape (q, t)
        g = Relu (f) b = Constant <value_ints = [1, 2, 8, 12]> () y = Reshape (g, b)""",
}
MIXES_SAMPLES = {
    "Softmax of a vector": """
        a = Constant <value_ints = [48]> () f = Reshape (x, a) m = Softmax <axis = 0> (f)
        b = Constant <value_ints = [1, 48]> () y = Reshape (m, b)""",
    "attention in two dimensions": """
        a = Constant <value_ints = [8, 6]> () q = Reshape (x, a) k = Transpose (q)
        m = MatMul (q, k) p = Softmax <axis = -1> (m) r = MatMul (p, q)
        b = Constant <value_ints = [1, 48]> () y = Reshape (r, b)""",
    "a mean over everything": "m = ReduceMean (x) y = Sub (x, m)",
    "one sample taken out": """
        i = Constant <value_int = 0> () g = Gather (x, i)
        a = Constant <value_ints = [0]> () y = Unsqueeze (g, a)""",
    "a batch squeezed away": """
        a = Constant <value_ints = [0]> () q = Squeeze (x, a) y = Unsqueeze (q, a)""",
    "all dimensions of 1 squeezed away": """
        q = Squeeze (x) a = Constant <value_ints = [0]> () y = Unsqueeze (q, a)""",
    "samples along a channel": """
        f = Flatten <axis = 2> (x) a = Constant <value_ints = [2, 1, 1]> ()
        m = ReduceMean <axes = [1]> (f) r = Reshape (m, a) y = Mul (x, r)""",
}


def sample_by_sample(twin: Twin, x: Any, size: int = 1) -> Any:
    """Compute a file's batch at a time."""
    return torch.cat([twin(part) for part in x.split(size)])


def made_for_one(nodes: str) -> Twin:
    """Make the twin of a model for batches of 1."""
    header = '<ir_version: 8, opset_import: ["": 17]> g (float[1, 2, 4, 6] x)'
    model = parse(f"{header} => (float[1] y) {{ {nodes} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    return to_torch(model)


@pytest.mark.parametrize("name", KEEPS_SAMPLES_APART)
def test_samples_are_kept_apart(name: str) -> None:
    """Each sample of a larger batch gives what it gives alone, in value and gradient."""
    twin = made_for_one(KEEPS_SAMPLES_APART[name])
    for n in (1, 2, 3, 4, 8):
        x = torch.rand(n, 2, 4, 6, requires_grad=True)
        expected, found = sample_by_sample(twin, x), twin(x)
        torch.testing.assert_close(found, expected)
        weights = torch.rand(expected.shape)
        gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (expected, found)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", MIXES_SAMPLES)
def test_samples_are_never_mixed(name: str) -> None:
    """What would mix the samples of a larger batch gives each its own result, or is an error."""
    twin = made_for_one(MIXES_SAMPLES[name])
    for n in (2, 4, 6, 8):
        x = torch.rand(n, 2, 4, 6)
        try:
            found = twin(x)
        except ModelError:
            continue
        torch.testing.assert_close(found, sample_by_sample(twin, x))


@pytest.mark.parametrize("values", ["1, 2, 1, 2", "1, 2, 3, 4"])
def test_constants_with_a_row_for_each_sample(values: str) -> None:
    """An exporter computes a class token for a batch of 2 ahead; rows may differ."""
    header = '<ir_version: 8, opset_import: ["": 17]> g (float[2, 3, 2] x) => (float[2, 4, 2] y)'
    token = f"<float[2, 1, 2] token = {{{values}}}>"
    twin = to_torch(parse(f"{header} {token} {{ y = Concat <axis = 1> (token, x) }}"))
    x = torch.rand(4, 3, 2)
    try:
        found = twin(x)
    except ModelError:
        assert values == "1, 2, 3, 4"
    else:
        torch.testing.assert_close(found, sample_by_sample(twin, x, 2))


def test_an_open_batch_reshapes_as_the_file_says() -> None:
    """Where the file leaves the batch open nothing is refused."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 4] x) => (float[1, M] y) {
        s = Constant <value_ints = [1, -1]> () y = Reshape (x, s) }"""
    assert (1, 24) == tuple(to_torch(parse(text))(torch.rand(3, 2, 4)).shape)


class Chain:
    """A chain of random nodes behind an input whose first dimension is the batch."""

    def __init__(self, seed: int, batch: int) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape = [batch, *(self.random.choice([1, 2, 3, 4]) for _ in range(3))]
        self.first = list(self.shape)
        self.last = "x"
        for _ in range(self.random.randint(2, 6)):
            self.random.choice(LINKS)(self)
        self.add("Reshape", [batch, -1])
        outputs = [helper.make_tensor_value_info(self.last, 1, [batch, self.size // batch])]
        inputs = [helper.make_tensor_value_info("x", 1, self.first)]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.constants)
        imports = [helper.make_opsetid("", 17)]
        self.model = helper.make_model(graph, opset_imports=imports, ir_version=8)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))

    def axis(self) -> int:
        """Choose an axis."""
        return self.random.randrange(len(self.shape))

    def add(self, op: str, *constants: Any, shape: Any = None, **attributes: Any) -> None:
        """Add a node that reads the last value and constants."""
        names = [f"c{len(self.constants) + index}" for index in range(len(constants))]
        for name, constant in zip(names, constants, strict=True):
            self.constants.append(onnx.numpy_helper.from_array(np.array(constant), name))
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *names], [output], **attributes))
        self.last, self.shape = output, self.shape if shape is None else shape


def reshape(chain: Chain) -> None:
    """Add a Reshape to random dimensions."""
    rest = chain.size
    shape: list[int] = []
    while rest > 1 and len(shape) < 4:
        shape.append(chain.random.choice([d for d in range(1, rest + 1) if rest % d == 0]))
        rest //= shape[-1]
    shape.append(rest)
    chain.add("Reshape", shape, shape=shape)


def transpose(chain: Chain) -> None:
    """Add a Transpose in random order."""
    order = chain.random.sample(range(len(chain.shape)), len(chain.shape))
    chain.add("Transpose", perm=order, shape=[chain.shape[axis] for axis in order])


def softmax(chain: Chain) -> None:
    """Add a Softmax along a random axis."""
    chain.add("Softmax", axis=chain.axis())


def mean(chain: Chain) -> None:
    """Add a mean over a random axis."""
    axis = chain.axis()
    shape = [1 if place == axis else size for place, size in enumerate(chain.shape)]
    chain.add("ReduceMean", axes=[axis], shape=shape)


def matmul(chain: Chain) -> None:
    """Add a product with a constant."""
    weight = np.random.default_rng(chain.size).random((chain.shape[-1], 2), np.float32)
    chain.add("MatMul", weight, shape=[*chain.shape[:-1], 2])


def add(chain: Chain) -> None:
    """Add a constant that broadcasts."""
    shape = [size if chain.random.random() < 0.5 else 1 for size in chain.shape]
    chain.add("Add", np.random.default_rng(chain.size).random(shape, np.float32))


def take_first(chain: Chain) -> None:
    """Take the first part along a random axis."""
    axis = chain.axis()
    shape = [1 if place == axis else size for place, size in enumerate(chain.shape)]
    chain.add("Slice", [0], [1], [axis], shape=shape)


LINKS: list[Callable[[Chain], None]] = [
    *(reshape, reshape, reshape, transpose, softmax, mean, matmul, add, take_first)
]


@pytest.mark.parametrize("batch", [1, 2])
def test_random_chains_are_right_or_refused(batch: int) -> None:
    """No other batch size gives something else than the file does for each sample."""
    right = 0
    for seed in range(120):
        chain = Chain(seed, batch)
        if chain.size % batch:
            continue
        twin = to_torch(chain.model)
        for n in (2, 3, 4):
            x = torch.rand(n * batch, *chain.first[1:])
            try:
                found = twin(x)
            except ModelError:
                continue
            torch.testing.assert_close(found, sample_by_sample(twin, x, batch))
            right += 1
    assert right > 100
