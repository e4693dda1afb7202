"""Retrofit and restore: the edit of the model and its record."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Command
from onnx import ModelProto, helper
from support import parse, plain_session, relu_model, run, run_one, same_bits

import onnxfit
from onnxfit import op
from onnxfit.errors import ModelError
from onnxfit.hardening import Lowering
from onnxfit.record import provenance, record_calibration

LOWERINGS: tuple[Lowering, ...] = ("function", "custom", "standard")
TWO = "h = Relu(x) n = Neg(h) s = Add(n, x) y = Relu(s)"


def jumps(model: ModelProto) -> dict[str, object]:
    """Return the jumps by site."""
    return {site.name: site.jump for site in onnxfit.find_sites(model)}


def op_types(model: ModelProto) -> list[str]:
    """List the operators of the main graph."""
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 17])
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_restore_gives_back_the_source(lowering: Lowering, opset: int) -> None:
    """Restoring a hardened model gives an equal model with equal bytes."""
    source = relu_model(opset, nodes=TWO, ir_version=4)
    hard = onnxfit.retrofit(source, 0.5, lowering=lowering)
    restored = onnxfit.restore(hard)
    assert source != hard
    assert source == restored
    assert source.SerializeToString() == restored.SerializeToString()


def test_the_argument_stays_untouched() -> None:
    """Both verbs return a new model."""
    source = relu_model(nodes=TWO)
    before = source.SerializeToString()
    hard = onnxfit.retrofit(source, 0.5)
    after = hard.SerializeToString()
    onnxfit.retrofit(hard, 1.0)
    onnxfit.restore(hard)
    assert before == source.SerializeToString()
    assert after == hard.SerializeToString()


def test_a_hardened_node_keeps_its_name_and_values() -> None:
    """Name, doc string, metadata and outputs stay; the attribute carries the jump."""
    source = relu_model(nodes="y = Relu(x)")
    source.graph.node[0].name = "act"
    source.graph.node[0].doc_string = "why"
    source.graph.node[0].metadata_props.add(key="k", value="v")
    (node,) = onnxfit.retrofit(source, 0.5).graph.node
    assert (node.op_type, node.domain) == ("JumpReLU", "onnxfit")
    assert (node.name, node.doc_string, node.metadata_props[0].value) == ("act", "why", "v")
    assert (list(node.input), list(node.output)) == (["x"], ["y"])
    assert [(a.name, a.f) for a in node.attribute] == [("jump", 0.5)]


def test_the_function_lowering_raises_the_ir_version_to_8_at_most() -> None:
    """Functions need IR version 8; a newer file keeps its own."""
    assert onnxfit.retrofit(relu_model(ir_version=3), 0.5).ir_version == 8
    assert onnxfit.retrofit(relu_model(ir_version=10), 0.5).ir_version == 10
    for lowering in ("custom", "standard"):
        assert onnxfit.retrofit(relu_model(ir_version=3), 0.5, lowering=lowering).ir_version == 3


def test_ir_version_3_stays_where_initializers_are_inputs() -> None:
    """Raised, its weights would turn from constants into inputs that a run can override."""
    source = relu_model(9, nodes="h = Add(x, w) y = Relu(h)", ir_version=3)
    source.graph.initializer.append(helper.make_tensor("w", 1, [1], [0.25]))
    source.graph.input.append(helper.make_tensor_value_info("w", 1, [1]))
    hard = onnxfit.retrofit(source, 0.5)
    assert hard.ir_version == 3
    onnx.checker.check_model(hard, full_check=True)
    session = plain_session(hard)
    assert [] == session.get_overridable_initializers()
    x = np.array([0, 0.25, 0.5], np.float32)
    assert same_bits(np.array([0, 0, 0.75], np.float32), run_one(session, x))


def test_the_lowerings_differ_as_they_should() -> None:
    """Function: node and function. Custom: node alone. Standard: neither."""
    source = relu_model()
    function, custom, standard = (
        onnxfit.retrofit(source, 0.5, lowering=name) for name in LOWERINGS
    )
    assert (op_types(function), len(function.functions)) == (["JumpReLU"], 1)
    assert (op_types(custom), len(custom.functions)) == (["JumpReLU"], 0)
    assert "JumpReLU" not in op_types(standard)
    assert [i.domain for i in standard.opset_import if i.domain] == []
    assert [i.domain for i in custom.opset_import if i.domain] == ["onnxfit"]


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_retrofitting_again_changes_the_jumps_and_does_not_nest(lowering: Lowering) -> None:
    """The second retrofit gives what one from the source would have given."""
    source = relu_model(11, nodes=TWO)
    once = onnxfit.retrofit(source, 1.0, lowering=lowering)
    for earlier in LOWERINGS:
        twice = onnxfit.retrofit(
            onnxfit.retrofit(source, 0.5, lowering=earlier), 1.0, lowering=lowering
        )
        assert once == twice


def test_retrofitting_again_keeps_the_jumps_that_are_not_named() -> None:
    """Only what is asked for changes, and the source's hash stays the source's."""
    first = onnxfit.retrofit(relu_model(nodes=TWO), jumps={"h": 0.25, "y": 0.5})
    second = onnxfit.retrofit(first, jumps={"y": 1.0})
    assert jumps(second) == {"h": 0.25, "y": 1.0}
    assert provenance(first)["source_sha256"] == provenance(second)["source_sha256"]


def test_retrofitting_works_where_the_record_was_dropped() -> None:
    """The nodes alone tell that a model is hardened, as after a tool that drops metadata."""
    for lowering in LOWERINGS:
        source = relu_model(11, nodes=TWO, ir_version=8)
        for node in source.graph.node:
            node.ClearField("domain")
        hard = onnxfit.retrofit(source, 0.5, lowering=lowering)
        del hard.metadata_props[:]
        assert jumps(hard) == {"h": 0.5, "y": 0.5}
        assert source == onnxfit.restore(hard)
        assert onnxfit.retrofit(source, 1.0).graph == onnxfit.retrofit(hard, 1.0).graph


def test_jumps_by_site_go_before_the_common_one() -> None:
    """`jumps` overrides `jump`; alone it leaves the others as they are."""
    source = relu_model(nodes=TWO)
    assert jumps(onnxfit.retrofit(source, 0.5, jumps={"h": 0.25})) == {"h": 0.25, "y": 0.5}
    assert jumps(onnxfit.retrofit(source, jumps={"h": 0.25})) == {"h": 0.25, "y": None}


def test_include_and_exclude_choose_sites_by_regular_expression() -> None:
    """A site is hardened when it matches an include, if any, and no exclude."""
    source = relu_model(nodes="ab = Relu(x) b = Relu(ab) y = Relu(b)")
    assert jumps(onnxfit.retrofit(source, 0.5, include="b")) == {"ab": 0.5, "b": 0.5, "y": None}
    picked = onnxfit.retrofit(source, 0.5, include=["b", "y"], exclude=["^a"])
    assert jumps(picked) == {"ab": None, "b": 0.5, "y": 0.5}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, r"^give a jump for every site, or jumps by site name$"),
        ({"jump": -1}, ValueError, r"^a jump size is finite and at least 0, got -1\.0$"),
        ({"jump": float("nan")}, ValueError, r"^a jump size is finite and at least 0, got nan$"),
        ({"jump": float("inf")}, ValueError, r"^a jump size is finite and at least 0, got inf$"),
        ({"jump": "1"}, TypeError, r"^a jump size is a number, got '1'$"),
        ({"jumps": {"z": 1}}, ModelError, r"^no activation writes 'z'; the model has 'h', 'y'$"),
        ({"jump": 1, "include": "q"}, ValueError, r"^no site matches 'q'; the model has 'h', 'y'$"),
        ({"jump": 1, "exclude": "q"}, ValueError, r"^no site matches 'q'; the model has 'h', 'y'$"),
        ({"jump": 1, "include": "("}, ValueError, r"^'\(' is no regular expression: "),
        (
            {"jump": 1, "exclude": "h", "jumps": {"h": 1}},
            ValueError,
            r"^a jump is given for 'h', which is left out$",
        ),
        ({"jump": 1, "exclude": "."}, ModelError, r"^no activation is left to harden after "),
        ({"jump": 1, "lowering": "fast"}, ValueError, r"^lowering is one of function, custom, st"),
        ({"jumps": {}}, ModelError, r"^no activation is left to harden after include, exclude"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    """Each with a sentence that quotes the value and names what would be right."""
    with pytest.raises(error, match=message):
        onnxfit.retrofit(relu_model(nodes=TWO), **arguments)  # type: ignore[arg-type]


def test_a_model_without_activations_is_refused_with_what_stays() -> None:
    """The message names the other activations and the reason."""
    message = (
        r"^the model has no Relu and no Clip with the lower bound 0\. "
        r"What stays: 2 Sigmoid \(it is no rectifier\)$"
    )
    with pytest.raises(ModelError, match=message):
        onnxfit.retrofit(relu_model(nodes="h = Sigmoid(x) y = Sigmoid(h)"), 0.5)


def test_a_model_that_is_not_hardened_cannot_be_restored() -> None:
    """Restoring a source is a mistake worth a sentence."""
    with pytest.raises(ModelError, match=r"^the model is not hardened: it has no JumpReLU$"):
        onnxfit.restore(relu_model())


def test_a_hardened_model_whose_jumps_were_written_out_is_refused() -> None:
    """A record without a JumpReLU means that another tool inlined the function."""
    written_out = onnxfit.retrofit(relu_model(nodes=TWO), 0.5)
    for node in written_out.graph.node:
        if node.op_type == "JumpReLU":
            node.op_type, node.domain = "Relu", ""
            del node.attribute[:]
    for verb in (onnxfit.restore, lambda model: onnxfit.retrofit(model, 1.0)):
        with pytest.raises(ModelError, match="another tool wrote its JumpReLUs out"):
            verb(written_out)


def test_the_record_tells_what_was_done() -> None:
    """Version, hash of the source, lowering and jumps, readable without onnxfit."""
    source = relu_model(nodes=TWO)
    hard = onnxfit.retrofit(source, 0.1)
    record = {entry.key: entry.value for entry in hard.metadata_props}
    assert onnxfit.__version__ == record["onnxfit.version"]
    assert onnxfit.inspect(source).sha256 == record["onnxfit.source_sha256"]
    assert json.loads(record["onnxfit.jumps"]) == {"h": 0.1, "y": 0.1}
    assert record["onnxfit.lowering"] == "function"


def test_a_clip_gets_its_jump_before_the_upper_bound() -> None:
    """ReLU6: JumpReLU, then the clip, which stays as it was."""
    source = relu_model(10, nodes="y = Clip<min = 0.0, max = 6.0>(x)")
    x = np.array([-1, 0.5, 0.75, 6, 7, np.inf], np.float32)
    for lowering in ("function", "standard"):
        hard = onnxfit.retrofit(source, 0.5, lowering=lowering)
        assert op_types(hard)[-1] == "Clip"
        assert jumps(hard) == {"y": 0.5}
        assert same_bits(np.array([0, 0, 0.75, 6, 6, 6], np.float32), run(hard, {"x": x})[0])
        assert source == onnxfit.restore(hard)


@pytest.mark.parametrize("element_type", ["float16", "bfloat16"])
def test_the_file_carries_the_jump_rounded_to_the_activation(element_type: str) -> None:
    """κ is rounded once, when the file is written, and shown as it was typed."""
    hard = onnxfit.retrofit(relu_model(17, element_type), 0.1)
    code = onnx.TensorProto.DataType.Value(element_type.upper())
    assert op.round_jump(0.1, code) == hard.graph.node[-1].attribute[0].f
    assert jumps(hard) == {"y": 0.1}


def mixed(opset: int, first: str, second: str) -> ModelProto:
    """Make a model with three sites of one element type and one of another."""
    to = {n: onnx.TensorProto.DataType.Value(n.upper()) for n in (first, second)}
    return relu_model(
        opset,
        nodes=f"a = Cast<to={to[first]}>(x) b = Relu(a) c = Relu(b) d = Relu(c) "
        f"e = Cast<to={to[second]}>(d) f = Relu(e) y = Cast<to=1>(f)",
    )


@pytest.mark.parametrize(
    ("opset", "first", "second", "lowering"),
    [
        (8, "float", "double", "standard"),
        (9, "float", "double", "standard"),
        (13, "float", "float16", "standard"),
        (17, "float", "double", "operator"),
        (17, "float", "bfloat16", "standard"),
        (17, "bfloat16", "float", "standard"),
    ],
)
def test_files_of_several_element_types_run(
    opset: int, first: str, second: str, lowering: str
) -> None:
    """One function serves all types where a body can; else the minority takes standard nodes."""
    source = mixed(opset, first, second)
    hard = onnxfit.retrofit(source, 0.5)
    sites = {site.name: site for site in onnxfit.find_sites(hard)}
    assert lowering == sites["f"].lowering
    assert second == sites["f"].element_type
    assert sites["b"].lowering == "operator"
    x = np.array([-1, 0.5, 0.75, 2], np.float32)
    assert same_bits(np.array([0, 0, 0.75, 2], np.float32), run(hard, {"x": x})[0])
    assert source == onnxfit.restore(hard)


def test_a_function_called_with_several_types_needs_opset_15() -> None:
    """Before, no one body serves the site; from 15 on it runs for both."""
    text = (
        '<ir_version: 8, opset_import: ["": {0}, "local": 1]> '
        "g (float[N] x) => (float[N] y) {{ a = local.act(x) b = Cast<to = 11>(a) "
        "c = local.act(b) y = Cast<to = 1>(c) }} "
        '<domain: "local", opset_import: ["": {0}]> act (v) => (w) {{ w = Relu(v) }}'
    )
    with pytest.raises(ModelError, match="is called with several element types, which needs ops"):
        onnxfit.retrofit(parse(text.format(14)), 0.5)
    hard = onnxfit.retrofit(parse(text.format(15)), 0.5)
    x = np.array([0.5, 0.75], np.float32)
    assert same_bits(np.array([0, 0.75], np.float32), run(hard, {"x": x})[0])


def test_bfloat16_needs_opset_13() -> None:
    """The operators that the body needs know no bfloat16 before."""
    source = relu_model(12, nodes="a = Cast<to = 16>(x) b = Relu(a) y = Cast<to = 1>(b)")
    with pytest.raises(ModelError, match=r"1 Relu \(bfloat16 needs opset 13\)$"):
        onnxfit.retrofit(source, 0.5)


def test_sites_inside_a_function_run_and_restore() -> None:
    """The function that holds the site imports the domain, and no longer after restoring."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 13, "local": 1]> '
        "g (float[N] x) => (float[N] y) { a = local.act(x) y = local.act(a) } "
        '<domain: "local", opset_import: ["": 13]> act (v) => (w) { w = Relu(v) }'
    )
    x = np.array([-1, 0.5, 0.75], np.float32)
    for lowering in LOWERINGS:
        hard = onnxfit.retrofit(source, 0.5, lowering=lowering)
        assert source == onnxfit.restore(hard)
        onnx.checker.check_model(hard, full_check=True)
        if lowering != "custom":
            assert same_bits(op.jump_relu(x, 0.5), run_one(plain_session(hard), x))


