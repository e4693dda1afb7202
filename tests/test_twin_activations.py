"""Activations and Softmax of the twin, over the versions of their operators."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model, parse  # noqa: E402

from onnxfit.errors import UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

X = np.array([[-50.0, -3.1, -1.0, -0.3, 0.0], [0.2, 0.5, 1.4, 3.2, 50.0]], np.float32)
CASES = [
    ("Relu", 7, ""),
    ("Relu", 13, ""),
    ("Relu", 14, ""),
    ("LeakyRelu", 7, ""),
    ("LeakyRelu", 16, "alpha = 0.3"),
    ("Elu", 7, ""),
    ("Elu", 22, "alpha = 2.0"),
    ("Selu", 7, ""),
    ("Selu", 22, "alpha = 2.0, gamma = 0.5"),
    ("Celu", 12, ""),
    ("Celu", 12, "alpha = 0.7"),
    ("Sigmoid", 7, ""),
    ("Sigmoid", 13, ""),
    ("HardSigmoid", 7, ""),
    ("HardSigmoid", 22, "alpha = 0.6, beta = 0.1"),
    ("HardSigmoid", 22, "alpha = 0.1666666716337204, beta = 0.5"),
    ("HardSwish", 14, ""),
    ("HardSwish", 22, ""),
    ("Softplus", 7, ""),
    ("Softplus", 22, ""),
    ("Softsign", 7, ""),
    ("ThresholdedRelu", 10, ""),
    ("ThresholdedRelu", 22, "alpha = 0.2"),
    ("Gelu", 20, ""),
    ("Gelu", 20, 'approximate = "tanh"'),
    ("Mish", 18, ""),
    ("Mish", 22, ""),
    ("Swish", 24, ""),
    ("Swish", 24, "alpha = 1.5"),
    ("Shrink", 9, ""),
    ("Shrink", 9, "lambd = 1.5, bias = 1.5"),
    ("Shrink", 9, "lambd = 1.0, bias = 0.5"),
    ("Shrink", 9, "lambd = -0.5, bias = 0.5"),
    ("com.microsoft.Gelu", 17, ""),
    ("com.microsoft.FastGelu", 17, ""),
    ("com.microsoft.QuickGelu", 17, ""),
    ("com.microsoft.QuickGelu", 17, "alpha = 1.0"),
]
# Away from their kinks.
SMOOTH = torch.tensor([[-3.11, -1.04, -0.33], [0.24, 1.43, 4.21]], dtype=torch.float64)


@pytest.mark.parametrize(("op", "opset", "attributes"), CASES)
def test_an_activation_is_that_of_onnx_runtime(op: str, opset: int, attributes: str) -> None:
    """Values, the infinite ones and NaN included, and gradients by central differences."""
    special = np.array([[np.nan, 0.0, 1.0], [2.0, 3.0, 4.0]], np.float32)
    model = node_model(op, opset, {"x": X}, "x", attributes=attributes)
    twin = agrees(model, X)
    if op not in ("Swish", "ThresholdedRelu") and "Gelu" not in op:
        agrees(model, special)
    x = SMOOTH.clone().requires_grad_()
    assert torch.autograd.gradcheck(twin.double(), (x,))


@pytest.mark.parametrize(("op", "opset", "attributes"), CASES)
def test_an_activation_follows_the_twin_to_half_precision(
    op: str, opset: int, attributes: str
) -> None:
    """A twin in float16 returns float16, and what it does in float32 up to rounding."""
    twin = to_torch(node_model(op, opset, {"x": X}, "x", attributes=attributes))
    expected, found = twin(SMOOTH.float()), twin.half()(SMOOTH.half())
    assert torch.float16 == found.dtype
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("op", "opset", "attributes"), CASES)
def test_an_activation_has_all_kinds_of_derivatives(op: str, opset: int, attributes: str) -> None:
    """Forward mode, backward mode and both under vmap agree."""
    twin = to_torch(node_model(op, opset, {"x": X}, "x", attributes=attributes)).double()
    backward = torch.func.vmap(torch.func.jacrev(twin))(SMOOTH)
    forward = torch.func.vmap(torch.func.jacfwd(twin))(SMOOTH)
    torch.testing.assert_close(forward, backward)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_relu_of_integers(dtype: str) -> None:
    """Version 14 clips integers."""
    x = np.array([[-100, 0, 100]]).astype(dtype)
    model = node_model("Relu", 14, {"x": x}, "x", output_type=dtype)
    y = to_torch(model)(torch.from_numpy(x))
    assert torch.equal(torch.tensor([[0, 0, 100]], dtype=getattr(torch, dtype)), y)


@pytest.mark.parametrize("opset", [7, 9, 16])
@pytest.mark.parametrize(
    ("x", "slope"),
    [
        ((2, 3, 4, 4), (3, 1, 1)),
        ((2, 3, 4, 4), (1, 3, 1, 1)),
        ((2, 3, 4, 4), (1,)),
        ((2, 3, 4, 4), (1, 1, 1)),
        ((2, 3, 4, 4), (4,)),
        ((2, 3, 3, 3), (3,)),
        ((2, 3, 4, 4), (3, 4, 4)),
        ((2, 3, 4, 4), (2, 1, 1, 1)),
        ((2, 3), (3,)),
        ((3, 3), (3, 1)),
        ((5,), (5,)),
        ((5,), (1,)),
    ],
)
def test_prelu_broadcasts_its_slope(opset: int, x: tuple[int, ...], slope: tuple[int, ...]) -> None:
    """A slope of any shape that broadcasts to the input, and its gradient."""
    random = np.random.default_rng(0)
    given = {
        "x": random.normal(size=x).astype(np.float32),
        "slope": random.normal(size=slope).astype(np.float32),
    }
    twin = agrees(node_model("PRelu", opset, given, "x slope"), *given.values())
    inputs = [torch.from_numpy(a).double().requires_grad_() for a in given.values()]
    assert torch.autograd.gradcheck(twin.double(), inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_prelu_of_integers(dtype: str) -> None:
    """Integers are multiplied too, and unsigned ones never."""
    given = {"x": np.array([[3, -2]]).astype(dtype), "slope": np.array([5]).astype(dtype)}
    agrees(node_model("PRelu", 16, given, "x slope", output_type=dtype), *given.values())


def test_the_slope_of_prelu_is_trained() -> None:
    """A slope that the file holds is a parameter."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 16]> g (float[2,3,4,4] x) => (float y)'
        "<float[3,1,1] slope = {0.1, 0.2, 0.3}> { y = PRelu (x, slope) }"
    )
    assert ["slope"] == [name for name, _ in to_torch(model).named_parameters()]


