"""What every attack does: check what it is given, attack, and judge what came out."""

import contextlib
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit import checks
from onnxfit.attacks.ball import NORMS, Bounds, Norm
from onnxfit.attacks.layout import evaluated, weights_laid_out
from onnxfit.attacks.search import Search
from onnxfit.errors import DataError
from onnxfit.twin.gradients import device_of
from onnxfit.twin.jump_relu import BACKWARDS
from onnxfit.twin.precision import full_precision

Samples = TypeVar("Samples", bound=torch.Tensor | NDArray[Any])


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Settings of an attack; a call attacks samples.

    Attributes:
        norm: What measures a perturbation: ``linf``, the largest change of a value, or ``l2``, its
            Euclidean length.
        bounds: Smallest and largest value of a sample.
        seed: Of everything random in a call.
        quantize: Look only at points that 8 bits can hold between the bounds.
        norms: Which norms the attack knows.
        is_minimal: Whether it looks for the smallest perturbation, not for one within a budget.
    """

    norm: Norm = "linf"
    bounds: Bounds = (0.0, 1.0)
    seed: int = 0
    quantize: bool = False

    norms: ClassVar[tuple[Norm, ...]] = NORMS
    is_minimal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: One is out of its range.
        """
        checks.one_of("norm", self.norm, self.norms)
        checks.bounds(self.bounds)
        checks.seed(self.seed)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return dataclasses.asdict(self)

    @property
    def radius(self) -> float:
        """How far the attack may go; infinite if as far as it needs to."""
        return math.inf

    @property
    def slope(self) -> tuple[str, float]:
        """The slope of a JumpReLU in the backward pass, and the width of its smooth gate."""
        return "true", 1.0

    @property
    def passes(self) -> int:
        """How many passes a gradient is averaged over."""
        return 1

    def __call__(
        self,
        model: torch.nn.Module,
        inputs: Samples,
        labels: torch.Tensor | NDArray[Any],
        *,
        scales: Mapping[str, float] | None = None,
        advance: Callable[[int], object] = lambda count: None,
        judge: torch.nn.Module | None = None,
    ) -> Samples:
        """Attack samples.

        The module is in evaluation mode for the length of the call. What comes out depends on the
        seed, on nothing random outside; a module with randomness of its own aside.

        Args:
            model: Returns logits, N×C with at least two classes.
            inputs: Samples within the bounds, N×…; float32 or float64. Other types are refused:
                a point inside need not be inside any more when it is rounded to float16.
            labels: Their classes, N integers.
            scales: The width of each JumpReLU, by site, that the smooth gate's ``tau`` is a share
                of; by default measured on the inputs, see :func:`onnxfit.attacks.scales_of`.
            advance: Is called with a number of samples as soon as they are done with, N in all; by
                attacks that look for the smallest perturbation, with the same share of the samples
                as of their steps.
            judge: The module that a point must fool, on the same device, where ``model`` is but
                another whose logits and gradients are followed.

        Returns:
            For each sample a point within the bounds and the attack's reach, of the kind that the
            samples were: misclassified where the attack found one, the sample itself where it is
            misclassified already, else the best that the attack came to.

        Raises:
            DataError: The samples or labels are not what they should be.
            ModelError: The module does not return logits, or no gradient reaches its input.
        """
        x, y = checked(inputs, labels, self.bounds)
        device = device_of(model)
        with contextlib.ExitStack() as stack:
            stack.enter_context(full_precision())
            for module in dict.fromkeys((model, model if judge is None else judge)):
                stack.enter_context(evaluated(module))
                stack.enter_context(weights_laid_out(module, x))
            search = Search(self, model, x.to(device), y.to(device), scales, advance, judge)
            if len(x) and search.remaining.any():
                with search.slopes():
                    self._attack(search)
        search.finish()
        found: Any = search.best.contiguous()
        return found.to(inputs.device) if isinstance(inputs, torch.Tensor) else found.cpu().numpy()

    @abstractmethod
    def _attack(self, search: Search) -> None:
        """Look for adversarial points of the samples that remain, and record them."""


