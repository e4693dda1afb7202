"""Concat, Split, Tile, Pad and their likes beside ONNX Runtime."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees_both_ways, constants_in, node_model  # noqa: E402

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


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_joined_and_split(dtype: str) -> None:
    """Types without arithmetic in PyTorch keep their elements, strings too."""
    x = numbers(5, 3, dtype=dtype)
    agrees_both_ways("Concat", 13, [x, numbers(5, 1, dtype=dtype)], "axis = -1")
    agrees_both_ways("Concat", 11, [x, x[:0], x[1:2]], "axis = 0")
    agrees_both_ways("Split", 13, [x, row(2, 0, 3)], "axis = -2", "a b c")
    agrees_both_ways("Tile", 13, [x, row(2, 1)])
    agrees_both_ways("ReverseSequence", 10, [x, row(1, 5, 0)])


@pytest.mark.parametrize(
    ("opset", "attributes", "outputs"),
    [
        (7, "axis = 1, split = [1, 5]", "a b"),
        (11, "axis = -1, split = [4, 2]", "a b"),
        (9, "", "a b"),
        (13, "axis = 1", "a b c"),
        (18, "axis = 1, num_outputs = 3", "a b c"),
        (18, "axis = 1, num_outputs = 4", "a b c d"),
    ],
)
def test_split_without_sizes_agrees(opset: int, attributes: str, outputs: str) -> None:
    """Sizes in an attribute, or parts of equal size, the last one smaller from version 18 on."""
    x = numbers(4, 7 if "= 4" in attributes else 6)
    agrees_both_ways("Split", opset, [x], attributes, outputs)


def test_split_refuses_unequal_parts_before_version_18() -> None:
    """They are an error in ONNX Runtime too."""
    twin = to_torch(node_model("Split", 13, {"x": numbers(2, 7)}, "x", "a b", "axis = 1"))
    with pytest.raises(ModelError, match=r"a dimension of 7 cannot be split into 2 equal parts$"):
        twin(torch.zeros(2, 7))


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -3, -1, 0, 2, 9])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_trilu_agrees(dtype: str, k: int | None, upper: int) -> None:
    """Both triangles of stacked matrices, from every diagonal."""
    x = numbers(2, 3, 4, dtype=dtype)
    given = [x] if k is None else [x, np.array(k)]
    agrees_both_ways("Trilu", 14, given, f"upper = {upper}")


@pytest.mark.parametrize(
    "attributes", ["batch_axis = 0, time_axis = 1", "batch_axis = 1, time_axis = 0"]
)
def test_reverse_sequence_agrees(attributes: str) -> None:
    """The first elements of each sequence are reversed, the others stay."""
    x = numbers(3, 3, 2)
    agrees_both_ways("ReverseSequence", 10, [x, row(0, 2, 3)], attributes)


MODES = ["constant", "reflect", "edge", "wrap"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
@pytest.mark.parametrize(
    ("shape", "pads"),
    [
        ((5,), (2, 3)),
        ((3, 4), (1, 0, 2, 3)),
        ((2, 3, 4, 5), (0, 0, 1, 2, 0, 0, 2, 1)),
        ((2, 3, 4, 5), (1, 2, 0, 1, 1, 0, 3, 4)),
        ((3, 4, 5), (0, -1, 2, -1, 1, -2)),
        ((2, 3, 2, 3, 2), (1, 0, 1, 2, 1, 0, 2, 1, 2, 1)),
    ],
)
def test_pad_agrees(shape: tuple[int, ...], pads: tuple[int, ...], dtype: str, mode: str) -> None:
    """Every mode in any number of dimensions; negative pads crop."""
    x = numbers(*shape, dtype=dtype)
    agrees_both_ways("Pad", 19 if mode == "wrap" else 13, [x, row(*pads)], f'mode = "{mode}"')


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axes", [(1, -1), (3, 2)])
def test_pad_of_some_axes_agrees(axes: tuple[int, ...], mode: str) -> None:
    """Version 18 names the padded axes."""
    given = [numbers(2, 3, 4, 5), row(1, 2, 0, 1), None, row(*axes)]
    agrees_both_ways("Pad", 19, given, f'mode = "{mode}"')


@pytest.mark.parametrize("mode", MODES[:3])
@pytest.mark.parametrize("opset", [7, 10])
def test_pad_with_attributes_agrees(opset: int, mode: str) -> None:
    """Before version 11 pads and value are attributes."""
    attributes = f'mode = "{mode}", pads = [0, 0, 1, 2, 0, 0, 2, -1], value = 2.5'
    agrees_both_ways("Pad", opset, [numbers(2, 3, 4, 5)], attributes)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (2.5, "float32"),
        (-np.inf, "float32"),
        (1.5, "float16"),
        (0.1, "float64"),
        (2**60 + 1, "int64"),
        (-7, "int32"),
        (True, "bool"),
    ],
)
def test_pad_with_a_number_agrees(value: float, dtype: str) -> None:
    """The number is exact in every type, constant or given."""
    given = [numbers(2, 3, dtype=dtype), row(1, 0, 0, 2), np.array(value, dtype)]
    agrees_both_ways("Pad", 13, given)


def test_pad_of_strings_with_a_string_is_refused() -> None:
    """The operator and the reason are named."""
    given = {"x": numbers(2, dtype="object"), "pads": row(1, 1)}
    model = node_model("Pad", 19, given, "x pads", output_type="string")
    with pytest.raises(UnsupportedOperator, match=r"Pad of opset 19.*strings of their own alone$"):
        to_torch(model)


@pytest.mark.parametrize("size", [(5, 5), (4, 7), (7, 4)])
@pytest.mark.parametrize("attributes", ["", "axes = [1, 0]"])
def test_center_crop_pad_agrees(size: tuple[int, ...], attributes: str) -> None:
    """Its definition by other operators serves, for odd and even differences."""
    agrees_both_ways("CenterCropPad", 18, [numbers(5, 6), row(*size)], attributes)


@pytest.mark.parametrize("mode", MODES)
def test_pads_have_the_right_gradient(mode: str) -> None:
    """An element that is padded with several times gets the sum."""
    given = {"x": numbers(3, 4, dtype="float64"), "pads": row(1, 2, -1, 3)}
    model = node_model("Pad", 19, given, "x pads", "y", f'mode = "{mode}"', "double")
    twin = to_torch(constants_in(model, {"pads": given["pads"]}))
    x = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(twin, x)
