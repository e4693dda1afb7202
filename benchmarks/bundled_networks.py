"""The nine architectures that the onnx package brings, with weights and for any batch size.

The package's files hold the architecture alone: each weight is the output of a ConstantOfShape.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = tuple(sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx")))
# The oldest that has LessOrEqual. Up to it, the operators in use mean the same but for Dropout,
# which does nothing here.
OPSET = 12
# Which inputs of an operator are the weights of a sum, and which a scale or variance.
_SUMMED = {"Conv": (1,), "Gemm": (1,)}
_SCALES = {"BatchNormalization": (1, 4), "Mul": (0, 1)}


def network(name: str, batch: int, seed: int = 0) -> ModelProto:
    """Return an architecture with random weights for a batch size.

    The weights of sums are normal with a variance of 2 / terms (He et al. 2015), so that
    activations neither die out nor grow; scales and variances are 1, biases and means 0.

    Args:
        name: One of NAMES.
        batch: How many images.
        seed: Of the weights.
    """
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    rng = np.random.default_rng(seed)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    users = {value: (node, i) for node in nodes for i, value in enumerate(node.input)}
    for node in nodes:
        if node.op_type == "ConstantOfShape":
            shape = tuple(int(size) for size in constants[node.input[0]])
            constants[node.output[0]] = _filled(shape, users, node.output[0], rng)
        elif node.op_type == "Reshape" and constants[node.input[1]][0] == 1:
            constants[node.input[1]] = np.array([batch, *constants[node.input[1]][1:]])
    kept = [node for node in nodes if node.op_type != "ConstantOfShape"]
    for node in kept:
        if node.op_type == "Dropout":
            del node.attribute[:]
    read = {value for node in kept for value in node.input}
    graph = onnx.helper.make_graph(
        kept,
        name,
        [value for value in model.graph.input if value.name in read - constants.keys()],
        model.graph.output,
        [numpy_helper.from_array(constants[key], key) for key in constants if key in read],
    )
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)


def _filled(
    shape: tuple[int, ...],
    users: dict[str, tuple[NodeProto, int]],
    value: str,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return what a constant is to hold, by what reads it."""
    node, place = users[value]
    while node.op_type in ("Reshape", "Unsqueeze"):
        node, place = users[node.output[0]]
    if place in _SUMMED.get(node.op_type, ()):
        terms = int(np.prod(shape[1:]))
        return rng.standard_normal(shape, np.float32) * np.float32((2 / max(terms, 1)) ** 0.5)
    is_scale = place in _SCALES.get(node.op_type, ())
    return np.full(shape, float(is_scale), np.float32)
