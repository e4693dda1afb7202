"""Pools against ONNX Runtime, over versions and paddings, and their gradients."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

RNG = np.random.default_rng(0)
SHAPES = {1: (2, 3, 11), 2: (2, 3, 9, 8), 3: (1, 2, 7, 6, 5)}

# Attributes of a pool for 1, 2 or 3 dimensions.
PLAIN = [
    (1, "kernel_shape = [3]"),
    (1, "kernel_shape = [3], strides = [2], pads = [1, 0]"),
    (2, "kernel_shape = [2, 3]"),
    (2, "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]"),
    (2, "kernel_shape = [3, 2], strides = [2, 3], pads = [0, 1, 2, 0]"),
    (2, "kernel_shape = [4, 4], strides = [1, 2], pads = [3, 3, 3, 3]"),
    (2, 'kernel_shape = [3, 4], strides = [2, 2], auto_pad = "SAME_UPPER"'),
    (2, 'kernel_shape = [3, 4], strides = [2, 2], auto_pad = "SAME_LOWER"'),
    (2, 'kernel_shape = [2, 4], auto_pad = "SAME_LOWER"'),
    (2, 'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "VALID"'),
    (3, "kernel_shape = [2, 3, 2], strides = [2, 1, 1], pads = [1, 0, 1, 0, 1, 1]"),
]
CEIL = [
    (1, "kernel_shape = [3], strides = [3], ceil_mode = 1"),
    (2, "kernel_shape = [3, 3], strides = [2, 3], ceil_mode = 1"),
    (2, "kernel_shape = [3, 2], strides = [3, 2], pads = [1, 1, 1, 1], ceil_mode = 1"),
    (2, "kernel_shape = [2, 2], strides = [4, 3], pads = [1, 0, 1, 1], ceil_mode = 1"),
    (2, 'kernel_shape = [3, 3], strides = [4, 4], auto_pad = "VALID", ceil_mode = 1'),
    (3, "kernel_shape = [2, 3, 2], strides = [3, 2, 2], pads = [0, 1, 0, 0, 1, 1], ceil_mode = 1"),
]
DILATED = [
    (1, "kernel_shape = [3], dilations = [2], pads = [2, 1]"),
    (2, "kernel_shape = [2, 3], dilations = [3, 2], strides = [2, 1], pads = [1, 1, 1, 1]"),
    (2, "kernel_shape = [3, 2], dilations = [2, 1], strides = [3, 3], ceil_mode = 1"),
    (3, "kernel_shape = [2, 2, 2], dilations = [2, 1, 3], pads = [0, 1, 0, 1, 0, 1]"),
]


def normal(*shape: int) -> NDArray[Any]:
    """Draw float32 numbers."""
    return RNG.normal(size=shape).astype(np.float32)


def check(op: str, opset: int, rank: int, attributes: str, outputs: str = "y") -> None:
    """Compare a pool of images with ONNX Runtime."""
    x = normal(*SHAPES[rank])
    model = node_model(op, opset, {"x": x}, "x", outputs, attributes)
    if outputs != "y":
        model.graph.output[1].type.tensor_type.elem_type = 7
    agrees(model, x)


@pytest.mark.parametrize(
    ("opset", "rank", "attributes"),
    [(opset, *case) for opset in (7, 12, 22) for case in PLAIN]
    + [(opset, *case) for opset in (10, 22) for case in CEIL + DILATED],
)
def test_max_pool(rank: int, attributes: str, opset: int) -> None:
    """Windows that reach over the border, over gaps, and over the end."""
    check("MaxPool", opset, rank, attributes)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("rank", "attributes"), PLAIN + CEIL + DILATED)
def test_indices_of_max_pool(rank: int, attributes: str, order: int) -> None:
    """Positions in the whole tensor, by rows or by columns, without the padding."""
    check("MaxPool", 12, rank, f"{attributes}, storage_order = {order}", "y indices")


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("rank", [1, 2])
def test_max_pool_of_small_integers(rank: int, kind: Any) -> None:
    """The padding is smaller than any integer."""
    x = RNG.integers(-128, 128, SHAPES[rank]).astype(kind)
    attributes = f"kernel_shape = {[3] * rank}, pads = {[1] * 2 * rank}, strides = {[2] * rank}"
    model = node_model("MaxPool", 12, {"x": x}, "x", "y", attributes, x.dtype.name)
    agrees(model, x, rtol=0, atol=0)


def test_max_pool_whose_channels_come_last() -> None:
    """As ONNX Runtime writes it for quantised models."""
    x = RNG.integers(0, 256, (2, 7, 6, 3)).astype(np.uint8)
    attributes = "kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1]"
    model = node_model("com.microsoft.NhwcMaxPool", 12, {"x": x}, "x", "y", attributes, "uint8")
    agrees(model, x, rtol=0, atol=0)


@pytest.mark.parametrize("count", ["", ", count_include_pad = 1"])
@pytest.mark.parametrize(
    ("opset", "rank", "attributes"),
    [(7, *case) for case in PLAIN]
    + [(opset, *case) for opset in (10, 19) for case in CEIL]
    + [(opset, *case) for opset in (19, 22) for case in DILATED],
)
def test_average_pool(rank: int, attributes: str, opset: int, count: str) -> None:
    """What counts as padding, and what lies behind it, for windows over the border."""
    check("AveragePool", opset, rank, attributes + count)


@pytest.mark.parametrize(
    ("opset", "rank", "attributes"),
    [(opset, *case) for opset in (7, 11) for case in PLAIN]
    + [(opset, *case) for opset in (18, 22) for case in CEIL + DILATED],
)
def test_lp_pool(rank: int, attributes: str, opset: int) -> None:
    """Norms of order 1 to 3."""
    for p in (1, 2, 3):
        check("LpPool", opset, rank, f"{attributes}, p = {p}")


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("GlobalAveragePool", ""),
        ("GlobalMaxPool", ""),
        ("GlobalLpPool", "p = 1"),
        ("GlobalLpPool", "p = 3"),
    ],
)
def test_global_pools(op: str, attributes: str, rank: int) -> None:
    """Over all axes but two."""
    check(op, 7, rank, attributes)


@pytest.mark.parametrize("opset", [9, 11, 22])
@pytest.mark.parametrize("slots", ["x i", "x i shape"])
def test_max_unpool(slots: str, opset: int) -> None:
    """Values go back to where they were."""
    values, indices = torch.nn.functional.max_pool2d(
        torch.from_numpy(normal(1, 2, 6, 9)), (2, 3), return_indices=True
    )
    indices += 54 * torch.arange(2)[:, None, None]
    given = {"x": values.numpy(), "i": indices.numpy()}
    attributes = "kernel_shape = [2, 3], strides = [2, 3]"
    model = node_model("MaxUnpool", opset, given, slots.removesuffix(" shape"), "y", attributes)
    if slots == "x i shape":
        model.graph.node[0].input.append("shape")
        tensor = model.graph.initializer.add(name="shape", data_type=7, dims=[4])
        tensor.int64_data.extend([1, 2, 6, 9])
    agrees(model, *given.values())


@pytest.mark.parametrize("p", [1, 2])
def test_a_norm_of_what_is_no_number(p: int) -> None:
    """NaN and infinity stay in the windows that have them."""
    x = np.array([[[math.nan, 1, 2, math.inf, 0, 0]]], np.float32)
    agrees(node_model("LpPool", 18, {"x": x}, "x", attributes=f"kernel_shape = [2], p = {p}"), x)


def test_a_norm_of_zeros_has_no_gradient() -> None:
    """A window of zeros makes no NaN."""
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    for op, attributes in (("LpPool", "kernel_shape = [2, 2]"), ("GlobalLpPool", "")):
        model = node_model(op, 18, {"x": x.detach().numpy()}, "x", attributes=attributes)
        (gradient,) = torch.autograd.grad(to_torch(model)(x).sum(), x)
        assert torch.equal(torch.zeros_like(x), gradient)


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    """As in PyTorch, where padding comes first as well."""
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    attributes = "kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 0, 0]"
    model = node_model("MaxPool", 22, {"x": x.detach().numpy()}, "x", attributes=attributes)
    (gradient,) = torch.autograd.grad(to_torch(model)(x).sum(), x)
    assert [[1, 1, 0], [1, 1, 0], [0, 0, 0]] == gradient[0, 0].tolist()


def test_a_plain_pool_is_one_call_of_pytorch() -> None:
    """What is known when the twin is built is decided then."""
    x = normal(1, 1, 8, 8)
    attributes = "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]"
    model = node_model("MaxPool", 22, {"x": x}, "x", attributes=attributes)
    step = "v1 = max_pool2d(v0, (3, 3), (2, 2), (1, 1), (1, 1), False)"
    assert step in to_torch(model).source
    model = node_model("AveragePool", 22, {"x": x}, "x", attributes=attributes)
    step = "v1 = avg_pool2d(v0, (3, 3), (2, 2), (1, 1), False, False)"
    assert step in to_torch(model).source


def test_what_is_refused() -> None:
    """Attributes that are read in more than one way."""
    x = normal(1, 1, 8, 8)
    attributes = 'kernel_shape = [2, 2], dilations = [2, 2], auto_pad = "SAME_UPPER"'
    model = node_model("MaxPool", 22, {"x": x}, "x", attributes=attributes)
    with pytest.raises(UnsupportedOperator, match="no agreed meaning with dilations"):
        to_torch(model)
    attributes = 'kernel_shape = [1, 1], strides = [3, 3], auto_pad = "SAME_UPPER"'
    model = node_model("AveragePool", 22, {"x": x}, "x", attributes=attributes)
    with pytest.raises(ModelError, match="auto_pad SAME_UPPER leaves elements out"):
        to_torch(model)(torch.from_numpy(x))
