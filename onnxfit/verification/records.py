"""What a campaign did, as the records of result.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.data import Dataset
from onnxfit.verification.campaign import Campaign, Side
from onnxfit.verification.result import Document
from onnxfit.verification.statistics import mcnemar, paired_difference, wilson
from onnxfit.verification.target import Target

Mask = NDArray[np.bool_]

_UNMEASURED: Document = {"robust_accuracy": None, "ci95": None}


def robust_share(robust: int, n: int) -> Document:
    """Return a robust accuracy with its 95 % interval (Wilson)."""
    return {"robust_accuracy": robust / n, "ci95": list(wilson(robust, n))}


def accuracy_share(correct: int, n: int) -> Document:
    """Return a clean accuracy with its 95 % interval (Wilson)."""
    return {"accuracy": correct / n, "ci95": list(wilson(correct, n))}


def scored(campaign: Campaign, side: Side) -> Document:
    """Return clean accuracy, attacks, native robust accuracy and worst case of one model."""
    score, n = campaign.scores[side], campaign.data.n
    attacks = []
    for stage, tally in zip(score.stages, score.tallies, strict=True):
        # Those that it was not given were misclassified before.
        robust = int((tally.attacked & ~tally.deployed).sum())
        share = robust_share(robust, n) if tally.ran else _UNMEASURED
        settings = {key: value for key, value in stage.attack.settings.items() if key != "seed"}
        attacks.append(
            {
                "name": stage.name,
                "backward": stage.backward,
                **({} if stage.network is None else {"network": stage.network}),
                "norm": stage.attack.norm,
                "eps": stage.attack.radius,
                "settings": settings,
                "attacked": int(tally.attacked.sum()),
                "twin_success": int(tally.twin.sum()),
                "twin_only": int((tally.twin & ~tally.deployed).sum()),
                "deployed_success": int(tally.deployed.sum()),
                **share,
                "seconds": tally.seconds,
            }
        )
    correct = int(score.correct.sum())
    followed = any(
        tally.ran
        for stage, tally in zip(score.stages, score.tallies, strict=True)
        if stage.family == "native"
    )
    native = robust_share(int(score.robust("native").sum()), n) if followed else None
    return {
        "clean": accuracy_share(correct, n),
        "attacks": attacks,
        "native": native,
        "worst_case": robust_share(int(score.robust().sum()), n),
    }


def paired(name: str, of_model: Mask, of_baseline: Mask) -> Document:
    """Return the difference of two shares of the same samples, under a name, and its test."""
    only_model, only_baseline = only(of_model, of_baseline)
    n = len(of_model)
    return {
        name: (only_model - only_baseline) / n,
        "ci95": list(paired_difference(only_model, only_baseline, n)),
        "p_value": mcnemar(only_model, only_baseline),
        "only_model": only_model,
        "only_baseline": only_baseline,
    }


def compared(campaign: Campaign, side: Side, other: Side) -> Document:
    """Return the paired differences of two models on the same samples."""
    a, b, n = campaign.scores[side], campaign.scores[other], campaign.data.n
    gained, lost = only(a.correct, b.correct)
    natively = only(a.robust("native"), b.robust("native"))
    return {
        **paired("robust_accuracy", a.robust(), b.robust()),
        "clean_accuracy": (gained - lost) / n,
        "clean_ci95": list(paired_difference(gained, lost, n)),
        "clean_gained": gained,
        "clean_lost": lost,
        "native_accuracy": (natively[0] - natively[1]) / n,
        "native_ci95": list(paired_difference(*natively, n)),
    }


def curve_records(campaign: Campaign) -> list[Document]:
    """Return robust accuracy over eps, ascending."""
    n, curves = campaign.data.n, campaign.curves
    model, baseline = curves["model"], curves.get("baseline", curves["model"])
    return [
        {
            "eps": eps,
            "model": robust_share(int(model.robust[at]), n),
            "native": robust_share(int(model.native[at]), n),
            "baseline": robust_share(int(baseline.robust[at]), n),
        }
        for at, eps in enumerate(model.eps)
    ]


def paper_records(
    targets: Mapping[Side, Target], attacks: Mapping[Side, Sequence[Document]], data: Dataset
) -> Document:
    """Return the records of a run of the paper's protocol.

    It has no worst case; what native gradients alone report is the lowest accuracy of a white-box
    attack.
    """
    clean = {side: _correct(target, data) for side, target in targets.items()}
    sides = {side: _paper_side(clean[side], attacks[side]) for side in targets}
    model, same = sides["model"], "baseline" not in targets
    baseline = sides.get("baseline", model)
    gained, lost = only(clean["model"], clean.get("baseline", clean["model"]))
    record = targets.get("baseline", targets["model"]).record()
    return {
        **model,
        "baseline": {"model": record, **baseline, "same_as_model": same},
        "difference": {
            "clean_accuracy": (gained - lost) / data.n,
            "clean_ci95": list(paired_difference(gained, lost, data.n)),
            "clean_gained": gained,
            "clean_lost": lost,
        },
        "curve": [],
        "universal": None,
    }


def _paper_side(correct: Mask, attacks: Sequence[Document]) -> Document:
    n, right = len(correct), int(correct.sum())
    white = [record for record in attacks if not record["name"].startswith("transfer")]
    lowest = min(white, key=lambda record: record["accuracy"])
    share: dict[str, Any] = {"robust_accuracy": lowest["accuracy"], "ci95": lowest["ci95"]}
    return {
        "clean": accuracy_share(right, n),
        "attacks": list(attacks),
        "native": share,
        "worst_case": None,
    }


def _correct(target: Target, data: Dataset) -> Mask:
    return np.concatenate(
        [target.predictions(torch.from_numpy(x)) == y for x, y in data.batches(256)]
    )


def only(a: Mask, b: Mask) -> tuple[int, int]:
    """Count what is in the first alone, and what in the second alone."""
    return int((a & ~b).sum()), int((b & ~a).sum())
