"""The regression corpus: what was misclassified once is kept, checked and replayed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import MODELS

from onnxfit.errors import DataError

torch = pytest.importorskip("torch")

from onnxfit.verification.regression_corpus import read, replay, writing  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

SHAPE = (1, 2, 2)
BOUNDS = (0.0, 1.0)
FLOATS = np.linspace(0, 1, 5 * 4, dtype=np.float32).reshape(5, *SHAPE)
LABELS = np.array([0, 1, 2, 0, 1])
INDEX = np.array([3, 8, 9, 40, 41])
ATTACKS = ["apgd-ce", "square", "apgd-ce", "noise", "transfer"]


class Constant:
    """A model that says the same of every sample, and remembers what it was given."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.given: list[NDArray[np.float32]] = []

    def predictions(self, x: Any) -> NDArray[np.int64]:
        """Return the answer for each sample."""
        self.given.append(x.numpy().copy())
        return np.full(len(x), self.answer)


def stored(folder: Path, **changes: Any) -> Path:
    """Write a corpus with NumPy alone; None leaves an array out."""
    arrays = {"x": FLOATS, "y": LABELS, "index": INDEX, "attack": np.array(ATTACKS), **changes}
    path = folder / "adversarial.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_what_is_written_in_parts_is_read_whole(tmp_path: Path) -> None:
    """Samples keep their bits, labels, places in the data, and attacks."""
    path = tmp_path / "adversarial.npz"
    with writing(path, SHAPE) as add:
        add(FLOATS[:2], LABELS[:2], INDEX[:2], ATTACKS[:2])
        add(FLOATS[2:2], LABELS[2:2], INDEX[2:2], [])
        add(FLOATS[2:], LABELS[2:], INDEX[2:], ATTACKS[2:])
        assert not path.exists()
    corpus = read(path, SHAPE, BOUNDS, classes=3)
    assert (5, path) == (corpus.n, corpus.path)
    assert corpus.samples is not None
    assert FLOATS.tobytes() == next(corpus.samples.batches(10)).x.tobytes()
    assert LABELS.tolist() == corpus.samples.labels.tolist()
    assert INDEX.tolist() == corpus.index.tolist()
    assert ATTACKS == corpus.attacks.tolist()


def test_the_file_is_an_ordinary_one(tmp_path: Path) -> None:
    """NumPy reads it, and its types are the same whatever is added."""
    path = tmp_path / "adversarial.npz"
    with writing(path, SHAPE) as add:
        add(FLOATS, LABELS, INDEX, ATTACKS)
    with np.load(path) as arrays:
        types = {name: array.dtype for name, array in arrays.items()}
    expected = {"x": np.float32, "y": np.int64, "index": np.int64, "attack": np.dtype("<U64")}
    assert expected == types


def test_quantised_samples_are_kept_in_8_bits(tmp_path: Path) -> None:
    """And come back as their values within the bounds."""
    levels = np.arange(8, dtype=np.uint8).reshape(2, *SHAPE)
    path = tmp_path / "adversarial.npz"
    with writing(path, SHAPE, quantized=True) as add:
        add(levels, LABELS[:2], INDEX[:2], ATTACKS[:2])
    with np.load(path) as arrays:
        np.testing.assert_array_equal(levels, arrays["x"], strict=True)
    model = Constant(0)
    assert 1 == replay(model, read(path, SHAPE, (-1.0, 1.0)), 8)
    np.testing.assert_allclose(levels / 127.5 - 1, model.given[0], atol=1e-7)


def test_an_empty_corpus_is_one(tmp_path: Path) -> None:
    """Where no attack found anything there is a file all the same, and nothing to replay."""
    path = tmp_path / "adversarial.npz"
    with writing(path, SHAPE):
        pass
    corpus = read(path, SHAPE, BOUNDS)
    assert (0, None, [], []) == (
        corpus.n,
        corpus.samples,
        corpus.index.tolist(),
        corpus.attacks.tolist(),
    )
    assert 0 == replay(Constant(0), corpus, 4)


