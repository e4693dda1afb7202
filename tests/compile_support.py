"""What the tests of compiled models share: small networks, and what must reach every site.

Weights, inputs and jumps are small multiples of 1/64 where bits are compared with a reference that
ONNX Runtime does not optimise: then no sum rounds, and its order does not matter.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from corpus import Outputs, all_same_bits, run
from independent import Jump, jump_of, swapped
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from support import dtype_of, parse, quiet

import onnxfit

Array = NDArray[Any]


HEAD = '<ir_version: 8, opset_import: ["": 17]> '


RESIDUAL = (
    "(float[N,3,H,W] x) => (float[N,16,P,Q] y) "
    "{ c = Conv(x, w3) a = Relu(c) d = Conv(a, k16) s = Add(d, a) y = Relu(s) }"
)


PRODUCTS = (
    "g (float[N,3] x) => (float[N,5] y) "
    "{ c = MatMul(x, m3) a = Relu(c) d = MatMul(a, m16) y = Relu(d) }"
)


def whole(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Return small whole numbers."""
    drawn: Array = np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)
    return drawn


WEIGHTS = {
    "w3": whole((16, 3, 3, 3), 1),
    "w16": whole((16, 16, 3, 3), 2),
    "k16": whole((16, 16, 1, 1), 3),
    "l16": whole((16, 16, 1, 1), 4),
    "m3": whole((3, 16), 5),
    "m16": whole((16, 5), 6),
    "half": np.full((16, 1, 1), 0.5, np.float32),
    "mean": whole((16,), 7),
    "var": np.ones(16, np.float32),
    "three": whole((3, 1, 1), 10),
    "zero": np.float32(0),
    "six": np.float32(6),
    "kept": whole((3, 8, 8), 8),
}


def network(text: str, element_type: int = TensorProto.FLOAT) -> ModelProto:
    """Parse a model and add those of the weights that it reads."""
    model = parse(text)
    graphs = [model.graph]
    for graph in graphs:
        graphs += [a.g for n in graph.node for a in n.attribute if a.g.node]
    names = {name for graph in graphs for node in graph.node for name in node.input}
    for name in sorted(names & set(WEIGHTS)):
        values = np.asarray(WEIGHTS[name], dtype_of(element_type))
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        if model.ir_version < 4:
            shape = values.shape
            value = onnx.helper.make_tensor_value_info(name, element_type, shape)
            model.graph.input.append(value)
    return model


def images(*shape: int) -> Array:
    """Return whole numbers as inputs."""
    return np.asarray(whole(shape, 9) * 2, np.float32)


X = images(2, 3, 8, 8)


def outputs(model: ModelProto, feeds: dict[str, Array], base_dir: Path | None = None) -> Outputs:
    """Run a model as users do, optimised, with the library."""
    results: Outputs = onnxfit.session(model, quiet(), base_dir=base_dir).run(None, feeds)
    return results


def distinct(model: ModelProto, base: float = 1.125) -> dict[str, float]:
    """Choose a jump for each site by the value that it writes; few sites have the same."""
    found = onnxfit.inspect(model).sites
    scopes = {site.name: f"{site.scope}/" if site.scope else "" for site in found}
    return {name: jump_of(name.removeprefix(scope), base) for name, scope in scopes.items()}


def lookup(jumps: dict[str, float]) -> Jump:
    """Return a function that gives 0 to sites that have no jump."""
    return lambda value: jumps.get(value, 0.0)


def jump_relus(model: ModelProto) -> int:
    """Count the sites of the main graph with a JumpReLU that ONNX Runtime fused nothing into."""
    return sum(site.kind != "fused" for site in onnxfit.inspect(model).sites)


def assert_reaches(source: ModelProto, feeds: dict[str, Array], **options: Any) -> ModelProto:
    """Check that each site of a compiled model has its own jump, against the reference.

    Returns:
        The compiled model.
    """
    jumps = distinct(source)
    compiled = onnxfit.compile(onnxfit.retrofit(source, jumps=jumps, **options))
    if source.ir_version >= 4:
        onnx.checker.check_model(compiled)
    expected = run(swapped(source, lambda value: jump_of(value, 1.125)), [feeds])
    assert not all_same_bits(run(source, [feeds]), expected)
    found = outputs(compiled, feeds)
    assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))
    return compiled


CHANNELS = np.arange(16, dtype=np.float32)[:, None, None] / 2 + 0.25
