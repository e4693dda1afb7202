"""An output by interpolation over labelled features, in the place of the last dense layer.

A sample's probabilities follow from the classes of the templates that its features are near to
(Wang et al. 2018, arXiv 1809.08516), for each sample alone (:mod:`kernel`) or for a batch together
(:mod:`wnll`). Features are what the last dense layer multiplied by its weights.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto

from onnxfit.edits import remove_where
from onnxfit.element_types import UNKNOWN
from onnxfit.errors import DataError, ModelError
from onnxfit.graph import model_opset
from onnxfit.op import DOMAIN
from onnxfit.passes import kernel, wnll
from onnxfit.passes.arithmetic import Arithmetic
from onnxfit.passes.building import add_initializers, recorded, remove_built
from onnxfit.passes.distances import Neighbourhood
from onnxfit.passes.head import Head
from onnxfit.passes.renaming import rename

if TYPE_CHECKING:
    from onnxfit.passes.templates import Templates

Kind = Literal["kernel", "wnll"]

KEY = f"{DOMAIN}.interpolation"
PREFIX = f"{KEY}/"
# What the dense layer writes from then on. Nothing reads it, and runtimes drop it.
HEAD_PREFIX = f"{DOMAIN}.head/"


# The squared length of features: the distance of two is at most twice as long, so 4 times that.
_LONGEST = float(np.finfo(np.float32).max) / 8


class _Kind(NamedTuple):
    """How probabilities are computed from features.

    Attributes:
        probabilities: Adds the nodes; see :func:`kernel.probabilities`.
        precision: The type that is computed in, whatever the type of the features.
        least: Is added to probabilities before their logarithm is taken.
    """

    probabilities: Callable[..., Any]
    precision: type[np.floating[Any]]
    least: float


_KINDS: dict[Kind, _Kind] = {
    "kernel": _Kind(kernel.probabilities, np.float32, 1e-12),
    # Ties to labels may be weak. What sweeps leave is well below the number.
    "wnll": _Kind(wnll.probabilities, np.float64, 1e-7),
}


def interpolate_head(
    model: ModelProto,
    head: Head,
    templates: "Templates",
    kind: Kind,
    hood: Neighbourhood,
    about: Mapping[str, Any],
) -> None:
    """Replace the head of a model.

    Args:
        model: It is changed: nodes and initializers are added, and the head writes a value that
            nothing reads.
        head: Its place.
        templates: What is interpolated over.
        kind: How probabilities are computed.
        hood: How neighbours count.
        about: What else the record in the file tells.

    Raises:
        DataError: There are fewer templates than neighbours, a class has none, a label is no class,
            features are too large.
    """
    _check(templates, hood)
    renamed = HEAD_PREFIX + head.output
    rename(model, head.output, renamed)
    built = _subgraph(head, templates, kind, hood, model_opset(model))
    model.graph.node.extend(built.graph.node)
    add_initializers(model, built)
    record = {
        "feature": head.feature,
        "output": head.output,
        "head": renamed,
        "gives": "probabilities" if templates.probabilities else "log-probabilities",
        "kind": kind,
        "neighbours": int(hood.neighbours),
        "bandwidth_neighbour": int(hood.bandwidth_neighbour),
        "templates": len(templates.features),
        "dimensions": templates.features.shape[1],
        "bytes": sum(len(t.raw_data) for t in built.graph.initializer),
        **about,
    }
    model.metadata_props.add(key=KEY, value=json.dumps(record))


def take_back(model: ModelProto) -> None:
    """Give a model its head again.

    Raises:
        ModelError: The record of the replacement is damaged, or the head is gone.
    """
    output, head = recorded(model, KEY, "output", "head")
    if not any(head in node.output for node in model.graph.node):
        raise ModelError(
            "the head that was replaced is gone: another tool dropped it; take the source"
        )
    remove_built(model, PREFIX, output)
    rename(model, head, output)
    remove_where(model.metadata_props, lambda entry: entry.key == KEY)


def _check(templates: "Templates", hood: Neighbourhood) -> None:
    """Refuse templates that cannot be interpolated over.

    Raises:
        DataError: They cannot.
    """
    features, labels, classes = templates.features, templates.labels, templates.classes
    if len(features) < hood.neighbours:
        raise DataError(
            f"there are {len(features)} templates, fewer than the {hood.neighbours} neighbours"
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
    longest = float(np.square(features, dtype=np.float64).sum(1).max())
    if longest > _LONGEST:
        raise DataError(
            f"the features of a template are {longest**0.5:.1e} long: float32 holds no squared "
            "distances of such"
        )


def _subgraph(
    head: Head, templates: "Templates", kind: Kind, hood: Neighbourhood, opset: int
) -> ModelProto:
    """Build the nodes from features to the output, in operators of every opset from 7 on.

    Probabilities are computed in the precision of their kind, whatever the type of the features.
    """
    how, (features, labels, shape, _) = _KINDS[kind], templates
    build = Arithmetic(PREFIX, opset, how.precision)
    given = TensorProto.FLOAT if head.element_type == UNKNOWN else head.element_type
    x = build("Flatten", gs.Variable(head.feature), axis=1)
    x = build.cast(x, given, build.element_type)
    # From their middle, so that less cancels out in the distances.
    middle = features.mean(0, dtype=np.float64).astype(np.float32)
    x = build("Sub", x, build.stored("middle", middle[None]))
    one_hot = np.eye(templates.classes, dtype=np.float32)[labels]
    p = how.probabilities(build, x, features - middle, one_hot, hood)
    p = build.cast(p, build.element_type, TensorProto.FLOAT)
    # What is solved for may be a hair below 0.
    p = build("Add", build("Abs", p), build.constant("least", np.array(how.least, np.float32)))
    y = build("Log", p)
    if templates.probabilities:
        y = build("Softmax", y, axis=1)
    if len(shape) != 1:
        y = build("Reshape", y, build.constant("shape", np.array([-1, *shape], np.int64)))
    y = build.cast(y, TensorProto.FLOAT, head.output_type)
    y.inputs[0].outputs = [gs.Variable(head.output)]
    exported: ModelProto = gs.export_onnx(build.graph, do_type_check=False)
    return exported
