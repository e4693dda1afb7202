"""Harden trained ONNX classifiers against adversarial inputs, and prove what that bought."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxfit.doctor import diagnose
    from onnxfit.files import load, save
    from onnxfit.hardening import restore, retrofit
    from onnxfit.inspection import inspect
    from onnxfit.runtime import library_path, register, session
    from onnxfit.sites import Site, find_sites

# No module bears the name of a function here: importing it would hide the function.
_HOMES = {
    "Site": "sites",
    "diagnose": "doctor",
    "find_sites": "sites",
    "inspect": "inspection",
    "library_path": "runtime",
    "load": "files",
    "register": "runtime",
    "restore": "hardening",
    "retrofit": "hardening",
    "save": "files",
    "session": "runtime",
}

__version__ = "0.1.0"
__all__ = [
    "Site",
    "diagnose",
    "find_sites",
    "inspect",
    "library_path",
    "load",
    "register",
    "restore",
    "retrofit",
    "save",
    "session",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module on first use, so that ``import onnxfit`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxfit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"onnxfit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
