"""Retrofits that put something in front of a network or behind it, each with its own way back.

=================  ============================================  ======================
record             what                                          file
=================  ============================================  ======================
``denoising``      images of less total variation in front       ``total_variation.py``
``interpolation``  labelled features in place of the last layer  ``interpolation.py``
=================  ============================================  ======================

JumpReLUs are inside the network (:mod:`onnxfit.hardening`), and go in before these.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

from onnx import ModelProto

from onnxfit.errors import ModelError
from onnxfit.passes import interpolation, total_variation

__all__ = ["KEYS", "applied", "make_room", "refuse", "take_back"]


class _Pass(NamedTuple):
    """What a retrofit leaves in a model.

    Attributes:
        what: It in words.
        take_back: Undoes it.
    """

    what: str
    take_back: Callable[[ModelProto], None]


# By the metadata entry of each, in the order in which they are applied.
_PASSES = {
    total_variation.KEY: _Pass("a denoising in front of it", total_variation.take_back),
    interpolation.KEY: _Pass(
        "an interpolation that belongs to its weights and jumps", interpolation.take_back
    ),
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
        _PASSES[key].take_back(model)
    return bool(keys)


def make_room(model: ModelProto, key: str) -> str | None:
    """Undo an earlier application of one of them, which is to be applied anew.

    Args:
        model: It is changed.
        key: The metadata entry of the one.

    Returns:
        The SHA-256 of what it was applied to; None where it was not.

    Raises:
        ModelError: One that is applied after it was, so that it stands on what is to change; or as
            in :func:`take_back`.
    """
    keys = applied(model)
    if later := [other for other in keys if KEYS.index(other) > KEYS.index(key)]:
        raise _refusal(later, "restore it first, and apply both again")
    if key not in keys:
        return None
    content = next(entry.value for entry in model.metadata_props if entry.key == key)
    _PASSES[key].take_back(model)
    source: str | None = json.loads(content).get("source_sha256")
    return source


def refuse(model: ModelProto, what: str) -> None:
    """Refuse a model that something was applied to.

    Args:
        model: Any model.
        what: What cannot be done, as the end of a sentence.

    Raises:
        ModelError: The model is one.
    """
    if keys := applied(model):
        raise _refusal(keys, what)


def _refusal(keys: list[str], what: str) -> ModelError:
    named = " and ".join(_PASSES[key].what for key in keys)
    return ModelError(f"the model has {named}: {what}")
