"""Add and JumpReLU in one node: where shapes are known, and where they only look alike."""

import numpy as np
import onnx
import pytest
from corpus import all_same_bits, run
from onnx import ModelProto, helper
from onnx.numpy_helper import from_array
from rewrites_support import BOTH_ARE, IMAGE_IS, X_IS, Z_IS, X, Z, check, network, op_types
from support import quiet, same_bits

import onnxfit
from onnxfit import rewrites

ADD = "s = Add(x, z) y = Relu(s)"


@pytest.mark.parametrize("op_type", ["Add", "Sum"])
@pytest.mark.parametrize("opset", [7, 9, 12, 14, 15, 17])
def test_an_addition_and_a_jump_relu_become_one_node(opset: int, op_type: str) -> None:
    """At every form of the function body; a Sum of two is an Add."""
    source = network(ADD.replace("Add", op_type), BOTH_ARE, opset=opset)
    assert {"add": 1} == check(source)
    hard = onnxfit.retrofit(source, 0.5, optimize=rewrites.ALL)
    assert ["AddJumpReLU"] == op_types(hard)
    assert ["JumpReLU", "AddJumpReLU"] == [function.name for function in hard.functions]
    onnx.checker.check_model(hard, full_check=True)


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs"),
    [
        (ADD, f"{X_IS}, float[N,1,6,6] z", IMAGE_IS),
        (ADD, f"{X_IS}, float[M,8,6,6] z", IMAGE_IS),
        (ADD, f"{X_IS}, {Z_IS}", IMAGE_IS),
        ("a = Neg(x) s = Add(a, z) y = Relu(s)", f"{X_IS}, {Z_IS}", IMAGE_IS),
        ("t = Transpose(x) s = Add(x, t) y = Relu(s)", "float[N,N] x", "float[N,N] y"),
        (ADD, f"{X_IS}, float[8,6,6] z", IMAGE_IS),
        (ADD, "float[2,8,6,6] x, float[2,8,6,?] z", IMAGE_IS),
        (f"{ADD} w = Neg(s)", BOTH_ARE, f"{IMAGE_IS}, float[N,8,6,6] w"),
        (ADD, BOTH_ARE, f"{IMAGE_IS}, float[N,8,6,6] s"),
        ("s = Sum(x, z, x) y = Relu(s)", BOTH_ARE, IMAGE_IS),
        ("s = Sub(x, z) y = Relu(s)", BOTH_ARE, IMAGE_IS),
    ],
    ids=[
        "broadcast",
        "another name",
        "one name of two inputs",
        "one name behind an operator",
        "one name of two axes",
        "another rank",
        "unknown",
        "another consumer",
        "a graph output",
        "three",
        "a difference",
    ],
)
def test_an_addition_stays_where_shapes_may_differ(nodes: str, inputs: str, outputs: str) -> None:
    """Or where the sum is needed, or of three, or none."""
    hard = onnxfit.retrofit(network(nodes, inputs, outputs), 0.5)
    assert not any(rewrites.apply(hard).values())


def test_inputs_may_differ_where_a_file_names_their_lengths_alike() -> None:
    """ONNX Runtime broadcasts 1 row to 4, which AddJumpReLU does not: it must not be there."""
    source = network(ADD, "float[N,8] x, float[N,8] z", "float[N,8] y")
    hard = onnxfit.retrofit(source, 0.5)
    rewritten = ModelProto.FromString(hard.SerializeToString())
    assert 0 == rewrites.apply(rewritten)["add"]
    feeds = [{"x": X[0, :1, :1, 0].repeat(8, 1), "z": Z[0, :4, 0, :1].repeat(8, 1)}]
    for library in (False, True):
        expected = run(hard, feeds, library=library)
        assert (4, 8) == expected[0].shape
        assert all_same_bits(expected, run(rewritten, feeds, library=library))


@pytest.mark.parametrize("inputs", [X_IS, "float[?,8,?,6] x"], ids=["a name", "no name"])
def test_a_length_of_one_origin_is_equal_to_itself(inputs: str) -> None:
    """Behind operators that keep it, whether the file names it or not."""
    source = network("a = Neg(x) b = Abs(x) s = Add(a, b) y = Relu(s)", inputs)
    assert {"add": 1} == check(source)


def test_the_batch_is_followed_through_the_blocked_layout() -> None:
    """What ONNX Runtime made of convolutions keeps the first axis; a sum of equal shapes has it."""
    source = network(
        "a = local.f(x) b = local.f(x) s = Add(a, b) t = Identity(s) c = local.f(t) u = Add(c, t) "
        "y = Relu(u)"
    )
    source.opset_import.add(domain="com.microsoft.nchwc", version=1)
    for node in source.graph.node:
        if node.domain == "local":
            node.domain, node.op_type = "com.microsoft.nchwc", "Conv"
            note = helper.make_tensor_value_info(node.output[0], 1, ["M", 8, 6, 6])
            source.graph.value_info.append(note)
    hard = onnxfit.retrofit(source, 0.5)
    assert 1 == rewrites.apply(hard)["add"]
    for value in hard.graph.value_info:
        value.type.tensor_type.shape.dim[3].dim_param = "W"
    assert 0 == rewrites.apply(hard)["add"]


