"""Compiled models: what they compute, site by site, and what is refused.

Weights, inputs and jumps are small multiples of 1/64 where bits are compared with a reference that
ONNX Runtime does not optimise: then no sum rounds, and its order does not matter.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from corpus import CORPUS, Feeds, Outputs, all_same_bits, read, real_inputs, run
from independent import Jump, jump_of, swapped
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from support import MODELS, dtype_of, parse, quiet, same_bits

import onnxfit
from onnxfit import runtime
from onnxfit.compilation import compiler
from onnxfit.compilation.machine import check, this_machine
from onnxfit.compilation.optimising import optimise
from onnxfit.compilation.record import COMPILED_KEY, recorded
from onnxfit.errors import ModelError, NativeLibraryError, OnnxfitError
from onnxfit.run_time_jumps import with_run_time_jumps

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


@pytest.fixture(scope="module")
def digits() -> Feeds:
    """Images that the networks in models/ were not trained on."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        return [{"image": np.asarray(arrays["x"], np.float32)}]


def test_where_no_sum_is_fused_the_bits_are_the_hardened_models() -> None:
    """Weights of any size, and no Add that ONNX Runtime would fuse into a convolution."""
    source = network(HEAD + "g (float[N,3,12,9] x) => (float[N,16,8,5] y) "
                     "{ c = Conv(x, w3) a = Relu(c) d = Conv(a, w16) y = Relu(d) }")  # fmt: skip
    rng = np.random.default_rng(0)
    for tensor in source.graph.initializer:
        values = rng.standard_normal(list(tensor.dims)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    feeds = {"x": rng.standard_normal((2, 3, 12, 9)).astype(np.float32)}
    hard = onnxfit.retrofit(source, jumps={"a": 0.5, "y": 0.25})
    compiled = onnxfit.compile(hard)
    assert 0 == jump_relus(compiled)
    assert all_same_bits(outputs(hard, feeds), outputs(compiled, feeds))
    assert not all_same_bits(outputs(source, feeds), outputs(compiled, feeds))


@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_pgd"])
def test_at_jump_zero_a_compiled_network_is_the_original(name: str, digits: Feeds) -> None:
    """ONNX Runtime adds the shortcut in another order, the same one as in the original."""
    source = onnx.load(MODELS / f"{name}.onnx")
    compiled = onnxfit.compile(onnxfit.retrofit(source, 0.0))
    assert all_same_bits(outputs(source, digits[0]), outputs(compiled, digits[0]))


@pytest.mark.parametrize("jump", [0.05, 0.2])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_pgd"])
def test_no_class_of_a_digit_flips(name: str, jump: float, digits: Feeds) -> None:
    """The sums that ONNX Runtime orders otherwise change no class of 449 images."""
    hard = onnxfit.retrofit(MODELS / f"{name}.onnx", jump)
    (expected,) = outputs(hard, digits[0])
    (found,) = outputs(onnxfit.compile(hard), digits[0])
    assert expected.argmax(1).tolist() == found.argmax(1).tolist()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "cifar10/scl_resnet20.onnx",
        "derived/jumprelu_resnet20_baseline_bn.onnx",
        "derived/lenet_fp16.onnx",
        "derived/lenet_qdq_keeprelu.onnx",
        "derived/resnet20_fp16_keepio.onnx",
        "derived/resnet20_if.onnx",
    ],
)
def test_no_class_of_a_real_network_flips(name: str) -> None:
    """ResNet-20s, also in float16 and inside an If, and a quantised LeNet, on real images."""
    if name not in CORPUS:
        pytest.skip(f"{name} is not here")
    source = read(name)
    x, image = real_inputs(source, 64), source.model.graph.input[0]
    assert x is not None
    one = image.type.tensor_type.shape.dim[0].dim_value == 1
    feeds = [{image.name: part} for part in (np.split(x, len(x))[:16] if one else [x])]
    hard = onnxfit.retrofit(source.model, 0.1)
    pairs = [
        [np.concatenate([session.run(None, feed)[0] for feed in feeds]) for session in sessions]
        for sessions in [
            [onnxfit.session(model, quiet()) for model in (hard, onnxfit.compile(hard))]
        ]
    ]
    (expected, found) = pairs[0]
    assert expected.argmax(-1).tolist() == found.argmax(-1).tolist()


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
    onnxruntime.InferenceSession(source.SerializeToString(), options, providers=[runtime.CPU])
    optimised = onnx.load(tmp_path / "o.onnx")
    assert "fused" in {site.kind for site in onnxfit.find_sites(optimised)}
    for i in reversed(range(len(optimised.opset_import))):
        if optimised.opset_import[i].domain == "onnxfit":
            del optimised.opset_import[i]
    compiled = assert_reaches(optimised, {"x": X})
    assert 0 == jump_relus(compiled)


