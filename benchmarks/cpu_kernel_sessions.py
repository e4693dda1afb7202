"""One node in ONNX Runtime: JumpReLU beside Relu, and every type and form beside float."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx.helper
import onnxruntime
from environment import session_in_turns
from numpy.typing import NDArray
from onnx import TensorProto

from onnxfit.verification.latency import in_turns

CHANNELS = 64
TYPES = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
# Of their elements, in bytes.
WIDTHS = {"float": 4, "double": 8, "float16": 2, "bfloat16": 2}
# What one node may be: Relu, or JumpReLU with one jump or one for each channel, of which a sample
# has about 64; those of ``SHORT`` elements are the feature maps of a network's last layers.
RELU, ONE, PER_CHANNEL, SHORT = "Relu", "one jump", "a jump per channel", 49
PER_SHORT = f"a jump per channel of {SHORT}"
FORMS = (ONE, PER_CHANNEL, PER_SHORT)

Kind = tuple[str, str]
Buffer = NDArray[np.uint16]


@dataclass(frozen=True)
class Node:
    """What was measured of one node on tensors of one size.

    Attributes:
        kib: The size of X.
        threads: Of the session.
        type: Of its elements.
        form: Of the node.
        micros: Median time of a run, in µs; of a form that fills less, for as many bytes.
        ratio: The median of the rounds' times over those of the node that it is compared with.
        noise: Half of the middle 50 % of the rounds' ratios of that one in a second session.
    """

    kib: int
    threads: int
    type: str
    form: str
    micros: float
    ratio: float
    noise: float


def beside_relu(threads: int, rounds: int, sizes: Sequence[int]) -> Iterator[Node]:
    """Compare the forms, of float, with Relu."""
    kinds = [("float", form) for form in FORMS]
    return _measured(("float", RELU), kinds, threads, rounds, sizes)


def beside_float(threads: int, rounds: int, sizes: Sequence[int]) -> Iterator[Node]:
    """Compare all types and forms with float and one jump."""
    kinds = [(name, form) for name in TYPES for form in FORMS]
    return _measured(kinds[0], kinds[1:], threads, rounds, sizes)


def _measured(
    first: Kind, others: Sequence[Kind], threads: int, rounds: int, sizes: Sequence[int]
) -> Iterator[Node]:
    """Compare nodes with the first, on every size, all in turns and on the same buffer."""
    for kib in sizes:
        buffer = _buffer(kib << 10)
        calls = [_bound(*kind, buffer, threads) for kind in (first, first, *others)]
        one, again, *times = (in_turns(calls, rounds) * 1e6).T
        low, _, high = statistics.quantiles((again / one).tolist(), n=4)
        for kind, taken in zip(others, times, strict=True):
            own = taken / filled(*kind, kib << 10)
            median, ratio = float(np.median(own)), float(np.median(own / one))
            yield Node(kib, threads, *kind, median, ratio, (high - low) / 2)


def _buffer(size: int) -> Buffer:
    """Return so many bytes at the start of a cache line, as ONNX Runtime's own are.

    Taken for elements of any of the types they are numbers between -2 and 2.
    """
    line = 64
    memory = np.random.default_rng(0).integers(0, 1 << 16, (size + line) // 2, dtype=np.uint16)
    memory &= 0xBFFF
    start = -memory.ctypes.data % line // 2
    return memory[start : start + size // 2]


def _bound(name: str, form: str, buffer: Buffer, threads: int) -> Callable[[], None]:
    """Return a call that runs a node in place, as in a network where no other node reads X."""
    shape = shape_of(name, form, buffer.nbytes)
    started = _session(form, TYPES[name], shape, threads)
    binding = started.io_binding()
    value = _value(buffer, name, shape)
    binding.bind_ortvalue_input("x", value)
    binding.bind_ortvalue_output("y", value)
    return lambda: started.run_with_iobinding(binding)


def shape_of(name: str, form: str, size: int) -> list[int]:
    """Return samples, channels and elements of each, in as many bytes or a few less.

    Of rows of ``SHORT`` elements a sample has about 64, by sixteens as in networks, where there are
    so many.
    """
    count = size // WIDTHS[name]
    if form != PER_SHORT:
        return [1, CHANNELS, count // CHANNELS]
    rows = count // SHORT
    if rows < CHANNELS:
        return [1, rows, SHORT]
    samples = rows // CHANNELS
    return [samples, rows // samples // 16 * 16, SHORT]


def filled(name: str, form: str, size: int) -> float:
    """Return which share of so many bytes the elements take."""
    return math.prod(shape_of(name, form, size)) * WIDTHS[name] / size


def _session(
    form: str, code: int, shape: Sequence[int], threads: int
) -> onnxruntime.InferenceSession:
    """Start a session of one node; jumps per channel are an initializer, as in a hardened file."""
    jumps = np.random.default_rng(0).random((shape[1], 1), dtype=np.float32)
    constants = []
    if form == RELU:
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
    elif form == ONE:
        node = onnx.helper.make_node("JumpReLU", ["x"], ["y"], domain="onnxfit", jump=0.5)
    else:
        constants = [onnx.helper.make_tensor("j", code, jumps.shape, jumps.ravel().tolist())]
        node = onnx.helper.make_node("JumpReLU", ["x", "j"], ["y"], domain="onnxfit")
    x, y = ([onnx.helper.make_tensor_value_info(value, code, shape)] for value in "xy")
    graph = onnx.helper.make_graph([node], "g", x, y, initializer=constants)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("onnxfit", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return session_in_turns(model, threads)


def _value(buffer: Buffer, name: str, shape: Sequence[int]) -> onnxruntime.OrtValue:
    """Return the start of a buffer as a tensor of a type; it stays where it is."""
    elements = buffer.view(f"u{WIDTHS[name]}")[: math.prod(shape)].reshape(shape)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(elements, TYPES[name])
