"""How a calibration is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from onnxfit import checks
from onnxfit.attacks.ball import NORMS
from onnxfit.calibration.scales import SCALES, Scale
from onnxfit.calibration.selection import Budget

Objective = Literal["worst-case", "paper"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a calibration is made.

    Attributes:
        max_drop: Largest drop of the clean accuracy, as a fraction of the samples.
        confidence: With which the drop must be no larger, one-sided and paired.
        scale: What one number says of the jumps of all sites: ``shared``, ``quantile`` or
            ``channel``.
        objective: ``worst-case``: what all gradients leave right, surrogates included; ``paper``:
            what the network's own gradient leaves, which overstates.
        eps: Largest perturbation in units of the bounds and the norm; None for 8/255.
        norm: ``linf`` or ``l2``.
        steps: Of each attack; None for 20.
        strengths: What to try, above 0 and in order; None for ``points`` of them up to about twice
            what the budget allows.
        points: How many to try.
        attack_limit: Samples that are attacked, spread evenly over the data.
        refine: Then look for a better strength of each site alone.
        quantize: Count only adversarial inputs that 8 bits hold.
        mean: Subtracted from samples before the model.
        std: Divides after that.
        seed: Of everything random.
        batch_size: Samples computed at a time.
        device: Where the twin computes: ``cpu`` or ``cuda``.
    """

    max_drop: float = 0.01
    confidence: float = 0.95
    scale: Scale = "shared"
    objective: Objective = "worst-case"
    eps: float | None = None
    norm: Any = "linf"
    steps: int | None = None
    strengths: Sequence[float] | None = None
    points: int = 20
    attack_limit: int = 1000
    refine: bool = False
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
        self.budget  # noqa: B018 - checks its own numbers
        for name, known in (
            ("scale", SCALES),
            ("objective", get_args(Objective)),
            ("norm", NORMS),
        ):
            checks.one_of(name, getattr(self, name), known)
        if self.eps is not None:
            checks.above_0("eps", self.eps)
        if self.steps is not None:
            checks.whole("steps", self.steps, 1)
        for name, least in (("points", 8), ("attack_limit", 1), ("batch_size", 1)):
            checks.whole(name, getattr(self, name), least)
        checks.seed(self.seed)
        checks.device(self.device)
        if self.strengths is not None:
            self._check_strengths([0.0, *self.strengths])

    def _check_strengths(self, strengths: Sequence[float]) -> None:
        limit = float("inf") if self.scale == "shared" else 1.0
        rising = all(a < b for a, b in pairwise(strengths))
        if len(strengths) < 2 or not rising or not strengths[-1] < limit:
            where = "" if limit == float("inf") else " and below 1"
            raise ValueError(f"expected strengths above 0{where}, in rising order")

    @property
    def budget(self) -> Budget:
        """What the jumps may cost."""
        return Budget(max_drop=self.max_drop, confidence=self.confidence)

    @property
    def radius(self) -> float:
        """The eps that is used."""
        return 8 / 255 if self.eps is None else self.eps
