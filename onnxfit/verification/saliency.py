"""Saliency measured: whether maps tell what matters, agree, and stay what they are under attack."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.ball import by_sample, norms, unit_steps
from onnxfit.data import Dataset
from onnxfit.image_layout import is_picture, pixels_of
from onnxfit.saliency.maps import Saliency, saliency_of
from onnxfit.saliency.removal import STEPS, removal_areas, removal_order
from onnxfit.saliency.similarity import rank_correlations
from onnxfit.verification.campaign import Campaign, Found, Side
from onnxfit.verification.means import mean_record
from onnxfit.verification.result import Document
from onnxfit.verification.settings import Settings
from onnxfit.verification.statistics import Interval
from onnxfit.verification.target import Target

# Samples that are looked at: one in so many, but no fewer and no more than these.
ONE_IN, FEWEST, MOST = 10, 4, 32

NO_IMAGES = "the samples are no images of one or three channels, at most 4 times as long as wide"

AREA, GAIN, CORRELATION = (0.0, 1.0), (-2.0, 2.0), (-1.0, 1.0)
# What is measured, and between what it lies.
RANGES: dict[str, Interval] = {
    "deletion_gradient": AREA,
    "deletion_occlusion": AREA,
    "deletion_random": AREA,
    "insertion_gradient": AREA,
    "insertion_occlusion": AREA,
    "insertion_random": AREA,
    "gain_gradient": GAIN,
    "gain_occlusion": GAIN,
    "agreement": CORRELATION,
    "stability_gradient": CORRELATION,
    "noise_gradient": CORRELATION,
    "stability_occlusion": CORRELATION,
    "noise_occlusion": CORRELATION,
}
MEASURES = tuple(RANGES)

Values = dict[str, NDArray[np.float64]]


def maps_of(
    target: Target, x: NDArray[np.float32], y: NDArray[np.int64], batch_size: int
) -> Saliency:
    """Compute the maps of samples by a model: the gradient by its twin, the rest by its file.

    The gradient is the model's own, without a surrogate: what anyone gets who asks for it.
    """
    follows = target.passes_gradients(torch.from_numpy(x[:1]))
    twin = target.twin if follows else None
    return saliency_of(twin, target.deployed, x, y, device=target.device, batch_size=batch_size)


class SaliencyStudy:
    """Measures the maps of some samples, the same of each model, as shards pass by.

    Args:
        targets: The models.
        data: The samples.
        settings: How the models are attacked.
    """

    def __init__(self, targets: dict[Side, Target], data: Dataset, settings: Settings) -> None:
        self._targets, self._bounds, self._settings = targets, data.bounds, settings
        self._are_images = is_picture(data.shape)
        count = min(max(data.n // ONE_IN, FEWEST), MOST)
        self._rows = data.spread_rows(count if self._are_images else 0)
        self._parts: dict[Side, list[Values]] = {side: [] for side in targets}

    def look_at(self, found: Found, campaign: Campaign) -> None:
        """Measure those samples that are in a shard."""
        rows = self._rows[(self._rows >= found.start) & (self._rows < found.start + len(found.x))]
        if not len(rows):
            return
        at = rows - found.start
        x, y = found.x[at], found.y[at]
        # By sample, so that the size of a shard does not matter; the same for both models.
        draws = [np.random.default_rng([self._settings.seed, int(row)]) for row in rows]
        ties = np.stack([draw.permutation(math.prod(pixels_of(x.shape[1:]))) for draw in draws])
        noise = np.stack([draw.standard_normal(x.shape[1:], np.float32) for draw in draws])
        for side, target in self._targets.items():
            maps = maps_of(target, x, y, self._settings.batch_size)
            values = self._of_samples(target, maps, x, y, ties)
            broken = campaign.scores[side].finder[rows] >= 0
            points = found.points[side][at]
            self._parts[side].append(
                values | self._under_attack(target, maps, x, y, (broken, points, noise))
            )

    def record(self) -> Document:
        """Return the section of ``result.json``.

        The intervals of the differences, over the samples that both models have a value of, hold
        together with 95 % (Bonferroni).
        """
        if not self._are_images:
            return {"n": 0, "reason": NO_IMAGES}
        values = {
            side: {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}
            for side, parts in self._parts.items()
        }
        records: Document = {
            side: {
                name: mean_record(found, within=RANGES[name]) for name, found in measured.items()
            }
            for side, measured in values.items()
        }
        if "baseline" in values:
            together = 1 - 0.05 / len(MEASURES)
            records["difference"] = {
                name: mean_record(
                    values["model"][name] - values["baseline"][name],
                    together,
                    (low - high, high - low),
                )
                for name, (low, high) in RANGES.items()
            }
        return {"n": len(self._rows), "reason": None, "steps": STEPS, **records}

    def _of_samples(
        self,
        target: Target,
        maps: Saliency,
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        ties: NDArray[np.int64],
    ) -> Values:
        """Compute deletion and insertion in each order, and how far the maps agree.

        The gain of a map is insertion less deletion, beyond what a random order has of it.
        """
        images, labels = torch.from_numpy(x), torch.from_numpy(y)
        orders = {**maps._asdict(), "random": np.zeros_like(maps.occlusion)}
        values: Values = {}
        for name, order in orders.items():
            deletion = insertion = np.full(len(x), np.nan)
            if order is not None:
                deletion, insertion = removal_areas(
                    target.deployed,
                    images,
                    labels,
                    removal_order(order, ties),
                    batch_size=self._settings.batch_size,
                )
            values |= {f"deletion_{name}": deletion, f"insertion_{name}": insertion}
        for name in maps._fields:
            apart, control = (
                values[f"insertion_{order}"] - values[f"deletion_{order}"]
                for order in (name, "random")
            )
            values[f"gain_{name}"] = apart - control
        values["agreement"] = _alike(maps.gradient, maps.occlusion, len(x))
        return values

    def _under_attack(
        self,
        target: Target,
        maps: Saliency,
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        attacked: tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]],
    ) -> Values:
        """Compare the maps of broken samples with those at what broke them, and in noise."""
        broken, points, noise = attacked
        values = {name: np.full(len(x), np.nan) for name in MEASURES[-4:]}
        if not broken.any():
            return values
        x, y, points = x[broken], y[broken], points[broken]
        before = maps.of(broken)
        for kind, moved in {
            "stability": points,
            "noise": self._noisy(x, points, noise[broken]),
        }.items():
            after = maps_of(target, moved, y, self._settings.batch_size)
            for name, one, other in zip(Saliency._fields, before, after, strict=True):
                values[f"{kind}_{name}"][broken] = _alike(one, other, len(x))
        return values

    def _noisy(
        self,
        x: NDArray[np.float32],
        points: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return samples in noise as far away as their adversarial points, then clipped."""
        start, norm = torch.from_numpy(x), self._settings.norm
        length = norms(torch.from_numpy(points) - start, norm)
        moved = start + by_sample(length, start) * unit_steps(torch.from_numpy(noise), norm)
        clipped: NDArray[np.float32] = moved.clamp(*self._bounds).numpy()
        return clipped


def _alike(
    first: NDArray[np.float32] | None, second: NDArray[np.float32] | None, n: int
) -> NDArray[np.float64]:
    """Correlate maps of n samples; NaN where a model has none."""
    if first is None or second is None:
        return np.full(n, np.nan)
    return rank_correlations(first, second)