def test_an_interrupted_run_leaves_the_old_corpus(tmp_path: Path) -> None:
    """The new file takes its place only when it is complete."""
    path = stored(tmp_path)
    before = path.read_bytes()

    def interrupted() -> None:
        with writing(path, SHAPE) as add:
            add(FLOATS, LABELS, INDEX, ATTACKS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("answer", "expected"), [(0, 3), (1, 3), (2, 4), (-1, 5)])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_replay_counts_what_is_still_misclassified(
    tmp_path: Path, answer: int, expected: int, batch_size: int
) -> None:
    """In batches of any size; -1 stands for a logit that is NaN."""
    model = Constant(answer)
    assert expected == replay(model, read(stored(tmp_path), SHAPE, BOUNDS), batch_size)
    assert max(map(len, model.given)) == min(batch_size, 5)
    np.testing.assert_array_equal(FLOATS, np.concatenate(model.given), strict=True)


def test_a_file_in_onnx_runtime_is_replayed(tmp_path: Path) -> None:
    """The trained digits: of 40 images with the labels of the next class all are misclassified."""
    with np.load(MODELS / "digits_test.npz") as data:
        x, y = data["x"][:40], data["y"][:40]
    target = Target(MODELS / "digits_cnn.onnx")
    expected = int((target.predictions(torch.from_numpy(x)) != y).sum())
    names = np.array(["none"] * 40)
    right = stored(tmp_path, x=x, y=y, index=np.arange(40), attack=names)
    assert expected == replay(target, read(right, (1, 8, 8), BOUNDS), 16)
    wrong = stored(tmp_path, x=x, y=(y + 1) % 10, index=np.arange(40), attack=names)
    assert replay(target, read(wrong, (1, 8, 8), BOUNDS), 16) >= 40 - expected


def changed(value: float) -> NDArray[np.float32]:
    """Return samples of which one value in the fourth is another."""
    x = FLOATS.copy()
    x[3, 0, 1, 0] = value
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, "{path} has no array 'x'; it has 'y', 'index', 'attack'"),
        ({"y": None}, "{path} has no array 'y'; it has 'x', 'index', 'attack'"),
        ({"index": None}, "{path} has no array 'index'; it has 'x', 'y', 'attack'"),
        ({"attack": None}, "{path} has no array 'attack'; it has 'x', 'y', 'index'"),
        (
            {"x": FLOATS.reshape(5, 2, 2, 1)},
            "{path}: the samples are 2×2×1, and the model's are 1×2×2",
        ),
        (
            {"x": changed(np.nan)},
            "{path}: sample 3 has 1 of 4 values that are not within 0 and 1, such as nan",
        ),
        (
            {"x": changed(1.5)},
            "{path}: sample 3 has 1 of 4 values that are not within 0 and 1, such as 1.5",
        ),
        (
            {"x": FLOATS.astype(np.int32)},
            "{path}: the array 'x' holds int32; samples are uint8 or float",
        ),
        ({"y": LABELS - 1}, "{path}: the label of sample 0 is -1, not at least 0"),
        ({"y": LABELS[:4]}, "{path} has 5 samples but 4 labels"),
        ({"y": LABELS + 1}, "{path}: there is a label 3, and the model has 3 classes"),
        (
            {"index": INDEX[:4]},
            "{path}: the array 'index' is int64 of shape 4, not integers, one per sample of 'x'",
        ),
        (
            {"index": INDEX / 2},
            "{path}: the array 'index' is float64 of shape 5, not integers, one per sample of 'x'",
        ),
        (
            {"attack": LABELS},
            "{path}: the array 'attack' is int64 of shape 5, not names, one per sample of 'x'",
        ),
        (
            {"attack": np.array("pgd")},
            "{path}: the array 'attack' is <U3 of shape (), not names, one per sample of 'x'",
        ),
    ],
)
def test_a_bad_corpus_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """It is refused when it is opened, before anything is computed."""
    path = stored(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        read(path, SHAPE, BOUNDS, classes=3)
    assert message.format(path=path) == str(caught.value)


def test_a_missing_corpus_is_one_sentence(tmp_path: Path) -> None:
    """It names the file."""
    path = tmp_path / "none.npz"
    with pytest.raises(DataError) as caught:
        read(path, SHAPE, BOUNDS)
    assert f"{path} cannot be read: No such file or directory" == str(caught.value)


def test_arrays_of_other_lengths_are_not_written(tmp_path: Path) -> None:
    """Nothing is left behind either."""

    def write() -> None:
        with writing(tmp_path / "adversarial.npz", SHAPE) as add:
            add(FLOATS, LABELS, INDEX[:4], ATTACKS)

    with pytest.raises(ValueError, match=r"^expected arrays of one length, got 5, 5, 4, 5$"):
        write()
    assert [] == list(tmp_path.iterdir())
