"""Arrays in ``.npz`` files, read and written a batch at a time."""

import contextlib
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxfit.errors import DataError
from onnxfit.replacing import replacing

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    MemoryError,
    RuntimeError,  # a member is encrypted, or compressed in a way that this Python does not know
    ValueError,
)
# NumPy parses a header as Python and lets most of that parser's errors through.
_NO_HEADER = (
    KeyError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TokenError,
    TypeError,
    ValueError,
)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong when a data file is read into a ``DataError`` that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0].rstrip(".") or "it is cut off"
        raise DataError(f"{path} cannot be read: {reason}") from error


def fill(stream: IO[bytes], array: NDArray[Any]) -> int:
    """Read a C-contiguous array from a stream and return how many bytes there were."""
    content = stream.read(array.nbytes)
    array.reshape(-1).view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    return len(content)


@dataclass(frozen=True, kw_only=True)
class Member:
    """An array in an ``.npz`` file.

    Attributes:
        path: The file.
        name: Of the array, without ``.npy``.
        dtype: Of its values; never an object.
        shape: Of the array.
        fortran_order: Whether the first index runs fastest, so that batches cannot be streamed.
    """

    path: Path
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool

    def read(self) -> NDArray[Any]:
        """Return the whole array.

        Raises:
            DataError: The file is damaged.
        """
        with self._opened() as stream:
            array = np.empty(self.shape[::-1] if self.fortran_order else self.shape, self.dtype)
            self._fill(stream, array)
        return array.T if self.fortran_order else array

    def batches(self, size: int, count: int) -> Iterator[NDArray[Any]]:
        """Yield the first ``count`` entries along the first axis, ``size`` at a time.

        Memory is needed for one batch, or for the whole array where it is in Fortran order.

        Raises:
            DataError: The file is damaged.
        """
        if self.fortran_order:
            whole = self.read()[:count]
            yield from (whole[start : start + size] for start in range(0, count, size))
            return
        with self._opened() as stream:
            for start in range(0, count, size):
                batch = np.empty((min(size, count - start), *self.shape[1:]), self.dtype)
                self._fill(stream, batch)
                yield batch

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with (
            reading(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{self.name}.npy") as stream,
        ):
            _read_header(stream)
            yield stream

    def _fill(self, stream: IO[bytes], array: NDArray[Any]) -> None:
        if fill(stream, array) < array.nbytes:
            raise EOFError(f"the array {self.name!r} is cut off")


def member(path: Path, name: str) -> Member:
    """Find an array in an ``.npz`` file and read its header.

    Raises:
        DataError: The file is no ``.npz``, is damaged, or has no such array of plain values.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        names = [file.removesuffix(".npy") for file in archive.namelist() if file.endswith(".npy")]
        if name not in names:
            there = ", ".join(map(repr, names)) or "none"
            raise DataError(f"{path} has no array {name!r}; it has {there}")
        with archive.open(f"{name}.npy") as stream:
            shape, fortran_order, dtype = _read_header(stream)
            rest = archive.getinfo(f"{name}.npy").file_size - stream.tell()
        if dtype.hasobject or dtype.names is not None or not dtype.itemsize:
            raise DataError(f"{path}: the array {name!r} holds {dtype}, not plain numbers")
        # Python's integers do not overflow, whatever shape the header claims.
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size != rest:
            raise DataError(f"{path}: the array {name!r} needs {size} bytes and has {rest}")
    return Member(path=path, name=name, dtype=dtype, shape=shape, fortran_order=fortran_order)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the start of an ``.npy`` file: shape, whether in Fortran order, type."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        header: tuple[tuple[int, ...], bool, np.dtype[Any]]
        header = readers[npy.read_magic(stream)](stream)
    except _NO_HEADER as error:
        raise ValueError("an array does not begin as the .npy format says") from error
    return header


Append = Callable[..., None]


def check_target(path: Path) -> None:
    """Check that a file can be where it is to be written.

    Raises:
        DataError: It is a folder, or there is none around it.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory")
    if not path.parent.is_dir():
        raise DataError(f"the folder {path.parent} does not exist")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Append]:
    """Give a function that appends to the arrays of an ``.npz`` file, and write it at the end.

    ``append(x=batch, y=labels)`` adds along the first axis; the type and the rest of the shape of
    an array are those of its first batch. What is appended waits on disk, in files without a name
    beside ``path``. The file is stored without compression, takes the place of an existing one
    only when it is complete, and has the same bytes for the same arrays.

    Raises:
        DataError: The file cannot be written where it should be.
        ValueError: A batch does not fit the ones before.
    """
    check_target(path)
    columns: dict[str, _Column] = {}
    with contextlib.ExitStack() as files:

        def append(**arrays: NDArray[Any]) -> None:
            for name, array in arrays.items():
                if name not in columns:
                    file = files.enter_context(tempfile.TemporaryFile(dir=path.parent))
                    columns[name] = _Column(file, array.dtype, array.shape[1:])
                columns[name].append(array)

        yield append
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, column in columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    column.copy_to(stream)


@dataclass
class _Column:
    """An array that grows along its first axis, in a file."""

    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int = 0

    def append(self, array: NDArray[Any]) -> None:
        if (self.dtype, self.shape) != (array.dtype, array.shape[1:]):
            raise ValueError(
                f"expected {self.dtype} of shape {self.shape}, got {array.dtype} "
                f"of shape {array.shape[1:]}"
            )
        self.file.write(np.ascontiguousarray(array).data)
        self.count += len(array)

    def copy_to(self, stream: IO[bytes]) -> None:
        shape = (self.count, *self.shape)
        descr = npy.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(stream, header)
        self.file.seek(0)
        shutil.copyfileobj(self.file, stream, 1 << 20)
