"""What a calibration found, as ``calibration.json`` holds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxfit.calibration.activations import SiteStatistics
from onnxfit.calibration.refinement import Attribution, Refined, Strengths
from onnxfit.calibration.scales import Jump, zeroed
from onnxfit.calibration.selection import Budget, Mask
from onnxfit.calibration.settings import Settings
from onnxfit.data import Dataset
from onnxfit.verification.environment import versions
from onnxfit.verification.headline import budget as reach
from onnxfit.verification.headline import percent
from onnxfit.verification.records import accuracy_share, only, robust_share
from onnxfit.verification.statistics import SIGNIFICANCE, mcnemar, paired_difference
from onnxfit.verification.target import Target

SCHEMA_VERSION = 1
# From here on one jump cannot fit two sites whose medians are that many times apart.
UNEVEN = 50
# Where the choice says little of this very jump.
SMALLEST = " It is the smallest jump tried: all that the choice says is that smaller is better."

Document = dict[str, Any]
# How many samples a heat of the race had, and the strengths that were left.
Heat = tuple[int, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What was measured of a strength.

    Attributes:
        strength: 0 for the network before hardening.
        clean: Which of all samples it classifies rightly.
        robust: Which of the attacked samples that it was measured on stay right under the attacks
            of the race.
        worst: Which of the first ones, the same for all points, stay right under all attacks.
        native: Which of these stay right under those with the network's own gradient alone.
    """

    strength: float
    clean: Mask
    robust: Mask
    worst: Mask
    native: Mask


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a calibration found.

    Attributes:
        curve: By strength, the network before hardening first.
        chosen: The number of the chosen strength on the curve.
        smallest: Whether it was the smallest of several that were tried.
        candidate: What was found: that strength, or one for each site.
        refined: How the strengths of the sites were found, where they were asked for.
        candidates: How many there were to choose among: the strengths inside the budget, and with
            a refinement what each of them could have been refined to.
        heats: Those of the race; the last one has its winner.
        clean: Which of all samples are right with the jumps that were found: those of the chosen
            strength, or refined ones.
        worst: Under all attacks, surrogates included, for the network before hardening and for
            these jumps: which samples stay right.

    The samples by which single sites were changed cannot test what came of it: ``tested`` are the
    others among those of ``worst``.
    """

    curve: Sequence[Point]
    chosen: int
    candidate: float | Strengths
    candidates: int
    clean: Mask
    worst: tuple[Mask, Mask]
    heats: Sequence[Heat] = ()
    refined: Refined | None = None
    smallest: bool = False

    @property
    def tested(self) -> slice:
        """The attacked samples that tell whether anything was gained."""
        refined = self.refined
        return slice(refined.judged_on if refined is not None and refined.taken else 0, None)


def describe(findings: Findings, plain: Target, data: Dataset, settings: Settings) -> Document:
    """Return the document, but for what :func:`of_sites` tells."""
    before, chosen = findings.curve[0], findings.curve[findings.chosen]
    document: Document = {
        "schema_version": SCHEMA_VERSION,
        "headline": None,
        "improves": None,
        "objective": settings.objective,
        "scale": settings.scale,
        "norm": settings.norm,
        "eps": settings.radius,
        "quantize": settings.quantize,
        "budget": {"max_drop": settings.max_drop, "confidence": settings.confidence},
        "model": plain.record(),
        "data": {
            "path": data.path,
            "sha256": data.sha256,
            "n": data.n,
            "attacked": len(findings.worst[0]),
            "bounds": list(data.bounds),
            "mean": list(settings.mean),
            "std": list(settings.std),
        },
        "strength": chosen.strength,
        "before": _side(before.clean, findings.worst[0]),
        "after": _side(findings.clean, findings.worst[1]),
        "difference": _difference(findings, settings.budget),
        "curve": [_point(point, before, settings.budget) for point in findings.curve],
        "refinement": _refinement(findings.refined),
        "race": [{"samples": count, "left": list(left)} for count, left in findings.heats],
        "environment": {
            "versions": versions(),
            "device": str(plain.device),
            "seed": settings.seed,
            "batch_size": settings.batch_size,
        },
    }
    document["improves"] = _improves(document["difference"])
    document["headline"] = _headline(document) + (SMALLEST if findings.smallest else "")
    return document


def of_sites(
    jumps: Mapping[str, Jump], statistics: Mapping[str, SiteStatistics], findings: Findings
) -> list[Document]:
    """Return what is known of every site."""
    shares, refined = zeroed(jumps, statistics), findings.refined
    start = findings.curve[findings.chosen].strength
    records: list[Document] = []
    for i, (name, jump) in enumerate(jumps.items()):
        overall = statistics[name].overall
        record: Document = {
            "name": name,
            "jump": np.asarray(jump, np.float64).tolist(),
            "strength": start if refined is None else refined.strengths[i],
            "zeroed": shares[name],
            "median": float(overall.quantile(0.5)[0]),
            "std": float(overall.std[0]),
        }
        if refined is not None:
            record["attribution"] = _attribution(refined.attribution[i])
        records.append(record)
    return records


def _attribution(found: Attribution) -> Document:
    """Say what the jump of a site does alone: right with it less right before hardening."""
    pairs = {
        "clean": (found.clean, found.clean_without),
        "robust": (found.robust, found.robust_without),
    }
    return {
        kind: {**_paired(*pair), "p_value": mcnemar(*only(*pair))} for kind, pair in pairs.items()
    }


def _refinement(refined: Refined | None) -> Document | None:
    if refined is None:
        return None
    return {
        "edge": refined.edge,
        "judged_on": refined.judged_on,
        "tried": refined.tried,
        "taken": refined.taken,
    }


def warnings(document: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know, in sentences."""
    found = []
    if document["objective"] == "paper":
        found.append(
            "The jump was chosen by native gradients alone, which do not see across the jumps and "
            "overstate robustness; the figures before and after are of all attacks."
        )
    if document["difference"]["tested"] == 0:
        found.append(
            "All attacked samples took part in the refinement, so that none is left to tell "
            f"whether it gained anything: attack more than {document['data']['attacked']} of them."
        )
    medians = {site["name"]: site["median"] for site in document["sites"] if site["median"] > 0}
    if document["scale"] == "shared" and medians:
        small, large = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
        ratio = medians[large] / medians[small]
        if ratio > UNEVEN:
            found.append(
                f"The inputs of {large!r} are {ratio:,.0f} times as large as those of {small!r}: "
                "a shared jump that fits the one is nothing or too much for the other. The scale "
                "'quantile' gives each site its own."
            )
    return found


