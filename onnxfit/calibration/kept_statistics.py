"""The statistics of all sites, kept in the cache: what is there is not measured again."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.calibration.activations import SiteStatistics, recording
from onnxfit.calibration.cache import KEPT_EVERY, Arrays, Cache
from onnxfit.calibration.histogram import Histogram
from onnxfit.data import Dataset
from onnxfit.twin.jump_relu import jump_relus

# What is kept of a site: all its numbers together, and by channel.
OVERALL, BY_CHANNEL = "inputs", "channels"
_HISTOGRAM = "histogram."


@dataclass(frozen=True)
class _Pass:
    """A pass over the samples, as far as it came.

    Attributes:
        done: How many samples it had.
        sites: What they gave; empty where it did not begin.
    """

    done: int = 0
    sites: Mapping[str, SiteStatistics] = field(default_factory=dict)


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

    They are kept every few thousand samples, and an interrupted pass goes on from there.

    Args:
        twin: As for :func:`~onnxfit.calibration.activations.measure`, and so all others.
        data: The samples.
        cache: Keeps what is measured.
        batch_size: How many samples the twin is given at a time; the same as before.
        by_channel: Whether channels are to be counted apart, too.
        advance: Told after each batch how many samples it had; never where all is in the cache.

    Raises:
        DataError: The data is damaged, or the cache cannot be used.
    """
    names = list(dict.fromkeys(site.site for site in jump_relus(twin)))
    kinds = [OVERALL, BY_CHANNEL] if by_channel else [OVERALL]
    found = {kind: _kept(cache, kind, names) for kind in kinds}
    wanted = [kind for kind in kinds if found[kind].done < data.n]
    if wanted:
        begun = _together([found[kind] for kind in wanted])
        done = kept = begun.done
        both = {"overall": OVERALL in wanted, "by_channel": BY_CHANNEL in wanted}
        with recording(twin, begun=begun.sites, **both) as recorded:
            for x, _ in itertools.islice(data.batches(batch_size), done // batch_size, None):
                recorded.see(x)
                done += len(x)
                if done - kept >= KEPT_EVERY or done == data.n:
                    kept, sites = done, recorded.statistics()
                    _keep(cache, wanted, _Pass(done, sites))
                advance(len(x))
        found |= dict.fromkeys(wanted, _Pass(done, sites))
    channels = found[BY_CHANNEL].sites if by_channel else {}
    return {
        name: dataclasses.replace(site, by_channel=channels[name].by_channel if channels else None)
        for name, site in found[OVERALL].sites.items()
    }


def _together(begun: Sequence[_Pass]) -> _Pass:
    """Return what one pass goes on from: that of all sites together and of their channels."""
    first, last = begun[0], begun[-1]
    if first.done != last.done:
        return _Pass()
    sites = {
        name: dataclasses.replace(site, by_channel=last.sites[name].by_channel)
        for name, site in first.sites.items()
    }
    return _Pass(first.done, sites)


def _kept(cache: Cache, kind: str, names: Sequence[str]) -> _Pass:
    """Return what the cache holds of all sites, or nothing."""
    sites, done = {}, 0
    for name in names:
        part = cache.get(f"{kind}-{name}")
        if part is None:
            return _Pass()
        sites[name], done = _site(name, part, kind), int(part["done"])
    return _Pass(done, sites)


def _keep(cache: Cache, kinds: Sequence[str], found: _Pass) -> None:
    """Keep a pass in the place of what was kept of it before."""
    parts = {}
    for kind in kinds:
        for name, site in found.sites.items():
            parts[f"{kind}-{name}"] = {"done": np.array(found.done), **_arrays(site, kind)}
    cache.put_all(parts)


def _arrays(site: SiteStatistics, kind: str) -> dict[str, NDArray[Any]]:
    """Return a site as arrays."""
    arrays = {"n": np.array(site.n), "channels": np.array(site.channels)}
    if site.shape is not None:
        arrays["shape"] = np.array(site.shape)
    histogram = site.overall if kind == OVERALL else site.by_channel
    if histogram is not None:
        arrays |= {f"{_HISTOGRAM}{name}": value for name, value in histogram.arrays().items()}
    return arrays


def _site(name: str, arrays: Arrays, kind: str) -> SiteStatistics:
    """Return the site that was made arrays of."""
    parts = {
        key.removeprefix(_HISTOGRAM): value
        for key, value in arrays.items()
        if key.startswith(_HISTOGRAM)
    }
    histogram = Histogram.from_arrays(parts) if parts else None
    return SiteStatistics(
        name=name,
        n=int(arrays["n"]),
        channels=int(arrays["channels"]),
        shape=tuple(map(int, arrays["shape"])) if "shape" in arrays else None,
        overall=histogram if kind == OVERALL and histogram is not None else Histogram(),
        by_channel=histogram if kind == BY_CHANNEL else None,
    )
