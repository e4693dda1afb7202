"""The histogram finds quantiles, shares and moments within its bounds, whatever the order."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxfit.calibration.histogram import (
    BLOCK,
    CHANNEL_EXPONENTS,
    CHANNEL_MANTISSA_BITS,
    Histogram,
)

SOME_Q = (0.0, 0.001, 0.1, 0.25, 0.333, 0.5, 0.75, 0.9, 0.999, 1.0)
CHANNEL = (CHANNEL_MANTISSA_BITS, CHANNEL_EXPONENTS)


def lognormal(rng: np.random.Generator) -> NDArray[Any]:
    """Numbers over 12 orders of magnitude: ±2.5 standard deviations are ±6 decades."""
    return 10 ** (rng.standard_normal(20_000) * 2.4)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], NDArray[Any]]] = {
    "normal": lambda rng: rng.standard_normal(20_000),
    "shifted": lambda rng: rng.standard_normal(5_000) + 1000,
    "uniform": lambda rng: rng.random(20_000),
    "lognormal": lognormal,
    "more than a block": lambda rng: rng.standard_normal(2 * BLOCK + 77),
    "constant": lambda _: np.full(1000, 0.3),
    "one number": lambda _: np.array([0.7]),
    "two numbers": lambda _: np.array([0.7, 5000.0]),
    "few values": lambda rng: rng.choice([0.1, 0.2, 0.30001, 7.0], 1000),
    "powers of two": lambda rng: 2.0 ** rng.integers(-20, 20, 1000),
    "whole numbers": lambda rng: rng.integers(-10, 256, 1000),
    "two far apart": lambda rng: rng.choice([1e-30, 1e30], 999),
    "half zeros": lambda rng: rng.standard_normal(1000) * rng.integers(0, 2, 1000),
}


def floats(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return values as float32."""
    return np.asarray(values, np.float32)


def histogram(values: NDArray[Any], *layout: Any) -> Histogram:
    """Return a histogram of one channel."""
    found = Histogram(1, *layout)
    found.add(floats(values))
    return found


