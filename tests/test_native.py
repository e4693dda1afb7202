"""The custom-op library in ONNX Runtime, bit for bit, and as a file."""

import ctypes
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from check_drivers import tool
from native_support import (
    BFLOAT16,
    COUNT_BUFFERS,
    ELEMENT_TYPES,
    FLOAT,
    FLOAT16,
    HEADER,
    JUMP,
    Bits,
    ElementType,
    element_types,
    jump_relu,
    session,
)

import onnxfit
from onnxfit.errors import NativeLibraryError
from onnxfit.native_library import build_info, cuda_devices


@pytest.fixture(scope="module")
def library() -> Path:
    """Return the custom-op library; skip where none was built."""
    try:
        return onnxfit.library_path()
    except NativeLibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(
    params=["CPUExecutionProvider", pytest.param("CUDAExecutionProvider", marks=pytest.mark.gpu)]
)
def provider(request: pytest.FixtureRequest, library: Path) -> str:
    """Return a provider to run on; skip CUDA where this machine cannot run it."""
    name: str = request.param
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {name}")
    if name not in build_info()["providers"]:
        pytest.skip(f"{library} was built without {name}")
    if name == "CUDAExecutionProvider" and cuda_devices() == 0:
        pytest.skip("no CUDA device here")
    return name


def graph(
    kind: ElementType, x_rank: int, j_rank: int | None = None, jump: float | None = JUMP
) -> str:
    """Write a model of one JumpReLU, with input J if its rank is given."""
    x_type, j_type = (
        kind.name + (f"[{','.join(f'{axis}{i}' for i in range(rank))}]" if rank else "")
        for axis, rank in (("x", x_rank), ("j", j_rank or 0))
    )
    attribute = "" if jump is None else f"<jump: float = {jump!r}>"
    inputs = f"{x_type} x" if j_rank is None else f"{x_type} x, {j_type} j"
    call = f"onnxfit.JumpReLU {attribute} ({'x' if j_rank is None else 'x, j'})"
    return f"{HEADER} g ({inputs}) => ({x_type} y) {{ y = {call} }}"


def run(
    started: onnxruntime.InferenceSession, kind: ElementType, x: Bits, j: Bits | None = None
) -> Bits:
    """Run one JumpReLU on bits; binding by address works for every type and alignment."""
    y = np.empty_like(x)
    binding = started.io_binding()
    binding.bind_input("x", "cpu", 0, kind.code, x.shape, x.ctypes.data)
    if j is not None:
        binding.bind_input("j", "cpu", 0, kind.code, j.shape, j.ctypes.data)
    binding.bind_output("y", "cpu", 0, kind.code, y.shape, y.ctypes.data)
    started.run_with_iobinding(binding)
    return y


@element_types
@pytest.mark.parametrize("shape", [(), (0,), (1,), (31,), (3, 0, 2), (2, 3, 5, 7), (100_003,)])
def test_attribute(kind: ElementType, shape: tuple[int, ...], provider: str) -> None:
    """With the attribute, every bit is as the definition has it."""
    x = kind.edges(shape)
    jump = np.array(kind.jump, kind.bits)

    y = run(session(graph(kind, x.ndim), provider), kind, x)

    np.testing.assert_array_equal(jump_relu(kind, x, jump), y)


@element_types
@pytest.mark.parametrize(
    ("x_shape", "j_shape"),
    [
        pytest.param((), (), id="scalars"),
        pytest.param((3, 0, 2), (3, 1, 1), id="empty"),
        pytest.param((100_003,), (), id="scalar"),
        pytest.param((2, 3, 5, 7), (1,), id="one-element"),
        pytest.param((2, 3, 5, 7), (3, 1, 1), id="per-channel"),
        pytest.param((3, 257, 13, 17), (257, 1, 1), id="per-channel-large"),
        pytest.param((2, 3, 5, 7), (7,), id="last-axis"),
        pytest.param((2, 3, 5, 7), (2, 1, 5, 1), id="every-other-axis"),
        pytest.param((3, 33, 13, 97), (3, 1, 13, 1), id="every-other-axis-large"),
        pytest.param((2, 3, 5, 7), (2, 3, 5, 7), id="elementwise"),
    ],
)
def test_input(
    kind: ElementType, x_shape: tuple[int, ...], j_shape: tuple[int, ...], provider: str
) -> None:
    """Jumps fed at run time, negative and NaN ones too, override the attribute, bit for bit."""
    x, j = kind.edges(x_shape), kind.edges(j_shape, start=4)

    y = run(session(graph(kind, x.ndim, j.ndim), provider), kind, x, j)

    np.testing.assert_array_equal(jump_relu(kind, x, j), y)


