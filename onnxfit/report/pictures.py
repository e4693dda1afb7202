"""Small pictures of samples, perturbations and gradients, as data URIs of PNG files."""

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.data import Bounds
from onnxfit.image_layout import channel_count, channels_first, is_picture, pixels_of
from onnxfit.saliency.shading import shades

if TYPE_CHECKING:
    from onnxfit.report.html import Exhibit, Outcome

Array = NDArray[np.floating[Any]]

_LARGEST = 128
_COLOURS = 128
_NEGATIVE, _NEUTRAL, _POSITIVE = np.array([[0, 114, 178], [247, 247, 247], [213, 94, 0]], float)


def drawable(sample: Array) -> bool:
    """Tell whether a sample is drawn: see :func:`onnxfit.image_layout.is_picture`."""
    return is_picture(sample.shape)


def grey(sample: Array) -> bool:
    """Tell whether a drawable sample has a single channel."""
    return channel_count(sample.shape) == 1


def reduction(sample: Array) -> int:
    """Tell by which whole number the sides of a sample's pictures are divided."""
    return -(-max(pixels_of(sample.shape)) // _LARGEST)


def panels(exhibit: "Exhibit", bounds: Bounds, names: Mapping[str, str]) -> dict[str, Any]:
    """Draw a sample and what was found for it; perturbations of both models on one scale.

    Args:
        exhibit: A drawable one.
        bounds: The values that are shown as black and white.
        names: What ``model`` and ``baseline`` are called; what has no name is not shown.

    Returns:
        What the page shows: data URIs, and numbers as text.
    """
    outcomes = {side: getattr(exhibit, side) for side in names}
    found = {side: one for side, one in outcomes.items() if one is not None}
    points = [one.adversarial for one in found.values() if one.adversarial is not None]
    scale = max((float(np.abs(point - exhibit.x).max()) for point in points), default=0.0)
    return {
        "index": exhibit.index,
        "label": exhibit.label,
        "input": image(exhibit.x, bounds),
        "times": magnified(scale, bounds),
        "panels": [
            {"side": side, "name": names[side], "outcome": one}
            | _outcome(exhibit.x, one, scale, bounds)
            for side, one in found.items()
        ],
    }


def _outcome(x: Array, outcome: "Outcome", scale: float, bounds: Bounds) -> dict[str, Any]:
    """Draw what was found for a sample on one model."""
    drawn: dict[str, Any] = {}
    if outcome.adversarial is not None:
        difference = outcome.adversarial - x
        drawn |= {
            "perturbation": perturbation(difference, scale),
            "adversarial": image(outcome.adversarial, bounds),
            "linf": f"{np.abs(difference).max():.3g}",
            "l2": f"{np.linalg.norm(difference):.3g}",
        }
    drawn["maps"] = [
        {"kind": kind, "of": of, "picture": None if values is None else saliency(values)}
        for of, maps in zip(("input", "adversarial input"), outcome.saliency, strict=False)
        for kind, values in maps._asdict().items()
    ]
    return drawn


def magnified(scale: float, bounds: Bounds) -> str | None:
    """Tell how many times larger a perturbation of some scale looks; None where it is 0."""
    return f"{(bounds[1] - bounds[0]) / (2 * scale):.3g}" if scale else None


def image(sample: Array, bounds: Bounds) -> str:
    """Draw a sample with its lower bound black and its upper bound white."""
    low, high = bounds
    values = (_reduced(_finite(channels_first(sample))) - low) * (255 / (high - low))
    return _uri(values)


def perturbation(difference: Array, scale: float) -> str:
    """Draw a perturbation magnified: what is ``scale`` has full strength.

    One channel goes from blue (−scale) over near-white (0) to vermilion (scale). Three channels go
    from 0 to 255 each, mid-grey where nothing was changed. Reduced by leaving out pixels: a mean
    would cancel the signs.
    """
    step = reduction(difference)
    strength = (_finite(channels_first(difference))[:, ::step, ::step] / (scale or 1)).clip(-1, 1)
    if len(strength) == 3:
        return _uri(127.5 * (1 + strength))
    weight = np.abs(strength).transpose(1, 2, 0)
    end = np.where(strength.transpose(1, 2, 0) < 0, _NEGATIVE, _POSITIVE)
    return _uri(((1 - weight) * _NEUTRAL + weight * end).transpose(2, 0, 1))


def saliency(values: Array) -> str:
    """Draw a map, H×W, as ``onnxfit gradients --saliency`` does."""
    return _uri(shades(_reduced(_finite(values[np.newaxis]))))


def _finite(values: Array) -> Array:
    """Show what is not finite as 0."""
    return np.nan_to_num(values, posinf=0, neginf=0)


def _reduced(values: Array) -> Array:
    """Reduce the sides of C×H×W by means over blocks."""
    channels, height, width = values.shape
    step = reduction(values)
    down, across = min(step, height), min(step, width)
    rows, columns = height // down, width // across
    blocks = values[:, : rows * down, : columns * across]
    means: Array = blocks.reshape(channels, rows, down, columns, across).mean(axis=(2, 4))
    return means


def _uri(values: Array) -> str:
    """Write values from 0 to 255, C×H×W, as a PNG file; large colour pictures with a palette."""
    from PIL import Image

    pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
    if picture.mode == "RGB" and max(picture.size) > _LARGEST // 2:
        picture = picture.quantize(_COLOURS)
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