def test_tensors_of_a_sequence_may_differ() -> None:
    """Here one of two has a row and the other has seven."""
    source = network(
        "q = SplitToSequence<axis = 0>(x, l) a = SequenceAt(q, i) b = SequenceAt(q, j) "
        "s = Add(a, b) y = Relu(s)",
        "float[8,4] x",
        "float[A,4] y",
        more="<int64[2] l = {1, 7}, int64 i = {0}, int64 j = {1}>",
    )
    assert 0 == rewrites.apply(onnxfit.retrofit(source, 0.5))["add"]


def test_a_value_is_of_one_shape_with_itself() -> None:
    """Even where that is unknown, as in a function."""
    source = network("r = Reshape(x, s) d = Add(r, r) y = Relu(d)", f"{X_IS}, int64[M] s")
    assert 1 == rewrites.apply(onnxfit.retrofit(source, 0.5))["add"]


def test_a_sum_with_a_constant_stays() -> None:
    """ONNX Runtime takes it for a bias."""
    source = network("s = Add(x, k) y = Relu(s)", "float[8,6,6] x", "float[8,6,6] y")
    source.graph.initializer.append(from_array(np.ones((8, 6, 6), np.float32), "k"))
    assert {} == {k: n for k, n in rewrites.apply(onnxfit.retrofit(source, 0.5)).items() if n}


def test_shapes_that_a_file_notes_of_inner_values_are_not_believed() -> None:
    """A tool that made the batch size free may have left them: here one of two is a broadcast."""
    source = network("a = Neg(x) b = Neg(z) s = Add(a, b) y = Relu(s)", f"{X_IS}, float[M,8,6,6] z")
    for name in ("a", "b"):
        source.graph.value_info.append(helper.make_tensor_value_info(name, 1, [1, 8, 6, 6]))
    hard = onnxfit.retrofit(source, 0.5)
    assert not any(rewrites.apply(hard).values())


def test_noted_numbers_of_foreign_operators_are_believed() -> None:
    """Nothing else tells them: ONNX Runtime notes those of the operators that it made.

    Names are not: each operator may have meant another length.
    """
    source = network("a = local.f(x) b = local.f(z) s = Add(a, b) y = Relu(s)", f"{X_IS}, {Z_IS}")
    hard = onnxfit.retrofit(source, 0.5)
    assert not any(rewrites.apply(hard).values())
    for batch, count in (("N", 0), (2, 1)):
        del hard.graph.value_info[:]
        for name in ("a", "b"):
            hard.graph.value_info.append(helper.make_tensor_value_info(name, 1, [batch, 8, 6, 6]))
        assert count == rewrites.apply(hard)["add"]


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("attributes", "count"),
    [
        ("kernel_shape = [1, 1], strides = [5, 5], ceil_mode = 1", 0),
        ("kernel_shape = [2, 2], strides = [4, 4], pads = [0, 0, 1, 1], ceil_mode = 1", 0),
        ("kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1", 1),
        ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", 1),
        ("kernel_shape = [1, 1], strides = [3, 3]", 1),
        ("kernel_shape = [5, 5], ceil_mode = 1", 0),
    ],
)
def test_windows_that_begin_behind_the_image_may_be_dropped(
    op_type: str, attributes: str, count: int
) -> None:
    """Onnx counts them at earlier opsets, ONNX Runtime does not: then a sum may broadcast.

    So where a window is longer than the image.
    """
    nodes = f"p = {op_type}<{attributes}>(x) q = {op_type}<{attributes}>(z) s = Add(p, q) "
    source = network(nodes + "y = Relu(s)", "float[2,8,4,4] x, float[2,8,4,4] z", opset=12)
    assert count == rewrites.apply(onnxfit.retrofit(source, 0.5), ["add"])["add"]


@pytest.mark.parametrize("channels", [4, 16])
def test_a_sum_with_a_pool_that_loses_a_window_computes_the_same(channels: int) -> None:
    """The one window of a pool is added to each element, blocked or not."""
    size = f"float[2,{channels},2,2]"
    nodes = "p = MaxPool<kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1>(x) "
    hard = onnxfit.retrofit(network(f"{nodes} {ADD}".replace("z", "p"), f"{size} x", opset=12), 0.5)
    x = np.linspace(-2, 2, 8 * channels, dtype=np.float32).reshape(2, channels, 2, 2)
    (expected,) = onnxfit.session(hard, quiet()).run(None, {"x": x})
    total = x + x[:, :, :1, :1]
    assert same_bits(np.where(total > 0.5, total, np.float32(0)), expected)
    compiled = onnxfit.session(onnxfit.compile(hard), quiet())
    assert same_bits(expected, compiled.run(None, {"x": x})[0])
    assert 0 == rewrites.apply(hard)["add"]


