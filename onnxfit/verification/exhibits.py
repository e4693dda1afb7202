"""Some samples to look at: what the attacks made of them, and what each model said."""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.data import Dataset
from onnxfit.image_layout import is_picture
from onnxfit.report.html import Exhibit, Outcome
from onnxfit.verification.campaign import Campaign, Found, Side
from onnxfit.verification.saliency import maps_of
from onnxfit.verification.target import Target

COUNT = 8


class Gallery:
    """Collects samples to show: first those that were right before the attack and broke.

    Args:
        targets: The models.
        data: The samples.
        batch_size: Samples computed at a time.

    Attributes:
        universal: One perturbation for all samples, of each side that has one.
    """

    def __init__(self, targets: dict[Side, Target], data: Dataset, batch_size: int = 64) -> None:
        self._targets, self._batch_size = targets, batch_size
        self._drawable = is_picture(data.shape)
        self.universal: dict[Side, NDArray[np.float32]] = {}
        self._broken: list[Exhibit] = []
        self._others: list[Exhibit] = []

    def look_at(self, found: Found, campaign: Campaign) -> None:
        """Take from a shard what is worth showing, as long as there is room."""
        if not self._drawable:
            return
        rows = np.arange(found.start, found.start + len(found.x))
        broken = campaign.scores["model"].finder[rows] >= 0
        for chosen, shown in ((broken, self._broken), (~broken, self._others)):
            for at in np.flatnonzero(chosen)[: COUNT - len(shown)]:
                shown.append(self._exhibit(found, int(at), campaign))

    def exhibits(self) -> list[Exhibit]:
        """Return what was collected, in the order of the data, with maps of what matters in it."""
        chosen = [*self._broken, *self._others][:COUNT]
        chosen.sort(key=lambda exhibit: exhibit.index)
        return [self._with_maps(exhibit) for exhibit in chosen]

    def _exhibit(self, found: Found, at: int, campaign: Campaign) -> Exhibit:
        outcomes = {
            side: self._outcome(target, side, found, at, campaign)
            for side, target in self._targets.items()
        }
        return Exhibit(
            index=found.start + at,
            label=int(found.y[at]),
            x=found.x[at],
            model=outcomes["model"],
            baseline=outcomes.get("baseline"),
        )

    def _outcome(
        self, target: Target, side: Side, found: Found, at: int, campaign: Campaign
    ) -> Outcome:
        x, point = found.x[at : at + 1], found.points[side][at : at + 1]
        clean = int(target.predictions(torch.from_numpy(x))[0])
        number = int(campaign.scores[side].finder[found.start + at])
        if number < 0:
            return Outcome(clean=clean)
        stage = campaign.stages[number]
        return Outcome(
            clean=clean,
            adversarial=point[0],
            prediction=int(target.predictions(torch.from_numpy(point))[0]),
            attack=stage.name,
            backward=stage.backward,
        )

    def _with_maps(self, exhibit: Exhibit) -> Exhibit:
        """Add the maps of a sample, and of its adversarial inputs."""
        outcomes = {}
        for side, target in self._targets.items():
            outcome = getattr(exhibit, side)
            points = [x for x in (exhibit.x, outcome.adversarial) if x is not None]
            labels = np.full(len(points), exhibit.label, np.int64)
            maps = maps_of(target, np.stack(points), labels, self._batch_size)
            outcomes[side] = dataclasses.replace(
                outcome, saliency=[maps.of(row) for row in range(len(points))]
            )
        return dataclasses.replace(exhibit, **outcomes)
