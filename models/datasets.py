"""Image data sets: the bundled digits, and others from a folder in the files they are published in.

IDX files are read by onnxfit. The pickles of CIFAR-10 are read without running what they name.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from digits import Images, split
from numpy.typing import NDArray

from onnxfit.data import Dataset, from_arrays, open_data
from onnxfit.errors import DataError
from onnxfit.npz import reading

CLASSES = 10
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
PIXELS = 3 * 32 * 32
IDX_FOLDERS = {
    "mnist": ("MNIST/raw", "mnist", "."),
    "fashion-mnist": ("FashionMNIST/raw", "fashion-mnist", "."),
}
IDX_ENDINGS = ("-idx3-ubyte", ".idx3-ubyte", "-idx3-ubyte.gz", ".idx3-ubyte.gz")
TRAINING_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
# All that the pickles of CIFAR-10 name, by its names in old and new versions of NumPy.
RECONSTRUCT = np.empty(0).__reduce__()[0]
PICKLED = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Statistics(NamedTuple):
    """How networks for a data set normalise their input, and are attacked.

    Attributes:
        mean: Of the pixels in [0, 1], one per channel.
        std: Their deviation, one per channel.
        eps: The linf sizes for which robust accuracy is reported.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    eps: tuple[float, ...]


# Digits are not normalised. The others: Erichson et al. use these for MNIST and CIFAR-10.
STATISTICS = {
    "digits": Statistics((0.0,), (1.0,), (0.05, 0.1, 0.15)),
    "mnist": Statistics((0.1307,), (0.3081,), (0.1, 0.2, 0.3)),
    "fashion-mnist": Statistics((0.2860,), (0.3530,), (0.05, 0.1, 0.15)),
    "cifar10": Statistics(
        (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), (2 / 255, 4 / 255, 8 / 255)
    ),
}


def load(name: str, folder: Path | None) -> dict[str, Images]:
    """Return the images of a data set of STATISTICS by `training` and `test`.

    Digits need no folder, and have `validation` too.

    Raises:
        DataError: There is no folder, or a file is missing in it or damaged.
    """
    if name == "digits":
        return dict(zip(("training", "validation", "test"), split(), strict=True))
    if folder is None:
        raise DataError(f"{name} is read from a folder: name it by --folder or ONNXFIT_DATA")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    if name == "cifar10":
        return _cifar10(folder)
    return {"training": _idx(name, folder, "train"), "test": _idx(name, folder, "t10k")}


def _idx(name: str, folder: Path, stem: str) -> Images:
    """Read the IDX images of this stem, and the labels beside them."""
    folders = [folder / inside for inside in IDX_FOLDERS[name]]
    paths = [place / f"{stem}-images{ending}" for place in folders for ending in IDX_ENDINGS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        where = ", ".join(map(str, folders))
        raise DataError(f"{name} is missing: no {stem}-images-idx3-ubyte, or .gz, in {where}")
    data = open_data(path)
    if data.shape != GREY:
        got, expected = ("×".join(map(str, shape)) for shape in (data.shape, GREY))
        raise DataError(f"{path} holds images of {got}, not of {expected}")
    return _whole(data)


def _whole(data: Dataset) -> Images:
    """Return all images of a data set, whose labels are below CLASSES."""
    data.check_classes(CLASSES)
    return Images(*next(data.batches(data.n)))


def _cifar10(folder: Path) -> dict[str, Images]:
    """Read CIFAR-10 from the first of its four published forms that is in the folder."""
    for name, (ending, decode) in CIFAR10.items():
        path = folder / name
        if path.exists():
            names = [f"{batch}{ending}" for batch in (*TRAINING_BATCHES, "test_batch")]
            files = _files(path, names) if path.is_dir() else _members(path, names)
            batches = [decode(path / name, files[name]) for name in names]
            return {"training": _joined(batches[:-1]), "test": _joined(batches[-1:])}
    raise DataError(f"cifar10 is missing: {folder} has none of {', '.join(CIFAR10)}")


def _joined(batches: Iterable[Batch]) -> Images:
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return _whole(from_arrays(x.reshape(-1, *COLOUR), y))


def _files(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of files by name."""
    contents = {}
    for name in names:
        with reading(folder / name):
            contents[name] = (folder / name).read_bytes()
    return contents


def _members(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of files in a .tar.gz by their names without folders."""
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in names and (stream := archive.extractfile(member)) is not None:
                    contents[name] = stream.read()
            # What follows the last member: at its end gzip compares the checksum.
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for name in names:
        if name not in contents:
            raise DataError(f"{path} has no {name}")
    return contents


def _records(path: Path, content: bytes) -> Batch:
    """Decode images that each follow a byte with their label."""
    if not content or len(content) % (1 + PIXELS):
        raise DataError(f"{path} is cut off: {len(content)} bytes, not N times {1 + PIXELS}")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return _checked(path, records[:, 1:], records[:, 0])


def _pickled(path: Path, content: bytes) -> Batch:
    """Decode a pickled dictionary with `data` and `labels`."""
    try:
        batch: Any = _Unpickler(path, content).load()
        return _checked(path, np.asarray(batch[b"data"]), np.asarray(batch[b"labels"]))
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"{path} is no batch of CIFAR-10, or damaged: {error}") from error


class _Unpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, strings of Python 2 and arrays, and refuses all else."""

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return one of PICKLED; nothing is imported."""
        if (module, name) not in PICKLED:
            raise DataError(
                f"{self.path} is refused: it names {module}.{name}, which is not part of CIFAR-10"
            )
        return PICKLED[module, name]


def _checked(path: Path, data: NDArray[Any], labels: NDArray[Any]) -> Batch:
    """Return images and labels if they have the types and shapes of a batch."""
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS or not len(data):
        raise DataError(
            f"{path}: the images are {data.dtype} of {data.shape}, not uint8, N×{PIXELS}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != data.shape[:1]:
        raise DataError(f"{path}: the labels are not {len(data)} integers")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise DataError(f"{path}: a label is not one of 0 to {CLASSES - 1}")
    return data, labels.astype(np.int64)


# The published forms of CIFAR-10: how the files in them end, and how they are decoded.
CIFAR10: dict[str, tuple[str, Callable[[Path, bytes], Batch]]] = {
    "cifar-10-batches-py": ("", _pickled),
    "cifar-10-batches-bin": (".bin", _records),
    "cifar-10-python.tar.gz": ("", _pickled),
    "cifar-10-binary.tar.gz": (".bin", _records),
}
