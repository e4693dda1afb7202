"""What several test modules need: small models, edge values, bit patterns."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
SHARED = Path(os.environ.get("ONNXFIT_SHARED", ROOT.parent / "shared"))

BITS: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.uint32),
    TensorProto.FLOAT16: np.dtype(np.uint16),
    TensorProto.BFLOAT16: np.dtype(np.uint16),
    TensorProto.DOUBLE: np.dtype(np.uint64),
}
NAMES: dict[int, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "double",
}


def parse(text: str) -> ModelProto:
    """Parse a model written as ONNX text."""
    return onnx.parser.parse_model(text)


def relu_model(
    opset: int = 17, element_type: str = "float", *, nodes: str = "y = Relu(x)", ir_version: int = 8
) -> ModelProto:
    """Make a model of one input ``x`` and one output ``y`` of the same type."""
    return parse(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}]> '
        f"g ({element_type}[N] x) => ({element_type}[N] y) {{ {nodes} }}"
    )


def with_channels_last(model: ModelProto) -> ModelProto:
    """Return a model of images, N×C×H×W, as one that takes the same images as N×H×W×C."""
    turned = ModelProto()
    turned.CopyFrom(model)
    (given,) = turned.graph.input
    node = onnx.helper.make_node("Transpose", ["turned"], [given.name], perm=[0, 3, 1, 2])
    turned.graph.node.insert(0, node)
    given.name = "turned"
    sizes = [*given.type.tensor_type.shape.dim]
    del given.type.tensor_type.shape.dim[:]
    given.type.tensor_type.shape.dim.extend([sizes[0], *sizes[2:], sizes[1]])
    return turned


def newest_opset() -> int:
    """Return the newest opset that both onnx and this ONNX Runtime know."""
    for opset in range(onnx.defs.onnx_opset_version(), 0, -1):
        model = relu_model(opset)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), quiet(), providers=["CPUExecutionProvider"]
            )
        except Exception:  # noqa: S112 - ONNX Runtime raises classes that it does not export
            continue
        return opset
    raise AssertionError("ONNX Runtime runs no opset")


def quiet(*, optimise: bool = True) -> onnxruntime.SessionOptions:
    """Make session options for one thread that log errors alone."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def run(model: ModelProto, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a model in plain ONNX Runtime, without the custom-op library."""
    results: list[NDArray[Any]] = plain_session(model).run(None, feeds)
    return results


def run_one(session: onnxruntime.InferenceSession, x: NDArray[Any]) -> NDArray[Any]:
    """Run a session from ``x`` to an output of the same type and shape, bfloat16 included."""
    name, result = session.get_inputs()[0].name, session.get_outputs()[0].name
    if x.dtype != dtype_of(TensorProto.BFLOAT16):
        outputs: list[NDArray[Any]] = session.run([result], {name: x})
        return outputs[0]
    # The Python interface takes no bfloat16 arrays: bind the memory as it lies there.
    y = np.empty_like(x)
    binding = session.io_binding()
    for bind, array, value in ((binding.bind_input, x, name), (binding.bind_output, y, result)):
        bind(value, "cpu", 0, int(TensorProto.BFLOAT16), array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)
    return y


def plain_session(model: ModelProto) -> onnxruntime.InferenceSession:
    """Start ONNX Runtime on the CPU without the custom-op library."""
    return onnxruntime.InferenceSession(
        model.SerializeToString(), quiet(), providers=["CPUExecutionProvider"]
    )


def dtype_of(element_type: int) -> np.dtype[Any]:
    """Return the NumPy type of an ONNX element type."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))


def edge_values(element_type: int, jump: float) -> NDArray[Any]:
    """List the jump, its neighbours, signed zeros, infinities, NaN, subnormals and extremes."""
    dtype, bits = dtype_of(element_type), BITS[element_type]
    at, top = (int(v) for v in np.asarray([jump, np.inf]).astype(dtype).view(bits))
    sign = 1 << (bits.itemsize * 8 - 1)
    positive = [at, at + 1, max(at, 1) - 1, 0, 1, top - 1, top]
    patterns = np.asarray(positive + [pattern | sign for pattern in positive], bits)
    ordinary = np.append(np.linspace(-2, 2, 41), np.nan).astype(dtype)
    return np.concatenate([patterns.view(dtype), ordinary])


def nans(element_type: int) -> NDArray[Any]:
    """List NaNs of both signs, quiet and signalling."""
    dtype, bits = dtype_of(element_type), BITS[element_type]
    top = int(np.array([np.inf]).astype(dtype).view(bits)[0])
    sign = 1 << (bits.itemsize * 8 - 1)
    patterns = np.asarray([top + 1, top | sign | 1, 2 * sign - 1, sign - 1], bits)
    result: NDArray[Any] = patterns.view(dtype)
    return result


def same_bits(expected: NDArray[Any], actual: NDArray[Any]) -> bool:
    """Tell whether two arrays agree in type, shape and every bit."""
    return (expected.dtype, expected.shape) == (actual.dtype, actual.shape) and bool(
        expected.tobytes() == actual.tobytes()
    )
