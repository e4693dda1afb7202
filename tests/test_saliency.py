"""Saliency maps, what they are measured by, and that they are those of the deployed file."""

import math
from typing import Any

import numpy as np
import onnx
import onnx.compose
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from attack_support import Counter, Function, Linear  # noqa: E402
from support import MODELS, parse  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.data import open_data  # noqa: E402
from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.saliency.gradient import gradient_map  # noqa: E402
from onnxfit.saliency.maps import Saliency, saliency_of  # noqa: E402
from onnxfit.saliency.occlusion import occlusion_map, patches_of  # noqa: E402
from onnxfit.saliency.removal import removal_areas, removal_order  # noqa: E402
from onnxfit.saliency.similarity import rank_correlations  # noqa: E402
from onnxfit.twin.image_layout import Turned  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

RNG = np.random.default_rng(0)
SIDE = 14
# The upper left quarter of an image.
QUARTER = np.zeros((SIDE, SIDE), np.float32)
QUARTER[:7, :7] = 1


def quarter() -> Any:
    """Make a model that looks at the upper left quarter alone: bright there is class 1."""
    return Linear((0.3 * QUARTER).flatten().tolist(), offset=-7.0)


def bright(n: int = 3) -> Any:
    """Make images of class 1, bright in the upper left quarter and dark elsewhere."""
    noise = RNG.random((n, 1, SIDE, SIDE)).astype(np.float32)
    return torch.from_numpy(0.8 * QUARTER + 0.2 * noise)


def ones(n: int) -> Any:
    """Return labels of class 1."""
    return torch.ones(n, dtype=torch.int64)


def test_a_gradient_map_is_the_size_of_the_weights() -> None:
    """Of a linear model; the largest over the channels, the same for both classes."""
    weights = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    x = torch.rand(2, 3, 4, 5)
    found = gradient_map(Linear(weights.flatten().tolist()), x, torch.tensor([0, 1]))
    np.testing.assert_allclose(np.broadcast_to(abs(weights).max(0), (2, 4, 5)), found)
    assert not x.requires_grad


def test_the_gradient_is_that_of_the_margin() -> None:
    """Of the label's logit less the largest other one: no part of the third logit."""
    weights = torch.tensor([[1.0, 2.0, -3.0], [0.5, 4.0, 0.0], [9.0, 9.0, 9.0]])
    offsets = torch.tensor([0.0, 1.0, -100.0])
    x = torch.rand(2, 1, 1, 3)
    found = gradient_map(lambda x: x.flatten(1) @ weights.T + offsets, x, torch.tensor([0, 1]))
    np.testing.assert_allclose([[[0.5, 2.0, 3.0]]] * 2, found)


def test_occlusion_is_that_of_the_file_and_the_gradient_that_of_its_twin() -> None:
    """Where the two differ, each map is of its own."""
    twin, file = (Linear(RNG.normal(size=SIDE**2).tolist()) for _ in range(2))
    x = bright(2)
    found = saliency_of(twin, file, x.numpy(), ones(2).numpy(), batch_size=1)
    np.testing.assert_array_equal(gradient_map(twin, x, ones(2)), found.gradient)
    expected = occlusion_map(file, x, ones(2)).numpy()
    np.testing.assert_allclose(expected, found.occlusion, rtol=1e-4, atol=1e-5)


def test_a_model_without_gradients_has_no_gradient_map() -> None:
    """It is refused; occlusion needs none."""
    model = Function(lambda x: x.detach().flatten(1).sum(1))
    with pytest.raises(ModelError, match="no gradient reaches the model's input"):
        gradient_map(model, bright(), ones(3))
    found = saliency_of(None, model, bright().numpy(), ones(3).numpy())
    assert found.gradient is None
    assert (3, SIDE, SIDE) == found.occlusion.shape


@pytest.mark.parametrize("sides", [(14, 14), (28, 28), (8, 30), (1, 3)])
def test_every_pixel_is_in_four_patches(sides: tuple[int, int]) -> None:
    """Also at the border, and there are at most 225."""
    step = [math.ceil(side / 14) for side in sides]
    patches = patches_of(sides, [2 * length for length in step], step)
    covers = np.zeros((1, 1, *sides))
    for patch in patches:
        covers[patch] += 1
    np.testing.assert_array_equal(np.full_like(covers, 4), covers)
    assert len(patches) <= 225


