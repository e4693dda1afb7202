"""What the tests of rewrites share: small networks, and the check that all stays the same."""

from collections.abc import Collection
from typing import Any

import numpy as np
from corpus import all_same_bits, run
from numpy.typing import NDArray
from onnx import ModelProto
from support import parse

import onnxfit
from onnxfit import rewrites

Jumps = dict[str, Any]

RNG = np.random.default_rng(0)
# Jumps, numbers beside them, signed zeros and infinities, in no order.
VALUES = np.array([-np.inf, -2, -0.5, -0.0, 0, 0.25, 0.5, 0.5001, 0.75, 1, 2, np.inf], np.float32)
X = RNG.choice(VALUES, (2, 8, 6, 6))
Z = RNG.choice(VALUES[1:-1], (2, 8, 6, 6))

X_IS = "float[N,8,6,6] x"
Z_IS = "float[N,8,6,6] z"
# Lengths of one name need not be equal.
BOTH_ARE = "float[2,8,6,6] x, float[2,8,6,6] z"
IMAGE_IS = "float[N,C,H,W] y"

POOL = "kernel_shape = [2, 2], strides = [2, 2]"


def network(
    nodes: str, inputs: str = X_IS, outputs: str = IMAGE_IS, opset: int = 17, more: str = ""
) -> ModelProto:
    """Parse a model of one graph."""
    return parse(
        f'<ir_version: 8, opset_import: ["": {opset}, "local": 1]> g ({inputs}) => ({outputs}) '
        f"{more} {{ {nodes} }}"
    )


def check(
    source: ModelProto, jumps: Jumps | float = 0.5, names: Collection[str] = rewrites.ALL
) -> dict[str, int]:
    """Harden a model, rewrite it, and see that it computes the same bits and can be taken back.

    Returns:
        How often each rewrite applied that did.
    """
    given: Any = {"jumps": jumps} if isinstance(jumps, dict) else {"jump": jumps}
    return check_hardened(onnxfit.retrofit(source, **given), names)


def check_hardened(hard: ModelProto, names: Collection[str] = rewrites.ALL) -> dict[str, int]:
    """Do the same with a model that is hardened already."""
    rewritten = ModelProto.FromString(hard.SerializeToString())
    counts = rewrites.apply(rewritten, names)
    known: dict[str, NDArray[Any]] = {"x": X, "z": Z, "c": np.array(True)}
    feeds = [{value.name: known[value.name] for value in hard.graph.input}]
    for library in (False, True):
        for optimise in (False, True):
            expected = run(hard, feeds, library=library, optimise=optimise)
            assert all_same_bits(
                expected, run(rewritten, feeds, library=library, optimise=optimise)
            )
    rewrites.take_back(rewritten)
    assert hard.SerializeToString() == rewritten.SerializeToString()
    return {name: count for name, count in counts.items() if count}


def op_types(model: ModelProto) -> list[str]:
    """List the operators of the main graph, constants left out."""
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]


EVERY = (
    "s = Add(x, z) h = Relu(s) a = Neg(h) b = Mul(h, h) i = Relu(a) j = Relu(b) "
    "k = Concat<axis = 1>(i, j) l = Relu(k) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(l)"
)


def every() -> ModelProto:
    """Make a model to which each rewrite applies once."""
    return network(EVERY, BOTH_ARE)
