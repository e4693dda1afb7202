"""The record of what was rewritten: how it is taken back, and what other tools may do."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from onnx import ModelProto, helper
from rewrites_support import POOL, X_IS, Z_IS, every, network, op_types
from support import parse

import onnxfit
from onnxfit import rewrites
from onnxfit.errors import ModelError


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
        f"{X_IS}, {Z_IS}",
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
