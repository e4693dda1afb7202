"""JumpReLU behind MaxPool: where it goes, and where it must not."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from onnx.numpy_helper import from_array
from rewrites_support import IMAGE_IS, POOL, X_IS, check, check_hardened, network, op_types

import onnxfit
from onnxfit import rewrites
from onnxfit.op import function
from onnxfit.run_time_jumps import with_run_time_jumps


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 14, 17])
def test_a_jump_relu_goes_behind_a_max_pool(opset: int) -> None:
    """At every form of the function body."""
    source = network(f"h = Relu(x) y = MaxPool<{POOL}>(h)", opset=opset)
    assert {"maxpool": 1} == check(source)
    hard = onnxfit.retrofit(source, 0.5, optimize=rewrites.ALL)
    assert ["MaxPool", "JumpReLU"] == op_types(hard)


@pytest.mark.parametrize(
    ("attributes", "count"),
    [
        ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", 1),
        ("kernel_shape = [3, 3], strides = [2, 2], pads = [2, 2, 2, 2]", 1),
        ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", 1),
        ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, pads = [1, 1, 1, 1]", 1),
        ('kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"', 1),
        ('kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_LOWER"', 1),
        ('kernel_shape = [2, 2], strides = [2, 2], auto_pad = "VALID"', 1),
        ("kernel_shape = [2, 2], strides = [2, 2], dilations = [3, 3]", 1),
        ("kernel_shape = [2, 2], strides = [2, 1]", 1),
        # A window of padding alone is the lowest number, which JumpReLU would make 0.
        ("kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1], dilations = [5, 5]", 0),
        ("kernel_shape = [2, 2], strides = [3, 3], pads = [0, 0, 1, 1], ceil_mode = 1", 0),
        ("kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1", 0),
        ('kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER", ceil_mode = 1', 0),
        # As many windows as elements, or nearly.
        ("kernel_shape = [3, 3], pads = [1, 1, 1, 1]", 0),
        ("kernel_shape = [3, 3]", 0),
    ],
)
def test_every_window_must_hold_an_element(attributes: str, count: int) -> None:
    """Dilation and ceil_mode may make one of padding alone; and strides of 1 save nothing."""
    source = network(f"h = Relu(x) y = MaxPool<{attributes}>(h)")
    assert ({"maxpool": count} if count else {}) == check(source)


def test_padding_as_long_as_a_window_is_refused() -> None:
    """ONNX Runtime refuses it too; other runtimes need not."""
    for pads in ("2, 0, 0, 0", "0, 0, 2, 0"):
        attributes = f"kernel_shape = [2, 2], strides = [2, 2], pads = [{pads}]"
        hard = onnxfit.retrofit(network(f"h = Relu(x) y = MaxPool<{attributes}>(h)"), 0.5)
        assert not any(rewrites.apply(hard).values())


def test_a_chain_of_poolings_is_passed_at_once() -> None:
    """The JumpReLU ends behind the last of them, a global one."""
    source = network(f"h = Relu(x) p = MaxPool<{POOL}>(h) y = GlobalMaxPool(p)")
    assert {"maxpool": 2} == check(source)
    hard = onnxfit.retrofit(source, 0.5, optimize=rewrites.ALL)
    assert ["MaxPool", "GlobalMaxPool", "JumpReLU"] == op_types(hard)


@pytest.mark.parametrize(
    ("bounds", "count"),
    [
        ("zero, one", 1),
        ("zero", 1),
        ("zero, below", 1),
        # The sign of a zero would depend on how ONNX Runtime computes the maximum.
        ("minus, one", 0),
        ("zero, minus", 0),
        # A bound that a run decides on.
        ("zero, c", 0),
        ("zero, d", 0),
    ],
)
def test_a_clip_moves_along(bounds: str, count: int) -> None:
    """ReLU6: both go behind the pooling where the bounds are known and none is -0."""
    given = bounds[-1] if bounds[-1] in "cd" else ""
    source = network(
        f"h = Clip(x, {bounds}) y = MaxPool<{POOL}>(h)",
        inputs=f"{X_IS}, float {given}" if given else X_IS,
        more="<float zero = {0}, float one = {1}, float minus = {-0.0}, float below = {-1}"
        # An initializer that is an input too is that input's default alone.
        f"{', float d = {1}' if given == 'd' else ''}>",
    )
    hard = onnxfit.retrofit(source, 0.5)
    if given:
        assert 0 == rewrites.apply(hard)["maxpool"]
        return
    assert ({"maxpool": 1} if count else {}) == check(source)
    rewrites.apply(hard)
    expected = ["MaxPool", "JumpReLU", "Clip"] if count else ["JumpReLU", "Clip", "MaxPool"]
    assert expected == op_types(hard)


def test_a_clip_of_an_old_opset_moves_along() -> None:
    """There the bounds are attributes."""
    source = network(f"h = Clip<min = 0.0, max = 1.0>(x) y = MaxPool<{POOL}>(h)", opset=10)
    assert {"maxpool": 1} == check(source)


@pytest.mark.parametrize(
    ("shape", "pool", "count"),
    [
        ((8, 1, 1), f"MaxPool<{POOL}>", 1),
        ((1, 8, 1, 1), f"MaxPool<{POOL}>", 1),
        ((1,), f"MaxPool<{POOL}>", 1),
        ((8, 1, 1), "GlobalMaxPool", 1),
        ((), "GlobalMaxPool", 1),
        # They differ within a window.
        ((6,), f"MaxPool<{POOL}>", 0),
        ((8, 6, 6), f"MaxPool<{POOL}>", 0),
        ((6, 1), f"MaxPool<{POOL}>", 0),
        ((6, 1), "GlobalMaxPool", 0),
    ],
)
def test_jumps_must_be_alike_within_a_window(shape: tuple[int, ...], pool: str, count: int) -> None:
    """One per channel is; one per row, column or element is not."""
    source = network(f"h = Relu(x) y = {pool}(h)")
    jumps = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    assert ({"maxpool": 1} if count else {}) == check(source, {"h": jumps})


def test_a_global_pooling_of_unknown_rank_stays_behind_an_array() -> None:
    """An array of one per channel for images is one per row for volumes."""
    source = network("r = Reshape(x, s) h = Relu(r) y = GlobalMaxPool(h)", f"{X_IS}, int64[M] s")
    hard = onnxfit.retrofit(source, jumps={"h": np.full((8, 1, 1), 0.5)})
    assert 0 == rewrites.apply(hard)["maxpool"]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (f"h = Relu(x) y = MaxPool<{POOL}>(h) w = Neg(h)", f"{IMAGE_IS}, float[N,8,6,6] w"),
        (f"h = Relu(x) y = MaxPool<{POOL}>(h)", f"{IMAGE_IS}, float[N,8,6,6] h"),
        (f"h = Relu(x) y, w = MaxPool<{POOL}>(h)", f"{IMAGE_IS}, int64[N,C,H,W] w"),
        (f"h = Relu(x) y = AveragePool<{POOL}>(h)", IMAGE_IS),
        (
            f"h = Relu(x) y = MaxPool<{POOL}>(h) w = If(c) <"
            "then_branch = t () => (float[N,C,H,W] a) { a = Neg(h) }, "
            "else_branch = e () => (float[N,C,H,W] b) { b = Identity(y) }>",
            f"{IMAGE_IS}, float[N,C,P,Q] w",
        ),
    ],
    ids=["another consumer", "a graph output", "indices", "an average", "a subgraph reads it"],
)
def test_a_jump_relu_stays_before_a_pooling_where_it_is_needed(nodes: str, outputs: str) -> None:
    """Another consumer, a graph output, the places of the largest elements, another pooling."""
    inputs = f"{X_IS}, bool c" if "If(c)" in nodes else X_IS
    assert {} == check(network(nodes, inputs, outputs))


def test_a_jump_that_a_run_gives_stays_where_it_is() -> None:
    """It might be negative."""
    source = network(f"h = Relu(x) y = MaxPool<{POOL}>(h)")
    model, _ = with_run_time_jumps(source)
    assert not any(rewrites.apply(model).values())


@pytest.mark.parametrize("jump", [-0.5, np.nan, np.inf])
def test_numbers_that_are_no_jump_size_stay_where_they_are(jump: float) -> None:
    """As after an edit by hand: with a negative one, JumpReLU falls at 0."""
    hard = onnxfit.retrofit(network(f"h = Relu(x) y = MaxPool<{POOL}>(h)"), 0.5)
    hard.graph.node[0].attribute[0].f = jump
    assert not any(rewrites.apply(hard).values())


def test_a_pooling_of_the_blocked_layout_is_passed() -> None:
    """ONNX Runtime's own MaxPool takes one jump for all channels, or its operator's by channel."""
    for op_type, jump, count in (
        ("JumpReLU", from_array(np.asarray(0.5, np.float32), "k"), 1),
        ("JumpReLU", from_array(np.full((8, 1, 1), 0.5, np.float32), "k"), 0),
        ("NchwcJumpReLU", from_array(np.full(8, 0.5, np.float32), "k"), 1),
        ("NchwcJumpReLU", from_array(np.full(8, -0.5, np.float32), "k"), 0),
    ):
        model = network(f"h = onnxfit.{op_type}(x, k) y = com.microsoft.nchwc.MaxPool<{POOL}>(h)")
        model.graph.initializer.append(jump)
        assert count == rewrites.apply(model)["maxpool"]
    model = network(f"h = onnxfit.NchwcJumpReLU(x, k) y = MaxPool<{POOL}>(h)")
    model.graph.initializer.append(from_array(np.full(8, 0.5, np.float32), "k"))
    assert 0 == rewrites.apply(model)["maxpool"]


@pytest.mark.parametrize(
    ("nodes", "count"),
    [
        ("b = {0}.ReorderInput(x) h = {1}(b) o = {0}.ReorderOutput<channels = 8>(h)", 1),
        ("h = {1}(x) b = {0}.ReorderInput(h) o = {0}.MaxPool<{2}>(b)", 1),
        ("b = local.ReorderInput(x) h = {1}(b) o = local.ReorderOutput<channels = 8>(h)", 0),
    ],
    ids=["out of it", "into it", "another domain"],
)
def test_a_change_of_layout_may_lie_between(nodes: str, count: int) -> None:
    """Out of ONNX Runtime's blocked layout, or into it, before a pooling in the other."""
    text = nodes.format("com.microsoft.nchwc", "onnxfit.JumpReLU<jump = 0.5>", POOL)
    if "MaxPool" in text:
        text += " y = com.microsoft.nchwc.ReorderOutput<channels = 8>(o)"
    else:
        text += f" y = MaxPool<{POOL}>(o)"
    model = network(text)
    for domain in ("onnxfit", "com.microsoft.nchwc"):
        model.opset_import.add(domain=domain, version=1)
    model.functions.append(function(17, TensorProto.FLOAT, True))
    by_channel = ModelProto.FromString(model.SerializeToString())
    if not count:
        assert not any(rewrites.apply(model).values())
        return
    assert {"maxpool": 1} == check_hardened(model)
    node = next(node for node in by_channel.graph.node if node.op_type == "JumpReLU")
    del node.attribute[:]
    node.input.append("k")
    by_channel.graph.initializer.append(from_array(np.full((8, 1, 1), 0.5, np.float32), "k"))
    assert not any(rewrites.apply(by_channel).values())
