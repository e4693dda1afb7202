"""The points that attacks may use: exactly inside, whatever floats do."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxfit.attacks.ball import (  # noqa: E402
    NORMS,
    Ball,
    QuantizedBall,
    make_ball,
    norms,
    scaled,
    unit_steps,
)

BOUNDS = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-2.1, 2.6)]
# Powers of two and their neighbours, what no float holds, less than a unit in the last place, all.
EPSILONS = [0.0, 1e-30, 1e-9, 1 / 255, 8 / 255, 0.1, 0.3, 0.5, 1.0, 3.7, 1e4, float("inf")]


def samples(bounds: tuple[float, float], *shape: int, seed: int = 0, dtype: Any = None) -> Any:
    """Draw samples from bound to bound, with both bounds and values near the lower one."""
    low, high = (torch.tensor(bound, dtype=dtype or torch.float32) for bound in bounds)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=low.dtype)
    drawn = torch.where(drawn < 0.1, drawn**12, drawn)
    return ((drawn * 1.2 - 0.1) * (high - low) + low).clamp(low, high)


def outside_in_doubles(ball: Ball, points: Any) -> int:
    """Count points out of the ball or its bounds with NumPy in double precision."""
    moved = points.numpy().astype(np.float64) - ball.x.numpy().astype(np.float64)
    moved = moved.reshape(len(moved), -1)
    length = np.abs(moved).max(1) if ball.norm == "linf" else np.sqrt((moved**2).sum(1))
    low, high = np.asarray(ball.bounds).astype(points.numpy().dtype)
    flat = points.numpy().reshape(len(moved), -1)
    # ``not`` first, so that NaN is outside.
    return int((~((length <= ball.eps) & (flat >= low).all(1) & (flat <= high).all(1))).sum())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_projection_is_inside(norm: Any, bounds: Any, dtype: Any) -> None:
    """No point is out by a bit: radii no float holds, tiny, huge, infinite; points near and far."""
    for eps, shape in itertools.product(EPSILONS, [(40, 7), (6, 5, 9), (4, 3, 16, 16)]):
        x = samples(bounds, *shape, dtype=dtype)
        ball = Ball(x, eps, norm, bounds)
        width = min(eps, bounds[1] - bounds[0])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        for size in (0.1, 0.5, 1.0, 3.0, 1e3):
            points = ball.project(x + size * width * noise)
            assert 0 == outside_in_doubles(ball, points), (eps, shape, size)
            assert ball.contains(points).all()
            again = ball.project(points)
            assert ball.contains(again).all()
        drawn = ball.random(torch.Generator().manual_seed(2))
        assert 0 == outside_in_doubles(ball, drawn), (eps, shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_projection_is_inside_by_fractions(dtype: Any) -> None:
    """In exact arithmetic, of which double precision is only a stand-in, no value is farther."""
    x = samples((0.0, 1.0), 4, 200, dtype=dtype)
    for eps in EPSILONS[:-1]:
        ball = Ball(x, eps, "linf", (-10.0, 10.0))
        for far in (-20.0, 20.0):
            points = ball.project(x + far).flatten().tolist()
            for point, sample in zip(points, x.flatten().tolist(), strict=True):
                assert abs(Fraction(point) - Fraction(sample)) <= Fraction(eps)


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_of_large_images_is_inside(norm: Any) -> None:
    """150,528 values a sample: sums of squares in single precision are off by more there."""
    for bounds, eps in [((0.0, 1.0), 3.0), ((0.0, 1.0), 4 / 255), ((0.0, 255.0), 128.0)]:
        x = samples(bounds, 2, 3, 224, 224)
        ball = Ball(x, eps, norm, bounds)
        for size in (0.003, 0.1, 10.0):
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
            assert 0 == outside_in_doubles(ball, ball.project(x + size * eps * noise))


def test_rounding_alone_leaves_the_ball() -> None:
    """What one writes first is outside, in both types and norms; the projections are not."""
    for dtype, norm in itertools.product([torch.float32, torch.float64], NORMS):
        x = torch.rand(2000, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
        ball = Ball(x, 0.3, norm, (0.0, 1.0))
        moved = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        naive = x + (
            moved.clamp(-0.3, 0.3)
            if norm == "linf"
            else 0.3 * moved / moved.norm(dim=1, keepdim=True)
        )
        naive = naive.clamp(0, 1)
        assert outside_in_doubles(ball, naive) > 100
        assert not ball.contains(naive).all()
        assert 0 == outside_in_doubles(ball, ball.project(naive))


def test_a_projection_goes_no_farther_in_than_it_must() -> None:
    """A far point ends within rounding of the radius, an inner one stays where it is."""
    x = samples((0.0, 1.0), 500, 12) * 0.4 + 0.3
    for eps in (0.1, 1 / 255, 0.25):
        linf = Ball(x, eps, "linf", (0.0, 1.0)).project(x + 1)
        assert (linf.double() - x.double()).min() >= eps - 2**-24
        l2 = Ball(x, eps, "l2", (0.0, 1.0)).project(x + 1)
        assert norms(l2.double() - x.double()).min() >= eps * (1 - 2e-5) - 2**-24 * 12**0.5
        for norm in NORMS:
            inner = x + eps / 12 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
            assert torch.equal(inner, Ball(x, eps, norm, (0.0, 1.0)).project(inner))


@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_of_0_leaves_the_bits_of_a_sample(norm: Any) -> None:
    """Nothing moves, not by rounding either."""
    x = samples((-2.1, 2.6), 50, 3, 8, 8)
    ball = Ball(x, 0.0, norm, (-2.1, 2.6))
    assert torch.equal(x, ball.project(x + torch.randn(x.shape)))
    assert torch.equal(x, ball.random(torch.Generator().manual_seed(0)))


def test_lengths_that_underflow_do_not_pass_for_0() -> None:
    """With l2 a radius below what rounding allows is met at 0 alone, where floats are dense."""
    x = torch.zeros(3, 4)
    x[1:] = 0.5
    ball = Ball(x, 1e-30, "l2", (0.0, 1.0))
    points = ball.project(x + torch.full((3, 4), 1e-25))
    assert 1e-30 == pytest.approx(float(ball.distances(points)[0]), rel=1e-3, abs=0)
    assert ball.contains(points).all()
    assert torch.equal(x[1:], points[1:])


def test_without_a_radius_only_the_bounds_count() -> None:
    """An infinite one is for attacks that look for the smallest perturbation."""
    x = samples((0.0, 1.0), 5, 6)
    for norm in NORMS:
        ball = Ball(x, float("inf"), norm, (0.0, 1.0))
        far = torch.full_like(x, 7.0)
        assert torch.equal(torch.ones_like(x), ball.project(far))
        assert ball.contains(torch.ones_like(x)).all()
        assert ball.contains(ball.random(torch.Generator().manual_seed(0))).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_fill_the_ball(norm: Any) -> None:
    """Uniform: each coordinate is (linf), or the share of the volume inside a point (l2)."""
    x = torch.full((4000, 3), 0.5, dtype=torch.float64)
    moved = Ball(x, 0.2, norm, (0.0, 1.0)).random(torch.Generator().manual_seed(0)) - x
    share = (moved[:, 0] / 0.2 + 1) / 2 if norm == "linf" else (norms(moved) / 0.2) ** 3
    deciles = torch.histc(share, 10, 0, 1) / 400
    assert ((deciles > 0.8) & (deciles < 1.2)).all()
    assert moved.mean(0).abs().max() < 0.01


def test_random_points_depend_on_the_generator_alone() -> None:
    """The same seed, the same points; torch's own state does not matter."""
    ball = Ball(samples((0.0, 1.0), 3, 4), 0.1, "linf", (0.0, 1.0))
    torch.manual_seed(0)
    first = ball.random(torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    assert torch.equal(first, ball.random(torch.Generator().manual_seed(5)))
    assert not torch.equal(first, ball.random(torch.Generator().manual_seed(6)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("quantize", [False, True])
def test_the_balls_of_some_samples(norm: Any, quantize: bool) -> None:
    """By number or mask they are what they are in the whole."""
    x = levels(6, 3, 4, 4)
    ball = make_ball(x, 8 / 255, norm, (0.0, 1.0), quantize=quantize)
    far = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    points = ball.project(far)
    mask = torch.tensor([True, False, True, True, False, False])
    for rows in (torch.tensor([4, 0, 4]), mask, torch.tensor([], dtype=torch.long)):
        some = ball[rows]
        assert torch.equal(x[rows], some.x)
        assert torch.equal(points[rows], some.project(far[rows]))
        assert torch.equal(ball.contains(points)[rows], some.contains(points[rows]))
        assert torch.equal(ball.distances(points)[rows], some.distances(points[rows]))


@pytest.mark.parametrize("norm", NORMS)
def test_the_layout_in_memory_does_not_matter(norm: Any) -> None:
    """Channels last or not: the same points."""
    x = samples((0.0, 1.0), 4, 3, 6, 6)
    last = x.contiguous(memory_format=torch.channels_last)
    far = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    expected = Ball(x, 0.5, norm, (0.0, 1.0))
    actual = Ball(last, 0.5, norm, (0.0, 1.0))
    torch.testing.assert_close(expected.project(far), actual.project(far), rtol=0, atol=1e-6)
    points = expected.project(far)
    assert torch.equal(expected.contains(points), actual.contains(points))


@pytest.mark.parametrize("norm", NORMS)
def test_no_samples_are_no_trouble(norm: Any) -> None:
    """Every question about none has none for an answer."""
    x = torch.zeros(0, 3, 4, 4)
    for quantize in (False, True):
        ball = make_ball(x, 0.1, norm, (0.0, 1.0), quantize=quantize)
        assert x.shape == ball.project(x).shape
        assert x.shape == ball.random(torch.Generator()).shape
        assert (0,) == ball.contains(x).shape


def test_contains_sees_one_unit_in_the_last_place() -> None:
    """Outside by a bit, below a bound by a bit, and NaN are outside."""
    x = torch.tensor([[0.25], [0.0], [0.5], [0.5]])
    ball = Ball(x, 0.25, "linf", (0.0, 1.0))
    edge = torch.tensor([[0.5], [0.0], [0.75], [0.5]])
    assert [True] * 4 == ball.contains(edge).tolist()
    beyond = torch.nextafter(edge, torch.tensor([[1.0], [-1.0], [1.0], [1.0]]))
    beyond[3] = float("nan")
    assert [False] * 4 == ball.contains(beyond).tolist()


def levels(*shape: int, bounds: tuple[float, float] = (0.0, 1.0), seed: int = 0) -> Any:
    """Draw samples that 8 bits hold, with those at the bounds among them."""
    numbers = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    numbers.view(-1)[:2] = torch.tensor([0, 255])
    low, high = bounds
    return (low + numbers.double() * (high - low) / 255).float()


def numbers_of(points: Any, bounds: tuple[float, float]) -> Any:
    """Return the levels of points, not rounded, in double precision."""
    return (points.double() - bounds[0]) * 255 / (bounds[1] - bounds[0])


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0, 2.5, 8.0, 300.0])
def test_quantised_points_are_on_levels_and_inside(bounds: Any, norm: Any, share: float) -> None:
    """Radii that are a number of levels, none, less than one, or more than there are."""
    eps = share * (bounds[1] - bounds[0]) / 255
    x = levels(50, 3, 4, 4, bounds=bounds)
    ball = QuantizedBall(x, eps, norm, bounds)
    for size in (0.2, 1.0, 5.0):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        points = ball.quantize(ball.project(x + size * eps * noise))
        numbers = numbers_of(points, bounds)
        assert (numbers - numbers.round()).abs().max() < 1e-3
        moved = numbers.round() - numbers_of(x, bounds).round()
        assert norms(moved, norm).max() <= share * (1 + 1e-9)
        assert ball.contains(points).all()
        assert points.min() >= np.float32(bounds[0])
        assert points.max() <= np.float32(bounds[1])


def test_every_level_goes_to_the_nearest_that_is_allowed() -> None:
    """All 256 samples and many points of each, against a search through all levels."""
    x = (torch.arange(256).double() / 255).float()[:, None]
    for eps in (0.5 / 255, 1 / 255, 7.5 / 255, 8 / 255):
        ball = QuantizedBall(x, eps, "linf", (0.0, 1.0))
        reach = int(eps * 255 + 1e-9)
        for step in np.linspace(-9, 9, 61):
            wanted = (np.arange(256) + step).clip(0, 255)
            points = torch.tensor(wanted / 255, dtype=torch.float32)[:, None]
            numbers = numbers_of(ball.quantize(points), (0.0, 1.0)).round().squeeze(1).numpy()
            for at in range(256):
                allowed = np.arange(max(0, at - reach), min(255, at + reach) + 1)
                nearest = np.abs(allowed - wanted[at]).min()
                assert abs(numbers[at] - wanted[at]) <= nearest + 1e-4, (eps, step, at)


def test_quantised_points_have_the_bits_of_an_image_file() -> None:
    """A level is the float that uint8 / 255 gives, and what does not move keeps its own bits."""
    x = torch.from_numpy(np.arange(256, dtype=np.uint8).astype(np.float32) / np.float32(255))[
        :, None
    ]
    ball = QuantizedBall(x, 8 / 255, "linf", (0.0, 1.0))
    assert torch.equal(x, ball.quantize(x + 0.2 / 255))
    assert torch.equal(x[8:], ball.quantize(x + 8 / 255)[:-8])
    beside = torch.nextafter(x, torch.tensor(0.5))
    kept = QuantizedBall(beside, 8 / 255, "linf", (0.0, 1.0))
    assert torch.equal(beside, kept.quantize(beside + 0.2 / 255))


def test_rounding_to_levels_alone_leaves_the_ball() -> None:
    """A point on an l2 sphere, rounded level by level, is outside as often as not."""
    x = levels(200, 30)
    ball = QuantizedBall(x, 10 / 255, "l2", (0.0, 1.0))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    points = ball.project(x + noise)
    naive = ((points * 255).round() / 255).clamp(0, 1)
    assert not ball.contains(naive).all()
    assert ball.contains(ball.quantize(points)).all()
    # It still moves, and not against the point.
    moved = ball.quantize(points) - x
    assert (norms(moved) > 0).all()
    assert ((moved * (points - x)) >= 0).all()


def test_what_is_no_level_is_not_inside() -> None:
    """Between two levels, a level too many, and the one above the upper bound."""
    x = torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    ball = QuantizedBall(x, 2 / 255, "linf", (0.0, 1.0))
    points = torch.tensor([[0.5], [3.0], [256.0], [2.0]]) / 255
    assert [False, False, False, True] == ball.contains(points).tolist()


def test_quantised_distances_count_levels() -> None:
    """Eight levels are 8/255, not what the difference of two floats makes of it."""
    x = levels(100, 1)[levels(100, 1)[:, 0] < 0.9]
    moved = ((x.double() * 255).round() + 8) / 255
    ball = QuantizedBall(x, 8 / 255, "linf", (0.0, 1.0))
    assert (ball.distances(moved.float()) <= 8 / 255).all()
    assert ball.contains(moved.float()).all()
    plain = Ball(x, 8 / 255, "linf", (0.0, 1.0))
    assert not plain.contains(moved.float()).all()


def test_samples_between_levels_cannot_be_quantised() -> None:
    """The message says so."""
    expected = "^the samples are not on the 256 levels of 8 bits between the bounds$"
    with pytest.raises(ValueError, match=expected):
        QuantizedBall(torch.tensor([[0.5]]), 0.1, "linf", (0.0, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-44, 1e-25, 1e-3, 1.0, 1e25, 3e38])
def test_steps_have_length_1_however_large_the_gradient(dtype: Any, size: float) -> None:
    """Squares of such numbers are 0 or infinite: dividing by the plain norm gives 0 or NaN."""
    gradient = torch.tensor([[3.0, -4.0, 0.0]], dtype=dtype) * (size / 4)
    assert [1.0, -1.0, 0.0] == unit_steps(gradient, "linf")[0].tolist()
    steps = unit_steps(gradient, "l2")
    assert 1.0 == pytest.approx(float(steps.double().norm()), rel=1e-5)
    if size > 1e-40:
        assert [0.6, -0.8, 0.0] == pytest.approx(steps[0].tolist(), rel=1e-5)
    if dtype == torch.float32 and not 1e-20 < size < 1e19:
        plain = gradient / gradient.square().sum().sqrt()
        assert 1.0 != pytest.approx(float(plain.double().norm()), rel=0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_0_has_no_direction_and_nan_counts_as_0(norm: Any) -> None:
    """Nothing becomes NaN, and other samples are not touched."""
    nan, inf = float("nan"), float("inf")
    gradient = torch.tensor([[0.0, 0.0], [nan, nan], [nan, -2.0], [inf, 0.0], [0.0, 5.0]])
    expected = [[0.0, 0.0], [0.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]]
    assert expected == unit_steps(gradient, norm).tolist()


def test_scaled_gradients_have_1_for_their_largest_value() -> None:
    """Sample by sample; 0 stays 0."""
    gradient = torch.tensor([[2.0, -4.0], [0.0, 0.0], [1e-30, 0.0], [float("nan"), 3.0]])
    assert [[0.5, -1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]] == scaled(gradient).tolist()


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_are_told_by_a_few_bits(bounds: Any, dtype: Any) -> None:
    """However floats computed them they are levels; half a thousandth of one beside is not."""
    low, high = bounds
    numbers = torch.arange(256)
    exact = (low + numbers.double() * (high - low) / 255).to(dtype)
    step = torch.tensor((high - low) / 255, dtype=dtype)
    images = [
        exact,
        torch.linspace(low, high, 256, dtype=dtype),
        torch.tensor(np.linspace(low, high, 256)).to(dtype),
        (torch.tensor(low, dtype=dtype) + numbers.to(dtype) * step).clamp(low, high),
        (numbers.to(dtype) / 255 * (high - low) + low).clamp(low, high),
        torch.nextafter(exact, torch.tensor(0.5, dtype=dtype)),
    ]
    for x in images:
        ball = QuantizedBall(x[:, None], 8 * (high - low) / 255, "linf", bounds)
        assert ball.contains(ball.quantize(x[:, None] + 9 * step)).all()
    for off in (5e-4, -5e-4):
        beside = (exact.double() + off * (high - low) / 255).to(dtype)[1:-1, None]
        assert not ball.on_levels(beside).any()


@pytest.mark.parametrize("eps", [0.005, 0.05, 0.5])
def test_all_of_a_small_radius_is_used_in_wide_bounds(eps: float) -> None:
    """Rounding moves a large image by more than this radius in all; points are inside, and far."""
    # Away from the bounds, which would cut something off.
    x = samples((0.0, 255.0), 2, 3, 224, 224) * 0.5 + 60
    ball = Ball(x, eps, "l2", (0.0, 255.0))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    for size in (0.1, 1.0, 100.0):
        points = ball.project(x + size * eps * noise)
        assert 0 == outside_in_doubles(ball, points)
        assert float(ball.distances(points).min()) > 0.99 * eps
        assert torch.equal(points, ball.project(points))


def test_a_radius_that_floats_cannot_meet_moves_less() -> None:
    """Of steps that all round up nothing is left but what is inside."""
    x = torch.full((1, 100), 200.0)
    ulp = 2.0**-16
    for eps in (0.1 * ulp, 0.6 * ulp, 6 * ulp, 9.9 * ulp):
        ball = Ball(x, eps, "l2", (0.0, 255.0))
        for move in (1.0, -1.0):
            points = ball.project(x + move * torch.linspace(0.5, 1, 100))
            assert 0 == outside_in_doubles(ball, points)
