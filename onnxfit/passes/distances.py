"""How near features are to each other, and how their neighbours count."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxfit import checks
from onnxfit.passes.arithmetic import Arithmetic

# Of a squared distance: two equal features are as near as that.
_TINY = 1e-30
# Rows of a matrix of distances between templates that are held at a time.
_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """How neighbours count.

    Attributes:
        neighbours: How many count, k.
        bandwidth_neighbour: Which of them is one bandwidth away, counted from 1, m.

    Raises:
        ValueError: One is out of its range.
    """

    neighbours: int = 15
    bandwidth_neighbour: int = 8

    def __post_init__(self) -> None:
        checks.whole("neighbours", self.neighbours, 1)
        checks.whole("bandwidth_neighbour", self.bandwidth_neighbour, 1)
        if self.bandwidth_neighbour > self.neighbours:
            raise ValueError(
                f"expected a bandwidth_neighbour from 1 to the {self.neighbours} neighbours, "
                f"got {self.bandwidth_neighbour}"
            )


class Nearness:
    """Minus the squared distances of a batch of features: the nearest are the largest.

    Args:
        build: Adds the nodes, in the type that distances are computed in.
        x: The features, N×D.
        templates: Features that the file holds, M×D.
    """

    def __init__(self, build: Arithmetic, x: gs.Tensor, templates: NDArray[np.float32]) -> None:
        self._build, self._x = build, x
        self._own = build("MatMul", build("Mul", x, x), self._ones(templates.shape[1]))
        self._two = build.number("two", 2)
        self._templates = templates

    def to_templates(self) -> Any:
        """Return them to each template, N×M."""
        stored = self._build.stored("templates", self._templates)
        squares = np.square(self._templates.astype(np.float64)).sum(1)
        held = self._build.constant("squares", squares[None].astype(self._build.dtype))
        return self._to(stored, held)

    def among_themselves(self) -> Any:
        """Return them to each of the batch, N×N, about 0 on the diagonal."""
        return self._to(self._x, self._build("Transpose", self._own, perm=[1, 0]))

    def _to(self, others: gs.Tensor, squares: gs.Tensor) -> Any:
        """Return them to other features, of which the squared lengths are a row."""
        build = self._build
        product = build("MatMul", self._x, build("Transpose", others, perm=[1, 0]))
        twice = build("Mul", product, self._two)
        nearness = build("Sub", build("Sub", twice, self._own), squares)
        return build("Neg", build("Abs", nearness))  # Rounding may leave more than 0.

    def _ones(self, count: int) -> gs.Constant:
        return self._build.constant("ones", np.ones((count, 1), self._build.dtype))


def width(build: Arithmetic, nearness: gs.Tensor) -> Any:
    """Return σ² where the neighbour at one bandwidth is so near."""
    return build("Add", build("Neg", nearness), build.number("tiny", _TINY))


def nearest_others(templates: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Return the squared distances of each template to its nearest others.

    Args:
        templates: M×D.
        count: How many; fewer where there are no more others.

    Returns:
        From the nearest on, M×min(count, M − 1).
    """
    points = templates.astype(np.float64)
    squares = np.square(points).sum(1)
    count = min(count, len(points) - 1)
    found = np.empty((len(points), count))
    for start in range(0, len(points), _ROWS):
        rows = slice(start, start + _ROWS)
        distances = np.abs(squares[rows, None] + squares - 2 * points[rows] @ points.T)
        each = np.arange(len(distances))
        distances[each, start + each] = np.inf
        found[rows] = np.sort(np.partition(distances, count, 1)[:, :count], 1)
    return found
