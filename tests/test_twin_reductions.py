"""Reductions, positions of extremes and cumulative functions of the twin."""

import math
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from twin_support import (  # noqa: E402
    agrees,
    agrees_both_ways,
    compiled,
    node_model,
    parse,
    twin_outputs,
)

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402
from onnxfit.twin.tensors import from_numpy  # noqa: E402

OPS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
]
REAL = ("ReduceLogSum", "ReduceLogSumExp")
INTEGERS = [op for op in OPS if op not in REAL]
AXES: list[list[int]] = [[], [0], [-1], [1, 2], [2, 0], [0, 1, 2]]


def positive(*shape: int) -> NDArray[Any]:
    """Draw numbers between 0.5 and 2."""
    return np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)


def reduction(
    op: str,
    opset: int,
    x: NDArray[Any],
    axes: list[int],
    attributes: str = "",
    output_type: str = "float",
) -> onnx.ModelProto:
    """Write a reduction whose axes are an attribute or a known input, as its version has them."""
    written = [attributes] if attributes else []
    given = {"x": x}
    slots = "x"
    if opset >= (13 if op == "ReduceSum" else 18):
        given["axes"] = np.array(axes, np.int64)
        slots = "x axes"
    elif axes:
        written.append(f"axes = {axes}")
    model = node_model(op, opset, given, slots, "y", ", ".join(written), output_type)
    if len(given) == 2:
        model.graph.initializer.append(onnx.numpy_helper.from_array(given["axes"], "axes"))
        del model.graph.input[1]
    return model


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("opset", [7, 11, 12, 13, 18, 20])
def test_axes_of_attributes_and_of_inputs(op: str, opset: int) -> None:
    """Some axes, several, all of them; kept and dropped; negative ones since version 11."""
    x = positive(2, 3, 4)
    for axes in AXES:
        if opset < 11 and any(axis < 0 for axis in axes):
            continue
        for keepdims in (0, 1):
            twin = agrees(reduction(op, opset, x, axes, f"keepdims = {keepdims}"), x)
        if opset in (7, 18):
            inputs = torch.from_numpy(x).double().requires_grad_()
            assert torch.autograd.gradcheck(twin.double(), (inputs,), fast_mode=True)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("noop", [0, 1])
def test_no_axes_are_all_of_them_or_none(op: str, noop: int) -> None:
    """What is left of an operator is done even where nothing is reduced."""
    x = positive(2, 3)
    attributes = f"noop_with_empty_axes = {noop}"
    expected = {
        "ReduceL1": np.abs,
        "ReduceL2": np.abs,
        "ReduceSumSquare": np.square,
        "ReduceLogSum": np.log,
    }.get(op, np.array)(x)
    constant = reduction(op, 18, x, [], attributes)
    absent = node_model(op, 18, {"x": x}, "x", attributes=attributes)
    variable = {"x": x, "axes": np.array([], np.int64)}
    given = node_model(op, 18, variable, "x axes", attributes=attributes)
    for model, arrays in ((constant, [x]), (absent, [x]), (given, [x, variable["axes"]])):
        found = twin_outputs(to_torch(model), model, *arrays)[0]
        if noop:
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
        else:
            agrees(model, *arrays)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("noop", [0, 1])
def test_axes_that_only_a_call_knows(op: str, noop: int) -> None:
    """They are an input of the graph."""
    given = {"x": positive(2, 3, 4), "axes": np.array([2, 0])}
    attributes = f"noop_with_empty_axes = {noop}"
    agrees(node_model(op, 18, given, "x axes", attributes=attributes), *given.values())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("opset", [13, 20])
def test_a_tensor_without_axes_is_reduced(op: str, opset: int) -> None:
    """Of rank 0."""
    x = np.array(1.5, np.float32)
    agrees(reduction(op, opset, x, []), x)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("op", INTEGERS)
def test_integers_are_reduced_as_integers(op: str, dtype: str) -> None:
    """Means and roots are truncated, negative means towards 0."""
    x = np.array([[-7, 2, -3], [4, 3, 9]]).astype(dtype)
    for axes in ([0], [-1], []):
        agrees(reduction(op, 13, x, axes, "", dtype), x)


