"""Compiled models on disk, so that a model is compiled once on a machine."""

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto

from onnxfit import __version__
from onnxfit.compilation.compiler import compile as compile_model
from onnxfit.compilation.machine import this_machine
from onnxfit.data import sha256_of
from onnxfit.external_data import external_files
from onnxfit.files import folder_of, read_with_digest, save

CACHE_VARIABLE = "ONNXFIT_CACHE"
_NAME = "model.onnx"


def cache_folder() -> Path:
    """Return the folder of the compiled models, which may be deleted at any time.

    The environment variable ``ONNXFIT_CACHE`` names another one.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    local = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(local) if local else Path.home() / ".cache") / "onnxfit"


@contextlib.contextmanager
def compiled_file(model: ModelProto | str | Path, base_dir: str | Path | None) -> Iterator[Path]:
    """Give the file of a model's compiled form, from the cache where it is there.

    Where the cache cannot be written, that is a ``RuntimeWarning`` and the file is gone afterwards.

    Raises:
        ModelError, NativeLibraryError: As :func:`onnxfit.compile`.
    """
    place = cache_folder() / _key(model, base_dir)
    if (place / _NAME).is_file():
        yield place / _NAME
        return
    with contextlib.ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            made = tempfile.TemporaryDirectory(dir=place.parent, ignore_cleanup_errors=True)
        except OSError as error:
            message = f"the cache {place.parent} cannot be written: {error.strerror}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
            made = tempfile.TemporaryDirectory()
        folder = Path(stack.enter_context(made)) / "compiled"
        folder.mkdir()
        compiled = compile_model(model, base_dir=base_dir, data_dir=folder)
        save(compiled, folder / _NAME, folder)
        # Another process may have been faster; then its file is as good.
        with contextlib.suppress(OSError):
            folder.rename(place)
            folder = place
        yield folder / _NAME


def _key(model: ModelProto | str | Path, base_dir: str | Path | None) -> str:
    """Return a name for what a compiled model depends on."""
    proto, digest = read_with_digest(model)
    folder = folder_of(model, base_dir)
    files = [] if folder is None else external_files(proto, folder)
    weights = [sha256_of(file) for file in files]
    parts = [digest, weights, this_machine(), __version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
