"""Points made on another model, and tried on this one."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from onnxfit import checks
from onnxfit.attacks.attack import BudgetAttack
from onnxfit.attacks.gradient import PGD
from onnxfit.attacks.layout import evaluated, weights_laid_out
from onnxfit.attacks.losses import LOSSES, Loss, margin
from onnxfit.attacks.search import Search
from onnxfit.attacks.surrogates import scales_of, surrogate
from onnxfit.errors import ModelError
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import device_of
from onnxfit.twin.jump_relu import BACKWARDS


@dataclass(frozen=True, kw_only=True)
class Transfer(BudgetAttack):
    """Transfer attack, MI-FGSM (Dong et al., 2018): needs no gradients of the model it attacks.

    Points are made on other modules by steps with momentum, all of them to the last one, and then
    given to the model. The first restart begins at the sample, each other one at a random point.
    With several modules the mean of their logits is attacked, so that points do not depend on one.
    What the sources misclassify already is attacked all the same. The slopes of their jumps may be
    those of a surrogate: native gradients see no jump, and make points that do too little.

    Attributes:
        source: A module, or several, that return logits of the same classes as the model. They
            take no part in ``repr``, in comparisons or in ``settings``.
        steps: Number of steps of each restart.
        step_size: Length of a step; None for eps / steps.
        momentum: Share of the earlier steps' direction that each keeps.
        restarts: How often to start, each time with the samples that remain.
        loss: What the steps increase: ``ce``, ``margin`` or ``dlr``.
        backward: Which slope a JumpReLU of a source has, as of :class:`GradientAttack`.
        tau: Width of the smooth gate, as there; the scales are those of each source.
    """

    source: torch.nn.Module | Sequence[torch.nn.Module] = field(repr=False, compare=False)
    steps: int = 10
    step_size: float | None = None
    momentum: float = 1.0
    restarts: int = 1
    loss: Loss = "ce"
    backward: str = "true"
    tau: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources or not all(isinstance(m, torch.nn.Module) for m in self.sources):
            raise ValueError("expected source to be a module or several")
        checks.whole("steps", self.steps, 1)
        checks.at_least("momentum", self.momentum, 0)
        checks.whole("restarts", self.restarts, 1)
        if self.step_size is not None:
            checks.above_0("step_size", self.step_size)
        checks.one_of("loss", self.loss, tuple(LOSSES))
        checks.one_of("backward", self.backward, BACKWARDS)
        checks.above_0("tau", self.tau)

    @property
    def sources(self) -> tuple[torch.nn.Module, ...]:
        """The modules that points are made on."""
        alone = isinstance(self.source, torch.nn.Module)
        return (self.source,) if alone else tuple(self.source)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them, with the length of a step; without the sources.

        Without the slope of their jumps where it is their own.
        """
        left_out = {"source"} if self.backward != "true" else {"source", "backward", "tau"}
        names = [each.name for each in dataclasses.fields(self) if each.name not in left_out]
        settings = {name: getattr(self, name) for name in names}
        return {**settings, "step_size": self.step_size or self.eps / self.steps}

    def _attack(self, search: Search) -> None:
        best = search.x.clone()
        highest = torch.full_like(search.logits[:, 0], -math.inf)
        for restart in range(self.restarts):
            rows = search.rows()
            if not len(rows):
                return
            points = search.rounded(rows, self._made(search, rows, restart))
            logits = search.compute(points)
            found = search.record(rows, points, logits)
            losses = margin(logits, search.labels[rows])
            better = losses > highest[rows]
            best[rows[better]], highest[rows[better]] = points[better], losses[better]
            search.keep(rows[~found], best[rows[~found]])

    def _made(self, search: Search, rows: torch.Tensor, restart: int) -> torch.Tensor:
        """Return the points of one restart, on the device of the samples."""
        module = _Mean(self.sources)
        x, labels = (values[rows].to(module.device) for values in (search.x, search.labels))
        maker = PGD(
            eps=self.eps,
            norm=self.norm,
            bounds=self.bounds,
            seed=self.seed + restart,
            steps=self.steps,
            step_size=self.step_size or self.eps / self.steps or 1.0,
            momentum=self.momentum,
            loss=self.loss,
            random_start=restart > 0,
            early_stop=False,
        )
        with evaluated(module), weights_laid_out(module, x):
            making = Search(maker, module, x, labels, None)
            making.broken[:] = False  # What the sources misclassify is attacked too.
            with making.slopes(), self._slopes(x):
                maker.descend(making, making.rows())
        return making.best.to(search.x.device)

    @contextlib.contextmanager
    def _slopes(self, x: torch.Tensor) -> Iterator[None]:
        """Give the JumpReLUs of the sources the slope that is asked for, in a ``with`` block."""
        with contextlib.ExitStack() as stack:
            for source in self.sources if self.backward != "true" else ():
                scales = scales_of(source, x) if self.backward == "smooth" else None
                stack.enter_context(surrogate(source, self.backward, self.tau, scales))
            yield


class _Mean(torch.nn.Module):
    """The mean of several modules' logits."""

    def __init__(self, sources: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.sources = torch.nn.ModuleList(sources)

    @property
    def device(self) -> torch.device:
        return device_of(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = [as_logits(source(x), len(x)) for source in self.sources]
        if len({each.shape for each in logits}) > 1:
            raise ModelError("the sources give logits of different numbers of classes")
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)
