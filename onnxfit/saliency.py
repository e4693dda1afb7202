"""Saliency maps: images beside what their gradients say matters in them."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.data import Bounds, Dataset
from onnxfit.data_sources import times
from onnxfit.errors import DataError
from onnxfit.image_folder import pillow

MIN_HEIGHT = 128
_PERCENTILE = 99
_NAME = re.compile(r"(\d+)-label\d+-predicted\d+\.png")

Show = Callable[
    [NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]], None
]


def picture(
    sample: NDArray[np.float32], gradient: NDArray[np.float32], bounds: Bounds = (0.0, 1.0)
) -> NDArray[np.uint8]:
    """Draw an image and, to its right, its saliency map.

    A pixel of the map is the largest absolute gradient over the channels, black for 0 and white
    from the map's 99th percentile on, or from its largest value on where that percentile is 0.
    What is not finite is shown as 0.

    Args:
        sample: C×H×W with one or three channels.
        gradient: Of the same shape.
        bounds: The values of ``sample`` that are shown as black and white.

    Returns:
        Pixels, enlarged by a whole number to a height of at least 128: H'×2W' for one channel,
        H'×2W'×3 for three.
    """
    low, high = bounds
    image = np.rint((sample - low) * (255 / (high - low))).clip(0, 255)
    strength = np.abs(np.nan_to_num(gradient, posinf=0, neginf=0)).max(axis=0)
    white = np.percentile(strength, _PERCENTILE) or strength.max() or 1.0
    shade = np.rint(np.minimum(strength / white, 1) * 255)
    both = np.concatenate([image, np.broadcast_to(shade, image.shape)], axis=2).astype(np.uint8)
    factor = -(-MIN_HEIGHT // both.shape[1])
    pixels: NDArray[np.uint8] = both.repeat(factor, axis=1).repeat(factor, axis=2)
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def older(folder: Path, n: int) -> list[Path]:
    """List the saliency maps of the first ``n`` samples that are in a folder, by name."""
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted(path for path in found if int(path.name.partition("-")[0]) < n)


@contextlib.contextmanager
def writing(folder: Path, data: Dataset) -> Iterator[Show]:
    """Give a function that draws the next samples, and put the pictures into a folder at the end.

    ``show(x, gradients, labels, predictions)`` takes a batch. The files are named by index, label
    and prediction: ``00007-label3-predicted5.png``. The folder is made if need be. Where something
    fails, it stays as it was.

    Raises:
        DataError: The samples are no images of one or three channels, or the folder cannot be
            made.
        ModuleNotFoundError: Pillow is not installed.
    """
    from_array = pillow().fromarray
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        raise DataError(
            "saliency maps are for images of 1 or 3 channels, channels first; "
            f"the samples of {data.path} are {times(data.shape)}"
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    if not folder.parent.is_dir():
        raise DataError(f"the folder {folder.parent} does not exist")
    digits = max(5, len(str(data.n - 1)))
    names: list[str] = []
    parent = folder if folder.is_dir() else folder.parent
    with tempfile.TemporaryDirectory(
        dir=parent, prefix=f".{folder.name}.", suffix=".part"
    ) as drawn:

        def show(x: Any, gradients: Any, labels: Any, predictions: Any) -> None:
            for sample, gradient, *numbers in zip(x, gradients, labels, predictions, strict=True):
                name = f"{len(names):0{digits}}-label{numbers[0]}-predicted{numbers[1]}.png"
                from_array(picture(sample, gradient, data.bounds)).save(Path(drawn, name))
                names.append(name)

        yield show
        folder.mkdir(exist_ok=True)
        for path in older(folder, data.n):
            path.unlink()
        for name in names:
            Path(drawn, name).replace(folder / name)
