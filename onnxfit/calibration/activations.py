"""What goes into each JumpReLU of a network, measured on data and kept as histograms."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.calibration.histogram import (
    CHANNEL_EXPONENTS,
    CHANNEL_MANTISSA_BITS,
    Histogram,
)
from onnxfit.data import Dataset
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.twin.parity import jumps_at_zero


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteStatistics:
    """The pre-activations of a site.

    Attributes:
        name: The name of the activation in the model.
        n: How many samples reached the site.
        channels: How many channels the activation has; 1 where ``shape`` is None.
        shape: Shape of an input J with a jump for each channel, C×1×…; axis 1 of the activation
            holds the channels. None where a jump for each would not fit every batch.
        overall: All numbers; none of them where they were not asked for.
        by_channel: The same by channel; None where they have none or were not asked for.
    """

    name: str
    n: int
    channels: int
    shape: tuple[int, ...] | None
    overall: Histogram
    by_channel: Histogram | None


def measure(
    twin: torch.nn.Module,
    data: Dataset,
    *,
    batch_size: int = 64,
    overall: bool = True,
    by_channel: bool = False,
    advance: Callable[[int], object] = lambda n: None,
) -> dict[str, SiteStatistics]:
    """Measure the inputs of every JumpReLU on all samples, with every jump at 0.

    No activation is kept: memory is that of one batch and of the histograms, 2 MiB a site and
    4 KiB a channel. Calls of a site in one pass, as in the body of a Loop, count together, and
    so do JumpReLUs of one name.

    Args:
        twin: A module with JumpReLUs, called with samples, float32 of shape N×….
        data: The samples; their labels are not read.
        batch_size: How many the twin is given at a time.
        overall: Count all numbers of a site together.
        by_channel: Count channels apart.
        advance: Told after each batch how many samples it had.

    Returns:
        The statistics by site, in the order of the twin. A site that is never called has none of
        the numbers.

    Raises:
        DataError: The data is damaged.
        ValueError: ``batch_size`` is less than 1.
    """
    with recording(twin, overall=overall, by_channel=by_channel) as recorded:
        for x, _ in data.batches(batch_size):
            recorded.see(x)
            advance(len(x))
    return recorded.statistics()


@contextlib.contextmanager
def recording(
    twin: torch.nn.Module,
    *,
    overall: bool = True,
    by_channel: bool = False,
    begun: Mapping[str, SiteStatistics] = MappingProxyType({}),
) -> Iterator["Recorded"]:
    """Give what counts the inputs of every JumpReLU, batch by batch, with every jump at 0.

    Args:
        twin: As for :func:`measure`, and so the next two.
        overall: Count all numbers of a site together.
        by_channel: Count channels apart.
        begun: What earlier batches gave, to be counted on; it is changed.
    """
    sites = jump_relus(twin)
    found = {site.site: _Recorder(site.site, overall, by_channel) for site in sites}
    for name, site in begun.items():
        found[name].go_on(site)

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        found[module.site].record(inputs[0])

    with contextlib.ExitStack() as block:
        block.enter_context(torch.no_grad())
        block.enter_context(jumps_at_zero(twin))
        for module in sites:
            block.enter_context(module.register_forward_pre_hook(note))
        yield Recorded(twin, found)


class Recorded:
    """The statistics of all batches that it has seen."""

    def __init__(self, twin: torch.nn.Module, recorders: Mapping[str, "_Recorder"]) -> None:
        like = next((t for t in (*twin.parameters(), *twin.buffers())), torch.empty(0))
        self._twin, self._recorders, self._device = twin, recorders, like.device

    def see(self, x: NDArray[np.float32]) -> None:
        """Count the inputs of a batch, N×…."""
        for recorder in self._recorders.values():
            recorder.start(len(x))
        self._twin(torch.from_numpy(x).to(self._device))

    def statistics(self) -> dict[str, SiteStatistics]:
        """Return the statistics by site, in the order of the twin; they grow with it."""
        return {name: recorder.statistics() for name, recorder in self._recorders.items()}


class _Recorder:
    """Takes the activations of a site as they come."""

    def __init__(self, name: str, overall: bool, by_channel: bool) -> None:
        self.name = name
        self.together, self.apart = overall, by_channel
        self.n = 0
        self.batch, self.reached = 0, False
        self.shapes: set[tuple[int, ...] | None] = set()
        self.overall = Histogram()
        self.channels: Histogram | None = None

    def go_on(self, begun: SiteStatistics) -> None:
        """Count on from what was counted before."""
        self.n, self.overall, self.channels = begun.n, begun.overall, begun.by_channel
        self.shapes = {begun.shape} if begun.n else set()

    def start(self, batch: int) -> None:
        """Begin a batch of so many samples."""
        self.batch, self.reached = batch, False

    def record(self, x: torch.Tensor) -> None:
        """Count one activation."""
        if not self.reached:
            self.reached, self.n = True, self.n + self.batch
        values: NDArray[np.float32] = x.detach().to("cpu", torch.float32).contiguous().numpy()
        if self.together:
            self.overall.add(values)
        self.shapes.add(_shape_of_jumps(values.shape, self.batch))
        if self._shape is None:
            self.channels = None
        elif self.apart:
            if self.channels is None:
                self.channels = Histogram(values.shape[1], CHANNEL_MANTISSA_BITS, CHANNEL_EXPONENTS)
            self.channels.add(values)

    def statistics(self) -> SiteStatistics:
        """Return what was counted."""
        shape = self._shape
        return SiteStatistics(
            name=self.name,
            n=self.n,
            channels=1 if shape is None else shape[0],
            shape=shape,
            overall=self.overall,
            by_channel=self.channels,
        )

    @property
    def _shape(self) -> tuple[int, ...] | None:
        """The one shape that jumps by channel had in all calls."""
        return next(iter(self.shapes)) if len(self.shapes) == 1 else None


def _shape_of_jumps(shape: tuple[int, ...], batch: int) -> tuple[int, ...] | None:
    """Return the shape of jumps by channel, None where axis 1 holds no channels.

    Axis 0 holds the samples, or parts of each, where its length is a multiple of theirs; of steps
    × samples × features axis 1 would be the samples.
    """
    if len(shape) < 2 or not shape[1] or shape[0] % batch:
        return None
    return (shape[1], *(1 for _ in shape[2:]))
