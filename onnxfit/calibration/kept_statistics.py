"""The statistics of all sites, kept in the cache: what is there is not measured again."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.calibration.activations import SiteStatistics, measure
from onnxfit.calibration.cache import Arrays, Cache
from onnxfit.calibration.histogram import Histogram
from onnxfit.data import Dataset
from onnxfit.twin.jump_relu import jump_relus

# What is kept of a site: all its numbers together, and by channel.
OVERALL, BY_CHANNEL = "inputs", "channels"


def kept_or_measured(
    twin: torch.nn.Module,
    data: Dataset,
    cache: Cache,
    *,
    batch_size: int,
    by_channel: bool,
    advance: Callable[[int], object],
) -> dict[str, SiteStatistics]:
    """Return the statistics of all sites; one pass measures what the cache does not hold.

    Args:
        twin: As for :func:`~onnxfit.calibration.activations.measure`, and so all others.
        data: The samples.
        cache: Keeps what is measured.
        batch_size: How many samples the twin is given at a time.
        by_channel: Whether channels are to be counted apart, too.
        advance: Told after each batch how many samples it had; never where all is in the cache.

    Raises:
        DataError: The data is damaged, or the cache cannot be used.
    """
    names = list(dict.fromkeys(site.site for site in jump_relus(twin)))
    overall = _kept(cache, OVERALL, names)
    channels = _kept(cache, BY_CHANNEL, names) if by_channel else {}
    wanted = {OVERALL: not overall, BY_CHANNEL: by_channel and not channels}
    if any(wanted.values()):
        found = measure(
            twin,
            data,
            batch_size=batch_size,
            overall=wanted[OVERALL],
            by_channel=wanted[BY_CHANNEL],
            advance=advance,
        )
        cache.put_all(
            {
                f"{kind}-{name}": _arrays(site, kind)
                for kind, is_wanted in wanted.items()
                if is_wanted
                for name, site in found.items()
            }
        )
        overall = overall or found
        channels = channels or found
    return {
        name: dataclasses.replace(
            site, by_channel=channels[name].by_channel if by_channel else None
        )
        for name, site in overall.items()
    }


def _kept(cache: Cache, kind: str, names: list[str]) -> dict[str, SiteStatistics]:
    """Return what the cache holds of all sites, or nothing."""
    found = {}
    for name in names:
        part = cache.get(f"{kind}-{name}")
        if part is None:
            return {}
        found[name] = _site(name, part, kind)
    return found


def _arrays(site: SiteStatistics, kind: str) -> dict[str, NDArray[Any]]:
    """Return a site as arrays; of the counts only the bins between the first and last in use."""
    arrays = {"n": np.array(site.n), "channels": np.array(site.channels)}
    if site.shape is not None:
        arrays["shape"] = np.array(site.shape)
    histogram = site.overall if kind == OVERALL else site.by_channel
    if histogram is not None:
        used = np.flatnonzero(histogram.counts.any(axis=0))
        first, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        state = vars(histogram) | {"counts": histogram.counts[:, first:stop]}
        arrays |= {f"histogram.{name}": np.asarray(value) for name, value in state.items()}
        arrays["first"] = np.array(first)
    return arrays


def _site(name: str, arrays: Arrays, kind: str) -> SiteStatistics:
    """Return the site that was made arrays of."""
    histogram = _histogram(arrays) if "first" in arrays else None
    return SiteStatistics(
        name=name,
        n=int(arrays["n"]),
        channels=int(arrays["channels"]),
        shape=tuple(map(int, arrays["shape"])) if "shape" in arrays else None,
        overall=histogram if kind == OVERALL and histogram is not None else Histogram(),
        by_channel=histogram if kind == BY_CHANNEL else None,
    )


def _histogram(arrays: Mapping[str, NDArray[Any]]) -> Histogram:
    prefix = "histogram."
    state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    low, high = map(int, state.pop("exponents"))
    found = Histogram(int(state.pop("channels")), int(state.pop("mantissa_bits")), (low, high))
    some, first = state.pop("counts"), int(arrays["first"])
    found.counts = found.counts.astype(some.dtype)
    found.counts[:, first : first + some.shape[1]] = some
    for name, value in state.items():
        setattr(found, name, value)
    return found
