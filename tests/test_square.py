"""The Square attack: where its points lie, what they cost, and what they break."""

import math
from typing import Any

import pytest
from support import MODELS

torch = pytest.importorskip("torch")

from attack_support import (  # noqa: E402
    Counter,
    Function,
    Linear,
    digits,
    lengths,
    random_images,
)

from onnxfit.attacks.square import Square, _image, _patterns, _sides  # noqa: E402
from onnxfit.twin.image_layout import Turned, with_channels  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

NORMS = ["linf", "l2"]
SHAPES = [
    (1, 8, 8),
    (3, 8, 8),
    (3, 5, 9),
    (1, 9, 4),
    (2, 2, 2),
    (1, 2, 2),
    (1, 1, 1),
    (3, 1, 1),
    (1, 1, 7),
    (12,),
    (7,),
    (1,),
    (6, 5),
    (2, 3, 4, 4),
]


def hidden(size: int) -> tuple[Any, Any]:
    """Make a linear model of two classes whose gradient is 0 everywhere, and its weights."""
    weights = torch.randn(size, generator=torch.Generator().manual_seed(size))
    weights[0] = 1.0

    def score(x: Any) -> Any:
        flat = x.flatten(1)
        return ((flat - 0.5) @ weights.to(x.dtype)).detach() + 0 * flat.sum(1)

    return Function(score), weights


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_point_is_inside_and_counted(norm: Any, shape: tuple[int, ...]) -> None:
    """For samples of any shape no point leaves the ball or the bounds, nor are queries exceeded."""
    x = random_images(1, *shape, seed=sum(shape))
    # The far class is out of reach: all 30 queries are used.
    model = Counter(Linear([0.1] * x.numel(), 99.0))
    points = Square(eps=0.3, norm=norm, queries=30)(model, x, torch.ones(1).long())
    assert [1] * 31 == model.calls
    for given in (points, *model.inputs):
        assert lengths(given.double() - x, norm) <= 0.3
        assert ((given >= 0) & (given <= 1)).all()
        assert x.shape == given.shape


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6), (3, 1, 1), (2, 2, 2), (10,), (4, 5)])
def test_a_zero_gradient_hides_nothing(norm: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    """A linear model without gradients is broken within 1.3 times the least eps, in l2 twice."""
    model, weights = hidden(math.prod(shape))
    x = random_images(10, *shape, dtype=dtype) * 0.1 + 0.45
    scores = model(x)[:, 1]
    dual = weights.abs().sum() if norm == "linf" else weights.norm()
    least = float(scores.abs().amax() / dual)
    eps = least * (1.3 if norm == "linf" else 2) + 1e-6
    labels = (scores > 0).long()
    points = Square(eps=eps, norm=norm, queries=500)(model, x, labels)
    assert (labels != model(points).argmax(1)).all()
    assert dtype == points.dtype


@pytest.mark.parametrize("norm", NORMS)
def test_samples_that_are_broken_get_no_more_queries(norm: Any) -> None:
    """A batch shrinks as samples break; what is wrong already is never given again."""
    x = torch.tensor([0.2, 0.4, 0.5, 0.501, 0.52, 0.9])[:, None, None, None].expand(-1, 1, 4, 4)
    x = x.clone()
    labels = torch.tensor([1, 1, 1, 1, 1, 1])
    model = Counter(Linear([1.0 / 16] * 16, -0.5))
    eps = 0.05 if norm == "linf" else 0.2
    points = Square(eps=eps, norm=norm, queries=50)(model, x, labels)
    assert [6, 3] == model.calls[:2]
    assert model.calls[1:] == sorted(model.calls[1:], reverse=True)
    assert 1 == model.calls[-1]
    assert torch.equal(x[:3], points[:3])  # A tie goes to the first class.
    assert [0, 0, 0, 0, 0, 1] == model.module(points).argmax(1).tolist()


@pytest.mark.parametrize("norm", NORMS)
def test_images_with_their_channels_last(norm: Any) -> None:
    """The squares are those of the same images with their channels first."""
    x, labels = random_images(6, 3, 8, 9), torch.ones(6).long()
    model = Linear([(-1.0) ** at for at in range(3 * 8 * 9)], 9.0)
    attack = Square(eps=0.2, norm=norm, queries=30)
    expected = attack(model, x, labels)
    found = attack(Turned(model, last=False), with_channels(x, last=True), labels)
    torch.testing.assert_close(with_channels(expected, last=True), found)


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_alone_is_attacked_as_in_its_batch(norm: Any) -> None:
    """The first sample's point depends neither on the others nor on when they break."""
    x, labels = digits(12)
    twin = Target(MODELS / "digits_cnn.onnx").twin
    attack = Square(eps=0.1 if norm == "linf" else 0.6, norm=norm, queries=60)
    wrong = labels.clone()
    wrong[1:] = (labels[1:] + 1) % 10  # These are broken from the start.
    assert torch.equal(attack(twin, x, labels)[0], attack(twin, x, wrong)[0])


@pytest.mark.parametrize("norm", NORMS)
def test_the_file_is_attacked_as_its_twin(norm: Any) -> None:
    """With the same seed the same digits are broken, by the same points but for rounding."""
    x, labels = digits(40)
    target = Target(MODELS / "digits_cnn.onnx")
    attack = Square(eps=0.12 if norm == "linf" else 0.8, norm=norm, queries=100)
    on_twin, on_file = (attack(module, x, labels) for module in (target.twin, target.deployed))
    broken = target.twin(on_twin).argmax(1) != labels
    assert 5 < int(broken.sum()) < 40
    assert torch.equal(broken, target.deployed(on_file).argmax(1) != labels)
    same = ((on_twin - on_file).abs() < 1e-5).flatten(1).all(1)
    assert 38 <= int(same.sum())


@pytest.mark.parametrize("norm", NORMS)
def test_success_is_never_forgotten(norm: Any) -> None:
    """What a run of few queries breaks, a run of more restarts breaks too, by the same points."""
    x, labels = digits(30)
    model = Target(MODELS / "digits_cnn.onnx").twin
    eps = 0.15 if norm == "linf" else 0.6
    once, more = (
        Square(eps=eps, norm=norm, queries=25, restarts=n)(model, x, labels) for n in (1, 4)
    )
    broken = model(once).argmax(1) != labels
    assert broken.any()
    assert torch.equal(once[broken], more[broken])
    assert int(broken.sum()) < int((model(more).argmax(1) != labels).sum())


@pytest.mark.parametrize("loss", ["margin", "ce", "dlr"])
def test_the_seed_decides(loss: Any) -> None:
    """The same seed gives the same points, another one others; the global generator is unused."""
    x, labels = digits(4)
    model = Target(MODELS / "digits_cnn.onnx").twin
    state = torch.random.get_rng_state()
    first, again, other = (
        Square(eps=0.03, queries=20, loss=loss, seed=seed)(model, x, labels) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("norm", NORMS)
def test_points_of_256_levels(norm: Any) -> None:
    """With quantize the model sees only points that 8 bits hold, and not one query more."""
    x, labels = digits(20)
    x = (x * 255).round() / 255
    model = Counter(Target(MODELS / "digits_cnn.onnx").twin)
    eps = 48 / 255 if norm == "linf" else 1.2
    attack = Square(eps=eps, norm=norm, quantize=True, queries=40)
    for i in range(20):
        model.calls.clear()
        attack(model, x[i : i + 1], labels[i : i + 1])
        assert sum(model.calls) <= 41
    for given in model.inputs:
        assert ((given * 255 - (given * 255).round()).abs() < 1e-3).all()
    points = attack(model, x, labels)
    assert (lengths(points.double() - x, norm) <= eps + 1e-6).all()
    assert 3 < int((model(points).argmax(1) != labels).sum())


@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_changes_nothing(norm: Any) -> None:
    """Every candidate is the sample itself."""
    x, labels = digits(3)
    model = Target(MODELS / "digits_cnn.onnx").twin
    assert torch.equal(x, Square(eps=0.0, norm=norm, queries=3)(model, x, labels))


def test_the_first_point_is_stripes_and_squares_follow() -> None:
    """For linf columns are moved whole at first; then each query changes one square, by corners."""
    x = torch.full((1, 3, 8, 8), 0.5)
    model = Counter(Linear([1.0] * 192, 99.0))
    Square(eps=0.1, queries=400)(model, x, torch.ones(1).long())
    _, stripes, *others = model.inputs
    assert (stripes == stripes[:, :, :1]).all()
    assert 2 == len(stripes.unique())
    sides = []
    for points in others:
        assert 2 == len(points.unique())
        # The score falls where a value does; a candidate that raised it did not stay.
        changed = (points != stripes).any(1).nonzero()
        if len(changed):
            extent = changed.amax(0) - changed.amin(0) + 1
            sides.append(int(extent.amax()))
        if model.module(points)[0, 1] < model.module(stripes)[0, 1]:
            stripes = points
    assert max(sides[:1]) <= 7
    assert {1} == set(sides[-50:])


def test_squares_reach_every_corner() -> None:
    """Of 500 squares of one pixel, some lie on each of the 12 pixels of a 3×4 image."""
    x = torch.full((1, 1, 3, 4), 0.5)
    model = Counter(Linear([0.0] * 12, 99.0))  # No candidate is better than the first.
    Square(eps=0.1, queries=500, p_init=0.1)(model, x, torch.ones(1).long())
    first = model.inputs[1]
    touched = torch.stack([given != first for given in model.inputs[2:]]).any(0)
    assert touched.all()


def test_how_samples_are_laid_out() -> None:
    """Images stay; vectors become rows as near to a square as their length divides."""
    laid = {shape: tuple(_image(torch.Size(shape))) for shape in SHAPES}
    assert (3, 5, 9) == laid[3, 5, 9]
    assert (1, 6, 5) == laid[6, 5]
    assert (1, 3, 4) == laid[12,]
    assert (1, 1, 7) == laid[7,]
    assert (1, 1, 3) == laid[3, 1, 1]
    assert (2, 12, 4) == laid[2, 3, 4, 4]
    assert (1, 28, 28) == tuple(_image(torch.Size([784])))


@pytest.mark.parametrize("least", [1, 3])
def test_rectangles_fit_and_cover_the_share(least: int) -> None:
    """A side is in the image; the area is the share's as near as whole sides allow."""
    for shape in [(8, 8), (28, 28), (1, 100), (100, 1), (5, 40), (2, 2), (1, 1), (32, 32)]:
        image = _image(torch.Size(shape))
        for halvings in range(10):
            share = 0.8 / 2**halvings
            height, width = _sides(image, share, least)
            assert 1 <= height <= shape[0]
            assert 1 <= width <= shape[1]
            if least == 1 and share * math.prod(shape) > 10:
                assert 0.7 < height * width / (share * math.prod(shape)) < 1.4
    assert (25, 25) == _sides(_image(torch.Size([28, 28])), 0.8)
    assert (1, 80) == _sides(_image(torch.Size([1, 100])), 0.8)
    assert (3, 3) == _sides(_image(torch.Size([28, 28])), 0.001, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (2, 2), (5, 5), (3, 7)])
def test_patterns_are_two_bumps_of_length_one(size: tuple[int, int]) -> None:
    """Both orientations have length 1, and above one pixel two halves of opposite sign."""
    patterns = _patterns(*size)
    assert (2, *size) == tuple(patterns.shape)
    torch.testing.assert_close(torch.ones(2).double(), patterns.double().flatten(1).norm(dim=1))
    if size != (1, 1):
        assert ((patterns > 0).flatten(1).any(1) & (patterns < 0).flatten(1).any(1)).all()
    if min(size) > 1:
        assert (patterns[0, 0] > 0).all()
        assert (patterns[0, -1] < 0).all()
        assert (patterns[1, :, 0] > 0).all()


def test_a_bump_is_that_of_the_paper() -> None:
    """For 5×5 the lower bump is 3×5: from its middle 1 + 1/4 + 1/9, then 1/4 + 1/9, then 1/9."""
    lower = _patterns(5, 5)[0, 2:]
    middle, next_, last = 1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9
    row = [last, next_, next_, next_, last]
    expected = torch.tensor([row, [last, next_, middle, next_, last], row], dtype=torch.float64)
    ratio = (-lower.double() / expected).flatten()
    torch.testing.assert_close(ratio[:1].expand(15), ratio, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "expected queries >= 1, got 0"),
        ({"queries": 1, "quantize": True}, "expected queries >= 2, got 1"),
        ({"restarts": 0}, "expected restarts >= 1, got 0"),
        ({"p_init": 0.0}, r"expected p_init > 0, got 0\.0"),
        ({"p_init": 1.5}, r"expected p_init from 0 to 1, got 1\.5"),
        ({"loss": "hinge"}, "expected a loss of ce, margin or dlr, got 'hinge'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    """It says what it expected and got."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        Square(eps=0.1, **settings)


@pytest.mark.parametrize("eps", [3.0, 1e30, 1e200])
def test_a_radius_beyond_the_bounds_is_no_limit(eps: float) -> None:
    """Its square is more than floats hold; the far corner is broken, and nothing becomes NaN."""
    model = Counter(Linear([1.0] * 8, -0.5))
    x = torch.full((3, 1, 2, 4), 0.5)
    points = Square(eps=eps, norm="l2", queries=200)(model, x, torch.ones(3).long())
    assert all(bool(given.isfinite().all()) for given in model.inputs)
    assert [0, 0, 0] == model.module(points).argmax(1).tolist()
