"""Operators that take elements, beside ONNX Runtime."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, agrees_both_ways, constants_in, node_model  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

RNG = np.random.default_rng(0)
DTYPES = ["float32", "float16", "int8", "uint16", "uint32", "int64", "bool", "object"]


def numbers(*shape: int, dtype: str = "float32") -> Any:
    """Draw numbers of a type, strings too."""
    drawn = RNG.integers(0, 100, shape)
    return drawn.astype(str).astype(object) if dtype == "object" else drawn.astype(dtype)


def row(*integers: int) -> Any:
    """Return a tensor of integers."""
    return np.array(integers, np.int64)


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "indices", [np.array(1), row(0, 1, 0), np.array([[0, 1], [1, 1]], np.int32)]
)
def test_gather_agrees(indices: Any, axis: int, opset: int) -> None:
    """Numbers, rows and matrices of indices along every axis."""
    agrees_both_ways("Gather", opset, [numbers(2, 3, 4), indices], f"axis = {axis}")


@pytest.mark.parametrize("indices", [np.array(-1), row(0, -2, 1), np.array([[-1, 0]]), row()])
def test_gather_from_the_end_agrees(indices: Any) -> None:
    """Negative indices count from the end, in constants, weights and what a call gives."""
    x = numbers(4, 3)
    agrees_both_ways("Gather", 11, [x, indices])
    model = node_model("Gather", 11, {"x": x, "i": indices}, "x i")
    agrees(constants_in(model, {"x": x}), indices)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_taken(dtype: str) -> None:
    """Types without arithmetic in PyTorch keep their elements, strings too."""
    x = numbers(4, 3, 2, dtype=dtype)
    agrees_both_ways("Gather", 13, [x, row(1, 0)], "axis = 2")
    agrees_both_ways("GatherElements", 13, [x, np.array([[[0, 1]], [[-1, 2]]])], "axis = 1")
    agrees_both_ways("GatherND", 13, [x, np.array([[0, 2], [-1, 1]])])
    agrees_both_ways("Slice", 13, [x, row(3, 1), row(-9, 2), row(0, 1), row(-2, 1)])
    agrees_both_ways("Compress", 11, [x, np.array([True, False, True])], "axis = 1")
    agrees_both_ways("Compress", 9, [x, np.array([False, True, True, False, True])])


@pytest.mark.parametrize(
    ("shape", "indices", "batch_dims"),
    [
        ((4, 3, 2), [[0, 2], [-1, 1]], 0),
        ((4, 3, 2), [[[0]], [[-3]], [[1]], [[2]]], 1),
        ((2, 3, 2), [[[0], [1], [0]], [[1], [1], [0]]], 2),
        ((2, 3, 2), [[1, 1, 1], [0, -1, -2]], 0),
        ((2, 3, 2), [1], 0),
    ],
)
def test_gather_nd_agrees(shape: tuple[int, ...], indices: Any, batch_dims: int) -> None:
    """Indices of elements and of parts, for all samples or for each."""
    attributes = f"batch_dims = {batch_dims}"
    agrees_both_ways("GatherND", 12, [numbers(*shape), np.array(indices)], attributes)


BIG = 2**63 - 1


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("start", [-BIG, -6, -2, 0, 1, 4, 9, BIG])
@pytest.mark.parametrize("end", [-BIG, -4, -1, 0, 2, 5, 9])
@pytest.mark.parametrize("step", [-3, -1, 1, 2])
def test_slice_agrees(size: int, start: int, end: int, step: int) -> None:
    """Bounds inside and outside, forwards and backwards."""
    given = [numbers(2, size), row(start), row(end), row(1), row(step)]
    agrees_both_ways("Slice", 13, given)


@pytest.mark.parametrize("axes", ["", ", axes = [1]"])
def test_slice_with_attributes_agrees(axes: str) -> None:
    """Before version 10 the bounds are attributes."""
    agrees_both_ways("Slice", 9, [numbers(4, 5)], f"starts = [1], ends = [{2**31 - 1}]{axes}")


def test_slice_without_axes_agrees() -> None:
    """The first dimensions are meant."""
    agrees_both_ways("Slice", 10, [numbers(4, 5), row(1, -3), row(3, 9)])


def test_slice_backwards_to_the_forward_end_is_refused() -> None:
    """The specification and ONNX Runtime differ about it."""
    given = {"i1": row(3), "i2": row(BIG), "i3": row(0), "i4": row(-1)}
    model = node_model("Slice", 13, {"x": numbers(4), **given}, "x i1 i2 i3 i4")
    with pytest.raises(UnsupportedOperator, match="it goes backwards to an end of INT_MAX"):
        to_torch(constants_in(model, given))


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize(
    ("indices", "depth", "values"),
    [
        (np.array([[0, 2, 7], [-1, -4, -5]]), np.array([4]), np.array([2, 5], np.float32)),
        (np.array([[0, 2, 7], [-1, -4, -5]]), np.array(4), np.array([0, 1])),
        (
            np.array([[0, 1, 1.7], [-1, -0.5, 3]], np.float32),
            np.array(4, np.float32),
            np.array([0, 1], np.float32),
        ),
    ],
)
def test_one_hot_agrees(indices: Any, depth: Any, values: Any, axis: int) -> None:
    """Indices outside, and those between integers, point nowhere."""
    agrees_both_ways("OneHot", 11, [indices, depth, values], f"axis = {axis}")


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_non_zero_agrees(dtype: str) -> None:
    """A column of indices for each element."""
    agrees_both_ways("NonZero", 13, [numbers(3, 4).astype(dtype) * (np.eye(3, 4) > 0)])


@pytest.mark.parametrize("dtype", ["float32", "int64", "object"])
@pytest.mark.parametrize("attributes", ["sorted = 0", "sorted = 1"])
def test_unique_agrees(attributes: str, dtype: str) -> None:
    """All four outputs, in order of value or of first place."""
    x = RNG.integers(0, 3, (4, 3))
    x = x.astype(str).astype(object) if dtype == "object" else x.astype(dtype)
    for axis in ("", ", axis = 0", ", axis = -1"):
        agrees_both_ways("Unique", 11, [x], attributes + axis, "y i j c")


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_array_feature_extractor_agrees(shape: tuple[int, ...]) -> None:
    """Columns are taken; a row counts as a matrix."""
    agrees_both_ways("ai.onnx.ml.ArrayFeatureExtractor", 13, [numbers(*shape), row(0, 3, 1)])


def test_an_index_outside_is_an_error_of_the_node() -> None:
    """The message names it."""
    given = {"x": numbers(2, 3), "i": np.array(5)}
    twin = to_torch(constants_in(node_model("Gather", 13, given, "x i"), {"i": given["i"]}))
    with pytest.raises(ModelError, match=r"^Gather 'y' cannot be computed: "):
        twin(torch.zeros(2, 3))
