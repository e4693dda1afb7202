"""The digits that scikit-learn bundles, split into training, validation and test images."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Images(NamedTuple):
    """Labelled images, N x C x H x W in [0, 1]; the fields are the arrays of an .npz file."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


def load() -> Images:
    """Return all 1797 images, 1 x 8 x 8, in scikit-learn's order; a pixel is a multiple of 1/16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[:, np.newaxis] / 16).astype(np.float32)
    return Images(x, digits.target.astype(np.int64))


def split(seed: int = 0) -> tuple[Images, Images, Images]:
    """Return half of the images for training, a quarter for validation, a quarter for test.

    Each class is divided in these proportions, to within an image.
    """
    x, y = load()
    # Unlike Generator, RandomState keeps its stream in every version of NumPy.
    order = np.random.RandomState(seed).permutation(len(y))
    by_class = order[np.argsort(y[order], kind="stable")]
    validation, test = np.sort(by_class[0::4]), np.sort(by_class[1::4])
    training = np.setdiff1d(order, np.concatenate([validation, test]))
    return (
        Images(x[training], y[training]),
        Images(x[validation], y[validation]),
        Images(x[test], y[test]),
    )
