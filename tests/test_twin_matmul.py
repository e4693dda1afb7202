"""Products of matrices beside ONNX Runtime."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, agrees_both_ways, constants_in, node_model, twin_outputs  # noqa: E402

from onnxfit.errors import UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402
from onnxfit.twin.ops.matmul import explicit  # noqa: E402

RNG = np.random.default_rng(0)
DTYPES = ["float32", "float64", "int32", "int64", "uint32", "uint64"]


def numbers(*shape: int, dtype: str = "float32") -> Any:
    """Draw small numbers of a type."""
    return RNG.integers(0, 10, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("opset", [7, 9, 13])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((4, 2, 3), (3, 5)),
        ((2, 3), (4, 3, 5)),
        ((2, 1, 2, 3), (4, 3, 5)),
    ],
)
def test_matmul_agrees(a: tuple[int, ...], b: tuple[int, ...], opset: int, dtype: str) -> None:
    """Rows, matrices and stacks of them, unsigned integers too."""
    if opset == 7 and dtype not in ("float32", "float64"):
        pytest.skip("floats only before version 9")
    agrees_both_ways("MatMul", opset, [numbers(*a, dtype=dtype), numbers(*b, dtype=dtype)])


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
@pytest.mark.parametrize("transposed", ["00", "01", "10", "11"])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
@pytest.mark.parametrize("c", [(4,), (2, 4), (2, 1), (1, 4), (1,), ()])
def test_gemm_agrees(c: Any, factors: tuple[float, float], transposed: str, opset: int) -> None:
    """Both transpositions, both factors, every way to broadcast the third input."""
    a = numbers(*((3, 2) if transposed[0] == "1" else (2, 3)))
    b = numbers(*((4, 3) if transposed[1] == "1" else (3, 4)))
    attributes = f"transA = {transposed[0]}, transB = {transposed[1]}"
    attributes += f", alpha = {factors[0]}, beta = {factors[1]}"
    agrees_both_ways("Gemm", opset, [a, b, numbers(*c)], attributes)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_gemm_without_a_third_input_agrees(alpha: float, transposed: int) -> None:
    """From version 11 on it may be left out."""
    given = [numbers(2, 3), numbers(4, 3) if transposed else numbers(3, 4)]
    agrees_both_ways("Gemm", 11, given, f"transB = {transposed}, alpha = {alpha}")


@pytest.mark.parametrize("dtype", DTYPES[2:])
def test_gemm_of_integers_is_exact(dtype: str) -> None:
    """ONNX Runtime has none; NumPy's integers wrap around in the same way."""
    a, b, c = (numbers(*shape, dtype=dtype) * 10**5 for shape in ((2, 3), (4, 3), (4,)))
    given = {"a": a, "b": b, "c": c}
    attributes = "transB = 1, alpha = 2.0, beta = 3.0"
    model = node_model("Gemm", 13, given, "a b c", "y", attributes, dtype)
    (found,) = twin_outputs(to_torch(model), model, a, b, c)
    assert np.array_equal(2 * (a @ b.T) + 3 * c, found.numpy())


def test_gemm_is_a_linear_layer_where_it_can() -> None:
    """Nothing is transposed and nothing scaled in the usual case."""
    given = {"x": numbers(2, 3), "w": numbers(4, 3), "b": numbers(4)}
    model = node_model("Gemm", 13, given, "x w b", attributes="transB = 1")
    source = to_torch(constants_in(model, {"w": given["w"], "b": given["b"]})).source
    assert "v1 = linear(v0, self.w, self.b)" in source
    assert 3 == len(source.splitlines())


def test_gemm_of_integers_with_a_fraction_is_refused() -> None:
    """The specification does not say how to round."""
    given = {"a": numbers(2, 3, dtype="int32"), "b": numbers(3, 4, dtype="int32")}
    with pytest.raises(UnsupportedOperator, match="integers are multiplied with an alpha or beta"):
        to_torch(node_model("Gemm", 13, given, "a b", attributes="alpha = 0.5"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("ii->i", [(3, 3)]),
        ("ii", [(3, 3)]),
        ("...ij,...jk->...ik", [(5, 2, 3), (5, 3, 4)]),
        ("...ij,jk", [(5, 2, 3), (3, 4)]),
        ("aB,Bc", [(2, 3), (3, 4)]),
        ("ba", [(2, 3)]),
        ("ij->", [(2, 3)]),
        ("i j , j k -> k i", [(2, 3), (3, 4)]),
        ("a,b,c->cba", [(2,), (3,), (4,)]),
        ("i...->...", [(2, 3)]),
    ],
)
def test_einsum_agrees(equation: str, shapes: list[tuple[int, ...]], dtype: str) -> None:
    """Explicit and implicit results, ellipses, diagonals, any number of tensors."""
    given = [numbers(*shape, dtype=dtype) for shape in shapes]
    agrees_both_ways("Einsum", 12, given, f'equation = "{equation}"')


