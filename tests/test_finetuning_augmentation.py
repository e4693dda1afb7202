"""New samples of samples: what moves, what stays, and that nothing leaves its range."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxfit.errors import DataError  # noqa: E402
from onnxfit.finetuning import augmentation  # noqa: E402
from onnxfit.finetuning.augmentation import (  # noqa: E402
    KINDS,
    augmented,
    cut_out,
    flipped,
    kinds_for,
    shifted,
    smoothed,
)


def images(n: int = 64, channels: int = 3, height: int = 28, width: int = 30) -> Any:
    """Draw images of noise within 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, height, width, generator=generator)


def seeded(seed: int = 1) -> Any:
    """Return a generator of random numbers."""
    return torch.Generator().manual_seed(seed)


def test_a_shift_moves_whole_pixels() -> None:
    """By up to a fourteenth of a side each way, all channels alike; the border is continued."""
    x = images()
    y = shifted(x, seeded())
    rows, columns = torch.arange(28), torch.arange(30)
    found = set()
    for one, other in zip(x, y, strict=True):
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                other,
                one[:, (rows + down).clamp(0, 27)][:, :, (columns + right).clamp(0, 29)],
            )
        ]
        assert 1 == len(matches)
        found.update(matches)
    assert {-2, -1, 0, 1, 2} == {down for down, _ in found} == {right for _, right in found}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_with_their_channels_last(channels: int) -> None:
    """They become what they would become with their channels first."""
    x, kinds = images(8, channels), tuple(KINDS)
    expected = augmented(x, kinds, seeded()).movedim(1, -1)
    assert torch.equal(expected, augmented(x.movedim(1, -1), kinds, seeded()))


def test_what_is_made_of_samples() -> None:
    """By default shifts of pictures; of any sample of three axes what is asked for."""
    pictures = [(1, 8, 9), (3, 8, 9), (8, 9, 1), (8, 9, 3)]
    others = [(2, 8, 9), (8, 9, 4), (12, 5000, 1), (50, 6, 3), (16, 32, 8), (8, 8, 8)]
    assert [("shift",)] * 4 == [kinds_for(shape, None) for shape in pictures]
    assert [()] * 6 == [kinds_for(shape, None) for shape in others]
    for shape in pictures + others:
        assert ("flip", "tv") == kinds_for(shape, ["flip", "tv"])
        x = torch.rand(2, *shape, generator=seeded())
        assert x.shape == augmented(x, tuple(KINDS), seeded()).shape
    assert () == kinds_for((64,), None) == kinds_for((64,), ())


def test_what_is_no_image_is_refused() -> None:
    """With a sentence that names the layouts."""
    with pytest.raises(DataError, match=r"^augment takes images, .* the samples are 64$"):
        kinds_for((64,), ("flip",))
    with pytest.raises(DataError, match=r"^augment takes images, C×H×W or H×W×C; .* are 8×8$"):
        augmented(torch.zeros(2, 8, 8), ("shift",), seeded())


def test_half_of_the_images_are_mirrored() -> None:
    """Left to right; the others stay."""
    x = images(400)
    y = flipped(x, seeded())
    same = (y == x).all((1, 2, 3))
    mirrored = (y == x.flip(3)).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 150 < int(same.sum()) < 250


def test_a_square_is_cut_out() -> None:
    """It has the mean colour, and at most a quarter of each side; the rest stays."""
    x = images()
    y = cut_out(x, seeded())
    changed = (y != x).any(1)
    means = x.mean((2, 3), keepdim=True).expand(x.shape)
    assert torch.equal(torch.where(changed[:, None], means, x), y)
    heights, widths = changed.any(2).sum(1), changed.any(1).sum(1)
    assert (heights <= 7).all()
    assert (widths <= 8).all()
    assert 7 == int(heights.max())
    # All of the square, not its diagonal.
    assert torch.equal(heights * widths, changed.sum((1, 2)))


def test_smooth_copies_are_those_of_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps enough, channel by channel, at each image's own weight; few come near."""
    restoration = pytest.importorskip("skimage.restoration")
    x = images(40, 1)
    few = smoothed(x, seeded()).numpy()
    monkeypatch.setattr(augmentation, "_TV_STEPS", 400)
    y = smoothed(x, seeded()).numpy()
    generator = seeded()
    shares = torch.rand(40, 1, 1, 1, generator=generator)
    weights = (0.15 * x.std((1, 2, 3), keepdim=True) * shares).flatten()
    changed = (y != x.numpy()).any((1, 2, 3))
    assert 10 < changed.sum() < 30
    for at in np.flatnonzero(changed):
        expected = restoration.denoise_tv_chambolle(
            x[at, 0].double().numpy(), weight=float(weights[at]), eps=1e-9, max_num_iter=2000
        )
        np.testing.assert_allclose(y[at, 0], expected, atol=2e-3)
        np.testing.assert_allclose(few[at, 0], expected, atol=0.01)


def test_smooth_copies_vary_less() -> None:
    """The sum of differences between neighbours falls; the mean of an image stays."""
    x = images()
    y = smoothed(x, seeded())
    changed = (y != x).flatten(1).any(1)
    before, after = (
        each.diff(dim=2).abs().sum((1, 2, 3)) + each.diff(dim=3).abs().sum((1, 2, 3))
        for each in (x[changed], y[changed])
    )
    assert (after < before).all()
    torch.testing.assert_close(y.mean((2, 3)), x.mean((2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaves_the_range_of_its_image(kind: str) -> None:
    """Nor does the shape change; the same seed gives the same images."""
    x = images(16) * 3 - 1
    y = augmented(x, (kind,), seeded())
    assert x.shape == y.shape
    assert (y.amin((1, 2, 3)) >= x.amin((1, 2, 3))).all()
    assert (y.amax((1, 2, 3)) <= x.amax((1, 2, 3))).all()
    assert torch.equal(y, augmented(x, (kind,), seeded()))
    assert not torch.equal(y, augmented(x, (kind,), seeded(2)))


def test_kinds_follow_each_other() -> None:
    """In the order that is asked for."""
    x = images(16)
    generator = seeded()
    expected = flipped(shifted(x, generator), generator)
    assert torch.equal(expected, augmented(x, ("shift", "flip"), seeded()))
    assert torch.equal(x, augmented(x, (), seeded()))
