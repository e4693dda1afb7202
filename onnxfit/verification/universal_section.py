"""Universal perturbations in a verification: what they do to a model and to its baseline."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.universal import UniversalPerturbation
from onnxfit.data import Batch
from onnxfit.image_layout import channel_axis
from onnxfit.verification.campaign import Campaign, Side
from onnxfit.verification.headline import conclusion, percent, points, words
from onnxfit.verification.progress import Begin
from onnxfit.verification.records import paired
from onnxfit.verification.result import Document
from onnxfit.verification.settings import Settings
from onnxfit.verification.single_attack import with_surrogates
from onnxfit.verification.suites import Threat
from onnxfit.verification.universal import (
    KINDS,
    UNFOLLOWED,
    Candidate,
    Kind,
    Points,
    Verdicts,
    best,
    followed,
    halves,
    in_batches,
    judge,
    patterns,
)

# Samples that are used, spread evenly, and the fewest that are worth splitting.
MOST = 500
LEAST = 20
# In how many epochs SGD-UAP is made.
EPOCHS = 5

BEYOND = (
    "Of {n} samples {count} withstood the suite on the {side} but not a universal perturbation of "
    "the same size; the worst case does not count them."
)


@dataclass(frozen=True)
class Section:
    """What universal perturbations do.

    Attributes:
        document: The part ``universal`` of ``result.json``.
        warnings: What a reader of the worst case should know.
        deltas: The SGD-UAP of each model, of the shape of a sample.
    """

    document: Document
    warnings: list[str] = field(default_factory=list)
    deltas: dict[Side, Points] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """The perturbation of each kind that did most where it was made, and the verdicts elsewhere."""

    chosen: dict[Kind, Candidate]
    verdicts: Verdicts

    @property
    def records(self) -> dict[Kind, Document]:
        """What ``result.json`` holds of each kind."""
        return {
            kind: {**evasion.record, "backward": one.backward, "settings": one.settings}
            for (kind, one), evasion in zip(
                self.chosen.items(), self.verdicts.evasions(), strict=True
            )
        }

    @property
    def misclassified(self) -> NDArray[np.bool_] | None:
        """Which samples are misclassified with SGD-UAP, N; None where there is none."""
        # It is the first of all kinds.
        return self.verdicts.misclassified[0] if "uap" in self.chosen else None


def universal_section(
    campaign: Campaign, threat: Threat, settings: Settings, *, is_source: bool, begin: Begin
) -> Section:
    """Make universal perturbations of a model and its baseline, and measure them.

    At most 500 samples are used. On one half of them SGD-UAP is made with each backward pass, and
    chessboards and Perlin noise are chosen; on the other half the file judges what of each kind did
    most. Models are attacked alike, on the same samples.

    Args:
        campaign: The suite's attacks, done.
        threat: What the attacker may do.
        settings: How the model is attacked.
        is_source: Whether the model was made of the baseline.
        begin: As in :func:`onnxfit.verify`.
    """
    began = time.perf_counter()
    data = campaign.data
    if data.n < LEAST:
        reason = f"{data.n} samples are too few to be split in two: it takes {LEAST}"
        return Section({"reason": reason})
    rows = data.spread_rows(MOST)
    first, second = halves(data.labels[rows], settings.seed)
    samples = data.taken(rows, settings.batch_size)
    made, other = (Batch(samples.x[half], samples.y[half]) for half in (first, second))
    bench = _Bench(campaign, threat, settings, made, other)
    with begin(bench.work, "universal perturbations") as bench.advance:
        found = {side: bench.find(side) for side in campaign.targets}
    document: Document = {"reason": None, "made_on": len(first), "n": len(second)}
    warnings = []
    for side, one in found.items():
        left = campaign.scores[side].robust()[rows[second]]
        beyond = int((one.verdicts.fooled.any(axis=0) & left).sum())
        records = one.records
        if records.get("uap") and campaign.targets[side].networks:
            warnings.append(UNFOLLOWED.format(side))
        document[side] = {kind: records.get(kind) for kind in KINDS} | {"beyond_suite": beyond}
        if beyond:
            warnings.append(BEYOND.format(n=len(second), count=beyond, side=side))
    document["difference"] = _compared(found)
    name = f"{words(campaign.targets['model'].record())[1]} model" if is_source else "model"
    document["summary"] = _summary(document, name)
    document["seconds"] = time.perf_counter() - began
    deltas = {side: one.chosen["uap"].delta for side, one in found.items() if "uap" in one.chosen}
    return Section(document, warnings, deltas)


def _compared(found: Mapping[Side, _Found]) -> Document | None:
    """Return the paired difference of the shares that SGD-UAP makes the two models misclassify."""
    masks = [found[side].misclassified for side in ("model", "baseline") if side in found]
    if len(masks) < 2 or masks[0] is None or masks[1] is None:
        return None
    return paired("evasion_rate", masks[0], masks[1])


def _summary(document: Document, name: str) -> str:
    """Say what SGD-UAP does to a model of some name."""
    uap, difference = document["model"]["uap"], document["difference"]
    if uap is None:
        return "No gradient passes through the model, so that SGD-UAP could not be made."
    what = (
        f"With one perturbation for all, SGD-UAP made on {document['made_on']} other samples, the "
        f"{name} misclassifies {percent(uap['evasion_rate'])} of {document['n']}"
    )
    if difference is None:
        low, high = uap["evasion_rate_ci95"]
        return f"{what} (95 % interval {percent(low)} to {percent(high)})."
    rate, (low, high) = difference["evasion_rate"], difference["ci95"]
    what += (
        f", the baseline with its own {percent(document['baseline']['uap']['evasion_rate'])}: "
        f"{points(rate)} points (95 % interval {points(low)} to {points(high)})"
    )
    more, fewer = (f"the {name} misclassifies {word}" for word in ("more", "fewer"))
    return f"{what}; {conclusion(difference, more, fewer)}."


class _Bench:
    """Finds the perturbation of each kind that does most to a model.

    Attributes:
        advance: Is told of samples and points that are done; :attr:`work` in all.
    """

    def __init__(
        self, campaign: Campaign, threat: Threat, settings: Settings, made: Batch, other: Batch
    ) -> None:
        self._campaign, self._threat, self._size = campaign, threat, settings.batch_size
        self._made, self._other = made, other
        jumps = any(target.has_jumps for target in campaign.targets.values())
        attack = UniversalPerturbation(
            eps=threat.eps,
            norm=threat.norm,
            bounds=threat.bounds,
            seed=settings.seed,
            epochs=EPOCHS,
            batch_size=settings.batch_size,
        )
        self._attacks = with_surrogates(attack) if jumps else [attack]
        self._patterns: dict[Kind, list[Candidate]] = {}
        if channel_axis(campaign.data.shape) is not None:
            self._patterns = {
                kind: patterns(kind, campaign.data.shape, threat, settings.seed)
                for kind in KINDS
                if kind != "uap"
            }
        self.advance: Callable[[int], object] = lambda count: None

    @property
    def work(self) -> int:
        """How many samples and points :attr:`advance` will be told of."""
        tried = len(self._attacks) + sum(map(len, self._patterns.values()))
        steps = len(self._attacks) * EPOCHS
        measured = (1 + len(self._patterns)) * len(self._other.x)
        return len(self._campaign.targets) * ((steps + tried) * len(self._made.x) + measured)

    def find(self, side: Side) -> _Found:
        """Find what of each kind does most to a model, as far as it can be made."""
        target = self._campaign.targets[side]
        tried = dict(self._patterns)
        if target.passes_gradients(torch.from_numpy(self._made.x)):
            scales = self._campaign.scales
            made = followed(self._attacks, target, self._made, scales=scales, advance=self.advance)
            tried = {"uap": made, **tried}
        chosen = {}
        for kind, candidates in tried.items():
            chosen[kind] = candidates[best(self._judged(side, self._made, candidates))]
        return _Found(chosen, self._judged(side, self._other, list(chosen.values())))

    def _judged(self, side: Side, samples: Batch, tried: Sequence[Candidate]) -> Verdicts:
        """Let a file judge samples with perturbations."""
        batches = in_batches(samples, self._size)
        return judge(self._campaign.targets[side], batches, tried, self._threat, self.advance)
