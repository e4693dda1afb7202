"""The custom-op library, bit for bit, in ONNX Runtime and under the sanitizers."""

import ctypes
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest

import onnxfit
from onnxfit.errors import NativeLibraryError
from onnxfit.native_library import build_info, cuda_devices

CUSTOM_OPS = Path(__file__).parents[1] / "custom_ops"
HEADER = '<ir_version: 8, opset_import: ["": 17, "onnxfit": 1]>'
JUMP = 0.3

Bits = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ElementType:
    """A type of X as its bits: NumPy has no bfloat16, and bits are what is compared."""

    name: str
    code: int
    bits: type[np.unsignedinteger[Any]]
    normal: int
    jump: int
    infinity: int

    def __str__(self) -> str:
        return self.name

    def decode(self, bits: Bits) -> Bits:
        """Return the values as float64."""
        with np.errstate(invalid="ignore"):
            if self.name == "bfloat16":
                return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
            return bits.view(f"f{bits.itemsize}").astype(np.float64)

    def edges(self, shape: tuple[int, ...], start: int = 0) -> Bits:
        """Fill a shape with zeros, subnormals, landmarks and their neighbours, NaNs; both signs."""
        sign = 1 << (8 * np.dtype(self.bits).itemsize - 1)
        landmarks = [self.normal, self.jump, self.infinity]
        positive = [0, 1, sign - 1, *(mark + step for mark in landmarks for step in (-1, 0, 1))]
        values = np.array(positive + [sign + value for value in positive], self.bits)
        return np.resize(np.roll(values, -start), shape)


FLOAT = ElementType("float", 1, np.uint32, 0x00800000, 0x3E99999A, 0x7F800000)
DOUBLE = ElementType(
    "double", 11, np.uint64, 0x0010000000000000, 0x3FD3333340000000, 0x7FF0000000000000
)
FLOAT16 = ElementType("float16", 10, np.uint16, 0x0400, 0x34CD, 0x7C00)
BFLOAT16 = ElementType("bfloat16", 16, np.uint16, 0x0080, 0x3E9A, 0x7F80)
ELEMENT_TYPES = [FLOAT, DOUBLE, FLOAT16, BFLOAT16]
element_types = pytest.mark.parametrize("kind", ELEMENT_TYPES, ids=str)


def jump_relu(kind: ElementType, x: Bits, jump: Bits) -> Bits:
    """Return what JumpReLU means, in NumPy: +0 where x <= jump, else the bits of x."""
    return np.where(kind.decode(x) <= kind.decode(jump), kind.bits(0), x)


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


def session(
    model: str, provider: str = "CPUExecutionProvider", threads: int = 1
) -> onnxruntime.InferenceSession:
    """Start a session with the library registered, whatever the model."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(onnxfit.library_path()))
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    parsed = onnx.parser.parse_model(model).SerializeToString()
    started = onnxruntime.InferenceSession(parsed, options, providers=[provider])
    assert provider == started.get_providers()[0]
    return started


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


# Prints how many tensors of X's size a run had in memory at once, beyond X.
COUNT_BUFFERS = """
import re, sys
from pathlib import Path
import numpy as np, onnx.parser, onnxruntime

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

library, model = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(library)
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(
    onnx.parser.parse_model(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
)
x = np.ones(2**24, np.float32)
before = peak()
session.run(None, {"x": x})
sys.stdout.write(str(round((peak() - before) / x.nbytes)))
"""


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


def tool(*names: str) -> str:
    """Return the path of the first of these programs that is installed; skip if none is."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no {' or '.join(names)} here")
    return found


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


KERNELS = ["broadcast.cc", "cpu_avx2.cc", "cpu_avx512.cc", "cpu_baseline.cc", "cpu_dispatch.cc"]
CHECKS = {
    "check_jump_relu": ["check_jump_relu.cc", "library.cc", *KERNELS],
    "check_cpu": ["check_cpu.cc", *KERNELS],
    "check_cuda": ["check_cuda.cc", "broadcast.cc"],
}
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# The CUDA kernel as plain C++, its threads one after the other.
CUDA_STAND_IN = ["-DONNXFIT_WITH_CUDA", "-Icuda_stand_in", "-xc++", "jump_relu.cu"]


