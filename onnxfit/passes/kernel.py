"""Probabilities of one sample at a time: a mean over its nearest templates.

Wang et al. 2018, arXiv 1809.08516, for one sample at a time::

    p(x) = Σ w(x, y) g(y) / Σ w(x, y),    w(x, y) = exp(−‖x − y‖² / σ(x)²)

over the k templates y nearest to x, g their classes as unit vectors, σ(x) the distance to the m-th
of them.
"""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxfit.passes.arithmetic import Arithmetic
from onnxfit.passes.distances import Nearness, Neighbourhood, width


def probabilities(
    build: Arithmetic,
    x: gs.Tensor,
    templates: NDArray[np.float32],
    classes: NDArray[np.float32],
    hood: Neighbourhood,
) -> Any:
    """Add the nodes that compute the probabilities of a batch.

    Args:
        build: Adds nodes.
        x: Features, N×D.
        templates: Those of the templates, M×D.
        classes: Theirs as unit vectors, M×C.
        hood: How neighbours count.

    Returns:
        The probabilities, N×C.
    """
    nearness = Nearness(build, x, templates).to_templates()
    return shares(build, nearness, build.stored("classes", classes), classes.shape[1], hood)


def shares(
    build: Arithmetic, nearness: gs.Tensor, known: gs.Tensor, classes: int, hood: Neighbourhood
) -> Any:
    """Add the nodes that compute the shares of classes in the weights of the nearest templates.

    Args:
        build: Adds nodes.
        nearness: Minus the squared distances to the templates, N×M.
        known: The templates' classes as unit vectors, M×C.
        classes: How many there are.
        hood: How neighbours count.

    Returns:
        The shares, N×C.
    """
    count = hood.neighbours
    nearest, places = build.largest(nearness, "neighbours", count)
    apart = width(build, build.line(nearest, "bandwidth_neighbour", hood.bandwidth_neighbour - 1))
    # The nearest has the weight 1: only ratios count, and none underflows.
    first = build.line(nearest, "first", 0)
    weights = build("Exp", build("Div", build("Sub", nearest, first), apart))
    each = build.constant("each", np.ones((count, 1), build.dtype))
    parts = build("Div", weights, build("MatMul", weights, each))
    rows = build.constant("rows", np.array([0, 1, count], np.int64))
    columns = build.constant("columns", np.array([0, classes], np.int64))
    summed = build("MatMul", build("Reshape", parts, rows), build("Gather", known, places, axis=0))
    return build("Reshape", summed, columns)
