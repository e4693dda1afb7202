"""The readers of models/datasets.py on tiny files in the formats that the data sets come in."""

import gzip
import importlib
import io
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxfit.errors import DataError

MODELS = Path(__file__).parents[1] / "models"
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
RECORD = 1 + 3 * 32 * 32

Load = Callable[[str, Path | None], dict[str, Any]]
Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return the function that models/train.py reads data sets with."""
    monkeypatch.syspath_prepend(MODELS)
    function: Load = importlib.import_module("datasets").load
    return function


def labelled(count: int, shape: tuple[int, ...], seed: int = 0) -> Labelled:
    """Return random images and labels."""
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, 256, (count, *shape), dtype=np.uint8),
        generator.integers(0, 10, count, dtype=np.uint8),
    )


def write_idx(path: Path, values: NDArray[np.uint8], *, magic: bytes | None = None) -> None:
    """Write bytes as IDX, compressed where the name says so."""
    start = bytes((0, 0, 8, values.ndim)) if magic is None else magic
    content = start + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, mark: str = "-", end: str = "", seed: int = 0) -> dict[str, Labelled]:
    """Write three training and two test images as IDX."""
    written = {}
    for count, name, stem in ((3, "training", "train"), (2, "test", "t10k")):
        written[name] = labelled(count, (28, 28), seed + count)
        write_idx(folder / f"{stem}-images{mark}idx3-ubyte{end}", written[name][0])
        write_idx(folder / f"{stem}-labels{mark}idx1-ubyte{end}", written[name][1])
    return written


def python2_pickle(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """Return what Python 2 and the NumPy of 2009 wrote, which CIFAR-10 is published as."""
    rows = images.reshape(len(images), -1)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    unaligned = b"\xff" * 4
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ%sJ%sK\x00tb"
    state = b"(K\x01K%cM\x00\x0c\x86" % len(rows) + kind % (unaligned, unaligned) + b"\x89"
    content = b"T" + np.uint32(rows.nbytes).tobytes() + rows.tobytes()
    array = empty + state + content + b"tb"
    numbers = b"](" + b"".join(b"K%c" % label for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def python3_pickle(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """Return what the Python and NumPy of today write."""
    rows = images.reshape(len(images), -1)
    return pickle.dumps({b"data": rows, b"labels": labels.tolist()}, protocol=4)


def records(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """Return the binary form of a batch."""
    return np.hstack([labels[:, np.newaxis], images.reshape(len(images), -1)]).tobytes()


ENCODINGS = {"python2": python2_pickle, "python3": python3_pickle, "bin": records}


def cifar10_files(encoding: str) -> tuple[dict[str, bytes], dict[str, Labelled]]:
    """Return five training batches of two images and a test batch, encoded and as they are."""
    parts = [labelled(2, (3, 32, 32), seed) for seed in range(6)]
    ending = ".bin" if encoding == "bin" else ""
    files = {
        f"{name}{ending}": ENCODINGS[encoding](*part)
        for name, part in zip(BATCHES, parts, strict=True)
    }
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts[:5], strict=True))
    return files, {"training": (images, labels), "test": parts[5]}


def write_cifar10(folder: Path, files: dict[str, bytes], *, packed: bool) -> Path:
    """Write the files into the usual folder or archive, and return its path."""
    kind = "binary" if "test_batch.bin" in files else "python"
    inside = {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py"}[kind]
    if not packed:
        (folder / inside).mkdir()
        for name, content in files.items():
            (folder / inside / name).write_bytes(content)
        return folder / inside
    path = folder / f"cifar-10-{kind}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"readme.html": b"<p>", **files}.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def check(expected: dict[str, Labelled], loaded: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Check images, as float32 in [0, 1], and labels, as int64."""
    assert list(expected) == list(loaded)
    for name, (images, labels) in expected.items():
        x, y = loaded[name]
        assert ("float32", "int64") == (x.dtype.name, y.dtype.name)
        assert (len(images), *shape) == x.shape
        np.testing.assert_allclose(images.reshape(x.shape) / 255, x, rtol=1e-6)
        np.testing.assert_array_equal(labels, y)


def test_digits_need_no_folder(load: Load) -> None:
    """They are those that the .npz files hold, and 898 for training."""
    digits = load("digits", None)
    assert ["training", "validation", "test"] == list(digits)
    assert (898, 1, 8, 8) == digits["training"].x.shape
    for name, file in (("validation", "val"), ("test", "test")):
        with np.load(MODELS / f"digits_{file}.npz") as arrays:
            np.testing.assert_array_equal(arrays["x"], digits[name].x)
            np.testing.assert_array_equal(arrays["y"], digits[name].y)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "."),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
@pytest.mark.parametrize(("mark", "end"), [("-", ""), ("-", ".gz"), (".", "")])
def test_idx_is_read(
    name: str, place: str, mark: str, end: str, tmp_path: Path, load: Load
) -> None:
    """Both data sets are found in their usual places under their usual names."""
    written = write_mnist(tmp_path / place, mark, end)
    check(written, load(name, tmp_path), (1, 28, 28))


def test_a_folder_of_both_holds_both(tmp_path: Path, load: Load) -> None:
    """The data set's own sub-folder comes before the folder itself."""
    plain = write_mnist(tmp_path)
    fashion = write_mnist(tmp_path / "fashion-mnist", seed=9)
    check(plain, load("mnist", tmp_path), (1, 28, 28))
    check(fashion, load("fashion-mnist", tmp_path), (1, 28, 28))


