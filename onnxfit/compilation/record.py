"""The record in a compiled model: what it was made of and for."""

import json
from collections.abc import Mapping
from typing import Any

from onnx import ModelProto

from onnxfit.errors import ModelError

# The metadata entry.
COMPILED_KEY = "onnxfit.compiled"


def is_compiled(model: ModelProto) -> bool:
    """Tell whether a model is a compiled one."""
    return any(entry.key == COMPILED_KEY for entry in model.metadata_props)


def record(model: ModelProto, made: Mapping[str, Any]) -> None:
    """Write into a compiled model what it was made of and for."""
    model.metadata_props.add(key=COMPILED_KEY, value=json.dumps(made))


def recorded(model: ModelProto) -> dict[str, Any]:
    """Return what a compiled model was made of and for.

    Raises:
        ModelError: The record is damaged.
    """
    for entry in model.metadata_props:
        if entry.key == COMPILED_KEY:
            try:
                made = json.loads(entry.value)
                if isinstance(made["machine"], dict) and isinstance(made["hardened_sha256"], str):
                    return dict(made)
            except (KeyError, TypeError, ValueError, RecursionError):
                pass
    raise ModelError(f"the metadata entry {COMPILED_KEY} is damaged")


def refuse_compiled(model: ModelProto) -> None:
    """Refuse a compiled model, which is for ONNX Runtime alone.

    Raises:
        ModelError: It is one.
    """
    if is_compiled(model):
        raise ModelError(
            "the model was compiled: take the hardened file, the one with the SHA-256 "
            f"{recorded(model)['hardened_sha256']}"
        )