def test_implicit_letters_are_sorted_by_their_code() -> None:
    """Capital letters come first, and an ellipsis before them."""
    assert "bA,bC->AC" == explicit("bA, bC")
    assert "...b,a->...ab" == explicit("...b,a")


@pytest.mark.parametrize("shape", [(3, 3), (2, 5, 3, 3), (0, 3, 3)])
def test_det_agrees(shape: tuple[int, ...]) -> None:
    """Determinants of stacked matrices."""
    agrees_both_ways("Det", 11, [numbers(*shape)])


@pytest.mark.parametrize("batches", ["00", "01", "10", "11"])
@pytest.mark.parametrize("transposed", ["00", "01", "10", "11"])
def test_fused_matmul_agrees(transposed: str, batches: str) -> None:
    """Any of four transpositions, and a factor."""
    a, b = [2, 3, 4], [2, 4, 5]
    a = [a[0], a[2], a[1]] if transposed[0] == "1" else a
    b = [b[0], b[2], b[1]] if transposed[1] == "1" else b
    a = [a[1], a[0], a[2]] if batches[0] == "1" else a
    b = [b[1], b[0], b[2]] if batches[1] == "1" else b
    attributes = f"transA = {transposed[0]}, transB = {transposed[1]}, alpha = 0.5"
    attributes += f", transBatchA = {batches[0]}, transBatchB = {batches[1]}"
    agrees_both_ways("com.microsoft.FusedMatMul", 13, [numbers(*a), numbers(*b)], attributes)


@pytest.mark.parametrize("op", ["FusedMatMul", "TransposeMatMul"])
def test_rows_are_not_transposed(op: str) -> None:
    """There is nothing to swap in one dimension."""
    agrees_both_ways(f"com.microsoft.{op}", 13, [numbers(3), numbers(3, 4)], "transA = 1")


@pytest.mark.parametrize(
    "activation",
    [
        '"Relu"',
        '"Sigmoid"',
        '"Softplus"',
        '"Softsign"',
        '"Tanh"',
        '"LeakyRelu", activation_alpha = 0.3',
        '"Elu", activation_alpha = 0.3',
        '"Celu", activation_alpha = 0.3',
        '"HardSigmoid", activation_alpha = 0.3, activation_beta = 0.4',
    ],
)
def test_fused_gemm_agrees(activation: str) -> None:
    """A Gemm and each activation that ONNX Runtime fuses with it."""
    given = [numbers(2, 3) - 5, numbers(3, 4) / 9, numbers(4)]
    agrees_both_ways("com.microsoft.FusedGemm", 13, given, f"activation = {activation}")


def test_fused_gemm_with_another_activation_is_refused() -> None:
    """Without the attribute that it needs, too."""
    given = {"a": numbers(2, 3), "b": numbers(3, 4)}
    for name in ("Elu", "Unheard"):
        model = node_model(
            "com.microsoft.FusedGemm", 13, given, "a b", "y", f'activation = "{name}"'
        )
        with pytest.raises(UnsupportedOperator, match=f"its activation '{name}' is not supported"):
            to_torch(model)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("rows", "columns", "block"), [(6, 32, 16), (5, 40, 16), (3, 64, 32)])
@pytest.mark.parametrize("zeros", ["none", "packed"])
def test_matmul_nbits_agrees(zeros: str, rows: int, columns: int, block: int, bits: int) -> None:
    """Weights of 2, 4 and 8 bits, with and without zero points and a bias."""
    blocks = -(-columns // block)
    packed = RNG.integers(0, 256, (rows, blocks, block * bits // 8)).astype(np.uint8)
    points = RNG.integers(0, 256, (rows, -(-blocks * bits // 8))).astype(np.uint8)
    given = [
        RNG.random((2, 3, columns), np.float32),
        packed,
        RNG.random(rows * blocks, np.float32),
        points if zeros == "packed" else None,
        None,
        RNG.random(rows, np.float32),
    ]
    attributes = f"N = {rows}, K = {columns}, block_size = {block}, bits = {bits}"
    names = [f"i{index}" for index in range(6)]
    arrays: dict[str, Any] = {n: a for n, a in zip(names, given, strict=True) if a is not None}
    model = node_model("com.microsoft.MatMulNBits", 13, arrays, " ".join(names), "y", attributes)
    x = arrays.pop("i0")
    agrees(constants_in(model, arrays), x, rtol=1e-3)