def test_metadata_and_annotations_stay() -> None:
    """What is not the hardening's own is carried over as it is."""
    source = relu_model()
    source.metadata_props.add(key="author", value="somebody")
    source.graph.quantization_annotation.add(tensor_name="x")
    source.graph.doc_string = "a graph"
    source.producer_name = "test"
    source.model_version = 3
    hard = onnxfit.retrofit(source, 0.5)
    assert (hard.metadata_props[0].key, hard.metadata_props[0].value) == ("author", "somebody")
    assert source.graph.quantization_annotation == hard.graph.quantization_annotation
    assert (
        hard.graph.doc_string,
        hard.producer_name,
        hard.model_version,
    ) == ("a graph", "test", 3)
    assert source == onnxfit.restore(hard)


def test_the_spelling_of_the_default_domain_is_restored() -> None:
    """`ai.onnx` and an explicit empty domain come back as they were."""
    for spelled in ("", "ai.onnx"):
        source = relu_model()
        source.graph.node[0].domain = spelled
        assert source == onnxfit.restore(onnxfit.retrofit(source, 0.5))


def test_a_damaged_record_is_named() -> None:
    """Metadata that no longer parses is a ModelError."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    next(e for e in hard.metadata_props if e.key == "onnxfit.restore").value = "{"
    with pytest.raises(ModelError, match=r"^the metadata entry onnxfit\.restore is damaged: "):
        onnxfit.restore(hard)


def test_a_jump_per_element_is_read_and_not_lost() -> None:
    """A hand-made J with several entries is shown, and kept where another site gets a jump."""
    hard = onnxfit.retrofit(relu_model(9, nodes=TWO), 0.5)
    tensor = helper.make_tensor("J", 1, [2, 1], [0.25, 0.5])
    hard.graph.node[0].attribute[0].t.CopyFrom(tensor)
    assert jumps(hard) == {"h": (0.25, 0.5), "y": (0.25, 0.5)}
    assert jumps(onnxfit.retrofit(hard, jumps={"y": 1.0})) == {"h": (0.25, 0.5), "y": 1.0}


def test_a_jump_that_is_computed_at_run_time_cannot_be_kept() -> None:
    """A retrofit that would lose it says so; one that sets it goes on."""
    hard = onnxfit.retrofit(relu_model(9, nodes=TWO), 0.5)
    hard.graph.node[1].input[1] = "x"
    assert jumps(hard) == {"h": (), "y": 0.5}
    message = r"^'h' has a jump that is computed at run time, which cannot be kept; set it$"
    with pytest.raises(ModelError, match=message):
        onnxfit.retrofit(hard, jumps={"y": 1.0})
    assert jumps(onnxfit.retrofit(hard, jumps={"h": 1.0})) == {"h": 1.0, "y": 0.5}


def test_the_record_of_a_calibration_is_shown_and_goes_stale() -> None:
    """It stands under one key, is written anew, and goes with the jumps that it tells of."""
    source = relu_model(nodes=TWO)
    hard = onnxfit.retrofit(source, 0.5)
    record_calibration(hard, {"scale": "shared"})
    record_calibration(hard, {"scale": "quantile", "accuracy": {"before": 0.5}, "p": np.nan})
    expected = {"scale": "quantile", "accuracy": {"before": 0.5}, "p": None}
    assert expected == provenance(hard)["calibration"]
    assert 1 == [entry.key for entry in hard.metadata_props].count("onnxfit.calibration")
    assert expected == onnxfit.inspect(hard).provenance["calibration"]
    assert "calibration" not in provenance(onnxfit.retrofit(hard, jumps={"h": 1.0}))
    assert source == onnxfit.restore(hard)


def test_the_record_of_a_calibration_is_printed(tmp_path: Path, onnxfit_command: Command) -> None:
    """A line for each entry, those inside others with the names of both."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    record_calibration(hard, {"scale": "shared", "clean_accuracy": {"before": 0.5, "n": [1, 2]}})
    onnx.save(hard, tmp_path / "m.onnx")
    lines = [
        line.split() for line in onnxfit_command("inspect", tmp_path / "m.onnx").out.split("\n")
    ]
    assert ["calibration", "scale", "shared"] in lines
    assert ["calibration", "clean", "accuracy", "before", "0.5"] in lines
    assert ["calibration", "clean", "accuracy", "n", "1,", "2"] in lines


def test_a_calibration_is_recorded_in_a_hardened_model_alone() -> None:
    """A plain model has no jumps that could have been chosen."""
    source = relu_model()
    before = source.SerializeToString()
    with pytest.raises(ModelError, match=r"^the model is not hardened: it has no JumpReLU$"):
        record_calibration(source, {"scale": "shared"})
    assert before == source.SerializeToString()


@pytest.mark.parametrize("opset", range(7, 12))
def test_the_custom_lowering_of_old_opsets_needs_no_input_j(opset: int) -> None:
    """Without a function, the attribute alone carries the jump at every opset."""
    hard = onnxfit.retrofit(relu_model(opset), 0.5, lowering="custom")
    (node,) = hard.graph.node
    assert ["x"] == list(node.input)
    assert [("jump", 0.5)] == [(a.name, a.f) for a in node.attribute]
    x = np.array([-1, 0.5, 0.75], np.float32)
    assert same_bits(op.jump_relu(x, 0.5), run_one(onnxfit.session(hard), x))
