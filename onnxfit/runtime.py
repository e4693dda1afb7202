"""ONNX Runtime with the JumpReLU operator: where the library is, and when it is registered.

Once a custom-op library is registered, ONNX Runtime takes its kernels for every JumpReLU and has
no way back for a provider or type that the library lacks. So it is registered only where it
serves every provider of the session; elsewhere the function in the hardened file is inlined.
"""

import contextlib
import mmap
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from onnxfit.compilation.record import COMPILED_KEY, is_compiled, recorded
from onnxfit.element_types import every_graph
from onnxfit.errors import ModelError, NativeLibraryError
from onnxfit.external_data import check_external_data, has_external_data
from onnxfit.files import as_model, save, temporary_file
from onnxfit.native_library import CPU, library_path, register, serves
from onnxfit.op import DOMAIN, is_add_jump_relu, is_jump_relu, is_our_function

if TYPE_CHECKING:
    import onnxruntime

Provider = str | tuple[str, dict[str, Any]]

_CUDA = "CUDAExecutionProvider"
# What ONNX Runtime says of an operator of ours that nobody registered.
_UNREGISTERED = re.compile(rf"\b{DOMAIN}:(\w+)\(-?\d+\) is not a registered function/op")


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
        if (compiled := _compiled(model)) is not None:
            stack.enter_context(_as_compiled(compiled, options, names))
        elif serves(names) and (not _prefers_nhwc(providers) or needs_library(as_model(model))):
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
        if missing := _UNREGISTERED.search(str(error)):
            raise NativeLibraryError(
                f"the model needs the operator {missing[1]}, which the custom-op library "
                f"{library_path()} does not have: it was built from an older onnxfit"
            ) from error
        raise ModelError(f"ONNX Runtime refuses the model: {error}") from error


def _compiled(model: ModelProto | str | Path) -> ModelProto | None:
    """Return a model if it is a compiled one, without parsing a file that is not."""
    if isinstance(model, ModelProto):
        return model if is_compiled(model) else None
    path = Path(model)
    if not path.is_file() or not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(COMPILED_KEY.encode()) < 0:
            return None
    parsed = as_model(path)
    return parsed if is_compiled(parsed) else None


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


def _prefers_nhwc(providers: Sequence[Provider]) -> bool:
    """Tell whether the CUDA provider is to compute in NHWC.

    ONNX Runtime moves its transposes through the operators of a function, not through a kernel
    that it does not know.
    """
    options = [p[1] for p in providers if not isinstance(p, str) and p[0] == _CUDA]
    return any(str(each.get("prefer_nhwc", 0)).lower() in ("1", "true") for each in options)


def needs_library(model: ModelProto) -> bool:
    """Tell whether the model has JumpReLU nodes but no function to stand in for the kernel."""
    if any(is_our_function(function) for function in model.functions):
        return False
    return any(
        is_jump_relu(node) or is_add_jump_relu(node)
        for graph in every_graph(model)
        for node in graph.node
    )


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
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(temporary_file(model, Path(base_dir)))
            except ModelError:
                # A folder that may only be read, as in a container: weights go along, linked where
                # the file system can.
                elsewhere = stack.enter_context(tempfile.TemporaryDirectory(prefix="onnxfit-"))
                path = Path(elsewhere) / "model.onnx"
                save(model, path, base_dir)
            yield str(path)
