"""Tensors made out of shapes and numbers, beside ONNX Runtime."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees_both_ways, parse  # noqa: E402

from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "start = 1",
        "start = -1",
        "start = 1, end = -1",
        "start = -9, end = 9",
        "start = 2, end = 1",
    ],
)
def test_shape_agrees(attributes: str) -> None:
    """Any part of the shape, also one without dimensions."""
    agrees_both_ways("Shape", 15, [np.zeros((2, 3, 4), np.float32)], attributes)


@pytest.mark.parametrize("op", ["Shape", "Size"])
@pytest.mark.parametrize("shape", [(), (0, 4), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "object"])
def test_shape_and_size_agree(op: str, shape: tuple[int, ...], dtype: str) -> None:
    """Numbers, empty tensors and strings have a shape too."""
    x = np.full(shape, "a", object) if dtype == "object" else np.zeros(shape, dtype)
    agrees_both_ways(op, 13, [x])


@pytest.mark.parametrize(
    "value",
    [
        "float {2.5}",
        "int64 {1152921504606846977}",
        "uint8 {7}",
        "bool {1}",
        "double {0.1}",
        "int32 {-3}",
    ],
)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2)])
def test_constant_of_shape_agrees(value: str, shape: tuple[int, ...]) -> None:
    """The value's type is the result's, and the value exact."""
    kind, number = value.split()
    attributes = f"value = {kind}[1] {number}"
    agrees_both_ways("ConstantOfShape", 9, [np.array(shape, np.int64)], attributes)


def test_constant_of_shape_is_0_by_default() -> None:
    """It is a float then."""
    agrees_both_ways("ConstantOfShape", 9, [np.array([2, 3])])


@pytest.mark.parametrize("k", [-2, 0, 1, 9])
@pytest.mark.parametrize("dtype", ["", ", dtype = 6", ", dtype = 7", ", dtype = 11"])
def test_eye_like_agrees(k: int, dtype: str) -> None:
    """A diagonal of the input's type or of a given one."""
    agrees_both_ways("EyeLike", 9, [np.zeros((3, 4), np.float32)], f"k = {k}{dtype}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32", "int64"])
@pytest.mark.parametrize(
    "bounds", [(0, 10, 3), (10, 0, -3), (3, 3, 1), (5, 0, 1), (0, 5, -1), (-2, 7, 2)]
)
def test_range_agrees(bounds: tuple[int, ...], dtype: str) -> None:
    """Upwards, downwards and empty, constant and given."""
    agrees_both_ways("Range", 11, [np.array(bound, dtype) for bound in bounds])


def test_range_refuses_steps_of_0() -> None:
    """The error names the node."""
    model = """<ir_version: 8, opset_import: ["": 13]>
        g (int64 a, int64 b, int64 c) => (int64[N] y) { y = Range (a, b, c) }"""
    with pytest.raises(ModelError, match=r"^Range 'y' cannot be computed: its steps are 0$"):
        to_torch(parse(model))(torch.tensor(0), torch.tensor(3), torch.tensor(0))


@pytest.mark.parametrize("op", ["ConstantOfShape", "Range", "EyeLike"])
def test_fillings_follow_the_type_of_the_twin(op: str) -> None:
    """A type that the file names becomes another one when the twin does."""
    bodies = {
        "ConstantOfShape": "s = Shape (x) y = ConstantOfShape (s)",
        "EyeLike": "y = EyeLike <dtype = 1> (x)",
        "Range": """a = Constant <value = float {0.0}> () b = Constant <value = float {1.0}> ()
            r = Range (a, b, b) y = Add (x, r)""",
    }
    header = '<ir_version: 8, opset_import: ["": 13]> g (float[M, N] x) => (float[M, N] y)'
    twin = to_torch(parse(f"{header} {{ {bodies[op]} }}"))
    x: Any = torch.ones(2, 2)
    assert torch.float32 == twin(x).dtype
    assert torch.float64 == twin.double()(x.double()).dtype
