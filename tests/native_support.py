"""What the tests of the custom-op library share: types as bits, the definition, sessions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest

import onnxfit

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
