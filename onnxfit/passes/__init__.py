"""Retrofits that put something in front of a network or behind it, each with its own way back.

=================  ============================================  ====================
record             what                                          file
=================  ============================================  ====================
``interpolation``  labelled features in place of the last layer  ``interpolation.py``
=================  ============================================  ====================

JumpReLUs are inside the network (:mod:`onnxfit.hardening`), and go in before these.
"""

from collections.abc import Callable

from onnx import ModelProto

from onnxfit.errors import ModelError
from onnxfit.passes import interpolation

__all__ = ["KEYS", "applied", "refuse", "take_back"]

# The metadata entry of each, and what takes it back; in the order in which they are applied.
_PASSES: dict[str, Callable[[ModelProto], None]] = {
    interpolation.KEY: interpolation.take_back,
}
KEYS = tuple(_PASSES)


def applied(model: ModelProto) -> list[str]:
    """Return the metadata entries of what was applied to a model, in that order."""
    present = {entry.key for entry in model.metadata_props}
    return [key for key in KEYS if key in present]


def take_back(model: ModelProto) -> bool:
    """Undo all of them, and tell whether there was anything to undo.

    Raises:
        ModelError: A record is damaged, or another tool changed what it tells of.
    """
    keys = applied(model)
    for key in reversed(keys):
        _PASSES[key](model)
    return bool(keys)


def refuse(model: ModelProto, what: str) -> None:
    """Refuse a model that something was applied to.

    Args:
        model: Any model.
        what: What cannot be done, as the end of a sentence.

    Raises:
        ModelError: The model is one.
    """
    if keys := applied(model):
        names = " and ".join(key.partition(".")[2] for key in keys)
        raise ModelError(f"the model has an {names} that belongs to its weights and jumps: {what}")
