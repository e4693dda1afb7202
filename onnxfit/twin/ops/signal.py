"""Fourier transforms, windows and the mel scale."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.tensors import DTYPES

Scalar = int | tuple[int, ...] | None
# The weights of the cosines, of 0, 1 and 2 periods.
WINDOWS = {
    "HannWindow": (0.5, -0.5, 0.0),
    "HammingWindow": (25 / 46, -21 / 46, 0.0),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


@converter("DFT", since=17)
def dft(node: Node) -> Outputs:
    return _dft(node, node.get("axis", 1))


@converter("DFT", since=20)
def dft_along_input(node: Node) -> Outputs:
    return _dft(node, node.host(2) if node.has(2) else -2)


def _dft(node: Node, axis: Any) -> Outputs:
    inverse, onesided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    return node.emit(transform, node.input(0), node.host(1), axis, inverse, onesided)


@converter("STFT", since=17)
def stft(node: Node) -> Outputs:
    sizes = (node.host(1), node.host(3))
    onesided = bool(node.get("onesided", 1))
    return node.emit(short_time, node.input(0), node.frozen(2), *sizes, onesided)


@converter(*WINDOWS, since=17)
def window(node: Node) -> Outputs:
    like = _floating(node)
    periodic = bool(node.get("periodic", 1))
    return node.emit(cosines, node.host(0), WINDOWS[node.op_type], periodic, like)


@converter("MelWeightMatrix", since=17)
def mel_weight_matrix(node: Node) -> Outputs:
    like = _floating(node)
    return node.emit(mel_bands, *(node.host(index) for index in range(5)), like)


def _floating(node: Node) -> Any:
    """Return what tells the type of the output."""
    dtype = DTYPES[node.get("output_datatype", 1)]
    if not dtype.is_floating_point:
        node.unsupported("integers would be rounded differently everywhere")
    return node.like(dtype)


def number(value: Any) -> Any:
    """Return a number that may lie in a tuple."""
    return value[0] if isinstance(value, tuple) else value


def to_complex(x: Tensor) -> Tensor:
    """Read the last axis as real, or as real and imaginary part, at least in float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide[..., 0] if x.shape[-1] == 1 else torch.complex(wide[..., 0], wide[..., 1])


def transform(x: Tensor, length: Scalar, axis: Scalar, inverse: bool, onesided: bool) -> Tensor:
    """Compute a Fourier transform along an axis; the last one is of the parts."""
    dim, n = number(axis), number(length)
    dim = dim + x.dim() if dim < 0 else dim
    z = to_complex(x)
    if inverse and onesided:
        if n is not None and n // 2 + 1 < x.shape[dim]:
            # The specification cuts the signal off, ONNX Runtime goes on with what follows.
            raise ValueError(f"{n} values have no one-sided transform of {x.shape[dim]}")
        return torch.fft.irfft(z, n, dim)[..., None].to(x.dtype)
    if onesided and z.is_complex():
        raise ValueError("a complex signal has no one-sided transform")
    if onesided:
        y = torch.fft.rfft(z, n, dim)
    else:
        y = torch.fft.ifft(z, n, dim) if inverse else torch.fft.fft(z, n, dim)
    return torch.view_as_real(y.resolve_conj()).to(x.dtype)


def short_time(
    x: Tensor, window: Tensor | None, step: Scalar, length: Scalar, onesided: bool
) -> Tensor:
    """Transform frames of a signal ``[batch, length, parts]``, each times a window."""
    size = number(length)
    if size is None:
        size = x.shape[1] if window is None else window.shape[0]
    frames = to_complex(x).unfold(1, size, number(step))
    if window is not None:
        frames = frames * window
    if onesided and frames.is_complex():
        raise ValueError("a complex signal has no one-sided transform")
    y = torch.fft.rfft(frames) if onesided else torch.fft.fft(frames)
    return torch.view_as_real(y).to(x.dtype)


def cosines(
    size: Scalar, weights: tuple[float, float, float], periodic: bool, like: Tensor
) -> Tensor:
    """Compute a window as a sum of cosines, at least in float32."""
    count = number(size)
    wide = torch.promote_types(like.dtype, torch.float32)
    n = torch.arange(count, dtype=wide, device=like.device)
    angle = n * (2 * math.pi) / (count if periodic else count - 1)
    constant, once, twice = weights
    return (constant + once * torch.cos(angle) + twice * torch.cos(2 * angle)).to(like.dtype)


def mel_bands(
    bands: Scalar, length: Scalar, rate: Scalar, lower: Any, upper: Any, like: Tensor
) -> Tensor:
    """Compute a triangle for each band, ``[length // 2 + 1, bands]``, evenly on the mel scale."""
    count, size = number(bands), number(length)
    low, high = (math.log1p(number(edge) / 700) for edge in (lower, upper))
    mels = low + np.arange(count + 2) * (high - low) / (count + 2)
    edges = ((size + 1) * 700 * np.expm1(mels) // number(rate)).astype(np.int64)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(size // 2 + 1)[:, None]
    if center.max(initial=0) >= len(bins) or right.max(initial=0) > len(bins):
        raise ValueError("the bands reach beyond half the sample rate")
    rising = np.where(center > left, (bins - left) / np.maximum(center - left, 1), 1.0)
    falling = (right - bins) / np.maximum(right - center, 1)
    found = np.where((left <= bins) & (bins <= center), rising, 0.0)
    found = np.where((center <= bins) & (bins < right), falling, found)
    return torch.from_numpy(found).to(dtype=like.dtype, device=like.device)