NUMPY: dict[str, Any] = {
    "ReduceSum": lambda x, **a: x.sum(dtype=x.dtype, **a),
    "ReduceMean": lambda x, **a: x.sum(dtype=x.dtype, **a) // (x.size // 2),
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": lambda x, **a: x.prod(dtype=x.dtype, **a),
    "ReduceL1": lambda x, **a: x.sum(dtype=x.dtype, **a),
    "ReduceL2": lambda x, **a: np.sqrt((x * x).sum(dtype=x.dtype, **a).astype(float)),
    "ReduceSumSquare": lambda x, **a: (x * x).sum(dtype=x.dtype, **a),
}


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("op", INTEGERS)
def test_unsigned_integers_are_reduced(op: str, dtype: str) -> None:
    """Those above the range of the signed ones too."""
    x = np.array([[2**31 + 5, 7, 1], [3, 2, 2**31]]).astype(dtype)
    if dtype == "uint64":
        x[0, 0] += 2**63
    model = reduction(op, 18, x, [1], "", dtype)
    found = twin_outputs(to_torch(model), model, x)[0]
    expected = NUMPY[op](x, axis=1, keepdims=True).astype(dtype)
    assert expected.tolist() == found.tolist()
    assert dtype == str(found.dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool"])
@pytest.mark.parametrize(("op", "expected"), [("ReduceMax", 1), ("ReduceMin", 0)])
def test_extremes_of_small_integers(op: str, expected: int, dtype: str) -> None:
    """False is below true."""
    x = np.array([[0, 1]]).astype(dtype)
    model = reduction(op, 20, x, [1], "keepdims = 0", dtype)
    found = to_torch(model)(torch.from_numpy(x))
    assert torch.equal(torch.tensor([expected], dtype=getattr(torch, dtype)), found)


@pytest.mark.parametrize("op", OPS)
def test_reducing_nothing(op: str) -> None:
    """An empty set has the neutral element of the operator."""
    x = np.zeros((2, 0, 3), np.float32)
    if op == "ReduceMean":
        pytest.skip("the mean of nothing is not specified")
    neutral = {"ReduceMax": -math.inf, "ReduceMin": math.inf, "ReduceProd": 1}
    expected = -math.inf if op in REAL else neutral.get(op, 0)
    found = to_torch(reduction(op, 20, x, [1], "keepdims = 0"))(torch.from_numpy(x))
    assert torch.equal(torch.full((2, 3), float(expected)), found)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64"])
def test_the_mean_of_no_integers(dtype: str) -> None:
    """It is 0 as in ONNX Runtime, which has no kernel for the unsigned ones."""
    x = np.zeros((2, 0), dtype)
    model = reduction("ReduceMean", 20, x, [1], "keepdims = 0", dtype)
    assert [0, 0] == twin_outputs(to_torch(model), model, x)[0].tolist()
    if dtype != "uint64":
        agrees(model, x)


def test_the_mean_of_integers_compiles() -> None:
    """As one graph without breaks."""
    x = np.array([[-7, 2, 1], [4, 3, 9]])
    twin = to_torch(reduction("ReduceMean", 20, x, [1], "keepdims = 0", "int64"))
    assert [-1, 5] == compiled(twin)(torch.from_numpy(x)).tolist()


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nothing_along_an_axis(op: str, opset: int, dtype: str) -> None:
    """No elements give no elements."""
    for shape in ((2, 0), (0, 3)):
        agrees_both_ways(op, opset, [np.zeros(shape, dtype)], "axis = 1")


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("dtype", ["int32", "uint64"])
def test_extremes_of_no_integers(op: str, dtype: str) -> None:
    """The end of the type's range."""
    limits = np.iinfo(dtype)
    x = np.zeros((2, 0), dtype)
    model = reduction(op, 20, x, [1], "keepdims = 0", dtype)
    found = twin_outputs(to_torch(model), model, x)[0]
    assert [limits.min if op == "ReduceMax" else limits.max] * 2 == found.tolist()


def test_the_gradient_of_a_maximum_is_split_between_equals() -> None:
    """None of several largest elements is preferred."""
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0]], requires_grad=True)
    y = to_torch(reduction("ReduceMax", 13, x.detach().numpy(), [1]))(x)
    assert [[0, 0.5, 0.5, 0]] == torch.autograd.grad(y, x)[0].tolist()


@pytest.mark.parametrize("op", REAL)
def test_logarithms_of_integers_are_refused(op: str) -> None:
    """Version 28 took them out of the specification."""
    with pytest.raises(UnsupportedOperator) as caught:
        to_torch(reduction(op, 18, np.zeros((2, 3), np.int32), [1], "", "int32"))
    assert "its input is of integers, whose logarithm is none" == caught.value.reason