def positive(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the finite positive numbers among values, rounded to float32."""
    values = floats(values)
    kept: NDArray[np.float64] = values[(values > 0) & np.isfinite(values)].astype(np.float64)
    return kept


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", [0, 4, 11])
def test_quantiles_are_within_the_bound(name: str, bits: int) -> None:
    """Each differs from that of ``numpy.quantile`` by no more than 2^-bits of it."""
    for seed in range(3):
        values = DISTRIBUTIONS[name](np.random.default_rng(seed))
        found, kept = histogram(values, bits), positive(values)
        assert 2.0**-bits == found.relative_error
        for q in SOME_Q:
            expected = np.quantile(kept, q)
            assert abs(found.quantile(q)[0] - expected) <= expected * found.relative_error


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantiles_never_fall(name: str) -> None:
    """They rise with q, from the smallest number seen to the largest."""
    values = DISTRIBUTIONS[name](np.random.default_rng(5))
    for layout in ((8,), (0,), CHANNEL):
        found = histogram(values, *layout)
        quantiles = np.array([found.quantile(q)[0] for q in np.linspace(0, 1, 101)])
        assert (np.diff(quantiles) >= 0).all()
        kept = positive(values)
        assert (kept.min(), kept.max()) == (quantiles[0], quantiles[-1])


@pytest.mark.parametrize("seed", range(20))
def test_every_bit_pattern_is_counted(seed: int) -> None:
    """Random bits, which are denormals, NaN and infinities too, lie where they belong."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, int(rng.integers(1, 3000)), dtype=np.uint32)
    bits[rng.random(len(bits)) < 0.1] |= 0x7F800000
    bits[rng.random(len(bits)) < 0.1] &= 0x807FFFFF
    values = bits.view(np.float32)
    found, kept = histogram(values), positive(values)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert len(finite) == found.count[0]
    assert len(kept) == found.positives[0] == found.counts.sum()
    assert np.isnan(values).sum() == found.nan[0]
    assert np.isinf(values).sum() == found.infinite[0]
    for q in SOME_Q if len(kept) else ():
        expected = np.quantile(kept, q)
        assert abs(found.quantile(q)[0] - expected) <= expected * 2**-11 + 2.0**-137


def test_denormal_numbers_have_an_absolute_bound() -> None:
    """Below 2^-126 a quantile is known to within 2^-(126 + bits)."""
    values = np.random.default_rng(0).integers(1, 2**23, 5000, dtype=np.uint32).view(np.float32)
    for bits in (0, 4, 11):
        found = histogram(values, bits)
        for q in SOME_Q:
            expected = np.quantile(values.astype(np.float64), q)
            assert abs(found.quantile(q)[0] - expected) <= 2.0 ** -(126 + bits)


def test_smallest_and_largest_float32() -> None:
    """The ends of the format are counted, and quantiles between them are finite."""
    ends = np.array([2.0**-149, float(np.finfo(np.float32).max)])
    for layout in ((11,), CHANNEL):
        found = histogram(ends, *layout)
        assert list(ends) == [found.quantile(0)[0], found.quantile(1)[0]]
        assert ends.mean() == pytest.approx(found.quantile(0.5)[0])


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("factor", [1000.0, 0.001, 1 / 3])
def test_quantiles_scale_with_the_numbers(name: str, factor: float) -> None:
    """Both are within the bound, so that they differ by twice of it and float32's rounding."""
    values = floats(DISTRIBUTIONS[name](np.random.default_rng(1)))
    # Where the window of few exponents ends it is the window that decides.
    inside = values[(values <= 0) | ((values > 1e-6) & (values < 1e6))]
    for layout, numbers in (((11,), values), (CHANNEL, inside)):
        one = histogram(numbers, *layout)
        other = histogram(numbers * np.float32(factor), *layout)
        bound = 2 * one.relative_error * (1 + one.relative_error) + 1e-6
        for q in SOME_Q:
            expected = one.quantile(q)[0] * factor
            assert abs(other.quantile(q)[0] - expected) <= bound * expected


def test_numbers_of_a_bin_are_spread_evenly() -> None:
    """With one bin for 1 to 2, evenly spaced numbers in it are found where they are."""
    values = np.linspace(1.25, 1.75, 101)
    found = histogram(values, 0)
    assert 1 == np.count_nonzero(found.counts)
    for q in SOME_Q:
        assert np.quantile(values, q) == pytest.approx(found.quantile(q)[0], abs=0.003)
    assert 0.5 == pytest.approx(found.share_below(1.5)[0])


def test_scaling_by_a_power_of_two_is_exact() -> None:
    """The bins are those of the mantissa, whatever the exponent."""
    values = np.random.default_rng(2).standard_normal(5000)
    one, other = histogram(values), histogram(values * 1024)
    for q in SOME_Q:
        assert 1024 * one.quantile(q)[0] == other.quantile(q)[0]


def test_constants_are_exact() -> None:
    """Where all numbers are the same, so is every quantile, and nothing is below them."""
    for value in (0.3, 1.0, 1e-40, 3e38, 12345.678):
        for layout in ((11,), (0,), CHANNEL):
            found, exact = histogram(np.full(50, value), *layout), float(np.float32(value))
            assert {exact} == {float(found.quantile(q)[0]) for q in SOME_Q}
            below = float(np.nextafter(np.float32(value), np.float32(0)))
            assert [0.0, 1.0] == [found.share_below(limit)[0] for limit in (below, exact)]


def test_numbers_outside_the_window_stay_between_the_ends() -> None:
    """Below and above the powers of two that are told apart, ranks still lie as they must."""
    values = floats(np.array([1e-20, 1e-15, 1e-12, 1.0, 2.0, 1e12, 1e20]))
    found = histogram(values, *CHANNEL)
    assert [3, 2] == [int(found.counts[0, 0]), int(found.counts[0, -1])]
    assert 1.0 == pytest.approx(found.quantile(0.5)[0], rel=2**-4)
    assert values.min() <= found.quantile(0.2)[0] <= 2.0**-32
    assert 2.0**32 <= found.quantile(0.9)[0] <= values.max()
    assert 3 / 7 == found.share_below(0.5)[0]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_shares_below_limits(name: str) -> None:
    """A share is wrong by no more than the numbers in the limit's bin, and rises with it."""
    values = DISTRIBUTIONS[name](np.random.default_rng(3))
    kept = positive(values)
    for layout in ((11,), CHANNEL):
        found = histogram(values, *layout)
        assert [0, 0, 0, 1] == [found.share_below(x)[0] for x in (-math.inf, -1, 0, math.inf)]
        limits = np.sort(np.concatenate([np.quantile(kept, SOME_Q), kept[:20], kept[:20] * 1.01]))
        shares = np.array([found.share_below(limit)[0] for limit in limits])
        assert (np.diff(shares) >= -1e-12).all()
        for limit, share in zip(limits, shares, strict=True):
            near = (np.abs(kept / limit - 1) <= found.relative_error).mean()
            if 2.0**-32 < limit < 2.0**32 or layout != CHANNEL:
                assert abs((kept <= limit).mean() - share) <= near + 1e-12


@pytest.mark.parametrize("limit", [0.125, 0.5, 0.75, 1.0, 1.5, 2.0, 100.0])
def test_shares_are_exact_at_edges(limit: float) -> None:
    """What equals a limit of few bits counts as below it, as a jump sets it to 0."""
    rng = np.random.default_rng(4)
    for values in (rng.standard_normal(1000), np.repeat(rng.integers(1, 16, 1000) / 8, 3)):
        kept = positive(values)
        assert (kept <= limit).mean() == pytest.approx(histogram(values).share_below(limit)[0])


def test_shares_at_quantiles_are_the_quantiles() -> None:
    """Of many different numbers a quantile has its share below it, with few bits too."""
    for layout, tolerance in (((11,), 1e-3), (CHANNEL, 5e-3)):
        found = histogram(np.random.default_rng(0).standard_normal(50_000), *layout)
        for q in (0.01, 0.1, 0.5, 0.9, 0.99):
            assert q == pytest.approx(found.share_below(found.quantile(q))[0], abs=tolerance)


def identical(one: Histogram, other: Histogram) -> bool:
    """Tell whether two histograms counted the same, with moments equal to within rounding."""
    for moment in ("mean", "std"):
        np.testing.assert_allclose(
            getattr(one, moment), getattr(other, moment), rtol=1e-12, atol=1e-15
        )
    names = ("counts", "count", "positives", "nan", "infinite", "smallest", "largest")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize("seed", range(5))
def test_order_and_batches_do_not_matter(seed: int) -> None:
    """Shuffled, in pieces, or merged in any order, the counts are those of the whole."""
    rng = np.random.default_rng(seed)
    values = floats(lognormal(rng) - 1)
    values[:9] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, np.nan, -1.0, np.inf]
    whole = histogram(values)
    assert identical(whole, histogram(rng.permutation(values)))
    pieces = np.split(rng.permutation(values), np.sort(rng.integers(0, len(values), 6)))
    streamed, merged = Histogram(), Histogram()
    for piece in pieces:
        streamed.add(piece)
    for piece in pieces[::-1]:
        merged.merge(histogram(piece))
    assert identical(whole, streamed)
    assert identical(whole, merged)
    assert [whole.quantile(q) for q in SOME_Q] == [merged.quantile(q) for q in SOME_Q]


