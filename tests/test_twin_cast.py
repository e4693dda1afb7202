"""Casts between types, against ONNX Runtime and the ``ml_dtypes`` package."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support import parse

torch = pytest.importorskip("torch")

from twin_support import agrees, twin_outputs  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import Twin, to_torch  # noqa: E402

RNG = np.random.default_rng(0)
KINDS: dict[str, tuple[int, Any]] = {
    "float": (1, np.float32),
    "double": (11, np.float64),
    "float16": (10, np.float16),
    "int8": (3, np.int8),
    "int16": (5, np.int16),
    "int32": (6, np.int32),
    "int64": (7, np.int64),
    "uint8": (2, np.uint8),
    "uint16": (4, np.uint16),
    "uint32": (12, np.uint32),
    "uint64": (13, np.uint64),
    "bool": (9, np.bool_),
}
FLOAT8 = {
    "float8e4m3fn": (17, ml_dtypes.float8_e4m3fn),
    "float8e4m3fnuz": (18, ml_dtypes.float8_e4m3fnuz),
    "float8e5m2": (19, ml_dtypes.float8_e5m2),
    "float8e5m2fnuz": (20, ml_dtypes.float8_e5m2fnuz),
}


def model_of(node: str, source: str, target: str, opset: int = 13) -> str:
    """Write a model of one node."""
    return (
        f'<ir_version: 10, opset_import: ["": {opset}]> '
        f"g ({source}[N] x) => ({target}[N] y) {{ y = {node} }}"
    )


def computed(text: str, x: NDArray[Any]) -> tuple[Twin, Any]:
    """Return the twin of a model and what it computes."""
    model = parse(text)
    twin = to_torch(model)
    return twin, twin_outputs(twin, model, x)[0]


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_numbers(source: str, target: str) -> None:
    """Integers lose their upper bits, and floating-point numbers their fraction."""
    floating = "float" in source or source == "double"
    least = 0 if floating and target.startswith("uint") else -100
    x = RNG.uniform(least, 100, 40) if floating else RNG.integers(0, 2**62, 40)
    x = np.append(x, [0, 1])
    agrees(
        model_of(f"Cast<to = {KINDS[target][0]}>(x)", source, target), x.astype(KINDS[source][1])
    )


@pytest.mark.parametrize("opset", [6, 9, 13, 19, 21])
def test_versions(opset: int) -> None:
    """A Cast of numbers means the same in all versions."""
    x = RNG.uniform(-9, 9, 20).astype(np.float32)
    agrees(model_of("Cast<to = 7>(x)", "float", "int64", opset), x)


def test_beyond_the_range_is_infinite() -> None:
    """As infinite as the input and as what does not fit; what is not a number is true."""
    x = np.array([1e300, -1e300, 65519, 65521, np.inf, np.nan])
    agrees(model_of("Cast<to = 1>(x)", "double", "float"), x)
    agrees(model_of("Cast<to = 10>(x)", "double", "float16"), x)
    agrees(model_of("Cast<to = 9>(x)", "double", "bool"), x)


def test_cast_like_takes_the_type_of_its_second_input() -> None:
    """The second input's value does not matter."""
    agrees(
        """<ir_version: 8, opset_import: ["": 15]>
        g (float[N] x, int8[M] t) => (int8[N] y) { y = CastLike(x, t) }""",
        np.array([1.9, -1.9, 100], np.float32),
        np.zeros(2, np.int8),
    )


def test_numbers_as_text() -> None:
    """Eight digits at most, as ONNX Runtime writes them."""
    x = np.array([0, -0.0, 3.14, 1e10, 1e-5, 123456789, 1 / 3, np.inf, -np.inf, np.nan, 2])
    agrees(model_of("Cast<to = 8>(x)", "float", "string"), x.astype(np.float32))
    agrees(model_of("Cast<to = 8>(x)", "double", "string"), x)
    agrees(model_of("Cast<to = 8>(x)", "int64", "string"), np.array([-5, 10**18]))
    agrees(model_of("Cast<to = 8>(x)", "bool", "string"), np.array([True, False]))


def test_text_as_numbers() -> None:
    """Plain and scientific notation, infinities and NaN in any case."""
    texts = np.array(["3.14", "1e-5", "1E8", "INF", "+inf", "-Inf", "nan", "-7"], dtype=object)
    agrees(model_of("Cast<to = 1>(x)", "string", "float"), texts)
    agrees(model_of("Cast<to = 11>(x)", "string", "double"), texts)
    integers = np.array(["12", "-4", "2.718"], dtype=object)
    agrees(model_of("Cast<to = 7>(x)", "string", "int64"), integers)
    with pytest.raises(ModelError, match="could not convert string to float: 'hello'"):
        computed(model_of("Cast<to = 1>(x)", "string", "float"), np.array(["hello"], dtype=object))


