"""What produced the figures of a result."""

import importlib
import platform
from typing import Any

import torch

from onnxfit.verification.target import Target

_PACKAGES = ("onnxfit", "onnx", "onnxruntime", "torch", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    found = {name: importlib.import_module(name).__version__ for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def environment(target: Target, seed: int, batch_size: int) -> dict[str, Any]:
    """Return versions, provider, device, seed, threads and platform."""
    return {
        "versions": versions(),
        "provider": target.deployed.deployed.session.get_providers()[0],
        "device": str(target.device),
        "seed": seed,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