def test_merging_leaves_the_other_as_it_is() -> None:
    """Only one of the two changes, also when more numbers come."""
    one, other = histogram(np.array([1.0])), histogram(np.array([2.0, -4.0]))
    one.merge(other)
    one.add(floats(np.array([8.0])))
    assert identical(histogram(np.array([2.0, -4.0])), other)
    assert identical(histogram(np.array([8.0, 2.0, -4.0, 1.0])), one)


@pytest.mark.parametrize("layout", [(11,), CHANNEL])
def test_counts_do_not_overflow(layout: tuple[Any, ...]) -> None:
    """More numbers than 32 bits count: 3·2^40 of them, most in one bin."""
    found = histogram(np.array([1.0, 1.0, 5.0]), *layout)
    assert np.dtype(np.uint32) == found.counts.dtype
    for _ in range(40):
        found.merge(found)
    assert np.dtype(np.uint64) == found.counts.dtype
    assert 3 * 2**40 == found.count[0] == found.positives[0] == found.counts.sum()
    found.add(floats(np.full(10, 5.0)))
    assert 2**40 + 10 == found.counts.min(where=found.counts > 0, initial=2**63)
    assert 5.0 == pytest.approx(found.quantile(0.7)[0], rel=found.relative_error)
    assert 2 / 3 == pytest.approx(found.share_below(1.0)[0])
    assert (7 / 3, math.sqrt(32 / 9)) == pytest.approx((found.mean[0], found.std[0]))


