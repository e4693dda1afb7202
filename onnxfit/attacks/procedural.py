"""Perturbations that need no model: patterns by a formula, the same for all images."""

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit import checks
from onnxfit.attacks.ball import NORMS, Ball, Norm, unit_steps
from onnxfit.errors import DataError
from onnxfit.image_layout import IMAGES, channel_axis, pixels_of


def chessboard(
    shape: tuple[int, ...], eps: float, norm: Norm = "linf", cell: int = 1
) -> NDArray[np.float32]:
    """Make a chessboard, a perturbation that needs no model.

    The first value is positive, and all channels are the same.

    Args:
        shape: C×H×W or H×W×C, see :func:`onnxfit.image_layout.channel_axis`.
        eps: Its norm, in units of the samples; it is not exceeded in double precision. For
            ``linf`` every value is ±eps as float32 holds it.
        norm: ``linf`` or ``l2``.
        cell: Height and width of a field in pixels.

    Raises:
        DataError: The shape is that of no image.
        ValueError: A setting is out of its range.
    """
    height, width = _image(shape)
    checks.whole("cell", cell, 1)
    fields = np.add.outer(np.arange(height) // cell, np.arange(width) // cell)
    return _within(1.0 - 2 * (fields % 2), shape, eps, norm)


def perlin(
    shape: tuple[int, ...],
    eps: float,
    norm: Norm = "linf",
    *,
    period: float,
    octaves: int = 1,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Make Perlin noise, a perturbation that needs no model (Co et al., 2019, arXiv 1810.00470).

    It is gradient noise (Perlin, 2002), summed over octaves, each of half the period and amplitude
    of the one before; without the paper's sine colour map. It is seamless: it goes on at the
    opposite border. All channels are the same. For ``linf`` every value is ±eps by the sign of the
    noise, which is the strongest form.

    Args:
        shape: C×H×W or H×W×C, see :func:`onnxfit.image_layout.channel_axis`.
        eps: Its norm, in units of the samples; it is not exceeded in double precision.
        norm: ``linf`` or ``l2``.
        period: Of the first octave, in pixels; changed a little, so that each side holds a whole
            number of periods, at least 1.
        octaves: How many, at least 1.
        seed: Of the directions of the gradients.

    Raises:
        DataError: The shape is that of no image.
        ValueError: A setting is out of its range.
    """
    height, width = _image(shape)
    checks.above_0("period", period)
    checks.whole("octaves", octaves, 1)
    checks.seed(seed)
    generator = np.random.default_rng(seed)
    noise = np.zeros((height, width))
    rows, columns = (max(round(side / period), 1) for side in (height, width))
    for octave in range(octaves):
        angles = generator.uniform(0, 2 * np.pi, (rows << octave, columns << octave))
        noise += _gradient_noise(height, width, angles) / 2**octave
    return _within(np.where(noise < 0, -1.0, 1.0) if norm == "linf" else noise, shape, eps, norm)


def _gradient_noise(height: int, width: int, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Perlin's noise at the middles of pixels, for the direction at each lattice point."""
    (row, y), (column, x) = (
        np.divmod((np.arange(side) + 0.5) * count / side, 1)
        for side, count in zip((height, width), angles.shape, strict=True)
    )

    def corner(down: int, right: int) -> NDArray[np.float64]:
        rows = (row.astype(int) + down) % angles.shape[0]
        columns = (column.astype(int) + right) % angles.shape[1]
        angle = angles[np.ix_(rows, columns)]
        ramp: NDArray[np.float64] = np.sin(angle) * (y - down)[:, None] + np.cos(angle) * (
            x - right
        )
        return ramp

    fade_y, fade_x = (t**3 * (6 * t**2 - 15 * t + 10) for t in (y[:, None], x))
    top = corner(0, 0) * (1 - fade_x) + corner(0, 1) * fade_x
    bottom = corner(1, 0) * (1 - fade_x) + corner(1, 1) * fade_x
    mixed: NDArray[np.float64] = top * (1 - fade_y) + bottom * fade_y
    return mixed


def _within(
    pattern: NDArray[np.float64], shape: tuple[int, ...], eps: float, norm: Norm
) -> NDArray[np.float32]:
    """Repeat a pattern, H×W, in each channel and scale it to a norm.

    Raises:
        ValueError: The norm or its size is out of range.
    """
    checks.one_of("norm", norm, NORMS)
    checks.above_0("eps", eps)
    everywhere = np.broadcast_to(np.expand_dims(pattern, channel_axis(shape) or 0), shape)
    values = torch.from_numpy(everywhere.astype(np.float32))[None]
    ball = Ball(torch.zeros_like(values), eps, norm, (-eps, eps))
    found: NDArray[np.float32] = ball.project(eps * unit_steps(values, norm))[0].numpy()
    return found


def _image(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the height and width of an image.

    Raises:
        DataError: The shape is that of no image.
    """
    if channel_axis(shape) is None:
        raise DataError(f"expected the shape of an image, {IMAGES}, got {tuple(shape)}")
    height, width = pixels_of(shape)
    return height, width