def test_occlusion_of_a_linear_model_by_hand() -> None:
    """A patch lowers the margin by w·(x − mean) over it; a pixel has the mean of four patches."""
    weights = RNG.normal(size=(2, SIDE, SIDE))
    x = RNG.random((1, 2, SIDE, SIDE))
    parts = (weights * (x[0] - x[0].mean((1, 2), keepdims=True))).sum(0)
    # Patches are two pixels wide and one apart: each drop is shared by the four pixels of a patch.
    padded = np.pad(parts, 1)
    drops = padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]
    expected = (drops[:-1, :-1] + drops[1:, :-1] + drops[:-1, 1:] + drops[1:, 1:]) / 4
    model = Linear(weights.flatten().tolist(), offset=0.5)
    found = occlusion_map(model, torch.from_numpy(x), ones(1))
    np.testing.assert_allclose(expected, found[0].numpy(), rtol=1e-6, atol=1e-6)
    other = occlusion_map(model, torch.from_numpy(x), 0 * ones(1))
    np.testing.assert_allclose(-expected, other[0].numpy(), rtol=1e-6, atol=1e-6)


def test_occlusion_is_zero_where_the_model_does_not_look() -> None:
    """Beyond the reach of a patch, exactly, whatever is rounded; inside the margin drops."""
    found = occlusion_map(quarter(), bright(), ones(3)).numpy()
    assert not found[:, 8:].any()
    assert not found[:, :, 8:].any()
    assert (found[:, :7, :7] > 0).all()


@pytest.mark.parametrize("batch_size", [1, 2, 4, 500])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    """For occlusion, deletion and insertion; no more images are computed at a time."""
    x, labels = bright(5), ones(5)
    model = Function(lambda x: (x.square() * torch.arange(SIDE)).flatten(1).sum(1) / 100)
    seen = Counter(model)
    expected = occlusion_map(model, x, labels)
    found = occlusion_map(seen, x, labels, batch_size=batch_size)
    torch.testing.assert_close(expected, found, rtol=1e-4, atol=1e-4)
    ties = np.stack([RNG.permutation(SIDE**2) for _ in x])
    order = removal_order(expected.numpy(), ties)
    areas = removal_areas(model, x, labels, order)
    others = removal_areas(seen, x, labels, order, batch_size=batch_size)
    np.testing.assert_allclose(areas, others, rtol=1e-5)
    assert max(seen.calls) <= batch_size


def test_pixels_are_sorted_from_the_most_salient_on() -> None:
    """Equal ones by the given numbers; NaN comes last."""
    saliency = np.array([[[1.0, 3.0], [math.nan, 3.0]], [[0.0, 0.0], [0.0, 0.0]]])
    ties = np.array([[0, 2, 3, 1], [3, 1, 0, 2]])
    expected = [[3, 1, 0, 2], [2, 1, 3, 0]]
    assert expected == removal_order(saliency, ties).tolist()


@pytest.mark.parametrize("place", [0, 5, 15])
def test_areas_by_hand(place: int) -> None:
    """All depends on one pixel: the probability falls, or rises, in the step that takes it."""
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 1
    model = Function(lambda x: 1000 * (x[:, 0, 0, 0] - 0.5))
    order = np.roll(np.arange(16), place)[None]
    deletion, insertion = removal_areas(model, x, ones(1), order)
    assert (place + 0.5) / 16 == pytest.approx(float(deletion[0]))
    assert 1 - (place + 0.5) / 16 == pytest.approx(float(insertion[0]))


def test_pixels_are_removed_in_twenty_steps() -> None:
    """From none to all of them, by the mean of each channel."""
    x = torch.rand(1, 3, 20, 20)
    model = Counter(Linear([0.0] * 1200))
    areas = removal_areas(model, x, ones(1), np.arange(400)[None])
    assert [[0.5], [0.5]] == np.array(areas).tolist()
    assert 2 * 21 == len(model.calls)
    deleted = [int((points != x).any(1).sum()) for points in model.inputs[:21]]
    assert list(range(0, 401, 20)) == deleted
    means = x.mean((2, 3), keepdim=True).expand_as(x)
    torch.testing.assert_close(means, model.inputs[20])
    torch.testing.assert_close(means, model.inputs[21])
    torch.testing.assert_close(x, model.inputs[-1])


def test_a_map_that_is_true_beats_chance_and_one_that_is_not_loses() -> None:
    """Deletion is smallest and insertion largest where the model looks; a random order between."""
    x, labels = bright(8), ones(8)
    ties = np.stack([RNG.permutation(SIDE**2) for _ in x])
    true = np.broadcast_to(QUARTER, (8, SIDE, SIDE))
    areas = [
        removal_areas(quarter(), x, labels, removal_order(saliency, ties))
        for saliency in (true, 0 * true, -true)
    ]
    deletions, insertions = (np.array(kind) for kind in zip(*areas, strict=True))
    assert (np.diff(deletions, axis=0) > 0).all()
    assert (np.diff(insertions, axis=0) < 0).all()


