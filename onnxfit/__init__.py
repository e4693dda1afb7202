"""Harden trained ONNX classifiers against adversarial inputs, and prove what that bought."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxfit.calibration.calibrator import calibrate
    from onnxfit.calibration.result import Calibration
    from onnxfit.compilation.compiler import compile
    from onnxfit.doctor import diagnose
    from onnxfit.files import load, save
    from onnxfit.finetuning.finetuner import finetune
    from onnxfit.hardening import retrofit
    from onnxfit.inspection import inspect
    from onnxfit.native_library import library_path, register
    from onnxfit.passes.denoising import denoise
    from onnxfit.passes.interpolating import interpolate
    from onnxfit.restoring import restore
    from onnxfit.runtime import session
    from onnxfit.sites import Site, find_sites
    from onnxfit.twin.jump_relu import set_backward
    from onnxfit.twin.module import to_torch
    from onnxfit.twin.parity import Parity, parity
    from onnxfit.twin.write_back import write_back
    from onnxfit.verification.gate import verify
    from onnxfit.verification.policy import Policy
    from onnxfit.verification.result import Result

# No module bears the name of a function here: importing it would hide the function.
_HOMES = {
    "Calibration": "calibration.result",
    "Parity": "twin.parity",
    "Policy": "verification.policy",
    "Result": "verification.result",
    "Site": "sites",
    "calibrate": "calibration.calibrator",
    "compile": "compilation.compiler",
    "denoise": "passes.denoising",
    "diagnose": "doctor",
    "find_sites": "sites",
    "finetune": "finetuning.finetuner",
    "inspect": "inspection",
    "interpolate": "passes.interpolating",
    "library_path": "native_library",
    "load": "files",
    "parity": "twin.parity",
    "register": "native_library",
    "restore": "restoring",
    "retrofit": "hardening",
    "save": "files",
    "session": "runtime",
    "set_backward": "twin.jump_relu",
    "to_torch": "twin.module",
    "verify": "verification.gate",
    "write_back": "twin.write_back",
}

__version__ = "0.1.0"
__all__ = [
    "Calibration",
    "Parity",
    "Policy",
    "Result",
    "Site",
    "calibrate",
    "compile",
    "denoise",
    "diagnose",
    "find_sites",
    "finetune",
    "inspect",
    "interpolate",
    "library_path",
    "load",
    "parity",
    "register",
    "restore",
    "retrofit",
    "save",
    "session",
    "set_backward",
    "to_torch",
    "verify",
    "write_back",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module on first use, so that ``import onnxfit`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxfit' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"onnxfit.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"onnxfit.{name} needs torch: pip install 'onnxfit[twin]'") from error
    value = getattr(module, name)
    globals()[name] = value
    return value