def test_adding_widens_the_counts_in_time() -> None:
    """With 2^32 - 1 numbers counted, one more needs wider counts."""
    found = histogram(np.array([1.0]))
    for _ in range(31):
        found.merge(found)
    rest = histogram(np.array([1.0]))
    for _ in range(30):
        found.merge(rest)
        rest.merge(rest)
    found.merge(rest)
    assert 2**32 - 1 == found.counts.max()
    assert np.dtype(np.uint32) == found.counts.dtype
    found.add(np.ones(1, np.float32))
    assert 2**32 == found.positives[0] == found.counts.sum() == found.counts.max()


def test_nothing_positive_is_zero() -> None:
    """Without numbers, or with negative ones and zeros alone, quantiles and shares are 0."""
    cases: tuple[list[float], ...] = (
        [],
        [-1.0, -2.0],
        [0.0, -0.0],
        [math.nan],
        [math.inf],
        [-math.inf, -1.0],
    )
    for values in cases:
        found = histogram(np.array(values))
        assert [0.0] * 3 == [found.quantile(q)[0] for q in (0, 0.5, 1)]
        limits = (-math.inf, -1.0, 0.0, 1.0, math.inf)
        assert [0.0] * 5 == [found.share_below(limit)[0] for limit in limits]
        assert (0.0, 0) == (found.positive[0], found.positives[0])


def test_nan_and_infinity_are_counted_apart() -> None:
    """They change no quantile, share or moment."""
    values = np.array([1.0, np.nan, -3.0, np.inf, 2.0, -np.inf, np.nan, np.nan])
    found = histogram(values)
    assert (3, 2, 3) == (found.nan[0], found.infinite[0], found.count[0])
    assert 2 / 3 == found.positive[0]
    assert (0.0, np.std([1, -3, 2])) == pytest.approx((found.mean[0], found.std[0]))
    assert (1.0, 2.0) == (found.quantile(0)[0], found.quantile(1)[0])


@pytest.mark.parametrize(
    ("shape", "axis"), [((40, 5, 3, 4), 1), ((40, 5), 1), ((40, 3, 5), -1), ((5, 7), 0), ((5,), 0)]
)
@pytest.mark.parametrize("layout", [(11,), CHANNEL])
def test_channels_are_histograms_of_their_own(
    shape: tuple[int, ...], axis: int, layout: tuple[Any, ...]
) -> None:
    """Counted together, they have what each has when counted alone."""
    rng = np.random.default_rng(0)
    values = floats(rng.standard_normal(shape))
    by_channel = np.moveaxis(values, axis, 0)
    by_channel[1] *= 1000
    by_channel[2] = -1
    by_channel[3].flat[0] = np.nan
    found = Histogram(5, *layout)
    found.add(values, axis)
    found.add(values[::-1] if axis else values, axis)
    alone = [histogram(np.concatenate([part, part]), *layout) for part in by_channel.reshape(5, -1)]
    for name in ("count", "nan", "positives", "positive", "mean", "std", "counts"):
        expected = np.concatenate([getattr(one, name) for one in alone])
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12, atol=1e-15)
    limits = np.array([0.3, 300.0, 1.0, 0.2, 1e9])
    assert [one.share_below(x)[0] for one, x in zip(alone, limits, strict=True)] == list(
        found.share_below(limits)
    )
    for q in SOME_Q:
        assert [one.quantile(q)[0] for one in alone] == list(found.quantile(q))


