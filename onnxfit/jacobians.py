"""How large the Jacobians of a classifier are, and how much those of its samples have in common.

A perturbation is universal where one δ moves many samples at once. To first order it moves the
logits f by ``Σᵢ‖f(xᵢ + δ) − f(xᵢ)‖² ≈ ‖J̄δ‖² ≤ ‖δ‖²·σ_max(J̄)² ≤ ‖δ‖²·Σᵢ‖Jᵢ‖²_F``, where Jᵢ is the
C×D Jacobian of the logits of sample i, and J̄ are all of them stacked, NC×D. This and the measures
of pairs are those of Co, Rego and Lupu, "Jacobian regularization for mitigating universal
adversarial perturbations" (2021, arXiv 2104.10459).

Memory is needed for the Jacobians of a batch, and for the samples of the pairs; ``J̄`` is never
made. Jacobians are in units of logits / the data's bounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from onnxfit.attacks.ball import NORMS, Bounds, Norm, unit_steps
from onnxfit.attacks.losses import LOSSES
from onnxfit.attacks.surrogates import scales_of, surrogate
from onnxfit.data import Dataset
from onnxfit.errors import DataError, ModelError, ParityError
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import device_of, gradient_of
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.twin.precision import full_precision
from onnxfit.verification.statistics import wilson

Backward = Literal["true", "smooth"]
Advance = Callable[[int], object]
# Names the classes of samples.
Classify = Callable[[torch.Tensor], NDArray[np.int64]]

MOST_STEPS = 60
TOLERANCE = 1e-4
# Numbers in the Jacobians that are held at a time, if a sample's alone has no more.
_MOST_NUMBERS = 2**25
# Columns of them that are taken in double precision at a time.
_COLUMNS = 4096
# Samples that the scales of the jumps are measured on.
_SCALE_SAMPLES = 64
_QUANTILES = {"min": 0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1}


@dataclass(frozen=True, kw_only=True)
class Stacked:
    """The largest singular value of all Jacobians stacked, as :func:`largest_singular` finds it.

    Attributes:
        sigma_max: σ_max(J̄), from below.
        residual: An eigenvalue of J̄ᵀJ̄ is within this of ``sigma_max²``.
        steps: How often the method went through all samples.
        converged: Whether the residual became small enough.
    """

    sigma_max: float
    residual: float
    steps: int
    converged: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Measures of P pairs of samples i and j.

    Attributes:
        rows: The numbers of both samples, i < j, int64, P×2.
        cosine: ⟨Jᵢ, Jⱼ⟩_F / (‖Jᵢ‖_F·‖Jⱼ‖_F), from −1 to 1, float64, P; NaN where one of them is 0.
        spectral_ratio: σ_max([Jᵢ; Jⱼ])² / (σ_max(Jᵢ)² + σ_max(Jⱼ)²), from ½ where they have nothing
            in common to 1, float64, P; NaN where both are 0.
        correct: Whether both samples are classified correctly, booleans, P.
        fooled: Whether, beside that, one perturbation makes both of another class, booleans, P.
    """

    rows: NDArray[np.int64]
    cosine: NDArray[np.float64]
    spectral_ratio: NDArray[np.float64]
    correct: NDArray[np.bool_]
    fooled: NDArray[np.bool_]

    def correlation(self, metric: Literal["cosine", "spectral_ratio"]) -> float:
        """Correlate a measure with joint success, over the pairs that are classified correctly.

        Returns:
            Spearman's ρ; NaN where all or none of these pairs are fooled.
        """
        values: NDArray[np.float64] = getattr(self, metric)
        used = self.correct & np.isfinite(values)
        return spearman(values[used], self.fooled[used])


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
                "joint_success": fooled / correct if correct else None,
                "joint_success_ci95": wilson(fooled, correct) if correct else None,
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
        if self.norm not in NORMS:
            raise ValueError(f"expected a norm of {', '.join(NORMS)}, got {self.norm!r}")
        if self.backward not in ("true", "smooth"):
            raise ValueError(f"expected a backward of true or smooth, got {self.backward!r}")
        for name in ("eps", "tau"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected a finite {name} above 0, got {getattr(self, name)}")
        for name in ("pairs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")


def measure(
    model: torch.nn.Module,
    data: Dataset,
    *,
    device: str | torch.device | None = None,
    classify: Classify | None = None,
    advance: Advance = lambda count: None,
    **settings: Any,
) -> Measured:
    """Measure the Jacobians of a classifier on data; see the module for source and units.

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
        small = min(how.batch_size, max(1, _MOST_NUMBERS // (classes * dimensions)))
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
        step = _Step(how.eps, how.norm, data.bounds, classify or _classes_by(model, where))
        pairs = _all_pairs(model, data, rows, max(1, small // 2), step, where, advance)
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


def jacobians_of(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Compute the Jacobian of each sample's logits, by a backward pass for each logit.

    Args:
        model: From samples to logits, each sample's its own.
        x: Samples, n×….

    Returns:
        n×C×D, in the type of the samples.

    Raises:
        ModelError: The module returns no logits, or no gradient reaches its input.
    """
    leaf = x.detach().clone().requires_grad_()
    logits = as_logits(model(leaf), len(leaf))
    jacobians = x.new_empty(len(x), logits.shape[1], leaf[0].numel())
    for k in range(logits.shape[1]):
        last = k == logits.shape[1] - 1
        gradient = gradient_of(logits[:, k].sum(), leaf, retain_graph=not last)
        jacobians[:, k] = gradient.detach().flatten(1)
    return jacobians


def gram_of(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compute ``A·Bᵀ`` of matrices, n×C×D each, in double precision; n×C×C."""
    gram = first.new_zeros(len(first), first.shape[1], second.shape[1], dtype=torch.float64)
    parts = zip(first.split(_COLUMNS, 2), second.split(_COLUMNS, 2), strict=True)
    for left, right in parts:
        gram += left.double() @ right.double().mT
    return gram


def products_of(
    model: torch.nn.Module, x: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ``Jᵢv`` of each sample, and the sum of ``JᵢᵀJᵢv``, without a Jacobian.

    ``Jᵢᵀu`` is a backward pass. It is linear in ``u``, so that its derivative along ``v`` with
    respect to ``u`` is ``Jᵢv``.

    Args:
        model: From samples to logits, each sample's its own.
        x: Samples, n×….
        v: Direction, D.

    Returns:
        n×C in the type of the samples, and D in double precision.

    Raises:
        ModelError: The module returns no logits, or no gradient reaches its input.
    """
    leaf = x.detach().clone().requires_grad_()
    logits = as_logits(model(leaf), len(leaf))
    u = torch.zeros_like(logits, requires_grad=True)
    back = gradient_of((logits * u).sum(), leaf, create_graph=True)
    along = v.to(x).reshape(x.shape[1:])
    forward = gradient_of((back * along).sum(), u, retain_graph=True).detach()
    gradient = gradient_of((logits * forward).sum(), leaf).detach()
    return forward, gradient.flatten(1).sum(0, dtype=torch.float64)


def largest_singular(
    model: torch.nn.Module,
    data: Dataset,
    *,
    batch_size: int = 64,
    seed: int = 0,
    device: str | torch.device = "cpu",
    tolerance: float = TOLERANCE,
    advance: Advance = lambda count: None,
) -> Stacked:
    """Find σ_max of the Jacobians of all samples, stacked, without making that matrix.

    By Lanczos' method on ``Σᵢ JᵢᵀJᵢ`` from a random direction, with all directions kept and made
    orthogonal twice. It stops where the residual is at most ``tolerance`` times the eigenvalue, so
    that σ is known to half of that share, and at the latest after ``MOST_STEPS`` steps.

    Args:
        model: From samples to logits, each sample's its own.
        data: The samples.
        batch_size: Samples computed at a time.
        seed: Of the direction to start from.
        device: Where the model computes.
        tolerance: When to stop.
        advance: Is told of ``MOST_STEPS`` times as many samples as there are, in parts.

    Raises:
        DataError: The data is damaged.
        ModelError: As :func:`products_of`; or a product is not finite.
    """
    dimensions = math.prod(data.shape)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(dimensions, generator=generator, dtype=torch.float64).to(device)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    value = residual = 0.0
    converged = False
    most = min(MOST_STEPS, dimensions)
    while len(diagonal) < most and not converged:
        image = torch.zeros_like(start)
        for x, _ in data.batches(batch_size):
            image += products_of(model, torch.from_numpy(x).to(device), basis[-1])[1]
            advance(len(x))
        if not image.isfinite().all():
            raise ModelError("the Jacobian of a sample holds NaN or infinity")
        diagonal.append(float(image @ basis[-1]))
        directions = torch.stack(basis)
        for _ in range(2):
            image -= directions.T @ (directions @ image)
        length = float(image.norm())
        small = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(small)
        value = max(float(values[-1]), 0.0)
        residual = length * abs(float(vectors[-1, -1]))
        # All directions there are leave nothing but rounding.
        converged = residual <= tolerance * value or len(diagonal) == dimensions
        beside.append(length)
        if not converged:
            basis.append(image / length)
    advance((MOST_STEPS - len(diagonal)) * data.n)
    return Stacked(
        sigma_max=math.sqrt(value),
        residual=residual,
        steps=len(diagonal),
        converged=converged,
    )


def draw_pairs(n: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw different pairs i < j of n samples; all of them if there are no more than ``count``.

    Returns:
        int64, P×2, in order.
    """
    total = n * (n - 1) // 2
    if count >= total:
        numbers = np.arange(total)
    else:
        numbers = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    # Pair number k of the order (0, 1), (0, 2), (1, 2), (0, 3), …
    pairs = []
    for number in numbers.tolist():
        j = (1 + math.isqrt(1 + 8 * number)) // 2
        pairs.append((number - j * (j - 1) // 2, j))
    return np.array(pairs, np.int64).reshape(-1, 2)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Compute Spearman's rank correlation ρ; equal values share the mean of their ranks.

    Returns:
        From −1 to 1; NaN where all values of a side are equal, or there are fewer than two.

    Raises:
        ValueError: The sides differ in length.
    """
    left, right = np.asarray(first).ravel(), np.asarray(second).ravel()
    if len(left) != len(right):
        raise ValueError(f"expected as many values on both sides, got {len(left)} and {len(right)}")
    a, b = (_ranks(side) - (len(side) + 1) / 2 for side in (left, right))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


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
    leaf = x.detach().clone().requires_grad_()
    logits = as_logits(model(leaf), len(leaf))
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
        gram = gram_of(jacobians, jacobians)
        unknown = ~gram.isfinite().flatten(1).all(1)
        if unknown.any():
            at = start + int(unknown.nonzero()[0])
            raise ModelError(f"the Jacobian of sample {at} holds NaN or infinity")
        frobenius.append(_trace(gram).sqrt())
        spectral.append(_largest(gram).sqrt())
        start += len(x)
        advance(len(x))
    return torch.cat(frobenius).cpu().numpy(), torch.cat(spectral).cpu().numpy()


@dataclass(frozen=True)
class _Step:
    """One step of a perturbation that two samples share, and what names the classes then."""

    eps: float
    norm: Norm
    bounds: Bounds
    classify: Classify

    def moved(self, model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return samples, P×2×…, each pair moved together along the gradient of its loss."""
        leaf = x.flatten(0, 1).detach().clone().requires_grad_()
        logits = as_logits(model(leaf), len(leaf))
        gradient = gradient_of(LOSSES["ce"](logits, labels.flatten()).sum(), leaf)
        together = gradient.reshape(x.shape).sum(1)
        moved = x + self.eps * unit_steps(together, self.norm).unsqueeze(1)
        return moved.clamp(*self.bounds)

    def outcome(
        self, model: torch.nn.Module, x: torch.Tensor, labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Say which pairs, P×2×…, are classified correctly, and which of them are both fooled."""
        moved = self.moved(model, x, torch.from_numpy(labels).to(x.device))
        before, after = (
            self.classify(points.flatten(0, 1)).reshape(labels.shape) == labels
            for points in (x, moved)
        )
        correct = before.all(1)
        return correct, correct & ~after.any(1)


def _all_pairs(
    model: torch.nn.Module,
    data: Dataset,
    rows: NDArray[np.int64],
    per_batch: int,
    step: _Step,
    device: torch.device,
    advance: Advance,
) -> Pairs:
    """Measure pairs of samples, P×2, so many at a time."""
    used = np.unique(rows)
    samples = _gathered(data, used, 2 * per_batch)
    found: list[tuple[NDArray[Any], ...]] = []
    for start in range(0, len(rows), per_batch):
        here = rows[start : start + per_batch]
        x = samples[torch.from_numpy(np.searchsorted(used, here))].to(device)
        found.append((*pair_metrics(model, x), *step.outcome(model, x, data.labels[here])))
        advance(len(here))
    cosine, ratio, correct, fooled = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Pairs(rows=rows, cosine=cosine, spectral_ratio=ratio, correct=correct, fooled=fooled)


def pair_metrics(
    model: torch.nn.Module, x: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute both measures of pairs, see :class:`Pairs`.

    Args:
        model: From samples to logits, each sample's its own.
        x: Samples, P×2×….

    Returns:
        The cosines and the spectral ratios, P each.

    Raises:
        ModelError: As :func:`jacobians_of`.
    """
    jacobians = jacobians_of(model, x.flatten(0, 1)).unflatten(0, (len(x), 2))
    first, second = jacobians.unbind(1)
    own, other, both = gram_of(first, first), gram_of(second, second), gram_of(first, second)
    cosine = _trace(both) / (_trace(own).sqrt() * _trace(other).sqrt())
    stacked = torch.cat([torch.cat([own, both], 2), torch.cat([both.mT, other], 2)], 1)
    ratio = _largest(stacked) / (_largest(own) + _largest(other))
    return cosine.clamp(-1, 1).cpu().numpy(), ratio.clamp(0.5, 1).cpu().numpy()


def _gathered(data: Dataset, rows: NDArray[np.int64], batch_size: int) -> torch.Tensor:
    """Return some samples by their numbers, which are in order."""
    parts, start = [], 0
    for x, _ in data.batches(batch_size):
        parts.append(x[rows[(rows >= start) & (rows < start + len(x))] - start])
        start += len(x)
    return torch.from_numpy(np.concatenate(parts))


def _classes_by(model: torch.nn.Module, device: torch.device) -> Classify:
    def classify(x: torch.Tensor) -> NDArray[np.int64]:
        with torch.no_grad():
            classes = as_logits(model(x.to(device)), len(x)).argmax(1)
        found: NDArray[np.int64] = classes.cpu().numpy()
        return found

    return classify


def _trace(gram: torch.Tensor) -> torch.Tensor:
    return gram.diagonal(dim1=1, dim2=2).sum(1)


def _largest(gram: torch.Tensor) -> torch.Tensor:
    """Return the largest eigenvalue of each Gram matrix, at least 0."""
    return torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0)


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks
