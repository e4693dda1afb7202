"""A model that a transfer starts from: how it is given the samples, and how well it knows them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.data import Dataset
from onnxfit.errors import ModelError
from onnxfit.image_layout import channel_axis, other_layout
from onnxfit.twin.image_layout import Turned
from onnxfit.verification.progress import Begin, silent
from onnxfit.verification.records import accuracy_share
from onnxfit.verification.result import Document
from onnxfit.verification.statistics import lower_limit
from onnxfit.verification.target import Target

# Samples that say what a source is worth, spread evenly.
MOST = 1000

TURNED = "The source {} takes images with their channels {}: it is given the samples turned."
NO_BETTER = (
    "The source {} is right for {} of {} samples, which is not significantly better than chance: "
    "that points made on it fool few says nothing."
)
NATIVE = "Of the source {}, which is hardened, the native gradient alone was used."
UNFOLLOWED = "Surrogate networks of the source {} ({}) were not followed."


class Source:
    """A model whose gradients make points that are tried on another one.

    The samples are those of the other model. Where this one takes the same images with their
    channels on the other side, it is given them turned.

    Args:
        model: The path of the model.
        data: The samples.
        classes: How many classes the other model tells apart.
        mean: Subtracted from samples before this model, for all channels or each.
        std: Divides after that.
        device: Where its twin computes.

    Attributes:
        target: The model.
        turned: Whether samples are turned for it.
        module: From samples, N×… in the data's units, to logits, N×C; with gradients.
        rows: The numbers of the samples that it is scored on, at most 1,000.
        correct: How many of these ``module`` classifies correctly; 0 before :meth:`score`.

    Raises:
        DataError: It takes other samples.
        ModelError: As :class:`Target`; or it gives logits of another number of classes.
        ValueError: ``mean`` or ``std`` are neither one number nor as many as the channels.
    """

    def __init__(
        self,
        model: Path,
        data: Dataset,
        classes: int,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        device: str | torch.device = "cpu",
    ) -> None:
        self.target = Target(model, mean=mean, std=std, device=device)
        self._data, self._classes = data, classes
        classifier, self.module = self.target.classifier, self.target.twin
        other = other_layout(data.shape)
        self.turned = (
            not classifier.fits(data.shape) and other is not None and classifier.fits(other)
        )
        # Whether it wants the channels last.
        self._last = channel_axis(data.shape) == 0
        if self.turned:
            self.module = Turned(self.module, last=self._last)
        else:
            classifier.check(data.shape, f"source {model}")
        found = self._logits(next(data.batches(1)).x).shape[1]
        if found != classes:
            raise ModelError(f"{model} tells {found} classes apart, the model {classes}")
        self.rows, self.correct = data.spread_rows(MOST), 0

    def score(self, batch_size: int, begin: Begin = silent) -> None:
        """Count the samples that it classifies correctly.

        Args:
            batch_size: Samples that are read at a time.
            begin: Shows how far it is.
        """
        self.correct = 0
        with begin(len(self.rows), "clean accuracy of a source") as advance:
            for x, y in self._data.some(self.rows, batch_size):
                if len(x):
                    self.correct += int((self._logits(x).argmax(1).cpu().numpy() == y).sum())
                    advance(len(x))

    def _logits(self, x: NDArray[np.float32]) -> torch.Tensor:
        """Return the logits of samples."""
        with torch.no_grad():
            logits: torch.Tensor = self.module(torch.from_numpy(x).to(self.target.device))
        return logits

    @property
    def better_than_chance(self) -> bool:
        """Whether it is right for significantly more samples than chance would have it.

        By the exact limit (95 %, one-sided). Chance is 1/C, or always the same answer, the best
        one, where there are samples of several classes.
        """
        n = len(self.rows)
        shares = np.bincount(self._data.labels[self.rows]) / n
        chance = max([1 / self._classes, *shares[shares < 1]])
        return bool(lower_limit(self.correct, n) > chance)

    def warnings(self, *, native: bool) -> Iterator[str]:
        """Yield what a reader should know, in sentences.

        Args:
            native: Whether points were made with its native gradient alone.
        """
        path, n = self.target.path, len(self.rows)
        if self.turned:
            yield TURNED.format(path, "last" if self._last else "first")
        if not self.better_than_chance:
            yield NO_BETTER.format(path, self.correct, n)
        if native and self.target.is_hardened:
            yield NATIVE.format(path)
        if self.target.networks:
            yield UNFOLLOWED.format(path, ", ".join(self.target.networks))

    def record(self) -> Document:
        """Return what reports say of it."""
        return {
            **self.target.record(),
            "mean": list(self.target.mean),
            "std": list(self.target.std),
            "turned": self.turned,
            "hardened": self.target.is_hardened,
            "n": len(self.rows),
            "clean": accuracy_share(self.correct, len(self.rows)),
            "better_than_chance": self.better_than_chance,
        }
