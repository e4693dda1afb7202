"""The images that benchmarks measure with.

Those of others come from a folder beside the repository, or the one that ONNXFIT_SHARED names; the
project's own from ``models/``.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from trained_networks import MODELS, SHARED

MNIST = SHARED / "data/mnist_0_4999.npz"
# Test images of CIFAR-10 that went through JPEG, others that did not, and training images.
CIFAR10_JPEG = SHARED / "data/cifar10_jpeg_4000.npz"
CIFAR10_EXACT = SHARED / "data/cifar10_exact_549.npz"
CIFAR10_TRAIN = SHARED / "data/cifar10_jpeg_train2000.npz"
DIGITS_VAL, DIGITS_TEST = MODELS / "digits_val.npz", MODELS / "digits_test.npz"


@dataclass(frozen=True)
class Samples:
    """Rows of a file of samples: from the first, so many of them, every so many-th.

    Attributes:
        path: The file, with arrays x and y.
        start: The first row.
        count: How many rows.
        step: From one row to the next.
    """

    path: Path
    start: int
    count: int
    step: int = 1

    def read(self) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return samples, N×…, and labels, N."""
        rows = slice(self.start, self.start + self.count * self.step, self.step)
        with np.load(self.path) as file:
            return file["x"][rows], file["y"][rows].astype(np.int64)

    def first(self, count: int) -> "Samples":
        """Return the first of them."""
        return dataclasses.replace(self, count=min(count, self.count))

    def __str__(self) -> str:
        last = self.start + (self.count - 1) * self.step
        every = "" if self.step == 1 else f" in steps of {self.step}"
        return f"{self.path.name}, {self.start} to {last}{every}"
