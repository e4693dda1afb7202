"""One JumpReLU behind another: where one is enough."""

import numpy as np
import pytest
from onnx import NodeProto, helper
from rewrites_support import BOTH_ARE, IMAGE_IS, Jumps, check, check_hardened, network, op_types

import onnxfit
from onnxfit import rewrites


@pytest.mark.parametrize(("first", "second"), [(0.25, 0.5), (0.5, 0.25), (0.5, 0.5), (0.0, 0.5)])
@pytest.mark.parametrize("opset", [8, 17])
@pytest.mark.parametrize(
    "between",
    [
        "",
        "Flatten(h)",
        "Transpose<perm = [0, 2, 3, 1]>(h)",
        "Identity(h)",
        "Reshape(h, s)",
    ],
)
def test_of_two_jump_relus_the_larger_jump_stays(
    between: str, opset: int, first: float, second: float
) -> None:
    """Directly behind each other, or with elements arranged anew between them."""
    nodes = f"h = Relu(x) i = {between} y = Relu(i)" if between else "h = Relu(x) y = Relu(h)"
    outputs = "float[N,M] y" if "Flatten" in between else IMAGE_IS
    more = "<int64[4] s = {0, 4, 12, 6}>"
    source = network(nodes, outputs=outputs, opset=opset, more=more if "s" in between else "")
    assert {"twice": 1} == check(source, {"h": first, "y": second})
    hard = onnxfit.retrofit(source, jumps={"h": first, "y": second}, optimize=rewrites.ALL)
    assert ["JumpReLU", *([between.partition("(")[0].partition("<")[0]] * bool(between))] == (
        op_types(hard)
    )


def test_a_relu_before_a_jump_relu_goes() -> None:
    """A Relu that was left out of hardening cuts off nothing that a jump does not."""
    source = network("h = Relu(x) i = Flatten(h) y = Relu(i)", outputs="float[N,M] y")
    assert {"twice": 1} == check(source, {"y": 0.5})
    assert {"twice": 1} == check(network("h = Relu(x) y = Relu(h)"), {"y": np.full((8, 1, 1), 0.5)})


@pytest.mark.parametrize(
    ("nodes", "jumps", "count"),
    [
        ("h = Relu(x) y = Relu(h)", {"h": np.full((8, 1, 1), 0.5), "y": 0.25}, 1),
        ("h = Relu(x) y = Relu(h)", {"h": np.full((8, 1, 1), 0.5), "y": 0.5}, 1),
        # Neither is the larger one everywhere.
        ("h = Relu(x) y = Relu(h)", {"h": np.linspace(0, 1, 8).reshape(8, 1, 1), "y": 0.5}, 0),
        # An array lies along the axes on its own side of the operator.
        (
            "h = Relu(x) i = Transpose<perm = [0, 1, 3, 2]>(h) y = Relu(i)",
            {"h": np.full((6, 1), 0.5), "y": 0.25},
            0,
        ),
        (
            "h = Relu(x) i = Transpose<perm = [0, 1, 3, 2]>(h) y = Relu(i)",
            {"h": 0.25, "y": np.full((6, 1), 0.5)},
            0,
        ),
        ("h = Relu(x) i = Neg(h) y = Relu(i)", 0.5, 0),
    ],
)
def test_arrays_merge_where_one_is_the_larger_everywhere(
    nodes: str, jumps: Jumps | float, count: int
) -> None:
    """And nothing that computes lies between."""
    assert ({"twice": 1} if count else {}) == check(network(nodes), jumps)


@pytest.mark.parametrize("outputs", [f"{IMAGE_IS}, float[N,8,6,6] h", f"{IMAGE_IS}, float[N,8] w"])
def test_a_jump_relu_whose_result_is_needed_stays(outputs: str) -> None:
    """As an output, or by another node."""
    nodes = "h = Relu(x) y = Relu(h) w = ReduceMax<axes = [2, 3], keepdims = 0>(h)"
    assert {} == check(network(nodes, outputs=outputs), {"h": 0.25, "y": 0.5})


@pytest.mark.parametrize(
    ("jumps", "count"),
    [({"h": 0.25, "y": 0.5}, 0), ({"y": 0.5}, 0), ({"h": 0.5, "y": 0.25}, 1)],
    ids=["of the second", "behind a Relu", "of the first"],
)
def test_a_jump_that_is_written_between_them_stays_there(jumps: Jumps, count: int) -> None:
    """Some tools put constants there; the one node that remains stands before, and cannot read it.

    A jump of the first one stays where that is.
    """
    hard = onnxfit.retrofit(network("h = Relu(x) y = Relu(h)", opset=10), jumps=jumps)
    nodes = hard.graph.node
    name = f"onnxfit.constant/float/{jumps['y']}"
    constant = next(node for node in nodes if node.output[0] == name)
    rest = [node for node in nodes if node.output[0] != name]
    ordered = [
        NodeProto.FromString(n.SerializeToString()) for n in (*rest[:-1], constant, rest[-1])
    ]
    del nodes[:]
    nodes.extend(ordered)
    assert ({"twice": 1} if count else {}) == check_hardened(hard)


def test_other_attributes_stay_on_their_node() -> None:
    """Those of old operator sets that ONNX Runtime passes over."""
    hard = onnxfit.retrofit(network("h = Relu(x) y = Relu(h)"), jumps={"h": 0.25, "y": 0.5})
    hard.graph.node[0].attribute.append(helper.make_attribute("consumed_inputs", [0]))
    assert 1 == rewrites.apply(hard)["twice"]
    (node,) = hard.graph.node
    assert {"consumed_inputs", "jump"} == {attribute.name for attribute in node.attribute}
    assert [0.5] == [attribute.f for attribute in node.attribute if attribute.name == "jump"]


def test_many_in_a_row_become_one() -> None:
    """Each is met where the one before has left it; an addition before them takes the jump in."""
    source = network("h = Relu(x) i = Relu(h) j = Relu(i) y = Relu(j)")
    assert {"twice": 3} == check(source, {"h": 0.1, "i": 0.5, "j": 0.2, "y": 0.0})
    source = network("s = Add(x, z) h = Relu(s) i = Flatten(h) y = Relu(i)", BOTH_ARE)
    source.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["N", "M"]))
    assert {"twice": 1, "add": 1} == check(source, {"h": 0.25, "y": 0.5})
