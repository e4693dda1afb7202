"""What is known of a fine-tuning, as JSON has it."""

import dataclasses
from typing import Any

from onnxfit.data import Dataset
from onnxfit.finetuning.course import Course
from onnxfit.finetuning.settings import Settings
from onnxfit.finetuning.validation import LOSSES, STEPS, Mask, Worth
from onnxfit.verification.records import accuracy_share, only
from onnxfit.verification.statistics import mcnemar, paired_difference
from onnxfit.verification.target import Target

SCHEMA_VERSION = 1

Document = dict[str, Any]

LESS_ROBUST = "The model is less robust than before."
NOTHING = "No check kept the budget of clean accuracy: no weights are written."


def describe(
    course: Course, settings: Settings, given: Target, train: Dataset, validation: Dataset
) -> Document:
    """Return the document."""
    before, after = course.before, None if course.best is None else course.best.worth
    difference = None if after is None else _difference(before, after)
    return {
        "schema_version": SCHEMA_VERSION,
        "headline": _headline(before, after, difference, settings),
        "methods": dict(settings.methods),
        "eps": settings.radius,
        "norm": settings.norm,
        "jump": settings.jump,
        "max_drop": settings.max_drop,
        "settings": dataclasses.asdict(settings),
        "model": given.record(),
        "data": {
            name: {
                "path": data.path,
                "sha256": data.sha256,
                "n": data.n,
                "bounds": list(data.bounds),
            }
            for name, data in (("train", train), ("validation", validation))
        },
        "attack": {
            "name": "apgd",
            "losses": list(LOSSES),
            "steps": STEPS,
            "attacked": len(before.robust),
        },
        "before": _side(before),
        "with_jumps": None if settings.jump is None else _side(course.start),
        "after": None if after is None else _side(after),
        "difference": difference,
        "history": list(course.records),
    }


def summary(document: Document) -> Document:
    """Return what the file itself records: what it takes to repeat the training, and its worth.

    ``eps`` and ``augment`` are what was used, ``epochs`` how many of ``settings.epochs`` were done;
    ``run`` is the fingerprint that the checkpoint of the training has as well.
    """
    keys = ("run", "methods", "eps", "norm", "jump", "max_drop", "epochs", "augment", "difference")
    found = {key: document[key] for key in keys}
    told = {*found, "seed"} - {"epochs"}
    found["settings"] = {k: v for k, v in document["settings"].items() if k not in told}
    found["data"] = {name: each["sha256"] for name, each in document["data"].items()}
    found["bounds"] = document["data"]["train"]["bounds"]
    found["samples"] = {name: each["n"] for name, each in document["data"].items()}
    found |= {key: document["environment"][key] for key in ("seed", "versions", "threads")}
    for side in ("before", "after"):
        found[side] = {key: document[side][key]["accuracy"] for key in ("clean", "robust")}
    return found


def _side(worth: Worth) -> Document:
    return {"clean": _share(worth.clean), "robust": _share(worth.robust)}


def _share(right: Mask) -> Document:
    return accuracy_share(int(right.sum()), len(right))


def _difference(before: Worth, after: Worth) -> Document:
    found: Document = {}
    for name, one, other in (
        ("clean", after.clean, before.clean),
        ("robust", after.robust, before.robust),
    ):
        more, fewer = only(one, other)
        found[name] = {
            "accuracy": (more - fewer) / len(one),
            "ci95": list(paired_difference(more, fewer, len(one))),
            "p_value": mcnemar(more, fewer),
        }
    return found


def _headline(
    before: Worth, after: Worth | None, difference: Document | None, settings: Settings
) -> str:
    """Say what was measured; whether that is more robust is for other data and attacks to say."""
    if after is None or difference is None:
        return NOTHING
    robust, clean = difference["robust"], difference["clean"]
    low, high = (100 * limit for limit in robust["ci95"])
    lowest, highest = (100 * limit for limit in clean["ci95"])
    outcome = (
        f"Of {len(after.robust)} validation samples APGD, {STEPS} steps within {settings.radius:g} "
        f"({settings.norm}), leaves {after.robust.mean():.1%} right, before "
        f"{before.robust.mean():.1%}: {100 * robust['accuracy']:+.1f} points (95 % interval, not "
        f"corrected for the choice among checks: {low:+.1f} to {high:+.1f}); clean accuracy "
        f"changes by {100 * clean['accuracy']:+.2f} points ({lowest:+.2f} to {highest:+.2f}). The "
        "same data chose the weights: verify the file on other data."
    )
    return f"{LESS_ROBUST} {outcome}" if after.is_less_robust_than(before) else outcome
