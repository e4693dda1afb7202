"""Compiled models site by site: every jump at its place, whatever ONNX Runtime does around it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from compile_support import (
    HEAD,
    PRODUCTS,
    RESIDUAL,
    Array,
    X,
    assert_reaches,
    distinct,
    images,
    jump_relus,
    lookup,
    network,
    outputs,
)
from corpus import all_same_bits, run
from independent import jump_of, swapped
from onnx import ModelProto, TensorProto
from support import dtype_of, parse, quiet

import onnxfit
from onnxfit import native_library
from onnxfit.compilation.matching import Names
from onnxfit.element_types import every_graph
from onnxfit.errors import ModelError


@pytest.mark.parametrize(
    "body",
    {
        "residual": "a = Relu(c) d = Conv(a, k16) s = Add(d, a) y = Relu(s)",
        "swapped residual": "a = Relu(c) d = Conv(a, k16) s = Add(a, d) y = Relu(s)",
        "twice": "a = Relu(c) d = Conv(a, k16) s = Add(d, a) b = Relu(s) "
        "e = Conv(b, l16) f = Relu(e) t = Add(f, b) y = Relu(t)",
        "shared scale": "a = Relu(c) m = Mul(a, half) b = Relu(m) d = Conv(b, k16) y = Relu(d)",
        "norm": "n = BatchNormalization<epsilon = 0.0>(c, mean, mean, mean, var) a = Relu(n) "
        "b = BatchNormalization<epsilon = 0.0>(a, mean, mean, mean, var) y = Relu(b)",
        "pool": "a = Relu(c) p = MaxPool<kernel_shape = [1, 1]>(a) d = Conv(p, k16) y = Relu(d)",
        "concat": "a = Relu(c) e = Conv(a, k16) b = Relu(e) j = Concat<axis = 1>(a, b) "
        "r = Relu(j) u, v = Split<axis = 1, num_outputs = 2>(r) s = Sub(u, v) y = Relu(s)",
        "relu6": "a = Clip(c, zero, six) d = Conv(a, k16) s = Add(d, a) y = Clip(s, zero, six)",
        "relu and clip": "a = Relu(c) y = Clip(a, zero, six)",
        "relu of relu": "a = Relu(c) b = Relu(a) d = Conv(b, k16) y = Relu(d)",
        "equal relus": "a = Relu(c) b = Relu(c) d = Conv(b, k16) y = Sub(a, d)",
        "before a quantiser": "a = Relu(c) q = QuantizeLinear(a, var1) "
        "e = DequantizeLinear(q, var1) y = Relu(e)",
    }.items(),
    ids=lambda item: item[0],
)
def test_each_site_has_its_own_jump(body: tuple[str, str]) -> None:
    """Whatever ONNX Runtime fuses, folds, merges or drops around an activation."""
    text = body[1].replace("var1", "one")
    opset = 18 if "num_outputs" in text else 17
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,3,8,8] x) => '
        f"(float[N,16,6,6] y) <float one = {{1}}> {{ c = Conv(x, w3) {text} }}"
    )
    assert_reaches(network(text), {"x": X})


def test_a_value_may_have_a_name_like_those_of_onnx_runtime() -> None:
    """It is that value, not the one that a cast of this name would be behind."""
    cast = "InsertedPrecisionFreeCast_a"
    source = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => '
        f"(float[N,4] y, float[N,4] z, float[N,4] u) {{ q = Neg(x) {cast} = Relu(x) "
        f"a = Relu(q) b = Relu(q) y = Neg(a) z = Neg(b) u = Neg({cast}) }}"
    )
    hard = onnxfit.retrofit(source, jumps={cast: 1.0, "a": 0.5, "b": 2.0})
    feeds = [{"x": np.linspace(-3, 3, 40, dtype=np.float32).reshape(10, 4)}]
    assert all_same_bits(run(hard, feeds), run(onnxfit.compile(hard), feeds))


def test_a_site_that_is_left_out_stays_plain() -> None:
    """The jump of the next one, or of an equal one that it is merged with, does not go to it."""
    text = (
        "g (float[N,3,8,8] x) => (float[N,16,6,6] y) "
        "{ c = Conv(x, w3) a = Relu(c) m = Mul(a, half) y = Relu(m) }"
    )
    norm = "BatchNormalization<epsilon = 0.0>(a, var, mean, mean, var)"
    scaled = "a = Relu(c) m = Mul(a, half) y = Relu(m)"
    merged = text.replace(scaled, "a = Relu(c) b = Relu(c) y = Sub(a, b)")
    for body in (text, text.replace("Mul(a, half)", norm), merged):
        for name in ("a", "b" if body == merged else "y"):
            jumps = {name: 2.125}
            source = network(HEAD + body)
            compiled = onnxfit.compile(onnxfit.retrofit(source, jumps=jumps))
            expected = run(swapped(source, lookup(jumps)), [{"x": X}])
            assert all(map(np.array_equal, expected, outputs(compiled, {"x": X})))


def test_a_folded_relu_keeps_its_jump() -> None:
    """On a constant ONNX Runtime would compute it ahead of time, as a Relu."""
    for version, opset in ((3, 9), (8, 9), (8, 17)):
        source = network(
            f'<ir_version: {version}, opset_import: ["": {opset}]> '
            "g (float[N,3,8,8] x) => (float[N,3,8,8] y) "
            "{ k = Relu(kept) s = Add(x, k) y = Relu(s) }"
        )
        assert_reaches(source, {"x": X})


@pytest.mark.parametrize("opset", range(7, 22))
def test_every_opset(opset: int) -> None:
    """A residual network, a ReLU6 as that opset writes it, and a site that cannot be fused.

    In the oldest files initializers are inputs too, also those that are folded into others.
    """
    bounds = "<min = 0.0, max = 6.0>(e)" if opset < 11 else "(e, zero, six)"
    norm = "n = BatchNormalization<epsilon = 0.0>(c, mean, mean, mean, var) a = Relu(n)"
    head = f'<ir_version: {8 if opset > 8 else 3}, opset_import: ["": {opset}]> g '
    norm += " o = Neg(half) m = Mul(a, o)"
    last = f"b = Relu(s) i = Identity(b) e = Relu(i) y = Clip{bounds}"
    text = RESIDUAL.replace("a = Relu(c)", norm).replace("Conv(a, k16)", "Conv(m, k16)")
    text = text.replace("y = Relu(s)", last)
    assert_reaches(network(head + text), {"x": X})


@pytest.mark.parametrize("element_type", ["float", "float16"])
def test_sizes_that_are_known_at_run_time_alone(element_type: str) -> None:
    """One compiled model serves any batch and any size of image."""
    code = TensorProto.DataType.Value(element_type.upper())
    source = network(HEAD + "g " + RESIDUAL.replace("float[", f"{element_type}["), code)
    jumps = distinct(source)
    session = onnxfit.session(onnxfit.compile(onnxfit.retrofit(source, jumps=jumps)), quiet())
    reference = swapped(source, lambda value: jump_of(value, 1.125), code)
    for shape in ((1, 3, 8, 8), (3, 3, 5, 11), (2, 3, 3, 3)):
        feeds = {"x": images(*shape).astype(dtype_of(code))}
        assert np.array_equal(run(reference, [feeds])[0], session.run(None, feeds)[0])


def test_double_and_bfloat16() -> None:
    """Types whose activations ONNX Runtime fuses nowhere, or does not know at all."""
    text = PRODUCTS.replace("float", "double")
    source = network(HEAD + text, TensorProto.DOUBLE)
    feeds = {"x": X[0, 0, :, :3].astype(np.float64)}
    compiled = onnxfit.compile(onnxfit.retrofit(source, jumps=distinct(source)))
    expected = run(swapped(source, lambda v: jump_of(v, 1.125), TensorProto.DOUBLE), [feeds])
    assert all_same_bits(expected, outputs(compiled, feeds))
    narrow = parse(HEAD + "g (float[N] x) => (float[N] y) "
                   "{ a = Cast<to = 16>(x) b = Relu(a) y = Cast<to = 1>(b) }")  # fmt: skip
    compiled = onnxfit.compile(onnxfit.retrofit(narrow, 1.0))
    (found,) = outputs(compiled, {"x": np.array([-1, 0.5, 1, 1.5], np.float32)})
    assert [0, 0, 0, 1.5] == found.tolist()


IF = """
g (float[N,3,8,8] x, bool c) => (float[N,16,4,4] y) {
  h0 = Conv(x, w3) h = Relu(h0)
  t = If(c) <
    then_branch = one () => (float[N,16,4,4] u) { a = Conv(h, w16) r = Relu(a) u = Neg(r) },
    else_branch = two () => (float[N,16,4,4] u2) {
      a2 = Conv(h, w16) r2 = Relu(a2) u2 = Add(r2, r2) }
  >
  s = Conv(t, k16)
  y = Relu(s)
}
"""


LOOP = """
g (float[N,3,8,8] x, int64 n, bool c) => (float[N,16,6,6] y) {
  h0 = Conv(x, w3) h = Relu(h0)
  y = Loop(n, c, h) < body = b (int64 i, bool go, float[N,16,6,6] v) =>
    (bool on, float[N,16,6,6] next) {
    on = Identity(go) e = Conv(v, k16) r = Relu(e) f = Conv(r, l16) g = Add(f, v) next = Relu(g) } >
}
"""


NESTED = """
g (float[N,3,8,8] x, bool c) => (float[N,16,1,1] y) {
  h0 = Conv(x, w3) h = Relu(h0)
  t = If(c) <
    then_branch = one () => (float[N,16,3,3] u) {
      p = MaxPool<kernel_shape = [2, 2]>(h) b = Conv(p, k16) r = Relu(b)
      u = If(c) <
        then_branch = three () => (float[N,16,3,3] v) {
          q = MaxPool<kernel_shape = [3, 3]>(r) e = Conv(q, l16) v = Relu(e) },
        else_branch = four () => (float[N,16,3,3] w) { w = MaxPool<kernel_shape = [3, 3]>(r) }
      >
    },
    else_branch = two () => (float[N,16,3,3] z) {
      f = MaxPool<kernel_shape = [4, 4]>(h) g = Conv(f, l16) z = Relu(g) }
  >
  s = Conv(t, w16)
  y = Relu(s)
}
"""


@pytest.mark.parametrize("condition", [True, False])
def test_what_is_added_for_the_layout_in_graphs_within_each_other(condition: bool) -> None:
    """ONNX Runtime names it alike everywhere, and refuses to read what it wrote."""
    source = network(HEAD + NESTED)
    compiled = assert_reaches(source, {"x": X, "c": np.array(condition)})
    added = [node.output[0] for node in compiled.graph.node if "reorder" in node.output[0]]
    branches = [graph for graph in every_graph(compiled) if graph is not compiled.graph]
    inside = {node.output[0] for graph in branches for node in graph.node}
    assert any("reorder" in name for name in inside)
    assert added
    assert inside.isdisjoint({*added, *(item.name for item in compiled.graph.initializer)})


@pytest.mark.parametrize("condition", [True, False])
def test_sites_in_subgraphs(condition: bool) -> None:
    """Also where both branches of an If use the same names."""
    for text in (IF, LOOP):
        source = network(HEAD + text)
        feeds = {"x": X, "c": np.array(condition), "n": np.array(2)}
        assert_reaches(source, {value.name: feeds[value.name] for value in source.graph.input
                                if value.name in feeds})  # fmt: skip
    source = network(HEAD + IF.replace("u2", "u").replace("r2", "r").replace("a2", "a"))
    sites = [site.name for site in onnxfit.find_sites(source)]
    hard = onnxfit.retrofit(source, jumps={name: 1.5 + 2 * i for i, name in enumerate(sites)})
    feeds = {"x": X, "c": np.array(condition)}
    expected = run(hard, [feeds])
    assert all(map(np.array_equal, expected, outputs(onnxfit.compile(hard), feeds)))


FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N,3,8,8] x) => (float[N,16,6,6] y) {
  h0 = Conv(x, w3) h = Relu(h0) a = local.inner(h, k16, six) y = local.inner(a, l16, six)
}
<domain: "local", opset_import: ["": 17]> inner (X, K, S) => (Y) {
  Z = Constant<value = float {0}>() N = Conv(X, K) R = Clip(N, Z, S)
  M = Conv(R, K) A = Add(M, X) Y = Relu(A)
}
"""


