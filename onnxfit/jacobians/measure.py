"""Measure the Jacobians of a classifier on data."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit import checks
from onnxfit.attacks.ball import NORMS, Norm
from onnxfit.attacks.surrogates import scales_of, surrogate
from onnxfit.data import Dataset
from onnxfit.errors import DataError, ModelError, ParityError
from onnxfit.jacobians.pairs import (
    Classify,
    Pairs,
    Step,
    all_pairs,
    classes_by,
    draw_pairs,
    numbers_of,
)
from onnxfit.jacobians.products import (
    Advance,
    jacobians_of,
    largest_of,
    logits_at,
    smaller_gram_of,
    trace_of,
)
from onnxfit.jacobians.stacked import MOST_STEPS, Stacked, largest_singular
from onnxfit.twin.gradients import device_of, gradient_of
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.twin.precision import full_precision
from onnxfit.verification.statistics import wilson

Backward = Literal["true", "smooth"]

# float32 numbers that the Jacobians of a batch, or their Gram matrices, take the memory of; more
# only where those of one sample or pair do.
_MOST_NUMBERS = 2**25
# Samples that the scales of the jumps are measured on.
_SCALE_SAMPLES = 64
_QUANTILES = {"min": 0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1}


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """What :func:`measure` finds with one backward pass.

    Attributes:
        backward: The slope of each JumpReLU, ``true`` or ``smooth``.
        tau: Width of the smooth gate as a share of each site's scale.
        eps: Size of a perturbation in units of the data's bounds.
        norm: Its norm, ``linf`` or ``l2``.
        classes: Number C of logits.
        dimensions: Number D of values of a sample.
        frobenius: ‖Jᵢ‖_F of each sample, float64, N.
        spectral: σ_max(Jᵢ) of each sample, float64, N.
        stacked: σ_max of all of them.
        pairs: What two samples have in common.
    """

    backward: Backward
    tau: float
    eps: float
    norm: Norm
    classes: int
    dimensions: int
    frobenius: NDArray[np.float64]
    spectral: NDArray[np.float64]
    stacked: Stacked
    pairs: Pairs

    @property
    def l2_size(self) -> float:
        """The largest l2 norm of a perturbation: eps, or eps·√D where the norm is ``linf``."""
        return self.eps * (math.sqrt(self.dimensions) if self.norm == "linf" else 1.0)

    @property
    def mean_squared_change_bound(self) -> float:
        """Bound of Σᵢ‖f(xᵢ + δ) − f(xᵢ)‖² / N for one δ of size eps, to first order.

        It is ``l2_size²·σ_max(J̄)²/N``, with the residual added to ``σ_max²``. It holds for linear
        models and small perturbations; a network may change more where its slopes grow on the way.
        """
        square = self.stacked.sigma_max**2 + self.stacked.residual
        return min(self.l2_size**2 * square / len(self.frobenius), self.frobenius_bound)

    @property
    def frobenius_bound(self) -> float:
        """The same bound by ``l2_size²·Σᵢ‖Jᵢ‖²_F/N``, which is never smaller."""
        return self.l2_size**2 * float(np.square(self.frobenius).mean())

    @property
    def document(self) -> dict[str, Any]:
        """The same as JSON can hold it, with quantiles in place of the arrays."""
        pairs, correct = self.pairs, int(self.pairs.correct.sum())
        fooled = int(pairs.fooled.sum())
        rate, interval = (fooled / correct, wilson(fooled, correct)) if correct else (None, None)
        return {
            "backward": self.backward,
            "tau": self.tau if self.backward == "smooth" else None,
            "frobenius_norm": summary(self.frobenius),
            "spectral_norm": summary(self.spectral),
            "stacked": {
                "sigma_max": self.stacked.sigma_max,
                "residual": self.stacked.residual,
                "steps": self.stacked.steps,
                "converged": self.stacked.converged,
                "frobenius_norm": float(np.sqrt(np.square(self.frobenius).sum())),
                "l2_size": self.l2_size,
                "mean_squared_change_bound": self.mean_squared_change_bound,
                "mean_squared_change_frobenius_bound": self.frobenius_bound,
            },
            "pairs": {
                "n": len(pairs.rows),
                "both_correct": correct,
                "both_fooled": fooled,
                "joint_success": rate,
                "joint_success_ci95": interval,
                "cosine": {
                    **summary(pairs.cosine),
                    "spearman_with_joint_success": pairs.correlation("cosine"),
                },
                "spectral_ratio": {
                    **summary(pairs.spectral_ratio),
                    "spearman_with_joint_success": pairs.correlation("spectral_ratio"),
                },
            },
        }


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How :func:`measure` measures.

    Attributes:
        eps: Size of a perturbation in units of the data's bounds.
        norm: Its norm, ``linf`` or ``l2``.
        pairs: How many pairs to draw, without repetition; all there are if these are fewer.
        backward: ``true`` for the model's own slopes, or ``smooth`` for those of a smooth gate in
            place of each jump; see :class:`onnxfit.twin.jump_relu.JumpReLU`.
        tau: Width of that gate as a share of the site's scale.
        batch_size: Samples computed at a time; but for rounding it does not matter.
        seed: Of the pairs, and of where the search for σ_max(J̄) starts.

    Raises:
        ValueError: One of them is out of its range.
    """

    eps: float = 8 / 255
    norm: Norm = "linf"
    pairs: int = 500
    backward: Backward = "true"
    tau: float = 0.1
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("norm", self.norm, NORMS)
        checks.one_of("backward", self.backward, get_args(Backward))
        for name in ("eps", "tau"):
            checks.above_0(name, getattr(self, name))
        for name in ("pairs", "batch_size"):
            checks.whole(name, getattr(self, name), 1)
        checks.seed(self.seed)


