"""What is known of a fine-tuning, as JSON has it."""

from collections.abc import Sequence
from typing import Any

from onnxfit.data import Dataset
from onnxfit.finetuning.settings import Settings
from onnxfit.finetuning.validation import STEPS, Mask, Worth
from onnxfit.verification.statistics import mcnemar, paired_difference, wilson
from onnxfit.verification.target import Target

SCHEMA_VERSION = 1

Document = dict[str, Any]
# What was measured at a check.
Record = dict[str, Any]

NOTHING = "No check kept the budget of clean accuracy: no weights are written."


def describe(
    records: Sequence[Record],
    before: Worth,
    after: Worth | None,
    settings: Settings,
    target: Target,
    train: Dataset,
    validation: Dataset,
) -> Document:
    """Return the document; ``after`` is None where no weights were kept."""
    difference = None if after is None else _difference(before, after)
    return {
        "schema_version": SCHEMA_VERSION,
        "headline": _headline(before, after, difference, settings),
        "methods": dict(settings.methods),
        "eps": settings.radius,
        "norm": settings.norm,
        "jump": settings.jump,
        "max_drop": settings.max_drop,
        "model": target.record(),
        "data": {
            name: {"path": data.path, "sha256": data.sha256, "n": data.n}
            for name, data in (("train", train), ("validation", validation))
        },
        "attack": {"name": "apgd-ce", "steps": STEPS, "attacked": len(before.robust)},
        "before": _side(before),
        "after": None if after is None else _side(after),
        "difference": difference,
        "history": list(records),
    }


def summary(document: Document) -> Document:
    """Return what the file itself records."""
    keys = ("methods", "eps", "norm", "jump", "max_drop", "epochs", "augment")
    found = {key: document[key] for key in keys}
    found["data"] = {name: each["sha256"] for name, each in document["data"].items()}
    found["seed"] = document["environment"]["seed"]
    for side in ("before", "after"):
        found[side] = {key: document[side][key]["accuracy"] for key in ("clean", "robust")}
    return found


def _side(worth: Worth) -> Document:
    return {"clean": _share(worth.clean), "robust": _share(worth.robust)}


def _share(right: Mask) -> Document:
    return {"accuracy": float(right.mean()), "ci95": list(wilson(int(right.sum()), len(right)))}


def _difference(before: Worth, after: Worth) -> Document:
    found: Document = {}
    for name, one, other in (
        ("clean", after.clean, before.clean),
        ("robust", after.robust, before.robust),
    ):
        more, fewer = int((one & ~other).sum()), int((other & ~one).sum())
        found[name] = {
            "accuracy": (more - fewer) / len(one),
            "ci95": list(paired_difference(more, fewer, len(one))),
            "p_value": mcnemar(more, fewer),
        }
    return found


def _headline(
    before: Worth, after: Worth | None, difference: Document | None, settings: Settings
) -> str:
    if after is None or difference is None:
        return NOTHING
    low, high = (100 * limit for limit in difference["robust"]["ci95"])
    change, clean = (100 * difference[key]["accuracy"] for key in ("robust", "clean"))
    word = "no more robust beyond noise"
    if low > 0 or high < 0:
        word = "more robust" if low > 0 else "less robust"
    return (
        f"On validation data the fine-tuned model is {word}: {after.robust.mean():.1%} of "
        f"{len(after.robust)} samples stay right within {settings.radius:g} ({settings.norm}), "
        f"before {before.robust.mean():.1%} ({change:+.1f} points, 95 % interval {low:+.1f} to "
        f"{high:+.1f}); clean accuracy changes by {clean:+.2f} points. The same data chose the "
        "weights: verify the file on other data."
    )
