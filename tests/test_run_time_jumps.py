"""Models whose jumps are inputs of the graph: what they compute, beside hardened files."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from support import (
    MODELS,
    NAMES,
    dtype_of,
    newest_opset,
    parse,
    plain_session,
    quiet,
    relu_model,
    same_bits,
)

import onnxfit
from onnxfit import op
from onnxfit.errors import ModelError
from onnxfit.run_time_jumps import with_run_time_jumps

TWO = "h = Relu(x) n = Neg(h) s = Add(n, x) y = Relu(s)"
X = np.linspace(-1, 2, 61, dtype=np.float32)

Array = NDArray[Any]


def run(
    model: ModelProto, feeds: dict[str, Array], *, library: bool, optimise: bool = False
) -> list[Array]:
    """Run a model with or without the custom-op library."""
    options = quiet(optimise=optimise)
    if library:
        onnxfit.register(options)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[Array] = session.run(None, feeds)
    return results


def assert_serves(
    source: ModelProto, feeds: dict[str, Array], candidates: list[dict[str, Any]]
) -> None:
    """Check that one model computes bit for bit what a file of each candidate does."""
    shapes = {name: np.shape(jump) for name, jump in candidates[0].items()}
    model, inputs = with_run_time_jumps(source, shapes)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for jumps in candidates:
        fed = {}
        for site, jump in jumps.items():
            element_type = types[inputs[site]]
            rounded = op.round_jumps(jump, element_type)
            fed[inputs[site]] = np.asarray(rounded, dtype_of(element_type))
        for library in (True, False):
            hard = onnxfit.retrofit(source, jumps=jumps)
            expected = run(hard, feeds, library=library)
            found = run(model, {**feeds, **fed}, library=library)
            assert all(map(same_bits, expected, found))


@pytest.mark.parametrize("element_type", ["float", "float16", "double"])
def test_one_model_serves_all_jumps(element_type: str) -> None:
    """At every opset and of every type that Python can feed, bit for bit."""
    code = TensorProto.DataType.Value(element_type.upper())
    for opset in range(op.MIN_OPSET, newest_opset() + 1):
        source = relu_model(opset, element_type, nodes=TWO)
        candidates = [{"h": 0.0, "y": 0.1}, {"h": 0.25, "y": 1.0}]
        assert_serves(source, {"x": X.astype(dtype_of(code))}, candidates)


def test_bfloat16_is_served_between_casts() -> None:
    """J is of the type of the activation, which Python feeds as an OrtValue alone."""
    nodes = "a = Cast<to = 16>(x) b = Relu(a) y = Cast<to = 1>(b)"
    model, inputs = with_run_time_jumps(relu_model(17, nodes=nodes))
    assert TensorProto.BFLOAT16 == model.graph.input[1].type.tensor_type.elem_type
    onnx.checker.check_model(model, full_check=True)
    jump = np.array(0.5).astype(dtype_of(TensorProto.BFLOAT16))
    session, y = plain_session(model), np.empty_like(X)
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    code = int(TensorProto.BFLOAT16)
    binding.bind_input(inputs["b"], "cpu", 0, code, jump.shape, jump.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    session.run_with_iobinding(binding)
    narrow = X.astype(jump.dtype)
    assert same_bits(op.jump_relu(narrow, jump).astype(np.float32), y)


def test_the_model_and_its_inputs() -> None:
    """The original inputs stay first; J is of the activation's type and of the shape asked for."""
    source = parse(
        '<ir_version: 4, opset_import: ["": 17]> g (float[N,3] x, float16[N] z) => '
        "(float[N,3] y, float16[N] w) { y = Relu(x) w = Relu(z) }"
    )
    before = source.SerializeToString()
    model, inputs = with_run_time_jumps(source, {"y": (3,)})
    assert before == source.SerializeToString()
    assert {"y": "onnxfit.jump/y", "w": "onnxfit.jump/w"} == inputs
    found = [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim],
        )
        for value in model.graph.input
    ]
    assert found == [
        ("x", TensorProto.FLOAT, ["N", 3]),
        ("z", TensorProto.FLOAT16, ["N"]),
        ("onnxfit.jump/y", TensorProto.FLOAT, [3]),
        ("onnxfit.jump/w", TensorProto.FLOAT16, []),
    ]
    assert 8 == model.ir_version
    onnx.checker.check_model(model, full_check=True)
    assert {"y": (), "w": ()} == onnxfit.inspect(model).jumps
    assert before == onnxfit.restore(model).SerializeToString()