def wide_range() -> NDArray[np.float32]:
    """Draw numbers of all sizes, and those around the ends of the small types."""
    scales = np.repeat(10.0 ** np.arange(-9, 9), 200)
    ends = [0, -0.0, 448, 464, 464.5, 463.5, 240, 248, 247.5, 57344, 61440, 61439, np.inf, np.nan]
    numbers = np.concatenate([RNG.normal(size=scales.size) * scales, ends, np.negative(ends)])
    return numbers.astype(np.float32)


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("kind", FLOAT8)
@pytest.mark.parametrize("source", ["float", "float16"])
def test_float8(kind: str, saturate: int, source: str) -> None:
    """Round to the nearest, halves to even, and saturate or not."""
    element_type, dtype = FLOAT8[kind]
    with np.errstate(over="ignore"):
        x = wide_range().astype(KINDS[source][1])
    text = model_of(f"Cast<to = {element_type}, saturate = {saturate}>(x)", source, kind, 19)
    expected = onnx.numpy_helper.saturate_cast(x, dtype) if saturate else x.astype(dtype)
    found = computed(text, x)[1].float().numpy()
    np.testing.assert_array_equal(expected.astype(np.float32), found)


def test_float4() -> None:
    """Round to the nearest, halves to even; what is too large becomes 6."""
    x = np.arange(-8, 8, 1 / 64, dtype=np.float32)
    _, found = computed(model_of("Cast<to = 23>(x)", "float", "float4e2m1", 23), x)
    expected = x.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(expected, found.numpy())


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_float8e8m0(mode: str) -> None:
    """Round to a power of 2; NaN stays, and what is too large becomes the largest."""
    x = np.abs(wide_range()[:-28])
    text = model_of(f'Cast<to = 24, round_mode = "{mode}">(x)', "float", "float8e8m0", 24)
    expected = onnx.numpy_helper.to_float8e8m0(x, True, mode).view(np.uint8)
    found = computed(text, x)[1].view(torch.uint8).numpy()
    np.testing.assert_array_equal(expected, found)
    ends = np.array([np.inf, np.nan, 3.4e38], np.float32)
    assert [254, 255, 254] == computed(text, ends)[1].view(torch.uint8).tolist()


def test_four_bits_wrap() -> None:
    """The upper bits are lost, and the highest of what is left is the sign."""
    x = np.array([7, 8, 15, 16, -1, -9], np.int32)
    _, signed = computed(model_of("Cast<to = 22>(x)", "int32", "int4", 21), x)
    _, unsigned = computed(model_of("Cast<to = 21>(x)", "int32", "uint4", 21), x)
    assert [7, -8, -1, 0, -1, 7] == signed.tolist()
    assert [7, 8, 15, 0, 15, 7] == unsigned.tolist()


@pytest.mark.parametrize("target", [10, 16, 11, 17, 19, 23])
def test_gradients_pass_through_casts_of_floats(target: int) -> None:
    """There and back the gradient is 1, and 0 where a small type cuts."""
    twin = to_torch(
        parse(
            f"""<ir_version: 11, opset_import: ["": 23]>
            g (float[N] x) => (float[N] y) {{ c = Cast<to = {target}>(x) y = Cast<to = 1>(c) }}"""
        )
    )
    x = torch.tensor([0.3, -1.7, 1e6], requires_grad=True)
    twin(x).sum().backward()
    assert [1.0, 1.0, float(target in (10, 11, 16))] == x.grad.tolist()


def test_casts_follow_the_twin() -> None:
    """The twin in half precision casts to half precision where the file says float."""
    twin, _ = computed(model_of("Cast<to = 1>(x)", "int64", "float"), np.array([1]))
    assert torch.float16 == twin.half()(torch.tensor([3])).dtype


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("int8", "uint4", "INT8 into UINT4"),
        ("float", "int64", "FLOAT into INT64"),
    ],
)
def test_bits_of_another_size_are_refused(source: str, target: str, expected: str) -> None:
    """The specification allows types of one size alone."""
    to = {"uint4": 21, "int64": 7}[target]
    with pytest.raises(UnsupportedOperator, match=f"it turns {expected}"):
        to_torch(parse(model_of(f"BitCast<to = {to}>(x)", source, target, 26)))


def test_bits_of_the_same_size() -> None:
    """Bits are what they were in the file's types, whatever the twin's have become."""
    twin, found = computed(
        model_of("BitCast<to = 6>(x)", "float", "int32", 26), np.array([1.0, -0.0], np.float32)
    )
    assert [0x3F800000, -(2**31)] == found.tolist()
    assert [0x3F800000] == twin.half()(torch.tensor([1.0]).half()).tolist()
    _, found = computed(model_of("BitCast<to = 22>(x)", "uint4", "int4", 26), np.array([7, 8, 15]))
    assert [7, -8, -1] == found.tolist()


def test_the_least_known_type_is_refused_without_saturation() -> None:
    """Specification and reference disagree about what is too large or too small."""
    text = model_of("Cast<to = 24, saturate = 0>(x)", "float", "float8e8m0", 24)
    with pytest.raises(UnsupportedOperator, match="casts to FLOAT8E8M0 without saturation"):
        to_torch(parse(text))
