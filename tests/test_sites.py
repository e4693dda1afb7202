"""Which activations are sites, how they are named, and why others stay."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support import newest_opset, parse, relu_model

import onnxfit
from onnxfit.errors import ModelError
from onnxfit.sites import Site, Unreplaced, scan

MAIN = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> '


def stays(model: onnx.ModelProto) -> list[Unreplaced]:
    """List what cannot be replaced."""
    return [found for found in scan(model) if isinstance(found, Unreplaced)]


def names(model: onnx.ModelProto) -> list[str]:
    """List the names of the sites."""
    return [site.name for site in onnxfit.find_sites(model)]


def test_a_site_is_named_after_the_value_it_writes() -> None:
    """Node names, which may be empty or repeat, play no part."""
    model = relu_model(nodes="h = Relu(x) y = Relu(h)")
    for node in model.graph.node:
        node.name = "same"
    expected = [
        Site("h", "relu", None, "", "float", None),
        Site("y", "relu", None, "", "float", None),
    ]
    assert expected == onnxfit.find_sites(model)


def test_sites_are_found_in_both_branches_of_an_if() -> None:
    """Two branches may use one value name; the scope tells the sites apart."""
    model = parse(
        MAIN + "g (bool c, float[N] x) => (float[N] y) { y = If(c) <"
        "then_branch = t () => (float[N] z) { z = Relu(x) }, "
        "else_branch = e () => (float[N] z) { w = Neg(x) z = Relu(w) }> }"
    )
    assert names(model) == ["y.then_branch/z", "y.else_branch/z"]
    assert [s.scope for s in onnxfit.find_sites(model)] == ["y.then_branch", "y.else_branch"]


def test_sites_are_found_in_loop_and_scan_bodies() -> None:
    """The body's own value names the site, behind the node's output and the attribute."""
    loop = parse(
        MAIN + "g (int64 n, bool c, float[N] x) => (float[N] y) { y = Loop(n, c, x) <body = b "
        "(int64 i, bool k, float[N] v) => (bool q, float[N] w) { q = Identity(k) w = Relu(v) }> }"
    )
    scan_model = parse(
        MAIN + "g (float[3] s, float[T, 3] x) => (float[3] f, float[T, 3] y) "
        "{ f, y = Scan(s, x) <num_scan_inputs = 1, body = b (float[3] u, float[3] v) => "
        "(float[3] p, float[3] q) { p = Add(u, v) q = Relu(p) }> }"
    )
    assert names(loop) == ["y.body/w"]
    assert names(scan_model) == ["f.body/q"]


def test_sites_are_found_in_functions_and_in_subgraphs_inside_them() -> None:
    """A function's scope is its domain and name, however often it is called."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "local": 1]> '
        "g (bool c, float[N] x) => (float[N] y) { a = local.act(c, x) y = local.act(c, a) } "
        '<domain: "local", opset_import: ["": 17]> act (c, v) => (w) { r = Relu(v) w = If(c) <'
        "then_branch = t () => (float[N] z) { z = Relu(r) }, "
        "else_branch = e () => (float[N] z) { z = Identity(r) }> }"
    )
    assert names(model) == ["local::act/r", "local::act/w.then_branch/z"]
    assert [site.element_type for site in onnxfit.find_sites(model)] == ["float", "float"]


@pytest.mark.parametrize("element_type", ["float", "float16", "bfloat16", "double"])
def test_the_element_type_is_inferred(element_type: str) -> None:
    """Through operators, casts and constants, with no inner value declared."""
    model = parse(
        MAIN + f"g (float[N] x) => (float[N] y) {{ h = Cast<to = "
        f"{onnx.TensorProto.DataType.Value(element_type.upper())}>(x) "
        "k = Identity(h) r = Relu(k) y = Cast<to = 1>(r) }"
    )
    assert [element_type] == [site.element_type for site in onnxfit.find_sites(model)]


@pytest.mark.parametrize(
    ("clip", "opset"),
    [("Clip<min = 0.0, max = 6.0>(x)", 10), ("Clip<min = 0.0>(x)", 7)],
)
def test_a_clip_from_0_is_a_site_by_attribute(clip: str, opset: int) -> None:
    """Before opset 11 the bounds are attributes."""
    model = relu_model(opset, nodes=f"y = {clip}")
    assert [(s.name, s.kind) for s in onnxfit.find_sites(model)] == [("y", "clip")]


