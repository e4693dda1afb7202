"""Statistics of pre-activations are those of all of them, though none is kept."""

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import MODELS, parse

torch = pytest.importorskip("torch")

import onnxfit  # noqa: E402
from onnxfit.calibration.activations import SiteStatistics, measure  # noqa: E402
from onnxfit.calibration.histogram import Histogram  # noqa: E402
from onnxfit.data import Dataset, from_arrays, open_data  # noqa: E402
from onnxfit.twin.classifier import Classifier  # noqa: E402
from onnxfit.twin.jump_relu import JumpReLU, jump_relus  # noqa: E402

SOME_Q = (0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0)
ALL = (-1e30, 1e30)


def calling(run: Callable[..., Any], *names: str) -> Any:
    """Return a module that calls a function with samples and JumpReLUs of these names."""
    module = torch.nn.Module()
    sites = [JumpReLU(torch.tensor(0.5), name) for name in names]
    module.sites = torch.nn.ModuleList(sites)
    module.forward = lambda x: run(x, *sites)
    return module


def jump_of(site: JumpReLU) -> float:
    """Return the jump of a site that has one."""
    assert site.jump is not None
    return float(site.jump)


def samples(*shape: int, seed: int = 0) -> Dataset:
    """Return normal numbers as samples."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return from_arrays(x, np.zeros(len(x), np.int64), bounds=ALL)


def digits(jump: float = 0.0) -> tuple[Any, Dataset]:
    """Return the twin of the shipped network and its validation data."""
    twin = Classifier(onnxfit.retrofit(MODELS / "digits_cnn.onnx", jump))
    return twin, open_data(MODELS / "digits_val.npz")


def collected(twin: Any, data: Dataset) -> dict[str, NDArray[np.float32]]:
    """Return all pre-activations at once, with the jumps that the twin has."""
    kept: dict[str, NDArray[np.float32]] = {}

    def keep(module: Any, inputs: Any) -> None:
        kept[module.site] = inputs[0].numpy().copy()

    hooks = [site.register_forward_pre_hook(keep) for site in jump_relus(twin)]
    with torch.no_grad():
        twin(torch.from_numpy(data.spread(data.n).x))
    for hook in hooks:
        hook.remove()
    return kept


def same_counts(one: Histogram, other: Histogram) -> bool:
    """Tell whether two histograms counted the same numbers."""
    return np.array_equal(one.counts, other.counts) and np.array_equal(one.count, other.count)


def test_quantiles_of_a_network_are_those_of_all_activations() -> None:
    """Streamed in batches, every site and channel of the digits has what all at once have."""
    twin, data = digits()
    found = measure(twin, data, batch_size=data.n, by_channel=True)
    kept = collected(twin, data)
    assert list(kept) == list(found)
    for name, values in kept.items():
        site = found[name]
        assert (data.n, values.shape[1]) == (site.n, site.channels)
        assert (values.shape[1], *(1,) * (values.ndim - 2)) == site.shape
        assert values.size == site.overall.count[0]
        assert values.mean() == pytest.approx(site.overall.mean[0], abs=1e-5)
        assert values.std() == pytest.approx(site.overall.std[0], rel=1e-5)
        assert site.by_channel is not None
        for q in SOME_Q:
            expected = float(np.quantile(values[values > 0].astype(np.float64), q))
            assert expected == pytest.approx(site.overall.quantile(q)[0], rel=2**-11)
            channels = site.by_channel.quantile(q)
            for channel, quantile in zip(values.swapaxes(0, 1), channels, strict=True):
                positive = channel[channel > 0].astype(np.float64)
                expected = float(np.quantile(positive, q)) if positive.size else 0.0
                assert expected == pytest.approx(quantile, rel=2**-4)


@pytest.mark.parametrize("batch_size", [64, 101, 450])
def test_batches_change_quantiles_by_rounding_alone(batch_size: int) -> None:
    """The network rounds otherwise in other batches; the statistics add nothing to that."""
    twin, data = digits()
    one, other = (measure(twin, data, batch_size=size) for size in (batch_size, data.n))
    for name, site in one.items():
        assert site.overall.count[0] == other[name].overall.count[0]
        for q in SOME_Q[1:]:
            expected = other[name].overall.quantile(q)[0]
            assert expected == pytest.approx(site.overall.quantile(q)[0], rel=2**-10)


def test_jumps_are_zero_while_measuring_and_restored() -> None:
    """A hardened twin has the statistics of the un-hardened network, and its jumps after it."""
    plain, data = digits()
    hard, _ = digits(1.5)
    expected, found = measure(plain, data), measure(hard, data)
    assert all(same_counts(expected[name].overall, site.overall) for name, site in found.items())
    assert [1.5] * len(found) == [jump_of(site) for site in jump_relus(hard)]
    assert not any(site._forward_pre_hooks for site in jump_relus(hard))
    kept = collected(hard, data)
    last = list(kept)[-1]
    assert (kept[last] > 0).sum() != found[last].overall.positives[0]


def test_two_halves_merged_are_the_whole() -> None:
    """Measured apart and merged, halves give the same counts, overall and by channel."""
    twin = calling(lambda x, site: site(x), "a")
    x = samples(200, 3, 5)
    whole = measure(twin, x, by_channel=True)["a"]
    values = x.spread(200).x
    first, second = (
        measure(twin, from_arrays(half, np.zeros(100, np.int64), bounds=ALL), by_channel=True)["a"]
        for half in (values[:100], values[100:])
    )
    assert whole.by_channel is not None
    assert first.by_channel is not None
    assert second.by_channel is not None
    first.overall.merge(second.overall)
    first.by_channel.merge(second.by_channel)
    assert same_counts(whole.overall, first.overall)
    assert same_counts(whole.by_channel, first.by_channel)
    assert list(whole.by_channel.quantile(0.3)) == list(first.by_channel.quantile(0.3))
    np.testing.assert_allclose(first.by_channel.mean, whole.by_channel.mean, rtol=1e-12)


def test_memory_does_not_grow_with_the_samples() -> None:
    """Sixteen times the samples need the memory of one batch."""
    twin = calling(lambda x, one, other: other(one(x) + 1), "a", "b")
    peaks = []
    for n in (64, 64, 1024):  # The first time modules are loaded.
        data = samples(n, 8, 16, 16)
        tracemalloc.start()
        measure(twin, data, batch_size=32, by_channel=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.05 * peaks[1]


def test_no_activation_is_kept() -> None:
    """After a batch no more tensors are alive than after another one; none has a gradient."""
    alive: list[int] = []

    def run(x: Any, one: Any, other: Any) -> Any:
        assert not torch.is_grad_enabled()
        return other(one(x) + 1)

    def advance(_: int) -> None:
        alive.append(sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()))

    measure(calling(run, "a", "b"), samples(12, 3), batch_size=2, by_channel=True, advance=advance)
    assert [alive[1]] * 5 == alive[1:]


@pytest.mark.parametrize(
    ("run", "shape"),
    [
        (lambda x, site: site(x), (6, 1)),
        (lambda x, site: site(x.reshape(len(x), 3, 2, 4)), (3, 1, 1)),
        (lambda x, site: site(x[:, :, 0]), (6,)),
        (lambda x, site: site(x.reshape(-1, 4)), (4,)),
        (lambda x, site: site(x.reshape(-1)), None),
        (lambda x, site: site(x.sum()), None),
        (lambda x, site: site(x.transpose(0, 1)), None),
        (lambda x, site: site(x[:1]), None),
        (lambda x, site: site(x[:, : len(x)]), None),
        (lambda x, site: [site(x), site(x[:, :2])], None),
        (lambda x, site: [site(x), site(x[:, :, 0])], None),
        (lambda x, site: [site(x[:, i]) for i in range(6)], (4,)),
        (lambda x, site: [site(x[:, :, :i]) for i in range(1, 4)], (6, 1)),
    ],
)
def test_channels_are_found_where_jumps_for_each_fit(
    run: Callable[..., Any], shape: tuple[int, ...] | None
) -> None:
    """Axis 1 holds them where it is the same in all calls, and samples come first."""
    data = samples(11, 6, 4)
    for by_channel in (False, True):
        site = measure(calling(run, "a"), data, batch_size=4, by_channel=by_channel)["a"]
        assert (shape, shape[0] if shape else 1) == (site.shape, site.channels)
        assert (by_channel and shape is not None) == (site.by_channel is not None)
        if site.by_channel is not None:
            assert site.channels == site.by_channel.channels
            assert site.by_channel.count.sum() == site.overall.count[0]


def test_each_sample_counts_once() -> None:
    """However often a site is called; one that is called for some batches has those alone."""
    told: list[int] = []
    twin = calling(
        lambda x, one, two, never: (one(x), one(-x), two(x) if len(x) == 4 else x), "a", "b", "c"
    )
    found = measure(twin, samples(11, 5), batch_size=4, by_channel=True, advance=told.append)
    assert [4, 4, 3] == told
    assert [("a", 11, 110), ("b", 8, 40), ("c", 0, 0)] == [
        (name, site.n, site.overall.count[0]) for name, site in found.items()
    ]
    assert found["a"].overall.positives[0] == 55
    assert (None, None, 0.0) == (
        found["c"].shape,
        found["c"].by_channel,
        found["c"].overall.quantile(0.5)[0],
    )


def test_sites_of_one_name_count_together() -> None:
    """As where a function of the model is called twice."""
    twin = calling(lambda x, one, two: one(x) + two(x), "a", "a")
    found = measure(twin, samples(6, 5))
    assert [("a", 6, 60)] == [(name, s.n, s.overall.count[0]) for name, s in found.items()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_counted_as_float32(dtype: Any) -> None:
    """What is too large for float32 is counted as infinite, and NaN apart."""
    twin = calling(lambda x, site: site(x.to(dtype)), "a")
    data = samples(20, 5)
    site = measure(twin, data)["a"]
    values = torch.from_numpy(data.spread(20).x).to(dtype).float().numpy()
    expected = Histogram()
    expected.add(values)
    assert same_counts(expected, site.overall)


def test_nan_and_infinity_are_told() -> None:
    """They are counted apart, for the caller to say so; so is what float32 cannot hold."""

    def run(x: Any, site: Any) -> Any:
        return site(torch.stack([x.sqrt(), 1 / torch.zeros_like(x), x.double() * 1e60], 1))

    site = measure(calling(run, "a"), samples(20, 5), by_channel=True)["a"]
    negative = int((samples(20, 5).spread(20).x < 0).sum())
    assert 0 < negative < 100
    assert (negative, 200) == (site.overall.nan[0], site.overall.infinite[0])
    assert site.by_channel is not None
    assert [negative, 0, 0] == list(site.by_channel.nan)
    assert [0, 100, 100] == list(site.by_channel.infinite)


def test_a_site_in_a_loop_is_measured() -> None:
    """Each round of a Loop is a call of the site in its body."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,3] y) '
        "<int64 trips = {4}, bool go = {1}, float minus = {0.5}> "
        "{ y = Loop <body = b (int64 i, bool c, float[N,3] s) => (bool c2, float[N,3] s3) "
        "{ c2 = Identity(c) s2 = Relu(s) s3 = Sub(s2, minus) }> (trips, go, x) }"
    )
    twin = onnxfit.to_torch(onnxfit.retrofit(model, 0.0))
    (site,) = measure(twin, samples(10, 3), batch_size=4, by_channel=True).values()
    assert (10, 4 * 30, (3,)) == (site.n, site.overall.count[0], site.shape)


def test_a_module_without_sites_has_no_statistics() -> None:
    """The data is still read, so that damage is told."""
    assert {} == measure(torch.nn.Flatten(), samples(3, 2))
    with pytest.raises(ValueError, match=r"^expected batch_size >= 1, got 0$"):
        measure(torch.nn.Flatten(), samples(3, 2), batch_size=0)


def test_hooks_are_removed_when_the_network_fails() -> None:
    """An error in the network leaves it as it was."""

    def run(x: Any, site: Any) -> Any:
        return site(x).reshape(len(x), -1) @ torch.ones(3)

    twin = calling(run, "a")
    with pytest.raises(RuntimeError):
        measure(twin, samples(3, 2))
    (site,) = jump_relus(twin)
    assert not site._forward_pre_hooks
    assert 0.5 == jump_of(site)


def test_statistics_name_their_site() -> None:
    """The key is the name in the statistics."""
    twin, data = digits()
    found = measure(twin, data)
    assert all(isinstance(s, SiteStatistics) and name == s.name for name, s in found.items())
