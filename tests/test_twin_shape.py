"""Operators that give the same elements another shape, beside ONNX Runtime."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, agrees_both_ways, node_model, parse  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

RNG = np.random.default_rng(0)
DTYPES = ["float32", "float16", "int8", "uint16", "int64", "bool", "object"]


def numbers(*shape: int, dtype: str = "float32") -> Any:
    """Draw numbers of a type, strings too."""
    drawn = RNG.integers(0, 100, shape)
    return drawn.astype(str).astype(object) if dtype == "object" else drawn.astype(dtype)


def row(*integers: int) -> Any:
    """Return a tensor of integers."""
    return np.array(integers, np.int64)


@pytest.mark.parametrize("opset", [7, 13, 14, 21])
@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((2, 3, 4), (4, 6)),
        ((2, 3, 4), (4, -1)),
        ((2, 3, 4), (0, -1, 2)),
        ((2, 3, 4), (0, 0, 2, 2)),
        ((1, 1), ()),
        ((), (1, 1)),
    ],
)
def test_reshape_agrees(opset: int, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Targets with 0 and -1, constant and given, in every version."""
    agrees_both_ways("Reshape", opset, [numbers(*shape), row(*target)])


@pytest.mark.parametrize("target", [(3, 0), (0, 3, 1)])
def test_reshape_with_allowzero_agrees(target: tuple[int, ...]) -> None:
    """With the attribute a 0 is a size."""
    agrees_both_ways("Reshape", 14, [numbers(0, 3), row(*target)], "allowzero = 1")


@pytest.mark.parametrize("axis", [-4, -1, 0, 1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 0, 3, 2)])
def test_flatten_agrees(axis: int, shape: tuple[int, ...]) -> None:
    """Every axis, also of tensors without elements."""
    agrees_both_ways("Flatten", 13, [numbers(*shape)], f"axis = {axis}")


@pytest.mark.parametrize(("shape", "axis"), [((3,), 0), ((3,), 1), ((), 0)])
def test_flatten_of_few_dimensions_agrees(shape: tuple[int, ...], axis: int) -> None:
    """A row and a number become matrices too."""
    agrees_both_ways("Flatten", 9, [numbers(*shape)], f"axis = {axis}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_moves(dtype: str) -> None:
    """Types without arithmetic in PyTorch keep their elements, strings too."""
    x = numbers(1, 3, 1, 2, dtype=dtype)
    agrees_both_ways("Reshape", 13, [x, row(2, -1)])
    agrees_both_ways("Transpose", 13, [x], "perm = [3, 0, 1, 2]")
    agrees_both_ways("Transpose", 13, [x])
    agrees_both_ways("Squeeze", 13, [x, row(0, -2)])
    agrees_both_ways("Unsqueeze", 13, [x, row(0, -1)])
    agrees_both_ways("Expand", 13, [x, row(2, 1, 4, 1)])
    agrees_both_ways("Flatten", 13, [x], "axis = 2")


@pytest.mark.parametrize("opset", [7, 11])
def test_squeeze_and_unsqueeze_with_attributes_agree(opset: int) -> None:
    """Before version 13 the axes are attributes."""
    x = numbers(1, 3, 1, 2)
    for attributes in ("", "axes = [0]", "axes = [0, 2]"):
        agrees_both_ways("Squeeze", opset, [x], attributes)
    for attributes in ("axes = [0]", "axes = [1, 5]", "axes = [4, 0]"):
        agrees_both_ways("Unsqueeze", opset, [x], attributes)


@pytest.mark.parametrize("axes", [(1,), (3, 0, 1), (-1, 0)])
def test_unsqueeze_agrees(axes: tuple[int, ...]) -> None:
    """Axes are places in the result, in any order."""
    agrees_both_ways("Unsqueeze", 13, [numbers(3, 2), row(*axes)])


def test_squeeze_refuses_what_is_not_1() -> None:
    """A larger dimension is an error, as it is in ONNX Runtime; without axes it stays."""
    given = {"x": numbers(2, 3), "axes": row(0)}
    twin = to_torch(node_model("Squeeze", 13, given, "x axes"))
    with pytest.raises(ModelError, match=r"dimension 0 to take out is 2, not 1$"):
        twin(torch.zeros(2, 3), torch.tensor([0]))
    agrees_both_ways("Squeeze", 13, [numbers(2, 1, 3)])


def test_squeeze_without_any_axis_is_refused() -> None:
    """The specification and ONNX Runtime differ about axes that are given and empty."""
    text = """<ir_version: 8, opset_import: ["": 13]> g (float[1, 2] x) => (float y) {
        axes = Constant <value_ints: ints = []> ()
        y = Squeeze (x, axes)
    }"""
    with pytest.raises(UnsupportedOperator, match="its axes are given and empty"):
        to_torch(parse(text))


@pytest.mark.parametrize(
    ("shape", "target"),
    [((3, 1), (2, 1, 6)), ((3, 1), (1,)), ((3, 1), (3, 4)), ((), (3, 4)), ((3, 1), (3, 0))],
)
@pytest.mark.parametrize("opset", [8, 13])
def test_expand_agrees(shape: tuple[int, ...], target: tuple[int, ...], opset: int) -> None:
    """The shapes broadcast with each other."""
    agrees_both_ways("Expand", opset, [numbers(*shape), row(*target)])


def test_shapes_of_shapes_agree() -> None:
    """A Reshape to what other nodes compute out of the input's shape."""
    agrees(
        """<ir_version: 8, opset_import: ["": 13]> g (float[N, C, H, W] x) => (float[N, M] y) {
            s = Shape (x)
            i = Constant <value_int = 0> ()
            n = Gather (s, i)
            axes = Constant <value_ints = [0]> ()
            first = Unsqueeze (n, axes)
            rest = Constant <value_ints = [-1]> ()
            target = Concat <axis = 0> (first, rest)
            y = Reshape (x, target)
        }""",
        numbers(2, 3, 4, 5),
    )


def test_gradients_flow_through_shapes() -> None:
    """Each operator is linear: its gradient is that of PyTorch's function."""
    model = """<ir_version: 8, opset_import: ["": 13]> g (double[2, 3] x) => (double y) {
        a = Constant <value_ints = [0]> () s = Constant <value_ints = [4, 1, 1]> ()
        t = Transpose (x) u = Unsqueeze (t, a) e = Expand (u, s)
        r = Constant <value_ints = [2, -1]> () y = Reshape (e, r)
    }"""
    x = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(to_torch(parse(model)), x)


@pytest.mark.parametrize("opset", [11, 13])
def test_shapes_in_the_file_that_have_no_1_or_a_0(opset: int) -> None:
    """Squeeze without axes changes nothing then, and Flatten copes with no elements."""
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g '
    agrees(text + "(float[2, 3] x) => (float[2, 3] y) { y = Squeeze (x) }", numbers(2, 3))
    for axis, size in ((1, "3, 0"), (2, "0, 2"), (3, "0, 1")):
        node = f"y = Flatten <axis = {axis}> (x)"
        agrees(f"{text} (float[3, 0, 2] x) => (float[{size}] y) {{ {node} }}", numbers(3, 0, 2))
