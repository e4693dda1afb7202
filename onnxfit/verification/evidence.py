"""The diagnostics of a verification: what is measured for them, and on which samples."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch

from onnxfit.attacks.deepfool import DeepFool
from onnxfit.data import Dataset
from onnxfit.verification import diagnostics, probes
from onnxfit.verification.campaign import Campaign, Side
from onnxfit.verification.diagnostics import Diagnostic
from onnxfit.verification.probes import Repeats
from onnxfit.verification.result import Document
from onnxfit.verification.settings import Settings
from onnxfit.verification.suites import FEW_STEPS, MANY_STEPS
from onnxfit.verification.target import Target

# Samples that probes look at, and those that slower ones do.
PROBED = 200
FEW = 50
# Of a logit: what a sample's batch may change by rounding and the choice of algorithms.
BATCH_EFFECT = 1e-3
DEPENDS_ON_BATCH = (
    "What the {} says of a sample depends on the others of its batch: alone, a logit differs by "
    "{:.2g} of the largest one. Attacks move the samples of a batch together, {} at a time, and "
    "what they find holds for such batches; with a batch size of 1 every sample stands alone."
)


class Evidence:
    """What the diagnostics of a model rest on.

    Args:
        targets: The model and, where that is another one, its baseline.
        data: The samples.
        settings: How the model is attacked.

    Attributes:
        campaign: The attacks, once they are done; None in the paper's protocol.
    """

    def __init__(self, targets: dict[Side, Target], data: Dataset, settings: Settings) -> None:
        self._targets, self._settings, self._bounds = targets, settings, data.bounds
        self._n = data.n
        some = data.spread(PROBED)
        self._x, self._y = torch.from_numpy(some.x), torch.from_numpy(some.y)
        self.campaign: Campaign | None = None

    @cached_property
    def repeats(self) -> Repeats:
        """How far two runs on the same samples differ, of the model or of its baseline."""
        size = self._settings.batch_size
        found = [
            probes.repeats(target, self._x, batch_size=size) for target in self._targets.values()
        ]
        return max(found, key=lambda repeats: max(repeats.file, repeats.twin))

    @property
    def is_repeatable(self) -> bool:
        """Whether the model computes the same twice."""
        return max(self.repeats.file, self.repeats.twin) <= self.repeats.tolerance

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each model that does not treat samples one by one."""
        if not self.is_repeatable:
            return
        size = self._settings.batch_size
        for side, target in self._targets.items():
            effect = probes.batch_effect(target, self._x, batch_size=max(size, 2))
            if effect > BATCH_EFFECT:
                yield DEPENDS_ON_BATCH.format(side, effect, size)

    def diagnose(self, document: Document) -> Iterator[Diagnostic]:
        """Yield what each check says.

        Args:
            document: ``result.json`` as far as it is known.
        """
        if self.campaign is not None:
            yield from self._of_attacks(self.campaign)
            yield self._large_eps(self.campaign)
        model, size = self._targets["model"], self._settings.batch_size
        zero = probes.zero_gradients(model, self._x, self._y, batch_size=size)
        yield diagnostics.zero_gradients(zero.n, zero.found)
        again = self.repeats
        yield diagnostics.repeatable(again.file, again.twin, again.tolerance)
        saturated = probes.saturated_logits(model, self._x, self._y, batch_size=size)
        yield diagnostics.saturated_logits(saturated.n, saturated.found)
        if "baseline" in self._targets:
            yield self._deepfool(document)

    def _of_attacks(self, campaign: Campaign) -> Iterator[Diagnostic]:
        score = campaign.scores["model"]
        native = int(score.robust("native").sum())
        white_box = int(score.robust("native", "surrogate").sum())
        everything = int(score.robust().sum())
        yield diagnostics.gradient_free(self._n, white_box, everything)
        tallies = zip(score.stages, score.tallies, strict=True)
        if not all(tally.ran for stage, tally in tallies if stage.family == "native"):
            return
        names = {stage.name: at for at, stage in reversed(list(enumerate(score.stages)))}
        one = score.tallies[names[FEW_STEPS]]
        many = score.tallies[next(names[name] for name in MANY_STEPS if name in names)]
        correct = score.correct
        yield diagnostics.many_steps(one.deployed[correct], many.deployed[correct])
        by_network = score.broken_through()
        yield diagnostics.native_gradients(self._n, native, white_box, everything, by_network)

    def _large_eps(self, campaign: Campaign) -> Diagnostic:
        norm, bounds = self._settings.norm, self._bounds
        how = {
            "batch_size": self._settings.batch_size,
            "seed": self._settings.seed,
            "scales": campaign.scales,
        }
        count = probes.survivors_of_large_eps(
            self._targets["model"],
            self._x,
            self._y,
            norm=norm,
            bounds=bounds,
            limit=FEW,
            settings=how,
        )
        eps = probes.whole_range(self._x, norm, bounds)
        return diagnostics.large_eps(count.n, count.found, eps)

    def _deepfool(self, document: Document) -> Diagnostic:
        """Compare DeepFool's distances and the success of iterated signs on both models."""
        medians = {side: self._median_distance(target) for side, target in self._targets.items()}
        baseline = document["baseline"]
        return diagnostics.deepfool_distance(
            medians["baseline"],
            medians["model"],
            _success(baseline),
            _success(document),
        )

    def _median_distance(self, target: Target) -> float:
        """Return the median of DeepFool's distances, l2, infinite where it finds nothing."""
        step = -(-len(self._x) // FEW)
        x, y = self._x[::step], self._y[::step]
        right = torch.from_numpy(target.predictions(x)) == y
        x, y = x[right], y[right]
        if not len(x) or not target.passes_gradients(x):
            return float("nan")
        points = DeepFool(norm="l2", bounds=self._bounds)(target.twin, x, y)
        distances = (points.double() - x.double()).flatten(1).norm(dim=1).numpy()
        return float(np.median(np.where(distances > 0, distances, np.inf)))


def _success(side: Document) -> float:
    """Return the share of samples that the iterated signs of the native gradient broke."""
    names = (*MANY_STEPS, "ifgsm")
    record = next(record for record in side["attacks"] if record["name"] in names)
    return float(record["deployed_success"] / max(record["attacked"], 1))
