"""Scales: how one number, the strength, becomes the jumps of all sites."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxfit.calibration.activations import SiteStatistics

# The same jump everywhere, as in arXiv 1904.03750; a quantile of each site's positive
# pre-activations; the same of each channel's.
Scale = Literal["shared", "quantile", "channel"]
SCALES: tuple[Scale, ...] = get_args(Scale)

# Quantiles are below 1: at 1 a jump zeroes everything.
_HIGHEST_QUANTILE = 0.98
_BEYOND = 16

Jump = float | NDArray[np.float32]


def jumps(
    scale: Scale, strength: float, statistics: Mapping[str, SiteStatistics]
) -> dict[str, Jump]:
    """Return the jump of each site at one strength t.

    ``shared``: t itself. ``quantile``: the t-quantile of the site's positive pre-activations, 0
    where it has none. ``channel``: the same of each channel, shaped as the operator's input J;
    a site without channels has its own quantile. Strength 0 is jump 0 at every site.

    Args:
        scale: One of :data:`SCALES`.
        strength: t >= 0, and t < 1 but for ``shared``.
        statistics: What :func:`~onnxfit.calibration.activations.measure` found.

    Returns:
        The jumps by site, rounded to float32.

    Raises:
        ValueError: There is no such scale, the strength is out of range, or the scale is
            ``channel`` and the channels of a site were not counted.
    """
    _check(scale, strength)
    return {name: _jump(scale, strength, site) for name, site in statistics.items()}


def per_site(
    scale: Scale, strengths: Mapping[str, float], statistics: Mapping[str, SiteStatistics]
) -> dict[str, Jump]:
    """Return the jump of each site at a strength of its own.

    Args:
        scale: One of :data:`SCALES`.
        strengths: The strength of each site by name.
        statistics: What :func:`~onnxfit.calibration.activations.measure` found.

    Raises:
        ValueError: As :func:`jumps`, or the strengths are not those of the sites.
    """
    _check_sites(strengths, statistics)
    if missing := [name for name in statistics if name not in strengths]:
        raise ValueError(f"site {missing[0]!r} has no strength")
    for strength in strengths.values():
        _check(scale, strength)
    return {name: _jump(scale, strengths[name], site) for name, site in statistics.items()}


def zeroed(jumps: Mapping[str, Jump], statistics: Mapping[str, SiteStatistics]) -> dict[str, float]:
    """Return which share of its positive pre-activations each site's jump sets to 0.

    They are those of the un-hardened network. A site without positive ones has 0.

    Args:
        jumps: Jumps by site; one that is no number has the site's ``shape``.
        statistics: Of these sites at least.

    Raises:
        ValueError: A site is unknown, or its jumps do not fit the channels that were counted.
    """
    _check_sites(jumps, statistics)
    return {name: _zeroed(jump, statistics[name]) for name, jump in jumps.items()}


def first_strength(scale: Scale, statistics: Mapping[str, SiteStatistics]) -> float:
    """Return a strength to try first, at which a typical site loses half of its positive numbers.

    For ``shared`` it is the geometric mean over the sites of the median positive pre-activation;
    for the others 0.5.

    Raises:
        ValueError: There is no such scale, or no site has positive numbers.
    """
    _check(scale, 0.0)
    alive = [site.overall for site in statistics.values() if site.overall.positives[0]]
    if not alive:
        raise ValueError("no site has a positive pre-activation, so no jump changes anything")
    if scale != "shared":
        return 0.5
    return math.exp(math.fsum(math.log(site.quantile(0.5)[0]) for site in alive) / len(alive))


def highest_strength(scale: Scale, statistics: Mapping[str, SiteStatistics]) -> float:
    """Return the largest strength worth trying; at a higher one a jump zeroes everything.

    For ``shared`` that is some times the largest pre-activation of all sites, for under attack they
    may be larger than those that were seen.
    """
    if scale != "shared":
        return _HIGHEST_QUANTILE
    return _BEYOND * max(float(site.overall.largest.max()) for site in statistics.values())


def _jump(scale: Scale, strength: float, site: SiteStatistics) -> Jump:
    if scale == "shared" or not strength:
        return float(np.float32(strength))
    if scale == "quantile" or site.shape is None:
        return float(np.float32(site.overall.quantile(strength)[0]))
    if not site.overall.positives[0]:
        return 0.0
    if site.by_channel is None:
        raise ValueError(f"the channels of site {site.name!r} were not counted")
    return site.by_channel.quantile(strength).astype(np.float32).reshape(site.shape)


def _zeroed(jump: Jump, site: SiteStatistics) -> float:
    limits = np.asarray(jump, np.float64)
    if not limits.ndim:
        return float(site.overall.share_below(limits)[0])
    if site.by_channel is None or limits.shape != site.shape:
        raise ValueError(
            f"the jumps of site {site.name!r} are of shape {limits.shape}, "
            f"the channels that were counted of {site.shape if site.by_channel else None}"
        )
    positives = site.by_channel.positives
    dropped = site.by_channel.share_below(limits.reshape(-1)) * positives
    return float(dropped.sum() / max(positives.sum(), 1))


def _check(scale: Scale, strength: float) -> None:
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}, got {scale!r}")
    if scale == "shared":
        if not 0 <= strength <= float(np.finfo(np.float32).max):
            raise ValueError(f"expected a strength of at least 0 within float32, got {strength}")
    elif not 0 <= strength < 1:
        raise ValueError(f"expected a strength of at least 0 and below 1, got {strength}")


def _check_sites(named: Mapping[str, object], statistics: Mapping[str, SiteStatistics]) -> None:
    for name in named:
        if name not in statistics:
            raise ValueError(f"there is no site {name!r}")
