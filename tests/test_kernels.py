"""AddJumpReLU, NchwcJumpReLU and each instruction set's kernels, bit for bit, in ONNX Runtime."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from check_drivers import paths_here
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

Shape = tuple[int, ...]

# X and J: rows around the width of a vector, and long enough for several threads.
LAYOUTS: list[tuple[Shape, Shape | None]] = [
    ((), None),
    ((0,), None),
    ((1,), ()),
    ((67,), None),
    ((3, 0, 2), (3, 1, 1)),
    ((2, 5, 1), (5, 1)),
    ((2, 5, 4), (5, 1)),
    ((2, 65, 7), (65, 1)),
    ((3, 17, 49), (17, 1)),
    ((2, 75, 49), (75, 1)),
    ((2, 1030, 16), (1030, 1)),
    ((2, 9, 14, 14), (9, 1, 1)),
    ((2, 3000, 3), (3000, 1)),
    ((51, 10), (10,)),
    ((51, 16), (16,)),
    ((7, 1000), (1000,)),
    ((3, 2, 5, 2), (3, 1, 5, 1)),
    ((2, 3, 5, 7), (2, 3, 5, 7)),
    ((5, 63, 7, 101), (63, 1, 1)),
    ((300_007,), (300_007,)),
]
layouts = pytest.mark.parametrize(("x_shape", "j_shape"), LAYOUTS, ids=str)


@pytest.fixture(autouse=True)
def library() -> Path:
    """Return the custom-op library; skip where none was built."""
    try:
        return onnxfit.library_path()
    except NativeLibraryError as error:
        pytest.skip(str(error))


def model(op: str, kind: ElementType, ranks: dict[str, int]) -> str:
    """Write a model of one operator with inputs of these names and ranks; Y is like the first."""
    types = {
        name: kind.name + (f"[{','.join(f'{name}{i}' for i in range(rank))}]" if rank else "")
        for name, rank in ranks.items()
    }
    inputs = ", ".join(f"{text} {name}" for name, text in types.items())
    call = f"y = onnxfit.{op} ({', '.join(ranks)})"
    return f"{HEADER} g ({inputs}) => ({next(iter(types.values()))} y) {{ {call} }}"


def run(started: onnxruntime.InferenceSession, kind: ElementType, **inputs: Bits) -> Bits:
    """Run a session on bits by address, whatever their alignment."""
    first = next(iter(inputs.values()))
    y = np.empty_like(first)
    binding = started.io_binding()
    for name, bits in inputs.items():
        binding.bind_input(name, "cpu", 0, kind.code, bits.shape, bits.ctypes.data)
    binding.bind_output("y", "cpu", 0, kind.code, y.shape, y.ctypes.data)
    started.run_with_iobinding(binding)
    return y


def second(kind: ElementType, shape: Shape) -> Bits:
    """Fill a shape with edge values so that each meets every other in ``kind.edges``."""
    edges = kind.edges((24,))
    index = np.arange(int(np.prod(shape)))
    return np.asarray(edges[(index + index // 24) % 24].reshape(shape))


def add(kind: ElementType, a: Bits, b: Bits) -> Bits:
    """Return the bits of a + b rounded once to the type, ties to even; NaN as the quiet one."""
    with np.errstate(invalid="ignore", over="ignore"):
        if kind is BFLOAT16:
            wide = kind.decode(a).astype(np.float32) + kind.decode(b).astype(np.float32)
            bits = wide.view(np.uint32).astype(np.uint64)
            total = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
            nan = np.isnan(wide)
        else:
            dtype = f"f{np.dtype(kind.bits).itemsize}"
            sums = a.view(dtype) + b.view(dtype)
            total, nan = sums.view(kind.bits), np.isnan(sums)
    return np.where(nan, kind.bits(kind.infinity + kind.normal // 2), total)


def quiet(kind: ElementType, y: Bits) -> Bits:
    """Replace every NaN by one: which bits a sum's NaN has is the processor's choice."""
    nan = np.isnan(kind.decode(y))
    return np.where(nan, kind.bits(kind.infinity + kind.normal // 2), y)


def operands(kind: ElementType, x_shape: Shape, j_shape: Shape | None) -> tuple[Bits, Bits, Bits]:
    """Return A, B and the jumps, the attribute's where there is no J."""
    jumps = np.array(kind.jump, kind.bits) if j_shape is None else kind.edges(j_shape, start=4)
    return kind.edges(x_shape), second(kind, x_shape), jumps


