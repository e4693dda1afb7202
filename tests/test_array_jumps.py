"""Jumps that are arrays: one size per channel or element, through the operator's input J."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command import Command
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from support import (
    BITS,
    MODELS,
    NAMES,
    dtype_of,
    edge_values,
    newest_opset,
    parse,
    plain_session,
    quiet,
    relu_model,
    run,
    run_one,
    same_bits,
)

import onnxfit
from onnxfit import op
from onnxfit.errors import ModelError
from onnxfit.hardening import Lowering
from onnxfit.record import provenance

LOWERINGS: tuple[Lowering, ...] = ("function", "custom", "standard")
SIZES = (0.0, 0.1, 0.5)
TWO = "h = Relu(x) n = Neg(h) s = Add(n, x) y = Relu(s)"
X = np.stack([np.linspace(-1, 2, 31, dtype=np.float32)] * 3, axis=1)

Array = NDArray[Any]


def table(element_type: str, opset: int, nodes: str = "y = Relu(x)") -> ModelProto:
    """Make a model of rows of three columns."""
    return parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g ({element_type}[N,3] x) => ({element_type}[N,3] y) {{ {nodes} }}"
    )


def sessions(model: ModelProto, lowering: Lowering) -> list[onnxruntime.InferenceSession]:
    """Start a model with the library, and without it where it can do without."""
    started = [onnxfit.session(model, quiet(optimise=False))]
    return started if lowering == "custom" else [*started, plain_session(model)]


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("element_type", op.ELEMENT_TYPES, ids=NAMES.get)
def test_files_equal_the_reference_bit_for_bit(element_type: int, lowering: Lowering) -> None:
    """At every opset and of every type, with and without the library; and they restore."""
    oldest = op.MIN_OPSET_BFLOAT16 if element_type == TensorProto.BFLOAT16 else op.MIN_OPSET
    rounded = op.round_jumps(SIZES, element_type)
    x = np.stack([edge_values(element_type, float(jump)) for jump in rounded], axis=1)
    expected = op.jump_relu(x, rounded.astype(x.dtype))
    for opset in range(oldest, newest_opset() + 1):
        source = table(NAMES[element_type], opset)
        hard = onnxfit.retrofit(source, jumps={"y": SIZES}, lowering=lowering)
        assert source.SerializeToString() == onnxfit.restore(hard).SerializeToString()
        assert {"y": SIZES} == onnxfit.inspect(hard).jumps
        for session in sessions(hard, lowering):
            assert same_bits(expected, run_one(session, x)), f"opset {opset}"


@pytest.mark.parametrize("opset", [8, 11, 13, 17])
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_numbers_beside_arrays_mean_the_same(lowering: Lowering, opset: int) -> None:
    """A file of both carries all by J, since it holds one body; numbers repeat the attribute."""
    jumps: dict[str, Any] = {"h": 0.25, "y": [[0.5], [1.0]]}
    source = parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g (float[N,2,31] x) => (float[N,2,31] y) {{ {TWO} }}"
    )
    hard = onnxfit.retrofit(source, jumps=jumps, lowering=lowering)
    onnx.checker.check_model(hard, full_check=True)
    x = np.stack([X[:, :2].T] * 2)
    difference: Array = x - np.where(x <= 0.25, np.float32(0), x)
    expected = op.jump_relu(difference, np.array([[0.5], [1.0]], np.float32))
    for session in sessions(hard, lowering):
        assert same_bits(expected, run_one(session, x))
    assert {"h": 0.25, "y": (0.5, 1.0)} == onnxfit.inspect(hard).jumps
    assert jumps == provenance(hard)["jumps"]
    if lowering == "function":
        one, other = (node for node in hard.graph.node if node.op_type == "JumpReLU")
        assert (2, [("jump", 0.25)]) == (len(one.input), [(a.name, a.f) for a in one.attribute])
        assert (2, []) == (len(other.input), list(other.attribute))
        assert ["X", "J"] == list(hard.functions[0].input)


IF = """
<ir_version: 8, opset_import: ["": 16]>
g (float[N,3] x, bool c) => (float[N,3] y) {
  a = If(c) < then_branch = t () => (float[N,3] u) { u = Relu(x) },
              else_branch = e () => (float[N,3] v) { n = Neg(x) v = Relu(n) } >
  d = Sub(a, x)
  y = Relu(d)
}
"""
LOOP = """
<ir_version: 8, opset_import: ["": 13]>
g (float[N,3] x, int64 n, bool c) => (float[N,3] y) <float step = {0.25}> {
  y = Loop(n, c, x) < body = b (int64 i, bool go, float[N,3] v) => (bool on, float[N,3] next) {
    on = Identity(go) less = Sub(v, step) next = Relu(less) } >
}
"""
FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N,3] x) => (float[N,3] y) { h = local.inner(x) y = local.inner(h) }
<domain: "local", opset_import: ["": 17]> inner (X) => (Y) { N = Neg(X) Y = Relu(N) }
"""


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("text", [IF, LOOP, FUNCTION], ids=["if", "loop", "function"])
def test_sites_inside_others_take_arrays(text: str, lowering: Lowering) -> None:
    """In subgraphs and functions the array stands at the top; a column has its own jump."""
    source = parse(text)
    names = [site.name for site in onnxfit.find_sites(source)]
    jumps = {name: [(i + k) / 10 for k in range(3)] for i, name in enumerate(names)}
    hard = onnxfit.retrofit(source, jumps=jumps, lowering=lowering)
    assert source.SerializeToString() == onnxfit.restore(hard).SerializeToString()
    assert jumps == {k: list(v) for k, v in onnxfit.inspect(hard).jumps.items()}  # type: ignore[arg-type]
    feeds = {"x": X, "c": np.array(True), "n": np.array(3)}
    feeds = {value.name: feeds[value.name] for value in source.graph.input}
    columns = [
        run(onnxfit.retrofit(source, jumps={n: j[k] for n, j in jumps.items()}), feeds)[0][:, k]
        for k in range(3)
    ]
    runs = [session.run(None, feeds)[0] for session in sessions_of(hard)]
    assert 2 == len(runs) or lowering == "custom"
    for found in runs:
        assert same_bits(np.stack(columns, axis=1), np.ascontiguousarray(found))


