"""Compiled models in ONNX Runtime's blocked layout: which bits stay, and jumps by element."""

from typing import Any

import numpy as np
import onnx
import pytest
from compile_support import (
    CHANNELS,
    HEAD,
    PRODUCTS,
    RESIDUAL,
    Array,
    X,
    assert_reaches,
    jump_relus,
    lookup,
    network,
    outputs,
    whole,
)
from corpus import all_same_bits, run
from independent import swapped
from support import quiet, same_bits

import onnxfit
from onnxfit.run_time_jumps import with_run_time_jumps


def test_where_no_sum_is_fused_the_bits_are_the_hardened_models() -> None:
    """Weights of any size, and no Add that ONNX Runtime would fuse into a convolution."""
    source = network(HEAD + "g (float[N,3,12,9] x) => (float[N,16,8,5] y) "
                     "{ c = Conv(x, w3) a = Relu(c) d = Conv(a, w16) y = Relu(d) }")  # fmt: skip
    rng = np.random.default_rng(0)
    for tensor in source.graph.initializer:
        values = rng.standard_normal(list(tensor.dims)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    feeds = {"x": rng.standard_normal((2, 3, 12, 9)).astype(np.float32)}
    hard = onnxfit.retrofit(source, jumps={"a": 0.5, "y": 0.25})
    compiled = onnxfit.compile(hard)
    assert 0 == jump_relus(compiled)
    assert all_same_bits(outputs(hard, feeds), outputs(compiled, feeds))
    assert not all_same_bits(outputs(source, feeds), outputs(compiled, feeds))


def test_of_two_in_a_row_one_stays_where_the_layout_changes_between() -> None:
    """ONNX Runtime takes the first one alone into the convolution, and so into its layout."""
    source = network(HEAD + "g (float[N,3,H,W] x) => (float[N,16,P,Q] y) "
                     "{ c = Conv(x, w3) a = Relu(c) y = Relu(a) }")  # fmt: skip
    compiled = assert_reaches(source, {"x": X})
    assert ["Conv", "JumpReLU", "ReorderOutput"] == [node.op_type for node in compiled.graph.node]


@pytest.mark.parametrize("body", ["", "s = Add(d, a)"])
@pytest.mark.parametrize(
    "jump",
    {
        "by channel": CHANNELS,
        "by channel and batch": CHANNELS[None],
        "by element": np.asarray(np.abs(whole((16, 6, 6))), np.float32),
        "by column": np.arange(6, dtype=np.float32),
        "one number": np.full((1, 1, 1), 2.5, np.float32),
    }.items(),
    ids=lambda item: item[0],
)
def test_jumps_by_element(jump: tuple[str, Array], body: str) -> None:
    """In the blocked layout too, and beside sites of one number."""
    text = RESIDUAL if body else RESIDUAL.replace("s = Add(d, a)", "s = Identity(d)")
    source = network(HEAD + "g " + text)
    jumps: dict[str, Any] = {"a": jump[1], "y": CHANNELS[::-1]}
    reference = onnxfit.retrofit(source, jumps=jumps, lowering="standard")
    expected = run(reference, [{"x": X}])
    hard = onnxfit.retrofit(source, jumps=jumps)
    assert all(map(np.array_equal, expected, outputs(onnxfit.compile(hard), {"x": X})))


@pytest.mark.parametrize("channels", [1, 3, 8, 20])
def test_channels_that_fill_no_block(channels: int) -> None:
    """The last block of channels may be filled up, and narrow layers are not blocked."""
    source = network(
        HEAD + f"g (float[N,3,8,8] x) => (float[N,{channels},6,6] y) "
        "{ c = Conv(x, v) y = Relu(c) }"
    )
    weights = onnx.numpy_helper.from_array(whole((channels, 3, 3, 3)), "v")
    source.graph.initializer.append(weights)
    jump = np.arange(channels, dtype=np.float32)[:, None, None] + 0.5
    reference = onnxfit.retrofit(source, jumps={"y": jump}, lowering="standard")
    compiled = onnxfit.compile(onnxfit.retrofit(source, jumps={"y": jump}))
    expected = run(reference, [{"x": X}])
    assert all(map(np.array_equal, expected, outputs(compiled, {"x": X})))


def test_jumps_by_channel_behind_a_matrix_product() -> None:
    """There the channel is the last axis."""
    source = network(HEAD + PRODUCTS)
    jumps: Any = {"a": CHANNELS.ravel(), "y": np.arange(5, dtype=np.float32)}
    feeds = {"x": X[0, 0, :, :3]}
    expected = run(onnxfit.retrofit(source, jumps=jumps, lowering="standard"), [feeds])
    compiled = onnxfit.compile(onnxfit.retrofit(source, jumps=jumps))
    assert all(map(np.array_equal, expected, outputs(compiled, feeds)))


def test_jumps_at_run_time() -> None:
    """One compiled model serves any of them."""
    source = network(HEAD + "g " + RESIDUAL)
    model, inputs = with_run_time_jumps(source)
    session = onnxfit.session(onnxfit.compile(model), quiet())
    for jumps in ({"a": 0.5, "y": 2.5}, {"a": 3.5, "y": 0.0}):
        expected = run(swapped(source, lookup(jumps)), [{"x": X}])
        fed = {inputs[site]: np.array(jump, np.float32) for site, jump in jumps.items()}
        assert all(map(np.array_equal, expected, session.run(None, {"x": X, **fed})))


BEHIND = {
    "AveragePool": (True, "y = AveragePool<kernel_shape = [2, 2]>(a)"),
    "GlobalAveragePool": (False, "y = GlobalAveragePool(a)"),
    "MaxPool": (True, "y = MaxPool<kernel_shape = [2, 2]>(a)"),
    "BatchNormalization": (True, "y = BatchNormalization(a, mean, mean, mean, var)"),
    "Concat": (True, "d = Conv(a, k16) b = Relu(d) y = Concat<axis = 1>(a, b)"),
    "Gemm": (True, "f = Flatten(a) y = Gemm(f, wide)"),
}


@pytest.mark.parametrize("name", BEHIND)
def test_which_bits_stay_behind_an_activation(name: str) -> None:
    """Of normal weights: where ONNX Runtime has a kernel of its own in the layout, sums differ."""
    same, text = BEHIND[name]
    rank = "float[N,K]" if name == "Gemm" else "float[N,C,P,Q]"
    source = network(
        HEAD + f"g (float[N,3,12,12] x) => ({rank} y) {{ c = Conv(x, w3) a = Relu(c) {text} }}"
    )
    rng = np.random.default_rng(0)
    if name == "Gemm":
        source.graph.initializer.add().CopyFrom(
            onnx.numpy_helper.from_array(np.zeros((1600, 10), np.float32), "wide")
        )
    for tensor in source.graph.initializer:
        if tensor.name != "var":
            values = rng.standard_normal(list(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    feeds = {"x": rng.standard_normal((2, 3, 12, 12)).astype(np.float32)}
    hard = onnxfit.retrofit(source, 0.5)
    (expected,), (found,) = outputs(hard, feeds), outputs(onnxfit.compile(hard), feeds)
    assert same == same_bits(expected, found)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    zero = onnxfit.compile(onnxfit.retrofit(source, 0.0))
    assert all_same_bits(outputs(source, feeds), outputs(zero, feeds))
