"""Labelled samples from a folder with a sub-folder of images for each class."""

import importlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.data_sources import Source, times
from onnxfit.errors import DataError
from onnxfit.npz import reading

_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
_GREY = frozenset(("1", "L", "LA", "La"))
_DEEP = frozenset(("I", "F"))


def pillow() -> Any:
    """Import Pillow's ``PIL.Image``, an optional dependency.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "images need Pillow: pip install 'onnxfit[twin]'", name="PIL"
        ) from None


def from_folder(path: Path, limit: int | None, channels: int | None) -> Source:
    """Open a folder of images by class; see :func:`onnxfit.data.open_data`."""
    pillow()
    with reading(path):
        classes = sorted(
            sub.name for sub in path.iterdir() if sub.is_dir() and not sub.name.startswith(".")
        )
        by_class = [_images(path / name) for name in classes]
    if not classes:
        raise DataError(f"{path} has no sub-folders; each class of images needs one")
    files = tuple(file for images in by_class for file in images)
    if not files:
        raise DataError(f"{path} has no images in its sub-folders")
    counts = [len(images) for images in by_class]
    quotas = counts if limit is None else _spread(counts, limit)
    pairs = zip(by_class, quotas, strict=True)
    chosen = [file for images, quota in pairs for file in images[:quota]]
    return Source(
        files=files,
        shape=_pixels(chosen[0], channels).shape,
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), quotas),
        read=lambda size: _batches(chosen, channels, size),
        classes=tuple(classes),
    )


def _batches(files: list[Path], channels: int | None, size: int) -> Iterator[NDArray[np.uint8]]:
    shape = _pixels(files[0], channels).shape
    for start in range(0, len(files), size):
        some = files[start : start + size]
        batch = np.empty((len(some), *shape), np.uint8)
        for row, file in zip(batch, some, strict=True):
            pixels = _pixels(file, channels)
            if pixels.shape != shape:
                raise DataError(
                    f"{file} is {times(pixels.shape)}, but {files[0]} is {times(shape)}: "
                    "all images must have one size and number of channels"
                )
            row[:] = pixels
        yield batch


def _images(folder: Path) -> list[Path]:
    """List the images in a folder and the folders below it, by name, without hidden ones."""
    files = folder.rglob("*")
    return sorted(
        file
        for file in files
        if file.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def _spread(counts: list[int], limit: int) -> list[int]:
    """Share ``limit`` out over classes that have so many samples, as evenly as they allow."""
    quotas = [0] * len(counts)
    left = min(limit, sum(counts))
    while left:
        able = [index for index, count in enumerate(counts) if quotas[index] < count]
        # A last round that is not for all goes to classes at equal distances.
        turns = min(left, len(able))
        for turn in range(turns):
            quotas[able[turn * len(able) // turns]] += 1
        left -= turns
    return quotas


def _pixels(file: Path, channels: int | None) -> NDArray[np.uint8]:
    """Return an image as C×H×W, upright, with as many channels as it has or as are asked for."""
    library = pillow()
    upright = importlib.import_module("PIL.ImageOps").exif_transpose
    try:
        with reading(file), library.open(file) as image:
            if image.mode in _DEEP or ";" in image.mode:
                raise DataError(f"{file} is of mode {image.mode}, which has no 8 bits per channel")
            grey = image.mode in _GREY if channels is None else channels == 1
            # Pillow warns when a palette with transparent entries becomes anything but RGBA.
            plain = image.convert("RGBA") if image.mode == "P" else image
            pixels = np.asarray(upright(plain.convert("L" if grey else "RGB")))
    except (SyntaxError, TypeError, struct.error, library.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return pixels[np.newaxis] if grey else pixels.transpose(2, 0, 1)
