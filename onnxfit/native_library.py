"""The custom-op library: where it is, what it was built with, and its registration."""

import contextlib
import ctypes
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxfit
from onnxfit.errors import NativeLibraryError

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
LIBRARY_VARIABLE = "ONNXFIT_LIBRARY"

_LIBRARY_NAMES = {"win32": "onnxfit_ops.dll", "darwin": "libonnxfit_ops.dylib"}
_REGISTERED_KEY = "onnxfit.registered"


def library_path() -> Path:
    """Return the path of the custom-op library.

    The environment variable ``ONNXFIT_LIBRARY`` names another build than the installed one.

    Raises:
        NativeLibraryError: None was built, or the variable names no file.
    """
    if named := os.environ.get(LIBRARY_VARIABLE):
        path = Path(named)
        if not path.is_file():
            raise NativeLibraryError(f"{LIBRARY_VARIABLE} names {named}, which is no file")
        return path.resolve()
    for folder in _folders():
        if (path := folder / library_name()).is_file():
            return path.resolve()
    raise NativeLibraryError(
        "onnxfit was installed without its custom-op library, as happens where there is no C++ "
        "compiler; install one, then onnxfit again"
    )


def library_name() -> str:
    """Return the file name that the library has on this platform."""
    return _LIBRARY_NAMES.get(sys.platform, "libonnxfit_ops.so")


def _folders() -> list[Path]:
    """List where the package is: where it was imported from, and where it was installed."""
    folders = [Path(folder) for folder in onnxfit.__path__]
    # Python run beside the sources imports these, and the library lies with the installed package.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        folders.append(Path(str(importlib.metadata.distribution("onnxfit").locate_file("onnxfit"))))
    return folders


def library_is_named() -> bool:
    """Tell whether the environment names a library, which must then load."""
    return bool(os.environ.get(LIBRARY_VARIABLE))


def build_info() -> dict[str, Any]:
    """Return what the custom-op library was built with: version, providers, compilers, types.

    And ``cpu_path``, the path that its CPU kernels take here: baseline, avx2 or avx512.

    Raises:
        NativeLibraryError: There is no library, or it does not load.
    """
    return _build_info(library_path())


@cache
def _build_info(path: Path) -> dict[str, Any]:
    try:
        library = ctypes.CDLL(str(path))
        describe = library.onnxfit_build_info
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(_broken(path, error)) from error
    describe.restype = ctypes.c_char_p
    info: dict[str, Any] = json.loads(describe())
    return info


def register(session_options: "onnxruntime.SessionOptions") -> None:
    """Register the JumpReLU kernels with session options.

    Use it for sessions on the providers that ``onnxfit doctor`` lists for the library; a session
    on another one would compute each JumpReLU on the CPU. :func:`session` sees to that.

    Raises:
        NativeLibraryError: There is no library, or ONNX Runtime cannot load it.
    """
    path = library_path()
    _build_info(path)
    # ONNX Runtime refuses the same operators a second time. Without the entry it raises.
    with contextlib.suppress(RuntimeError):
        if session_options.get_session_config_entry(_REGISTERED_KEY):
            return
    try:
        session_options.register_custom_ops_library(str(path))
    except Exception as error:  # ONNX Runtime raises classes that it does not export.
        raise NativeLibraryError(_broken(path, error)) from error
    session_options.add_session_config_entry(_REGISTERED_KEY, str(path))


def serves(providers: Sequence[str]) -> bool:
    """Tell whether the custom-op library was built, and for each of these providers."""
    try:
        path = library_path()
    except NativeLibraryError:
        if library_is_named():
            raise
        return False
    return set(providers) <= {CPU, *_build_info(path)["providers"]}


def cuda_devices() -> int:
    """Count the CUDA devices that the driver shows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _broken(path: Path, error: Exception) -> str:
    return (
        f"the custom-op library {path} does not load: {error}; reinstall onnxfit on this machine, "
        "or delete the library to run hardened models through their function body"
    )
