"""Retrofits that put something in front of a network or behind it, each with its own way back.

=================  ============================================  ======================
record             what                                          file
=================  ============================================  ======================
``denoising``      images of less total variation in front       ``total_variation.py``
``interpolation``  labelled features in place of the last layer  ``interpolation.py``
=================  ============================================  ======================

JumpReLUs are inside the network (:mod:`onnxfit.hardening`), and go in before these.
"""

from collections.abc import Callable
from typing import NamedTuple

from onnx import ModelProto

from onnxfit.errors import ModelError
from onnxfit.passes import interpolation, total_variation
from onnxfit.passes.building import check_free

__all__ = ["KEYS", "PREFIXES", "applied", "make_room", "refuse", "take_back"]


class _Pass(NamedTuple):
    """What a retrofit leaves in a model.

    Attributes:
        what: It in words.
        prefixes: What the names that it gives begin with.
        take_back: Undoes it.
    """

    what: str
    prefixes: tuple[str, ...]
    take_back: Callable[[ModelProto], None]


# By the metadata entry of each, in the order in which they are applied.
_PASSES = {
    total_variation.KEY: _Pass(
        "a denoising in front of it", (total_variation.PREFIX,), total_variation.take_back
    ),
    interpolation.KEY: _Pass(
        "an interpolation that belongs to its weights and jumps",
        (interpolation.PREFIX, interpolation.HEAD_PREFIX),
        interpolation.take_back,
    ),
}
KEYS = tuple(_PASSES)
PREFIXES = tuple(prefix for each in _PASSES.values() for prefix in each.prefixes)


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


def make_room(model: ModelProto, key: str) -> None:
    """Make a model ready for one of them: an earlier application is undone.

    Args:
        model: It is changed.
        key: The metadata entry of the one.

    Raises:
        ModelError: One that is applied after it was, so that it stands on what is to change; the
            model has names that it would give; or as in :func:`take_back`.
    """
    keys = applied(model)
    if later := [other for other in keys if KEYS.index(other) > KEYS.index(key)]:
        raise _refusal(later, "restore it first, and apply both again")
    if key in keys:
        _PASSES[key].take_back(model)
    check_free(model, _PASSES[key].prefixes)


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
