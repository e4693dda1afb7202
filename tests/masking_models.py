"""Models that look robust, or are measured wrongly, each for a reason of its own.

Each is a network of the repository with a few nodes put before or behind it, or a linear classifier
in its place, and trips one diagnostic. They must never pass the gate; the networks in GOOD must.

``staircase`` needs an eps below half a step of its levels. There no perturbation has any effect,
so that no other check can trip; at a larger eps an attack without gradients beats those that have
none to follow, and ``gradient-free`` trips as well, as it should.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.compose
from numpy.typing import NDArray
from onnx import ModelProto
from support import MODELS, parse

import onnxfit

LEVELS = 16  # Pixels of the digits are multiples of 1/16.
# The jump that masks: the worst case falls by much more than what native gradients see.
LARGE_JUMP = 0.8


@dataclass(frozen=True)
class Masking:
    """A model that trips a diagnostic.

    Attributes:
        name: Of the model.
        check: The diagnostic.
        build: Makes the model.
        eps: The l∞ eps at which it trips that one and no other gate check.
    """

    name: str
    check: str
    build: Callable[[], ModelProto]
    eps: float = 0.1


def digits(name: str = "digits_cnn") -> ModelProto:
    """Load a network of the repository."""
    return onnx.load(MODELS / f"{name}.onnx")


def scaled() -> ModelProto:
    """Multiply the logits by 1000: softmax saturates, and nothing else changes."""
    return _behind("shown = Mul(scores, scale)", "float scale = {1000.0}")


def staircase() -> ModelProto:
    """Round every pixel to a multiple of 1/16 first: no gradient passes."""
    nodes = "wide = Mul(pixels, k) whole = Round(wide) seen = Div(whole, k)"
    return _before(nodes, f"float k = {{{LEVELS}.0}}")


def integers() -> ModelProto:
    """Do the same through a cast to integers: autograd does not even reach the input."""
    nodes = (
        "wide = Mul(pixels, k) shifted = Add(wide, half) whole = Cast<to = 7>(shifted) "
        "level = Cast<to = 1>(whole) seen = Div(level, k)"
    )
    return _before(nodes, f"float k = {{{LEVELS}.0}}, float half = {{0.5}}")


def noisy(scale: float = 0.01) -> ModelProto:
    """Add normal noise to every pixel: no two runs are the same."""
    nodes = f"noise = RandomNormalLike<scale = {scale}>(pixels) seen = Add(pixels, noise)"
    return _before(nodes)


def rugged() -> ModelProto:
    """Add a fine wave to every pixel, of another phase in each: gradients point anywhere.

    The wave is .003 high and .005 long, but its slope is up to four times that of the pixel
    itself. Attacks that do without gradients do not notice it.
    """
    phases = np.arange(64).reshape(8, 8) * (math.sqrt(5) - 1) / 2 % 1 * 2 * math.pi
    return _wave(203.3, 4.0, phases)


def lucky() -> ModelProto:
    """Give a linear classifier a fine wave whose slope is true at the samples and misleads beyond.

    The pixels of the digits are multiples of 1/16, where the wave rises. One step from there goes
    the right way, which for a linear classifier is all the way. Elsewhere half of the slopes have
    the wrong sign, and at the corners of an eps of .1, where large steps end, nearly all.
    """
    return _wave(9.0 * LEVELS, 10.0, np.zeros((8, 8)), _nearest_mean())


def far_away() -> ModelProto:
    """Turn the slope of the margin round where it is large: what is far away stays there.

    The logits are multiplied by (12/margin)² where the margin is above 12, which changes no
    class. Samples that can be broken at eps .1 have a smaller one.
    """
    nodes = (
        "top, places = TopK<axis = 1>(scores, two) best, second = Split<axis = 1>(top) "
        "gap = Sub(best, second) ratio = Div(limit, gap) square = Mul(ratio, ratio) "
        "factor = Min(square, one) shown = Mul(scores, factor)"
    )
    values = "int64[1] two = {2}, float limit = {12.0}, float one = {1.0}"
    return _behind(nodes, values, digits("digits_cnn_pgd"))


def jumping() -> ModelProto:
    """Harden the adversarially trained network with a jump that native gradients miss."""
    return onnxfit.retrofit(digits("digits_cnn_pgd"), LARGE_JUMP)


MASKING = (
    Masking("scaled", "saturated-logits", scaled),
    Masking("staircase", "zero-gradients", staircase, eps=0.03),
    Masking("noisy", "repeatable", noisy),
    Masking("rugged", "gradient-free", rugged),
    Masking("lucky", "many-steps", lucky),
    Masking("far_away", "large-eps", far_away),
)

GOOD: dict[str, Callable[[], ModelProto]] = {
    "plain": digits,
    "adversarially trained": lambda: digits("digits_cnn_pgd"),
    "jump 0.5": lambda: onnxfit.retrofit(digits(), 0.5),
}


def _before(nodes: str, values: str = "", model: ModelProto | None = None) -> ModelProto:
    """Put nodes from ``pixels`` to ``seen`` before a network."""
    front = parse(
        '<ir_version: 8, opset_import: ["": 17]> '
        f"front (float[N,1,8,8] pixels) => (float[N,1,8,8] seen) <{values}> {{ {nodes} }}"
    )
    network = digits() if model is None else model
    return onnx.compose.merge_models(front, network, io_map=[("seen", network.graph.input[0].name)])


def _behind(nodes: str, values: str, model: ModelProto | None = None) -> ModelProto:
    """Put nodes from ``scores`` to ``shown`` behind a network."""
    back = parse(
        '<ir_version: 8, opset_import: ["": 17]> '
        f"back (float[N,10] scores) => (float[N,10] shown) <{values}> {{ {nodes} }}"
    )
    network = digits() if model is None else model
    io_map = [(network.graph.output[0].name, "scores")]
    return onnx.compose.merge_models(network, back, io_map=io_map)


def _wave(
    waves: float, slope: float, phases: NDArray[np.float64], model: ModelProto | None = None
) -> ModelProto:
    """Add ``slope/ω · sin(ω·pixel + phase)`` to every pixel, with ω = 2π·waves."""
    omega = 2 * math.pi * waves
    nodes = (
        "wide = Mul(pixels, omega) angle = Add(wide, phases) sine = Sin(angle) "
        "wave = Mul(sine, height) seen = Add(pixels, wave)"
    )
    values = f"float omega = {{{omega}}}, float height = {{{slope / omega}}}"
    return _before(nodes, f"{values}, float[1,8,8] phases = {_listed(phases.ravel())}", model)


def _nearest_mean() -> ModelProto:
    """Make the linear classifier that names the class whose mean image is nearest."""
    with np.load(MODELS / "digits_val.npz") as data:
        x, y = data["x"].reshape(-1, 64).astype(np.float64), data["y"]
    means = np.stack([x[y == label].mean(0) for label in range(10)])
    weights, bias = 20 * means.T, -10 * np.square(means).sum(1)
    return parse(
        '<ir_version: 8, opset_import: ["": 17]> '
        "linear (float[N,1,8,8] image) => (float[N,10] logits) "
        f"<float[64,10] w = {_listed(weights.ravel())}, float[10] b = {_listed(bias)}> "
        "{ flat = Flatten(image) product = MatMul(flat, w) logits = Add(product, b) }"
    )


def _listed(values: Iterable[float]) -> str:
    """Write numbers as ONNX text."""
    return "{" + ", ".join(f"{value:.8g}" for value in values) + "}"
