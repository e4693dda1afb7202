"""What diagnostics measure on a model: gradients, logits, repeated runs, a very large eps.

All of them go through the samples a batch at a time. Gradients and logits are looked at only where
both the file and the twin classify a sample correctly: there is something to attack there.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from onnxfit.attacks.ball import Bounds, Norm, dimensions
from onnxfit.attacks.gradient import PGD
from onnxfit.attacks.losses import Loss, margin
from onnxfit.attacks.search import Search
from onnxfit.verification.target import Target

# From this gap on exp(-gap) is rounded to 0 in single precision: half of its smallest number.
UNDERFLOW = 150 * math.log(2)
# Multiples of single precision that two runs may differ by. Sums in another order
# stay well below: ONNX Runtime and the twin, which add in different orders everywhere, differed by
# 3 to 12 on networks of 5 to 50 layers. One session run twice did not differ at all.
ROUNDING = 64
# Of the precision of the outputs' own type: each is rounded once.
ROUNDING_OF_OUTPUTS = 2

_LARGE_EPS_STEPS = 40
_LARGE_EPS_TAUS = (0.1, 0.5)
_LARGE_EPS_LOSSES: tuple[Loss, ...] = ("margin", "ce")


@dataclass(frozen=True)
class Count:
    """How many samples show something.

    Attributes:
        n: Samples that were looked at.
        found: Those that show it.
    """

    n: int
    found: int


@dataclass(frozen=True)
class Repeats:
    """How far two runs on the same samples differ, relative to the largest logit of a sample.

    Attributes:
        file: In the deployed file; infinite where only one of two logits is a finite number.
        twin: In the twin.
        tolerance: What rounding may make of it.
    """

    file: float
    twin: float
    tolerance: float


def zero_gradients(
    target: Target, x: torch.Tensor, y: torch.Tensor, *, batch_size: int = 64
) -> Count:
    """Count samples whose gradient of the margin is 0, or not a number, in every value.

    It is the twin's own gradient, without a surrogate. A model through which no gradient passes at
    all has none for any sample.

    Args:
        target: The model.
        x: Samples, N×….
        y: Their labels, N.
        batch_size: Samples computed at a time.
    """
    n = found = 0
    for points, labels in _correct(target, x, y, batch_size):
        leaf = points.clone().requires_grad_()
        total = margin(target.twin(leaf), labels).sum()
        gradient = None
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(leaf)
        n += len(leaf)
        found += int((torch.nan_to_num(gradient) == 0).flatten(1).all(1).sum())
    return Count(n, found)


def saturated_logits(
    target: Target, x: torch.Tensor, y: torch.Tensor, *, batch_size: int = 64
) -> Count:
    """Count samples whose softmax is exactly 0, in single precision, but for their own class.

    There the gradient of the plain cross-entropy is exactly 0. Args are those of
    :func:`zero_gradients`.
    """
    n = found = 0
    for points, labels in _correct(target, x, y, batch_size):
        with torch.no_grad():
            gaps = -margin(target.twin(points), labels)
        n += len(points)
        found += int((gaps > UNDERFLOW).sum())
    return Count(n, found)


def repeats(target: Target, x: torch.Tensor, *, batch_size: int = 64) -> Repeats:
    """Run file and twin twice on the same samples, in the same batches, and compare the logits.

    Args:
        target: The model.
        x: Samples, N×….
        batch_size: Samples computed at a time.
    """
    differences = []
    for module in (target.deployed, target.twin):
        largest = 0.0
        for points in x.split(batch_size) if len(x) else ():
            with torch.no_grad():
                one, other = (module(points.to(target.device)) for _ in range(2))
            largest = max(largest, _difference(one, other))
        differences.append(largest)
    file, twin = differences
    single, own = (torch.finfo(dtype).eps for dtype in (torch.float32, target.classifier.dtype))
    return Repeats(file, twin, max(ROUNDING * single, ROUNDING_OF_OUTPUTS * own))


def batch_effect(target: Target, x: torch.Tensor, *, batch_size: int = 64) -> float:
    """Return how far the file's logits of samples in a batch are from those of each one alone.

    Looked at are the points half way between two samples, for samples themselves may be so clear
    that nothing shows.

    Args:
        target: The model.
        x: Samples, N×…; the first make the batch.
        batch_size: How many, or as many as there are.

    Returns:
        The largest difference, relative to the largest logit of the sample.
    """
    batch = x[:batch_size]
    if not len(batch):
        return 0.0
    points = (batch + batch.roll(1, 0)) / 2
    with torch.no_grad():
        together = target.deployed(points)
        alone = torch.cat([target.deployed(point) for point in points.split(1)])
    return _difference(together, alone)


def survivors_of_large_eps(
    target: Target,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    limit: int = 100,
    settings: Mapping[str, Any] | None = None,
) -> Count:
    """Count samples that withstand a white-box attack to which every input is open.

    The attack is PGD with 40 steps of a tenth of the range and momentum, which sees past what is
    rugged on a small scale. It starts at the sample: a random point would be misclassified by
    almost any model, whatever its gradients. Both losses are tried, with native and smooth
    backward passes, and through the surrogate networks that the model has, each on what is left,
    and judged by the deployed file. Where no gradient passes at all, every sample withstands.

    Args:
        target: The model.
        x: Samples, N×….
        y: Their labels, N.
        norm: ``linf`` or ``l2``.
        bounds: Smallest and largest value.
        limit: Only so many samples are attacked, the first that are classified correctly.
        settings: ``batch_size``, 64 by default; ``seed``, 0 by default; ``scales`` as attacks take
            them, by default measured on each batch.
    """
    given = {"batch_size": 64, "seed": 0, "scales": None, **(settings or {})}
    attacks = list(_attacks_without_limit(target, x, norm, bounds, given["seed"]))
    n = found = 0
    for points, labels in _correct(target, x, y, given["batch_size"]):
        left, classes = points[: limit - n], labels[: limit - n]
        n += len(left)
        native = [target.twin] if target.passes_gradients(left) else []
        modules = [*native, *target.networks.values()]
        for module, attack in itertools.product(modules, attacks):
            if len(left):
                moved = attack(module, left, classes, scales=given["scales"], judge=target.twin)
                robust = _named(target, moved) == classes
                left, classes = left[robust], classes[robust]
        found += len(left)
        if n >= limit:
            break
    return Count(n, found)


def whole_range(x: torch.Tensor, norm: Norm, bounds: Bounds) -> float:
    """Return the eps that puts every input within reach: the width of the box or its diagonal.

    Args:
        x: Samples, N×….
        norm: ``linf`` or ``l2``.
        bounds: Smallest and largest value.
    """
    width = bounds[1] - bounds[0]
    return width if norm == "linf" else width * float(dimensions(x)) ** 0.5


def _attacks_without_limit(
    target: Target, x: torch.Tensor, norm: Norm, bounds: Bounds, seed: int
) -> Iterator[PGD]:
    """Yield the attacks on which the check of a large eps rests."""
    backwards: list[dict[str, Any]] = [{}]
    if target.has_jumps:
        backwards += [{"backward": "smooth", "tau": tau} for tau in _LARGE_EPS_TAUS]
    eps = whole_range(x, norm, bounds)
    shared: dict[str, Any] = {"eps": eps, "norm": norm, "bounds": bounds, "seed": seed}
    descent: dict[str, Any] = {"steps": _LARGE_EPS_STEPS, "step_size": eps / 10, "momentum": 1.0}
    for backward in backwards:
        for loss in _LARGE_EPS_LOSSES:
            yield PGD(**shared, **descent, **backward, loss=loss, random_start=False)


def _correct(
    target: Target, x: torch.Tensor, y: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the samples that file and twin classify correctly, with their labels."""
    for start in range(0, len(x), batch_size):
        points = x[start : start + batch_size].to(target.device)
        labels = y[start : start + batch_size].to(target.device)
        with torch.no_grad():
            wrong = Search.wrong(target.twin(points), labels)
        right = ~wrong & (_named(target, points) == labels)
        if right.any():
            yield points[right], labels[right]


def _named(target: Target, points: torch.Tensor) -> torch.Tensor:
    """Return the classes that the file names."""
    return torch.as_tensor(target.predictions(points)).to(points.device)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference of logits, N×C, relative to the largest one of the sample."""
    same = (one == other) | (one.isnan() & other.isnan())
    differences = (one - other).abs().masked_fill(same, 0.0)
    largest = torch.maximum(one.abs(), other.abs()).nan_to_num(0.0, 0.0, 0.0).amax(1, keepdim=True)
    relative = differences / largest.clamp(min=torch.finfo(one.dtype).tiny)
    return float(relative.nan_to_num(math.inf, math.inf).max())
