"""Intervals and tests for accuracies, against SciPy and against sums over all outcomes."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from onnxfit.verification.statistics import (
    drop_limit,
    lower_limit,
    mcnemar,
    mcnemar_worse,
    paired_difference,
    samples_needed,
    upper_limit,
    wilson,
)

stats: Any = pytest.importorskip("scipy.stats")
optimize: Any = pytest.importorskip("scipy.optimize")

SIZES = (1, 2, 7, 30, 300, 1000, 10_000, 100_000)
CONFIDENCES = (0.5, 0.8, 0.95, 0.9999)


def counts(n: int) -> list[int]:
    """List counts of successes: the ends, their neighbours, and some in between."""
    return sorted({0, 1, 2, n // 10, n // 3, n // 2, n - 2, n - 1, n} & set(range(n + 1)))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_wilson_is_scipys(n: int, confidence: float) -> None:
    """For every count of successes; exactly 0 and 1 at the ends."""
    for successes in counts(n):
        expected = stats.binomtest(successes, n).proportion_ci(confidence, "wilson")
        found = wilson(successes, n, confidence)
        assert tuple(expected) == pytest.approx(found, rel=1e-11, abs=1e-15)
    assert (0.0, 1.0) == (wilson(0, n)[0], wilson(n, n)[1])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_exact_limits_are_quantiles_of_the_beta_distribution(n: int, confidence: float) -> None:
    """Clopper's and Pearson's limits, from a handful of samples to 100,000."""
    for k in counts(n):
        low = stats.beta.ppf(1 - confidence, k, n - k + 1) if k else 0.0
        high = stats.beta.isf(1 - confidence, k + 1, n - k) if k < n else 1.0
        assert low == pytest.approx(lower_limit(k, n, confidence), rel=2e-9)
        assert high == pytest.approx(upper_limit(k, n, confidence), rel=2e-9)


def test_exact_limits_hold_where_nearly_no_risk_is_left() -> None:
    """Confidences down to the last that floating point tells from 1."""
    for confidence in (1 - 1e-9, 1 - 1e-14, math.nextafter(1, 0)):
        for k, n in ((1, 2), (5, 30), (150, 300), (50_000, 100_000), (99_999, 100_000)):
            expected = stats.beta.ppf(1 - confidence, k, n - k + 1)
            assert expected == pytest.approx(lower_limit(k, n, confidence), rel=1e-8)


def test_no_failure_among_n_leaves_the_rule_of_three() -> None:
    """The upper limit of a rate of 0 of n is 1 − 0.05^(1/n), about 3/n."""
    assert 1 - 0.05 ** (1 / 300) == pytest.approx(upper_limit(0, 300), rel=1e-12)
    assert upper_limit(0, 300) == pytest.approx(3 / 300, rel=0.01)


@pytest.mark.parametrize(
    ("only_a", "only_b"),
    [(0, 1), (3, 10), (10, 3), (5, 5), (0, 40), (49_000, 51_000), (50_000, 50_000), (0, 100_000)],
)
def test_mcnemar_is_the_binomial_test_of_the_discordant_samples(only_a: int, only_b: int) -> None:
    """Two-sided and one-sided, as SciPy computes them."""
    total = only_a + only_b
    both = stats.binomtest(only_a, total).pvalue
    worse = stats.binomtest(only_a, total, alternative="less").pvalue
    assert both == pytest.approx(mcnemar(only_a, only_b), rel=2e-8)
    assert worse == pytest.approx(mcnemar_worse(only_a, only_b), rel=2e-8)


def test_mcnemar_finds_nothing_where_nothing_differs() -> None:
    """Without discordant samples both p-values are 1; equally many are no difference either."""
    assert (1.0, 1.0) == (mcnemar(0, 0), mcnemar_worse(0, 0))
    assert mcnemar(7, 7) == 1.0


def test_mcnemar_depends_on_the_side_only_one_sided() -> None:
    """Two-sided p-values are symmetric; of the one-sided ones both hold what is exactly equal."""
    for a, b in ((0, 5), (3, 10), (6, 7), (120, 80)):
        assert mcnemar(a, b) == mcnemar(b, a)
        equal = math.comb(a + b, a) / 2 ** (a + b)
        assert 1 + equal == pytest.approx(mcnemar_worse(a, b) + mcnemar_worse(b, a))


def test_it_takes_five_losses_without_a_gain_to_be_significantly_worse() -> None:
    """1/2⁵ is below 5 %, 1/2⁴ is not."""
    assert (1 / 16, 1 / 32) == (mcnemar_worse(0, 4), mcnemar_worse(0, 5))


def score(b: int, c: int, n: int, delta: float) -> float:
    """Compute Tango's score of a difference; the likelihood is maximised by a search."""
    low, high = max(0.0, -delta), (1 - delta) / 2

    def minus_log_likelihood(q: float) -> float:
        cells = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
        return -sum(count * math.log(max(rate, 1e-300)) for count, rate in cells if count)

    found = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    )
    q = min((found.x, low, high), key=minus_log_likelihood)
    return (b - c - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize(
    ("b", "c", "n"),
    [(12, 2, 50), (2, 12, 50), (1, 7, 21), (9, 9, 44), (1, 0, 44), (0, 0, 30), (0, 30, 31)],
)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_paired_interval_ends_where_the_score_is_the_quantile(
    b: int, c: int, n: int, confidence: float
) -> None:
    """Against a likelihood that is maximised numerically, which knows no closed form."""
    z = stats.norm.isf((1 - confidence) / 2)
    low, high = paired_difference(b, c, n, confidence)
    assert z == pytest.approx(score(b, c, n, low), rel=1e-5)
    assert -z == pytest.approx(score(b, c, n, high), rel=1e-5)


@pytest.mark.parametrize("n", SIZES)
def test_the_paired_interval_without_discordant_samples(n: int) -> None:
    """It is ±z²/(n + z²), not a point."""
    z = stats.norm.isf(0.025)
    end = z * z / (n + z * z)
    assert (-end, end) == pytest.approx(paired_difference(0, 0, n), rel=1e-9)


def tables(n: int) -> Iterator[tuple[int, int]]:
    """Yield all counts of samples that only one side and only the other has right."""
    return ((b, c) for b in range(n + 1) for c in range(n + 1 - b))


def test_the_paired_interval_is_antisymmetric_and_around_the_estimate() -> None:
    """Exchanging the sides changes the signs; all limits lie within −1 and 1."""
    n = 13
    for b, c in tables(n):
        low, high = paired_difference(b, c, n)
        assert (-high, -low) == pytest.approx(paired_difference(c, b, n), abs=1e-15)
        assert -1 <= low <= (b - c) / n <= high <= 1
    assert paired_difference(n, 0, n)[1] == 1.0
    assert paired_difference(0, n, n)[0] == -1.0


def test_the_paired_interval_moves_with_the_counts() -> None:
    """A sample more for the model alone raises both limits, for the baseline alone lowers both."""
    n = 40
    for b, c in ((b, c) for b, c in tables(n) if b + c < n):
        at, more = paired_difference(b, c, n), paired_difference(b + 1, c, n)
        less = paired_difference(b, c + 1, n)
        assert less[0] <= at[0] <= more[0]
        assert less[1] <= at[1] <= more[1]
    narrow, wide = paired_difference(5, 3, 40, 0.9), paired_difference(5, 3, 40, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_paired_interval_of_many_samples_is_the_normal_one() -> None:
    """With 100,000 samples the score interval is Wald's to a part in a thousand of its width."""
    b, c, n = 9000, 7000, 100_000
    middle = (b - c) / n
    half = stats.norm.isf(0.025) * math.sqrt((b + c) / n - middle**2) / math.sqrt(n)
    expected = (middle - half, middle + half)
    assert expected == pytest.approx(paired_difference(b, c, n), abs=half / 1000)


def coverage(n: int, b: float, c: float, holds: dict[tuple[int, int], bool]) -> float:
    """Sum the probabilities of all outcomes for which something holds, at true rates b and c."""
    cells = np.array([(i, j, n - i - j) for (i, j), held in holds.items() if held])
    return float(stats.multinomial.pmf(cells, n, [b, c, 1 - b - c]).sum())


RATES = [
    (b, c)
    for b in (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.6)
    for c in (0.0, 0.01, 0.05, 0.1, 0.2, 0.35)
]


@pytest.mark.parametrize("n", [10, 30])
def test_the_paired_interval_covers_the_truth(n: int) -> None:
    """Summed over all outcomes: about 95 % where samples are discordant, nowhere below 92 %."""
    intervals = {table: paired_difference(*table, n) for table in tables(n)}
    found = {}
    for b, c in RATES:
        holds = {table: low <= b - c <= high for table, (low, high) in intervals.items()}
        found[b, c] = coverage(n, b, c, holds)
    assert min(found.values()) >= 0.92
    frequent = [share for (b, c), share in found.items() if min(b, c) >= 0.1]
    assert np.mean(frequent) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_limit_of_a_drop_holds_whatever_the_truth(confidence: float) -> None:
    """Summed over all outcomes it lies below the true drop at most as often as is allowed."""
    n = 20
    limits = {table: drop_limit(*table, n, confidence) for table in tables(n)}
    for lost, gained in RATES:
        holds = {table: limit >= lost - gained for table, limit in limits.items()}
        assert coverage(n, lost, gained, holds) >= confidence - 1e-12


@pytest.mark.parametrize("drop", [0.1, 0.03, 0.01, 0.005, 0.0003, 0.00003])
def test_three_over_the_drop_samples_without_a_loss_are_enough(drop: float) -> None:
    """And a tenth fewer are not."""
    needed = samples_needed(drop)
    assert needed == round(3 / drop)
    assert drop_limit(0, 0, needed) <= drop
    assert drop_limit(0, 0, needed * 9 // 10) > drop


def test_samples_needed_rounds_up() -> None:
    """3/0.007 is 428.6; 3/0.0003 is 10,000 although floating point makes it a little more."""
    assert [429, 10_000, 3] == [samples_needed(drop) for drop in (0.007, 0.0003, 1)]


def test_a_gain_counts_only_as_far_as_it_is_beyond_doubt() -> None:
    """The limit is that of the lost less the one, at 0.01 %, of the gained."""
    expected = stats.beta.isf(0.0499, 5, 296) - stats.beta.ppf(0.0001, 20, 281)
    assert expected == pytest.approx(drop_limit(4, 20, 300), rel=1e-9)
    assert drop_limit(0, 100, 300) < 0


def test_the_limit_of_a_drop_moves_with_the_counts() -> None:
    """A loss more raises it, a gain more lowers it, and it is never below the drop itself."""
    n = 30
    for lost, gained in ((i, j) for i, j in tables(n) if i + j < n):
        at = drop_limit(lost, gained, n)
        assert drop_limit(lost + 1, gained, n) > at >= drop_limit(lost, gained + 1, n)
        assert at >= (lost - gained) / n


def test_numpys_integers_are_taken_as_exact() -> None:
    """Counts of 8 bits, which would overflow, give what Python's integers give."""
    b, c, n = np.uint8(200), np.uint8(50), np.uint8(255)
    assert paired_difference(200, 50, 255) == paired_difference(b, c, n)  # type: ignore[arg-type]
    assert drop_limit(200, 50, 255) == drop_limit(b, c, n)  # type: ignore[arg-type]
    assert mcnemar(200, 150) == mcnemar(b, np.uint8(150))  # type: ignore[arg-type]
    assert wilson(200, 255) == wilson(b, n)  # type: ignore[arg-type]


def test_everything_is_quick_with_100_000_samples() -> None:
    """The slowest of several counts takes less than 50 ms, the best of three turns."""
    n = 100_000
    for k in (0, 1, 50, 20_000, 50_000):
        times = []
        for _ in range(3):
            began = time.perf_counter()
            values = [*wilson(k, n), *paired_difference(k, k // 2, n), drop_limit(k, k // 2, n)]
            values += [mcnemar(k, k // 2), mcnemar_worse(k, k // 2), upper_limit(k, n)]
            times.append(time.perf_counter() - began)
            assert all(map(math.isfinite, values))
        assert min(times) < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(0, 0), "expected n >= 1 samples, got 0"),
        (lambda: wilson(4, 3), "expected successes from 0 to n = 3, got 4"),
        (lambda: upper_limit(-1, 3), "expected successes from 0 to n = 3, got -1"),
        (lambda: wilson(1, 3, 1.0), "expected a confidence between 0 and 1, got 1.0"),
        (lambda: lower_limit(1, 3, math.nan), "expected a confidence between 0 and 1, got nan"),
        (
            lambda: paired_difference(2, 2, 3),
            "expected only_model and only_baseline from 0 to n = 3, together, got 2 and 2",
        ),
        (
            lambda: drop_limit(-1, 2, 3),
            "expected lost and gained from 0 to n = 3, together, got -1 and 2",
        ),
        (lambda: drop_limit(1, 1, 3, 0), "expected a confidence between 0 and 1, got 0"),
        (lambda: mcnemar(1, -1), "expected only_a and only_b of at least 0, got 1 and -1"),
        (lambda: mcnemar_worse(-2, 1), "expected only_a and only_b of at least 0, got -2 and 1"),
        (lambda: samples_needed(0), "expected a drop above 0 and of at most 1, got 0"),
        (lambda: samples_needed(math.nan), "expected a drop above 0 and of at most 1, got nan"),
    ],
)
def test_nonsense_is_refused(call: Callable[[], object], message: str) -> None:
    """A whole sentence says what was expected and what came."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        call()
    assert message == str(caught.value)


def test_a_count_is_a_whole_number() -> None:
    """2.5 samples are a mistake of the caller, not to be rounded."""
    with pytest.raises(TypeError):
        wilson(2.5, 3)  # type: ignore[arg-type]
