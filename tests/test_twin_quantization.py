"""Quantised operators against ONNX Runtime, integer for integer, and their gradients."""

import pickle
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support import parse

torch = pytest.importorskip("torch")

from twin_support import agrees, compiled, twin_outputs  # noqa: E402

from onnxfit.errors import UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import Twin, to_torch  # noqa: E402

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(50, 3, 8)) * 4).astype(np.float32)
BYTES: dict[str, Any] = {"uint8": np.uint8, "int8": np.int8}


def integers(kind: str, *shape: int) -> NDArray[Any]:
    """Draw all 256 values alike."""
    return RNG.integers(0, 256, shape).astype(np.uint8).view(BYTES[kind])


def listed(low: int, high: int, count: int) -> str:
    """Write some integers."""
    return ", ".join(map(str, RNG.integers(low, high, count)))


def exactly(text: str, *arrays: NDArray[Any]) -> Twin:
    """Assert that a twin computes just what ONNX Runtime does."""
    return agrees(text, *arrays, rtol=0, atol=0)


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23])
@pytest.mark.parametrize(("kind", "zero"), [("uint8", 117), ("int8", -5), ("int8", 0)])
@pytest.mark.parametrize("scale", [0.02, 0.25])
def test_one_scale(scale: float, kind: str, zero: int, opset: int) -> None:
    """Round halves to even before the zero point is added, in all versions."""
    exactly(
        f"""<ir_version: 10, opset_import: ["": {opset}]>
        g (float[N,3,8] x) => ({kind}[N,3,8] q, float[N,3,8] y)
        <float s = {{{scale}}}, {kind} z = {{{zero}}}> {{
            q = QuantizeLinear(x, s, z)
            y = DequantizeLinear(q, s, z)
        }}""",
        np.concatenate([X, np.round(X) + 0.5]),
    )


@pytest.mark.parametrize("opset", [13, 19, 21])
@pytest.mark.parametrize("axis", [1, -2])
def test_a_scale_for_each_channel(axis: int, opset: int) -> None:
    """Scales lie along an axis; a missing zero point is 0, of uint8."""
    exactly(
        f"""<ir_version: 10, opset_import: ["": {opset}]>
        g (float[N,3,8] x) => (uint8[N,3,8] q, float[N,3,8] y, uint8[N,3,8] p)
        <float[3] s = {{0.1, 0.3, 0.07}}, uint8[3] z = {{5, 100, 0}}> {{
            q = QuantizeLinear<axis = {axis}>(x, s, z)
            y = DequantizeLinear<axis = {axis}>(q, s, z)
            p = QuantizeLinear<axis = {axis}>(x, s)
        }}""",
        X,
    )


@pytest.mark.parametrize(("kind", "code"), [("int8", 3), ("uint16", 4), ("int16", 5)])
def test_a_scale_for_each_block(kind: str, code: int) -> None:
    """The last block may be shorter, and the type may be an attribute."""
    exactly(
        f"""<ir_version: 10, opset_import: ["": 21]>
        g (float[2,8] x) => ({kind}[2,8] q, float[2,8] y)
        <float[2,3] s = {{0.1, 0.2, 0.3, 0.4, 0.5, 0.6}}> {{
            q = QuantizeLinear<axis = 1, block_size = 3, output_dtype = {code}>(x, s)
            y = DequantizeLinear<axis = 1, block_size = 3>(q, s)
        }}""",
        X[0, :2],
    )


@pytest.mark.parametrize("opset", [19, 21])
def test_half_precision(opset: int) -> None:
    """ONNX Runtime divides float16 in float32 where the version does not say otherwise."""
    initializers = [
        numpy_helper.from_array(np.array(0.1, np.float16), "s"),
        numpy_helper.from_array(np.array(5, np.uint8), "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", half, [50, 3, 8])],
        [helper.make_tensor_value_info("y", half, [50, 3, 8])],
        initializers,
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    agrees(model, (X * 3).astype(np.float16), rtol=0, atol=0)