@pytest.mark.parametrize("opset", [8, 13, 17])
def test_files_of_several_element_types(opset: int) -> None:
    """Where one body cannot serve all, standard operators read the input; all can be restored."""
    text = "a = Relu(x) b = Relu(a) c = Cast<to = 11>(b) d = Relu(c) y = Cast<to = 1>(d)"
    source = relu_model(opset, nodes=text)
    assert_serves(source, {"x": X}, [{"a": 0.0, "b": 0.1, "d": 0.25}])
    narrow = relu_model(17, nodes=text.replace("11", "16"))
    for model in (source, narrow):
        assert model == onnxfit.restore(with_run_time_jumps(model)[0])


def test_arrays_of_jumps() -> None:
    """With a declared shape, each channel has a jump of its own."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17]> '
        "g (float[N,2,61] x) => (float[N,2,61] y) { h = Relu(x) n = Neg(x) y = Relu(n) }"
    )
    x = np.stack([np.stack([X, -X])])
    candidates: list[dict[str, Any]] = [
        {"h": [[0.1], [0.5]], "y": 0.25},
        {"h": [[1.0], [0.0]], "y": 0.0},
    ]
    assert_serves(source, {"x": x}, candidates)


NESTED = """
<ir_version: 8, opset_import: ["": 16]>
g (float[N] x, bool c) => (float[N] y) {
  no = Not(c)
  a = If(c) <
    then_branch = one () => (float[N] u) {
      t = Relu(x)
      u = If(no) <
        then_branch = three () => (float[N] w) { w = Neg(t) },
        else_branch = four () => (float[N] v) { v0 = Sub(x, t) v1 = Neg(v0) v = Relu(v1) }
      >
    },
    else_branch = two () => (float[N] t2) { n = Neg(x) t2 = Relu(n) }
  >
  d = Sub(a, x)
  y = Relu(d)
}
"""
LOOP = """
<ir_version: 8, opset_import: ["": 13]>
g (float[N] x, int64 n, bool c) => (float[N] y) <float step = {0.25}> {
  y = Loop(n, c, x) < body = b (int64 i, bool go, float[N] v) => (bool on, float[N] next) {
    on = Identity(go) less = Sub(v, step) next = Relu(less) } >
}
"""
SCAN = """
<ir_version: 8, opset_import: ["": 11]>
g (float[N] x) => (float all, float[N] y) <float start = {0}> {
  all, y = Scan<num_scan_inputs = 1,
    body = b (float before, float v) => (float state, float each) {
      sum = Add(before, v) state = Relu(sum) each = Identity(state) } >(start, x)
}
"""


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("text", [NESTED, LOOP, SCAN], ids=["if", "loop", "scan"])
def test_subgraphs_see_the_inputs_of_the_main_graph(text: str, condition: bool) -> None:
    """Sites of If, Loop and Scan bodies take their jumps from outside."""
    source = parse(text)
    feeds = {"x": X, "c": np.array(condition), "n": np.array(3)}
    feeds = {value.name: feeds[value.name] for value in source.graph.input}
    names = [site.name for site in onnxfit.find_sites(source)]
    candidates = [{n: round(base * (k + 1), 3) for k, n in enumerate(names)} for base in (0, 0.1)]
    assert_serves(source, feeds, candidates)
    onnx.checker.check_model(with_run_time_jumps(source)[0], full_check=True)


def test_a_clip_keeps_its_upper_bound() -> None:
    """ReLU6: the jump comes first."""
    source = relu_model(10, nodes="y = Clip<min = 0.0, max = 0.75>(x)")
    assert_serves(source, {"x": X}, [{"y": 0.25}])


def test_a_network_of_the_digits() -> None:
    """Bit for bit without graph optimisation, and the same classes with it."""
    source = onnx.load(MODELS / "digits_cnn.onnx")
    with np.load(MODELS / "digits_test.npz") as arrays:
        x = np.asarray(arrays["x"][:64], np.float32)
    names = [site.name for site in onnxfit.find_sites(source)]
    assert_serves(source, {"image": x}, [dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.1)])
    model, inputs = with_run_time_jumps(source)
    for jump in (0.0, 0.1):
        (expected,) = onnxfit.session(onnxfit.retrofit(source, jump)).run(None, {"image": x})
        fed = {name: np.array(jump, np.float32) for name in inputs.values()}
        (found,) = onnxfit.session(model).run(None, {"image": x, **fed})
        assert expected.argmax(1).tolist() == found.argmax(1).tolist()


def test_a_hardened_model_drops_its_own_jumps(tmp_path: Path) -> None:
    """From a hardened file, and from one with run-time jumps, comes what comes from the source."""
    source = relu_model(nodes=TWO)
    expected = with_run_time_jumps(source)
    onnx.save(onnxfit.retrofit(source, jumps={"h": [0.5], "y": 0.25}), tmp_path / "m.onnx")
    found = with_run_time_jumps(tmp_path / "m.onnx")
    assert expected == found
    assert expected == with_run_time_jumps(expected[0])
    assert onnxfit.retrofit(source, 0.5) == onnxfit.retrofit(expected[0], 0.5)


def test_old_files_keep_their_version() -> None:
    """Before IR version 4 initializers are inputs, and they stay constants."""
    source = relu_model(9, nodes="h = Add(x, b) y = Relu(h)", ir_version=3)
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0.5], np.float32), "b"))
    source.graph.input.add(name="b").CopyFrom(
        onnx.helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])
    )
    model, _ = with_run_time_jumps(source)
    assert 3 == model.ir_version
    assert ["x", "b", "onnxfit.jump/y"] == [value.name for value in model.graph.input]
    assert_serves(source, {"x": X}, [{"y": 0.25}, {"y": 1.0}])


FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N] x) => (float[N] y) { h = Relu(x) y = local.inner(h) }
<domain: "local", opset_import: ["": 17]> inner (X) => (Y) { N = Neg(X) Y = Relu(N) }
"""


