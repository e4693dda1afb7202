"""Operators that write elements, beside ONNX Runtime."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees_both_ways, constants_in, node_model  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

RNG = np.random.default_rng(0)
DTYPES = ["float32", "float16", "int8", "uint16", "uint32", "int64", "bool", "object"]
REDUCTIONS = ["add", "mul", "max", "min"]
# For a tensor of 3 rows and 4 columns: the indices of rows, and of columns from the end too.
ROWS = np.array([[1, 0, 2, 0], [0, 2, 1, 2]])
COLUMNS = np.array([[1, -1], [0, 2], [-4, 1]], np.int32)


def numbers(*shape: int, dtype: str = "float32") -> Any:
    """Draw numbers of a type, strings too."""
    drawn = RNG.integers(0, 100, shape)
    return drawn.astype(str).astype(object) if dtype == "object" else drawn.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("op", "opset"), [("Scatter", 9), ("ScatterElements", 11), ("ScatterElements", 18)]
)
def test_elements_are_replaced(op: str, opset: int, dtype: str) -> None:
    """Along every axis, in every type."""
    x = numbers(3, 4, dtype=dtype)
    agrees_both_ways(op, opset, [x, ROWS, numbers(2, 4, dtype=dtype)])
    columns = abs(COLUMNS) % 4 if op == "Scatter" else COLUMNS
    agrees_both_ways(op, opset, [x, columns, numbers(3, 2, dtype=dtype)], "axis = 1")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_parts_are_replaced(opset: int, dtype: str) -> None:
    """Elements and whole parts that rows of indices point at, in every type."""
    x = numbers(4, 3, 2, dtype=dtype)
    for indices, shape in (([[0, 2], [-1, 1]], (2, 2)), ([[3], [1]], (2, 3, 2))):
        agrees_both_ways("ScatterND", opset, [x, np.array(indices), numbers(*shape, dtype=dtype)])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_combined_elements_agree(reduction: str, dtype: str) -> None:
    """An element that several updates meet is combined with all of them."""
    x, attributes = numbers(3, 4, dtype=dtype) % 5, f'reduction = "{reduction}"'
    updates = numbers(2, 4, dtype=dtype) % 5
    agrees_both_ways("ScatterElements", 18, [x, ROWS, updates], attributes)
    given = [x, np.array([[0], [-1], [0]]), numbers(3, 4, dtype=dtype) % 5]
    agrees_both_ways("ScatterND", 18, given, attributes)
    given = [x, np.array([[0, 1], [-1, 0], [0, 1]]), numbers(3, dtype=dtype) % 5]
    agrees_both_ways("ScatterND", 18, given, attributes)


def test_combined_unsigned_integers_are_refused() -> None:
    """PyTorch has no kernels for them; the message says so."""
    given = {"x": numbers(3, 4, dtype="uint32"), "i": ROWS, "u": numbers(2, 4, dtype="uint32")}
    with pytest.raises(UnsupportedOperator, match="elements of this type can be replaced, not"):
        to_torch(node_model("ScatterElements", 18, given, "x i u", "y", 'reduction = "max"'))


@pytest.mark.parametrize("reduction", ["none", *REDUCTIONS])
@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_gradients_reach_both_tensors(op: str, reduction: str) -> None:
    """What is replaced has none, and what is written all."""
    indices = np.array([[2, 0, 1, 2]]) if op == "ScatterElements" else np.array([[2]])
    given = {"x": RNG.random((3, 4)), "i": indices, "u": RNG.random((1, 4))}
    model = node_model(op, 18, given, "x i u", "y", f'reduction = "{reduction}"', "double")
    twin = to_torch(constants_in(model, {"i": indices}))
    inputs = [torch.from_numpy(given[name]).requires_grad_() for name in "xu"]
    assert torch.autograd.gradcheck(twin, inputs)


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_writing_works_under_vmap(op: str) -> None:
    """Many updates of one tensor at a time."""
    indices = np.array([[2, 0, 1, 2]]) if op == "ScatterElements" else np.array([[2]])
    given = {"x": numbers(3, 4), "i": indices, "u": numbers(1, 4)}
    twin = to_torch(constants_in(node_model(op, 18, given, "x i u"), {"i": indices}))
    x, updates = torch.rand(3, 4), torch.rand(5, 1, 4)
    expected = torch.stack([twin(x, update) for update in updates])
    assert torch.equal(expected, torch.func.vmap(twin, in_dims=(None, 0))(x, updates))


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_forward_derivatives_of_products_are_refused(op: str) -> None:
    """PyTorch would take them for 0; those of sums and all backward ones are right."""
    indices = np.array([[2, 0, 1, 2]]) if op == "ScatterElements" else np.array([[2]])
    given = {"x": numbers(3, 4), "i": indices, "u": numbers(1, 4)}
    x, updates = torch.rand(3, 4), torch.rand(1, 4)
    for reduction in ("mul", "add"):
        model = node_model(op, 18, given, "x i u", attributes=f'reduction = "{reduction}"')
        twin = to_torch(constants_in(model, {"i": indices}))
        backward = torch.func.jacrev(twin)(x, updates)
        if reduction == "mul":
            with pytest.raises(ModelError, match="no forward derivative of products"):
                torch.func.jacfwd(twin)(x, updates)
        else:
            torch.testing.assert_close(backward, torch.func.jacfwd(twin)(x, updates))
