"""Labelled samples as data files hold them: ``.npz`` and IDX."""

import contextlib
import gzip
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.errors import DataError
from onnxfit.npz import fill, member, reading

# https://www.loc.gov/preservation/digital/formats/fdd/fdd000617.shtml lists the types of IDX.
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_NAME = re.compile(r"(?P<stem>.*)images(?P<mark>[-.])idx\d+-\w+(?P<gz>\.gz)?")

Samples = Callable[[int], Iterator[NDArray[Any]]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Labelled samples as their files hold them, in order.

    Attributes:
        files: Everything at the source, also what a limit leaves out.
        shape: Of one sample.
        labels: One per sample, int64, at least 0.
        read: Yields the samples, uint8 or float, in batches of the size it is given.
        classes: Their names where the source has any; a label is an index into them.
        sha256: Of samples and labels that are in no file.
    """

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    labels: NDArray[np.int64]
    read: Samples
    classes: tuple[str, ...] = ()
    sha256: str = ""


def from_npz(path: Path, limit: int | None) -> Source:
    """Open the arrays ``x`` and ``y`` of an ``.npz`` file; see :func:`onnxfit.data.open_data`."""
    x, y = member(path, "x"), member(path, "y")
    where = f"{path}: the array 'x'"
    _check_samples(where, x.dtype, x.shape)
    if len(y.shape) != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{path}: the array 'y' is {_described(y.dtype, y.shape)}, not N integers")
    if y.shape[0] != x.shape[0]:
        raise DataError(f"{path} has {x.shape[0]} samples but {y.shape[0]} labels")
    labels = _labels(path, y.read())[:limit]
    return Source(
        files=(path,),
        shape=x.shape[1:],
        labels=labels,
        read=lambda size: x.batches(size, len(labels)),
    )


def from_idx(path: Path, limit: int | None) -> Source:
    """Open IDX images and the labels beside them; see :func:`onnxfit.data.open_data`.

    A grey image gets a channel axis: 28×28 becomes 1×28×28.
    """
    beside = _labels_beside(path)
    with _opened_idx(path) as (_, dtype, shape):
        _check_samples(str(path), dtype, shape)
    with _opened_idx(beside) as (stream, label_dtype, label_shape):
        if len(label_shape) != 1 or label_dtype.kind not in "iu":
            what = _described(label_dtype, label_shape)
            raise DataError(f"{beside} holds {what}, not N integers")
        if label_shape[0] != shape[0]:
            raise DataError(f"{path} has {shape[0]} samples but {beside} {label_shape[0]} labels")
        y = np.frombuffer(stream.read(shape[0] * label_dtype.itemsize), label_dtype)
        if len(y) == shape[0]:
            _check_end(beside, stream)
    if len(y) != shape[0]:
        raise DataError(f"{beside} is cut off: it has {len(y)} of {shape[0]} labels")
    labels = _labels(beside, y)[:limit]
    sample = (1, *shape[1:]) if len(shape) == 3 else shape[1:]

    def read(size: int) -> Iterator[NDArray[Any]]:
        with _opened_idx(path) as (stream, dtype, _):
            for start in range(0, len(labels), size):
                batch = np.empty((min(size, len(labels) - start), *sample), dtype)
                got = fill(stream, batch)
                if got < batch.nbytes:
                    count = start + got // batch[0].nbytes
                    raise DataError(f"{path} is cut off: it has {count} of {shape[0]} samples")
                yield batch
            if len(labels) == shape[0]:
                _check_end(path, stream)

    return Source(files=(path, beside), shape=sample, labels=labels, read=read)


def from_memory(x: NDArray[Any], y: NDArray[Any], limit: int | None) -> Source:
    """Take samples, N×…, and labels, N, that are in memory."""
    where = Path("the data")
    _check_samples("the array of samples", x.dtype, x.shape)
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise DataError(f"the labels are {_described(y.dtype, y.shape)}, not {len(x)} integers")
    labels = _labels(where, y)[:limit]

    def read(size: int) -> Iterator[NDArray[Any]]:
        for start in range(0, len(labels), size):
            yield x[start : min(start + size, len(labels))]

    digest = hashlib.sha256()
    for array in (x, y):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return Source(files=(), shape=x.shape[1:], labels=labels, read=read, sha256=digest.hexdigest())


def _check_samples(where: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if dtype != np.uint8 and dtype.kind != "f":
        raise DataError(f"{where} holds {dtype}; samples are uint8 or float")
    if len(shape) < 2:
        raise DataError(f"{where} is {_described(dtype, shape)}, not N samples of a shape")
    if 0 in shape:
        raise DataError(f"{where} is empty: its shape is {times(shape)}")


def _labels(path: Path, y: NDArray[Any]) -> NDArray[np.int64]:
    """Return labels as int64."""
    bad = np.flatnonzero((y < 0) | (y > np.iinfo(np.int64).max))
    if len(bad):
        raise DataError(f"{path}: the label of sample {bad[0]} is {y[bad[0]]}, not at least 0")
    return y.astype(np.int64)


def _described(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return f"{dtype} of shape {times(shape)}" if shape else f"one {dtype}"


def times(shape: tuple[int, ...]) -> str:
    """Write a shape as in ``3×32×32``."""
    return "×".join(map(str, shape))


def _labels_beside(images: Path) -> Path:
    """Find the labels that belong to IDX images by their usual names."""
    match = _IDX_NAME.fullmatch(images.name)
    if match is None:
        raise DataError(
            f"{images} is IDX data of another name than, say, train-images-idx3-ubyte: "
            "name the images so, and their labels train-labels-idx1-ubyte"
        )
    marks = sorted("-.", key=lambda mark: mark != match["mark"])
    endings = sorted(("", ".gz"), key=lambda ending: ending != (match["gz"] or ""))
    names = [f"{match['stem']}labels{mark}idx1-ubyte{end}" for mark in marks for end in endings]
    for name in names:
        if (labels := images.with_name(name)).is_file():
            return labels
    raise DataError(f"{images} has no labels beside it: {names[0]} does not exist")


@contextlib.contextmanager
def _opened_idx(path: Path) -> Iterator[tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]]:
    """Open an IDX file, compressed or not, and give the values, their type and their shape."""
    with reading(path), path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        magic = stream.read(4)
        if len(magic) < 4 or any(magic[:2]) or magic[2] not in _IDX_TYPES:
            raise DataError(f"{path} is not in the IDX format")
        lengths = stream.read(4 * magic[3])
        if len(lengths) < 4 * magic[3]:
            raise DataError(f"{path} is cut off")
        shape = tuple(np.frombuffer(lengths, ">u4").tolist())
        yield stream, np.dtype(_IDX_TYPES[magic[2]]), shape


def _check_end(path: Path, stream: IO[bytes]) -> None:
    """Refuse a file that goes on; at its end gzip compares the checksum."""
    if stream.read(1):
        raise DataError(f"{path} is longer than its header says")
