"""What a term of the loss is, and what the terms of one step share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch.nn import functional

from onnxfit.attacks.ball import Norm
from onnxfit.data import Bounds


@dataclass(frozen=True, kw_only=True)
class Threat:
    """What the trained network is to withstand.

    Attributes:
        eps: Largest perturbation, in units of the bounds and the norm.
        norm: ``linf`` or ``l2``.
        bounds: Smallest and largest value of a sample.
        steps: Of the search for adversarial points in each step of the training.
    """

    eps: float
    norm: Norm = "linf"
    bounds: Bounds = (0.0, 1.0)
    steps: int = 7


@dataclass(eq=False, kw_only=True)
class Batch:
    """Samples of one step of the training, and what is computed of them once.

    Attributes:
        model: From samples, n×…, to logits, n×C, with gradients of its weights.
        x: Samples within the bounds, n×…; a leaf with gradients where a term asks for these.
        y: Their classes, n integers.
        threat: What the network is to withstand.
        generator: Of random numbers, on the CPU.
    """

    model: torch.nn.Module
    x: torch.Tensor
    y: torch.Tensor
    threat: Threat
    generator: torch.Generator

    @cached_property
    def logits(self) -> torch.Tensor:
        """Logits of the samples, n×C, with a graph; not to be first read where there is none."""
        logits: torch.Tensor = self.model(self.x)
        return logits

    @cached_property
    def cross_entropy(self) -> torch.Tensor:
        """The mean cross-entropy of the samples."""
        return functional.cross_entropy(self.logits, self.y)

    def normal(self, *shape: int) -> torch.Tensor:
        """Draw standard normal numbers, of the type and on the device of the samples."""
        return torch.randn(shape, generator=self.generator, dtype=self.x.dtype).to(self.x.device)


class Term(ABC):
    """A term of the loss: a number for a batch, which its weight multiplies.

    Attributes:
        name: For the command line.
        differentiates: Whether it computes gradients of the samples, which must be a leaf then.
        share: Whether its weight is the share of the cross-entropy that it takes the place of.
    """

    name: ClassVar[str]
    differentiates: ClassVar[bool] = False
    share: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, batch: Batch) -> torch.Tensor:
        """Compute the term, a scalar that is part of the graph of the weights."""