def test_sizes_are_reduced_without_tensors() -> None:
    """Shape → ReduceProd → Reshape works for any size, under torch.compile too."""
    twin = to_torch(
        parse(
            '<ir_version: 8, opset_import: ["": 13]> g (float[N,A,B] x) => (float[N,M] y)'
            "<int64[1] one = {1}, int64[1] three = {3}> {"
            " s = Shape (x) r = Slice (s, one, three) p = ReduceProd <axes = [0]> (r)"
            " n = ReduceMax <axes = [0], keepdims = 0> (r) k = Concat <axis = 0> (one, p)"
            " z = Reshape (x, k) f = Cast <to = 1> (n) y = Mul (z, f) }"
        )
    )
    x = torch.ones(1, 4, 5)
    assert torch.equal(torch.full((1, 20), 5.0), twin(x))
    assert torch.equal(torch.full((1, 20), 5.0), compiled(twin)(x))
    assert ".tolist" not in twin.source


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("opset", [7, 11, 12, 13])
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
def test_positions_of_extremes(op: str, opset: int, dtype: str) -> None:
    """The first of equals, or the last."""
    x = np.array([[[3, 1], [3, 0], [0, 1]], [[2, 2], [2, 0], [2, 0]]]).astype(dtype)
    for axis in (0, 1, 2, -2):
        for keepdims in (0, 1):
            for last in (0, 1) if opset >= 12 else (0,):
                attributes = f"axis = {axis}, keepdims = {keepdims}"
                attributes += f", select_last_index = {last}" if last else ""
                if opset < 11 and axis < 0:
                    continue
                agrees(node_model(op, opset, {"x": x}, "x", "y", attributes, "int64"), x)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int64", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("last", [0, 1])
def test_positions_of_extremes_among_all_integers(dtype: str, last: int) -> None:
    """ONNX Runtime has kernels for few of them."""
    x = np.array([[2, 5, 5, 1, 1]]).astype(dtype)
    if dtype.startswith("u"):
        x[x == 5] = np.iinfo(dtype).max
    for op, expected in (("ArgMax", (1, 2)), ("ArgMin", (3, 4))):
        attributes = f"axis = 1, select_last_index = {last}"
        model = node_model(op, 13, {"x": x}, "x", "y", attributes, "int64")
        assert [[expected[last]]] == twin_outputs(to_torch(model), model, x)[0].tolist()


def top_k(x: NDArray[Any], k: int, opset: int, attributes: str = "") -> onnx.ModelProto:
    """Write a TopK."""
    element_type = {"float32": "float", "float64": "double"}.get(str(x.dtype), str(x.dtype))
    if opset < 10:
        attributes = f"k = {k}, {attributes}".rstrip(", ")
        return _typed(node_model("TopK", 7, {"x": x}, "x", "v i", attributes, element_type))
    given = {"x": x, "k": np.array([k])}
    model = _typed(node_model("TopK", opset, given, "x k", "v i", attributes, element_type))
    model.graph.initializer.append(onnx.numpy_helper.from_array(given["k"], "k"))
    del model.graph.input[1]
    return model


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[1].type.tensor_type.elem_type = 7
    return model


@pytest.mark.parametrize("opset", [7, 10, 11])
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_of_equals_is_on_top(opset: int, k: int, largest: int, dtype: str) -> None:
    """Values and indices along each axis, where many elements are equal, zeros of either sign."""
    x = np.random.default_rng(0).integers(-2, 3, (5, 300 if k == 2 else 6, 5)).astype(dtype)
    x *= np.where(x == 0, np.sign(np.random.default_rng(1).normal(size=x.shape)), 1).astype(dtype)
    if not largest and opset < 11:
        pytest.skip("version 11 has the smallest")
    for axis in (0, 1, -1):
        if axis < 0 and opset < 10:
            continue
        attributes = f"axis = {axis}" + (f", largest = {largest}" if opset >= 11 else "")
        agrees(top_k(x, k, opset, attributes), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("largest", "expected"), [(1, [3, 1, 6, 4, 0, 5, 2]), (0, [2, 0, 5, 4, 6, 1, 3])]
)
@pytest.mark.parametrize("count", [0, 300])
def test_the_order_of_infinities_and_nan(
    dtype: Any, largest: int, expected: list[int], count: int
) -> None:
    """NaN of either sign is the largest, as in NumPy, among few elements and among many."""
    row = [-2.0, math.inf, -math.inf, math.nan, 1.0, -2.0, 3.0]
    row += [0.0] * count
    x = torch.tensor([row], dtype=dtype)
    twin = to_torch(top_k(np.array([row], np.float32), len(row), 11, f"largest = {largest}"))
    for nan in (x, torch.copysign(x, torch.where(x.isnan(), -x.abs(), x))):
        found = [index for index in twin(nan)[1][0].tolist() if index < 7]
        assert expected == found


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("largest", [0, 1])
def test_the_top_of_integers(dtype: str, largest: int) -> None:
    """Those above the range of the signed ones too."""
    for count in (0, 300):
        x = np.array([[5, 9, 1, 9, 0, *[5] * count]]).astype(dtype)
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        x[x == 9], x[x == 0] = high, low
        model = top_k(x, 2, 24, f"largest = {largest}")
        values, indices = twin_outputs(to_torch(model), model, x)
        assert [[high, high] if largest else [low, 1]] == values.tolist()
        assert [[1, 3] if largest else [4, 2]] == indices.tolist()
    assert dtype == str(values.dtype).removeprefix("torch.")


def test_the_gradient_of_the_top_reaches_its_elements() -> None:
    """And no others."""
    x = torch.tensor([[1.0, 5.0, 4.0]], requires_grad=True)
    values, _ = to_torch(top_k(x.detach().numpy(), 2, 11))(x)
    assert [[0, 1, 1]] == torch.autograd.grad(values.sum(), x)[0].tolist()


def test_k_may_be_known_only_at_run_time() -> None:
    """And may not be more than there are."""
    given = {"x": np.array([[1, 5, 4]], np.float32), "k": np.array([2])}
    model = _typed(node_model("TopK", 11, given, "x k", "v i"))
    twin = agrees(model, *given.values())
    with pytest.raises(ModelError, match="TopK 'v' cannot be computed"):
        twin(torch.from_numpy(given["x"]), torch.tensor([4]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("opset", [11, 14])
def test_cumulative_sums(dtype: str, exclusive: int, reverse: int, opset: int) -> None:
    """From either end, with and without each element itself, of an axis that a call knows."""
    x = np.random.default_rng(0).integers(-9, 9, (3, 4)).astype(dtype)
    output_type = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    attributes = f"exclusive = {exclusive}, reverse = {reverse}"
    for axis in (0, 1, -1):
        given = {"x": x, "axis": np.array(axis, np.int32)}
        model = node_model("CumSum", opset, given, "x axis", "y", attributes, output_type)
        agrees(model, *given.values())


@pytest.mark.parametrize("dtype", ["uint32", "uint64", "int32", "float32"])
@pytest.mark.parametrize(("op", "expected"), [("CumSum", [3, 5, 9]), ("CumProd", [3, 6, 24])])
def test_cumulative_functions_keep_their_type(op: str, expected: list[int], dtype: str) -> None:
    """Unsigned integers and products, which ONNX Runtime has no kernels for."""
    x = np.array([3, 2, 4]).astype(dtype)
    given = {"x": x, "axis": np.array(0)}
    output_type = "float" if dtype == "float32" else dtype
    model = node_model(op, 26, given, "x axis", "y", "", output_type)
    found = twin_outputs(to_torch(model), model, *given.values())[0]
    assert expected == found.tolist()
    assert dtype == str(found.dtype).removeprefix("torch.")


def test_cumulative_functions_of_no_elements() -> None:
    """Nothing to leave out."""
    given = {"x": np.zeros((2, 0), np.float32), "axis": np.array(1)}
    model = node_model("CumSum", 14, given, "x axis", attributes="exclusive = 1")
    assert (2, 0) == tuple(twin_outputs(to_torch(model), model, *given.values())[0].shape)


@pytest.mark.parametrize(("op", "flags"), [("CumSum", "reverse = 1"), ("CumProd", "exclusive = 1")])
def test_cumulative_functions_differentiate(op: str, flags: str) -> None:
    """By central differences."""
    given = {"x": positive(2, 4), "axis": np.array(1)}
    twin = to_torch(node_model(op, 26, given, "x axis", attributes=flags)).double()
    x = torch.from_numpy(given["x"]).double().requires_grad_()
    assert torch.autograd.gradcheck(twin, (x, torch.tensor(1)))


def test_reductions_differentiate_in_all_ways() -> None:
    """Forward mode, backward mode and both under vmap agree through each operator."""
    nodes = "\n".join(f"r{n} = {op} <axes = [-1]> (x)" for n, op in enumerate(OPS))
    names = ", ".join(f"r{n}" for n in range(len(OPS)))
    twin = to_torch(
        parse(
            '<ir_version: 8, opset_import: ["": 12]> g (float[N,M] x) => (float[N,K] y)'
            f"<int64[1] two = {{2}}, int64 last = {{-1}}> {{ {nodes}"
            f" c = CumSum <exclusive = 1> (x, last) t, i = TopK (x, two)"
            f" y = Concat <axis = -1> ({names}, c, t) }}"
        )
    ).double()
    x = from_numpy(positive(3, 5), 1).double()
    backward = torch.func.vmap(torch.func.jacrev(twin))(x[:, None])
    forward = torch.func.vmap(torch.func.jacfwd(twin))(x[:, None])
    assert (3, 1, 17, 1, 5) == tuple(backward.shape)
    torch.testing.assert_close(forward, backward)
