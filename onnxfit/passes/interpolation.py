"""An output by interpolation over labelled features, in the place of the last dense layer.

The probability of a class is the share that its templates have of the weights of the sample's k
nearest templates (Wang et al. 2018, arXiv 1809.08516, for one sample at a time)::

    p(x) = Σ w(x, y) g(y) / Σ w(x, y),    w(x, y) = exp(−‖x − y‖² / σ(x)²)

over the k templates y nearest to x, g their classes as unit vectors, σ(x) the distance to the m-th
of them. Distances are those of features: what the last dense layer multiplied by its weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxfit.edits import remove_where
from onnxfit.element_types import UNKNOWN
from onnxfit.errors import DataError, ModelError
from onnxfit.graph import model_opset
from onnxfit.op import DOMAIN
from onnxfit.passes.building import Builder, add_initializers, remove_built
from onnxfit.passes.head import Head
from onnxfit.passes.renaming import rename

KEY = f"{DOMAIN}.interpolation"
PREFIX = f"{KEY}/"
# What the dense layer writes from then on. Nothing reads it, and runtimes drop it.
HEAD_PREFIX = f"{DOMAIN}.head/"
# Is added to probabilities before their logarithm is taken.
_LEAST = 1e-12
# Of a squared distance: two equal features are as near as that.
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How neighbours count.

    Attributes:
        neighbours: How many templates count for a sample, k.
        bandwidth_neighbour: Which of them is one bandwidth away, counted from 1.

    Raises:
        ValueError: One is out of its range.
    """

    neighbours: int = 15
    bandwidth_neighbour: int = 8

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"expected at least one of neighbours, got {self.neighbours}")
        if not 1 <= self.bandwidth_neighbour <= self.neighbours:
            raise ValueError(
                f"expected a bandwidth_neighbour from 1 to the {self.neighbours} neighbours, "
                f"got {self.bandwidth_neighbour}"
            )


def interpolate_head(
    model: ModelProto,
    head: Head,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    kernel: Kernel,
    about: Mapping[str, Any],
) -> None:
    """Replace the head of a model.

    Args:
        model: It is changed: nodes and two initializers are added, and the head writes a value that
            nothing reads.
        head: Its place.
        features: Of the templates, M×D.
        labels: Their classes, M integers.
        classes: How many there are.
        kernel: How neighbours count.
        about: What else the record in the file tells.

    Raises:
        DataError: There are fewer templates than neighbours, a class has none, a label is no class.
    """
    _check(features, labels, classes, kernel)
    renamed = HEAD_PREFIX + head.output
    rename(model, head.output, renamed)
    built = _subgraph(head, features, labels, classes, kernel, model_opset(model))
    model.graph.node.extend(built.graph.node)
    add_initializers(model, built)
    record = {
        "feature": head.feature,
        "output": head.output,
        "head": renamed,
        "gives": head.ending if head.ending != "logits" else "log-probabilities",
        "kind": "kernel",
        "neighbours": kernel.neighbours,
        "bandwidth_neighbour": kernel.bandwidth_neighbour,
        "templates": len(features),
        "dimensions": features.shape[1],
        "bytes": sum(len(t.raw_data) for t in built.graph.initializer),
        **about,
    }
    model.metadata_props.add(key=KEY, value=json.dumps(record))


