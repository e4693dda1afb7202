"""The epochs of a fine-tuning: steps down the loss, and the average of the weights on the way."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from onnxfit.attacks.layout import laid_out, select
from onnxfit.attacks.surrogates import scales_of, surrogate
from onnxfit.errors import ModelError
from onnxfit.finetuning.augmentation import augmented
from onnxfit.finetuning.settings import Settings
from onnxfit.finetuning.terms import TERMS
from onnxfit.finetuning.terms.jacobian import Jacobian
from onnxfit.finetuning.terms.term import Batch, Term, Threat
from onnxfit.finetuning.weights import statistics_of
from onnxfit.twin.jump_relu import has_jumps, jump_relus
from onnxfit.twin.ops.batch_normalization import learning_statistics
from onnxfit.twin.precision import full_precision

# Share of all steps in which the learning rate and the radius grow from 0.
_WARM_UP = 0.05
# The slope by which a search sees across a jump (docs/robustness.md): a share of the site's scale.
_TAU = 0.1


class Diverged(ModelError):
    """The loss is no longer a finite number."""


class Trainer:
    """Trains the parameters of a module.

    Args:
        model: From samples, N×… in the data's units, to logits; those of its parameters that
            require gradients are trained.
        x: Training samples, N×…, within the bounds.
        y: Their classes, N integers.
        settings: How.
        bounds: Of the samples.
        augment: What is made of the samples.

    Attributes:
        model: The module.
        epoch: How many epochs are done.
        weights: What is trained, by name.
        kept: What a training changes, by name: the weights and the statistics that follow.
        clean_share: What part of the loss is the cross-entropy of the samples themselves, whatever
            the methods: the rest is theirs.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        x: torch.Tensor,
        y: torch.Tensor,
        settings: Settings,
        bounds: tuple[float, float],
        augment: Sequence[str],
    ) -> None:
        self.model, self.settings, self.epoch = model, settings, 0
        self.clean_share = 0.0
        self._x, self._y, self._augment = laid_out(x), y, augment
        self._terms = [(_term(name, settings), w) for name, w in settings.methods.items()]
        self._bounds = bounds
        self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for weight in self.weights.values():
            if weight.dim() == 4:
                # Not ``contiguous``, which leaves the strides of a single channel as they are.
                weight.data = weight.data.to(memory_format=torch.channels_last)
        self.kept: dict[str, torch.Tensor] = dict(self.weights)
        if settings.update_statistics:
            self.kept |= statistics_of(model)
        self._averages = {name: value.detach().clone() for name, value in self.kept.items()}
        self._optimizer = torch.optim.AdamW(
            self.weights.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._step = 0

    @property
    def is_finite(self) -> bool:
        """Whether no weight or statistic is infinite or NaN."""
        return all(bool(value.isfinite().all()) for value in self.kept.values())

    @property
    def steps_per_epoch(self) -> int:
        """How many steps an epoch has; samples that fill no batch wait for the next epoch."""
        return max(1, len(self._x) // self.settings.batch_size)

    def run_epoch(self, advance: Callable[[int], object] = lambda count: None) -> float:
        """Train on all samples once; return the mean loss.

        Args:
            advance: Is called with the number of samples of each step.

        Raises:
            Diverged: The loss is no finite number; the message names the step and the first
                activation that is not finite.
        """
        size, total = self.settings.batch_size, 0.0
        order = torch.randperm(len(self._x), generator=self._generator)
        with full_precision(), self._seeing_jumps():
            for step in range(self.steps_per_epoch):
                rows = order[step * size : (step + 1) * size].to(self._x.device)
                total += self._descend(select(self._x, rows), self._y[rows])
                advance(len(rows))
        self.epoch += 1
        return total / self.steps_per_epoch

    def _descend(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Make one step on some samples; return the loss before it."""
        if self._augment:
            x = laid_out(augmented(x, self._augment, self._generator))
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        threat = Threat(
            eps=self.settings.radius * self._warmth,
            norm=self.settings.norm,
            bounds=self._bounds,
            steps=self.settings.steps,
        )
        if any(term.differentiates for term, _ in self._terms):
            x = x.detach().requires_grad_()
        batch = Batch(model=self.model, x=x, y=y, threat=threat, generator=self._generator)
        before = self._generator.get_state()
        loss = self.loss(batch)
        value = loss.item()
        if not math.isfinite(value):
            # The same random numbers again.
            self._generator.set_state(before)
            raise Diverged(
                f"the loss is {value} at step {self._step + 1} (epoch {self.epoch + 1})"
                f"{self._where(batch)}: take a smaller learning rate or smaller weights"
            )
        if not loss.requires_grad:
            raise ModelError("the logits do not depend on any weight as far as gradients know")
        gradients = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
        for weight, gradient in zip(self.weights.values(), gradients, strict=True):
            weight.grad = gradient
        self._optimizer.step()
        self._step += 1
        self._average()
        return value

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the cross-entropy, or what takes its place in part, and the other terms."""
        return functools.reduce(torch.add, self._parts(batch).values())

    def _parts(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return what the loss is the sum of, by name."""
        rest = 1 - self.clean_share
        clean = 1 - rest * sum(weight for term, weight in self._terms if term.share)
        learning = learning_statistics() if self.settings.update_statistics else nullcontext()
        with learning:
            parts = {"cross-entropy": clean * batch.cross_entropy} if clean > 0 else {}
            for term, weight in self._terms:
                parts[term.name] = rest * weight * term(batch)
        return parts

    def _where(self, batch: Batch) -> str:
        """Compute the terms of a batch again; name what is not finite first, as a clause's end."""
        bad: list[str] = []

        def look(module: Any, inputs: Any, output: torch.Tensor) -> None:
            del inputs
            if not output.isfinite().all():
                bad.append(
                    "in the logits" if module is self.model else f"at the site {module.site!r}"
                )

        with contextlib.ExitStack() as hooks:
            for module in (*jump_relus(self.model), self.model):
                hooks.enter_context(module.register_forward_hook(look))
            parts = self._parts(dataclasses.replace(batch))
        bad += [f"in the term {name}" for name, part in parts.items() if not part.isfinite()]
        return f", first {bad[0]}" if bad else ""

    @property
    def _total(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    @property
    def _progress(self) -> float:
        return self._step / self._total

    @property
    def _warmth(self) -> float:
        """The share of its height that the learning rate and the radius have reached."""
        return min(1.0, self._progress / _WARM_UP + 1 / self._total)

    def _rate(self) -> float:
        rate = self.settings.learning_rate * self._warmth
        if self.settings.schedule == "constant":
            return rate
        return rate * (1 + math.cos(math.pi * self._progress)) / 2

    def _average(self) -> None:
        """Move the averages towards the weights; at first they follow closely."""
        horizon = max(1.0, self.settings.averaging * self.steps_per_epoch)
        share = max(1 / horizon, 9 / (10 + self._step))
        with torch.no_grad():
            for name, value in self.kept.items():
                self._averages[name].lerp_(value, share)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the module the averages of its weights for the length of a ``with`` block."""
        trained = {name: value.data for name, value in self.kept.items()}
        for name, value in self.kept.items():
            value.data = self._averages[name]
        try:
            yield
        finally:
            for name, value in self.kept.items():
                value.data = trained[name]

    @contextlib.contextmanager
    def _seeing_jumps(self) -> Iterator[None]:
        """Let gradients see across jumps; where there is none they are what they are."""
        if not has_jumps(self.model):
            yield
            return
        # Spread over all, which may be sorted by class.
        rows = torch.linspace(0, len(self._x) - 1, min(len(self._x), 256)).long()
        some = select(self._x, rows.to(self._x.device))
        with surrogate(self.model, "smooth", _TAU, scales_of(self.model, some)):
            yield

    def state(self) -> dict[str, Any]:
        """Return what :meth:`resume` goes on from."""
        return {
            "epoch": self.epoch,
            "step": self._step,
            "clean_share": self.clean_share,
            "weights": {name: value.detach().clone() for name, value in self.kept.items()},
            "averages": {name: value.clone() for name, value in self._averages.items()},
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.epoch, self._step = state["epoch"], state["step"]
        self.clean_share = state["clean_share"]
        with torch.no_grad():
            for name, value in self.kept.items():
                value.copy_(state["weights"][name])
                self._averages[name].copy_(state["averages"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])


def _term(name: str, settings: Settings) -> Term:
    return Jacobian(settings.projections) if name == Jacobian.name else TERMS[name]()