@pytest.mark.parametrize("lowering", ["function", "standard"])
def test_sites_in_functions(lowering: str) -> None:
    """A function is inlined at each call, and its sites have their jumps there."""
    compiled = assert_reaches(network(FUNCTION), {"x": X}, lowering=lowering)
    assert [] == [f.name for f in compiled.functions if f.domain == "local"]
    if lowering == "function":
        assert 5 == len(onnxfit.inspect(compiled).sites)
        assert 0 == jump_relus(compiled)


@pytest.mark.parametrize("lowering", ["function", "custom", "standard"])
def test_the_lowering_of_the_hardened_model_does_not_matter(lowering: str) -> None:
    """Each is compiled to the same nodes and weights."""
    source = network(HEAD + "g " + RESIDUAL)
    expected = onnxfit.compile(onnxfit.retrofit(source, jumps=distinct(source)))
    compiled = assert_reaches(source, {"x": X}, lowering=lowering)
    assert list(expected.graph.node) == list(compiled.graph.node)
    assert list(expected.graph.initializer) == list(compiled.graph.initializer)


def test_a_model_that_was_rewritten_to_save_work() -> None:
    """`retrofit(optimize=True)` and compiling go together."""
    source = network(HEAD + "g " + RESIDUAL)
    assert_reaches(source, {"x": X}, optimize=True)


