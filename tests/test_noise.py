"""Random noise: where its points lie, what it finds, and what it is spared."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attack_support import Counter, Linear, random_images  # noqa: E402

from onnxfit.attacks.noise import RandomNoise  # noqa: E402

NORMS = ["linf", "l2"]


def lengths(points: Any, x: Any, norm: str) -> Any:
    """Return the norms of perturbations, computed in double precision."""
    moved = (points.double() - x.double()).flatten(1)
    return moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 5), (1, 1, 1), (7,)])
def test_every_point_is_inside(norm: Any, shape: tuple[int, ...]) -> None:
    """Points that the model is given, found or not, are within eps and the bounds exactly."""
    x = random_images(9, *shape)
    model = Counter(Linear([1.0] * x[0].numel()))
    points = RandomNoise(eps=0.3, norm=norm)(model, x, torch.ones(9).long())
    for given in (points, *(each for each in model.inputs if len(each) == 9)):
        assert (lengths(given, x, norm) <= 0.3).all()
        assert ((given >= 0) & (given <= 1)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_half_of_the_points_lie_on_the_surface(norm: Any) -> None:
    """Of four trials away from the bounds, the second and the fourth are eps away, to rounding."""
    x = torch.full((3, 6), 0.5)
    model = Counter(Linear([0.0] * 6, 1.0))
    RandomNoise(eps=0.1, norm=norm, trials=4)(model, x, torch.ones(3).long())
    _, *trials = model.inputs
    far = torch.stack([lengths(points, x, norm) for points in trials])
    torch.testing.assert_close(torch.full((2, 3), 0.1).double(), far[1::2], rtol=1e-4, atol=0)
    assert (far[::2] < 0.0999).all()


def test_signs_on_the_surface_of_the_cube_are_of_both_kinds() -> None:
    """For linf a surface point is a corner: every value moved by eps, up or down at random."""
    x = torch.full((1, 400), 0.5)
    model = Counter(Linear([0.0] * 400, 1.0))
    RandomNoise(eps=0.1, trials=2)(model, x, torch.ones(1).long())
    up = int((model.inputs[2] > 0.5).sum())
    assert 150 < up < 250


def test_a_sample_is_given_so_many_trials_and_none_once_it_is_broken() -> None:
    """Beside the sample itself: 7 trials for the robust one, 1 for one that any point breaks."""
    x = torch.tensor([[0.9], [0.1], [0.5]])
    model = Counter(Linear([1.0], -0.5))
    # The first needs more than eps, the second is wrong already, the third lies on the boundary.
    RandomNoise(eps=0.1, trials=7, seed=1)(model, x, torch.tensor([1, 1, 0]))
    near = [int((given > 0.65).sum()) for given in model.inputs]
    wrong = [int((given < 0.25).sum()) for given in model.inputs]
    middle = [int(((given > 0.25) & (given < 0.65)).sum()) for given in model.inputs]
    assert [1] * 8 == near
    assert [1] + [0] * 7 == wrong
    assert 2 <= sum(middle) < 8
    assert sorted(middle, reverse=True) == middle


def test_the_best_point_is_returned_where_none_is_misclassified() -> None:
    """It is the one of the smallest score among those that the model was given."""
    x = torch.full((4, 5), 0.9)
    model = Counter(Linear([1.0, -0.5, 0.2, 0.3, 1.0]))
    points = RandomNoise(eps=0.05)(model, x, torch.ones(4).long())
    scores = torch.stack([model.module(given)[:, 1] for given in model.inputs[1:]])
    assert torch.equal(scores.amin(0), model.module(points)[:, 1])


@pytest.mark.parametrize("norm", NORMS)
def test_the_seed_decides(norm: Any) -> None:
    """The same seed gives the same points, another one others; the global generator is unused."""
    x, model, labels = random_images(3, 5), Linear([1.0] * 5, 9.0), torch.ones(3).long()
    state = torch.random.get_rng_state()
    first, again, other = (
        RandomNoise(eps=0.1, norm=norm, seed=seed)(model, x, labels) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("norm", NORMS)
def test_points_of_256_levels(norm: Any) -> None:
    """With quantize every point that the model is given is one that 8 bits hold, within eps."""
    x = (random_images(6, 1, 4, 4) * 255).round() / 255
    model = Counter(Linear([1.0, -1.0] * 8))
    labels = model.module(x).argmax(1)
    points = RandomNoise(eps=8 / 255, norm=norm, quantize=True)(model, x, labels)
    for given in (points, *model.inputs):
        assert torch.equal(given, (given * 255).round() / 255)
    assert (lengths(points, x, norm) <= 8 / 255 + 1e-7).all()


def test_trials_below_one_are_refused() -> None:
    """It says what it expected and got."""
    with pytest.raises(ValueError, match=r"^expected trials >= 1, got 0$"):
        RandomNoise(eps=0.1, trials=0)