CHANNELS = np.arange(16, dtype=np.float32)[:, None, None] / 2 + 0.25


@pytest.mark.parametrize("body", ["", "s = Add(d, a)"])
@pytest.mark.parametrize(
    "jump",
    {
        "by channel": CHANNELS,
        "by channel and batch": CHANNELS[None],
        "by element": np.asarray(np.abs(whole((16, 6, 6))), np.float32),
        "by column": np.arange(6, dtype=np.float32),
        "one number": np.full((1, 1, 1), 2.5, np.float32),
    }.items(),
    ids=lambda item: item[0],
)
def test_jumps_by_element(jump: tuple[str, Array], body: str) -> None:
    """In the blocked layout too, and beside sites of one number."""
    text = RESIDUAL if body else RESIDUAL.replace("s = Add(d, a)", "s = Identity(d)")
    source = network(HEAD + "g " + text)
    jumps: dict[str, Any] = {"a": jump[1], "y": CHANNELS[::-1]}
    reference = onnxfit.retrofit(source, jumps=jumps, lowering="standard")
    expected = run(reference, [{"x": X}])
    hard = onnxfit.retrofit(source, jumps=jumps)
    assert all(map(np.array_equal, expected, outputs(onnxfit.compile(hard), {"x": X})))


@pytest.mark.parametrize("channels", [1, 3, 8, 20])
def test_channels_that_fill_no_block(channels: int) -> None:
    """The last block of channels may be filled up, and narrow layers are not blocked."""
    source = network(
        HEAD + f"g (float[N,3,8,8] x) => (float[N,{channels},6,6] y) "
        "{ c = Conv(x, v) y = Relu(c) }"
    )
    weights = onnx.numpy_helper.from_array(whole((channels, 3, 3, 3)), "v")
    source.graph.initializer.append(weights)
    jump = np.arange(channels, dtype=np.float32)[:, None, None] + 0.5
    reference = onnxfit.retrofit(source, jumps={"y": jump}, lowering="standard")
    compiled = onnxfit.compile(onnxfit.retrofit(source, jumps={"y": jump}))
    expected = run(reference, [{"x": X}])
    assert all(map(np.array_equal, expected, outputs(compiled, {"x": X})))


def test_jumps_by_channel_behind_a_matrix_product() -> None:
    """There the channel is the last axis."""
    source = network(HEAD + PRODUCTS)
    jumps: Any = {"a": CHANNELS.ravel(), "y": np.arange(5, dtype=np.float32)}
    feeds = {"x": X[0, 0, :, :3]}
    expected = run(onnxfit.retrofit(source, jumps=jumps, lowering="standard"), [feeds])
    compiled = onnxfit.compile(onnxfit.retrofit(source, jumps=jumps))
    assert all(map(np.array_equal, expected, outputs(compiled, feeds)))


def test_jumps_at_run_time() -> None:
    """One compiled model serves any of them."""
    source = network(HEAD + "g " + RESIDUAL)
    model, inputs = with_run_time_jumps(source)
    session = onnxfit.session(onnxfit.compile(model), quiet())
    for jumps in ({"a": 0.5, "y": 2.5}, {"a": 3.5, "y": 0.0}):
        expected = run(swapped(source, lookup(jumps)), [{"x": X}])
        fed = {inputs[site]: np.array(jump, np.float32) for site, jump in jumps.items()}
        assert all(map(np.array_equal, expected, session.run(None, {"x": X, **fed})))


def test_random_networks() -> None:
    """Residuals, joins, norms and scales at random, some sites left out: every jump at its site."""
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


