"""Models that a transfer starts from: which samples they take, and when they know nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import MODELS, with_channels_last

torch = pytest.importorskip("torch")

import onnxfit  # noqa: E402
from onnxfit.data import Dataset, from_arrays, open_data  # noqa: E402
from onnxfit.errors import DataError, ModelError  # noqa: E402
from onnxfit.verification.progress import Advance  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402
from onnxfit.verification.transfer_source import Source  # noqa: E402

DIGITS = MODELS / "digits_cnn.onnx"


def images(count: int = 40) -> Dataset:
    """Open the first images of digits."""
    return open_data(MODELS / "digits_test.npz", limit=count)


def scored(data: Dataset, path: Path = DIGITS, **settings: Any) -> Source:
    """Open a source and count what it classifies correctly."""
    source = Source(path, data, 10, **settings)
    source.score(16)
    return source


def test_samples_are_turned_either_way(tmp_path: Path) -> None:
    """A model with its channels first takes images that have them last, and the reverse."""
    path = tmp_path / "last.onnx"
    onnx.save(with_channels_last(onnx.load(DIGITS)), path)
    x, y = images().spread(40)
    last = from_arrays(np.moveaxis(x, 1, 3).copy(), y)
    expected = Target(DIGITS).twin(torch.from_numpy(x))
    for model, data in ((path, images()), (DIGITS, last)):
        source = scored(data, model)
        given, _ = data.spread(40)
        torch.testing.assert_close(expected, source.module(torch.from_numpy(given)))
        first = "first" if model == DIGITS else "last"
        assert [
            f"The source {model} takes images with their channels {first}: it is given the samples "
            "turned."
        ] == list(source.warnings(native=True))
        assert source.record()["turned"]
    assert not scored(last, path).turned


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 9), (3, 8, 8), (8, 8, 3), (8, 9, 1)])
def test_other_samples_are_refused(shape: tuple[int, ...]) -> None:
    """With the shape that is expected."""
    data = from_arrays(np.zeros((2, *shape), np.float32), np.array([0, 1]))
    with pytest.raises(DataError, match=r"^the source .* takes samples of shape 1×8×8; those of"):
        Source(DIGITS, data, 10)


def test_other_classes_are_refused() -> None:
    """They would be others' numbers."""
    with pytest.raises(ModelError, match=r" tells 10 classes apart, the model 11$"):
        Source(DIGITS, images(), 11)


@pytest.mark.parametrize(
    ("labels", "right", "expected"),
    [
        ([0, 1] * 10, 20, True),
        ([0, 1] * 10, 14, False),
        ([0, 1] * 10, 15, True),
        ([0] * 9 + [1], 10, False),
        ([0] * 10, 4, True),
        ([0] * 10, 3, False),
        ([0], 1, False),
    ],
)
def test_what_is_better_than_chance(labels: list[int], right: int, expected: bool) -> None:
    """By the exact binomial test: against ten classes, and against the commonest answer."""
    x = np.zeros((len(labels), 1, 8, 8), np.float32)
    source = Source(DIGITS, from_arrays(x, np.array(labels)), 10)
    source.correct = right
    assert expected == source.better_than_chance == source.record()["better_than_chance"]
    told = any("not significantly better" in each for each in source.warnings(native=False))
    assert told == (not expected)


def test_some_samples_say_what_a_source_is_worth() -> None:
    """A thousand, spread evenly over the data; how far it is is shown."""
    x, y = open_data(MODELS / "digits_test.npz", limit=350).spread(350)
    # Every other one has a wrong label.
    wrong = np.arange(1400) % 2 == 0
    data = from_arrays(np.tile(x, (4, 1, 1, 1)), (np.tile(y, 4) + wrong) % 10)
    begun, done = [], []

    @contextmanager
    def begin(total: float, what: str) -> Iterator[Advance]:
        begun.append((total, what))
        yield lambda count, /, total=None, what="": done.append(count)

    source = Source(DIGITS, data, 10)
    source.score(64, begin)
    rows = np.unique(np.linspace(0, 1399, 1000).round().astype(int))
    given, labels = data.spread(1400)
    right = Target(DIGITS).predictions(given) == labels
    assert right[rows].sum() == source.correct != right.sum()
    record = source.record()
    assert (1000, source.correct / 1000) == (record["n"], record["clean"]["accuracy"])
    assert [(1000, "clean accuracy of a source")] == begun
    assert 1000 == sum(done) > max(done)


def test_what_is_not_followed_is_told(tmp_path: Path) -> None:
    """Surrogate networks, and jumps where there is nothing but the native gradient."""
    path = tmp_path / "hard.onnx"
    onnx.save(onnxfit.denoise(onnxfit.retrofit(DIGITS, 0.5), 0.05, steps=2), path)
    source = scored(images(), path)
    networks = ", ".join(source.target.networks)
    told = f"Surrogate networks of the source {path} ({networks}) were not followed."
    assert [told] == list(source.warnings(native=False))
    native = f"Of the source {path}, which is hardened, the native gradient alone was used."
    assert [native, told] == list(source.warnings(native=True))
    assert source.record()["hardened"]
