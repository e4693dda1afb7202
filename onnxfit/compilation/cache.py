"""Compiled models on disk, so that a model is compiled once on a machine."""

import contextlib
import hashlib
import json
import os
import shutil
import string
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto

from onnxfit import __version__
from onnxfit.compilation.compiler import compile as compile_model
from onnxfit.compilation.machine import this_machine
from onnxfit.data import sha256_of
from onnxfit.errors import DataError, ModelError, NativeLibraryError
from onnxfit.external_data import external_files
from onnxfit.files import folder_of, read_with_digest, save

CACHE_VARIABLE = "ONNXFIT_CACHE"
# Of what compiling makes of the same model; it counts up where that changes.
FORMAT = 2
_NAME = "model.onnx"
# The SHA-256 of each other file of an entry, which is whole where they are as listed.
_DIGESTS = "digests.json"
# A folder of this name that is as old, in seconds, belongs to a process that was ended.
_MAKING, _ABANDONED = "onnxfit-making-", 86_400
# An entry that no session took for as long, in seconds, may be of other versions, and goes.
_UNUSED = 30 * 86_400


def cache_folder() -> Path:
    """Return the folder of the compiled models, which may be deleted at any time.

    The environment variable ``ONNXFIT_CACHE`` names another one.

    Raises:
        NativeLibraryError: No variable names a folder, and the user has no home.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    local = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return (Path(local) if local else Path.home() / ".cache") / "onnxfit"
    except RuntimeError:
        raise NativeLibraryError(
            "there is no home folder to keep compiled models in: let the environment variable "
            f"{CACHE_VARIABLE} name a folder"
        ) from None


@contextlib.contextmanager
def compiled_file(model: ModelProto | str | Path, base_dir: str | Path | None) -> Iterator[Path]:
    """Give the file of a model's compiled form, from the cache where it is there.

    Where the cache cannot be written, or its disk is full, that is a ``RuntimeWarning`` and the
    file is gone afterwards.

    Raises:
        ModelError, NativeLibraryError: As :func:`onnxfit.compile` and :func:`cache_folder`.
    """
    place = cache_folder() / _key(model, base_dir)
    # Before it is looked at: from now on no other process takes it for unused.
    with contextlib.suppress(OSError):
        os.utime(place)
    if _is_whole(place):
        yield place / _NAME
        return
    with contextlib.ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(place.parent)
            made = tempfile.TemporaryDirectory(
                dir=place.parent, prefix=_MAKING, ignore_cleanup_errors=True
            )
        except OSError as error:
            message = f"the cache {place.parent} cannot be written: {error.strerror}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
            made = tempfile.TemporaryDirectory()
        made_in = Path(stack.enter_context(made))
        _take_unused(place.parent, made_in)
        folder = made_in / "compiled"
        folder.mkdir()
        try:
            _compile_into(folder, model, base_dir)
            digests = {file.name: sha256_of(file) for file in folder.iterdir()}
            (folder / _DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
        except (ModelError, OSError) as error:
            # Of the disk or of the model: what happens elsewhere tells.
            shutil.rmtree(folder, ignore_errors=True)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _compile_into(folder, model, base_dir)
            message = f"the compiled model is not kept: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
        else:
            # Another process may have been faster; then its file is as good.
            with contextlib.suppress(OSError):
                if os.path.lexists(place) and not _is_whole(place):
                    place.rename(made_in / "damaged")
                folder.rename(place)
                folder = place
        yield folder / _NAME


def _compile_into(
    folder: Path, model: ModelProto | str | Path, base_dir: str | Path | None
) -> None:
    """Write a model's compiled form, and what it has outside, into a folder."""
    save(compile_model(model, base_dir=base_dir, data_dir=folder), folder / _NAME, folder)


def _is_whole(place: Path) -> bool:
    """Tell whether an entry is there with all its files, each as it was written."""
    try:
        digests = json.loads((place / _DIGESTS).read_text(encoding="utf-8"))
        return _NAME in digests and all(
            sha256_of(place / name) == digest for name, digest in digests.items()
        )
    except (DataError, OSError, AttributeError, RecursionError, TypeError, ValueError):
        return False


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes left that were ended while they compiled."""
    for path in folder.glob(f"{_MAKING}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _take_unused(folder: Path, away: Path) -> None:
    """Move the entries that were not used for long, each whole, into a folder that will go.

    One that cannot be moved stays.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            with contextlib.suppress(OSError):
                if _is_entry(path) and time.time() - path.stat().st_mtime > _UNUSED:
                    path.rename(away / path.name)


def _is_entry(path: Path) -> bool:
    """Tell whether a folder is an entry, of whatever version: others may lie beside them."""
    named = len(path.name) == 64 and set(path.name) <= set(string.hexdigits)
    return named and not path.is_symlink() and (path / _DIGESTS).is_file()


def _key(model: ModelProto | str | Path, base_dir: str | Path | None) -> str:
    """Return a name for what a compiled model depends on."""
    proto, digest = read_with_digest(model)
    folder = folder_of(model, base_dir)
    files = [] if folder is None else external_files(proto, folder)
    weights = [sha256_of(file) for file in files]
    parts = [FORMAT, digest, weights, this_machine(), __version__, onnx.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
