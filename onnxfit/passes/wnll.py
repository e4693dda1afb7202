"""Probabilities of a batch together: the weighted nonlocal Laplacian.

Shi, Osher and Zhu 2017 (J. Sci. Comput. 73), as the output of a network Wang et al. 2018, arXiv
1809.08516. Q are the features of the N samples of a batch, S those of the M templates, g the
templates' classes as unit vectors. The probabilities u of the batch solve, for each x in Q::

    Σ_{y ∈ Q ∪ S} (w(x, y) + w(y, x)) (u(x) − u(y))
        + N/M · Σ_{y ∈ S} w(y, x) (u(x) − g(y)) + 1e-6 · (u(x) − p(x)) = 0,    u = g on S
    w(x, y) = exp(−‖x − y‖² / σ(x)²) where ‖x − y‖ ≤ r(x), else 0

r(x) and σ(x) are the distances of x to its k-th and m-th nearest, itself not counted, in Q ∪ S: so
the samples of a batch are neighbours of each other, also where x is a template. Nothing of that is
approximated; the file holds the k nearest other templates of each template. N/M is the papers'
|Q ∪ S|/|S| − 1. Neighbours as far as the k-th count all, so that the order of a batch is nothing.

The last term is ours. p is what the kernel of the nearest templates says (:mod:`kernel`). Samples
that have none but each other for neighbours, and are no template's neighbours, have no other tie
to a label: without it the system is singular, with it they take a mean of their p. Elsewhere it
moves probabilities by a millionth over the weight of the ties to labels.

The system is symmetric and positive definite. Conjugate gradients, for all classes at once and
scaled by the diagonal, start at p and stop at a residual of 1e-12 or after 200 sweeps: a few are
needed for a batch among its templates, up to about 120 were seen for 256 samples far from all of
them. All that is computed in double precision, for ties may be weak.
"""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxfit.passes.arithmetic import Arithmetic
from onnxfit.passes.distances import Nearness, Neighbourhood, nearest_others, width
from onnxfit.passes.kernel import shares

