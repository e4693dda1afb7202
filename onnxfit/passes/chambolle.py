"""Images of little total variation, by a fixed number of iterations in a ``Loop``.

Both minimise Rudin, Osher and Fatemi's objective of an image f with a weight λ, over the pixels
that are kept (m = 1, else 0)::

    ½ ‖m (u − f)‖² + λ Σ |∇u|

∇u is the differences to the next row and the next column, 0 behind the last ones, and |∇u| their
Euclidean length. div, minus its adjoint, takes the differences to the row and column before.
Images are N×1×C×H×W, and what belongs to rows and columns (q, in units of λ) is N×2×C×H×W. Every
image, and every channel of it, is computed alone.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxfit.passes.building import Builder

# Kernels of three dimensions, the first one that of the channels: in two, ONNX Runtime would fill
# the outputs up to a block of 8 or 16, which takes 4 times as long.
# Differences to the next row and to the next column; those to the row and column before.
_SLOPES = np.array([[[[[-1, 0], [1, 0]]]], [[[[-1, 1], [0, 0]]]]])
_DIVERGENCE = np.array([[[[[0, -1], [0, 1]]], [[[0, 0], [-1, 1]]]]])
# Of ∇ as a matrix: no singular value is larger.
_NORM = math.sqrt(8)
# Chambolle's step, the one that scikit-image takes in two dimensions.
_STEP = 0.25
# Of a squared length: so the slope of its root is finite at 0.
_TINY = 1e-30


def denoised(build: Builder, f: gs.Variable, weight: float, steps: int) -> gs.Variable:
    """Add Chambolle's projection iterations, all pixels kept (J. Math. Imaging Vis. 20, 2004).

    ::

        q ← (q + h) / (1 + |h|),  h = ¼ ∇u / λ;    u ← f + λ div q

    from q = 0, u = f: the iterations of scikit-image's ``denoise_tv_chambolle``.

    Args:
        build: Of the graph.
        f: N images.
        weight: λ, in units of their pixels.
        steps: How many of them, counted as scikit-image does: the first is the image itself.

    Returns:
        The images, N×1×C×H×W.
    """

    def step(inner: Builder, q: gs.Variable, u: gs.Variable) -> Sequence[gs.Variable]:
        h = _slopes(inner, u, _STEP / weight)
        q = inner("Div", inner("Add", q, h), inner("Add", _lengths(inner, h), inner.literal(1)))
        return q, inner("Add", f, _divergence(inner, q, weight))

    return build.repeat(steps - 1, [_nothing(build, f), f], step)[1]


def filled_in(
    build: Builder,
    f: gs.Variable,
    kept: gs.Variable,
    weight: float,
    steps: int,
    start: float,
    reach: float,
) -> gs.Variable:
    """Add iterations that fill in the pixels not kept (Chambolle and Pock 2011, Algorithm 1).

    ::

        q ← v / max(1, |v|),  v = q + σ ∇ū / λ
        r = u + τ λ div q
        u ← (r + τ f) / (1 + τ) where a pixel is kept, else r;    ū ← 2u − u before

    with στ‖∇‖² = 1. The longest way of a pixel, ``reach``, to that of λq, λ, says how much larger
    τ is than σ.

    Args:
        build: Of the graph.
        f: N images.
        kept: 1 where a pixel is kept, else 0; as large.
        weight: λ, in units of the pixels.
        steps: How many iterations.
        start: What pixels not kept begin with.
        reach: How far they may be from it.

    Returns:
        The images, N×1×C×H×W.
    """
    ratio = math.sqrt(reach / weight)
    tau, sigma = ratio / _NORM, 1 / (ratio * _NORM)
    pull = tau / (1 + tau)
    given = build("Mul", f, kept)
    others = build("Sub", build.literal(1), kept)
    pulled = build("Mul", given, build.literal(pull))
    left = build("Sub", build.literal(1), build("Mul", kept, build.literal(pull)))
    first = build("Add", given, build("Mul", others, build.literal(start)))

    def step(
        inner: Builder, q: gs.Variable, u: gs.Variable, ahead: gs.Variable
    ) -> Sequence[gs.Variable]:
        v = inner("Add", q, _slopes(inner, ahead, sigma / weight))
        q = inner("Div", v, _at_least_one(inner, _lengths(inner, v)))
        r = inner("Add", u, _divergence(inner, q, tau * weight))
        new = inner("Add", inner("Mul", r, left), pulled)
        return q, new, inner("Sub", inner("Add", new, new), u)

    return build.repeat(steps, [_nothing(build, f), first, first], step)[1]


def _slopes(build: Builder, u: gs.Variable, scale: float) -> gs.Variable:
    """Add what computes ∇u times a number, N×2×C×H×W."""
    # Behind the last row and column comes a copy of them, so that the difference is exactly 0.
    wider = build.with_list("Pad", u, "pads", [0, 0, 0, 0, 0, 0, 0, 0, 1, 1], since=11, mode="edge")
    return build("Conv", wider, build.literal(_SLOPES * scale))


def _divergence(build: Builder, q: gs.Variable, scale: float) -> gs.Variable:
    """Add what computes div q times a number, N×1×C×H×W."""
    return build("Conv", q, build.literal(_DIVERGENCE * scale), pads=[0, 1, 1, 0, 0, 0])


def _lengths(build: Builder, h: gs.Variable) -> gs.Variable:
    """Add what computes |h| at every pixel, N×1×C×H×W."""
    squares = build.with_list("ReduceSum", build("Mul", h, h), "axes", [1], since=13, keepdims=1)
    return build("Sqrt", build("Add", squares, build.literal(_TINY)))


def _at_least_one(build: Builder, x: gs.Variable) -> gs.Variable:
    # Max of numbers of different shapes comes with opset 8, Clip without inputs goes with 11.
    return build("Max", x, build.literal(1)) if build.opset >= 8 else build("Clip", x, min=1.0)


def _nothing(build: Builder, f: gs.Variable) -> gs.Variable:
    """Add what makes N×2×C×H×W zeros."""
    zero = build("Sub", f, f)
    return build("Concat", zero, zero, axis=1)