@pytest.mark.parametrize("factor", [1.0, 0.0, -1e-3])
def test_dynamic_scales(factor: float) -> None:
    """Scale and zero point follow the range of the input, which 0 belongs to."""
    exactly(
        """<ir_version: 8, opset_import: ["": 11]>
        g (float[N,3,8] x) => (uint8[N,3,8] q, float s, uint8 z) {
            q, s, z = DynamicQuantizeLinear(x)
        }""",
        (np.abs(X) if factor < 0 else X) * np.float32(factor),
    )


def product(op_type: str, kind: str) -> tuple[str, list[NDArray[Any]]]:
    """Write a node with weights of the 7 bits that processors without saturation agree about."""
    scales = "float s = {0.02}, float[4] ws = {0.01, 0.02, 0.03, 0.005}, float t = {0.5}"
    zeros = f"{kind} z = {{3}}, int8[4] wz = {{0, 0, 0, 0}}, {kind} o = {{7}}"
    image = f"int8[4,3,3,3] w = {{{listed(-60, 60, 108)}}}, int32[4] b = {{9, -200, 3000, 0}}"
    square = f"int8[8,4] w = {{{listed(-60, 60, 32)}}}, int8[4] c = {{0, 1, 2, 3}}"
    turned = f"int8[4,8] w = {{{listed(-60, 60, 32)}}}, int32[4] b = {{9, -200, 3000, 0}}"
    x4, y4 = f"{kind}[N,3,9,9] x", "[N,4,5,5] y"
    x2, y2 = f"{kind}[N,8] x", "[N,4] y"
    pads = "pads = [1, 1, 1, 1], strides = [2, 2]"
    node, weights, given, result = {
        "QLinearConv": (f"QLinearConv<{pads}>(x, s, z, w, ws, wz, t, o, b)", image, x4, kind + y4),
        "ConvInteger": (f"ConvInteger<{pads}>(x, w, z)", image, x4, "int32" + y4),
        "QLinearMatMul": ("QLinearMatMul(x, s, z, w, ws, c, t, o)", square, x2, kind + y2),
        "MatMulInteger": ("MatMulInteger(x, w, z, c)", square, x2, "int32" + y2),
        "QGemm": (
            "com.microsoft.QGemm<transB = 1, alpha = 1.5>(x, s, z, w, ws, wz, b, t, o)",
            turned,
            x2,
            kind + y2,
        ),
        "QGemm float": (
            "com.microsoft.QGemm<transB = 1>(x, s, z, w, ws, wz, b)",
            turned,
            x2,
            "float" + y2,
        ),
    }[op_type]
    text = f"""<ir_version: 8, opset_import: ["": 13, "com.microsoft": 1]>
        g ({given}) => ({result}) <{scales}, {zeros}, {weights}> {{ y = {node} }}"""
    shape = (20, 3, 9, 9) if "Conv" in op_type else (20, 8)
    return text, [integers(kind, *shape)]


@pytest.mark.parametrize(
    "op_type",
    ["QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm", "QGemm float"],
)
@pytest.mark.parametrize("kind", BYTES)
def test_products(op_type: str, kind: str) -> None:
    """Sums are exact, and rounded once; weights have a scale for each output."""
    text, arrays = product(op_type, kind)
    agrees(text, *arrays, rtol=1e-6 if "float" in op_type else 0, atol=0)


@pytest.mark.parametrize(
    ("node", "given"),
    [
        ("MatMulIntegerToFloat(x, w, s, ws, z, c, b)", "uint8"),
        ("MatMulIntegerToFloat(x, w, s, ws)", "uint8"),
        ("DynamicQuantizeMatMul(x, w, ws, c, b)", "float"),
        ("DynamicQuantizeMatMul(x, w, ws)", "float"),
    ],
)
def test_products_of_optimised_files(node: str, given: str) -> None:
    """ONNX Runtime writes them for what follows a dynamic quantisation."""
    agrees(
        f"""<ir_version: 8, opset_import: ["": 13, "com.microsoft": 1]>
        g ({given}[N,8] x) => (float[N,4] y)
        <int8[8,4] w = {{{listed(-60, 60, 32)}}}, int8[4] c = {{0, 1, 2, 3}}, float s = {{0.02}},
         float[4] ws = {{0.01, 0.02, 0.03, 0.005}}, uint8 z = {{3}},
         float[4] b = {{1.0, -2.5, 0.5, 0.0}}> {{ y = com.microsoft.{node} }}""",
        X[:, 0] if given == "float" else integers("uint8", 20, 8),
    )