def test_channels_over_several_blocks() -> None:
    """Arrays larger than a block are counted whole."""
    values = floats(np.random.default_rng(0).standard_normal((3, 2, BLOCK - 1)))
    found = Histogram(2, *CHANNEL)
    found.add(values)
    assert [3 * (BLOCK - 1)] * 2 == list(found.count)
    assert list((values > 0).sum(axis=(0, 2))) == list(found.counts.sum(axis=1))


def test_moments_keep_their_digits() -> None:
    """A mean far larger than the spread does not swallow it, in batches either."""
    values = floats(np.random.default_rng(0).standard_normal(30_000) + 10_000)
    found = Histogram()
    for part in np.array_split(values, 100):
        found.add(part)
    exact = values.astype(np.float64)
    assert exact.mean() == pytest.approx(found.mean[0], rel=1e-14)
    assert exact.std() == pytest.approx(found.std[0], rel=1e-9)


def test_memory_is_as_stated() -> None:
    """2 MiB for a site, 4 KiB for a channel, however many numbers are counted."""
    assert (522_242, 1_026) == (Histogram().counts.size, Histogram(1, *CHANNEL).counts.size)
    found = histogram(np.random.default_rng(0).standard_normal(1000))
    assert found.counts.nbytes < 2.01 * 2**20
    assert Histogram(2048, *CHANNEL).counts.nbytes < 2048 * 4.01 * 2**10


def test_layouts_are_checked() -> None:
    """Each message tells what was expected."""
    for arguments, message in (
        ((0,), "expected channels >= 1, got 0"),
        ((1, 24), "expected mantissa_bits of 0 to 23, got 24"),
        ((1, 4, (3, 3)), r"expected exponents in order within -127 and 128, got \(3, 3\)"),
        ((1, 4, (-128, 3)), r"expected exponents in order within -127 and 128, got \(-128, 3\)"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            Histogram(*arguments)


def test_values_are_checked() -> None:
    """Numbers of another type or of other channels are refused, and nothing is counted."""
    found = Histogram(3)
    wrong: Any = np.zeros((2, 3))
    with pytest.raises(TypeError, match=r"^expected float32, got float64$"):
        found.add(wrong)
    with pytest.raises(ValueError, match=r"^expected 3 channels, got 4$"):
        found.add(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"^expected an array with an axis 1, got 1 axes$"):
        found.add(np.zeros(3, np.float32))
    assert [0, 0, 0] == list(found.count)


def test_questions_are_checked() -> None:
    """A quantile outside 0 and 1, a limit that is none and another layout are refused."""
    found = Histogram(2)
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"^expected a quantile within 0 and 1, got {q}$"):
            found.quantile(q)
    for limits in (math.nan, [1.0, 2.0, 3.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match=r"^expected a limit, or one for each of 2 channels$"):
            found.share_below(limits)
    with pytest.raises(ValueError, match=r"^histograms of the same channels merge, got 2 and 1$"):
        found.merge(Histogram())
    with pytest.raises(
        ValueError, match=r"^histograms of the same mantissa_bits merge, got 11 and 4$"
    ):
        found.merge(Histogram(2, 4))


@pytest.mark.parametrize("layout", [(), (0, (-1, 1)), CHANNEL, (23, (0, 2))])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_arrays_hold_all_of_a_histogram(channels: int, count: int, layout: Any) -> None:
    """One that is made of them gives the same, also when more is counted, and is another one."""
    values = floats(np.random.default_rng(0).standard_normal((count, channels)))
    values[:1] = np.nan
    first = Histogram(channels, *layout)
    first.add(values)
    second = Histogram.from_arrays(first.arrays())
    for more in (values, floats(np.full((2, channels), 1e6))):
        for found in (first, second):
            found.add(more)
        expected, arrays = first.arrays(), second.arrays()
        assert list(expected) == list(arrays)
        for name, array in expected.items():
            assert array.dtype == arrays[name].dtype
            np.testing.assert_array_equal(array, arrays[name])
        for q in SOME_Q:
            np.testing.assert_array_equal(first.quantile(q), second.quantile(q))
    kept = second.arrays()
    first.add(values[1:])
    np.testing.assert_array_equal(kept["count"], second.count)
