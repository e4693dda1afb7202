"""How a fine-tuning is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from onnxfit import checks
from onnxfit.attacks.ball import NORMS
from onnxfit.finetuning.augmentation import KINDS
from onnxfit.finetuning.terms import TERMS

Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a fine-tuning is made.

    Attributes:
        methods: The weight of each term of the loss by its name, above 0.
        eps: Largest perturbation in units of the bounds and the norm; None for 8/255.
        norm: ``linf`` or ``l2``.
        max_drop: Largest drop of the clean accuracy on the validation data, as a fraction.
        jump: The jump that all sites get before the training; None to leave them as they are.
        epochs: Passes over the training data at most.
        learning_rate: Of Adam, at its height.
        schedule: ``cosine``: up for a twentieth of the time, then down to 0; or ``constant``.
        weight_decay: Of AdamW.
        averaging: Epochs over which weights are averaged exponentially; 0 for none.
        steps: Of the search for adversarial points in each step of the training.
        projections: Random projections of the Jacobian for each sample; 0 for all of it.
        augment: What is made of the training samples: ``shift``, ``flip``, ``cutout``, ``tv``;
            None for ``shift`` where the samples are pictures.
        patience: Checks without progress after which the training ends; None to make all epochs.
        update_statistics: Whether the mean and variance of a BatchNorm follow the training data.
        validation_limit: Validation samples that are attacked at a check.
        batch_size: Samples of a step.
        mean: Subtracted from samples before the model.
        std: Divides after that.
        seed: Of everything random.
        device: ``cpu`` or ``cuda``.
    """

    methods: Mapping[str, float] = field(default_factory=lambda: {"adversarial": 1.0})
    eps: float | None = None
    norm: Any = "linf"
    max_drop: float = 0.005
    jump: float | None = None
    epochs: int = 100
    learning_rate: float = 3e-3
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    averaging: float = 5.0
    steps: int = 7
    projections: int = 1
    augment: Sequence[str] | None = None
    patience: int | None = None
    update_statistics: bool = False
    validation_limit: int = 1000
    batch_size: int = 64
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: One is out of its range.
        """
        self._check_methods()
        for name, known in (("norm", NORMS), ("schedule", get_args(Schedule))):
            checks.one_of(name, getattr(self, name), known)
        if self.eps is not None:
            checks.above_0("eps", self.eps)
        checks.above_0("learning_rate", self.learning_rate)
        for name in ("weight_decay", "averaging"):
            checks.at_least(name, getattr(self, name), 0)
        checks.share("max_drop", self.max_drop)
        checks.seed(self.seed)
        checks.device(self.device)
        for name, least in (
            ("epochs", 1),
            ("steps", 1),
            ("projections", 0),
            ("validation_limit", 1),
            ("batch_size", 1),
        ):
            checks.whole(name, getattr(self, name), least)
        if self.patience is not None:
            checks.whole("patience", self.patience, 1)
        if isinstance(self.augment, str):
            raise ValueError(f"expected several names as augment, got {self.augment!r}")
        for kind in self.augment or ():
            checks.one_of("augment", kind, tuple(KINDS))

    def _check_methods(self) -> None:
        if not self.methods or not isinstance(self.methods, Mapping):
            raise ValueError(
                f"expected methods and their weights by name, at least one, got {self.methods!r}"
            )
        for name, weight in self.methods.items():
            if name not in TERMS:
                raise ValueError(f"there is no method {name!r}, there are {', '.join(TERMS)}")
            checks.above_0(f"a weight of {name}", weight)
            if TERMS[name].share and weight > 1:
                raise ValueError(f"expected a weight of {name} of at most 1, got {weight}")

    @property
    def radius(self) -> float:
        """The eps that is used."""
        return 8 / 255 if self.eps is None else self.eps