# The weight of what the kernel says; a sample's own weights add up to m/e or more.
RIDGE = 1e-6
SWEEPS = 200
# Where sweeps stop: the sum over samples and classes of residual²/diagonal.
_CONVERGED = 1e-24
# As far as the last neighbour, up to rounding: the file holds some distances in float32.
_AS_FAR = 1 + 1e-6
# Keeps a class that is solved already from dividing by 0.
_TINY = 1e-30


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
        The probabilities, N×C, up to what the sweeps leave.
    """
    nearness = Nearness(build, x, templates)
    to_templates, among = nearness.to_templates(), nearness.among_themselves()
    count, middle = hood.neighbours, hood.bandwidth_neighbour
    # A sample is its own nearest, and no equation is changed by the weight that it gives itself.
    everyone = build("Concat", among, to_templates, axis=1)
    nearest, _ = build.largest(everyone, "neighbours_and_self", count + 1)
    last = build.line(nearest, "last_of_sample", count)
    apart = width(build, build.line(nearest, "bandwidth_of_sample", middle))
    by_samples = _weights(build, among, last, apart)
    to_labels = _weights(build, to_templates, last, apart)
    # A template's neighbours are those that it always has, unless samples are nearer.
    others = build.stored("others", -nearest_others(templates, count).T)
    candidates = build("Concat", others, to_templates, axis=0)
    nearest, _ = build.largest(candidates, "neighbours", count, axis=0)
    last = build.line(nearest, "last_of_template", count - 1, axis=0)
    apart = width(build, build.line(nearest, "bandwidth_of_template", middle - 1, axis=0))
    from_labels = _weights(build, to_templates, last, apart)

    between = build("Add", by_samples, build("Transpose", by_samples, perm=[1, 0]))
    number = build("Gather", build("Shape", x), build.constant("samples", np.array(0)), axis=0)
    ratio = build(
        "Div",
        build("Cast", number, to=build.element_type),
        build.number("templates_number", len(templates)),
    )
    ratio = build("Add", ratio, build.number("one", 1))
    labelled = build("Add", to_labels, build("Mul", from_labels, ratio))
    known = build.stored("classes", classes)
    prior = shares(build, to_templates, known, classes.shape[1], hood)
    ridge = build.number("ridge", RIDGE)
    right = build("Add", build("MatMul", labelled, known), build("Mul", prior, ridge))
    ties = build("Add", build.total(between, 1), build.total(labelled, 1))
    return _solved(build, between, build("Add", ties, ridge), right, prior)


def _weights(build: Arithmetic, nearness: gs.Tensor, last: gs.Tensor, apart: gs.Tensor) -> Any:
    """Return weights, 0 for those farther than the last neighbour; ``apart`` is σ²."""
    weights = build("Exp", build("Div", nearness, apart))
    reach = build("Mul", last, build.number("as_far", _AS_FAR))
    counts = build("Cast", build("Not", build("Less", nearness, reach)), to=build.element_type)
    return build("Mul", weights, counts)


def _solved(
    build: Arithmetic, between: gs.Tensor, diagonal: gs.Tensor, right: gs.Tensor, start: gs.Tensor
) -> Any:
    """Add conjugate gradients for (diagonal − between) · u = right, from a first guess.

    Args:
        build: Adds nodes.
        between: A symmetric matrix, N×N.
        diagonal: N×1.
        right: N×C.
        start: N×C.

    Returns:
        u, N×C.
    """
    product = build("Sub", build("Mul", diagonal, start), build("MatMul", between, start))
    residual = build("Sub", right, product)
    scaled = build("Div", residual, diagonal)
    energy = build.total(build("Mul", residual, scaled), 0)
    state = (start, residual, scaled, energy)
    sweeps = build.constant("sweeps", np.array(SWEEPS, np.int64))
    inner = Arithmetic(f"{build.prefix}sweep/", build.opset, build.dtype)
    body = _sweep(inner, between, diagonal)
    solved, *_ = build("Loop", sweeps, _is_left(build, energy), *state, results=4, body=body)
    return solved


def _sweep(build: Arithmetic, between: gs.Tensor, diagonal: gs.Tensor) -> gs.Graph:
    """Return the body of the Loop: one sweep.

    Args:
        build: Of the body.
        between: The matrix around it.
        diagonal: The diagonal around it.
    """
    names = ("u", "residual", "direction", "energy")
    state = [gs.Variable(f"{build.prefix}{name}", build.dtype) for name in names]
    u, residual, direction, before = state
    tiny = build.literal(_TINY, build.dtype)
    along = build("Sub", build("Mul", diagonal, direction), build("MatMul", between, direction))
    slope = build.total(build("Mul", direction, along), 0)
    step = build("Div", before, build("Add", slope, tiny))
    u = build("Add", u, build("Mul", direction, step))
    residual = build("Sub", residual, build("Mul", along, step))
    scaled = build("Div", residual, diagonal)
    energy = build.total(build("Mul", residual, scaled), 0)
    turn = build("Div", energy, build("Add", before, tiny))
    direction = build("Add", scaled, build("Mul", direction, turn))
    after = [u, residual, direction, energy]
    for value in after:
        value.dtype = build.dtype
    number = gs.Variable(f"{build.prefix}number", np.int64, ())
    going = gs.Variable(f"{build.prefix}going", np.bool_, ())
    build.graph.inputs = [number, going, *state]
    build.graph.outputs = [_is_left(build, energy), *after]
    return build.graph


def _is_left(build: Arithmetic, energy: gs.Tensor) -> gs.Variable:
    """Return whether what is left in the classes, 1×C, needs another sweep; a scalar."""
    above = build("Greater", build.total(energy, 1), build.literal(_CONVERGED, build.dtype))
    found: gs.Variable = build.with_list("Squeeze", above, "axes", [0, 1], since=13)
    found.dtype, found.shape = np.dtype(np.bool_), ()
    return found