def test_large_sums_are_exact() -> None:
    """A sum that float32 cannot hold is computed in float64."""
    size = 1001
    weight = numpy_helper.from_array(np.full((size, 1), 127, np.int8), "w")
    model = parse(
        f"""<ir_version: 8, opset_import: ["": 13]>
        g (uint8[N,{size}] x) => (int32[N,1] y) {{ y = MatMulInteger(x, w) }}"""
    )
    model.graph.initializer.append(weight)
    x = np.full((1, size), 255, np.uint8)
    x[0, 0] = 254
    expected = 127 * (255 * size - 1)
    assert expected > 2**24
    assert [[expected]] == twin_outputs(to_torch(model), model, x)[0].tolist()


CONTRIB = {
    "QLinearAdd": ("QLinearAdd(a, s, z, b, t, o, u, p)", "[N,3,6,6]"),
    "QLinearMul": ("QLinearMul(a, s, z, b, t, o, u, p)", "[N,3,6,6]"),
    "QLinearConcat": ("QLinearConcat<axis = 1>(u, p, a, s, z, b, t, o)", "[N,6,6,6]"),
    "QLinearGlobalAveragePool": (
        "QLinearGlobalAveragePool<channels_last = 0>(a, s, z, u, p)",
        "[N,3,1,1]",
    ),
    "QLinearAveragePool": (
        "QLinearAveragePool<kernel_shape = [3, 3], pads = [1, 1, 0, 0], strides = [2, 2]>"
        "(a, s, z, u, p)",
        "[N,3,3,3]",
    ),
    "QLinearSigmoid": ("QLinearSigmoid(a, s, z, u, p)", "[N,3,6,6]"),
    "QLinearLeakyRelu": ("QLinearLeakyRelu<alpha = 0.1>(a, s, z, u, p)", "[N,3,6,6]"),
    "QLinearSoftmax": ("QLinearSoftmax<axis = 1, opset = 13>(a, s, z, u, p)", "[N,3,6,6]"),
    "QuantizeLinear": ("DequantizeLinear(a, s, z) y = com.microsoft.QuantizeLinear(f, u, p)", ""),
}


@pytest.mark.parametrize("op_type", CONTRIB)
@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("scales", [(0.02, 0.03, 0.05), (0.5, 0.25, 1.0), (0.013, 0.4, 0.37)])
def test_operators_of_onnx_runtime(
    op_type: str, kind: str, scales: tuple[float, float, float]
) -> None:
    """Ties fall as in ONNX Runtime's kernels, but where these multiply and add in one step."""
    node, shape = CONTRIB[op_type]
    s, t, u = scales
    zeros = (100, 131, 7) if kind == "uint8" else (-3, 5, 0)
    result = "f" if op_type == "QuantizeLinear" else "y"
    model = parse(
        f"""<ir_version: 8, opset_import: ["": 13, "com.microsoft": 1]>
        g ({kind}[N,3,6,6] a, {kind}[N,3,6,6] b) => ({kind}{shape or "[N,3,6,6]"} y)
        <float s = {{{s}}}, float t = {{{t}}}, float u = {{{u}}},
         {kind} z = {{{zeros[0]}}}, {kind} o = {{{zeros[1]}}}, {kind} p = {{{zeros[2]}}}> {{
            {result} = com.microsoft.{node}
        }}"""
    )
    if " b," not in node:
        del model.graph.input[1]
    given = [integers(kind, 20, 3, 6, 6) for _ in model.graph.input]
    fused = op_type in ("QLinearAdd", "QLinearAveragePool")
    agrees(model, *given, rtol=0, atol=float(fused))


