"""The adversarial points that candidates fell for, to be tried on the others."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from onnxfit.calibration.cache import Arrays, Cache

# Of each sample.
MOST_POINTS = 4


class Pool:
    """Adversarial points of a block of samples, at most ``MOST_POINTS`` of each, in the cache.

    Args:
        cache: Where they are kept.
        name: Of the block.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self._name = cache, name
        self._rows: list[NDArray[np.intp]] = []
        self._points: list[NDArray[np.float32]] = []
        while (part := cache.get(f"{name}-{len(self._rows)}")) is not None:
            self._rows.append(part["rows"])
            self._points.append(part["points"])

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def add(
        self,
        rows: NDArray[np.intp],
        points: NDArray[np.float32],
        beside: Mapping[str, Arrays] = MappingProxyType({}),
    ) -> None:
        """Keep points of samples that do not have enough.

        Args:
            rows: The numbers of the samples in the block, n, none of them twice.
            points: n×….
            beside: Is put into the cache by name at the same time: all of it is kept, or nothing.
        """
        known = np.concatenate([np.zeros(0, np.intp), *self._rows])
        counts = np.bincount(known, minlength=int(rows.max(initial=-1)) + 1)
        room = counts[rows] < MOST_POINTS
        rows, points = rows[room], points[room]
        parts: dict[str, Arrays] = dict(beside)
        if len(rows):
            parts[f"{self._name}-{len(self._rows)}"] = {"rows": rows, "points": points}
        self._cache.put_all(parts)
        if len(rows):
            self._rows.append(rows)
            self._points.append(points)

    def points(
        self, left: NDArray[np.bool_], first: int = 0
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return the points of some samples and the numbers of these.

        Args:
            left: Which samples of the block.
            first: The number of the first point to look at.
        """
        if not self._rows:
            return np.zeros(0, np.intp), np.zeros(0, np.float32)
        rows = np.concatenate(self._rows)[first:]
        points = np.concatenate(self._points)[first:]
        return rows[left[rows]], points[left[rows]]
