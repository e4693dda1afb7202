"""A folder of pictures: images beside what their gradients say matters in them."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxfit.data import Bounds, Dataset
from onnxfit.data_sources import times
from onnxfit.errors import DataError
from onnxfit.image_folder import pillow
from onnxfit.image_layout import IMAGES, channels_first, is_drawable
from onnxfit.saliency.shading import shades, strength

MIN_HEIGHT = 128
_NAME = re.compile(r"(\d+)-label\d+-predicted\d+\.png")


def picture(
    sample: NDArray[np.float32], gradient: NDArray[np.float32], bounds: Bounds = (0.0, 1.0)
) -> NDArray[np.uint8]:
    """Draw an image and, to its right, its saliency map.

    The map is that of :func:`onnxfit.saliency.shading.strength`, as bright as
    :func:`onnxfit.saliency.shading.shades` says.

    Args:
        sample: C×H×W or H×W×C, with one or three channels.
        gradient: Of the same shape.
        bounds: The values of ``sample`` that are shown as black and white.

    Returns:
        Pixels, enlarged by a whole number to a height of at least 128: H'×2W' for one channel,
        H'×2W'×3 for three.
    """
    low, high = bounds
    image = np.rint((channels_first(sample) - low) * (255 / (high - low))).clip(0, 255)
    shade = np.rint(shades(strength(channels_first(gradient))))
    both = np.concatenate([image, np.broadcast_to(shade, image.shape)], axis=2).astype(np.uint8)
    factor = -(-MIN_HEIGHT // both.shape[1])
    pixels: NDArray[np.uint8] = both.repeat(factor, axis=1).repeat(factor, axis=2)
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def older(folder: Path) -> list[Path]:
    """List the saliency maps that are in a folder, by name."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


class Maps:
    """Saliency maps that wait in a folder of their own until all are drawn.

    Args:
        folder: Where they belong.
        waiting: Where they wait, on the same file system.
        data: The samples.
    """

    def __init__(self, folder: Path, waiting: Path, data: Dataset) -> None:
        self._folder, self._bounds = folder, data.bounds
        self._digits = max(5, len(str(data.n - 1)))
        self._names: list[str] = []
        self._new, self._old = waiting / "new", waiting / "old"
        self._new.mkdir()
        self._old.mkdir()
        self._made_folder = False

    def draw(
        self,
        x: NDArray[np.float32],
        gradients: NDArray[np.float32],
        labels: NDArray[np.int64],
        predictions: NDArray[np.int64],
    ) -> None:
        """Draw the next samples."""
        from_array = pillow().fromarray
        for sample, gradient, *numbers in zip(x, gradients, labels, predictions, strict=True):
            index = f"{len(self._names):0{self._digits}}"
            name = f"{index}-label{numbers[0]}-predicted{numbers[1]}.png"
            from_array(picture(sample, gradient, self._bounds)).save(self._new / name)
            self._names.append(name)

    def publish(self) -> None:
        """Put the maps into their folder, in place of all that are there."""
        self._made_folder = not self._folder.exists()
        self._folder.mkdir(exist_ok=True)
        for path in older(self._folder):
            path.replace(self._old / path.name)
        for name in self._names:
            (self._new / name).replace(self._folder / name)

    def take_back(self) -> None:
        """Make the folder what it was before the maps were put there."""
        if not self._folder.is_dir():
            return
        for name in self._names:
            if not (self._new / name).exists():
                (self._folder / name).unlink(missing_ok=True)
        for path in self._old.iterdir():
            path.replace(self._folder / path.name)
        if self._made_folder:
            self._folder.rmdir()


@contextlib.contextmanager
def writing(folder: Path, data: Dataset) -> Iterator[Maps]:
    """Give what draws the samples, in order, and puts the pictures into a folder when told to.

    The files are named by index, label and prediction: ``00007-label3-predicted5.png``. The folder
    is made if need be. Where something fails before the context is left, it stays as it was.

    Raises:
        DataError: The samples are no images of one or three channels, or the folder cannot be
            made.
        ModuleNotFoundError: Pillow is not installed.
    """
    pillow()
    if not is_drawable(data.shape):
        raise DataError(
            f"saliency maps are for images, {IMAGES}, of 1 or 3 channels; "
            f"the samples of {data.path} are {times(data.shape)}"
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    if not folder.parent.is_dir():
        raise DataError(f"the folder {folder.parent} does not exist")
    parent = folder if folder.is_dir() else folder.parent
    prefix = f".{folder.name}."
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix, suffix=".part") as waiting:
        maps = Maps(folder, Path(waiting), data)
        try:
            yield maps
        except BaseException:
            maps.take_back()
            raise