@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_a_model_that_onnx_runtime_optimised_already(level: str, tmp_path: Path) -> None:
    """Its activations are fused ones before, and again afterwards."""
    source = network(HEAD + "g " + RESIDUAL)
    options = quiet()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    onnxruntime.InferenceSession(
        source.SerializeToString(), options, providers=[native_library.CPU]
    )
    optimised = onnx.load(tmp_path / "o.onnx")
    assert "fused" in {site.kind for site in onnxfit.find_sites(optimised)}
    for i in reversed(range(len(optimised.opset_import))):
        if optimised.opset_import[i].domain == "onnxfit":
            del optimised.opset_import[i]
    compiled = assert_reaches(optimised, {"x": X})
    assert 0 == jump_relus(compiled)


def test_random_networks() -> None:
    """Residuals, joins, norms and scales at random, some sites left out: every jump at its site.

    Most sites are in what ONNX Runtime fused: one that is not found again costs time alone.
    """
    fused = every = 0
    for seed in range(40):
        source, rng = random_network(seed), np.random.default_rng(seed)
        sites = [site.name for site in onnxfit.find_sites(source)]
        jumps = {name: 0.375 + i + int(rng.integers(4)) for i, name in enumerate(sites)}
        for name in sites[1:]:
            if rng.random() < 0.2:
                del jumps[name]
        compiled = onnxfit.compile(onnxfit.retrofit(source, jumps=jumps))
        expected = run(swapped(source, lookup(jumps)), [{"x": X}])
        found = outputs(compiled, {"x": X})
        assert all(map(np.array_equal, expected, found)), seed
        sites_found = onnxfit.inspect(compiled).sites
        fused += sum(site.kind == "fused" for site in sites_found if site.jump is not None)
        every += len(jumps)
    assert 117 == every
    assert 45 <= fused