def gradient(twin: Twin, x: Any) -> Any:
    """Return the gradient of the sum of a twin's outputs."""
    x = x.clone().requires_grad_()
    twin(x).sum().backward()
    assert x.grad is not None
    return x.grad


FAKE = """<ir_version: 8, opset_import: ["": 13]>
g (float[N] x) => (float[N] y) <float s = {0.5}, uint8 z = {10}> {
    q = QuantizeLinear(x, s, z)
    y = DequantizeLinear(q, s, z)
}"""


def test_the_gradient_passes_straight_through() -> None:
    """Quantised and back: 1 within the range of the integers, 0 beyond it, and inf does no harm."""
    twin = to_torch(parse(FAKE))
    x = torch.tensor([-5.3, -5.2, 0.1, 122.6, 122.8, torch.inf])
    assert [-5.0, -5.0, 0.0, 122.5, 122.5, 122.5] == twin(x).tolist()
    assert [0.0, 1.0, 1.0, 1.0, 0.0, 0.0] == gradient(twin, x).tolist()


def test_quantised_outputs_are_integers() -> None:
    """A graph gives out what its file says, and the gradient ends there."""
    q, y = to_torch(parse(FAKE.replace("(float[N] y)", "(uint8[N] q, float[N] y)")))(
        torch.ones(3, requires_grad=True)
    )
    assert torch.uint8 == q.dtype
    assert not q.requires_grad
    assert y.requires_grad


BETWEEN = {
    "Reshape": "Reshape(q, shape)",
    "Transpose": "Transpose<perm = [0, 2, 3, 1]>(q)",
    "MaxPool": "MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(q)",
    "Concat": "Concat<axis = 1>(q, q)",
    "Clip": "Clip(q, low, high)",
    "Max": "Max(q, low)",
    "Identity": "Identity(q)",
    "Slice": "Slice(q, begin, end)",
}


@pytest.mark.parametrize("op_type", BETWEEN)
def test_gradients_pass_through_what_moves_and_chooses(op_type: str) -> None:
    """Between the quantisers the numbers and gradients are those of the same graph without them."""
    header = """<ir_version: 8, opset_import: ["": 13]> g (float[N,2,4,4] x) => (float[A,B,C,D] y)
        <float s = {0.25}, int8 z = {3}, int64[4] shape = {-1, 1, 4, 4},
         int64[1] begin = {1}, int64[1] end = {3}, KIND low = {LOW}, KIND high = {HIGH}>"""
    node = BETWEEN[op_type]
    quantised = header.replace("KIND", "int8").replace("LOW", "1").replace("HIGH", "9") + (
        f"{{ q = QuantizeLinear(x, s, z) m = {node} y = DequantizeLinear(m, s, z) }}"
    )
    plain = header.replace("KIND", "float").replace("LOW", "-0.5").replace("HIGH", "1.5") + (
        f"{{ q = Identity(x) y = {node} }}"
    )
    # Multiples of the scale, each one once, so that no maximum is a tie.
    x = torch.from_numpy(RNG.permutation(np.arange(-48, 48)).reshape(3, 2, 4, 4) / 4).float()
    one, other = to_torch(parse(quantised)), to_torch(parse(plain))
    assert torch.equal(other(x), one(x))
    assert torch.equal(gradient(other, x), gradient(one, x))
    agrees(quantised, x.numpy(), rtol=0, atol=0)