CONSTANT = "<float[3,1,1] j = {0.25, 0.5, 0.75}>"
BRANCH = (
    "y = If (c) <then_branch = t () => (float[] a) { a = onnxfit.JumpReLU (x, j) }, "
    "else_branch = e () => (float[] b) { b = onnxfit.JumpReLU (x, k) }>"
)


@pytest.mark.parametrize(
    ("inputs", "nodes"),
    [
        ("", "y = onnxfit.JumpReLU (x, j)"),
        (", float[] j", "y = onnxfit.JumpReLU (x, j)"),
        (", bool c, float[] k", BRANCH),
        (", bool c, float[] k, float[] j", BRANCH),
    ],
    ids=["constant", "default", "constant seen from a branch", "default seen from a branch"],
)
def test_initializer(inputs: str, nodes: str, library: Path) -> None:
    """J lies along X by the shape that it has in this run, be it a constant, a default or given."""
    model = f"{HEADER} g (float[N,3,4,5] x{inputs}) => (float[N,3,4,5] y) {CONSTANT} {{ {nodes} }}"
    started = session(model)
    names = {value.name for value in started.get_inputs()} | {
        value.name for value in started.get_overridable_initializers()
    }
    x = np.linspace(-1, 1, 120, dtype=np.float32).reshape(2, 3, 4, 5)
    default = np.array([0.25, 0.5, 0.75], np.float32).reshape(3, 1, 1)
    others = [np.linspace(0, 1, size, dtype=np.float32) for size in (5, 1, 5)]
    for given in (default, *others, default):
        for condition in (True, False):
            feeds = {"x": x, "c": np.array(condition), "k": given}
            if given is not default:
                feeds["j"] = given
            jump = given if "j" in names or ("k" in names and not condition) else default
            (y,) = started.run(None, {name: feeds[name] for name in feeds.keys() & names})
            np.testing.assert_array_equal(np.where(x <= jump, 0, x), y)


@element_types
@pytest.mark.parametrize("jump", [kind.jump for kind in ELEMENT_TYPES], ids=hex)
def test_scalar_input_at_each_edge(kind: ElementType, jump: int, provider: str) -> None:
    """A scalar J may be any value of X's type: zeros, infinities, subnormals and NaN."""
    started = session(graph(kind, 1, 0), provider)
    x = kind.edges((61,))

    for value in [kind.bits(jump & (2 ** (8 * x.itemsize) - 1)), *kind.edges((24,))]:
        j = np.array(value, kind.bits)
        np.testing.assert_array_equal(jump_relu(kind, x, j), run(started, kind, x, j))


@element_types
def test_without_jump(kind: ElementType, provider: str) -> None:
    """Without attribute and input the jump is 0, and -0 becomes +0."""
    x = kind.edges((48,))

    y = run(session(graph(kind, 1, jump=None), provider), kind, x)

    np.testing.assert_array_equal(jump_relu(kind, x, np.array(0, kind.bits)), y)


# Ties between two float16 values, a subnormal one, one too small and one too large.
@pytest.mark.parametrize("jump", [0.1, 0.3, 1 + 2**-11, 1 + 3 * 2**-11, 1e-7, 2**-25, 65520.0])
def test_float16_jump_is_rounded_to_even(jump: float, provider: str) -> None:
    """The attribute is rounded to float16 as NumPy rounds."""
    with np.errstate(over="ignore"):
        rounded = np.float16(jump).view(np.uint16)
    near = np.clip(np.arange(-3, 4) + int(rounded), 0, FLOAT16.infinity).astype(np.uint16)

    y = run(session(graph(FLOAT16, 1, jump=jump), provider), FLOAT16, near)

    np.testing.assert_array_equal(jump_relu(FLOAT16, near, np.array(rounded)), y)


