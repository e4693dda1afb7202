"""Bins of positive float32 numbers, found by a shift of their bits."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What float32 has: 23 bits of mantissa, and powers of two from 2**-126 on; below that, to 0, its
# numbers lie as far apart as there, which makes one more interval.
MANTISSA_BITS = 23
EXPONENTS = (-127, 128)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Bins:
    """Bins of the same width between two powers of two, and one for all below and above.

    Attributes:
        mantissa_bits: b; there are 2^b bins between neighbouring powers, 0 to 23.
        exponents: Of the smallest and the largest power, within -127 and 128.

    Raises:
        ValueError: One of them is out of range.
    """

    mantissa_bits: int
    exponents: tuple[int, int]

    def __post_init__(self) -> None:
        low, high = self.exponents
        if not 0 <= self.mantissa_bits <= MANTISSA_BITS:
            raise ValueError(f"expected mantissa_bits of 0 to 23, got {self.mantissa_bits}")
        if not EXPONENTS[0] <= low < high <= EXPONENTS[1]:
            raise ValueError(
                f"expected exponents in order within -127 and 128, got {self.exponents}"
            )

    @property
    def count(self) -> int:
        """How many bins there are."""
        low, high = self.exponents
        return ((high - low) << self.mantissa_bits) + 2

    def of(self, numbers: Floats) -> Integers:
        """Return the bin of each number, that of the nearest float32 above 0."""
        bounded = numbers.clip(0.0, float(np.finfo(np.float32).max)).astype(np.float32)
        return self.of_bits(bounded.view(np.int32).astype(np.int64))

    def of_bits(self, bits: Integers) -> Integers:
        """Return the bin of each number by its bits."""
        # One less, so that a bin holds its upper edge: a jump drops what is equal to it.
        found = ((bits - 1) >> self._shift) - (self._first >> self._shift) + 1
        return found.clip(0, self.count - 1)

    def edge(self, number: Integers) -> Floats:
        """Return edges by number: bin i is above edge i and at most edge i + 1."""
        bits = ((number - 1).clip(0) << self._shift) + self._first
        edges = bits.astype(np.uint32).view(np.float32).astype(np.float64)
        return np.where(number == 0, 0.0, np.where(number == self.count, math.inf, edges))

    @property
    def _shift(self) -> int:
        return MANTISSA_BITS - self.mantissa_bits

    @property
    def _first(self) -> int:
        """The bits of 2^low, or of 0 where low is -127."""
        return (self.exponents[0] - EXPONENTS[0]) << MANTISSA_BITS
