"""What a reader of a verification should know besides its figures."""

from collections.abc import Iterator, Mapping

from onnxfit.data import Dataset
from onnxfit.randomness import drawn_value
from onnxfit.record import FINETUNING, provenance
from onnxfit.verification.campaign import Side
from onnxfit.verification.policy import NOT_WORSE
from onnxfit.verification.result import Document
from onnxfit.verification.statistics import SIGNIFICANCE
from onnxfit.verification.target import Target

SEEN = (
    "The {} on this very data, so that the model looks better on it than on other data: verify on "
    "data that the {} has not seen."
)
NOT_REPEATABLE = (
    "The model or its baseline {}: every figure is of one run, another run gives others, and twins "
    "and files were not compared."
)
UNSTABLE = NOT_REPEATABLE.format("computes other logits when it is run again")
RANDOM = (
    NOT_REPEATABLE.format("draws random numbers")
    + " A denoising that drops pixels keeps the same ones with --tv-seed."
)
NO_RULE = "No rule was asked for: the verdict rests on the diagnostics alone."
NO_RULE_FOR_WORSE = "The model is less robust than its baseline, and no rule looks at that."


def seen_before(model: Target, data: Dataset) -> Iterator[str]:
    """Yield a sentence where jumps were chosen or weights trained on these very samples."""
    record = provenance(model.model)
    calibrated, tuned = (record.get(key) for key in ("calibration", FINETUNING))
    if isinstance(calibrated, dict) and calibrated.get("data_sha256") == data.sha256:
        yield SEEN.format("jumps were calibrated", "calibration")
    while isinstance(tuned, dict):
        seen = tuned.get("data")
        if isinstance(seen, dict) and data.sha256 in seen.values():
            yield SEEN.format("weights were fine-tuned", "fine-tuning")
            return
        tuned = tuned.get("earlier")


def not_repeatable(targets: Mapping[Side, Target]) -> str:
    """Say that two runs differ, and why where the reason is known."""
    draws = any(drawn_value(target.model) for target in targets.values())
    return RANDOM if draws else UNSTABLE


def unjudged(document: Document) -> Iterator[str]:
    """Yield what the verdict does not rest on.

    Args:
        document: ``result.json`` with its rules.
    """
    rules = {rule["rule"] for rule in document["rules"]}
    if not rules:
        yield NO_RULE
        return
    difference = document["difference"]
    worse = difference.get("robust_accuracy", 0) < 0 and difference["p_value"] < SIGNIFICANCE
    if worse and NOT_WORSE not in rules:
        yield NO_RULE_FOR_WORSE