def test_external_data_stays_readable(tmp_path: Path) -> None:
    """From a file, and from a model with base_dir; the compiled model holds its weights.

    Those that ONNX Runtime leaves as they are too.
    """
    text = HEAD + "g " + RESIDUAL.replace("c = Conv(x,", "o = Mul(x, three) c = Conv(o,")
    source = network(text)
    onnx.save(
        network(text),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        size_threshold=0,
    )
    model = onnxfit.retrofit(tmp_path / "m.onnx", jumps=distinct(source))
    onnxfit.save(model, tmp_path / "hard.onnx", tmp_path)
    expected = run(swapped(source, lambda value: jump_of(value, 1.125)), [{"x": X}])
    for given, folder in ((tmp_path / "hard.onnx", None), (model, tmp_path)):
        compiled = onnxfit.compile(given, base_dir=folder)
        assert all(map(np.array_equal, expected, outputs(compiled, {"x": X})))
    with pytest.raises(ModelError, match=r"^the model has external data; say with base_dir in wh"):
        onnxfit.compile(model)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let weights of a kilobyte and more need a file of their own."""
    monkeypatch.setattr(compiler, "optimise", functools.partial(optimise, most_inside=1024))


@pytest.mark.usefixtures("small_files")
def test_large_weights_go_to_their_own_file(tmp_path: Path) -> None:
    """Which is written once, whole, and is all that the folder then has."""
    source = network(HEAD + "g " + RESIDUAL)
    hard = onnxfit.retrofit(source, jumps=distinct(source))
    message = r"^the weights of the model are too large for one file: give a data_dir$"
    with pytest.raises(ModelError, match=message):
        onnxfit.compile(hard)
    for _ in range(2):
        compiled = onnxfit.compile(hard, data_dir=tmp_path, weights="w.data")
        assert ["w.data"] == [path.name for path in tmp_path.iterdir()]
    expected = run(swapped(source, lambda value: jump_of(value, 1.125)), [{"x": X}])
    found = outputs(compiled, {"x": X}, tmp_path)
    assert all(map(np.array_equal, expected, found))
    (tmp_path / "there").mkdir()
    onnxfit.save(compiled, tmp_path / "there/c.onnx", tmp_path)
    session = onnxfit.session(tmp_path / "there/c.onnx", quiet())
    assert all(map(np.array_equal, expected, session.run(None, {"x": X})))


def test_the_model_stays_as_it_was() -> None:
    """Compiling changes no argument, and gives the same model twice."""
    hard = onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.1)
    before = hard.SerializeToString()
    compiled = onnxfit.compile(hard)
    assert before == hard.SerializeToString()
    assert compiled.graph == onnxfit.compile(hard).graph


def test_a_record_of_what_was_compiled_and_for_what(tmp_path: Path) -> None:
    """The hardened file's digest, the source's, how the jumps were chosen; no key twice."""
    path = tmp_path / "hard.onnx"
    onnxfit.save(onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.1), path)
    compiled = onnxfit.compile(path)
    made = recorded(compiled)
    assert made is not None
    assert onnxfit.inspect(path).sha256 == made["hardened_sha256"]
    assert this_machine() == made["machine"]
    keys = [entry.key for entry in compiled.metadata_props]
    assert len(keys) == len(set(keys))
    found = onnxfit.inspect(compiled)
    source = onnxfit.inspect(MODELS / "digits_cnn.onnx").sha256
    assert source == found.provenance["source_sha256"]
    assert {0.1} == set(found.jumps.values())


@pytest.fixture(scope="module")
def compiled() -> ModelProto:
    """Compile a residual network."""
    return onnxfit.compile(onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), 1.5))


def digest_of(model: ModelProto) -> str:
    """Return the digest of the hardened model that a compiled one was made of."""
    made = recorded(model)
    assert made is not None
    return str(made["hardened_sha256"])


def test_what_cannot_be_compiled_is_refused() -> None:
    """A plain model, and what is no model."""
    plain = network(HEAD + "g " + RESIDUAL)
    message = r"^the model is not hardened, so there is nothing that compiling would save$"
    with pytest.raises(ModelError, match=message):
        onnxfit.compile(plain)
    with pytest.raises(ModelError, match=r"^none\.onnx does not exist$"):
        onnxfit.compile("none.onnx")
    broken = onnxfit.retrofit(plain, 1.5)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"^ONNX Runtime refuses the model: "):
        onnxfit.compile(broken)


@pytest.mark.parametrize(
    "use",
    {
        "compile": onnxfit.compile,
        "retrofit": lambda model: onnxfit.retrofit(model, 0.5),
        "restore": onnxfit.restore,
        "run-time jumps": with_run_time_jumps,
    }.items(),
    ids=lambda item: item[0],
)
def test_a_compiled_model_is_no_source(
    use: tuple[str, Callable[[ModelProto], Any]], compiled: ModelProto
) -> None:
    """Its layout and its names are ONNX Runtime's: the message names the hardened file."""
    message = "the model was compiled: take the hardened file, the one with the SHA-256"
    with pytest.raises(ModelError, match=f"^{message} {digest_of(compiled)}$"):
        use[1](compiled)


