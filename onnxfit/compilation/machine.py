"""What a compiled file was made for: a release of ONNX Runtime and the instructions of a CPU."""

import importlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from onnxfit.errors import ModelError

# The extensions by which ONNX Runtime chooses, under NumPy's names for them.
_EXTENSIONS = (
    *("AVX", "FMA3", "AVX2", "AVX512F", "AVX512VNNI", "AVX512BF16"),
    *("ASIMDHP", "ASIMDDP", "SVE"),
)


def this_machine() -> dict[str, Any]:
    """Return what ONNX Runtime's choice of layouts and kernels depends on here.

    Returns:
        ``onnxruntime``: its version; ``architecture``: system and CPU; ``instructions``: the
        extensions that the CPU has, of those that matter.
    """
    return {
        "onnxruntime": onnxruntime.__version__,
        "architecture": f"{platform.system()} {platform.machine()}",
        "instructions": _instructions(),
    }


def check(made: Mapping[str, Any]) -> None:
    """Refuse a compiled model on a machine that it was not made for.

    Args:
        made: What was recorded.

    Raises:
        ModelError: Something differs; the message says what, and what to compile again.
    """
    here = this_machine()
    there = made["machine"]
    different = [key for key in here if here[key] != there.get(key)]
    if not different:
        return
    if "onnxruntime" in different:
        what = f"ONNX Runtime {there.get('onnxruntime')}, this is {here['onnxruntime']}"
    elif "architecture" in different:
        what = f"{there.get('architecture')}, this is {here['architecture']}"
    else:
        listed = there.get("instructions")
        listed = map(str, listed) if isinstance(listed, list) else []
        missing = sorted({*listed} ^ {*here["instructions"]})
        what = f"a CPU that differs from this one in {', '.join(missing)}"
    raise ModelError(
        f"the model was compiled for {what}: compile the hardened file again, the one with the "
        f"SHA-256 {made['hardened_sha256']}"
    )


def _instructions() -> list[str]:
    """List the extensions of the CPU."""
    # NumPy finds them on every platform it is built for; only its printed report is public.
    core = importlib.import_module("numpy._core" if hasattr(np, "_core") else "numpy.core")
    features = core._multiarray_umath.__cpu_features__
    return [name for name in _EXTENSIONS if features.get(name)]