def sessions_of(model: ModelProto) -> list[onnxruntime.InferenceSession]:
    """Start a model in every way in which it runs."""
    needed = any(n.domain == "onnxfit" for n in model.graph.node) and not model.functions
    inner = provenance(model)["lowering"] == "custom"
    return sessions(model, "custom" if needed or inner else "function")


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("name", ["a/linear", "a/jump", "0.5", "linear", "y/elements"])
def test_any_name_of_a_site_can_be_read_back(name: str, lowering: Lowering) -> None:
    """No name of a value makes the constant of its array look like another value."""
    for element_type in ("float", "bfloat16"):
        source = table(element_type, 17, "a = Relu(x) b = Neg(a) y = Identity(b)")
        source.graph.node[0].output[0] = source.graph.node[1].input[0] = name
        hard = onnxfit.retrofit(source, jumps={name: SIZES}, lowering=lowering)
        assert {name: SIZES} == onnxfit.inspect(hard).jumps
        assert source == onnxfit.restore(hard)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_clip_keeps_its_upper_bound(lowering: Lowering) -> None:
    """ReLU6 with a jump for each column: JumpReLU, then the clip."""
    source = table("float", 10, "y = Clip<min = 0.0, max = 0.75>(x)")
    hard = onnxfit.retrofit(source, jumps={"y": SIZES}, lowering=lowering)
    expected = np.minimum(op.jump_relu(X, np.array(SIZES, np.float32)), np.float32(0.75))
    for session in sessions(hard, lowering):
        assert same_bits(expected, run_one(session, X))
    assert source == onnxfit.restore(hard)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("activation", ['"Relu"', '"Clip", activation_params = [0.0, 0.75]'])