def test_without_a_library_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiled: ModelProto
) -> None:
    """Nor does a compiled model run: the message says what is missing."""
    hard = onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), 1.5)
    uses: list[Callable[[], Any]] = [
        lambda: onnxfit.compile(hard),
        lambda: onnxfit.session(compiled),
        lambda: onnxfit.session(hard, compile=True),
    ]
    monkeypatch.setenv("ONNXFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(runtime.LIBRARY_VARIABLE, "/nowhere/lib.so")
    for use in uses:
        with pytest.raises(NativeLibraryError, match=r"names /nowhere/lib\.so, which is no file$"):
            use()
    monkeypatch.delenv(runtime.LIBRARY_VARIABLE)
    monkeypatch.setattr(runtime, "_folders", lambda: [tmp_path])
    for use in uses:
        with pytest.raises(NativeLibraryError, match=r"^onnxfit was installed without its custom"):
            use()


def for_another(compiled: ModelProto, **machine: Any) -> ModelProto:
    """Return a compiled model that was made for another machine."""
    model = ModelProto()
    model.CopyFrom(compiled)
    for entry in model.metadata_props:
        if entry.key == COMPILED_KEY:
            made = json.loads(entry.value)
            entry.value = json.dumps({**made, "machine": made["machine"] | machine})
    return model


@pytest.mark.parametrize(
    ("machine", "what"),
    [
        ({"onnxruntime": "1.0"}, f"ONNX Runtime 1.0, this is {onnxruntime.__version__}"),
        ({"architecture": "Plan9 vax"}, f"Plan9 vax, this is {this_machine()['architecture']}"),
        (
            {"instructions": [*this_machine()["instructions"], "ABACUS"]},
            "a CPU that differs from this one in ABACUS",
        ),
        ({"onnxruntime": None, "instructions": None}, "ONNX Runtime None, this is "),
    ],
    ids=["onnxruntime", "architecture", "instructions", "nothing"],
)
def test_another_machine_is_refused(
    machine: dict[str, Any], what: str, compiled: ModelProto, tmp_path: Path
) -> None:
    """As a model or as a file: what differs, and what to compile again."""
    model = for_another(compiled, **machine)
    again = f"compile the hardened file again, the one with the SHA-256 {digest_of(compiled)}"
    onnxfit.save(model, tmp_path / "c.onnx")
    for given in (model, tmp_path / "c.onnx", str(tmp_path / "c.onnx")):
        with pytest.raises(ModelError) as raised:
            onnxfit.session(given)
        assert str(raised.value).startswith(f"the model was compiled for {what}")
        assert str(raised.value).endswith(f": {again}")


def test_a_cpu_with_fewer_instructions_is_refused() -> None:
    """Each extension that one has and the other lacks is named."""
    here = this_machine()
    if not here["instructions"]:
        pytest.skip("this CPU has no extension that matters")
    fewer = here | {"instructions": here["instructions"][1:]}
    message = "^the model was compiled for a CPU that differs from this one in "
    with pytest.raises(ModelError, match=f"{message}{here['instructions'][0]}: compile the hard"):
        check({"machine": fewer, "hardened_sha256": "0"})
    check({"machine": here, "hardened_sha256": "0"})


@pytest.mark.parametrize(
    "value",
    ["", "{", "[]", "3", '"text"', "{}", '{"machine": 3, "hardened_sha256": "0"}',
     '{"machine": {}}', '{"machine": {}, "hardened_sha256": 3}', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_record_is_refused(value: str, compiled: ModelProto) -> None:
    """With one sentence, whatever stands there."""
    model = ModelProto()
    model.CopyFrom(compiled)
    for entry in model.metadata_props:
        if entry.key == COMPILED_KEY:
            entry.value = value
    for use in (onnxfit.session, onnxfit.compile):
        with pytest.raises(ModelError, match=r"^the metadata entry onnxfit\.compiled is damaged$"):
            use(model)


def test_instructions_that_are_no_list_are_refused(compiled: ModelProto) -> None:
    """A record that another program wrote into ends in no traceback."""
    damaged: list[Any] = [3, None, {}, [3], [["AVX"]]]
    for instructions in damaged:
        with pytest.raises(OnnxfitError):
            onnxfit.session(for_another(compiled, instructions=instructions))


@pytest.mark.parametrize(
    "providers", [["CUDAExecutionProvider", runtime.CPU], ["CUDAExecutionProvider"]]
)
def test_other_providers_are_refused(providers: list[str], compiled: ModelProto) -> None:
    """What was compiled for the CPU runs there alone."""
    names = ", ".join(providers)
    message = (
        f"^the model was compiled for CPUExecutionProvider alone; run the hardened file on {names}$"
    )
    with pytest.raises(NativeLibraryError, match=message):
        onnxfit.session(compiled, providers=providers)
    hard = onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), 1.5)
    message = f"^a model is compiled for CPUExecutionProvider alone, got {names}$"
    with pytest.raises(ValueError, match=message):
        onnxfit.session(hard, providers=providers, compile=True)


def test_the_provider_may_have_options(compiled: ModelProto) -> None:
    """A pair of its name and its options is the same provider."""
    session = onnxfit.session(compiled, quiet(), [(runtime.CPU, {"use_arena": "0"})])
    assert same_bits(outputs(compiled, {"x": X})[0], session.run(None, {"x": X})[0])


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_the_options_are_the_users_again(level: str, compiled: ModelProto) -> None:
    """A compiled model runs as it is, and the next session with the options at their level."""
    levels = onnxruntime.GraphOptimizationLevel
    options, chosen = quiet(), getattr(levels, level)
    options.graph_optimization_level = chosen
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxfit.session(compiled, options)
    assert chosen == options.graph_optimization_level
    assert levels.ORT_DISABLE_ALL == session.get_session_options().graph_optimization_level
    assert 1 == session.get_session_options().intra_op_num_threads
    assert "1" == options.get_session_config_entry("session.disable_prepacking")
    broken = ModelProto()
    broken.CopyFrom(compiled)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"^ONNX Runtime refuses the model: "):
        onnxfit.session(broken, options)
    assert chosen == options.graph_optimization_level
    plain = onnxfit.session(network(HEAD + "g " + RESIDUAL), options)
    assert chosen == plain.get_session_options().graph_optimization_level