@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu"])
def test_a_bias_is_added_before_gelu(op: str) -> None:
    """What ONNX Runtime's optimiser makes of Add and Gelu."""
    given = {"x": X, "bias": np.linspace(-1, 1, 5).astype(np.float32)}
    agrees(node_model(f"com.microsoft.{op}", 17, given, "x bias"), *given.values())


@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_swiglu_is_swish_times_a_value(alpha: float) -> None:
    """``a·σ(alpha·a)·b``."""
    given = {"a": X, "b": X + 1}
    twin = to_torch(node_model("SwiGLU", 28, given, "a b", attributes=f"alpha = {alpha}"))
    a, b = SMOOTH, SMOOTH + 2
    torch.testing.assert_close(twin(a, b), a / (1 + torch.exp(-alpha * a)) * b)


def test_softplus_is_exact_in_double_precision() -> None:
    """Where PyTorch's own is ``x`` already, the logarithm is still added."""
    x = np.array([[19.0, 25.0, 30.0, 45.0, 800.0]])
    model = node_model("Softplus", 7, {"x": x}, "x", output_type="double")
    expected = [[v + math.log1p(math.exp(-v)) for v in x[0]]]
    assert pytest.approx(expected[0], rel=1e-15) == to_torch(model)(torch.from_numpy(x))[0].tolist()


def test_the_hard_sigmoid_of_pytorch_is_recognised() -> None:
    """A line of slope 1/6 is computed in one pass, but not in double precision."""
    line = "alpha = 0.1666666716337204, beta = 0.5"
    single = node_model("HardSigmoid", 22, {"x": X}, "x", "y", line)
    double = node_model("HardSigmoid", 22, {"x": X.astype(float)}, "x", "y", line, "double")
    assert [True, False] == ["hardsigmoid(" in to_torch(m).source for m in (single, double)]
    y = to_torch(double)(torch.ones(1, 1, dtype=torch.float64))
    assert y.item() == pytest.approx(0.1666666716337204 + 0.5, rel=1e-15)


def test_shrink_of_integers_is_refused() -> None:
    """Its attributes are no integers."""
    x = np.array([[1, 2]], np.int32)
    model = node_model("Shrink", 9, {"x": x}, "x", output_type="int32")
    with pytest.raises(UnsupportedOperator) as caught:
        to_torch(model)
    assert "its input is of integers, for which its attributes are not specified" == (
        caught.value.reason
    )


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -1, -2, -4])
def test_softmax_of_rows_and_of_an_axis(op: str, opset: int, axis: int | None) -> None:
    """Before version 13 all axes from one on are one row."""
    if opset == 7 and axis is not None and axis < 0:
        pytest.skip("negative axes came with version 11")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    x[0, 1] = x[0, 0]
    attributes = "" if axis is None else f"axis = {axis}"
    twin = agrees(node_model(op, opset, {"x": x}, "x", attributes=attributes), x)
    if op != "Hardmax":
        inputs = torch.from_numpy(x).double().requires_grad_()
        assert torch.autograd.gradcheck(twin.double(), (inputs,), fast_mode=True)


def test_hardmax_takes_the_first_of_equals() -> None:
    """Along the middle axis."""
    x = np.array([[[1, 5], [3, 5], [3, 5]]], np.float32)
    y = agrees(node_model("Hardmax", 13, {"x": x}, "x", attributes="axis = 1"), x)(
        torch.from_numpy(x)
    )
    assert [[[0, 1], [1, 0], [0, 0]]] == y.tolist()
