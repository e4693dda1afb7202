"""What a network is worth on the validation data: clean accuracy, and what attacks leave."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.apgd import APGD
from onnxfit.attacks.surrogates import TAUS
from onnxfit.finetuning.settings import Settings
from onnxfit.twin.jump_relu import jump_relus

Mask = NDArray[np.bool_]

# Of each attack. After so many the robust accuracy of a trained network hardly falls.
STEPS = 20


@dataclass(frozen=True)
class Worth:
    """What a network is worth.

    Attributes:
        clean: Which of all validation samples it classifies rightly.
        robust: Which of the attacked ones stay right.
    """

    clean: Mask
    robust: Mask

    @property
    def value(self) -> float:
        """What is compared: the sum of robust and clean accuracy.

        Robust accuracies differ by less than their noise at the end of a training, and then it is
        the clean one that decides.
        """
        return float(self.robust.mean() + self.clean.mean())


class Validator:
    """Measures networks on the same samples with the same attacks.

    Args:
        x: Validation samples, N×….
        y: Their classes.
        rows: The numbers of those that are attacked.
        settings: The radius, the norm, the size of a batch.
        bounds: Of the samples.
    """

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        rows: NDArray[np.int64],
        settings: Settings,
        bounds: tuple[float, float],
    ) -> None:
        self._x, self._y, self._settings, self._bounds = x, y, settings, bounds
        self._rows = torch.from_numpy(rows).to(x.device)

    def measure(self, model: torch.nn.Module) -> Worth:
        """Measure a module, with gradients that see across its jumps."""
        clean = self._right(model, self._x, self._y)
        robust = clean[self._rows]
        y = self._y[self._rows]
        for backward, tau in self._slopes(model):
            left = robust.nonzero().squeeze(1)
            if not len(left):
                break
            attack = APGD(
                eps=self._settings.radius,
                norm=self._settings.norm,
                bounds=self._bounds,
                steps=STEPS,
                seed=self._settings.seed,
                backward=backward,
                tau=tau,
            )
            for part in left.split(self._settings.batch_size):
                points = attack(model, self._x[self._rows[part]], y[part])
                robust[part] = self._right(model, points, y[part])
        return Worth(clean.cpu().numpy(), robust.cpu().numpy())

    @staticmethod
    def _slopes(model: torch.nn.Module) -> list[tuple[str, float]]:
        """Return the backward passes to attack with."""
        jumps = [site.jump for site in jump_relus(model)]
        if all(jump is not None and not jump.any() for jump in jumps):
            return [("true", 1.0)]
        return [("true", 1.0), *(("smooth", tau) for tau in TAUS[:2])]

    def _right(self, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        size = self._settings.batch_size
        with torch.no_grad():
            parts = [
                model(part).argmax(1) == labels
                for part, labels in zip(x.split(size), y.split(size), strict=True)
            ]
        return torch.cat(parts)
