"""JumpReLUs before a Concat: where they become one behind it, and where they must not."""

import numpy as np
import pytest
from onnx import ModelProto
from onnx.numpy_helper import from_array
from rewrites_support import IMAGE_IS, POOL, Jumps, check, network, op_types

import onnxfit
from onnxfit import rewrites

TWO = "a = Neg(x) b = Mul(x, x) h = Relu(a) i = Relu(b) y = Concat<axis = 1>(h, i)"


@pytest.mark.parametrize("opset", [7, 9, 13, 17])
def test_jump_relus_of_one_jump_become_one_behind_a_concat(opset: int) -> None:
    """Where each input carries it."""
    source = network(TWO, opset=opset)
    assert {"concat": 1} == check(source)
    hard = onnxfit.retrofit(source, 0.5, optimize=rewrites.ALL)
    assert ["Neg", "Mul", "Concat", "JumpReLU"] == op_types(hard)


@pytest.mark.parametrize(
    ("nodes", "jumps", "outputs"),
    [
        (TWO, {"h": 0.5, "i": 0.25}, IMAGE_IS),
        (TWO, {"h": 0.5}, IMAGE_IS),
        (TWO, {"h": np.full((8, 1, 1), 0.5), "i": np.full((8, 1, 1), 0.5)}, IMAGE_IS),
        (TWO, {"h": np.full((8, 1, 1), 0.5), "i": 0.5}, IMAGE_IS),
        ("h = Relu(x) y = Concat<axis = 1>(h, h)", 0.5, IMAGE_IS),
        ("h = Relu(x) y = Concat<axis = 1>(h)", 0.5, IMAGE_IS),
        (f"{TWO} w = Neg(i)", 0.5, f"{IMAGE_IS}, float[N,8,6,6] w"),
        (TWO, 0.5, f"{IMAGE_IS}, float[N,8,6,6] i"),
    ],
    ids=[
        "two sizes",
        "a Relu",
        "arrays",
        "an array",
        "twice the same",
        "one input",
        "another consumer",
        "a graph output",
    ],
)
def test_jump_relus_stay_before_a_concat(nodes: str, jumps: Jumps | float, outputs: str) -> None:
    """Where they differ, where one is used elsewhere, and where nothing would be saved."""
    assert {} == check(network(nodes, outputs=outputs), jumps)


def test_jumps_are_compared_wherever_they_are() -> None:
    """In attribute and input; an array that two nodes share lies along the channels of each."""
    hard = onnxfit.retrofit(network(TWO, opset=10), 0.5)
    shared = from_array(np.full((8, 1, 1), 0.5, np.float32), "k")
    for value, slots, count in (
        (from_array(np.asarray(0.25, np.float32), "k"), (1,), 0),
        (shared, (0, 1), 0),
        (from_array(np.asarray(0.25, np.float32), "k"), (0, 1), 1),
    ):
        changed = ModelProto.FromString(hard.SerializeToString())
        changed.graph.initializer.append(value)
        nodes = [node for node in changed.graph.node if node.op_type == "JumpReLU"]
        for slot in slots:
            nodes[slot].input[1] = "k"
        assert count == rewrites.apply(changed)["concat"]


def test_a_relu_is_no_jump_relu_without_attributes() -> None:
    """It looks like one whose jump is left at 0."""
    source = network(TWO.replace("h = Relu", "h = onnxfit.JumpReLU"))
    assert 0 == rewrites.apply(source)["concat"]
    source = network(TWO.replace("Relu", "onnxfit.JumpReLU"))
    assert 1 == rewrites.apply(source)["concat"]


def test_what_joined_goes_behind_a_pooling() -> None:
    """One rewrite makes room for the next."""
    source = network(TWO.replace("y =", "j =") + f" y = MaxPool<{POOL}>(j)")
    assert {"concat": 1, "maxpool": 1} == check(source)
