"""The record of what was rewritten: how it is taken back, and what other tools may do."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from corpus import all_same_bits, run
from onnx import ModelProto, NodeProto, helper
from rewrites_support import BOTH_ARE, POOL, X, Z, every, network, op_types
from support import parse

import onnxfit
from onnxfit import rewrites
from onnxfit.errors import ModelError
from onnxfit.rewrites.order import order_of


def record_of(model: ModelProto) -> Any:
    """Return the metadata entry."""
    return next(entry for entry in model.metadata_props if entry.key == "onnxfit.rewrites")


def test_the_record_tells_what_was_applied() -> None:
    """Readable without onnxfit."""
    hard = onnxfit.retrofit(every(), 0.5, optimize=rewrites.ALL)
    expected = {"twice": 1, "add": 1, "maxpool": 1, "concat": 1}
    assert expected == json.loads(record_of(hard).value)["applied"]
    assert expected == onnxfit.inspect(hard).provenance["rewrites"]


def test_no_record_is_written_where_none_is_wanted() -> None:
    """As for a file that is never read again."""
    hard = onnxfit.retrofit(every(), 0.5)
    rewrites.apply(hard, record=False)
    assert all(entry.key != "onnxfit.rewrites" for entry in hard.metadata_props)


def test_a_model_that_is_not_rewritten_is_itself() -> None:
    """No copy is made; of a rewritten one there is."""
    hard = onnxfit.retrofit(every(), 0.5)
    assert rewrites.unrewritten(hard) is hard
    rewritten = onnxfit.retrofit(every(), 0.5, optimize=rewrites.ALL)
    before = rewritten.SerializeToString()
    assert hard == rewrites.unrewritten(rewritten)
    assert before == rewritten.SerializeToString()


def test_edits_of_other_tools_elsewhere_are_kept() -> None:
    """Other nodes, names and notes do not matter to what is taken back."""
    hard = onnxfit.retrofit(every(), 0.5, optimize=rewrites.ALL)
    for node in hard.graph.node:
        node.name, node.doc_string = f"renamed {node.name}", ""
    hard.graph.node.insert(0, helper.make_node("Neg", ["x"], ["unused"]))
    hard.graph.value_info.append(
        helper.make_tensor_value_info("onnxfit.rewritten/y", 1, ["N", 16, 3, 3])
    )
    before = rewrites.unrewritten(hard)
    assert ["s", "h", "a", "b", "i", "j", "k", "l", "y"] == [
        n.output[0] for n in before.graph.node
    ][1:]
    assert "onnxfit.rewritten/y" not in str(onnxfit.restore(hard))


def inputs_of(node: NodeProto) -> list[str]:
    """Return what a node reads, in its branches too."""
    inner = [inputs_of(one) for attribute in node.attribute for one in attribute.g.node]
    return [*node.input, *(value for values in inner for value in values)]


def reordered(model: ModelProto, choose: Callable[[list[NodeProto]], NodeProto]) -> ModelProto:
    """Return a copy with the nodes in another valid order, each chosen of those that may come."""
    copy = ModelProto()
    copy.CopyFrom(model)
    left = list(model.graph.node)
    ordered: list[NodeProto] = []
    while left:
        late = {value for node in left for value in node.output}
        node = choose([node for node in left if late.isdisjoint(inputs_of(node))])
        left = [one for one in left if one is not node]
        ordered.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(ordered)
    return copy


def any_of(rng: np.random.Generator, nodes: list[NodeProto]) -> NodeProto:
    """Return one of several nodes."""
    return nodes[int(rng.integers(len(nodes)))]


SCATTERED = (
    "a = Neg(x) i = Relu(a) b = Mul(x, x) j = Relu(b) k = Concat<axis = 1>(i, j) m = Relu(k) "
    "l = If(c) <then_branch = t () => (float[N,16,6,6] p) { p = Neg(m) }, "
    "else_branch = e () => (float[N,16,6,6] q) { q = Abs(m) }> n = Relu(l) "
    f"o = MaxPool<{POOL}>(n) y = Neg(o)"
)


@pytest.mark.parametrize("library", [False, True])
def test_nodes_may_come_in_another_valid_order(library: bool) -> None:
    """What is taken back is in one too, has the nodes of before, and computes the same."""
    hard = onnxfit.retrofit(network(SCATTERED, f"{BOTH_ARE}, bool c"), 0.5)
    rewritten = ModelProto.FromString(hard.SerializeToString())
    assert {"twice": 1, "add": 0, "maxpool": 1, "concat": 1} == rewrites.apply(rewritten)
    feeds = [{"x": X, "z": Z, "c": np.array(True)}]
    expected = run(hard, feeds, library=library)
    orders = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        moved = reordered(rewritten, partial(any_of, rng))
        orders.add(tuple(node.output[0] for node in moved.graph.node))
        back = rewrites.unrewritten(moved)
        written: set[str] = {value.name for value in back.graph.input}
        for node in back.graph.node:
            assert set(inputs_of(node)) <= written
            written.update(node.output)
        assert sorted(node.SerializeToString() for node in hard.graph.node) == sorted(
            node.SerializeToString() for node in back.graph.node
        )
        if seed < 4:
            assert all_same_bits(expected, run(moved, feeds, library=library))
            assert all_same_bits(expected, run(back, feeds, library=library))
    assert 2 == len(orders)


def test_a_stable_sort_changes_nothing() -> None:
    """Nodes that stand in a valid order already stay there: the source comes back as it was."""
    hard = onnxfit.retrofit(network(SCATTERED, f"{BOTH_ARE}, bool c"), 0.5)
    rewritten = ModelProto.FromString(hard.SerializeToString())
    rewrites.apply(rewritten)
    assert hard == rewrites.unrewritten(reordered(rewritten, lambda nodes: nodes[0]))


def test_a_node_stands_behind_what_its_branches_read() -> None:
    """Two nodes in the wrong order change places; in the right one they stay."""
    model = network(
        "m = Neg(x) y = If(c) <then_branch = t () => (float[N,8,6,6] p) { p = Neg(m) }, "
        "else_branch = e () => (float[N,8,6,6] q) { q = Neg(x) }>",
        f"{BOTH_ARE}, bool c",
    )
    assert [0, 1] == order_of(model.graph.node)
    assert [1, 0] == order_of(list(reversed(model.graph.node)))


def _change_jump(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "JumpReLU")
    node.attribute[0].f = 0.75


def _remove_node(model: ModelProto) -> None:
    slot = op_types(model).index("AddJumpReLU")
    del model.graph.node[slot]


def _rename(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "MaxPool")
    node.output[0] = "other"


CHANGED = (
    r"^another tool changed what onnxfit rewrote: the node that wrote '{}' is another or gone; "
    r"take the hardened file before that, or the source$"
)
LOST = (
    r"^the model has nodes that onnxfit rewrote and no record of what they were: another tool "
    r"changed it; take the hardened file before that, or the source$"
)
DAMAGED = (
    r"^the metadata entry onnxfit\.rewrites is damaged; take the hardened file before that, or "
    r"the source$"
)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_change_jump, CHANGED.format("y")),
        (_remove_node, CHANGED.format("h")),
        (_rename, CHANGED.format("onnxfit.rewritten/y")),
        (lambda model: model.metadata_props.remove(record_of(model)), LOST),
        (lambda model: model.ClearField("metadata_props"), LOST),
    ],
    ids=["a jump", "a node", "a name", "the record", "all metadata"],
)
@pytest.mark.parametrize(
    "verb",
    [onnxfit.restore, lambda model: onnxfit.retrofit(model, 1.0), onnxfit.inspect, rewrites.apply],
    ids=["restore", "retrofit", "inspect", "apply"],
)
def test_what_another_tool_changed_is_refused(
    verb: Callable[[ModelProto], object], damage: Callable[[ModelProto], None], message: str
) -> None:
    """A sentence says what happened and what to do, whichever verb meets it."""
    source = network(
        "s = Add(x, z) h = Relu(s) i = Neg(h) j = Relu(i) "
        "y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(j)",
        BOTH_ARE,
    )
    hard = onnxfit.retrofit(source, 0.5, optimize=rewrites.ALL)
    damage(hard)
    with pytest.raises(ModelError, match=message):
        verb(hard)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "none",
        "[]",
        "{}",
        '{"applied": {}}',
        '{"applied": {"add": "1"}, "scopes": {}}',
        '{"applied": {}, "scopes": {"elsewhere": []}}',
        '{"applied": {}, "scopes": {"": [["h"]]}}',
        '{"applied": {}, "scopes": {"": [["h", "", ["?"]]]}}',
        '{"applied": {}, "scopes": {"": [["h", "", ["////"]]]}}',
        '{"applied": {}, "scopes": {"": [[["h"], "", []]]}}',
    ],
)
def test_a_damaged_record_is_refused(content: str) -> None:
    """Whatever it was replaced by."""
    hard = onnxfit.retrofit(every(), 0.5, optimize=rewrites.ALL)
    record_of(hard).value = content
    with pytest.raises(ModelError, match=DAMAGED):
        rewrites.unrewritten(hard)
    with pytest.raises(ModelError, match=DAMAGED):
        onnxfit.restore(hard)


def test_an_empty_record_does_not_hide_what_was_rewritten() -> None:
    """The nodes tell that it is not the one that belongs to them."""
    hard = onnxfit.retrofit(every(), 0.5, optimize=rewrites.ALL)
    record_of(hard).value = '{"applied": {}, "scopes": {}}'
    with pytest.raises(ModelError, match=LOST):
        onnxfit.restore(hard)


def test_names_that_rewrites_give_are_reserved() -> None:
    """A source that has them is refused."""
    source = network("h = Relu(x) y = Neg(h)")
    source.graph.node[0].output[0] = source.graph.node[1].input[0] = "onnxfit.rewritten/h"
    message = r"^the model has 'onnxfit\.rewritten/h', a name that onnxfit keeps for itself$"
    with pytest.raises(ModelError, match=message):
        onnxfit.retrofit(source, 0.5)
    source = network("h = Relu(x) y = Neg(h)")
    source.functions.add(domain="onnxfit", name="AddJumpReLU")
    with pytest.raises(ModelError, match=r"^the model has 'onnxfit::AddJumpReLU', a name that"):
        onnxfit.retrofit(source, 0.5)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Relu(v) w = MaxPool<kernel_shape = [2, 2], strides = [3, 3], pads = [0, 0, 1, 1], "
        "ceil_mode : int = @given>(a)",
        f"a = onnxfit.JumpReLU<jump : float = @given>(v) w = MaxPool<{POOL}>(a)",
    ],
    ids=["of a pooling", "a jump"],
)
def test_an_attribute_of_a_function_is_not_known(nodes: str) -> None:
    """Its caller gives it."""
    value = "0.5" if "JumpReLU" in nodes else "1"
    source = parse(
        '<ir_version: 8, opset_import: ["": 17, "local": 1]> '
        f"g (float[N,8,6,6] x) => (float[N,8,A,B] y) {{ y = local.block<given = {value}>(x) }} "
        '<domain: "local", opset_import: ["": 17, "onnxfit": 1]> block <given> (v) => (w) '
        f"{{ {nodes} }}"
    )
    if "JumpReLU" not in nodes:
        source = onnxfit.retrofit(source, 0.5)
    references = [a.ref_attr_name for node in source.functions[0].node for a in node.attribute]
    assert "given" in references
    assert not any(rewrites.apply(source).values())