def test_a_clip_from_0_is_a_site_by_constant_or_initializer() -> None:
    """From opset 11 on the bounds are inputs; the upper one may be anything or missing."""
    as_constant = relu_model(nodes="lo = Constant<value = float {0.0}>() y = Clip(x, lo)")
    as_initializer = relu_model(nodes="y = Clip(x, lo, hi)")
    for name, bound in (("lo", 0.0), ("hi", 6.0)):
        as_initializer.graph.initializer.append(helper.make_tensor(name, 1, [], [bound]))
    assert names(as_constant) == ["y"]
    assert names(as_initializer) == ["y"]


@pytest.mark.parametrize(
    ("nodes", "op_type", "reason"),
    [
        ("y = LeakyRelu(x)", "LeakyRelu", "it scales negative inputs and does not cut them off"),
        ("s = Identity(x) y = PRelu(x, s)", "PRelu", "it scales negative inputs and"),
        ("y = Sigmoid(x)", "Sigmoid", "it is no rectifier"),
        ("y = ThresholdedRelu(x)", "ThresholdedRelu", "it has a jump of its own, alpha"),
        ("y = Clip(x)", "Clip", "it has no lower bound"),
        ("l = Constant<value = float {-1}>() y = Clip(x, l)", "Clip", "its lower bound is -1.0"),
        ("l = ReduceMin<keepdims = 0>(x) y = Clip(x, l)", "Clip", "its lower bound is not a const"),
        ("z = Constant<value = float {0}>() y = Max(x, z)", "Max", "a maximum with 0 acts as a"),
    ],
)
def test_other_activations_are_named_with_the_reason(nodes: str, op_type: str, reason: str) -> None:
    """What stays is reported, and is no site."""
    model = relu_model(nodes=nodes)
    assert onnxfit.find_sites(model) == []
    assert [("y", op_type)] == [(item.name, item.op_type) for item in stays(model)]
    assert stays(model)[0].reason.startswith(reason)


def test_a_relu_of_integers_stays() -> None:
    """JumpReLU is an operator on floating types."""
    model = relu_model(14, "int32")
    assert [Unreplaced("y", "Relu", "it acts on int32, not on a floating type")] == stays(model)


def test_a_lower_bound_that_a_run_can_change_is_no_constant() -> None:
    """An initializer that is also an input is only a default, but in IR version 3."""
    model = relu_model(11, nodes="y = Clip(x, lo)")
    model.graph.initializer.append(helper.make_tensor("lo", 1, [], [0.0]))
    model.graph.input.append(helper.make_tensor_value_info("lo", 1, []))
    assert names(model) == []
    model.ir_version = 3
    assert names(model) == ["y"]


def test_a_relu_inside_a_recurrent_operator_is_reported() -> None:
    """Its own activations cannot be replaced."""
    node = helper.make_node("RNN", ["x", "w", "r"], ["y"], activations=["Relu"], hidden_size=2)
    infos = [helper.make_tensor_value_info(n, 1, None) for n in ("x", "w", "r", "y")]
    graph = helper.make_graph([node], "g", infos[:3], infos[3:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert [Unreplaced("y", "RNN", "the Relu is inside a recurrent operator")] == stays(model)


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"activation": "Relu"}, "fused"),
        ({"activation": "Clip", "activation_params": [0.0, 6.0]}, "fused"),
        ({"activation": "Clip", "activation_params": [-1.0, 1.0]}, "the activation fused into it"),
        ({"activation": "LeakyRelu"}, "the activation fused into it is LeakyRelu"),
    ],
)
@pytest.mark.parametrize(
    ("op_type", "domain"),
    [
        ("FusedConv", "com.microsoft"),
        ("FusedGemm", "com.microsoft"),
        ("Conv", "com.microsoft.nchwc"),
    ],
)
def test_fused_activations_are_sites(
    attributes: dict[str, Any], kind: str, op_type: str, domain: str
) -> None:
    """Relu and Clip(0, m) inside ONNX Runtime's fused operators count; others are reported."""
    model = relu_model(nodes="y = Identity(x)")
    node = helper.make_node(op_type, ["x", "w"], ["y"], domain=domain, **attributes)
    model.graph.node[0].CopyFrom(node)
    found = onnxfit.find_sites(model)
    if kind == "fused":
        assert [Site("y", "fused", None, "", "float", None)] == found
    else:
        assert found == []
        assert stays(model)[0].reason.startswith(kind)