def measure(
    model: torch.nn.Module,
    data: Dataset,
    *,
    device: str | torch.device | None = None,
    classify: Classify | None = None,
    advance: Advance = lambda count: None,
    **settings: Any,
) -> Measured:
    """Measure the Jacobians of a classifier on data; see the package for source and units.

    The forward pass is exact whatever the backward pass is. The samples of random pairs get one
    perturbation together: a step of size eps along the gradient of the sum of their
    cross-entropies, its sign for ``linf``, clipped to the bounds.

    Args:
        model: Takes float32 samples, N×…, and returns logits, N×C, each sample's its own. It is
            put into evaluation mode.
        data: N samples, at least two.
        device: Where the model computes; by default that of its first parameter.
        classify: Names the classes of samples, N×… → N; by default the model does.
        advance: Is told how much more of :func:`work_of` is done.
        **settings: Those of :class:`Settings`.

    Raises:
        DataError: The data is damaged, has a single sample, or a label is none of the classes.
        ModelError: The module returns no logits, no gradient reaches its input, or a Jacobian is
            not finite.
        ParityError: The module mixes the samples of a batch.
        TypeError: There is no such setting.
        ValueError: A setting is out of its range.
    """
    how = Settings(**settings)
    if device is not None:
        checks.device(device)
    if data.n < 2:
        raise DataError(f"{data.path} has a single sample, of which there are no pairs")
    model.eval()
    where = device_of(model) if device is None else torch.device(device)
    scales = None
    if how.backward == "smooth" and jump_relus(model):
        some = torch.from_numpy(data.spread(_SCALE_SAMPLES).x)
        scales = scales_of(model, some.to(where))
    with surrogate(model, how.backward, how.tau, scales), full_precision():
        x = torch.from_numpy(next(data.batches(how.batch_size)).x).to(where)
        classes, dimensions = _check_apart(model, x), x[0].numel()
        data.check_classes(classes)
        # The Gram matrices are in double precision, and their eigenvalues take a copy.
        each = max(classes * dimensions, 4 * min(classes, dimensions) ** 2)
        small = min(how.batch_size, max(1, _MOST_NUMBERS // each))
        frobenius, spectral = _all_norms(model, data, small, where, advance)
        stacked = largest_singular(
            model,
            data,
            batch_size=how.batch_size,
            seed=how.seed,
            device=where,
            advance=advance,
        )
        rows = draw_pairs(data.n, how.pairs, how.seed)
        step = Step(how.eps, how.norm, data.bounds, classify or classes_by(model, where))
        most = _MOST_NUMBERS // numbers_of(classes, dimensions)
        per_batch = max(1, min(how.batch_size // 2, most))
        pairs = all_pairs(model, data, rows, per_batch, step, where, advance)
    return Measured(
        backward=how.backward,
        tau=how.tau,
        eps=how.eps,
        norm=how.norm,
        classes=classes,
        dimensions=dimensions,
        frobenius=frobenius,
        spectral=spectral,
        stacked=stacked,
        pairs=pairs,
    )


def work_of(n: int, pairs: int) -> int:
    """Return how much :func:`measure` tells ``advance`` of n samples, at least 2, in all."""
    return n * (1 + MOST_STEPS) + min(pairs, n * (n - 1) // 2)


def summary(values: NDArray[np.float64]) -> dict[str, float | int]:
    """Return mean and quantiles of what is not NaN, and how many values are."""
    known = values[~np.isnan(values)]
    undefined = len(values) - len(known)
    if not len(known):
        return {"mean": math.nan, **dict.fromkeys(_QUANTILES, math.nan), "undefined": undefined}
    quantiles = {name: float(np.quantile(known, share)) for name, share in _QUANTILES.items()}
    return {"mean": float(known.mean()), **quantiles, "undefined": undefined}


def _check_apart(model: torch.nn.Module, x: torch.Tensor) -> int:
    """See that the logits of a sample depend on no other one, and return how many they are."""
    leaf, logits = logits_at(model, x)
    others = gradient_of(logits[0].sum(), leaf)[1:]
    if (others.nan_to_num() != 0).any():
        raise ParityError(
            "the model mixes the samples of a batch, so that none has a Jacobian of its own"
        )
    return logits.shape[1]


def _all_norms(
    model: torch.nn.Module,
    data: Dataset,
    batch_size: int,
    device: torch.device,
    advance: Advance,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the Frobenius and the spectral norm of the Jacobian of every sample."""
    frobenius, spectral, start = [], [], 0
    for x, _ in data.batches(batch_size):
        jacobians = jacobians_of(model, torch.from_numpy(x).to(device))
        gram = smaller_gram_of(jacobians)
        unknown = ~gram.isfinite().flatten(1).all(1)
        if unknown.any():
            at = start + int(unknown.nonzero()[0])
            raise ModelError(f"the Jacobian of sample {at} holds NaN or infinity")
        frobenius.append(trace_of(gram).sqrt())
        spectral.append(largest_of(gram).sqrt())
        start += len(x)
        advance(len(x))
    return torch.cat(frobenius).cpu().numpy(), torch.cat(spectral).cpu().numpy()
