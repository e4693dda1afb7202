"""Rewrites together: in every scope, by name, and in damaged files."""

import pytest
from onnx import GraphProto, ModelProto, helper
from rewrites_support import POOL, check, every, network, op_types
from support import parse

import onnxfit
from onnxfit import rewrites


@pytest.mark.parametrize("name", rewrites.ALL)
def test_each_rewrite_can_be_had_alone(name: str) -> None:
    """By its name; the others leave the model alone."""
    source = network(
        "h = Relu(x) i = Relu(h) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(i)"
    )
    if name in ("add", "concat"):
        source = every()
    counts = check(source, names=[name])
    assert [name] == list(counts)


def test_no_rewrite_leaves_the_model_as_it_is() -> None:
    """Nothing is recorded either."""
    hard = onnxfit.retrofit(every(), 0.5)
    before = hard.SerializeToString()
    assert {} == rewrites.apply(hard, [])
    assert before == hard.SerializeToString()


def test_an_unknown_rewrite_is_refused() -> None:
    """With the names that there are."""
    message = r"^the rewrites are twice, add, maxpool, concat, got 'pool'$"
    with pytest.raises(ValueError, match=message):
        rewrites.apply(ModelProto(), ["pool"])


def test_rewriting_again_starts_from_the_beginning() -> None:
    """The second time gives what the first would have."""
    once, twice = (onnxfit.retrofit(every(), 0.5) for _ in range(2))
    rewrites.apply(once, ["add"])
    rewrites.apply(twice, ["concat"])
    rewrites.apply(twice, ["add"])
    assert once == twice


def test_standard_nodes_stay() -> None:
    """What stands for JumpReLU there is no node to move."""
    hard = onnxfit.retrofit(every(), 0.5, lowering="standard")
    assert not any(rewrites.apply(hard).values())
    message = r"^optimize rewrites JumpReLU nodes; the standard lowering has none$"
    with pytest.raises(ValueError, match=message):
        onnxfit.retrofit(every(), 0.5, lowering="standard", optimize=rewrites.ALL)


def test_subgraphs_and_functions_are_rewritten() -> None:
    """Everywhere a JumpReLU may be, a subgraph within a function included."""
    pool = f"MaxPool<{POOL}>"
    source = parse(
        '<ir_version: 8, opset_import: ["": 17, "local": 1]> '
        "g (float[N,8,6,6] x, bool c) => (float[N,8,A,B] y) { h = local.block(x, c) "
        "y = If(c) <then_branch = t () => (float[N,8,P,Q] t1) "
        f"{{ t0 = Relu(h) t1 = {pool}(t0) }}, "
        "else_branch = e () => (float[N,8,P,Q] e1) { e1 = Identity(h) }> } "
        '<domain: "local", opset_import: ["": 17]> block (v, d) => (w) '
        f"{{ a = Relu(v) b = {pool}(a) "
        "w = If(d) <then_branch = p () => (float[N,8,P,Q] p2) "
        "{ p0 = Relu(b) p1 = Relu(p0) p2 = Neg(p1) }, "
        "else_branch = q () => (float[N,8,P,Q] q0) { q0 = Identity(b) }> }"
    )
    assert {"maxpool": 2, "twice": 1} == check(source)


def test_a_jump_behind_a_cast_is_not_known() -> None:
    """The cast may round it."""
    hard = onnxfit.retrofit(network(f"h = Relu(x) y = MaxPool<{POOL}>(h)", opset=10), 0.5)
    wide = helper.make_node("Cast", ["onnxfit.constant/float/0.5"], ["k"], to=1)
    hard.graph.node[1].input[1] = "k"
    hard.graph.node.insert(1, wide)
    assert not any(rewrites.apply(hard).values())


def test_a_value_that_is_written_twice_is_left_alone() -> None:
    """Nobody knows which of the two is read."""
    hard = onnxfit.retrofit(network(f"h = Relu(x) y = MaxPool<{POOL}>(h)"), 0.5)
    hard.graph.node.insert(0, helper.make_node("Neg", ["x"], ["h"]))
    assert not any(rewrites.apply(hard).values())


def test_nodes_in_no_order_are_left_alone() -> None:
    """A node may stand before the one whose value it reads in a damaged file."""
    hard = onnxfit.retrofit(network(f"h = Relu(x) y = MaxPool<{POOL}>(h)"), 0.5)
    hard.graph.node.insert(2, hard.graph.node[0])
    del hard.graph.node[0]
    assert ["MaxPool", "JumpReLU"] == op_types(hard)
    assert not any(rewrites.apply(hard).values())


def test_subgraphs_that_share_a_name_are_left_alone() -> None:
    """The record could not tell them apart."""
    inner = network(f"h = onnxfit.JumpReLU(x) y = MaxPool<{POOL}>(h)").graph
    model = network("y = local.f(x)")
    assert 1 == rewrites.apply(_with_graphs(model, [inner]))["maxpool"]
    assert 0 == rewrites.apply(_with_graphs(model, [inner, inner]))["maxpool"]


def _with_graphs(model: ModelProto, graphs: list[GraphProto]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.node[0].attribute.append(helper.make_attribute("bodies", graphs))
    return copy


def test_thousands_of_nodes_take_no_longer_than_their_number() -> None:
    """Each rewrite looks at a node once, also in a chain of them."""
    nodes = []
    for i in range(4000):
        nodes.append(helper.make_node("Relu", [f"v{i}"], [f"h{i}"]))
        nodes.append(
            helper.make_node(
                "MaxPool", [f"h{i}"], [f"v{i + 1}"], kernel_shape=[2, 2], strides=[2, 2]
            )
        )
    ends = [helper.make_tensor_value_info(f"v{i}", 1, ["N", 1, "H", "W"]) for i in (0, 4000)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    hard = onnxfit.retrofit(source, 0.5)
    rewritten = ModelProto.FromString(hard.SerializeToString())
    assert {"twice": 3999, "add": 0, "maxpool": 4000, "concat": 0} == rewrites.apply(rewritten)
    assert 4001 == len(op_types(rewritten))
    assert rewrites.take_back(rewritten)
    assert hard.SerializeToString() == rewritten.SerializeToString()