def take_back(model: ModelProto) -> None:
    """Give a model its head again.

    Raises:
        ModelError: The record of the replacement is damaged, or the head is gone.
    """
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    try:
        record = json.loads(entry.value)
        output, head = str(record["output"]), str(record["head"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the metadata entry {KEY} is damaged") from error
    if not any(head in node.output for node in model.graph.node):
        raise ModelError(
            "the head that was replaced is gone: another tool dropped it; take the source"
        )
    remove_built(model, PREFIX)
    rename(model, head, output)
    remove_where(model.metadata_props, lambda entry: entry.key == KEY)


def _check(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, kernel: Kernel
) -> None:
    """Refuse templates that cannot be interpolated over.

    Raises:
        DataError: They cannot.
    """
    if len(features) < kernel.neighbours:
        raise DataError(
            f"there are {len(features)} templates, fewer than the {kernel.neighbours} neighbours"
        )
    if len(labels) and int(labels.max()) >= classes:
        at = int(labels.argmax())
        raise DataError(
            f"the label of template {at} is {int(labels[at])}, but the model has {classes} "
            f"classes, 0 to {classes - 1}"
        )
    if missing := sorted({*range(classes)} - {*labels.tolist()}):
        names = ", ".join(map(str, missing))
        raise DataError(f"there is no template of class {names}: it could never be named")
    if not np.isfinite(features).all():
        at = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise DataError(f"a feature of template {at} is not finite")


def _subgraph(
    head: Head,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    kernel: Kernel,
    opset: int,
) -> ModelProto:
    """Build the nodes from features to the output, in operators of every opset from 7 on.

    Distances are computed in float32, whatever the type of the features.
    """
    build = Builder(PREFIX, opset)
    narrow = head.element_type not in (TensorProto.FLOAT, UNKNOWN)
    x = build("Flatten", gs.Variable(head.feature), axis=1)
    x = build("Cast", x, to=TensorProto.FLOAT) if narrow else x
    # From their middle, so that less cancels out in the distances.
    middle = features.mean(0, dtype=np.float64).astype(np.float32)
    features = features - middle
    x = build("Sub", x, build.constant("middle", middle[None]))
    templates = build.constant("templates", features)
    # Minus the squared distances, N rows of M: the nearest are the largest.
    ones = build.constant("ones", np.ones((features.shape[1], 1), np.float32))
    own = build("MatMul", build("Mul", x, x), ones)
    squares = np.square(features.astype(np.float64)).sum(1).astype(np.float32)
    product = build("MatMul", x, build("Transpose", templates, perm=[1, 0]))
    twice = build("Mul", product, build.constant("two", np.array(2, np.float32)))
    nearness = build("Sub", build("Sub", twice, own), build.constant("squares", squares[None]))
    count = kernel.neighbours
    if opset < 10:
        nearest, places = build("TopK", nearness, results=2, k=count, axis=1)
    else:
        number = build.constant("neighbours", np.array([count], np.int64))
        nearest, places = build("TopK", nearness, number, results=2, axis=1)
    nearest = build("Neg", build("Abs", nearest))  # Rounding may leave less than 0.
    at = build.constant("bandwidth_neighbour", np.array([kernel.bandwidth_neighbour - 1], np.int64))
    width = build("Gather", nearest, at, axis=1)
    tiny = build.constant("tiny", np.array(_TINY, np.float32))
    width = build("Add", build("Neg", width), tiny)
    # The nearest has the weight 1: only ratios count, and none underflows.
    first = build("Gather", nearest, build.constant("first", np.array([0], np.int64)), axis=1)
    weights = build("Exp", build("Div", build("Sub", nearest, first), width))
    total = build("MatMul", weights, build.constant("each", np.ones((count, 1), np.float32)))
    shares = build("Div", weights, total)
    one_hot = build.constant("classes", np.eye(classes, dtype=np.float32)[labels])
    known = build("Gather", one_hot, places, axis=0)
    rows = build.constant("rows", np.array([0, 1, count], np.int64))
    summed = build("MatMul", build("Reshape", shares, rows), known)
    p = build("Reshape", summed, build.constant("columns", np.array([0, classes], np.int64)))
    y = build("Log", build("Add", p, build.constant("least", np.array(_LEAST, np.float32))))
    if head.ending == "probabilities":
        y = build("Softmax", y, axis=1)
    y = build("Cast", y, to=head.element_type) if narrow else y
    y.inputs[0].outputs = [gs.Variable(head.output)]
    exported: ModelProto = gs.export_onnx(build.graph, do_type_check=False)
    return exported