def test_a_fused_activation_takes_an_array(activation: str, lowering: Lowering) -> None:
    """Behind ONNX Runtime's FusedConv a channel is an axis as behind a Conv."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> '
        "g (float[1,3,1,31] x) => (float[1,3,1,31] y) "
        f"{{ y = com.microsoft.FusedConv<group = 3, activation = {activation}>(x, w) }}"
    )
    weights = np.ones((3, 1, 1, 1), np.float32)
    source.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    sizes = np.reshape(SIZES, (3, 1, 1))
    hard = onnxfit.retrofit(source, jumps={"y": sizes}, lowering=lowering)
    x = np.ascontiguousarray(X.T).reshape(1, 3, 1, 31)
    expected = op.jump_relu(x, sizes.astype(np.float32))
    if "Clip" in activation:
        expected = np.minimum(expected, np.float32(0.75))
    for session in sessions(hard, lowering):
        assert same_bits(expected, run_one(session, x))
    assert source.SerializeToString() == onnxfit.restore(hard).SerializeToString()


def test_a_function_called_with_several_types_computes_with_each() -> None:
    """J has the type of X in each call, through standard operators."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17, "local": 1]> '
        "g (float[N,3] x) => (float[N,3] y) { a = local.act(x) b = Cast<to = 11>(a) "
        "c = local.act(b) y = Cast<to = 1>(c) } "
        '<domain: "local", opset_import: ["": 17]> act (v) => (w) { w = Relu(v) }'
    )
    sizes = np.array(SIZES, np.float32)
    for lowering in LOWERINGS:
        hard = onnxfit.retrofit(source, jumps={"local::act/w": sizes}, lowering=lowering)
        for session in sessions(hard, "function"):
            assert same_bits(op.jump_relu(X, sizes), run_one(session, X))
        assert source == onnxfit.restore(hard)


