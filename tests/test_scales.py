"""Scales turn one number into jumps, and tell what the jumps set to 0."""

import math
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import MODELS

torch = pytest.importorskip("torch")

import onnxfit  # noqa: E402
from onnxfit.calibration.activations import SiteStatistics, measure  # noqa: E402
from onnxfit.calibration.histogram import (  # noqa: E402
    CHANNEL_EXPONENTS,
    CHANNEL_MANTISSA_BITS,
    Histogram,
)
from onnxfit.calibration.scales import (  # noqa: E402
    SCALES,
    Jump,
    Scale,
    first_strength,
    jumps,
    per_site,
    zeroed,
)
from onnxfit.data import open_data  # noqa: E402
from onnxfit.twin.classifier import Classifier  # noqa: E402

STRENGTHS = (0.1, 0.3, 0.5, 0.9)


def site(name: str, values: NDArray[Any], *, by_channel: bool = True) -> SiteStatistics:
    """Return the statistics of values, N×channels×…, or of N without channels."""
    values = values.astype(np.float32)
    shape = (values.shape[1], *(1,) * (values.ndim - 2)) if values.ndim > 1 else None
    overall, channels = Histogram(), None
    overall.add(values)
    if shape and by_channel:
        channels = Histogram(shape[0], CHANNEL_MANTISSA_BITS, CHANNEL_EXPONENTS)
        channels.add(values)
    return SiteStatistics(
        name=name,
        n=len(values),
        channels=shape[0] if shape else 1,
        shape=shape,
        overall=overall,
        by_channel=channels,
    )