@pytest.mark.parametrize("magic", [b"\x03\x08\0\0", b"\0\0\x07\x03"])
def test_another_magic_number_is_refused(magic: bytes, tmp_path: Path, load: Load) -> None:
    """One in the other byte order is, and one of a type that IDX does not have."""
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, labelled(3, (28, 28))[0], magic=magic)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("train-images-idx3-ubyte", 2),
        ("train-images-idx3-ubyte", 700),
        ("train-labels-idx1-ubyte", 9),
        ("t10k-images-idx3-ubyte.gz", 100),
    ],
)
def test_cut_off_idx_is_refused(name: str, kept: int, tmp_path: Path, load: Load) -> None:
    """The message names the file, compressed or not, images or labels."""
    write_mnist(tmp_path, end=".gz" if name.endswith(".gz") else "")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=re.escape(name)):
        load("mnist", tmp_path)


def test_missing_idx_is_told(tmp_path: Path, load: Load) -> None:
    """The message has the name of the file and the folders where it was looked for."""
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    where = ", ".join(str(tmp_path / place) for place in ("MNIST/raw", "mnist", "."))
    assert f"mnist is missing: no train-images-idx3-ubyte, or .gz, in {where}" == str(caught.value)
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte does not exist"):
        load("mnist", tmp_path)


def test_other_images_are_refused(tmp_path: Path, load: Load) -> None:
    """Images of another size are, and labels that are not one of ten classes."""
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, labelled(3, (8, 8))[0])
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    assert f"{path} holds images of 1×8×8, not of 1×28×28" == str(caught.value)
    write_mnist(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([3, 10], np.uint8))
    with pytest.raises(DataError, match="the label of sample 1 is 10"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_is_read(encoding: str, packed: bool, tmp_path: Path, load: Load) -> None:
    """All published forms give the same images: pickles and binaries, unpacked and not."""
    files, expected = cifar10_files(encoding)
    write_cifar10(tmp_path, files, packed=packed)
    check(expected, load("cifar10", tmp_path), (3, 32, 32))


class Hostile:
    """Runs code where it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("packed", [False, True])
def test_a_hostile_pickle_is_refused(packed: bool, tmp_path: Path, load: Load) -> None:
    """What it names is told, neither imported nor run."""
    files, _ = cifar10_files("python2")
    target = tmp_path / "made"
    files["data_batch_2"] = pickle.dumps(Hostile(target))
    write_cifar10(tmp_path, files, packed=packed)
    with pytest.raises(DataError, match=r"data_batch_2 is refused: it names \S+, which is not"):
        load("cifar10", tmp_path)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        python2_pickle(*labelled(2, (3, 32, 32)))[:5000],
        pickle.dumps([1, 2]),
        pickle.dumps({b"data": 1}),
        python3_pickle(labelled(2, (3, 32, 31))[0], np.zeros(2, np.uint8)),
        python3_pickle(labelled(2, (3, 32, 32))[0], np.zeros(3, np.uint8)),
        python3_pickle(labelled(2, (3, 32, 32))[0], np.full(2, 10, np.uint8)),
    ],
)
def test_other_pickles_are_refused(content: bytes, tmp_path: Path, load: Load) -> None:
    """Cut off, not a batch, of other images or labels: the message names the file."""
    files, _ = cifar10_files("python2")
    where = write_cifar10(tmp_path, files | {"test_batch": content}, packed=False)
    with pytest.raises(DataError, match=re.escape(f"{where / 'test_batch'}")):
        load("cifar10", tmp_path)


def test_other_binaries_are_refused(tmp_path: Path, load: Load) -> None:
    """Cut off, or with a label that is not one of ten classes."""
    files, _ = cifar10_files("bin")
    where = write_cifar10(tmp_path, files, packed=False) / "data_batch_5.bin"
    where.write_bytes(files["data_batch_5.bin"][:-1])
    with pytest.raises(DataError) as caught:
        load("cifar10", tmp_path)
    expected = f"{where} is cut off: {2 * RECORD - 1} bytes, not N times {RECORD}"
    assert expected == str(caught.value)
    where.write_bytes(b"\x0a" + files["data_batch_5.bin"][1:])
    with pytest.raises(DataError, match=r"data_batch_5.bin: a label is not one of 0 to 9"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_missing_batch_is_told(packed: bool, tmp_path: Path, load: Load) -> None:
    """The message names the folder or archive, and the batch."""
    files, _ = cifar10_files("bin")
    del files["data_batch_3.bin"]
    where = write_cifar10(tmp_path, files, packed=packed)
    with pytest.raises(DataError, match=f"{re.escape(str(where))}.*data_batch_3.bin"):
        load("cifar10", tmp_path)


def test_a_cut_off_archive_is_refused(tmp_path: Path, load: Load) -> None:
    """The message names it."""
    files, _ = cifar10_files("python2")
    path = write_cifar10(tmp_path, files, packed=True)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=re.escape(str(path))):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("kind", ["python2", "bin"])
def test_an_archive_whose_checksum_differs_is_refused(
    kind: str, tmp_path: Path, load: Load
) -> None:
    """Though all that is read can be unpacked."""
    files, _ = cifar10_files(kind)
    path = write_cifar10(tmp_path, files, packed=True)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} cannot be read: CRC check"):
        load("cifar10", tmp_path)


def test_missing_cifar10_is_told(tmp_path: Path, load: Load) -> None:
    """The message lists what was looked for."""
    with pytest.raises(DataError, match="has none of cifar-10-batches-py, cifar-10-batches-bin"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_a_folder_has_to_be_named(name: str, tmp_path: Path, load: Load) -> None:
    """The message says how, or that it is not there."""
    with pytest.raises(DataError) as caught:
        load(name, None)
    expected = f"{name} is read from a folder: name it by --folder or ONNXFIT_DATA"
    assert expected == str(caught.value)
    with pytest.raises(DataError) as caught:
        load(name, tmp_path / "none")
    assert f"{tmp_path / 'none'} is not a folder" == str(caught.value)
