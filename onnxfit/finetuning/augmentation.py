"""New samples made of samples, anew in every epoch: images within the bounds."""

from collections.abc import Callable, Sequence

import torch

from onnxfit.data_sources import times
from onnxfit.errors import DataError
from onnxfit.image_layout import IMAGES, channel_axis, is_picture

# A side of the image is shifted by at most this share of it, and cut out a square of that share.
_SHIFT, _CUTOUT = 1 / 14, 1 / 4
# Half of the samples become smooth copies: so many steps of a dual method, at weights up to that.
_TV_STEPS, _TV_WEIGHT = 20, 0.15
_TV_STEP = 0.248


def shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by a few whole pixels each way; its border is continued outwards."""
    for axis in (2, 3):
        size = x.shape[axis]
        reach = round(_SHIFT * size)
        by = _integers(-reach, reach, len(x), generator, x.device)
        at = (torch.arange(size, device=x.device) + by[:, None]).clamp_(0, size - 1)
        shape = [len(x), 1, 1, 1]
        shape[axis] = size
        x = x.gather(axis, at.reshape(shape).expand(x.shape))
    return x


def flipped(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images, left to right."""
    return torch.where(_chosen(x, generator), x.flip(3), x)


def cut_out(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Give a random square of each image its mean colour (DeVries and Taylor 2017)."""
    inside = torch.ones_like(x[:, :1], dtype=torch.bool)
    for axis in (2, 3):
        size = x.shape[axis]
        centre = _integers(0, size - 1, len(x), generator, x.device)
        far = (torch.arange(size, device=x.device) - centre[:, None]).abs()
        shape = [len(x), 1, 1, 1]
        shape[axis] = size
        inside = inside & (2 * far < _CUTOUT * size).reshape(shape)
    return torch.where(inside, x.mean((2, 3), keepdim=True), x)


def smoothed(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Take the noise out of half of the images by total variation, each by its own weight.

    ``argmin over z of ‖z − x‖²/2 + λ·TV(z)`` by projections of the dual (Chambolle 2004), channel
    by channel; λ is uniform, in units of the spread of the image.
    """
    spread = x.std((1, 2, 3), keepdim=True)
    weight = _TV_WEIGHT * spread * torch.rand(len(x), 1, 1, 1, generator=generator).to(x)
    weight = weight.clamp(min=1e-6)
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(_TV_STEPS):
        rest = _divergence(down, right) - x / weight
        one, other = torch.zeros_like(x), torch.zeros_like(x)
        one[:, :, :-1], other[..., :-1] = rest.diff(dim=2), rest.diff(dim=3)
        length = 1 + _TV_STEP * (one.square() + other.square()).sqrt()
        down, right = (down + _TV_STEP * one) / length, (right + _TV_STEP * other) / length
    return torch.where(_chosen(x, generator), x - weight * _divergence(down, right), x)


KINDS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "shift": shifted,
    "flip": flipped,
    "cutout": cut_out,
    "tv": smoothed,
}


def kinds_for(shape: Sequence[int], asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return what is made of samples of a shape.

    Args:
        shape: Of one sample.
        asked: What was asked for, of any samples of three axes; by default shifts of pictures, see
            :func:`onnxfit.image_layout.is_picture`.

    Raises:
        DataError: Something was asked for, and the samples do not have three axes.
    """
    if asked is None:
        return ("shift",) if is_picture(shape) else ()
    if asked:
        _channels_of(shape)
    return tuple(asked)


def augmented(x: torch.Tensor, kinds: Sequence[str], generator: torch.Generator) -> torch.Tensor:
    """Apply kinds in their order to images; nothing leaves the range of each image.

    Args:
        x: n×C×H×W or n×H×W×C, see :func:`onnxfit.image_layout.channel_axis`.
        kinds: Those of :data:`KINDS`.
        generator: Of the random numbers, on the CPU.

    Raises:
        DataError: The samples do not have three axes.
    """
    axis = _channels_of(x.shape[1:])
    x = x.movedim(1 + axis, 1)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    for kind in kinds:
        x = KINDS[kind](x, generator)
    return x.clamp(low, high).movedim(1, 1 + axis)


def _channels_of(shape: Sequence[int]) -> int:
    """Return which axis of an image holds its channels.

    Raises:
        DataError: The shape does not have three axes.
    """
    axis = channel_axis(shape)
    if axis is None:
        raise DataError(f"augment takes images, {IMAGES}; the samples are {times(tuple(shape))}")
    return axis


def _chosen(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5).to(x.device)


def _integers(
    low: int, high: int, count: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    return torch.randint(low, high + 1, (count,), generator=generator).to(device)


def _divergence(down: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the divergence of a field whose last row and column do not leave the image."""
    found = down.clone()
    found[:, :, 1:] -= down[:, :, :-1]
    found += right
    found[..., 1:] -= right[..., :-1]
    return found
