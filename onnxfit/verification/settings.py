"""How a verification is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxfit import checks
from onnxfit.attacks.ball import NORMS
from onnxfit.verification.policy import SUITES
from onnxfit.verification.suites import Suite


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a verification is made.

    Attributes:
        suite: ``quick``, ``standard`` or ``paper``.
        eps: Largest perturbation in units of the bounds and the norm; in ``paper`` the step and
            radius in normalised units. None for 8/255, in ``paper`` 0.01.
        norm: ``linf`` or ``l2``.
        steps: Of the attacks that follow gradients; None for the suite's own number.
        quantize: Count only adversarial inputs that 8 bits hold.
        mean: Subtracted from samples before the model.
        std: Divides after that.
        seed: Of everything random.
        batch_size: Samples computed at a time.
        device: Where the twin computes: ``cpu`` or ``cuda``; on CUDA the file runs there too.
    """

    suite: Suite = "standard"
    eps: float | None = None
    norm: Any = "linf"
    steps: int | None = None
    quantize: bool = False
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    seed: int = 0
    batch_size: int = 64
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: One is out of its range.
        """
        checks.one_of("suite", self.suite, SUITES)
        checks.one_of("norm", self.norm, NORMS)
        if self.eps is not None:
            checks.above_0("eps", self.eps)
        if self.suite == "paper" and (self.quantize or self.norm != "linf"):
            raise ValueError("the suite paper has norms and units of its own: no norm, no quantize")
        if self.steps is not None:
            checks.whole("steps", self.steps, 1)
        checks.whole("batch_size", self.batch_size, 1)
        checks.seed(self.seed)
        checks.device(self.device)

    @property
    def radius(self) -> float:
        """The eps that is used."""
        if self.eps is not None:
            return self.eps
        return 0.01 if self.suite == "paper" else 8 / 255