def check_driver(
    folder: Path, *flags: str, name: str = "check_jump_relu"
) -> subprocess.CompletedProcess[str]:
    """Build a check driver from the sources in a folder, and run it."""
    program = folder / name
    command = [tool("g++"), "-std=c++17", "-g1", *WARNINGS, "-pthread", "-o", str(program)]
    subprocess.run([*command, *CHECKS[name], *flags], cwd=folder, check=True)
    return subprocess.run([program], capture_output=True, text=True, check=False)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a copy of the C++ sources, to build in or to break."""
    return Path(shutil.copytree(CUSTOM_OPS, tmp_path / "custom_ops"))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], CUDA_STAND_IN], ids=["cpu", "cuda-stand-in"])
def test_sanitizers(sources: Path, flags: list[str]) -> None:
    """Every type, form, shape and failure runs clean under AddressSanitizer and UBSan."""
    checked = check_driver(sources, "-O1", *SANITIZERS, *flags)

    assert (0, "all checks passed\n", "") == (checked.returncode, checked.stdout, checked.stderr)


def cpu_features() -> set[str]:
    """Return what Linux says this processor can; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", path.read_text(), re.M) if path.exists() else None
    return set(flags[1].split()) if flags else set()


def paths_here() -> list[str]:
    """Return the instruction sets that this processor has kernels for, the narrowest first."""
    needs = {"baseline": set[str](), "avx2": {"avx2", "f16c"}, "avx512": {"avx512f", "avx512bw"}}
    return [name for name, features in needs.items() if features <= cpu_features()]


@pytest.mark.slow
def test_kernels_under_sanitizers(sources: Path) -> None:
    """The kernels of each instruction set, on every layout of J, read and write in bounds."""
    checked = check_driver(sources, "-O1", *SANITIZERS, name="check_cpu")

    expected = " ".join([*paths_here(), "checked\n"])
    assert (0, expected, "") == (checked.returncode, checked.stdout, checked.stderr)


@pytest.mark.slow
def test_cuda_kernels_under_sanitizers(sources: Path) -> None:
    """The CUDA kernels, as plain C++, agree with the definition and stay in bounds."""
    checked = check_driver(sources, "-O1", *SANITIZERS, *CUDA_STAND_IN, name="check_cuda")

    assert (0, "all checks passed\n", "") == (checked.returncode, checked.stdout, checked.stderr)


@pytest.mark.slow
def test_kernels_for_other_processors(sources: Path) -> None:
    """Where there are no x86 instructions to choose from, the baseline is right."""
    checked = check_driver(sources, "-O3", "-DONNXFIT_X86_PATHS=0", name="check_cpu")

    assert (0, "baseline checked\n") == (checked.returncode, checked.stdout)


@pytest.mark.parametrize("optimisation", ["-O0", "-O2"])
@pytest.mark.parametrize(
    ("file", "symbol"), [("cpu_avx2", "kAvx2Path"), ("cpu_avx512", "kAvx512Path")]
)
def test_wide_instructions_stay_in_their_file(
    file: str, symbol: str, optimisation: str, tmp_path: Path
) -> None:
    """No function that the linker might share with other files has a newer set's instructions."""
    compiled = tmp_path / "kernels.o"
    command = [tool("g++"), "-std=c++17", optimisation, "-c", f"{file}.cc", "-o", str(compiled)]
    subprocess.run(command, cwd=CUSTOM_OPS, check=True)
    symbols = [tool("nm"), "--demangle", "--defined-only", "--extern-only", str(compiled)]
    listed = subprocess.run(symbols, capture_output=True, text=True, check=True).stdout

    if "x86_64" not in subprocess.check_output([tool("g++"), "-dumpmachine"], text=True):
        pytest.skip("these files are empty for this processor")
    assert [f"onnxfit::{symbol}"] == [line.split()[-1] for line in listed.splitlines()]