def test_gradients_pass_through_products() -> None:
    """From end to end of a network of integers, as through its float weights."""
    text = f"""<ir_version: 8, opset_import: ["": 13, "com.microsoft": 1]>
        g (float[N,2,6,6] x) => (float[N,3] y)
        <float s = {{0.05}}, uint8 z = {{128}}, float ws = {{0.005}}, int8 wz = {{0}},
         int8[4,2,3,3] w = {{{listed(-60, 60, 72)}}}, int32[4] b = {{100, -50, 0, 20}},
         int8[4,3] v = {{{listed(-60, 60, 12)}}}, float t = {{0.04}}, int64[2] shape = {{0, -1}}> {{
            q = QuantizeLinear(x, s, z)
            c = QLinearConv<pads = [1, 1, 1, 1]>(q, s, z, w, ws, wz, t, z, b)
            m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)
            a = com.microsoft.QLinearAdd(m, t, z, m, t, z, t, z)
            p = com.microsoft.QLinearGlobalAveragePool<channels_last = 0>(a, t, z, t, z)
            r = Reshape(p, shape)
            l = QLinearMatMul(r, t, z, v, ws, wz, t, z)
            y = DequantizeLinear(l, t, z)
        }}"""
    plain = parse(
        """<ir_version: 8, opset_import: ["": 13]> g (float[N,2,6,6] x) => (float[N,3] y)
        <float two = {2}> {
            c = Conv<pads = [1, 1, 1, 1]>(x, W, B)
            m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)
            a = Mul(m, two)
            p = GlobalAveragePool(a)
            r = Flatten(p)
            y = MatMul(r, V)
        }"""
    )
    model = parse(text)
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, value in (
        ("W", tensors["w"] * 0.005),
        ("B", tensors["b"] * 0.05 * 0.005),
        ("V", tensors["v"] * 0.005),
    ):
        plain.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    x = RNG.normal(size=(8, 2, 6, 6)).astype(np.float32)
    twin = agrees(model, x, rtol=0, atol=0.04)
    assert "integer" not in twin.source
    one = gradient(twin, torch.from_numpy(x)).flatten(1)
    other = gradient(to_torch(plain), torch.from_numpy(x)).flatten(1)
    assert 0.9 < torch.cosine_similarity(one, other).min()


def test_gradients_pass_through_dynamic_quantisation() -> None:
    """Dynamically quantised, a matrix product has the gradient of the product."""
    twin = agrees(
        f"""<ir_version: 8, opset_import: ["": 13]>
        g (float[N,8] x) => (float[N,3] y)
        <int8[8,3] w = {{{listed(-60, 60, 24)}}}, float ws = {{0.01}}> {{
            q, s, z = DynamicQuantizeLinear(x)
            i = MatMulInteger(q, w, z)
            f = Cast<to = 1>(i)
            t = Mul(s, ws)
            y = Mul(f, t)
        }}""",
        X[:, 0],
    )
    weight = next(v for v in twin.buffers() if v.shape == (8, 3))
    expected = (0.01 * weight.sum(1)).expand(4, 8)
    found = gradient(twin, torch.from_numpy(X[:4, 0]))
    torch.testing.assert_close(expected, found)


def test_constant_weights_are_dequantised_once() -> None:
    """What a call computes begins with the activations."""
    twin = to_torch(
        parse(
            f"""<ir_version: 8, opset_import: ["": 13]>
            g (float[N,8] x) => (float[N,3] y)
            <int8[8,3] w = {{{listed(-60, 60, 24)}}}, float[3] s = {{0.1, 0.2, 0.3}},
             int8[3] z = {{1, 0, 2}}> {{
                d = DequantizeLinear<axis = 1>(w, s, z)
                y = MatMul(x, d)
            }}"""
        )
    )
    assert "quantize" not in twin.source


def test_float_weights_are_trained_through_their_quantisers() -> None:
    """A file of quantisation-aware training keeps its float weights, and they have gradients."""
    twin = to_torch(
        parse(
            """<ir_version: 8, opset_import: ["": 13]>
            g (float[N,2] x) => (float[N,2] y)
            <float[2,2] w = {0.26, -0.3, 99, 0.1}, float s = {0.5}, int8 z = {0}> {
                q = QuantizeLinear(w, s, z)
                d = DequantizeLinear(q, s, z)
                y = MatMul(x, d)
            }"""
        )
    )
    twin(torch.ones(1, 2)).sum().backward()
    assert [[1.0, 1.0], [0.0, 1.0]] == twin.w.grad.tolist()
    assert ["w"] == [name for name, _ in twin.named_parameters()]


