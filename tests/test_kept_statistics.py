"""The statistics of all sites are kept in the cache, and only what is missing is measured."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import MODELS

from onnxfit.calibration.cache import Cache
from onnxfit.calibration.histogram import Histogram
from onnxfit.data import Dataset, from_arrays

torch = pytest.importorskip("torch")

from onnxfit.calibration.activations import SiteStatistics, measure  # noqa: E402
from onnxfit.calibration.kept_statistics import kept_or_measured  # noqa: E402
from onnxfit.twin.jump_relu import JumpReLU  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

SAMPLES = 100
Found = dict[str, SiteStatistics]


@pytest.fixture(scope="module")
def data() -> Dataset:
    """The first samples."""
    with np.load(MODELS / "digits_val.npz") as file:
        return from_arrays(file["x"][:SAMPLES], file["y"][:SAMPLES])


@pytest.fixture(scope="module")
def twin() -> Any:
    """A network."""
    return Target(MODELS / "digits_cnn.onnx").twin


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Make a cache."""
    made = Cache(tmp_path / "cache", {})
    yield made
    made.close()


def found_in(cache: Cache, twin: Any, data: Dataset, by_channel: bool) -> tuple[Found, int]:
    """Return statistics, and how many samples were passed for them."""
    passed: list[int] = []
    found = kept_or_measured(
        twin, data, cache, batch_size=32, by_channel=by_channel, advance=passed.append
    )
    return found, sum(passed)


def same_counts(one: Histogram | None, other: Histogram | None) -> bool:
    """Tell whether histograms hold the same, to the last bit."""
    if one is None or other is None:
        return one is other
    state, others = one.arrays(), other.arrays()
    return state.keys() == others.keys() and all(
        np.array_equal(state[name], others[name]) and state[name].dtype == others[name].dtype
        for name in state
    )


def assert_same(expected: Found, found: Found) -> None:
    """Check that statistics are the same, in the same order."""
    assert list(expected) == list(found)
    for name, site in expected.items():
        other = found[name]
        for key in ("name", "n", "channels", "shape"):
            assert getattr(site, key) == getattr(other, key)
        assert same_counts(site.overall, other.overall)
        assert same_counts(site.by_channel, other.by_channel)


@pytest.mark.parametrize("by_channel", [False, True])
def test_a_second_run_makes_no_pass(
    by_channel: bool, cache: Cache, twin: Any, data: Dataset
) -> None:
    """It finds what the first has measured, bit by bit."""
    expected = measure(twin, data, batch_size=32, by_channel=by_channel)
    first, passed = found_in(cache, twin, data, by_channel)
    assert SAMPLES == passed
    assert_same(expected, first)
    second, passed = found_in(cache, twin, data, by_channel)
    assert 0 == passed
    assert_same(expected, second)


def test_channels_are_measured_when_they_are_asked_for(
    cache: Cache, twin: Any, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is then counted again; and another scale finds all that it needs."""
    expected = measure(twin, data, batch_size=32, by_channel=True)
    found_in(cache, twin, data, by_channel=False)
    add, counted = Histogram.add, []

    def noted(histogram: Histogram, values: Any, axis: int = 1) -> None:
        counted.append(histogram.channels)
        add(histogram, values, axis)

    monkeypatch.setattr(Histogram, "add", noted)
    found, passed = found_in(cache, twin, data, by_channel=True)
    assert SAMPLES == passed
    assert {16, 32, 64} == {*counted}
    assert_same(expected, found)
    counted.clear()
    overall, passed = found_in(cache, twin, data, by_channel=False)
    assert (0, []) == (passed, counted)
    assert all(site.by_channel is None for site in overall.values())


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("by_channel", [False, True])
def test_an_interrupted_pass_goes_on(
    by_channel: bool,
    again: bool,
    cache: Cache,
    twin: Any,
    data: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the last part that was kept, and gives the same to the last bit.

    Where what else is asked for has come less far, the pass begins anew.
    """
    monkeypatch.setattr("onnxfit.calibration.kept_statistics.KEPT_EVERY", 64)
    expected = measure(twin, data, batch_size=32, by_channel=again)

    def interrupt(count: int) -> None:
        passed.append(count)
        if len(passed) == 3:
            raise KeyboardInterrupt

    passed: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        kept_or_measured(twin, data, cache, batch_size=32, by_channel=by_channel, advance=interrupt)
    found, count = found_in(cache, twin, data, again)
    assert (SAMPLES if again and not by_channel else SAMPLES - 64) == count
    assert_same(expected, found)
    assert 0 == found_in(cache, twin, data, again)[1]


def test_sites_without_numbers_or_channels_are_kept(cache: Cache, data: Dataset) -> None:
    """One that sees nothing positive, one whose axis 1 holds no channels, one never called."""

    class Odd(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            for name in ("negative", "flat", "unused"):
                setattr(self, name, JumpReLU(torch.zeros(()), site=name))

        def forward(self, x: Any) -> Any:
            return self.negative(-x).sum() + self.flat(x.sum((1, 2, 3)))

    twin = Odd()
    expected, passed = found_in(cache, twin, data, by_channel=True)
    assert SAMPLES == passed
    found, passed = found_in(cache, twin, data, by_channel=True)
    assert 0 == passed
    assert_same(expected, found)
    assert expected["flat"].by_channel is None
    assert 0 == expected["unused"].n