def ranks_of(j_shape: Shape | None, **inputs: Bits) -> dict[str, int]:
    """Return the ranks of a model's inputs, with J if there is one."""
    ranks = {name: bits.ndim for name, bits in inputs.items()}
    return ranks if j_shape is None else ranks | {"j": len(j_shape)}


@element_types
@layouts
def test_sum(kind: ElementType, x_shape: Shape, j_shape: Shape | None) -> None:
    """AddJumpReLU rounds the sum to the type and then compares, on every layout of J."""
    a, b, j = operands(kind, x_shape, j_shape)
    inputs = {"a": a, "b": b} | ({} if j_shape is None else {"j": j})
    op = f"AddJumpReLU <jump: float = {JUMP!r}>"

    y = run(session(model(op, kind, ranks_of(j_shape, a=a, b=b)), threads=2), kind, **inputs)

    np.testing.assert_array_equal(jump_relu(kind, add(kind, a, b), j), quiet(kind, y))


@element_types
@layouts
def test_layouts(kind: ElementType, x_shape: Shape, j_shape: Shape | None) -> None:
    """JumpReLU is exact on every layout of J, with NaNs as they came."""
    x, _, j = operands(kind, x_shape, j_shape)
    inputs = {"x": x} | ({} if j_shape is None else {"j": j})
    op = f"JumpReLU <jump: float = {JUMP!r}>"

    y = run(session(model(op, kind, ranks_of(j_shape, x=x)), threads=2), kind, **inputs)

    np.testing.assert_array_equal(jump_relu(kind, x, j), y)


@element_types
@pytest.mark.parametrize("length", [1, 7, 63, 100_003])
def test_unaligned_operands(kind: ElementType, length: int) -> None:
    """A and B may start at any element."""
    a, b = kind.edges((length + 1,))[1:], second(kind, (length + 3,))[3:]
    started = session(model("AddJumpReLU", kind, {"a": 1, "b": 1}))

    expected = jump_relu(kind, add(kind, a, b), np.array(0, kind.bits))
    np.testing.assert_array_equal(expected, quiet(kind, run(started, kind, a=a, b=b)))


def test_sum_is_add_then_jump_relu() -> None:
    """The same values as Add and JumpReLU one after the other, NaN's bits aside."""
    a, b = FLOAT.edges((24, 24)), second(FLOAT, (24, 24))
    nodes = "c = Add (a, b)  y = onnxfit.JumpReLU <jump = 0.3> (c)"
    apart = session(f"{HEADER} g (float[n,24] a, float[n,24] b) => (float[n,24] y) {{ {nodes} }}")
    joined = session(model("AddJumpReLU <jump: float = 0.3>", FLOAT, {"a": 2, "b": 2}))

    one, two = (quiet(FLOAT, run(started, FLOAT, a=a, b=b)) for started in (apart, joined))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("b_shape", [(3,), (1, 3), (3, 2), (2, 3, 1)])
def test_operands_of_two_shapes(b_shape: Shape) -> None:
    """B is not broadcast: another shape is refused and both are named."""
    started = session(model("AddJumpReLU", FLOAT, {"a": 2, "b": len(b_shape)}))
    named = f"A [2,3] and B [{','.join(map(str, b_shape))}]"
    message = re.escape(f"onnxfit::AddJumpReLU: A and B must have one shape: {named}")

    with pytest.raises(Exception, match=message):
        run(started, FLOAT, a=FLOAT.edges((2, 3)), b=FLOAT.edges(b_shape))


@pytest.mark.parametrize("value", ["-1.0", "nan"])
def test_bad_jump_of_a_sum(value: str, library: Path) -> None:
    """A bad jump is refused when the session starts, in the operator's own name."""
    text = model("AddJumpReLU <jump: float = 7.5>", FLOAT, {"a": 1, "b": 1})
    parsed = onnx.parser.parse_model(text)
    parsed.graph.node[0].attribute[0].f = float(value)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    options.log_severity_level = 4

    with pytest.raises(Exception, match="onnxfit::AddJumpReLU: attribute 'jump' must be finite"):
        onnxruntime.InferenceSession(parsed.SerializeToString(), options)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("nodes", "buffers"),
    [
        pytest.param("c = onnxfit.AddJumpReLU (a, x)", 1, id="on-the-first"),
        pytest.param("c = onnxfit.AddJumpReLU (x, a)", 1, id="on-the-second"),
        pytest.param("d = onnxfit.AddJumpReLU (a, x)  c = Sub (a, d)", 3, id="still-needed"),
    ],
)
def test_sum_in_place(nodes: str, buffers: int, library: Path) -> None:
    """Y takes the memory of an operand that nothing else needs, be it A or B."""
    text = f"a = Abs (x)  {nodes}  y = ReduceMax (c)"
    graph = f"{HEADER} g (float[16777216] x) => (float[1] y) {{ {text} }}"
    command = [sys.executable, "-c", COUNT_BUFFERS, str(library), graph]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert str(buffers) == printed


