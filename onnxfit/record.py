"""What a model's metadata tells: how it was hardened, its jumps chosen, its weights trained."""

import json
from collections.abc import Mapping
from typing import Any

from onnx import ModelProto, StringStringEntryProto

from onnxfit import __version__, passes, rewrites
from onnxfit.edits import remove_where
from onnxfit.errors import ModelError
from onnxfit.json_values import finite
from onnxfit.op import DOMAIN
from onnxfit.planning import sites_of
from onnxfit.sites import Found, Unreplaced, scan

NOT_HARDENED = "the model is not hardened: it has no JumpReLU"

_METADATA_PREFIX = f"{DOMAIN}."
_METADATA_KEYS = (
    "version",
    "source_sha256",
    "lowering",
    "jumps",
    "restore",
    "calibration",
    rewrites.KEY.removeprefix(_METADATA_PREFIX),
)
# What is told of weights stays when jumps are taken back.
FINETUNING = "finetuning"
RESTORE_DAMAGED = f"the metadata entry {_METADATA_PREFIX}restore is damaged"


def write_record(
    model: ModelProto, digest: str, lowering: str, jumps: dict[str, Any], undo: dict[str, Any]
) -> None:
    """Write into a hardened model how it was made.

    Args:
        model: The model, which is changed.
        digest: SHA-256 of the file that was hardened.
        lowering: As in :func:`onnxfit.retrofit`.
        jumps: The jumps by site, as JSON has them.
        undo: What :func:`undo_record` returns.
    """
    for key, value in {
        "version": __version__,
        "source_sha256": digest,
        "lowering": lowering,
        "jumps": json.dumps(jumps),
        "restore": json.dumps(undo),
    }.items():
        model.metadata_props.add(key=_METADATA_PREFIX + key, value=value)


def provenance(model: ModelProto) -> dict[str, Any]:
    """Return what a hardened file tells of its making, ``onnxfit.`` cut from the keys."""
    record: dict[str, Any] = {}
    for entry in model.metadata_props:
        if _is_ours(entry.key) or entry.key in (_METADATA_PREFIX + FINETUNING, *passes.KEYS):
            key = entry.key.removeprefix(_METADATA_PREFIX)
            try:
                structured = entry.value.startswith(("{", "["))
                record[key] = json.loads(entry.value) if structured else entry.value
            except (ValueError, RecursionError) as error:
                raise ModelError(f"the metadata entry {entry.key} is damaged: {error}") from None
    return record


def source_of(model: ModelProto) -> str | None:
    """Return the SHA-256 of what a model was made of by its records; None without any."""
    record = provenance(model)
    names = [key.removeprefix(_METADATA_PREFIX) for key in passes.applied(model)]
    found = [record, *(record[name] for name in names)]
    return next((each["source_sha256"] for each in found if "source_sha256" in each), None)


def record_calibration(model: ModelProto, summary: Mapping[str, Any]) -> None:
    """Write into a hardened model how its jumps were chosen, in place of an earlier record.

    :func:`provenance` returns it under ``calibration``; hardening again and restoring remove it.

    Args:
        model: A hardened model, which is changed.
        summary: What JSON can hold; NaN and infinities become null.

    Raises:
        ModelError: The model is not hardened.
    """
    if not is_hardened(model, list(scan(rewrites.unrewritten(model)))):
        raise ModelError(NOT_HARDENED)
    _replace_record(model, "calibration", summary)


def record_finetuning(model: ModelProto, source_sha256: str, summary: Mapping[str, Any]) -> None:
    """Write into a model how its weights were trained further, in place of an earlier record.

    :func:`provenance` returns it under ``finetuning``. It outlives hardening and restoring, for
    the weights stay; a model that was hardened before cannot be restored any more. What is recorded
    of a calibration is marked with ``before_finetuning``: its figures are of the earlier weights.

    Args:
        model: The model, which is changed.
        source_sha256: Of the model that it was made of.
        summary: What JSON can hold; NaN and infinities become null.
    """
    hardened = is_hardened(model, list(scan(rewrites.unrewritten(model))))
    known: dict[str, Any] = {"source_sha256": source_sha256, "hardened": hardened}
    record = provenance(model)
    if isinstance(earlier := record.get(FINETUNING), dict):
        known["earlier"] = earlier
    if isinstance(calibration := record.get("calibration"), dict):
        _replace_record(model, "calibration", {**calibration, "before_finetuning": True})
    _replace_record(model, FINETUNING, {**known, **summary})


def _replace_record(model: ModelProto, name: str, summary: Mapping[str, Any]) -> None:
    key, content = _METADATA_PREFIX + name, json.dumps(finite(summary), allow_nan=False)
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = content
            return
    model.metadata_props.add(key=key, value=content)


def _is_ours(key: str) -> bool:
    return key.startswith(_METADATA_PREFIX) and key[len(_METADATA_PREFIX) :] in _METADATA_KEYS


def record_of(model: ModelProto) -> list[StringStringEntryProto]:
    """Return what hardening wrote about itself into a model's metadata."""
    return [entry for entry in model.metadata_props if _is_ours(entry.key)]


def drop_record(model: ModelProto) -> None:
    """Remove what hardening wrote about itself."""
    remove_where(model.metadata_props, lambda entry: _is_ours(entry.key))


def undo_record(model: ModelProto) -> dict[str, Any]:
    """Return the record that restoring needs, or an empty one where a tool dropped it.

    Raises:
        ModelError: It is damaged.
    """
    record = provenance(model).get("restore", {})
    expected = {"ir_version": int, "imported": list, "sites": dict}
    if not isinstance(record, dict) or not all(
        isinstance(record.get(key, kind()), kind) for key, kind in expected.items()
    ):
        raise ModelError(RESTORE_DAMAGED)
    known: dict[str, Any] = record
    return known


def is_hardened(model: ModelProto, found: list[Found | Unreplaced]) -> bool:
    """Tell whether the model holds a JumpReLU.

    Raises:
        ModelError: It should hold more, by its record.
    """
    hardened = sum(site.hardened is not None for site in sites_of(found))
    recorded = provenance(model).get("jumps", {})
    if isinstance(recorded, dict) and hardened < len(recorded):
        raise ModelError(
            f"{len(recorded)} activations of the model were hardened and {hardened} are left: "
            "another tool wrote its JumpReLUs out as other operators; take the source, or the "
            "hardened file before that"
        )
    return hardened > 0