@pytest.mark.parametrize(("zero_point", "folded"), [(0, True), (128, False)])
def test_a_relu_folded_by_quantisation_is_reported(zero_point: int, folded: bool) -> None:
    """A quantiser behind a linear operator that cuts off at 0 does the Relu's work."""
    model = relu_model(
        nodes="z = MatMul(x, x) q = QuantizeLinear(z, s, p) y = DequantizeLinear(q, s, p)"
    )
    model.graph.initializer.append(helper.make_tensor("s", 1, [], [0.1]))
    point = onnx.numpy_helper.from_array(np.array(zero_point, np.uint8), "p")
    model.graph.initializer.append(point)
    reason = "a Relu was folded into the zero point: harden first, quantise second"
    expected = [Unreplaced("q", "QuantizeLinear", reason)] if folded else []
    assert expected == stays(model)


def test_a_quantiser_before_a_kept_relu_is_not_reported() -> None:
    """Where the Relu is still there, it is a site and nothing was folded."""
    model = relu_model(
        nodes="z = MatMul(x, x) q = QuantizeLinear(z, s) d = DequantizeLinear(q, s) y = Relu(d)"
    )
    model.graph.initializer.append(helper.make_tensor("s", 1, [], [0.1]))
    assert names(model) == ["y"]
    assert stays(model) == []


@pytest.mark.parametrize(
    ("opset", "message"),
    [
        (6, r"^the model is of opset 6, onnxfit needs 7 or newer; convert it with onnx\.version_"),
        (999, r"^the model is of opset 999, onnx .* knows none after \d+; upgrade onnx$"),
    ],
)
def test_opsets_beyond_the_supported_are_refused(opset: int, message: str) -> None:
    """Older and newer opsets are a ModelError that says what to do."""
    with pytest.raises(ModelError, match=message):
        onnxfit.find_sites(relu_model(opset))


def test_every_supported_opset_is_read() -> None:
    """From 7 to the newest."""
    for opset in range(7, newest_opset() + 1):
        assert names(relu_model(opset)) == ["y"]


def test_an_operator_without_a_schema_keeps_its_inputs_type() -> None:
    """A custom operator in the way does not hide the type."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 13, "other": 1]> '
        "g (float16[N] x) => (float16[N] y) { h = other.Quant(x) y = Relu(h) }"
    )
    model.graph.output[0].type.Clear()
    assert [site.element_type for site in onnxfit.find_sites(model)] == ["float16"]


def test_find_sites_takes_a_path(tmp_path: object) -> None:
    """A path does as well as a model."""
    path = f"{tmp_path}/m.onnx"
    onnx.save(relu_model(), path)
    assert [site.name for site in onnxfit.find_sites(path)] == ["y"]


def test_the_type_behind_a_loop_is_that_of_its_values() -> None:
    """The body's first result is the condition, which the node does not put out."""
    model = parse(
        MAIN + "g (int64 n, bool c, float[N] x) => (float[N] y) { h = Loop(n, c, x) <body = b "
        "(int64 i, bool k, float[N] v) => (bool q, float[N] w) { q = Identity(k) w = Neg(v) }> "
        "r = Relu(h) y = Neg(r) }"
    )
    assert [Site("r", "relu", None, "", "float", None)] == onnxfit.find_sites(model)


def test_a_folded_relu_is_reported_once() -> None:
    """A quantiser behind another that cuts off at 0 finds nothing left to cut off."""
    model = relu_model(
        nodes="z = MatMul(x, x) q = QuantizeLinear(z, s) d = DequantizeLinear(q, s) "
        "f = Flatten<axis = 0>(d) r = QuantizeLinear(f, s) y = DequantizeLinear(r, s)"
    )
    model.graph.initializer.append(helper.make_tensor("s", 1, [], [0.1]))
    reason = "a Relu was folded into the zero point: harden first, quantise second"
    assert [Unreplaced("q", "QuantizeLinear", reason)] == stays(model)


def test_a_relu_folded_into_a_later_quantiser_is_reported() -> None:
    """A quantiser before it that keeps negative numbers leaves the cutting off to it."""
    model = relu_model(
        nodes="z = MatMul(x, x) q = QuantizeLinear(z, s, p) d = DequantizeLinear(q, s, p) "
        "f = Flatten<axis = 0>(d) r = QuantizeLinear(f, s) y = DequantizeLinear(r, s)"
    )
    model.graph.initializer.append(helper.make_tensor("s", 1, [], [0.1]))
    point = onnx.numpy_helper.from_array(np.array(128, np.uint8), "p")
    model.graph.initializer.append(point)
    reason = "a Relu was folded into the zero point: harden first, quantise second"
    assert [Unreplaced("r", "QuantizeLinear", reason)] == stays(model)