def blocked(x: Bits, block: int) -> Bits:
    """Lay [N,C,H,W] out as N × C/block × H × W × block, in the same declared shape."""
    n, c, h, w = x.shape
    return x.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2).reshape(x.shape).copy()


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (2, 48, 3, 5), (0, 16, 2, 2), (3, 64, 28, 29)])
def test_blocked_layout(shape: Shape, block: int) -> None:
    """NchwcJumpReLU gives each channel its jump, wherever the blocked layout has put it."""
    x, j = FLOAT.edges(shape), FLOAT.edges(shape[1:2], start=4)
    text = model(f"NchwcJumpReLU <block: int = {block}>", FLOAT, {"x": 4, "j": 1})

    y = run(session(text, threads=2), FLOAT, x=blocked(x, block), j=j)

    np.testing.assert_array_equal(blocked(jump_relu(FLOAT, x, j[:, None, None]), block), y)


@pytest.mark.parametrize(
    ("x_shape", "j_shape"), [((1, 12, 1, 1), (12,)), ((1, 16, 1, 1), (8,)), ((1, 16, 1, 1), (1,))]
)
def test_bad_blocked_shape(x_shape: Shape, j_shape: Shape) -> None:
    """Channels that are no multiple of the block, or other jumps than channels, are refused."""
    started = session(model("NchwcJumpReLU <block: int = 8>", FLOAT, {"x": 4, "j": 1}))
    shapes = "J [{}] and X [{}]".format(*(",".join(map(str, s)) for s in (j_shape, x_shape)))
    message = f"X must be [N,C,H,W] and J [C], with C a multiple of block 8: {shapes}"

    with pytest.raises(Exception, match=re.escape(message)):
        run(started, FLOAT, x=FLOAT.edges(x_shape), j=FLOAT.edges(j_shape))


@pytest.mark.parametrize("attribute", ["", "<block: int = 0>", "<block: float = 8.0>"])
def test_bad_block(attribute: str) -> None:
    """A block that is missing, below 1 or no integer is refused when the session starts."""
    message = "onnxfit::NchwcJumpReLU: attribute 'block' must be an integer of at least 1"

    with pytest.raises(Exception, match=message):
        session(model(f"NchwcJumpReLU {attribute}", FLOAT, {"x": 4, "j": 1}))


def results(computed: bool) -> Iterator[Bits]:
    """Yield both operators' results on every type and layout, of the library or of NumPy."""
    for kind in ELEMENT_TYPES:
        for x_shape, j_shape in LAYOUTS:
            a, b, j = operands(kind, x_shape, j_shape)
            jumps = {} if j_shape is None else {"j": j}
            for inputs in ({"a": a}, {"a": a, "b": b}):
                if not computed:
                    x = a if len(inputs) == 1 else add(kind, a, b)
                    yield quiet(kind, jump_relu(kind, x, j))
                    continue
                op = f"{'JumpReLU' if len(inputs) == 1 else 'AddJumpReLU'} <jump: float = {JUMP!r}>"
                started = session(model(op, kind, ranks_of(j_shape, **inputs)))
                yield quiet(kind, run(started, kind, **inputs, **jumps))


def digest(computed: bool) -> str:
    """Return a hash of all results."""
    total = hashlib.sha256()
    for bits in results(computed):
        total.update(bits.tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("path", paths_here())
def test_each_instruction_set(path: str) -> None:
    """The library gives the same bits with the kernels of each instruction set."""
    program = "import sys, test_kernels; sys.stdout.write(test_kernels.digest(True))"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"ONNXFIT_CPU_PATH": path, "PYTHONPATH": paths}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert digest(False) == ran.stdout


def test_float16_sums_round_once() -> None:
    """Halfway between two float16 values, the sum goes to the even one."""
    a = np.array([0x6800, 0x6801, 0x0001, 0x7BFF], np.uint16)  # 2048, 2050, 2^-24, 65504
    b = np.array([0x3C00, 0x3C00, 0x0001, 0x4C00], np.uint16)  # 1, 1, 2^-24, 16
    started = session(model("AddJumpReLU", FLOAT16, {"a": 1, "b": 1}))

    expected = np.array([0x6800, 0x6802, 0x0002, 0x7C00], np.uint16)
    np.testing.assert_array_equal(expected, run(started, FLOAT16, a=a, b=b))
