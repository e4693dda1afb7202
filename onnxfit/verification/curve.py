"""Robust accuracy over eps: where each sample breaks, on a grid around the eps of the gate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.attacks.gradient import PGD
from onnxfit.data import Batch
from onnxfit.verification.suites import Threat, few_backwards
from onnxfit.verification.target import Target

# Shares of the gate's eps.
GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
STEPS = 20

Mask = NDArray[np.bool_]


class Curve:
    """Counts of robust samples at several eps, for the worst case and for native gradients alone.

    At the eps of the gate the counts are those of the suite. Elsewhere PGD looks, with fewer steps
    and backward passes: below, at the samples that broke, from the largest eps to the smallest;
    above, at those that are left. A sample that breaks at one eps counts as broken at all larger
    ones, as its point is within them.

    Args:
        threat: What the attacker of the gate may do.
        jumps: Whether surrogates make a difference.
        scales: The scale of each jump.
        networks: The surrogate networks that a model has, by name.
        batch_size: Samples computed at a time.
        seed: Of everything random.

    Attributes:
        eps: From 0 on.
        robust: How many samples are right in the worst case at each; at 0, how many are right.
        native: The same for native gradients alone.
    """

    def __init__(
        self,
        threat: Threat,
        *,
        jumps: bool,
        scales: Mapping[str, float],
        networks: Sequence[str] = (),
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self._threat, self._scales = threat, scales
        self._batch_size, self._seed = batch_size, seed
        few = few_backwards(jumps)
        every = [(None, few[1:]), *((network, few) for network in networks)]
        self._surrogates = [(network, settings) for network, some in every for settings in some]
        self.eps = (0.0, *(share * threat.eps for share in GRID))
        self.robust = np.zeros(len(self.eps), np.int64)
        self.native = np.zeros(len(self.eps), np.int64)

    def add(self, counts: Mapping[str, NDArray[Any]]) -> None:
        """Add what :meth:`measure` counted."""
        self.robust += counts["robust"]
        self.native += counts["native"]

    def measure(
        self, target: Target, shard: Batch, right: Mask, robust: Mask, native: Mask
    ) -> dict[str, NDArray[Any]]:
        """Count the samples of a shard that are right, at each eps.

        Args:
            target: The model.
            shard: The samples, n.
            right: Which the file classifies correctly, n booleans.
            robust: Which are right in the worst case at the gate's eps.
            native: Which are right under native gradients there.

        Returns:
            ``robust`` and ``native``: a count for each eps.
        """
        at_gate = GRID.index(1.0)
        masks = {at_gate: (robust, native)}
        # What holds at one eps holds at every smaller one.
        left = robust, native
        for at in reversed(range(at_gate)):
            suspects = right & ~left[0], right & ~left[1]
            broken = self._try(target, shard, GRID[at], *suspects)
            left = right & ~broken[0], right & ~broken[1]
            masks[at] = left
        left = robust, native
        for at in range(at_gate + 1, len(GRID)):
            broken = self._try(target, shard, GRID[at], *left)
            left = left[0] & ~broken[0], left[1] & ~broken[1]
            masks[at] = left
        rows = [(right, right), *(masks[at] for at in range(len(GRID)))]
        counts = np.array([[mask.sum() for mask in row] for row in rows], np.int64)
        return {"robust": counts[:, 0], "native": counts[:, 1]}

    def _try(
        self, target: Target, shard: Batch, share: float, worst: Mask, native: Mask
    ) -> tuple[Mask, Mask]:
        """Return which of some samples break in the worst case, and which by native gradients."""
        by_native = self._broken(target, shard, share, worst | native)
        broken = by_native.copy()
        for network, settings in self._surrogates:
            broken |= self._broken(target, shard, share, worst & ~broken, network, **settings)
        return broken & worst, by_native & native

    def _broken(
        self,
        target: Target,
        shard: Batch,
        share: float,
        given: Mask,
        network: str | None = None,
        **settings: Any,
    ) -> Mask:
        """Return which of some samples break under PGD, by the gradients of one network."""
        eps = share * self._threat.eps
        within = {**self._threat.settings, "eps": eps, "eot": self._threat.eot}
        attack = PGD(**within, steps=STEPS, seed=self._seed, **settings)
        broken = np.zeros(len(given), bool)
        module = target.followed(network, torch.from_numpy(shard.x[:1]))
        if module is None:
            return broken
        rows = np.flatnonzero(given)
        for start in range(0, len(rows), self._batch_size):
            at = rows[start : start + self._batch_size]
            x, y = torch.from_numpy(shard.x[at]), torch.from_numpy(shard.y[at])
            points = attack(module, x, y, scales=self._scales, judge=target.twin)
            broken[at] = target.predictions(points) != shard.y[at]
        return broken
