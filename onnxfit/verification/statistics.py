"""Intervals and tests for accuracies, alone and paired.

Counts may be as large as 100,000 and more: tails are summed from their largest term on, relative
to its logarithm, and a sum ends where a term no longer changes it. Nine digits are right.
"""

import math
import operator
from statistics import NormalDist

Interval = tuple[float, float]

# A difference is called one where chance would give it with a smaller probability.
SIGNIFICANCE = 0.05

# Of the risk that a limit of a drop may take, the part for the samples gained. The rest must be
# close to 5 %, so that 3/drop samples without a loss are enough: -log(.0499) is 2.998.
SHARE_OF_GAINED = 0.002


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Compute Wilson's (1927) score interval of a proportion.

    With p̂ = successes/n and z the normal quantile of the confidence, two-sided, it is
    (p̂ + z²/2n ± z·√(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n).

    Raises:
        ValueError: The counts are not 0 <= successes <= n with n >= 1, or the confidence is not
            between 0 and 1.
    """
    successes, n = _counts(n, successes=successes)
    z = _quantile(confidence)
    rate, square = successes / n, z * z / n
    middle = rate + square / 2
    half = z * math.sqrt(rate * (1 - rate) / n + square / (4 * n))
    low = 0.0 if successes == 0 else max(0.0, (middle - half) / (1 + square))
    high = 1.0 if successes == n else min(1.0, (middle + half) / (1 + square))
    return low, high


def lower_limit(successes: int, n: int, confidence: float = 0.95) -> float:
    """Compute the exact lower limit of a proportion, one-sided (Clopper and Pearson, 1934).

    It is the p at which ``successes`` or more of ``n`` have the probability 1 − confidence; 0
    where there are none.

    Raises:
        ValueError: As :func:`wilson`.
    """
    successes, n = _counts(n, successes=successes)
    return _lower(successes, n, 1 - _checked(confidence))


def upper_limit(successes: int, n: int, confidence: float = 0.95) -> float:
    """Compute the exact upper limit of a proportion, one-sided (Clopper and Pearson, 1934).

    It is the p at which ``successes`` or fewer of ``n`` have the probability 1 − confidence; 1
    where all are.

    Raises:
        ValueError: As :func:`wilson`.
    """
    successes, n = _counts(n, successes=successes)
    return _upper(successes, n, 1 - _checked(confidence))


def mcnemar(only_a: int, only_b: int) -> float:
    """Compute the p-value of McNemar's (1947) test, exact and two-sided.

    Args:
        only_a: Number of samples that a alone gets right.
        only_b: That b alone gets right. The samples on which both agree do not matter.

    Raises:
        ValueError: A count is negative.
    """
    only_a, only_b = _discordant(only_a, only_b)
    total, fewer = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * _at_least(total - fewer, total, 0.5))


def mcnemar_worse(only_a: int, only_b: int) -> float:
    """Compute the p-value of McNemar's test, exact, against the one alternative that a is worse.

    It is the probability that a gets ``only_a`` or fewer of the discordant samples right where
    each is as likely to be a's as b's: small where a is worse.

    Raises:
        ValueError: A count is negative.
    """
    only_a, only_b = _discordant(only_a, only_b)
    return _at_least(only_b, only_a + only_b, 0.5)


def paired_difference(
    only_model: int, only_baseline: int, n: int, confidence: float = 0.95
) -> Interval:
    """Compute Tango's (1998) score interval of the difference of two paired proportions.

    It holds every difference Δ that the score test does not reject: |b − c − nΔ| <=
    z·√(n(2q + Δ(1 − Δ))), where q is the likeliest rate of c under Δ. Without discordant samples
    it is ±z²/(n + z²).

    Args:
        only_model: Number b of samples that the model alone gets right.
        only_baseline: Number c of those that the baseline alone gets right.
        n: Number of all samples.
        confidence: Of the interval.

    Returns:
        Limits of the model's proportion less the baseline's, within −1 and 1.

    Raises:
        ValueError: The counts are negative or together more than n, or the confidence is not
            between 0 and 1.
    """
    only_model, only_baseline, n = _counts(n, only_model=only_model, only_baseline=only_baseline)
    z = _quantile(confidence)
    return -_tango_upper(only_baseline, only_model, n, z), _tango_upper(
        only_model, only_baseline, n, z
    )


def drop_limit(lost: int, gained: int, n: int, confidence: float = 0.95) -> float:
    """Compute an exact upper limit, one-sided, of how much a paired accuracy drops.

    It is the upper limit of the rate of lost samples less the lower limit of the rate of gained
    ones. By Bonferroni's inequality both hold with the confidence; of the risk, 5 %, the first
    takes 4.99 % and the second 0.01 %. So with nothing lost, 3/drop samples show that the drop is
    not larger than ``drop``.

    Args:
        lost: Number of samples that the baseline alone gets right.
        gained: That the model alone gets right.
        n: Number of all samples.
        confidence: Of the limit.

    Returns:
        A fraction of n; negative where the accuracy has risen beyond doubt.

    Raises:
        ValueError: As :func:`paired_difference`.
    """
    lost, gained, n = _counts(n, lost=lost, gained=gained)
    risk = 1 - _checked(confidence)
    of_gained = risk * SHARE_OF_GAINED
    return _upper(lost, n, risk - of_gained) - _lower(gained, n, of_gained)


def samples_needed(drop: float) -> int:
    """Return how many samples can show that an accuracy drops by no more than ``drop``: 3/drop.

    Raises:
        ValueError: ``drop`` is not above 0 and at most 1.
    """
    if not 0 < drop <= 1:
        raise ValueError(f"expected a drop above 0 and of at most 1, got {drop}")
    # 3/0.0003 is a little more than 10,000 in floating point.
    return math.ceil(3 / drop * (1 - 1e-12))


def _lower(successes: int, n: int, risk: float) -> float:
    """Solve P(X >= successes) = risk for the probability of a success."""
    if successes == 0:
        return 0.0
    if successes == n:
        return math.exp(math.log(risk) / n)
    # Newton's method on the logarithm of the tail: it is concave, so that the steps go to below
    # the root and then upwards to it.
    about = min(max(0.5, 1 - 2 * risk), 1 - 1e-15)
    p, target = wilson(successes, n, about)[0], math.log(risk)
    for _ in range(100):
        tail = _at_least(successes, n, p)
        slope = successes / p * math.exp(_log_probability(successes, n, p)) / tail
        step = (target - math.log(tail)) / slope
        p = p + step if p + step > 0 else p / 2
        if abs(step) <= 1e-13 * p:
            break
    return p


def _upper(successes: int, n: int, risk: float) -> float:
    if successes == 0:
        return -math.expm1(math.log(risk) / n)
    return 1 - _lower(n - successes, n, risk)


def _at_least(k: int, n: int, p: float) -> float:
    """Compute the probability of ``k`` successes or more in ``n`` trials; 0 < p < 1."""
    if k == 0:
        return 1.0
    odds = p / (1 - p)
    if k > n * p:
        return math.exp(_log_probability(k, n, p)) * _ratios(k, n, odds)
    return 1 - math.exp(_log_probability(k - 1, n, p)) * _ratios(n - k + 1, n, 1 / odds)


def _ratios(k: int, n: int, odds: float) -> float:
    """Sum the probabilities of k, k + 1, …, n successes, relative to the first, where they fall."""
    total = term = 1.0
    for i in range(k, n):
        term *= (n - i) / (i + 1) * odds
        total += term
        if term < 1e-17 * total:
            break
    return total


def _log_probability(k: int, n: int, p: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(p) + (n - k) * math.log1p(-p)


def _tango_upper(b: int, c: int, n: int, z: float) -> float:
    """Find the largest difference that the score test does not reject, by bisection."""
    low, high = (b - c) / n, 1.0
    while low < (middle := (low + high) / 2) < high:
        spread = n * (2 * _likeliest(b, c, n, middle) + middle * (1 - middle))
        if n * middle - (b - c) <= z * math.sqrt(max(0.0, spread)):
            low = middle
        else:
            high = middle
    return high


def _likeliest(b: int, c: int, n: int, delta: float) -> float:
    """Return the rate of c that is likeliest where that of b is larger by ``delta``.

    It is the larger root of 2n·q² + ((2n − b + c)Δ − b − c)·q − cΔ(1 − Δ), computed without a
    difference of nearly equal numbers.
    """
    half = ((2 * n - b + c) * delta - b - c) / 2
    rest = c * delta * (1 - delta)
    root = math.sqrt(max(0.0, half * half + 2 * n * rest))
    found = rest / (half + root) if half > 0 else (root - half) / (2 * n)
    return max(found, -delta, 0.0)


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + _checked(confidence)) / 2)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    return confidence


def _counts(n: int, **parts: int) -> tuple[int, ...]:
    """Return the parts and n as Python's integers, which neither overflow nor round."""
    total, counts = operator.index(n), [operator.index(part) for part in parts.values()]
    if total < 1:
        raise ValueError(f"expected n >= 1 samples, got {total}")
    if min(counts) < 0 or sum(counts) > total:
        what, given = " and ".join(parts), " and ".join(map(str, counts))
        together = "" if len(counts) == 1 else ", together"
        raise ValueError(f"expected {what} from 0 to n = {total}{together}, got {given}")
    return *counts, total


def _discordant(only_a: int, only_b: int) -> tuple[int, int]:
    only_a, only_b = operator.index(only_a), operator.index(only_b)
    if only_a < 0 or only_b < 0:
        raise ValueError(f"expected only_a and only_b of at least 0, got {only_a} and {only_b}")
    return only_a, only_b