def random_network(seed: int) -> ModelProto:
    """Draw a network of 16 channels whose output is a sum of all that nothing else reads."""
    rng = np.random.default_rng(seed)
    text, unread, values = "c = Conv(x, w3) v0 = Relu(c)", ["v0"], ["v0"]
    steps = {
        "Conv({0}, k16)": 3,
        "Conv({0}, l16)": 1,
        "Add({0}, {1})": 3,
        "Mul({0}, half)": 1,
        "BatchNormalization<epsilon = 0.0>({0}, var, mean, mean, var)": 1,
        "MaxPool<kernel_shape = [1, 1]>({0})": 1,
        "Relu({0})": 4,
        "Clip({0}, zero, six)": 1,
    }
    weights = np.asarray(list(steps.values())) / sum(steps.values())
    for i in range(1, int(rng.integers(4, 14))):
        first = values[-1] if rng.random() < 0.6 else str(rng.choice(values))
        second = str(rng.choice(values))
        step = str(rng.choice(list(steps), p=weights)).format(first, second)
        text += f" v{i} = {step}"
        unread = [name for name in unread if f"{name}," not in step and f"{name})" not in step]
        unread.append(f"v{i}")
        values.append(f"v{i}")
    text += f" y = Sum({', '.join(unread)})"
    return network(HEAD + f"g (float[N,3,8,8] x) => (float[N,16,6,6] y) {{ {text} }}")


