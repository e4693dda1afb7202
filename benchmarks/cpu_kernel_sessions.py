"""One node in ONNX Runtime: JumpReLU beside Relu, and every type and form beside float."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx.helper
import onnx.numpy_helper
import onnxruntime
from onnx import TensorProto

import onnxfit
from onnxfit.verification.latency import in_turns

CHANNELS = 64
TYPES = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
# What one node may be: Relu, or JumpReLU with one jump or one for each channel, of which a sample
# has up to 64; those of ``SHORT`` elements are the feature maps of a network's last layers.
RELU, ONE, PER_CHANNEL, SHORT = "Relu", "one jump", "a jump per channel", 49
PER_SHORT = f"a jump per channel of {SHORT}"
FORMS = (ONE, PER_CHANNEL, PER_SHORT)


Kind = tuple[str, str]


@dataclass(frozen=True)
class Node:
    """What was measured of one node on tensors of one size.

    Attributes:
        kib: The size of X.
        threads: Of the session.
        type: Of its elements.
        form: Of the node.
        micros: Median time of a run, in µs.
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


def beside_float(rounds: int, sizes: Sequence[int]) -> Iterator[Node]:
    """Compare all types and forms with float and one jump.

    With one thread: the threads of so many sessions would wait for work in each other's way.
    """
    kinds = [(name, form) for name in TYPES for form in FORMS]
    return _measured(kinds[0], kinds[1:], 1, rounds, sizes)


def _measured(
    first: Kind, others: Sequence[Kind], threads: int, rounds: int, sizes: Sequence[int]
) -> Iterator[Node]:
    """Compare nodes with the first, on every size, all in turns."""
    for kib in sizes:
        calls = [_bound(*kind, kib << 10, threads) for kind in (first, first, *others)]
        one, again, *times = (in_turns(calls, rounds) * 1e6).T
        low, _, high = statistics.quantiles((again / one).tolist(), n=4)
        for kind, own in zip(others, times, strict=True):
            median, ratio = float(np.median(own)), float(np.median(own / one))
            yield Node(kib, threads, *kind, median, ratio, (high - low) / 2)


def _bound(name: str, form: str, size: int, threads: int) -> Callable[[], None]:
    """Return a call that runs a node on X of a size in bytes, with buffers that stay in place."""
    code = TYPES[name]
    width = 2 if name == "bfloat16" else onnx.helper.tensor_dtype_to_np_dtype(code).itemsize
    shape = [1, CHANNELS, size // width // CHANNELS]
    if form == PER_SHORT:
        rows = size // width // SHORT
        samples = -(-rows // CHANNELS)
        shape = [samples, rows // samples, SHORT]
    random = np.random.default_rng(0)
    x = random.standard_normal(shape, dtype=np.float32)
    jumps = random.random((shape[1], 1), dtype=np.float32)
    started = _session(form, code, shape, jumps, threads)
    binding = started.io_binding()
    binding.bind_ortvalue_input("x", _value(x, code))
    binding.bind_ortvalue_output("y", _value(x, code))
    return lambda: started.run_with_iobinding(binding)


def _session(
    form: str, code: int, shape: Sequence[int], jumps: Any, threads: int
) -> onnxruntime.InferenceSession:
    """Start a session of one node; jumps per channel are an initializer, as in a hardened file."""
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
    options = onnxruntime.SessionOptions()
    onnxfit.register(options)
    options.intra_op_num_threads = threads
    given = model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _value(x: Any, code: int) -> onnxruntime.OrtValue:
    """Return floats as a value of a type that ONNX Runtime takes; of a bfloat16 the upper half."""
    if code == TensorProto.BFLOAT16:
        half = (x.view(np.uint32) >> 16).astype(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(half, code)
    cast = x.astype(onnx.helper.tensor_dtype_to_np_dtype(code))
    return onnxruntime.OrtValue.ortvalue_from_numpy(cast)
