"""How bright the pixels of a saliency map are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PERCENTILE = 99

Array = NDArray[np.floating[Any]]


def strength(gradient: Array) -> Array:
    """Return the size of a gradient in each pixel, …×C×H×W and …×H×W.

    It is the largest absolute value over the channels; what is not finite counts as 0.
    """
    sizes: Array = np.abs(np.nan_to_num(gradient, posinf=0, neginf=0)).max(axis=-3)
    return sizes


def shades(saliency: Array) -> Array:
    """Return the grey of each pixel of a map, H×W, from 0 to 255.

    Black stands for 0, for less and for what is not finite; white from the map's 99th percentile
    on, or from its largest value on where that percentile is 0.
    """
    values = np.maximum(np.nan_to_num(saliency, posinf=0, neginf=0), 0)
    white = float(np.percentile(values, _PERCENTILE)) or float(values.max()) or 1.0
    grey: Array = np.minimum(values / white, 1) * 255
    return grey
