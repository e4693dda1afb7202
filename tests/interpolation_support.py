"""Small networks whose head is replaced by interpolation, and their templates."""

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from support import MODELS, newest_opset

DIGITS = MODELS / "digits_cnn.onnx"
TEMPLATES = MODELS / "digits_val.npz"
D, C, M = 6, 3, 40
# What comes behind the features h, by what it gives.
HEADS = {
    "logits": "logits = Gemm<transB = 1>(h, w, b)",
    "scaled": "logits = Gemm<transB = 1, alpha = 0.5>(h, w, b)",
    "product": "logits = MatMul(h, wt)",
    "sum": "m = MatMul(h, wt)\n logits = Add(b, m)",
    "probabilities": "m = Gemm<transB = 1>(h, w, b)\n logits = Softmax(m)",
    "log-probabilities": "m = Gemm<transB = 1>(h, w, b)\n logits = LogSoftmax(m)",
    "passed on": "m = Gemm<transB = 1>(h, w, b)\n i = Identity(m)\n logits = Flatten(i)",
    "logarithm": "m = Gemm<transB = 1>(h, w, b)\n p = Softmax(m)\n logits = Log(p)",
    "turned weights": "v2 = Transpose<perm = [1, 0]>(w)\n m = MatMul(h, v2)\n logits = Add(m, b)",
    "weights passed on": "v2 = Identity(w)\n logits = Gemm<transB = 1>(h, v2, b)",
}
# What files of each opset and IR version are made for.
OPSETS = [(7, 3), (8, 3), (9, 4), (10, 5), (12, 6), (13, 7), (21, 10), (newest_opset(), 11)]


def network(
    head: str = HEADS["logits"], opset: int = 17, ir: int = 8, kind: Any = np.float32
) -> ModelProto:
    """Make a network of one hidden layer and a head."""
    random = np.random.default_rng(0)
    name = {np.float16: "float16", np.float32: "float", np.float64: "double"}[kind]
    model = onnx.parser.parse_model(
        f"""
        <ir_version: {ir}, opset_import: ["" : {opset}]>
        network ({name}[N, 4] x) => ({name}[N, {C}] logits)
        {{
            g = Gemm<transB = 1>(x, v, c)
            h = Relu(g)
            {head}
        }}
        """
    )
    w = random.normal(size=(C, D))
    weights = {
        "v": random.normal(size=(D, 4)),
        "c": np.full(D, 0.3),
        "w": w,
        "wt": w.T,
        "b": np.zeros(C),
    }
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & set(weights)):
        array = np.ascontiguousarray(weights[name], kind)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        if ir < 4:
            info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape)
            model.graph.input.append(info)
    return model


def samples(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw samples of all classes."""
    random = np.random.default_rng(seed)
    return random.random((n, 4)).astype(np.float32), np.arange(n, dtype=np.int64) % C


def computed(model: ModelProto, x: NDArray[Any], name: str = "logits") -> NDArray[Any]:
    """Run a model in ONNX Runtime; return one of its values."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found: NDArray[Any] = session.run([name], {session.get_inputs()[0].name: x})[0]
    return found


def with_output(model: ModelProto, name: str) -> ModelProto:
    """Return a model that gives another of its values."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    return copy
