"""Where images have their channels, and that all who ask are told the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from onnxfit.cli_options import DataOptions
from onnxfit.image_layout import (
    channel_axis,
    channel_count,
    channels_first,
    is_drawable,
    is_picture,
    other_layout,
    pixels_of,
)

torch = pytest.importorskip("torch")

from attack_support import random_images  # noqa: E402

from onnxfit.report import pictures  # noqa: E402
from onnxfit.twin import image_layout  # noqa: E402


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 28, 28), 0),
        ((3, 32, 30), 0),
        ((3, 3, 3), 0),
        ((1, 28, 1), 0),
        ((3, 2, 2), 0),
        ((2, 8, 8), 0),
        ((4, 8, 9), 0),
        ((13, 64, 64), 0),
        ((1, None, None), 0),
        ((16, 32, 8), 0),
        ((10, 28, 8), 0),
        ((64, 8, 8), 0),
        ((4, 4, 4), 0),
        ((8, 9, 2), 0),
        ((8, 3, 8), 0),
        ((16, 1, 1), 0),
        ((3, 32, 1), 0),
        ((None, None, None), 0),
        ((28, 28, 1), 2),
        ((32, 30, 3), 2),
        ((8, 9, 4), 2),
        ((12, 5000, 1), 2),
        ((50, 6, 3), 2),
        ((None, None, 3), 2),
        ((12, None, 1), 2),
        ((1, 0, 8), None),
        ((8, 8), None),
        ((64,), None),
        ((1, 1, 8, 8), None),
        ((), None),
    ],
    ids=str,
)
def test_where_the_channels_are(shape: tuple[Any, ...], expected: int | None) -> None:
    """They are first, but for images whose last axis is as short as theirs."""
    assert expected == channel_axis(shape)


def test_what_follows_from_it() -> None:
    """How many channels and pixels there are, and whether the sample can be drawn."""
    for shape in ((3, 8, 9), (8, 9, 3)):
        assert (3, (8, 9), True) == (channel_count(shape), pixels_of(shape), is_picture(shape))
    assert (8, 9, 3) == other_layout((3, 8, 9))
    assert (3, 8, 9) == other_layout((8, 9, 3))
    assert [None] * 3 == [other_layout(shape) for shape in ((3, 2, 8), (8, 8, 8), (9,))]
    assert [8, 16] == [channel_count(shape) for shape in ((8, 9), (16, 32, 8))]


@pytest.mark.parametrize(
    ("shape", "drawable", "picture"),
    [
        ((1, 28, 7), True, True),
        ((1, 7, 28), True, True),
        ((1, 7, 29), True, False),
        ((3, 32, 30), True, True),
        ((30, 120, 3), True, True),
        ((30, 121, 3), True, False),
        ((12, 5000, 1), True, False),
        ((1, 12, 5000), True, False),
        ((50, 6, 3), True, False),
        ((8, 9, 2), False, False),
        ((4, 8, 9), False, False),
        ((8, 9), False, False),
    ],
    ids=str,
)
def test_what_is_a_picture(shape: tuple[int, ...], drawable: bool, picture: bool) -> None:
    """Signals and sequences can be drawn, but are no pictures: their sides differ too much."""
    assert (drawable, picture) == (is_drawable(shape), is_picture(shape))


def test_images_are_turned() -> None:
    """An image with its channels first is not touched."""
    x = np.arange(72.0).reshape(3, 4, 6)
    assert np.shares_memory(x, channels_first(x))
    np.testing.assert_array_equal(x, channels_first(x))
    np.testing.assert_array_equal(x, channels_first(np.moveaxis(x, 0, 2)))


def test_modules_are_turned_with_them() -> None:
    """Only for images that have their channels last."""
    model = torch.nn.Flatten()
    first = random_images(2, 3, 4, 6)
    assert (model, first) == image_layout.channels_first(model, first)
    last = image_layout.with_channels(first, last=True)
    turned, images = image_layout.channels_first(model, last)
    assert torch.equal(first, images)
    assert torch.equal(model(last), turned(images))
    again = image_layout.Turned(turned, last=False)
    assert torch.equal(model(last), again(last))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_same(channels: int) -> None:
    """Of samples and of perturbations, large ones too."""
    pytest.importorskip("PIL.Image")
    x = random_images(1, channels, 150, 140)[0].numpy()
    turned = np.moveaxis(x, 0, 2)
    assert pictures.drawable(turned)
    assert pictures.grey(x) == pictures.grey(turned) == (channels == 1)
    assert 2 == pictures.reduction(x) == pictures.reduction(turned)
    assert pictures.image(x, (0, 1)) == pictures.image(turned, (0, 1))
    assert pictures.perturbation(x - 0.5, 0.5) == pictures.perturbation(turned - 0.5, 0.5)


def test_numbers_by_channel_on_the_command_line(tmp_path: Path) -> None:
    """As many as the image has channels, wherever they are."""
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 8, 9, 3), np.float32), y=[0, 1])
    options = DataOptions(
        path=tmp_path / "x.npz",
        limit=None,
        seed=0,
        batch_size=2,
        bounds=(0, 1),
        mean=(0.1, 0.2, 0.3),
        std=(1.0,),
    )
    assert (8, 9, 3) == options.open().shape
    with pytest.raises(click.UsageError, match="the samples have 3 channels"):
        replace(options, mean=(0.0,) * 8).open()
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 16, 32, 8), np.float32), y=[0, 1])
    assert (16, 32, 8) == replace(options, mean=(0.0,) * 16).open().shape