def activations(factor: float = 1.0) -> dict[str, NDArray[np.float32]]:
    """Return pre-activations of a convolution, a matrix product and no channels."""
    rng = np.random.default_rng(0)
    found = {
        "conv": rng.standard_normal((200, 3, 4, 4)) * [[[1]], [[5]], [[0.2]]],
        "dense": rng.standard_normal((200, 6)) * factor,
        "flat": rng.standard_normal(500) + 0.5,
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def statistics(factor: float = 1.0) -> dict[str, SiteStatistics]:
    """Return their statistics."""
    return {name: site(name, values) for name, values in activations(factor).items()}


def dead(*shape: int) -> SiteStatistics:
    """Return the statistics of a site that no positive number reached."""
    return site("dead", np.full(shape, -1.0))


def number(jump: Jump) -> float:
    """Return a jump that must be one number, rounded to float32."""
    assert isinstance(jump, float)
    assert jump == float(np.float32(jump))
    return jump


def array(jump: Jump) -> NDArray[np.float32]:
    """Return a jump that must be an array of float32."""
    assert isinstance(jump, np.ndarray)
    assert np.float32 == jump.dtype
    return jump


@pytest.mark.parametrize("scale", SCALES)
def test_strength_zero_is_the_network_as_it_was(scale: Scale) -> None:
    """Every jump is the number 0, also where the channels were not counted."""
    sites = statistics() | {"dead": dead(4, 2), "bare": site("bare", np.ones((4, 2)))}
    found = jumps(scale, 0, sites)
    assert list(sites) == list(found)
    assert [0.0] * 5 == [number(jump) for jump in found.values()]


def test_shared_is_the_strength_itself() -> None:
    """As in the paper every site has the same jump, in float32, as the operator's attribute."""
    found = jumps("shared", 0.1, statistics() | {"dead": dead(4)})
    assert [float(np.float32(0.1))] * 4 == [number(jump) for jump in found.values()]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_quantile_is_that_of_the_positive_numbers(strength: float) -> None:
    """Each site has one number: the quantile to within the histogram's error."""
    found = jumps("quantile", strength, statistics())
    for name, values in activations().items():
        expected = np.quantile(values[values > 0], strength)
        assert expected == pytest.approx(number(found[name]), rel=2**-11)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_channel_has_a_quantile_for_each(strength: float) -> None:
    """The array broadcasts to the activation; without channels it is the site's quantile."""
    found = jumps("channel", strength, statistics())
    assert number(jumps("quantile", strength, statistics())["flat"]) == number(found["flat"])
    assert ((3, 1, 1), (6,)) == (array(found["conv"]).shape, array(found["dense"]).shape)
    for name in ("conv", "dense"):
        values = activations()[name].swapaxes(0, 1)
        for channel, jump in zip(values, array(found[name]).ravel(), strict=True):
            expected = np.quantile(channel[channel > 0], strength)
            assert expected == pytest.approx(float(jump), rel=2**-4)


def test_sites_and_channels_without_positive_numbers_have_jump_zero() -> None:
    """There is no quantile of nothing."""
    half = np.stack([np.full(50, -1.0), np.linspace(1, 2, 50)], axis=1)
    sites = {"dead": dead(4, 2), "flat": dead(4), "half": site("half", half)}
    assert [0.0, 0.0] == [number(jumps("quantile", 0.5, sites)[name]) for name in ("dead", "flat")]
    found = jumps("channel", 0.5, sites)
    assert [0.0, 0.0] == [number(found[name]) for name in ("dead", "flat")]
    assert [0.0, 1.5] == pytest.approx([float(x) for x in array(found["half"])], rel=2**-4)


@pytest.mark.parametrize("scale", ["quantile", "channel"])
def test_jumps_follow_the_size_of_activations(scale: Scale) -> None:
    """A site a thousand times larger has jumps a thousand times larger; the others stay."""
    for strength in STRENGTHS:
        one, other = (jumps(scale, strength, statistics(factor)) for factor in (1.0, 1000.0))
        bound = 2 * (2**-11 if scale == "quantile" else 2**-4)
        np.testing.assert_allclose(other["dense"], 1000 * np.asarray(one["dense"]), rtol=bound)
        assert np.array_equal(one["conv"], other["conv"])


def test_a_shared_jump_does_nothing_where_activations_are_large() -> None:
    """What it sets to 0 tells so, and that a quantile does as much there as elsewhere."""
    large = statistics(1000.0)
    found = zeroed(jumps("shared", 0.5, large), large)
    assert 0.3 < found["conv"]
    assert found["dense"] < 0.002
    for scale in ("quantile", "channel"):
        for strength in STRENGTHS:
            shares = zeroed(jumps(scale, strength, large), large)
            assert [strength] * 3 == pytest.approx(list(shares.values()), abs=0.01)


@pytest.mark.parametrize("strength", [0.05, 0.25, 0.5, 1.0, 3.0])
def test_shares_are_those_that_a_jump_sets_to_zero(strength: float) -> None:
    """Of all positive numbers of a site, for a number and for an array."""
    sites = statistics()
    array_of_jumps = np.array([strength, 2, 0], np.float32).reshape(3, 1, 1)
    found = zeroed(jumps("shared", strength, sites) | {"conv": array_of_jumps}, sites)
    for name, values in activations().items():
        jump = array_of_jumps if name == "conv" else np.float32(strength)
        expected = ((values > 0) & (values <= jump)).sum() / (values > 0).sum()
        assert expected == pytest.approx(found[name], abs=0.01)


def test_no_jump_and_no_number_set_nothing_to_zero() -> None:
    """Shares are 0 there; sites that have no jump are not told of."""
    sites = statistics() | {"dead": dead(4, 2)}
    assert {"dense": 0.0, "dead": 0.0} == zeroed({"dense": 0.0, "dead": 5.0}, sites)
    assert {"dead": 0.0} == zeroed({"dead": np.ones(2, np.float32)}, sites)
    assert {"conv": 1.0} == zeroed({"conv": 1e30}, sites)


@pytest.mark.parametrize("scale", SCALES)
def test_one_strength_is_the_same_for_every_site(scale: Scale) -> None:
    """A strength of its own for each site, all equal, gives the jumps of that strength."""
    sites = statistics()
    expected, found = jumps(scale, 0.4, sites), per_site(scale, dict.fromkeys(sites, 0.4), sites)
    assert list(expected) == list(found)
    assert all(np.array_equal(expected[name], found[name]) for name in sites)


@pytest.mark.parametrize("scale", SCALES)
def test_sites_may_have_strengths_of_their_own(scale: Scale) -> None:
    """Each site has the jump that it has when all have its strength."""
    sites = statistics()
    strengths = {"flat": 0.7, "conv": 0.2, "dense": 0.0}
    found = per_site(scale, strengths, sites)
    assert list(sites) == list(found)
    for name, strength in strengths.items():
        assert np.array_equal(jumps(scale, strength, sites)[name], found[name])


def test_the_first_strength_suits_a_typical_site() -> None:
    """Shared: the geometric mean of the medians; else half; dead sites do not count."""
    sites = {"a": site("a", np.full(9, 0.5)), "b": site("b", np.full(9, 8.0)), "dead": dead(4)}
    assert 2.0 == pytest.approx(first_strength("shared", sites))
    assert [0.5, 0.5] == [first_strength("quantile", sites), first_strength("channel", sites)]
    sites = statistics(1e6)
    medians = [np.median(values[values > 0]) for values in activations(1e6).values()]
    expected = math.exp(np.log(medians).mean())
    assert expected == pytest.approx(first_strength("shared", sites), rel=2**-10)


@pytest.mark.parametrize("scale", SCALES)
def test_where_all_is_dead_there_is_no_first_strength(scale: Scale) -> None:
    """No jump changes anything then, and with no sites neither."""
    message = r"^no site has a positive pre-activation, so no jump changes anything$"
    for sites in ({"dead": dead(4, 2)}, {}):
        with pytest.raises(ValueError, match=message):
            first_strength(scale, sites)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf, 1e39, -math.inf, 1.0, 1.5])
