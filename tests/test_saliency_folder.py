"""Pictures of images beside their saliency maps."""

from pathlib import Path

import numpy as np
import pytest

from onnxfit.data import from_arrays
from onnxfit.saliency.folder import picture, writing


def test_a_picture_with_the_channels_last() -> None:
    """It is that of the same image with its channels first."""
    generator = np.random.default_rng(0)
    sample, gradient = generator.random((2, 3, 9, 7)).astype(np.float32)
    turned = [np.moveaxis(each, 0, 2) for each in (sample, gradient)]
    np.testing.assert_array_equal(picture(sample, gradient), picture(*turned))


@pytest.mark.parametrize("shape", [(12, 50, 1), (1, 5, 21)])
def test_long_samples_are_drawn(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Who asks for maps of signals has them."""
    pytest.importorskip("PIL.Image")
    x, y = np.zeros((1, *shape), np.float32), np.array([3])
    with writing(tmp_path / "maps", from_arrays(x, y)) as maps:
        maps.draw(x, x, y, y)
        maps.publish()
    assert ["00000-label3-predicted3.png"] == [path.name for path in (tmp_path / "maps").iterdir()]


def test_a_picture_is_the_image_beside_its_map() -> None:
    """Enlarged by a whole number to 128 pixels or more; the map is grey."""
    sample = np.array([[[0.0, 1.0], [0.5, 0.25]]], np.float32)
    gradient = np.array([[[0.0, -2.0], [1.0, 0.5]]], np.float32)
    found = picture(sample, gradient)
    assert ((128, 256), "uint8") == (found.shape, found.dtype.name)
    # The 99th percentile of 0, 0.5, 1, 2 lies 0.97 of the way from 1 to 2.
    expected = [[0, 255, 0, 255], [128, 64, round(255 / 1.97), round(127.5 / 1.97)]]
    np.testing.assert_array_equal(np.kron(expected, np.ones((64, 64))), found)


@pytest.mark.parametrize(
    ("height", "rows"), [(28, 140), (32, 128), (127, 254), (128, 128), (224, 224)]
)
def test_pictures_have_a_height_of_128_or_more(height: int, rows: int) -> None:
    """By the smallest factor that does it; the width follows."""
    image = np.zeros((3, height, 10), np.float32)
    factor = rows // height
    assert (rows, 20 * factor, 3) == picture(image, image).shape


def test_the_map_takes_the_strongest_channel() -> None:
    """The largest absolute value, whatever its sign; an outlier does not darken the rest."""
    gradient = np.zeros((3, 128, 128), np.float32)
    gradient[0], gradient[1], gradient[2] = 0.25, -1.0, 0.5
    gradient[2, 0, 0] = 1e6
    gradient[:, 1, 1] = 0
    sample = np.full((3, 128, 128), 7, np.float32)
    found = picture(sample, gradient, (-1.0, 15.0))
    np.testing.assert_array_equal(np.full((128, 128, 3), round(255 / 2)), found[:, :128])
    expected = np.full((128, 128, 3), 255)
    expected[1, 1] = 0
    np.testing.assert_array_equal(expected, found[:, 128:])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_map_without_any_strength_is_black(value: float) -> None:
    """Zero gradients and those that are no numbers."""
    gradient = np.full((1, 128, 128), value, np.float32)
    assert not picture(np.ones_like(gradient), gradient)[:, 128:].any()
    gradient[0, 5, 5] = 1e-30
    found = picture(np.ones_like(gradient), gradient)[:, 128:]
    assert (255, 255) == (found[5, 5], found.sum())