def summary(document: Mapping[str, Any]) -> Document:
    """Return what the hardened file itself tells of its calibration."""
    return {
        "data_sha256": document["data"]["sha256"],
        **{key: document[key] for key in ("scale", "strength", "objective", "norm", "eps")},
        **document["budget"],
        "refined": document["refinement"] is not None,
        "improves": document["improves"],
        "samples": document["data"]["n"],
        "attacked": document["data"]["attacked"],
        "accuracy": document["after"]["clean"]["accuracy"],
        "accuracy_before": document["before"]["clean"]["accuracy"],
        "robust_accuracy": document["after"]["robust_accuracy"],
        "robust_accuracy_before": document["before"]["robust_accuracy"],
    }


def _side(clean: Mask, robust: Mask) -> Document:
    return {"clean": _accuracy(clean), **robust_share(int(robust.sum()), len(robust))}


def _accuracy(right: Mask) -> Document:
    return accuracy_share(int(right.sum()), len(right))


def _point(point: Point, before: Point, budget: Budget) -> Document:
    limit = budget.limit(before.clean, point.clean)
    return {
        "strength": point.strength,
        "clean": _accuracy(point.clean),
        "drop_limit": limit,
        "inside": limit <= budget.max_drop,
        "common": {
            "attacked": len(point.worst),
            "worst": robust_share(int(point.worst.sum()), len(point.worst)),
            "native": robust_share(int(point.native.sum()), len(point.native)),
        },
        "attacked": len(point.robust),
        "robust": robust_share(int(point.robust.sum()), len(point.robust)),
        "difference": _paired(point.robust, before.robust[: len(point.robust)]),
    }


def _difference(findings: Findings, budget: Budget) -> Document:
    """Compare the network before hardening with the chosen one, on the same samples."""
    before, after = findings.curve[0].clean, findings.clean
    weak, strong = findings.worst
    tested = findings.tested
    only_after, only_before = only(strong[tested], weak[tested])
    robust, clean = _paired(strong, weak), _paired(after, before)
    return {
        "robust_accuracy": robust["difference"],
        "ci95": robust["ci95"],
        "tested": len(weak[tested]),
        "only_after": only_after,
        "only_before": only_before,
        "p_value": mcnemar(only_after, only_before),
        "candidates": findings.candidates,
        "clean_accuracy": clean["difference"],
        "clean_ci95": clean["ci95"],
        "drop_limit": budget.limit(before, after),
    }


def _paired(after: Mask, before: Mask) -> Document:
    """Return a paired difference with its 95 % interval."""
    n, (more, fewer) = len(after), only(after, before)
    return {
        "difference": (more - fewer) / n,
        "ci95": list(paired_difference(more, fewer, n)),
        "n": n,
    }


def _improves(difference: Document) -> bool:
    """Say whether the jump buys robustness beyond noise.

    The best of several candidates looks better than it is, so that the test must hold for all of
    them (Bonferroni), on samples that none of them was made by.
    """
    p_value = difference["p_value"] * difference["candidates"]
    gained = difference["only_after"] > difference["only_before"]
    return bool(difference["ci95"][0] > 0 and gained and p_value < SIGNIFICANCE)


def _headline(document: Document) -> str:
    """Say of the jump that was found what it buys; of others nothing is known for certain."""
    difference, native = document["difference"], document["objective"] == "paper"
    low, high = difference["ci95"]
    n = document["data"]["attacked"]
    before, after = (document[side]["robust_accuracy"] for side in ("before", "after"))
    figures = (
        f"{percent(after)} of {n} samples stay right in the worst case, against "
        f"{percent(before)} before: {_points(difference['robust_accuracy'])} points (95 % "
        f"interval {_points(low)} to {_points(high)}, not corrected for the search); clean "
        f"accuracy changes by {_points(difference['clean_accuracy'])} points."
    )
    where = f"at {reach(document)}"
    if document["improves"]:
        return f"The model is more robust {where}: {figures}"
    found = "The jump that native gradients prefer" if native else "The best jump found"
    if high < 0 and difference["p_value"] < SIGNIFICANCE:
        return f"{found} makes the model less robust {where}: {figures}"
    return f"{found} does not make the model more robust beyond noise {where}: {figures}"


def _points(difference: float) -> str:
    return f"{np.round(100 * difference, 1) + 0.0:+.1f}".replace("-", "−")
