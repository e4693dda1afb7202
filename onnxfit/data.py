"""Labelled data: batches of float32 samples within bounds, streamed from files."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxfit import checks
from onnxfit.data_sources import Source, from_idx, from_memory, from_npz
from onnxfit.errors import DataError
from onnxfit.image_folder import from_folder
from onnxfit.npz import reading

Bounds = tuple[float, float]


class Batch(NamedTuple):
    """Samples ``x``, float32 of shape N×…, and their labels ``y``, int64 of shape N."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Labelled samples in files, which :func:`open_data` makes.

    Attributes:
        path: What was opened.
        bounds: Smallest and largest value that a sample may have.
        source: The samples as the files hold them.
    """

    path: Path
    bounds: Bounds
    source: Source

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.source.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample; an image is channels × height × width."""
        return self.source.shape

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels of all samples, int64 of shape N, each at least 0."""
        return self.source.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the sub-folders, by label; empty where the data has no names."""
        return self.source.classes

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, or of what ``sha256sum`` prints for several, sorted by name.

        The names are relative to the folder. A limit changes nothing. Of arrays it is the SHA-256
        of their types, shapes and values.
        """
        if self.source.sha256:
            return self.source.sha256
        folder = self.path if self.path.is_dir() else self.path.parent
        digests = {
            file.relative_to(folder).as_posix(): sha256_of(file) for file in self.source.files
        }
        if len(digests) == 1 and folder != self.path:
            return next(iter(digests.values()))
        listing = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield all samples in order, ``batch_size`` at a time; the last batch may be smaller.

        May be called again, and needs memory for a batch, not for the data.

        Raises:
            DataError: A file is damaged, or a value is not finite or outside the bounds.
            ValueError: ``batch_size`` is less than 1.
        """
        if batch_size < 1:
            raise ValueError(f"expected batch_size >= 1, got {batch_size}")
        start = 0
        for values in self.source.read(batch_size):
            stop = start + len(values)
            yield Batch(self._scaled(values, start), self.labels[start:stop])
            start = stop

    def check_classes(self, classes: int) -> None:
        """Check that every label is one of so many classes.

        Raises:
            DataError: A label is none of them.
        """
        highest = int(self.labels.argmax())
        if self.labels[highest] >= classes:
            raise DataError(
                f"{self.path}: the label of sample {highest} is {self.labels[highest]}, "
                f"but the model has {classes} classes, 0 to {classes - 1}"
            )

    def spread_rows(self, count: int) -> NDArray[np.int64]:
        """Return the numbers of at most ``count`` samples spread evenly over all, in order."""
        return evenly(self.n, count)

    def spread(self, count: int) -> Batch:
        """Return the samples of :meth:`spread_rows`; reads all samples once.

        Raises:
            DataError: As :meth:`batches`.
        """
        return self.taken(self.spread_rows(count), max(count, 1))

    def taken(self, rows: NDArray[np.int64], batch_size: int) -> Batch:
        """Return some samples by their numbers, in order; reads all samples once.

        Args:
            rows: The numbers, ascending.
            batch_size: Samples that are read at a time.

        Raises:
            DataError, ValueError: As :meth:`batches`.
        """
        return Batch(
            np.concatenate([part.x for part in self.some(rows, batch_size)]), self.labels[rows]
        )

    def some(self, rows: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """Yield of each batch the samples with some numbers, ascending; there may be none.

        Raises:
            DataError, ValueError: As :meth:`batches`.
        """
        start = 0
        for x, y in self.batches(batch_size):
            here = rows[(rows >= start) & (rows < start + len(x))] - start
            yield Batch(x[here], y[here])
            start += len(x)

    def _scaled(self, values: NDArray[Any], start: int) -> NDArray[np.float32]:
        """Return values as float32 within the bounds; ``start`` is the first one's number."""
        low, high = self.bounds
        if values.dtype == np.uint8:
            levels: NDArray[np.float32] = np.linspace(low, high, 256).astype(np.float32)
            return levels.take(values)
        # Compare after rounding, so that a bound that float32 does not have is within itself.
        with np.errstate(over="ignore"):
            x = np.ascontiguousarray(values, np.float32)
        wrong = ~((x >= np.float32(low)) & (x <= np.float32(high)))
        if wrong.any():
            at = int(np.flatnonzero(wrong.reshape(len(x), -1).any(axis=1))[0])
            raise DataError(
                f"{self.path}: sample {start + at} has {wrong[at].sum()} of {x[at].size} values "
                f"that are not within {low:g} and {high:g}, such as {x[at][wrong[at]][0]:g}"
            )
        return x


def evenly(n: int, count: int) -> NDArray[np.int64]:
    """Return at most ``count`` of the numbers from 0 to ``n`` - 1, spread evenly, in order."""
    return np.unique(np.linspace(0, n - 1, min(count, n)).round().astype(np.int64))


def open_data(
    path: str | Path,
    *,
    limit: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    channels: int | None = None,
) -> Dataset:
    """Open labelled data; the samples are read when they are asked for.

    There are three kinds:

    - an ``.npz`` file with the arrays ``x``, N×…, uint8 or float, and ``y``, N integer labels;
    - IDX images as of MNIST, uint8 or float, also compressed with gzip. Their labels are found
      beside them: ``train-images-idx3-ubyte`` belongs to ``train-labels-idx1-ubyte``. An image
      gets a channel axis: 1×H×W;
    - a folder with a sub-folder of images for each class, read with Pillow; images may also lie
      deeper. A label is an index into the sorted names of the sub-folders. Samples are C×H×W with
      one channel if grey, else with red, green and blue, in order of class and name, turned as
      their EXIF orientation says. Hidden files and folders are left out.

    uint8 is mapped evenly: 0 to the lower bound, 255 to the upper one; with the bounds 0 and 1 it
    is divided by 255. Float values stay as they are and must be finite and within the bounds.

    Args:
        path: An ``.npz`` file, the images of an IDX pair, or a folder.
        limit: Take no more samples: the first ones of a file; of a folder, the first of each
            class, equally many as far as the classes allow.
        bounds: Smallest and largest value of a sample.
        channels: Make the images of a folder grey (1) or coloured (3) whatever they are.

    Raises:
        DataError: The data is missing, damaged, empty or of another form, or ``limit`` is less
            than 1. What can only be seen by reading all samples is told by
            :meth:`Dataset.batches`.
        ModuleNotFoundError: A folder was given, and Pillow is not installed.
        ValueError: The bounds are not finite and in order, or ``channels`` is neither 1 nor 3.
    """
    path = Path(path)
    _check(limit, bounds)
    if channels not in (None, 1, 3):
        raise ValueError(f"expected channels of 1 or 3, got {channels}")
    source = from_folder(path, limit, channels) if path.is_dir() else _from_file(path, limit)
    return Dataset(path=path, bounds=bounds, source=source)


def as_dataset(
    data: "Dataset | str | Path | tuple[ArrayLike, ArrayLike]",
    *,
    limit: int | None,
    bounds: Bounds,
    channels: int | None,
) -> Dataset:
    """Return a dataset as it is, or make one of what :func:`open_data` or :func:`from_arrays` take.

    Raises:
        DataError, ValueError: As these do.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (str, Path)):
        return open_data(data, limit=limit, bounds=bounds, channels=channels)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise DataError("expected a dataset, a path, or samples and their labels as two arrays")
    return from_arrays(*data, limit=limit, bounds=bounds)


def from_arrays(
    x: ArrayLike, y: ArrayLike, *, limit: int | None = None, bounds: Bounds = (0.0, 1.0)
) -> Dataset:
    """Make a dataset of samples, N×…, uint8 or float, and labels, N integers, in memory.

    Raises:
        DataError: They are of another form, or ``limit`` is less than 1.
        ValueError: The bounds are not finite and in order.
    """
    _check(limit, bounds)
    source = from_memory(np.asarray(x), np.asarray(y), limit)
    return Dataset(path=Path("arrays"), bounds=bounds, source=source)


def _check(limit: int | None, bounds: Bounds) -> None:
    if limit is not None and limit < 1:
        raise DataError(f"expected a limit of at least 1 sample, got {limit}")
    checks.bounds(bounds)


def _from_file(path: Path, limit: int | None) -> Source:
    with reading(path), path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"PK") or path.suffix == ".npz":
        return from_npz(path, limit)
    if start.startswith((b"\0\0", b"\x1f\x8b")):
        return from_idx(path, limit)
    if start == b"\x93NUMPY":
        raise DataError(f"{path} is one array; samples and labels come as x and y in an .npz file")
    raise DataError(f"{path} is neither an .npz file, nor IDX data, nor a folder of images")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with reading(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