def test_a_site_of_unknown_type_casts_its_array() -> None:
    """J must have the type of X, so that standard operators compare, in any lowering."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17, "foreign": 1]> '
        "g (int64[N,3] i) => (float[N,3] y) { a = foreign.Decode(i) b = Relu(a) "
        "y = Cast<to = 1>(b) }"
    )
    assert [""] == [site.element_type for site in onnxfit.find_sites(source)]
    for lowering in LOWERINGS:
        hard = onnxfit.retrofit(source, jumps={"b": SIZES}, lowering=lowering)
        assert ["standard"] == [site.lowering for site in onnxfit.find_sites(hard)]
        assert {"b": SIZES} == onnxfit.inspect(hard).jumps
        assert source == onnxfit.restore(hard)


@pytest.mark.parametrize("element_type", op.ELEMENT_TYPES, ids=NAMES.get)
def test_files_load_without_a_warning(element_type: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The body that takes J leaves a server's log clean at every opset, as the other one does."""
    oldest = op.MIN_OPSET_BFLOAT16 if element_type == TensorProto.BFLOAT16 else op.MIN_OPSET
    for opset in range(oldest, newest_opset() + 1):
        hard = onnxfit.retrofit(table(NAMES[element_type], opset), jumps={"y": SIZES})
        options = quiet()
        options.log_severity_level = 2
        onnxruntime.InferenceSession(
            hard.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        assert capfd.readouterr().err == "", f"opset {opset}"


@pytest.mark.parametrize("opset", [8, 13, 17])
def test_files_of_several_element_types_run(opset: int) -> None:
    """The body that J feeds serves the types that it can; the others are standard operators."""
    text = "a = Relu(x) b = Relu(a) c = Cast<to = 10>(b) d = Relu(c) y = Cast<to = 1>(d)"
    source = table("float", opset, text)
    hard = onnxfit.retrofit(source, 0.0, jumps={"a": SIZES, "d": [0.25, 0.75, 1.0]})
    x = X.astype(np.float16).astype(np.float32)
    expected = op.jump_relu(x, np.maximum(SIZES, [0.25, 0.75, 1.0]).astype(np.float32))
    for session in sessions(hard, "function"):
        assert same_bits(expected, run_one(session, x))
    assert source == onnxfit.restore(hard)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("opset", [9, 17])
def test_hardening_again_keeps_arrays(opset: int, lowering: Lowering) -> None:
    """Sites that are not named keep their arrays, shape included, in any lowering."""
    source = table("float16", opset, TWO)
    expected = onnxfit.retrofit(source, jumps={"h": [SIZES], "y": 1.0}, lowering=lowering)
    for earlier in LOWERINGS:
        first = onnxfit.retrofit(source, jumps={"h": [SIZES], "y": [[0.5]]}, lowering=earlier)
        assert expected == onnxfit.retrofit(first, jumps={"y": 1.0}, lowering=lowering)


def test_a_file_carries_arrays_rounded_to_the_activation() -> None:
    """Each element as a number would be; the record has the numbers that were given."""
    hard = onnxfit.retrofit(table("float16", 17), jumps={"y": [[0.1, 0.2, 1 / 3]]})
    (constant,) = (node for node in hard.graph.node if node.op_type == "Constant")
    found = onnx.numpy_helper.to_array(constant.attribute[0].t)
    assert "onnxfit.constant/float16/y/elements" == constant.output[0]
    expected = [op.round_jump(j, TensorProto.FLOAT16) for j in (0.1, 0.2, 1 / 3)]
    assert same_bits(np.array([expected], np.float16), found)
    assert {"y": [[0.1, 0.2, 0.3333]]} == provenance(hard)["jumps"]


@pytest.mark.parametrize("element_type", op.ELEMENT_TYPES, ids=NAMES.get)
def test_arrays_are_rounded_as_numbers_are(element_type: int) -> None:
    """Element by element the same number, halfway cases included."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0x3A00_0000, 0x4200_0000, 200, np.uint32)
    sizes = np.concatenate([bits.view(np.float32), (bits & 0xFFFF8000).view(np.float32)])
    expected = [op.round_jump(float(size), element_type) for size in sizes]
    assert expected == op.round_jumps(sizes, element_type).tolist()
    own = sizes.astype(dtype_of(element_type))
    assert own.astype(np.float64).tolist() == expected
    assert expected == op.round_jumps(own, element_type).tolist()


def test_no_file_carries_a_jump_of_minus_zero() -> None:
    """In an array it becomes 0, as a number does."""
    rounded = op.round_jumps([-0.0, 1.0], TensorProto.FLOAT)
    assert same_bits(np.array([0, 1], np.float32), rounded)


@pytest.mark.parametrize("element_type", op.ELEMENT_TYPES, ids=NAMES.get)
def test_arrays_are_shown_as_numbers_are(element_type: int) -> None:
    """Element by element the same digits, also of what is no jump size of the type."""
    rng = np.random.default_rng(0)
    sizes = [0.0, 0.1, 1 / 3, 2.0**-20, 8 / 255, *rng.uniform(0, 4, 200).tolist()]
    rounded = [op.round_jump(size, element_type) for size in sizes]
    for jumps in (rounded, [*rounded, -1.0]):
        expected = [op.shortest(jump, element_type) for jump in jumps]
        assert expected == op.shortest_of_each(jumps, element_type)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        ([-1.0, 1], ValueError, r"'y': a jump size is finite and at least 0, got -1\.0"),
        ([1, np.nan], ValueError, r"'y': a jump size is finite and at least 0, got nan"),
        ([np.inf], ValueError, r"'y': a jump size is finite and at least 0, got inf"),
        (
            [0, 1e-50],
            ValueError,
            r"'y': the jump size 1e-50 is 0 in float16; give 0 where .* meant",
        ),
        ([7e4], ValueError, r"'y': the jump size 70000\.0 is not a finite float16"),
        ([[]], ValueError, r"'y': there are no jump sizes in an array of shape \(1, 0\)"),
        (
            [[1], [1, 2]],
            TypeError,
            r"'y': a jump per element is an array of numbers, got \[\[1\].*",
        ),
        (["1"], TypeError, r"'y': a jump per element is an array of numbers, got \['1'\]"),
        ([True], TypeError, r"'y': a jump per element is an array of numbers, got \[True\]"),
        ({}, TypeError, r"a jump size is a number, got \{\}"),
    ],
)
def test_arrays_that_are_no_jumps_are_refused(
    size: Any, error: type[Exception], message: str
) -> None:
    """With a sentence that names the site and quotes what is wrong."""
    with pytest.raises(error, match=f"^{message}$"):
        onnxfit.retrofit(table("float16", 17), jumps={"y": size})


def test_the_common_jump_is_a_number() -> None:
    """Sites differ in shape, so that no array fits them all."""
    with pytest.raises(TypeError, match=r"^a jump size is a number, got \[0\.5\]$"):
        onnxfit.retrofit(table("float", 17), [0.5])  # type: ignore[arg-type]


def test_an_array_without_axes_is_a_number() -> None:
    """What NumPy's reductions return is carried by the attribute as other numbers are."""
    source = table("float", 17)
    expected = onnxfit.retrofit(source, jumps={"y": 0.5})
    assert expected == onnxfit.retrofit(source, jumps={"y": np.array(0.5)})


def test_blocked_layouts_take_numbers_alone(tmp_path: Path) -> None:
    """Where ONNX Runtime's optimiser keeps channels in blocks, an array would hit other ones."""
    options = quiet()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        str(MODELS / "digits_cnn.onnx"), options, providers=["CPUExecutionProvider"]
    )
    model = onnx.load(tmp_path / "optimised.onnx")
    if all(node.domain != "com.microsoft.nchwc" for node in model.graph.node):
        pytest.skip("ONNX Runtime uses no blocked layout on this machine")
    name = next(site.name for site in onnxfit.find_sites(model) if site.kind == "fused")
    message = (
        rf"^{name!r} acts on ONNX Runtime's blocked layout, in which a channel is not an axis: "
        "give it one number, or harden the model before it is optimised$"
    )
    with pytest.raises(ModelError, match=message):
        onnxfit.retrofit(model, jumps={name: np.zeros((32, 1, 1))})
    assert {name: 0.5} == onnxfit.inspect(onnxfit.retrofit(model, jumps={name: 0.5})).jumps