@pytest.mark.parametrize(
    ("source", "shapes", "message"),
    [
        (
            parse(FUNCTION),
            {},
            "'local::inner/Y' is inside a function, whose body sees no input of the graph: its "
            "jump cannot be one",
        ),
        (relu_model(nodes="y = Neg(x)"), {}, "the model has no activation to harden"),
        (relu_model(nodes=TWO), {"z": (1,)}, "no activation writes 'z'; the model has 'h', 'y'"),
    ],
)
def test_what_cannot_be_is_refused(
    source: ModelProto, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    """With a sentence that names the site."""
    with pytest.raises(ModelError, match=f"^{message}$"):
        with_run_time_jumps(source, shapes)


def test_the_names_of_the_inputs_are_reserved() -> None:
    """A model that uses one of its own is refused, as with the other names of onnxfit."""
    source = relu_model(nodes="y = Relu(x)")
    source.graph.node[0].input[0] = source.graph.input[0].name = "onnxfit.jump/y"
    message = r"^the model has 'onnxfit\.jump/y', a name that onnxfit keeps for itself$"
    with pytest.raises(ModelError, match=message):
        with_run_time_jumps(source)


def test_blocked_layouts_have_no_channels() -> None:
    """There an input must be one number."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft.nchwc": 1]> '
        "g (float[1,8,4,4] x) => (float[1,8,4,4] y) "
        '{ y = com.microsoft.nchwc.Conv<activation = "Relu">(x, w) }'
    )
    assert {"y": "onnxfit.jump/y"} == with_run_time_jumps(source)[1]
    with pytest.raises(ModelError, match=r"^'y' acts on ONNX Runtime's blocked layout, "):
        with_run_time_jumps(source, {"y": (8, 1, 1)})


@pytest.mark.parametrize("element_type", op.ELEMENT_TYPES, ids=NAMES.get)
@pytest.mark.parametrize("name", ["a/linear", "a/jump", "y"])
def test_standard_operators_are_read_back(name: str, element_type: int) -> None:
    """Whatever the site is called, the model can be restored and its sites are found."""
    main = NAMES[TensorProto.FLOAT if element_type != TensorProto.FLOAT else TensorProto.DOUBLE]
    source = relu_model(
        13, main, nodes=f"a = Relu(x) b = Relu(a) c = Cast<to = {element_type}>(b) y = Relu(c)"
    )
    source.graph.output[0].type.tensor_type.elem_type = element_type
    source.graph.node[3].output[0] = source.graph.output[0].name = name
    model, inputs = with_run_time_jumps(source)
    assert {"a": (), "b": (), name: ()} == onnxfit.inspect(model).jumps
    assert "standard" == onnxfit.find_sites(model)[2].lowering
    assert source == onnxfit.restore(model)
    assert element_type == model.graph.input[-1].type.tensor_type.elem_type
    assert f"onnxfit.jump/{name}" == inputs[name]