def test_a_compiled_model_runs_node_by_node(compiled: ModelProto, tmp_path: Path) -> None:
    """ONNX Runtime adds, fuses and drops nothing."""
    options = quiet()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    onnxfit.session(compiled, options)
    ran = onnx.load(tmp_path / "run.onnx")
    assert [n.op_type for n in compiled.graph.node] == [n.op_type for n in ran.graph.node]


def test_only_onnx_runtime_and_inspect_read_a_compiled_model(compiled: ModelProto) -> None:
    """Everything else says which file to take, the twin and the attacks included."""
    pytest.importorskip("torch")
    for reader in (onnxfit.find_sites, onnxfit.to_torch, onnxfit.restore, onnxfit.compile):
        with pytest.raises(
            ModelError,
            match=r"^the model was compiled: take the hardened file, the one with the "
            rf"SHA-256 {recorded(compiled)['hardened_sha256']}$",
        ):
            reader(compiled)
    with pytest.raises(ModelError, match=r"^the model was compiled: take the hardened file"):
        onnxfit.verify(compiled, (X, np.zeros(len(X), int)))


def test_an_input_that_stood_for_a_folded_constant_is_gone() -> None:
    """Before IR version 4 an initializer is an input too; without it a session would ask for it."""
    source = parse(
        '<ir_version: 3, opset_import: ["": 9]> '
        "g (float[N, 2] x, float[2] a, float[2] b) => (float[N, 2] y) "
        "<float[2] a = {1, 2}, float[2] b = {3, 4}> "
        "{ w = Add(a, b) h = Mul(x, w) y = Relu(h) }"
    )
    hard = onnxfit.retrofit(source, 0.5)
    compiled = onnxfit.compile(hard)
    assert ["x"] == [value.name for value in compiled.graph.input]
    feeds: Feeds = [{"x": np.array([[0.1, 0.2], [1, -1]], np.float32)}]
    assert all_same_bits(run(hard, feeds, library=True), run(compiled, feeds, library=True))
