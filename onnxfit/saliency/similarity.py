"""How alike two saliency maps are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.correlation import spearman

Array = NDArray[np.floating[Any]]


def rank_correlations(first: Array, second: Array) -> NDArray[np.float64]:
    """Compute Spearman's ρ of two maps of each sample, n×H×W both.

    Only the order of the pixels counts, so that maps in different units can be compared.

    Returns:
        From −1 to 1, n; NaN where a map is the same everywhere, which orders nothing.
    """
    return np.array([spearman(one, other) for one, other in zip(first, second, strict=True)], float)