@pytest.mark.parametrize("to", [17, 19, 23])
def test_small_floats_have_gradients_too(to: int) -> None:
    """Types of 8 and 4 bits quantise with the same rule."""
    twin = to_torch(
        parse(
            f"""<ir_version: 11, opset_import: ["": 23]>
            g (float[N] x) => (float[N] y) <float s = {{0.5}}> {{
                q = QuantizeLinear<output_dtype = {to}>(x, s)
                y = DequantizeLinear(q, s)
            }}"""
        )
    )
    x = torch.tensor([0.5, -1.0, 1e9])
    largest = {17: 448, 19: 57344, 23: 6}[to] * 0.5
    assert [0.5, -1.0, largest] == twin(x).tolist()
    assert [1.0, 1.0, 0.0] == gradient(twin, x).tolist()


def test_transforms_and_types() -> None:
    """vmap, forward derivatives, compilation, pickling and other precisions see through."""
    text, arrays = product("QLinearConv", "uint8")
    text = text.replace("uint8[N,3,9,9] x", "float[N,3,9,9] f").replace("(uint8[N", "(float[N")
    text = text.replace("y = Q", "x = QuantizeLinear(f, s, z) r = Q")
    twin = to_torch(parse(text.replace("b) }", "b) y = DequantizeLinear(r, t, o) }")))
    x = torch.from_numpy((arrays[0].astype(np.float32) - 3) * 0.02)[:4]
    y = twin(x)
    assert torch.equal(y, torch.func.vmap(lambda one: twin(one[None])[0])(x))
    assert torch.equal(y, pickle.loads(pickle.dumps(twin))(x))  # noqa: S301
    assert torch.equal(y, compiled(twin)(x))
    torch.testing.assert_close(y.double(), twin.double()(x.double()))
    _, tangent = torch.func.jvp(twin, (x.double(),), (torch.ones_like(x.double()),))
    _, pull = torch.func.vjp(twin, x.double())
    torch.testing.assert_close(tangent.sum(), pull(torch.ones_like(tangent))[0].sum())
    assert torch.float16 == twin.half()(x.half()).dtype
    assert 1.0 > (twin(x.half()).float() - y).abs().max()


@pytest.mark.parametrize(
    ("node", "given", "message"),
    [
        ("QuantizeLinear<precision = 6>(x, s)", "float", "it divides in INT32"),
        ("QuantizeLinear<output_dtype = 1>(x, s)", "float", "it quantises to FLOAT"),
        ("QLinearMatMul(x, s, x, x, s, x, s, x)", "float8e4m3fn", "is of float8"),
        (
            "com.microsoft.QLinearGlobalAveragePool<channels_last = 1>(x, s, , s, )",
            "uint8",
            "its channels are last",
        ),
    ],
)
def test_what_is_refused(node: str, given: str, message: str) -> None:
    """The message says why."""
    model = parse(
        f"""<ir_version: 11, opset_import: ["": 23, "com.microsoft": 1]>
        g ({given}[4,4] x) => (uint8[4,4] y) <float s = {{0.5}}> {{ y = {node} }}"""
    )
    with pytest.raises(UnsupportedOperator, match=message):
        to_torch(model)


def test_the_output_type_may_be_an_attribute() -> None:
    """Version 23 multiplies in the type of the output."""
    twin = to_torch(
        parse(
            """<ir_version: 11, opset_import: ["": 23]>
            g (int8[N] x) => (float16[N] y) <float s = {0.1}> {
                y = DequantizeLinear<output_dtype = 10>(x, s)
            }"""
        )
    )
    expected = (np.arange(-3, 3, dtype=np.float32) * np.float32(0.1)).astype(np.float16)
    found = twin(torch.arange(-3, 3, dtype=torch.int8))
    assert expected.tolist() == found.tolist()
    assert onnx.TensorProto.FLOAT16 == helper.np_dtype_to_tensor_dtype(found.numpy().dtype)
