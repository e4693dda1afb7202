"""The course of a training: epochs, checks on the validation data, and the best weights so far."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from onnxfit.data import Dataset
from onnxfit.finetuning.settings import Settings
from onnxfit.finetuning.trainer import Trainer
from onnxfit.finetuning.validation import Validator, Worth
from onnxfit.verification.target import Target

# What was measured at a check.
Record = dict[str, Any]

# About how often the validation data is attacked on the way, at most once an epoch.
CHECKS = 20
# The part of the loss that the methods give up: at most, and after a check with more than half of
# the budget spent so much more, after another so much less.
MOST_CLEAN, MORE_CLEAN, LESS_CLEAN = 0.5, 0.1, 0.05
# Of a difference of two shares.
_ROUNDING = 1e-12


class Best(NamedTuple):
    """The best weights of the checks inside the budget, by name, and what they are worth.

    Statistics that follow the data are among them. The most robust weights are worth ``peak``.
    """

    weights: dict[str, torch.Tensor]
    worth: Worth
    peak: Worth


class Course:
    """The course of a training.

    Args:
        given: The model as it was given, which the budget is counted from.
        target: The same with the jumps that it gets; its twin is trained.
        train: The training samples.
        validation: Others, which say which weights are kept.
        settings: How.
        augment: What is made of the samples.

    Attributes:
        before: What the model is worth as it was given.
        start: What it is worth with its jumps, before the training.
        trainer: Does the epochs.
        records: What was measured at each check.
        best: What is kept; None before a check is inside the budget.
    """

    def __init__(
        self,
        given: Target,
        target: Target,
        train: Dataset,
        validation: Dataset,
        settings: Settings,
        augment: Sequence[str],
    ) -> None:
        self._settings, self._model = settings, target.twin
        rows = validation.spread_rows(settings.validation_limit)
        x, y = _tensors(validation, target.device)
        self._validator = Validator(x, y, rows, settings, validation.bounds)
        self.before = self._validator.measure(given.twin)
        self.start = self.before if given is target else self._validator.measure(target.twin)
        x, y = _tensors(train, target.device)
        self.trainer = Trainer(target.twin, x, y, settings, train.bounds, augment)
        self.records: list[Record] = []
        self.best: Best | None = None
        self._loss, self._since = 0.0, 0

    @property
    def words(self) -> str:
        """What is done, for a progress bar."""
        words = f"epoch {self.trainer.epoch + 1} of {self._settings.epochs}"
        if self.best is not None:
            words += f", robust {self.best.worth.robust.mean():.1%}"
        return words

    @property
    def is_due(self) -> bool:
        """Whether the validation data is to be attacked now."""
        every = max(1, round(self._settings.epochs / CHECKS))
        epoch = self.trainer.epoch
        return epoch % every == 0 or epoch == self._settings.epochs

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or there was no progress for as many checks as allowed."""
        return self.is_stuck or self.trainer.epoch >= self._settings.epochs

    @property
    def is_stuck(self) -> bool:
        """Whether there was no progress for as many checks as the settings allow."""
        return self._settings.patience is not None and self._since >= self._settings.patience

    def run_epoch(self, advance: Callable[[int], object]) -> None:
        """Train on all samples once."""
        self._loss = self.trainer.run_epoch(advance)

    def check(self) -> None:
        """Measure the averaged weights, and keep them if they are the best within the budget.

        While more than half of the budget is spent, the samples themselves get a larger part of the
        loss: what is just inside on these samples may be outside on others.
        """
        trainer = self.trainer
        with trainer.averaged():
            worth = self._validator.measure(self._model)
            drop = self.before.drop_to(worth)
            budget = self._settings.max_drop
            inside, well_inside = (drop <= most + _ROUNDING for most in (budget, budget / 2))
            self._since += 1
            if inside and trainer.is_finite and worth.is_finite:
                self._compare(worth)
        self.records.append(
            {
                "epoch": trainer.epoch,
                "loss": self._loss,
                "clean": float(worth.clean.mean()),
                "robust": float(worth.robust.mean()),
                "inside": inside,
                "clean_share": trainer.clean_share,
            }
        )
        share = trainer.clean_share + (-LESS_CLEAN if well_inside else MORE_CLEAN)
        trainer.clean_share = min(max(share, 0.0), MOST_CLEAN)

    def _compare(self, worth: Worth) -> None:
        """Keep the weights of the module if they are better than the best so far."""
        best = self.best
        rises = best is None or worth.robust.sum() > best.peak.robust.sum()
        peak = worth if best is None or rises else best.peak
        better = best is None or worth.is_better_than(best.worth, peak)
        if best is None or better:
            weights = {name: w.detach().clone() for name, w in self.trainer.kept.items()}
            self.best = Best(weights, worth, peak)
        else:
            self.best = best._replace(peak=peak)
        if better or rises:
            self._since = 0

    def load(self, best: Best) -> None:
        """Give the module the best weights."""
        for name, value in self.trainer.kept.items():
            value.data = best.weights[name]

    def state(self) -> dict[str, Any]:
        """Return what :meth:`resume` goes on from."""
        best: dict[str, Any] | None = None
        if self.best is not None:
            worths = (self.best.worth, self.best.peak)
            masks = [torch.from_numpy(m) for worth in worths for m in (worth.clean, worth.robust)]
            best = {"weights": self.best.weights, "masks": masks}
        return {
            "trainer": self.trainer.state(),
            "records": copy.deepcopy(self.records),
            "best": best,
            "since": self._since,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.trainer.resume(state["trainer"])
        self.records, self._since = state["records"], state["since"]
        if (best := state["best"]) is not None:
            masks = [mask.numpy() for mask in best["masks"]]
            self.best = Best(best["weights"], Worth(*masks[:2]), Worth(*masks[2:]))


def _tensors(data: Dataset, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Read all samples into memory."""
    x = torch.from_numpy(np.concatenate([part.x for part in data.batches(1024)]))
    return x.to(device), torch.from_numpy(data.labels.copy()).to(device)
