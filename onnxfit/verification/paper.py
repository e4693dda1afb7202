"""The protocol by which the JumpReLU paper measures (Erichson, Yao and Mahoney, 2020)."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from onnxfit.attacks.attack import Attack, GradientAttack
from onnxfit.attacks.ball import Bounds, Norm, norms, unit_steps
from onnxfit.attacks.deepfool import nearest_boundary
from onnxfit.attacks.search import Search, with_labels
from onnxfit.attacks.trust_region import adapted, promise
from onnxfit.data import Batch
from onnxfit.errors import DataError
from onnxfit.twin.gradients import device_of
from onnxfit.twin.preprocessing import Preprocessed
from onnxfit.verification.deployed_classifier import DeployedClassifier
from onnxfit.verification.statistics import wilson
from onnxfit.verification.target import Target

BATCH = 2000  # The authors' batch, whose smallest and largest value bound the attacks.
STEPS = 40
RIVALS = 9
OVERSHOOT = 0.02
ADAPTIVE = "trust-region-adaptive-l2"
NUDGE = 1e-4  # What the authors add to every step, in normalised units.

# So many samples go through a network at a time.
_CHUNK = 250
# Longer steps end at the bounds all the same.
_LONGEST = 1e30


@dataclass(frozen=True, kw_only=True)
class SignSteps(GradientAttack):
    """The paper's IFGSM: steps along the sign of the gradient of the cross-entropy.

    Unlike :class:`onnxfit.attacks.gradient.BIM` it is not projected and climbs the cross-entropy
    itself, whose gradient loses its direction where the label's probability rounds to 1. Where the
    gradient is exactly 0 the sample stays where it is.

    Attributes:
        steps: Largest number of steps.
        step_size: Of a step, in units of the bounds.
    """

    steps: int = STEPS
    step_size: float

    def _attack(self, search: Search) -> None:
        rows = search.rows()
        points = search.x[rows]
        for _ in range(self.steps):
            loss = with_labels(_cross_entropy, search.labels[rows])
            logits, _, gradient = search.gradient(points, loss)
            step = self.step_size * unit_steps(gradient, "linf")
            left = ~search.record(rows, points, logits) & (step != 0).flatten(1).any(1)
            search.keep(rows[~left], points[~left])
            if not left.any():
                return
            rows = rows[left]
            points = search.ball[rows].project(points[left] + step[left])
        search.record(rows, points, search.compute(points))
        search.keep(rows, points)


@dataclass(frozen=True, kw_only=True)
class Linearised(GradientAttack):
    """The paper's DeepFool and trust-region attack: steps across the nearest linear boundary.

    Unlike in :class:`onnxfit.attacks.deepfool.DeepFool` the steps start from the last point, each
    with an overshoot of its own, and the last point is returned whether it is misclassified or
    not. Where the gradients of all rivals are exactly 0, the authors' code divides by 0 and goes on
    with NaN; here the sample stays where it is.

    Attributes:
        steps: Largest number of steps.
        longest: Of a step, before the overshoot; None for as far as the boundary is.
        keep_rival: Keep to the rival that is nearest at first, as the trust-region attack does, not
            choose among the 9 likeliest at every step.
        adaptive: Let the longest step follow how true the gradient was, as Yao et al. (2019) do.
            It takes a rival that is kept.
    """

    steps: int = STEPS
    longest: float | None = None
    keep_rival: bool = False
    adaptive: bool = False

    def _attack(self, search: Search) -> None:
        rows = search.rows()
        points = search.x[rows]
        first = _LONGEST if self.longest is None else self.longest
        radius = torch.full_like(search.logits[rows, 0], first)
        gap = promised = radius  # Set by the first step.
        rivals: torch.Tensor | int = RIVALS
        for number in range(self.steps):
            near = nearest_boundary(search, points, search.labels[rows], rivals)
            if self.adaptive and number:
                radius = adapted(radius, (gap - near.gap) / promised, first)
            left = ~search.record(rows, points, near.logits) & near.reachable
            search.keep(rows[~left], points[~left])
            if not left.any():
                return
            rows, points, near, radius = rows[left], points[left], near[left], radius[left]
            step = near.step(torch.minimum(near.distance, radius), OVERSHOOT, NUDGE)
            ahead = search.ball[rows].project(points + step)
            if self.adaptive:
                gap, promised = near.gap, promise(near.gradient, ahead - points)
            points = ahead
            if self.keep_rival:
                rivals = near.rival[:, None]
        search.record(rows, points, search.compute(points))
        search.keep(rows, points)


@dataclass(frozen=True)
class _Protocol:
    """One attack of the paper: its name, its norm and what it may take for granted."""

    name: str
    norm: Norm
    eps: float | None
    settings: dict[str, Any]
    make: Callable[[Bounds], Attack]

    def timed(
        self, target: Target, x: torch.Tensor, y: torch.Tensor, box: Bounds
    ) -> tuple[torch.Tensor, float]:
        """Attack normalised samples; return the points and the seconds that it took."""
        started = time.perf_counter()
        # A batch of one value leaves nothing to move.
        points = self.make(box)(target.classifier, x, y) if box[0] < box[1] else x
        return points, time.perf_counter() - started


def protocols(eps: float, steps: int) -> list[_Protocol]:
    """List the paper's attacks.

    Args:
        eps: The step of IFGSM and the radius of the trust region, in normalised units.
        steps: Largest number of steps of each.

    Returns:
        Those that the authors ran, then the trust region whose radius adapts.
    """

    def ifgsm(box: Bounds) -> Attack:
        return SignSteps(step_size=eps, steps=steps, bounds=box)

    def linearised(norm: Norm, **options: Any) -> Callable[[Bounds], Attack]:
        return lambda box: Linearised(norm=norm, steps=steps, bounds=box, **options)

    shared = {"steps": steps, "units": "normalised"}
    fool = {**shared, "rivals": RIVALS, "overshoot": OVERSHOOT}
    trust = {**fool, "trust_radius": eps}
    region = {"longest": eps, "keep_rival": True}
    fixed, adaptive = linearised("l2", **region), linearised("l2", **region, adaptive=True)
    return [
        _Protocol("ifgsm", "linf", eps, {**shared, "step_size": eps}, ifgsm),
        _Protocol("deepfool-linf", "linf", None, fool, linearised("linf")),
        _Protocol("deepfool-l2", "l2", None, fool, linearised("l2")),
        _Protocol("trust-region-l2", "l2", eps, trust, fixed),
        _Protocol(ADAPTIVE, "l2", eps, {**trust, "adaptive": True}, adaptive),
    ]


def run(
    hard: Target,
    plain: Target,
    batches: Iterable[Batch],
    *,
    eps: float = 0.01,
    steps: int = STEPS,
    advance: Callable[[int], object] = lambda count: None,
) -> list[dict[str, Any]]:
    """Attack a hardened model as its paper does.

    All attacks compute in normalised units, and between the smallest and the largest value of the
    batch, so that the batch size matters: the authors' scripts take 2000. Their box is narrower
    still once the samples with those values are fooled; this one stays. All stop with a sample
    once it is misclassified, and do nothing to those that are from the start.

    The attacks whose names begin with ``transfer-`` are made on the plain model; all are judged on
    the hardened file: its session in ONNX Runtime is given the normalised points as they are.

    Args:
        hard: The hardened model.
        plain: The same weights at jump 0.
        batches: Samples in the units of the data, in order.
        eps: The step of IFGSM and the radius of the trust region, in normalised units.
        steps: Largest number of steps of each attack.
        advance: Is called with a number of samples that all attacks are done with, N in all.

    Returns:
        A record for each attack as in ``result.json``. ``attacked`` are all samples;
        ``twin_success`` and ``deployed_success`` count those that the hardened model's twin and
        file misclassify. ``mean_relative_perturbation`` and ``mean_absolute_perturbation`` are of
        ``‖δ‖ / ‖x‖`` and ``‖δ‖`` in normalised units and the attack's norm, over all samples, what
        was not attacked counting as 0; a sample of 0 alone has no relative one and is left out.

    Raises:
        DataError: There are no samples.
    """
    attacks = protocols(eps, steps)
    # The file's own input is normalised, so that the points need not be mapped back.
    file = DeployedClassifier(
        hard.classifier, Preprocessed(hard.classifier), hard.deployed.deployed
    )
    white = [_Tally(attack.name, attack, hard.classifier, file) for attack in attacks]
    black = [_Tally(f"transfer-{t.name}", t.attack, t.twin, file) for t in white]
    for batch in batches:
        for x, y, box in _chunks(hard, batch):
            for own, transferred in zip(white, black, strict=True):
                made = own.attack.timed(hard, x, y, box)
                own.add(x, y, *made)
                if plain is not hard:
                    made = own.attack.timed(plain, x, y, box)
                transferred.add(x, y, *made)
            advance(len(x))
    # What the authors did not run comes last.
    tallies = (*white[:-1], *black[:-1], white[-1], black[-1])
    return [tally.record() for tally in tallies]


def _chunks(target: Target, batch: Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor, Bounds]]:
    """Yield the normalised samples of a batch, their labels and the box of the whole batch."""
    if not len(batch.x):
        return
    device = device_of(target.twin)
    x = target.twin.normalised(torch.as_tensor(batch.x).to(device))
    y = torch.as_tensor(batch.y).to(device)
    box = (float(x.min()), float(x.max()))
    for start in range(0, len(x), _CHUNK):
        yield x[start : start + _CHUNK], y[start : start + _CHUNK], box


@dataclass
class _Tally:
    """Sums over the samples that one attack was given; no sample is kept."""

    name: str
    attack: _Protocol
    twin: torch.nn.Module
    file: torch.nn.Module
    n: int = 0
    twin_success: int = 0
    file_success: int = 0
    with_norm: int = 0
    relative: float = 0.0
    absolute: float = 0.0
    seconds: float = 0.0

    def add(self, x: torch.Tensor, y: torch.Tensor, points: torch.Tensor, seconds: float) -> None:
        """Judge the points that were made of samples."""
        with torch.no_grad():
            self.twin_success += int(Search.wrong(self.twin(points), y).sum())
        self.file_success += int(Search.wrong(self.file(points), y).sum())
        sizes = norms(x.double(), self.attack.norm)
        moved = norms(points.double() - x.double(), self.attack.norm)
        some = sizes > 0
        self.n += len(x)
        self.with_norm += int(some.sum())
        self.relative += float((moved[some] / sizes[some]).sum())
        self.absolute += float(moved.sum())
        self.seconds += seconds

    def record(self) -> dict[str, Any]:
        """Return the record of ``result.json``.

        Raises:
            DataError: There was no sample.
        """
        if not self.n:
            raise DataError("there are no samples to attack")
        right = self.n - self.file_success
        accuracy = right / self.n
        return {
            "name": self.name,
            "backward": "true",
            "norm": self.attack.norm,
            "eps": self.attack.eps,
            "settings": self.attack.settings,
            "attacked": self.n,
            "twin_success": self.twin_success,
            "deployed_success": self.file_success,
            "accuracy": accuracy,
            "robust_accuracy": accuracy,
            "ci95": list(wilson(right, self.n)),
            "mean_relative_perturbation": self.relative / max(self.with_norm, 1),
            "mean_absolute_perturbation": self.absolute / self.n,
            "seconds": self.seconds,
        }


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each sample, N×C and N → N."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