def test_nodes_need_no_names() -> None:
    """What ONNX Runtime fused is found by values; two nodes of one name it refuses, as always."""
    source = network(HEAD + "g " + RESIDUAL)
    for node in source.graph.node:
        node.name = ""
    assert 0 == jump_relus(assert_reaches(source, {"x": X}))
    for node in source.graph.node:
        node.name = "node"
    hard = onnxfit.retrofit(source, 1.5)
    for use in (onnxfit.session, onnxfit.compile):
        with pytest.raises(ModelError, match=r"^ONNX Runtime refuses .* same node name \(node\)"):
            use(hard)


def test_a_long_chain_is_followed_to_its_activation() -> None:
    """However many operators ONNX Runtime may fuse with one another; but not past another."""
    chain = "v1 = Mul(c, h) v2 = Add(v1, h) v3 = Mul(v2, h) v4 = Add(v3, h) v5 = Mul(v4, h) "
    text = "g (float[N] c, float[N] h) => (float[N] y) { " + chain
    names = Names(parse(HEAD + text + "v6 = Add(v5, h) y = Relu(v6) }"))
    assert "y" == names._behind("c", {"y"})
    names = Names(parse(HEAD + text + "v6 = Neg(v5) y = Relu(v6) }"))
    assert names._behind("c", {"y"}) is None


def test_names_that_lead_back_to_themselves() -> None:
    """One name in two graphs is no way without an end."""
    names = Names(parse(
        HEAD + "g (bool t, float[N] b, float[N] d) => (float[N] y) { o = If(t) < "
        "then_branch = p () => (float[N] z) { z = Add(b, d) }, "
        "else_branch = q () => (float[N] b) { b = Add(z, d) } > y = Relu(o) }"
    ))  # fmt: skip
    assert names._behind("z", {"y"}) is None


@pytest.mark.parametrize("lowering", ["function", "standard"])
def test_constants_that_another_tool_made_initializers(lowering: str) -> None:
    """Those of a JumpReLU that stays get another name everywhere, an output keeps its own."""
    source = network(HEAD + "g (float[N,3,8,8] x) => (float[N,3,8,8] y) "
                     "{ k = Relu(kept) s = Add(x, k) y = Relu(s) }")  # fmt: skip
    jumps: Any = {"k": np.full((3, 1, 1), 1.5, np.float32), "y": 2.5}
    options: Any = {"lowering": lowering}
    hard = onnxfit.retrofit(source, jumps=jumps, **options)
    for i in reversed(range(len(hard.graph.node))):
        if (node := hard.graph.node[i]).op_type == "Constant":
            tensor = hard.graph.initializer.add()
            tensor.CopyFrom(onnx.numpy_helper.from_array(constant_of(node), node.output[0]))
            value = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)
            )
            hard.graph.value_info.append(value)
            del hard.graph.node[i]
    inner = [v for n in hard.graph.node for v in n.output if v.startswith("onnxfit.site/k/")]
    for name in inner[:1]:
        hard.graph.output.append(
            onnx.helper.make_tensor_value_info(name, TensorProto.BOOL, [3, 8, 8])
        )
    assert [lowering == "standard"] == [len(hard.graph.output) == 2]
    expected = run(hard, [{"x": X}])
    compiled = onnxfit.compile(hard)
    assert [v.name for v in hard.graph.output] == [v.name for v in compiled.graph.output]
    assert all(map(np.array_equal, expected, outputs(compiled, {"x": X})))


def constant_of(node: onnx.NodeProto) -> Array:
    """Return what a Constant holds."""
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return np.asarray(onnx.numpy_helper.to_array(value))
    return np.asarray(value, np.float32)