@pytest.mark.parametrize(
    ("jump", "rounded"),
    [(0.1, 0x3DCD), (0.3, 0x3E9A), (1 + 2**-8, 0x3F80), (1 + 3 * 2**-8, 0x3F82), (3.4e38, 0x7F80)],
)
def test_bfloat16_jump_is_rounded_to_even(jump: float, rounded: int, provider: str) -> None:
    """The attribute is rounded to bfloat16, ties to even."""
    near = np.clip(np.arange(-3, 4) + rounded, 0, BFLOAT16.infinity).astype(np.uint16)

    y = run(session(graph(BFLOAT16, 1, jump=jump), provider), BFLOAT16, near)

    np.testing.assert_array_equal(jump_relu(BFLOAT16, near, np.array(rounded, np.uint16)), y)


@element_types
@pytest.mark.parametrize("length", [1, 7, 8, 64, 40_001])
def test_unaligned_start(kind: ElementType, length: int, provider: str) -> None:
    """Tensors may start at any element, not only at a 16-byte boundary."""
    x = kind.edges((length + 1,))[1:]
    started = session(graph(kind, 1), provider)

    np.testing.assert_array_equal(
        jump_relu(kind, x, np.array(kind.jump, kind.bits)), run(started, kind, x)
    )


@pytest.mark.parametrize("value", ["-1.0", "-0.0000001", "inf", "nan"])
def test_bad_attribute(value: str, library: Path) -> None:
    """A negative, infinite or NaN jump is refused when the session starts, and named."""
    model = onnx.parser.parse_model(graph(FLOAT, 1))
    model.graph.node[0].attribute[0].f = float(value)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    options.log_severity_level = 4

    with pytest.raises(Exception, match="JumpReLU: attribute 'jump' must be finite and at least 0"):
        onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize(
    "value", ["<jump: int = 1>", '<jump: string = "1">', "<jump: floats = [1.0]>"]
)
def test_attribute_of_another_type(value: str, library: Path) -> None:
    """An attribute that is no float is refused, not taken for absent."""
    model = f"{HEADER} g (float[n] x) => (float[n] y) {{ y = onnxfit.JumpReLU {value} (x) }}"

    with pytest.raises(Exception, match="JumpReLU: attribute 'jump' must be a float"):
        session(model)


@pytest.mark.parametrize(
    ("x_shape", "j_shape"),
    [((2, 3), (2,)), ((3,), (1, 3)), ((1,), (3,)), ((1,), (0,)), ((0,), (3,))],
)
def test_bad_jump_shape(x_shape: tuple[int, ...], j_shape: tuple[int, ...], provider: str) -> None:
    """A J that does not broadcast to X is refused at run time, and both shapes are named."""
    started = session(graph(FLOAT, len(x_shape), len(j_shape)), provider)
    shapes = "J [{}] and X [{}]".format(*(",".join(map(str, s)) for s in (j_shape, x_shape)))

    with pytest.raises(Exception, match=re.escape(f"must broadcast to the shape of X: {shapes}")):
        run(started, FLOAT, FLOAT.edges(x_shape), FLOAT.edges(j_shape))


@pytest.mark.parametrize(
    ("declared", "shape"),
    [("", ()), ("[]", (2, 4)), ("[]", ()), ("[?,4]", (2, 4)), ("[n,4]", (2, 4)), ("[2,4]", (2, 4))],
)
def test_declared_shape(declared: str, shape: tuple[int, ...], library: Path) -> None:
    """Whatever is known of X's shape beforehand, Y has the shape that X turns out to have."""
    nodes = "z = onnxfit.JumpReLU <jump = 0.3> (x)  y = Neg (z)"
    started = session(f"{HEADER} g (float{declared} x) => (float[] y) {{ {nodes} }}")
    x = np.full(shape, 0.5, np.float32)

    np.testing.assert_array_equal(-x, started.run(None, {"x": x})[0], strict=True)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_thread_pool(threads: int, library: Path) -> None:
    """However many threads ONNX Runtime has, each element is computed, in its place."""
    rows = np.arange(1_000_003, dtype=np.uint32) % 4096 + FLOAT.jump - 2048

    y = run(session(graph(FLOAT, 1), threads=threads), FLOAT, rows.astype(np.uint32))

    np.testing.assert_array_equal(np.where(rows <= FLOAT.jump, 0, rows), y)