def test_strengths_out_of_range_are_refused(scale: Scale, strength: float) -> None:
    """Negative, infinite or no number; 1 and more where it is a quantile."""
    sites = statistics()
    if scale == "shared" and 1 <= strength <= 2:
        assert {strength} == {number(jump) for jump in jumps(scale, strength, sites).values()}
        return
    quantiles = "strength of at least 0 and below 1"
    words = "strength of at least 0 within float32" if scale == "shared" else quantiles
    message = rf"^expected a {words}, got {re.escape(str(strength))}$"
    with pytest.raises(ValueError, match=message):
        jumps(scale, strength, sites)
    with pytest.raises(ValueError, match=message):
        per_site(scale, {"conv": 0.1, "dense": strength, "flat": 0.2}, sites)


def test_names_are_checked() -> None:
    """A scale or site that does not exist and a site without a strength are told."""
    sites = statistics()
    wrong: Any = "sharde"
    message = r"^scale is one of shared, quantile, channel, got 'sharde'$"
    with pytest.raises(ValueError, match=message):
        jumps(wrong, 0.1, sites)
    with pytest.raises(ValueError, match=r"^there is no site 'cnov'$"):
        per_site("shared", dict.fromkeys(sites, 0.1) | {"cnov": 0.1}, sites)
    with pytest.raises(ValueError, match=r"^there is no site 'cnov'$"):
        zeroed({"cnov": 0.1}, sites)
    with pytest.raises(ValueError, match=r"^site 'dense' has no strength$"):
        per_site("shared", {"conv": 0.1, "flat": 0.1}, sites)


def test_channels_that_were_not_counted_are_told() -> None:
    """A site that has channels does not fall back in silence, and shapes must fit."""
    bare = {"a": site("a", np.ones((4, 2)), by_channel=False)}
    with pytest.raises(ValueError, match=r"^the channels of site 'a' were not counted$"):
        jumps("channel", 0.5, bare)
    counted = {"a": site("a", np.ones((4, 2)))}
    for sites, shape in ((bare, "None"), (counted, r"\(2,\)")):
        message = (
            r"^the jumps of site 'a' are of shape \(3,\), "
            rf"the channels that were counted of {shape}$"
        )
        with pytest.raises(ValueError, match=message):
            zeroed({"a": np.ones(3, np.float32)}, sites)


def test_jumps_of_a_real_network_harden_it() -> None:
    """On the shipped digits each scale drops the share that it says, site by site."""
    path, data = MODELS / "digits_cnn.onnx", open_data(MODELS / "digits_val.npz")
    found = measure(Classifier(onnxfit.retrofit(path, 0.0)), data, by_channel=True)
    for scale in ("quantile", "channel"):
        shares = zeroed(jumps(scale, 0.3, found), found)
        assert [0.3] * len(found) == pytest.approx(list(shares.values()), abs=0.01)
    chosen = {name: number(jump) for name, jump in jumps("quantile", 0.3, found).items()}
    again = measure(Classifier(onnxfit.retrofit(path, jumps=chosen)), data)
    assert zeroed(chosen, found) == zeroed(chosen, again)