def test_ordinary_operators_pass_the_blocked_layout_on() -> None:
    """A Relu between blocked convolutions is as blocked as they are, one behind the last is not."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft.nchwc": 1]> '
        "g (float[1,8,4,4] x) => (float[1,8,4,4] y) { a = com.microsoft.nchwc.Conv(x, w) "
        "b = Add(a, a) c = Relu(b) d = com.microsoft.nchwc.ReorderOutput<channels = 8>(c) "
        "y = Relu(d) }"
    )
    array = np.zeros((8, 1, 1))
    with pytest.raises(ModelError, match=r"^'c' acts on ONNX Runtime's blocked layout, "):
        onnxfit.retrofit(model, jumps={"c": array})
    assert {"y": (0.0,) * 8} == onnxfit.inspect(onnxfit.retrofit(model, jumps={"y": array})).jumps


def test_the_twin_computes_arrays_bit_for_bit() -> None:
    """As the reference and ONNX Runtime do, in each lowering and type that the twin has."""
    torch = pytest.importorskip("torch")
    for element_type, bits in BITS.items():
        rounded = op.round_jumps(SIZES, element_type)
        x = np.stack([edge_values(element_type, float(jump)) for jump in rounded], axis=1)
        expected = op.jump_relu(x, rounded.astype(x.dtype))
        dtype = getattr(torch, NAMES[element_type])
        integers = np.dtype(f"i{bits.itemsize}")
        given = torch.from_numpy(x.view(integers)).view(dtype)
        for opset in (8, 11, 17) if element_type != TensorProto.BFLOAT16 else (13, 17):
            for lowering in LOWERINGS:
                source = table(NAMES[element_type], opset)
                hard = onnxfit.retrofit(source, jumps={"y": SIZES}, lowering=lowering)
                twin = onnxfit.to_torch(hard)
                assert (3,) == twin.get_buffer("parts.jumprelu0.jump").shape
                found = twin(given)
                assert dtype == found.dtype
                found = found.view(getattr(torch, integers.name)).numpy()
                where = f"{NAMES[element_type]} {opset} {lowering}"
                assert same_bits(expected.view(integers), found), where


@pytest.mark.parametrize("text", [IF, LOOP, FUNCTION], ids=["if", "loop", "function"])
def test_the_twin_finds_arrays_wherever_the_site_is(text: str) -> None:
    """In subgraphs and functions too, in each lowering."""
    torch = pytest.importorskip("torch")
    source = parse(text)
    names = [site.name for site in onnxfit.find_sites(source)]
    for lowering in LOWERINGS:
        hard = onnxfit.retrofit(source, jumps=dict.fromkeys(names, SIZES), lowering=lowering)
        twin = onnxfit.to_torch(hard)
        assert set(names) == set(twin.sites)
        feeds = {"x": X, "c": np.array(True), "n": np.array(3)}
        feeds = {value.name: feeds[value.name] for value in source.graph.input}
        (expected,) = onnxfit.session(hard, quiet(optimise=False)).run(None, feeds)
        found = twin(*(torch.from_numpy(value) for value in feeds.values()))
        assert same_bits(expected, found.numpy())


def test_a_network_with_a_jump_per_channel() -> None:
    """Twin and file agree on a convolutional network, and the file restores byte for byte."""
    torch = pytest.importorskip("torch")
    source = onnx.load(MODELS / "digits_cnn.onnx")
    twin = onnxfit.to_torch(onnxfit.retrofit(source, 0.0))
    shapes = {}
    for name, site in twin.sites.items():
        site.register_forward_hook(lambda _, __, y, name=name: shapes.update({name: y.shape[1:]}))
    with np.load(MODELS / "digits_val.npz") as arrays:
        x = np.asarray(arrays["x"][:32], np.float32)
    twin(torch.from_numpy(x))
    rng = np.random.default_rng(0)
    jumps = {
        name: rng.uniform(0, 0.2, (shape[0], *[1] * (len(shape) - 1)))
        for name, shape in shapes.items()
    }
    hard = onnxfit.retrofit(source, jumps=jumps)
    assert source.SerializeToString() == onnxfit.restore(hard).SerializeToString()
    assert onnxfit.parity(hard, onnxfit.to_torch(hard), x).agrees
    plain = run(source, {"image": x})[0]
    assert not np.array_equal(plain, run(hard, {"image": x})[0])


def test_the_command_takes_nested_lists(tmp_path: Path, onnxfit_command: Command) -> None:
    """The table shows how many there are and their range; inspect --json has all of them."""
    onnx.save(table("float", 17, TWO), tmp_path / "m.onnx")
    (tmp_path / "jumps.json").write_text('{"h": [[0.25, 0.5, 0.75]], "y": 1}')
    arguments = ("retrofit", tmp_path / "m.onnx", "--jumps", tmp_path / "jumps.json")
    ran = onnxfit_command(*arguments)
    assert (0, "") == (ran.status, ran.err)
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["h", "relu", "float", "3", "from", "0.25", "to", "0.75", "operator"] in rows
    assert ["y", "relu", "float", "1.0", "operator"] in rows
    document = json.loads(onnxfit_command("inspect", tmp_path / "m.jump.onnx", "--json").out)
    assert {"h": [0.25, 0.5, 0.75], "y": 1.0} == document["jumps"]


@pytest.mark.parametrize(
    ("jump", "message"),
    [
        ("[0.5, -1]", "{path}: the jump of 'h' holds -1, not a number of at least 0"),
        ("[[0.5], [true]]", "{path}: the jump of 'h' holds True, not a number of at least 0"),
        ('[0.5, "1"]', "{path}: the jump of 'h' holds '1', not a number of at least 0"),
        ("[0.5, {}]", "{path}: the jump of 'h' holds {{}}, not a number of at least 0"),
        ("[[1], [1, 2]]", "{path}: the lists in the jump of 'h' differ in length or depth"),
        ("[1, [1]]", "{path}: the lists in the jump of 'h' differ in length or depth"),
        ("[]", "'h': there are no jump sizes in an array of shape (0,)"),
        ("[1e-50]", "'h': the jump size 1e-50 is 0 in float; give 0 where that is meant"),
    ],
)
def test_wrong_lists_are_status_2_with_one_sentence(
    jump: str, message: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """It names the site and what is wrong, and no file is written."""
    onnx.save(relu_model(nodes=TWO), tmp_path / "m.onnx")
    path = tmp_path / "jumps.json"
    path.write_text(f'{{"h": {jump}}}')
    ran = onnxfit_command("retrofit", tmp_path / "m.onnx", "--jumps", path)
    assert (2, "") == (ran.status, ran.out)
    assert f"Error: {message.format(path=path)}" == ran.err.splitlines()[-1]
    assert not (tmp_path / "m.jump.onnx").exists()
