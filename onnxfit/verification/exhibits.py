"""Some samples to look at: what the attacks made of them, and what each model said."""

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.losses import of_label
from onnxfit.data import Dataset
from onnxfit.report.html import Exhibit, Outcome
from onnxfit.twin.gradients import gradient_of
from onnxfit.verification.campaign import Campaign, Found, Side
from onnxfit.verification.target import Target

COUNT = 8


class Gallery:
    """Collects samples to show: first those that were right before the attack and broke.

    Args:
        targets: The models.
        data: The samples.
    """

    def __init__(self, targets: dict[Side, Target], data: Dataset) -> None:
        self._targets = targets
        self._drawable = len(data.shape) == 3 and data.shape[0] in (1, 3)
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
        """Return what was collected, in the order of the data."""
        chosen = [*self._broken, *self._others][:COUNT]
        return sorted(chosen, key=lambda exhibit: exhibit.index)

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
        saliency = _saliency(target, x, int(found.y[at]))
        number = int(campaign.scores[side].finder[found.start + at])
        if number < 0:
            return Outcome(clean=clean, saliency=saliency)
        stage = campaign.stages[number]
        return Outcome(
            clean=clean,
            adversarial=point[0],
            prediction=int(target.predictions(torch.from_numpy(point))[0]),
            attack=stage.name,
            backward=stage.backward,
            saliency=saliency,
        )


def _saliency(target: Target, x: NDArray[np.float32], label: int) -> NDArray[np.float32] | None:
    """Return the gradient of the label's logit, or None where there is none."""
    if not target.passes_gradients(torch.from_numpy(x)):
        return None
    leaf = torch.from_numpy(x).to(target.device).requires_grad_()
    labels = torch.tensor([label], device=target.device)
    gradient = gradient_of(of_label(target.twin(leaf), labels).sum(), leaf)
    array: NDArray[np.float32] = gradient[0].float().cpu().numpy()
    return array