@pytest.mark.slow
def test_indices_beyond_32_bits(sources: Path) -> None:
    """The CUDA kernel's arithmetic for huge tensors is right, tried on small ones."""
    kernel = sources / "jump_relu.cu"
    text = kernel.read_text(encoding="utf-8")
    assert "count <= INT32_MAX" in text
    kernel.write_text(text.replace("count <= INT32_MAX", "count <= 0"), encoding="utf-8")

    checked = check_driver(sources, "-O1", *CUDA_STAND_IN)

    assert (0, "all checks passed\n") == (checked.returncode, checked.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        pytest.param("library.cc", "    Add<Op<Definition, double, Provider>>();\n", "", id="type"),
        pytest.param(
            "op_attributes.h",
            "ReleaseStatus(api, status)",
            'CreateStatus(api, ort::ORT_FAIL, "")',
            id="leak",
        ),
        pytest.param(
            "op_providers.h",
            "begin + size, run.count)",
            "begin + size, begin + size)",
            id="overrun",
        ),
        pytest.param("op_providers.h", "ChunkSize(run) + 1)", "ChunkSize(run))", id="chunks"),
        pytest.param("op_definitions.h", "/ block, 1, block}", "/ block, block}", id="blocks"),
        pytest.param("op.h", "if (!(other == shape))", "if (false)", id="unequal-shapes"),
    ],
)
def test_check_driver_can_fail(sources: Path, file: str, right: str, wrong: str) -> None:
    """The check driver finds each of these mistakes."""
    text = (sources / file).read_text(encoding="utf-8")
    assert right in text
    (sources / file).write_text(text.replace(right, wrong), encoding="utf-8")

    assert check_driver(sources, "-O0", *SANITIZERS).returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        pytest.param("jump_relu.h", "return x <= jump; }", "return x < jump; }", id="below"),
        pytest.param("jump_relu.h", "-T::kInfinity <= x_key && ", "", id="negative-nan"),
        pytest.param("jump_relu.h", " && jump_key <= T::kInfinity", "", id="nan-jump"),
        pytest.param("jump_relu.h", "(bits >> 16 & 1)", "1", id="rounding"),
        pytest.param("cpu_avx2.cc", "_CMP_LE_OQ", "_CMP_LT_OQ", id="avx2-at-jump"),
        pytest.param("cpu_avx2.cc", "(2 * T::kInfinity)", "(-1)", id="avx2-nan-jump"),
        pytest.param("cpu_avx512.cc", "_CMP_NLE_UQ", "_CMP_GT_OQ", id="avx512-nan"),
        pytest.param("cpu_avx512.cc", "cmpge_epu16", "cmpgt_epu16", id="avx512-at-jump"),
        pytest.param("cpu_vectors.h", "end += repeats;", "end += repeats + 1;", id="channel-ends"),
        pytest.param("cpu_vectors.h", "i + k < end ?", "true ?", id="last-channel"),
        pytest.param("cpu_vectors.h", "i % kCycle", "i % 2", id="cycle"),
        pytest.param("cpu_vectors.h", "jumps.Any(count - kLanes)", "jumps.Any(0)", id="last"),
        pytest.param("cpu_walk.h", "part, scratch_ + column", "part, scratch_", id="scratch"),
        pytest.param(
            "cpu_walk.h", "alignas(64) T scratch_[kScratch + kCycle]", "T scratch_[9]", id="size"
        ),
        pytest.param("cpu_walk.h", "position_[run] = 0;", "", id="odometer"),
        pytest.param("add.h", "(bits >> 16 & 1)) >> 16", "1) >> 16", id="sum-to-even"),
    ],
)
def test_check_of_kernels_can_fail(sources: Path, file: str, right: str, wrong: str) -> None:
    """The check of the CPU kernels finds each of these mistakes."""
    if file[:-3] in {"cpu_avx2", "cpu_avx512"} and file[4:-3] not in paths_here():
        pytest.skip("this processor has no such kernels")
    text = (sources / file).read_text(encoding="utf-8")
    assert right in text
    (sources / file).write_text(text.replace(right, wrong), encoding="utf-8")

    assert check_driver(sources, "-O1", *SANITIZERS, name="check_cpu").returncode != 0


@pytest.mark.slow
def test_cuda_part_builds(sources: Path) -> None:
    """Kernel, check and benchmark compile and link where nvcc is installed."""
    command = [tool("nvcc"), "-std=c++17", "-arch=sm_80", "-Xcompiler", "-Wall,-Wextra,-Werror"]
    files = ["bench_jump_relu.cu", "jump_relu.cu", "broadcast.cc"]
    program = sources / "bench_jump_relu"

    subprocess.run([*command, "-o", program, *files], cwd=sources, check=True)

    refused = subprocess.run([program, "--chek"], capture_output=True, text=True, check=False)
    assert (2, "usage") == (refused.returncode, refused.stderr[:5])


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
