"""ONNX Runtime with the JumpReLU operator: where the library is, and when it is registered.

Once a custom-op library is registered, ONNX Runtime takes its kernels for every JumpReLU and has
no way back for a provider or type that the library lacks. So it is registered only where it
serves every provider of the session; elsewhere the function in the hardened file is inlined.
"""

import contextlib
import ctypes
import importlib.metadata
import json
import mmap
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

import onnxfit
from onnxfit.compilation.record import COMPILED_KEY, is_compiled, recorded
from onnxfit.element_types import every_graph
from onnxfit.errors import ModelError, NativeLibraryError
from onnxfit.external_data import check_external_data, has_external_data
from onnxfit.files import as_model, temporary_file
from onnxfit.op import is_add_jump_relu, is_jump_relu, is_our_function

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
LIBRARY_VARIABLE = "ONNXFIT_LIBRARY"

_LIBRARY_NAMES = {"win32": "onnxfit_ops.dll", "darwin": "libonnxfit_ops.dylib"}
_REGISTERED_KEY = "onnxfit.registered"

Provider = str | tuple[str, dict[str, Any]]


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


def session(
    model: ModelProto | str | Path,
    sess_options: "onnxruntime.SessionOptions | None" = None,
    providers: Sequence[Provider] | None = None,
    *,
    base_dir: str | Path | None = None,
    compile: bool = False,  # noqa: A002 - the name of the verb
) -> "onnxruntime.InferenceSession":
    """Start an ONNX Runtime session, with the JumpReLU kernels where they help.

    A compiled model runs as it was compiled, whatever level of optimisation the options name.

    Args:
        model: A model, hardened or not, compiled or not, or the path of one.
        sess_options: Options to complete; new ones by default.
        providers: Execution providers in order of preference; by default the CPU's alone.
        base_dir: Folder of the external data, where ``model`` is no path.
        compile: Compile a hardened model first (:func:`onnxfit.compile`), or take the compiled
            one from the cache. For the CPU provider.

    Raises:
        ModelError: The model cannot be read, ONNX Runtime refuses it, or it was compiled for
            another machine.
        NativeLibraryError: The library does not load; the model cannot run without it; or none
            of the providers asked for started. Where CPU is among them but others did not
            start, that is a ``RuntimeWarning``.
        ValueError: ``compile`` and another provider than CPU.
    """
    import onnxruntime

    providers = list(providers or [CPU])
    names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    options = sess_options if sess_options is not None else onnxruntime.SessionOptions()
    if compile:
        from onnxfit.compilation.cache import compiled_file

        if names != [CPU]:
            raise ValueError(f"a model is compiled for {CPU} alone, got {', '.join(names)}")
        with compiled_file(model, base_dir) as path:
            return session(path, options, providers)
    with contextlib.ExitStack() as stack:
        if _names_compiled(model):
            stack.enter_context(_as_compiled(as_model(model), options, names))
        elif serves(names):
            register(options)
        elif needs_library(as_model(model)):
            raise NativeLibraryError(
                "the model was hardened with the custom lowering and needs the custom-op library, "
                f"which does not serve {', '.join(names)}; use the function lowering"
            )
        source = stack.enter_context(loadable(model, base_dir))
        started = _started(source, options, providers)
    missing = [name for name in names if name not in started.get_providers()]
    if missing:
        message = f"{', '.join(missing)} did not start; the session runs on "
        message += ", ".join(started.get_providers())
        if CPU not in names:
            raise NativeLibraryError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return started


def _started(source: str | bytes, options: Any, providers: Sequence[Provider]) -> Any:
    """Start a session.

    Raises:
        ModelError, NativeLibraryError: It does not start.
    """
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises classes that it does not export.
        if "Domain already set" in str(error):
            raise NativeLibraryError(
                "the library is registered with these options already; "
                "register it with onnxfit.register, or start the session with onnxruntime"
            ) from error
        raise ModelError(f"ONNX Runtime refuses the model: {error}") from error


def _names_compiled(model: ModelProto | str | Path) -> bool:
    """Tell whether a model is a compiled one, without parsing a file that is not."""
    if isinstance(model, ModelProto):
        return is_compiled(model)
    path = Path(model)
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = content.find(COMPILED_KEY.encode()) >= 0
    return found and is_compiled(as_model(path))


@contextlib.contextmanager
def _as_compiled(model: ModelProto, options: Any, names: Sequence[str]) -> Iterator[None]:
    """Let options run a compiled model: what ONNX Runtime would optimise is done.

    Raises:
        ModelError: It was compiled for another machine.
        NativeLibraryError: The providers are others, or there is no library.
    """
    import onnxruntime

    from onnxfit.compilation.machine import check

    if names != [CPU]:
        raise NativeLibraryError(
            f"the model was compiled for {CPU} alone; run the hardened file on {', '.join(names)}"
        )
    check(recorded(model))
    register(options)
    level = options.graph_optimization_level
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        yield
    finally:
        options.graph_optimization_level = level


def quiet_options() -> "onnxruntime.SessionOptions":
    """Make session options that log errors alone: what the optimiser drops is no news."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def serves(providers: Sequence[str]) -> bool:
    """Tell whether the custom-op library was built, and for each of these providers."""
    try:
        path = library_path()
    except NativeLibraryError:
        if library_is_named():
            raise
        return False
    return set(providers) <= {CPU, *_build_info(path)["providers"]}


def needs_library(model: ModelProto) -> bool:
    """Tell whether the model has JumpReLU nodes but no function to stand in for the kernel."""
    if any(is_our_function(function) for function in model.functions):
        return False
    return any(
        is_jump_relu(node) or is_add_jump_relu(node)
        for graph in every_graph(model)
        for node in graph.node
    )


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


@contextlib.contextmanager
def loadable(model: ModelProto | str | Path, base_dir: str | Path | None) -> Iterator[str | bytes]:
    """Give ONNX Runtime a path or the bytes of a model.

    A model with external data must be a file beside it. Telling ONNX Runtime the folder instead
    would leave an entry on the user's options, and ONNX Runtime 1.20.1 fails on it.
    """
    if not isinstance(model, ModelProto):
        if not Path(model).is_file():
            raise ModelError(f"{model} does not exist")
        yield str(model)
    elif not has_external_data(model):
        yield model.SerializeToString()
    else:
        if base_dir is None:
            raise ModelError("the model has external data; say with base_dir in which folder it is")
        check_external_data(model, Path(base_dir))
        with temporary_file(model, Path(base_dir)) as path:
            yield str(path)


def _broken(path: Path, error: Exception) -> str:
    return (
        f"the custom-op library {path} does not load: {error}; reinstall onnxfit on this machine, "
        "or delete the library to run hardened models through their function body"
    )
