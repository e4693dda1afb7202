"""Check that this environment can run hardened models, and how fast a way it has."""

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx.parser

from onnxfit import __version__, native_library, runtime
from onnxfit.errors import ModelError, NativeLibraryError
from onnxfit.hardening import retrofit
from onnxfit.op import jump_relu

_PACKAGES = ("numpy", "onnx", "onnx-graphsurgeon", "click", "rich", "torch")
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime")
_JUMP = 0.5


@dataclass(frozen=True)
class Check:
    """One thing that was tried: ``passed`` is None where it could not be tried."""

    check: str
    passed: bool | None
    detail: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The answer of :func:`diagnose`.

    Attributes:
        versions: Package → version, for those that are installed.
        providers: Execution providers that ONNX Runtime was built with.
        library: Path of the custom-op library, None where there is none.
        build: What the library was built with, and the path that its CPU kernels take here; None
            where it does not load.
        checks: What was tried.
    """

    versions: dict[str, str]
    providers: tuple[str, ...]
    library: str | None
    build: dict[str, Any] | None
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing that was tried failed."""
        return all(check.passed is not False for check in self.checks)


def diagnose() -> Diagnosis:
    """Look at the installed packages, the library and the providers, and run a hardened model."""
    versions = {"python": platform.python_version(), "onnxfit": __version__}
    for package in (*_PACKAGES, *_RUNTIMES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        import onnxruntime
    except ImportError as error:
        check = Check("ONNX Runtime imports", False, str(error))
        return Diagnosis(versions=versions, providers=(), library=None, build=None, checks=(check,))
    library, build, checks = None, None, [_function_body()]
    try:
        library = str(native_library.library_path())
        build = native_library.build_info()
        checks.append(_kernel(native_library.CPU))
    except NativeLibraryError as error:
        # Without a library hardened models run all the same; a broken one is a fault.
        broken = library is not None or native_library.library_is_named()
        checks.append(Check("custom-op library", False if broken else None, str(error)))
    checks.append(_cuda(build))
    return Diagnosis(
        versions=versions,
        providers=tuple(onnxruntime.get_available_providers()),
        library=library,
        build=build,
        checks=tuple(checks),
    )


def _function_body() -> Check:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        _hardened().SerializeToString(), providers=[native_library.CPU]
    )
    return _judged("function body on CPUExecutionProvider", session)


def _kernel(provider: str) -> Check:
    name = f"custom-op kernel on {provider}"
    try:
        return _judged(name, runtime.session(_hardened("custom"), providers=[provider]))
    except (ModelError, NativeLibraryError) as error:
        return Check(name, False, str(error))


def _cuda(build: dict[str, Any] | None) -> Check:
    """Try the CUDA kernel where there is a device."""
    import onnxruntime

    provider = "CUDAExecutionProvider"
    name = f"custom-op kernel on {provider}"
    if provider not in onnxruntime.get_available_providers():
        return Check(name, None, "this ONNX Runtime was built without it")
    if not native_library.cuda_devices():
        return Check(name, None, "there is no CUDA device")
    if build is None or provider not in build["providers"]:
        return Check(name, None, "the library was built without CUDA; the function body runs")
    return _kernel(provider)


def _judged(name: str, session: Any) -> Check:
    x = np.array([-1, -0.0, 0.25, _JUMP, 0.75, np.inf, np.nan], np.float32)
    exact = bool(session.run(None, {"x": x})[0].tobytes() == jump_relu(x, _JUMP).tobytes())
    return Check(name, exact, "bit for bit" if exact else "differs from the reference")


def _hardened(lowering: Any = "function") -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    return retrofit(model, _JUMP, lowering=lowering)
