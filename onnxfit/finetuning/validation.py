"""What a network is worth on the validation data: clean accuracy, and what attacks leave."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.apgd import APGD
from onnxfit.attacks.losses import Loss
from onnxfit.attacks.search import Search
from onnxfit.attacks.surrogates import TAUS
from onnxfit.finetuning.settings import Settings
from onnxfit.twin.jump_relu import has_jumps
from onnxfit.verification.records import only
from onnxfit.verification.statistics import SIGNIFICANCE, mcnemar

Mask = NDArray[np.bool_]

# Of each attack. After so many the robust accuracy of a trained network hardly falls.
STEPS = 20
LOSSES: tuple[Loss, ...] = ("ce", "margin")


@dataclass(frozen=True)
class Worth:
    """What a network is worth.

    Attributes:
        clean: Which of all validation samples it classifies rightly.
        robust: Which of the attacked ones stay right.
        is_finite: Whether its logits are numbers.
    """

    clean: Mask
    robust: Mask
    is_finite: bool = True

    def is_less_robust_than(self, other: "Worth") -> bool:
        """Whether fewer samples stay right than of another network, beyond noise (McNemar)."""
        gained, lost = only(self.robust, other.robust)
        return gained < lost and mcnemar(gained, lost) < SIGNIFICANCE

    def is_better_than(self, other: "Worth", most_robust: "Worth") -> bool:
        """Whether these weights are to be kept rather than others, all on the same samples.

        First those that are not less robust than the most robust ones, beyond noise; then those of
        higher clean accuracy; then the more robust.

        Args:
            other: What the others are worth.
            most_robust: What the most robust weights so far are worth, which may be either.
        """
        return self._rank(most_robust) > other._rank(most_robust)

    def _rank(self, most_robust: "Worth") -> tuple[bool, int, int]:
        as_robust = not self.is_less_robust_than(most_robust)
        return as_robust, int(self.clean.sum()), int(self.robust.sum())

    def drop_to(self, other: "Worth") -> float:
        """Return how much clean accuracy is lost from here to another network."""
        return float(self.clean.mean() - other.clean.mean())


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
        logits = self._logits(model, self._x)
        clean = ~Search.wrong(logits, self._y)
        robust = clean[self._rows]
        y = self._y[self._rows]
        for attack in self._attacks(model):
            left = robust.nonzero().squeeze(1)
            if not len(left):
                break
            for part in left.split(self._settings.batch_size):
                points = attack(model, self._x[self._rows[part]], y[part])
                robust[part] = ~Search.wrong(self._logits(model, points), y[part])
        return Worth(clean.cpu().numpy(), robust.cpu().numpy(), bool(logits.isfinite().all()))

    def _attacks(self, model: torch.nn.Module) -> Iterator[APGD]:
        """Yield the attacks: two losses, and where there are jumps as many smooth gates."""
        slopes = [("true", 1.0)]
        if has_jumps(model):
            slopes += [("smooth", tau) for tau in TAUS[:2]]
        for backward, tau in slopes:
            for loss in LOSSES:
                yield APGD(
                    loss=loss,
                    eps=self._settings.radius,
                    norm=self._settings.norm,
                    bounds=self._bounds,
                    steps=STEPS,
                    seed=self._settings.seed,
                    backward=backward,
                    tau=tau,
                )

    def _logits(self, model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        size = self._settings.batch_size
        with torch.no_grad():
            return torch.cat([model(part) for part in x.split(size)])
