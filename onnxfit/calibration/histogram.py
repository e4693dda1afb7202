"""A bounded sketch of numbers: counts of the positive ones by size, and the moments of all."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxfit.calibration.bins import EXPONENTS, Bins, Floats, Integers

# What is enough for one channel of many.
CHANNEL_MANTISSA_BITS = 4
CHANNEL_EXPONENTS = (-32, 32)
# Numbers that are counted at a time.
BLOCK = 2**17

_MOST = np.iinfo(np.uint32).max
# What is added up for each channel, beside the counts.
_SUMS = ("count", "nan", "infinite", "mean", "smallest", "largest", "_squares", "_positives")


class Histogram:
    """Counts of positive float32 numbers in bins as wide as the top bits of their mantissa allow.

    With *b* bits the numbers in (2^e, 2^(e+1)] fall into 2^b bins of the same width, found by a
    shift of their bits. The counts depend on neither order nor batches, and two histograms merge
    into that of all numbers. A number is known to within a relative error of 2^-b; those that
    share a bin are taken as spread evenly over it. Below 2^-126 the error is at most 2^-(126+b).

    Powers of two from 2^low to 2^high are told apart; below and above there is a bin each, in
    which the bound does not hold. All bits of the exponent and 11 of the mantissa make 522,242
    bins: 2 MiB for a network's site. For a site of many channels 4 bits and 2^-32 to 2^32 make
    1,026 bins: 4 KiB a channel. Counts are of 32 bits, and of 64 when numbers of one channel
    become more than those hold.

    Args:
        channels: How many channels are counted apart.
        mantissa_bits: The bits b, 0 to 23.
        exponents: low and high, within -127 and 128.

    Attributes:
        channels: How many channels there are.
        mantissa_bits: The bits b.
        exponents: low and high.
        counts: Numbers in each bin, channels × bins.
        count: Finite numbers seen in each channel, the negative ones included.
        nan: How many NaN were seen in each channel; they are counted here alone.
        infinite: How many infinities of either sign were; they are counted here alone.
        mean: Mean of the finite numbers of each channel, 0 where there is none.
        smallest: The smallest positive number of each channel, infinity where there is none.
        largest: The largest, 0 where there is none.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        channels: int = 1,
        mantissa_bits: int = 11,
        exponents: tuple[int, int] = EXPONENTS,
    ) -> None:
        if channels < 1:
            raise ValueError(f"expected channels >= 1, got {channels}")
        self.channels, self.mantissa_bits, self.exponents = channels, mantissa_bits, exponents
        self._bins = Bins(mantissa_bits, exponents)
        self.counts: NDArray[np.uint32] | NDArray[np.uint64] = np.zeros(
            (channels, self._bins.count), np.uint32
        )
        self.count: Integers = np.zeros(channels, np.int64)
        self.nan: Integers = np.zeros(channels, np.int64)
        self.infinite: Integers = np.zeros(channels, np.int64)
        self.mean: Floats = np.zeros(channels)
        self.smallest: Floats = np.full(channels, math.inf)
        self.largest: Floats = np.zeros(channels)
        self._squares: Floats = np.zeros(channels)
        self._positives: Integers = np.zeros(channels, np.int64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that it holds by name; counts between the first and the last bin in use."""
        used = np.flatnonzero(self.counts.any(axis=0))
        first, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        return {
            "bins": np.array([self.mantissa_bits, *self.exponents]),
            "first": np.array(first),
            "counts": self.counts[:, first:stop].copy(),
            **{name.removeprefix("_"): getattr(self, name).copy() for name in _SUMS},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Histogram":
        """Make the histogram that gave arrays."""
        mantissa_bits, low, high = arrays["bins"].tolist()
        some, first = arrays["counts"], int(arrays["first"])
        found = cls(len(some), mantissa_bits, (low, high))
        found.counts = found.counts.astype(some.dtype)
        found.counts[:, first : first + some.shape[1]] = some
        for name in _SUMS:
            setattr(found, name, arrays[name.removeprefix("_")])
        return found

    @property
    def positives(self) -> Integers:
        """How many numbers above 0 each channel has."""
        return self._positives.copy()

    @property
    def positive(self) -> Floats:
        """Share of the finite numbers of each channel that is above 0; 0 where there is none."""
        return self._positives / np.maximum(self.count, 1)

    @property
    def std(self) -> Floats:
        """Standard deviation of the finite numbers of each channel; 0 where there is none."""
        return np.sqrt(self._squares / np.maximum(self.count, 1))

    @property
    def relative_error(self) -> float:
        """By what share of itself a quantile may be wrong: 2^-b."""
        return 2.0**-self.mantissa_bits

    def add(self, values: NDArray[np.float32], axis: int = 1) -> None:
        """Count numbers.

        Args:
            values: Of any shape.
            axis: The axis whose positions are the channels; not read where there is one channel.

        Raises:
            TypeError: They are not float32.
            ValueError: They have no such axis of this length.
        """
        if values.dtype != np.float32:
            raise TypeError(f"expected float32, got {values.dtype}")
        if self.channels > 1 and not -values.ndim <= axis < values.ndim:
            raise ValueError(f"expected an array with an axis {axis}, got {values.ndim} axes")
        if self.channels > 1 and values.shape[axis] != self.channels:
            raise ValueError(f"expected {self.channels} channels, got {values.shape[axis]}")
        # A signalling NaN makes NumPy warn.
        with np.errstate(invalid="ignore"):
            for block in self._blocks(values, axis):
                self._add_moments(block)
                self._add_counts(block)

    def merge(self, other: "Histogram") -> None:
        """Take in the numbers of another histogram, which stays as it is.

        Raises:
            ValueError: It has other channels or bins.
        """
        for name in ("channels", "mantissa_bits", "exponents"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                raise ValueError(f"histograms of the same {name} merge, got {mine} and {others}")
        self._widen(other._positives)
        self.counts += other.counts.astype(self.counts.dtype)
        self._positives += other._positives
        self.nan += other.nan
        self.infinite += other.infinite
        self.smallest = np.minimum(self.smallest, other.smallest)
        self.largest = np.maximum(self.largest, other.largest)
        self._merge_moments(other.count, other.mean, other._squares)

    def quantile(self, q: float) -> Floats:
        """Return the quantile of the positive numbers of each channel, 0 where there is none.

        It is defined as by ``numpy.quantile``, never falls as ``q`` rises, and lies within the
        smallest and the largest number seen. That of numbers times a factor is that of the
        numbers, times the factor, to within twice the error of each.

        Raises:
            ValueError: ``q`` is not within 0 and 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"expected a quantile within 0 and 1, got {q}")
        if not self._positives.any():
            return np.zeros(self.channels)
        position = q * np.maximum(self._positives - 1, 0)
        rank = np.floor(position)
        start, stop = self._bins.of(np.array([self.smallest.min(), self.largest.max()]))
        cumulated = np.cumsum(self.counts[:, start : stop + 1], axis=1, dtype=np.int64)
        lower = self._ranked(rank, cumulated, start)
        upper = self._ranked(np.minimum(rank + 1, self._positives - 1), cumulated, start)
        found: Floats = np.minimum(lower + (upper - lower) * (position - rank), upper)
        return found

    def share_below(self, limits: ArrayLike) -> Floats:
        """Return which share of the positive numbers of each channel is at most a limit.

        It is exact where the limit is an edge of a bin, as 0.5 and 1 are, and else wrong by no
        more than the share of the numbers that are in its bin. 0 where there is no number.

        Args:
            limits: One for all channels, or one for each.

        Raises:
            ValueError: A limit is NaN, or there is another number of them.
        """
        limits = np.asarray(limits, np.float64)
        if limits.shape not in {(), (self.channels,)} or np.isnan(limits).any():
            raise ValueError(f"expected a limit, or one for each of {self.channels} channels")
        limits = np.broadcast_to(limits, (self.channels,))
        rows = np.arange(self.channels)
        at = self._bins.of(limits)
        below = np.array([row[:stop].sum() for row, stop in zip(self.counts, at, strict=True)])
        low, high = self._span(at)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(limits >= high, 1.0, ((limits - low) / (high - low)).clip(0, 1))
        share: Floats = (below + self.counts[rows, at] * part) / np.maximum(self._positives, 1)
        return share

    def _span(self, bins: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return within which limits the numbers of a bin of each channel lie."""
        low = np.maximum(self._bins.edge(bins), np.where(self._positives > 0, self.smallest, 0.0))
        return low, np.minimum(self._bins.edge(bins + 1), self.largest)

    def _ranked(self, rank: Floats, cumulated: Integers, start: int) -> Floats:
        """Return which number is about the one of a rank; counts are cumulated from a bin on."""
        rows, rank = np.arange(self.channels), np.maximum(rank, 0.0)
        at = (cumulated <= rank[:, None]).sum(axis=1).clip(0, cumulated.shape[1] - 1)
        here = self.counts[rows, at + start].astype(np.float64)
        before = cumulated[rows, at] - here
        low, high = self._span(at + start)
        part = (rank - before + 0.5) / np.maximum(here, 1.0)
        found = np.minimum(low + (high - low) * part, high)
        # The first and the last are known.
        found = np.where(rank == 0, self.smallest, found)
        found = np.where(rank >= self._positives - 1, self.largest, found)
        return np.where(self._positives > 0, found, 0.0)

    def _blocks(self, values: NDArray[np.float32], axis: int) -> Iterator[NDArray[np.float32]]:
        """Yield values in parts of a bounded size, N×channels×M."""
        if self.channels == 1:
            flat = np.ascontiguousarray(values).reshape(1, 1, -1)
            for start in range(0, flat.shape[2], BLOCK):
                yield flat[:, :, start : start + BLOCK]
            return
        axis %= values.ndim
        outer = math.prod(values.shape[:axis])
        inner = math.prod(values.shape[axis + 1 :])
        parts = np.ascontiguousarray(values).reshape(outer, self.channels, inner)
        rows = max(1, BLOCK // max(1, self.channels * inner))
        for start in range(0, outer if inner else 0, rows):
            yield parts[start : start + rows]

    def _add_moments(self, block: NDArray[np.float32]) -> None:
        finite = np.isfinite(block)
        count = finite.sum(axis=(0, 2), dtype=np.int64)
        wide = block.astype(np.float64)
        if not finite.all():
            nan = np.isnan(block).sum(axis=(0, 2), dtype=np.int64)
            self.nan += nan
            self.infinite += block.shape[0] * block.shape[2] - count - nan
            wide[~finite] = 0.0
        mean = wide.sum(axis=(0, 2)) / np.maximum(count, 1)
        wide -= mean[:, None]
        wide[~finite] = 0.0
        self._merge_moments(count, mean, np.square(wide, out=wide).sum(axis=(0, 2)))

    def _merge_moments(self, count: Integers, mean: Floats, squares: Floats) -> None:
        """Take in the moments of other numbers (Chan, Golub and LeVeque 1983)."""
        total = np.maximum(self.count + count, 1)
        gap = mean - self.mean
        self.mean = self.mean + gap * (count / total)
        self._squares = self._squares + squares + gap**2 * (self.count * (count / total))
        self.count += count

    def _add_counts(self, block: NDArray[np.float32]) -> None:
        kept = (block > 0) & (block < math.inf)
        positives = kept.sum(axis=(0, 2), dtype=np.int64)
        if not positives.any():
            return
        self._widen(positives)
        self._positives += positives
        smallest = block.min(axis=(0, 2), where=kept, initial=math.inf)
        self.smallest = np.minimum(self.smallest, smallest)
        self.largest = np.maximum(self.largest, block.max(axis=(0, 2), where=kept, initial=0.0))
        bins = self._bins.of_bits(np.ascontiguousarray(block).view(np.int32).astype(np.int64))
        bins += self._bins.count * np.arange(self.channels)[:, None]
        np.add.at(self.counts.reshape(-1), bins[kept], self.counts.dtype.type(1))

    def _widen(self, more: Integers) -> None:
        """Make the counts wide enough for so many more positive numbers of each channel."""
        if self.counts.dtype == np.uint32 and int((self._positives + more).max()) > _MOST:
            self.counts = self.counts.astype(np.uint64)