def test_threads_share_a_session(library: Path) -> None:
    """Eight Python threads run one session at once, each with its own data."""
    started = session(graph(FLOAT, 3, 3), threads=2)

    def right(seed: int) -> bool:
        x, j = FLOAT.edges((64, 31, 29), start=seed), FLOAT.edges((64, 1, 1), start=3 * seed)
        return all(
            np.array_equal(jump_relu(FLOAT, x, j), run(started, FLOAT, x, j)) for _ in range(20)
        )

    with ThreadPoolExecutor(8) as pool:
        assert [True] * 8 == list(pool.map(right, range(8)))


def test_sessions_side_by_side(library: Path) -> None:
    """Sessions that start and run at once keep their own jumps."""
    x = np.linspace(0, 1, 1001, dtype=np.float32)

    def right(number: int) -> bool:
        jump = np.float32(number / 16)
        y = run(session(graph(FLOAT, 1, jump=float(jump))), FLOAT, x.view(np.uint32))
        return np.array_equal(np.where(x <= jump, 0, x), y.view(np.float32))

    with ThreadPoolExecutor(8) as pool:
        assert [True] * 16 == list(pool.map(right, range(16)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("nodes", "buffers"),
    [
        pytest.param("a = Abs (x)  b = onnxfit.JumpReLU (a)  y = ReduceMax (b)", 1, id="in-place"),
        pytest.param(
            "a = Abs (x)  b = onnxfit.JumpReLU (a)  c = Sub (a, b)  y = ReduceMax (c)",
            3,
            id="input-still-needed",
        ),
    ],
)
def test_in_place(nodes: str, buffers: int, library: Path) -> None:
    """Y takes X's memory where nothing else needs X."""
    model = f"{HEADER} g (float[16777216] x) => (float[1] y) {{ {nodes} }}"
    command = [sys.executable, "-c", COUNT_BUFFERS, str(library), model]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert str(buffers) == printed


def test_build_info(library: Path) -> None:
    """The library says what it was built with."""
    info = build_info()

    assert onnxfit.__version__ == info["version"]
    assert 18 == info["ort_api_version"]
    assert {"float", "float16", "bfloat16", "double"} == set(info["dtypes"])
    assert "CPUExecutionProvider" == info["providers"][0]
    assert info["compiler"].split()[1][0].isdigit()
    assert ("CUDAExecutionProvider" in info["providers"]) == (info["cuda"] is not None)
    assert bool(info["cuda_architectures"]) == (info["cuda"] is not None)


def test_older_runtime_gets_nothing(library: Path) -> None:
    """Where the runtime does not know API version 18, registering does nothing and succeeds."""
    asked: list[int] = []
    # append returns None, a null pointer.
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(asked.append)

    class OrtApiBase(ctypes.Structure):
        _fields_ = (("GetApi", type(get_api)), ("GetVersionString", ctypes.c_void_p))

    register = ctypes.CDLL(str(library)).RegisterCustomOps
    register.restype = ctypes.c_void_p

    assert register(None, ctypes.byref(OrtApiBase(get_api, None))) is None
    assert [18] == asked


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_needs_only_the_c_library(library: Path) -> None:
    """The library runs beside any C++ and CUDA runtime, since it needs neither."""
    command: list[str | Path] = [tool("readelf"), "--dynamic", library]
    dynamic = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    needed = set(re.findall(r"NEEDED.*\[(\w[^.\]]*)", dynamic))
    assert needed <= {"libc", "libm", "libdl", "libpthread", "librt", "ld-linux-x86-64"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_exports_two_functions(library: Path) -> None:
    """Nothing but the entry point and the build info can clash with another library."""
    command: list[str | Path] = [tool("readelf"), "--dyn-syms", "--wide", library]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    exported = re.findall(r"(?:GLOBAL|WEAK) +DEFAULT +(?!UND)\w+ +(\w+)", symbols)
    assert ["RegisterCustomOps", "onnxfit_build_info"] == sorted(exported)


def test_cuda_architectures(library: Path) -> None:
    """The library holds code for each architecture that its build info names."""
    info = build_info()
    if info["cuda"] is None:
        pytest.skip(f"{library} was built without CUDA")
    command: list[str | Path] = [tool("cuobjdump"), "--list-elf", "--list-ptx", library]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for architecture in info["cuda_architectures"]:
        number, kind = architecture.split("-")
        assert f"sm_{number}.{'cubin' if kind == 'real' else 'ptx'}" in listed