def test_similarity_is_that_of_the_order() -> None:
    """1 for the same order in other units, −1 for the reverse, nothing for a constant map."""
    maps = RNG.random((2, 5, 6))
    np.testing.assert_allclose([1, 1], rank_correlations(maps, np.exp(9 * maps)))
    np.testing.assert_allclose([-1, -1], rank_correlations(maps, -maps))
    maps[1] = 0.5
    found = rank_correlations(maps, RNG.random((2, 5, 6)))
    assert [False, True] == np.isnan(found).tolist()
    assert abs(found[0]) < 0.5


def test_images_with_their_channels_last() -> None:
    """Both maps and both areas are those of the same images with their channels first."""
    weights = RNG.normal(size=(3, SIDE, SIDE + 3)).astype(np.float32)
    model = Linear((0.1 * weights).flatten().tolist())
    turned = Turned(model, last=False)
    x = RNG.random((4, *weights.shape), np.float32)
    other = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    labels = np.array([0, 1, 0, 1])
    expected = saliency_of(model, model, x, labels)
    found = saliency_of(turned, turned, other, labels)
    for one, same in zip(expected, found, strict=True):
        assert one is not None
        assert same is not None
        np.testing.assert_allclose(one, same, rtol=1e-4, atol=1e-6)
    ties = np.tile(np.arange(SIDE * (SIDE + 3)), (4, 1))
    order = removal_order(expected.occlusion, ties)
    areas = removal_areas(model, torch.from_numpy(x), torch.from_numpy(labels), order)
    others = removal_areas(turned, torch.from_numpy(other), torch.from_numpy(labels), order)
    np.testing.assert_allclose(areas, others, rtol=1e-5)


def test_the_maps_of_some_samples() -> None:
    """By number and by mask; where there is no gradient there is none of any sample."""
    occlusion = RNG.random((3, 2, 2)).astype(np.float32)
    maps = Saliency(2 * occlusion, occlusion)
    mask = np.array([True, False, True])
    for rows in (1, mask):
        np.testing.assert_array_equal(2 * occlusion[rows], maps.of(rows).gradient)
        np.testing.assert_array_equal(occlusion[rows], maps.of(rows).occlusion)
    assert Saliency(None, occlusion).of(mask).gradient is None


def digits(n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return some digits."""
    batch = next(open_data(MODELS / "digits_test.npz", limit=n).batches(n))
    return batch.x, batch.y


def with_softmax() -> onnx.ModelProto:
    """Make a network that gives probabilities."""
    network = onnx.load(MODELS / "digits_cnn.onnx")
    last = parse(
        '<ir_version: 8, opset_import: ["": 17]> '
        "g (float[N,10] z) => (float[N,10] p) { p = Softmax(z) }"
    )
    return onnx.compose.merge_models(network, last, [(network.graph.output[0].name, "z")])


@pytest.mark.parametrize("kind", ["plain", "hardened", "probabilities"])
def test_occlusion_of_the_file_is_that_of_its_twin(kind: str) -> None:
    """In ONNX Runtime and in PyTorch, also where the file ends in a Softmax and the twin before."""
    model = {
        "plain": lambda: onnx.load(MODELS / "digits_cnn.onnx"),
        "hardened": lambda: onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.5),
        "probabilities": with_softmax,
    }[kind]()
    target = Target(model)
    x, y = (torch.from_numpy(values) for values in digits(6))
    file, twin = (occlusion_map(module, x, y) for module in (target.deployed, target.twin))
    torch.testing.assert_close(twin, file, rtol=1e-3, atol=2e-3)
    assert twin.abs().max() > 1


def test_a_jump_is_seen_by_occlusion_and_not_by_the_gradient() -> None:
    """Below its jump a pixel has no effect and no gradient; above it the gradient is 1."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,14,14] x) => (float[N,2] y) '
        "<int64[1] axis = {1}, float[1] none = {0.0}> { r = Relu(x) \n s = Flatten(r) \n "
        "t = ReduceSum(s, axis) \n u = Mul(t, none) \n y = Concat <axis = 1> (u, t) }"
    )
    target = Target(onnxfit.retrofit(model, 0.5))
    x = np.full((1, 1, SIDE, SIDE), 0.4, np.float32)
    x[:, :, :7] = 0.7
    found = saliency_of(target.twin, target.deployed, x, np.array([1]))
    assert found.gradient is not None
    np.testing.assert_array_equal(found.gradient[0], np.repeat([[1.0], [0.0]], 7, 0) * np.ones(14))
    # The mean is 0.55, above the jump: dark pixels come to count as they are replaced.
    np.testing.assert_allclose(-4 * 0.55, found.occlusion[0, 9:13, 1:13], rtol=1e-5)
    np.testing.assert_allclose(4 * (0.7 - 0.55), found.occlusion[0, 1:5, 1:13], rtol=1e-4)
