"""What the report says of the saliency that was measured: a row a measure, and a few sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from onnxfit.report.wording import NONE, decimals, finite

Document = Mapping[str, Any]

_NAMES = {
    "deletion_gradient": "Deletion AUC, by gradient",
    "deletion_occlusion": "Deletion AUC, by occlusion",
    "deletion_random": "Deletion AUC, random order",
    "insertion_gradient": "Insertion AUC, by gradient",
    "insertion_occlusion": "Insertion AUC, by occlusion",
    "insertion_random": "Insertion AUC, random order",
    "gain_gradient": "Gain on a random order, by gradient",
    "gain_occlusion": "Gain on a random order, by occlusion",
    "agreement": "Agreement of gradient and occlusion",
    "stability_gradient": "Stability of the gradient, under attack",
    "noise_gradient": "Stability of the gradient, in noise",
    "stability_occlusion": "Stability of occlusion, under attack",
    "noise_occlusion": "Stability of occlusion, in noise",
}


def section(record: Document | None, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what the section shows.

    Args:
        record: That of the document, None where saliency was not looked at.
        names: What ``model`` and, if it is shown, ``baseline`` are called.

    Returns:
        Nothing without a record; only the ``reason`` where it could not be measured; else the
        number of samples ``n`` and of ``steps``, the ``columns`` (the models and their
        difference), a row for each measure with a cell for each column, and what is ``said`` of
        them.
    """
    if not record or record.get("reason"):
        return dict(record or {})
    heads = {**names, "difference": "Difference"} if "baseline" in names else names
    shown = {column: record[column] for column in heads if record.get(column)}
    return {
        "n": record.get("n"),
        "steps": record.get("steps"),
        "columns": [heads[column] for column in shown],
        "rows": [
            {"name": name, "cells": [_cell(measures.get(key)) for measures in shown.values()]}
            for key, name in _NAMES.items()
        ],
        "said": list(_sentences(shown, names)),
    }


def _sentences(shown: Mapping[str, Document], names: Mapping[str, str]) -> Iterator[str]:
    """Say which maps beat a random order, and in what the models differ beyond chance."""
    for side, name in names.items():
        if side in shown:
            yield _against_chance(shown[side], name)
    if "difference" in shown:
        apart, model = ", ".join(_apart(shown["difference"])), names["model"].lower()
        yield (
            f"Beyond chance the two models differ, {model} less baseline, in {apart}."
            if apart
            else "In none of these measures do the two models differ beyond chance."
        )


def _cell(measured: Document | None) -> dict[str, Any]:
    """Write a mean with its interval and the number of samples."""
    measured = measured or {}
    low, high = (decimals(end) for end in measured.get("ci95") or (None, None))
    return {
        "mean": decimals(measured.get("mean")),
        "interval": NONE if NONE in (low, high) else f"{low} to {high}",
        "n": measured.get("n"),
    }


def _against_chance(measures: Document, name: str) -> str:
    """Say which maps of a model rank pixels better than chance does."""
    better = [kind for kind in ("gradient", "occlusion") if _sign(measures.get(f"gain_{kind}")) > 0]
    found = " and ".join(better) or "neither map"
    return f"{name}: {found} {'rank' if len(better) > 1 else 'ranks'} pixels better than chance."


def _apart(difference: Document) -> Iterator[str]:
    """Name the measures whose difference is not 0, as far as the intervals tell."""
    for key, name in _NAMES.items():
        if _sign(difference.get(key)):
            yield f"{name[0].lower()}{name[1:]} ({decimals(difference[key].get('mean'))})"


def _sign(measured: Document | None) -> int:
    """Return the sign of a mean whose interval excludes 0, else 0."""
    low, high = map(finite, (measured or {}).get("ci95") or (None, None))
    if low is None or high is None:
        return 0
    return (low > 0) - (high < 0)