@dataclass(frozen=True, kw_only=True)
class BudgetAttack(Attack):
    """An attack that stays within ``eps`` of each sample and maximises a loss.

    Attributes:
        eps: Largest perturbation, in units of the bounds and the norm.
    """

    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("eps", self.eps, 0)

    @property
    def radius(self) -> float:
        """How far the attack may go."""
        return self.eps


@dataclass(frozen=True, kw_only=True)
class MinimalAttack(Attack):
    """An attack that looks for the smallest perturbation that changes the class.

    Attributes:
        eps: Only points within this count, in units of the bounds and the norm; None for all.
    """

    eps: float | None = None

    is_minimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is not None:
            checks.at_least("eps", self.eps, 0)

    @property
    def radius(self) -> float:
        """How far a point may be to count; infinite for any distance."""
        return math.inf if self.eps is None else self.eps


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack that follows gradients.

    Attributes:
        backward: Which slope a JumpReLU has in the backward pass: ``true``, ``relu``, ``smooth``
            or ``straight-through``; see :class:`onnxfit.twin.jump_relu.JumpReLU`. The forward pass
            is exact whatever it is. Modules without JumpReLU have their own gradient.
        tau: Width of the smooth gate, as a share of a site's scale: its jump or the standard
            deviation of its input, whichever is larger.
        eot: Average every gradient, and the logits, over so many passes, for a model with
            randomness inside (expectation over transformation, Athalye et al., 2018).
    """

    backward: str = "true"
    tau: float = 0.1
    eot: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("backward", self.backward, BACKWARDS)
        checks.above_0("tau", self.tau)
        checks.whole("eot", self.eot, 1)

    @property
    def slope(self) -> tuple[str, float]:
        """The slope of a JumpReLU in the backward pass, and the width of its smooth gate."""
        return self.backward, self.tau

    @property
    def passes(self) -> int:
        """How many passes a gradient is averaged over."""
        return self.eot


def checked(
    inputs: torch.Tensor | NDArray[Any], labels: torch.Tensor | NDArray[Any], bounds: Bounds
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples and labels as tensors.

    Raises:
        DataError: They are not samples within the bounds and one class each.
    """
    x, y = as_tensor(inputs), as_tensor(labels)
    if x.dtype not in (torch.float32, torch.float64) or x.dim() < 2:
        raise DataError(
            f"expected float32 or float64 samples N×…, got {x.dtype} of shape {tuple(x.shape)}"
        )
    if y.is_floating_point() or y.dtype == torch.bool or y.shape != x.shape[:1]:
        raise DataError(
            f"expected {len(x)} integer labels, got {y.dtype} of shape {tuple(y.shape)}"
        )
    low, high = (
        float(np.float32(bound)) if x.dtype == torch.float32 else bound for bound in bounds
    )
    outside = ~((x >= low) & (x <= high)).flatten(1).all(1)
    if outside.any():
        at = int(outside.nonzero()[0])
        values = x[at][~((x[at] >= low) & (x[at] <= high))]
        raise DataError(
            f"sample {at} has {values.numel()} values that are not within {low:g} and {high:g}, "
            f"such as {float(values[0]):g}"
        )
    y = y.long()
    if len(y) and int(y.min()) < 0:
        raise DataError(f"the label of sample {int(y.argmin())} is {int(y.min())}, not a class")
    return x, y


def as_tensor(values: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    """Return a tensor that no graph leads to, of an array of any byte order and strides."""
    if isinstance(values, torch.Tensor):
        return values.detach()
    array = np.asarray(values)
    array = np.require(array, array.dtype.newbyteorder("="), ["C_CONTIGUOUS", "WRITEABLE"])
    return torch.from_numpy(array)