@pytest.mark.parametrize("between", ["c = Conv(p, w) r = Relu(c)", "c = Conv(p, w) r = Sigmoid(c)"])
def test_nothing_that_was_noted_behind_such_a_pool_is_believed(between: str) -> None:
    """ONNX Runtime notes lengths that come of the same count, of operators that it made."""
    nodes = "p = MaxPool<kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1>(x) " + between
    source = network(f"{nodes} s = Add(x, r) y = Relu(s)", "float[2,4,2,2] x", opset=12)
    source.graph.initializer.append(from_array(np.eye(4, dtype=np.float32)[..., None, None], "w"))
    hard = onnxfit.retrofit(source, 0.25)
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(2, 4, 2, 2)
    (expected,) = onnxfit.session(hard, quiet()).run(None, {"x": x})
    compiled = onnxfit.session(onnxfit.compile(hard), quiet())
    assert same_bits(expected, compiled.run(None, {"x": x})[0])


@pytest.mark.parametrize(
    ("dilations", "count"), [("[2, 2]", 0), ("[1, 1]", 1)], ids=["dilated", "not"]
)
def test_dilated_pools_of_the_same_size_may_be_smaller(dilations: str, count: int) -> None:
    """ONNX Runtime pads for the kernel as it is before it is dilated, and onnx does not."""
    pool = f'kernel_shape = [2, 2], auto_pad = "SAME_UPPER", dilations = {dilations}'
    nodes = f"p = MaxPool<{pool}>(x) s = Add(x, p) y = Relu(s)"
    hard = onnxfit.retrofit(network(nodes, "float[2,4,2,2] x"), 0.5)
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(2, 4, 2, 2)
    (expected,) = onnxfit.session(hard, quiet()).run(None, {"x": x})
    compiled = onnxfit.session(onnxfit.compile(hard), quiet())
    assert same_bits(expected, compiled.run(None, {"x": x})[0])
    assert count == rewrites.apply(hard)["add"]


def test_a_shape_that_a_run_may_change_proves_nothing() -> None:
    """An initializer that is an input too is that input's default alone."""
    inputs = f"{X_IS}, {Z_IS}, int64[4] s"
    source = network("a = Reshape(x, s) t = Add(a, z) y = Relu(t)", inputs.replace("N", "2"))
    source.graph.initializer.append(from_array(np.array([2, 8, 6, 6]), "s"))
    assert not any(rewrites.apply(onnxfit.retrofit(source, 0.5)).values())
    source.graph.input.pop()
    assert 1 == rewrites.apply(onnxfit.retrofit(source, 0.5))["add"]


def test_shapes_that_a_file_notes_of_outputs_are_not_believed() -> None:
    """Where they are of one value that is added to another."""
    inputs = f"{X_IS}, float[1,8,6,6] z"
    source = network(
        "w = Neg(x) s = Add(w, z) y = Relu(s)", inputs, f"{IMAGE_IS}, float[1,8,6,6] w"
    )
    assert not any(rewrites.apply(onnxfit.retrofit(source, 0.5)).values())


def test_shapes_that_a_loop_notes_of_its_state_are_not_believed() -> None:
    """The first one may have another, or a later one."""
    source = network(
        "m = Constant<value_int = 2>() t = Constant<value = bool {1}>() "
        "y = Loop(m, t, x) <body = b (int64 i, bool k, float[1,8,6,6] v) => "
        "(bool l, float[N,8,6,6] w) { l = Identity(k) s = Add(v, z) w = Relu(s) }>",
        f"{X_IS}, float[1,8,6,6] z",
    )
    assert not any(rewrites.apply(onnxfit.retrofit(source, 0.5)).values())


def test_an_array_of_jumps_goes_into_the_addition() -> None:
    """J is the third input then, at every opset."""
    jumps = np.linspace(0, 1, 8, dtype=np.float32).reshape(8, 1, 1)
    for opset in (8, 17):
        assert {"add": 1} == check(network(ADD, BOTH_ARE, opset=opset), {"y": jumps})


def test_the_custom_lowering_gets_no_function() -> None:
    """It has none for JumpReLU either."""
    source = network(ADD, BOTH_ARE)
    hard = onnxfit.retrofit(source, 0.5, lowering="custom", optimize=rewrites.ALL)
    assert (["AddJumpReLU"], []) == (op_types(hard), list(hard.functions))
