"""Labelled data: .npz files, IDX pairs and folders of images, streamed in batches."""

import gzip
import hashlib
import io
import re
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxfit import npz
from onnxfit.data import Dataset, as_dataset, open_data
from onnxfit.errors import DataError

BYTES = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5)).astype(np.uint8)
LABELS = np.array([0, 3, 1, 0, 2, 9, 4])
NO_HEADER = " cannot be read: an array does not begin as the .npy format says"


def write_npz(path: Path, **arrays: Any) -> Path:
    """Write arrays as ``numpy.savez`` does; ``x`` and ``y`` are there unless they are None."""
    arrays = {"x": BYTES, "y": LABELS} | arrays
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def idx(array: NDArray[Any]) -> bytes:
    """Return an array in the IDX format."""
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    big_endian = array.astype(array.dtype.newbyteorder(">"))
    return bytes((0, 0, code, array.ndim)) + lengths + big_endian.tobytes()


def write_idx(folder: Path, images: NDArray[Any], labels: NDArray[Any], mark: str = "-") -> Path:
    """Write an IDX pair and return the path of the images."""
    path = folder / f"t10k-images{mark}idx3-ubyte"
    path.write_bytes(idx(images))
    (folder / f"t10k-labels{mark}idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
    return path


def write_images(folder: Path, images: dict[str, NDArray[np.uint8]]) -> Path:
    """Write pixels, H×W or H×W×C, as files that Pillow reads."""
    library = pytest.importorskip("PIL.Image")
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        library.fromarray(pixels).save(folder / name)
    return folder


def flat(value: int, *shape: int) -> NDArray[np.uint8]:
    """Return pixels of one value, 2×3 unless a shape is given."""
    return np.full(shape or (2, 3), value, np.uint8)


def gathered(data: Dataset, batch_size: int = 3) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return all samples and labels."""
    batches = list(data.batches(batch_size))
    return np.concatenate([b.x for b in batches]), np.concatenate([b.y for b in batches])


def refusal(path: Path, batch_size: int = 3, **options: Any) -> str:
    """Return the sentence with which data is refused, without the folder it lies in."""
    with pytest.raises(DataError) as refused:
        list(open_data(path, **options).batches(batch_size))
    return str(refused.value).replace(f"{path.parent}/", "")


def assert_says(expected: str, sentence: str) -> None:
    """Compare sentences; where the end is in words of Python, an ellipsis stands for it."""
    if expected.endswith("…"):
        sentence = sentence[: len(expected) - 1] + "…"
    assert expected == sentence


def test_an_npz_file_gives_float32_samples_and_int64_labels(tmp_path: Path) -> None:
    """Bytes are divided by 255, exactly rounded; the file tells number and shape."""
    data = open_data(write_npz(tmp_path / "d.npz"))
    x, y = gathered(data)
    assert (7, (3, 4, 5), (0.0, 1.0)) == (data.n, data.shape, data.bounds)
    assert ("float32", "int64") == (x.dtype.name, y.dtype.name)
    np.testing.assert_array_equal(BYTES.astype(np.float32) / np.float32(255), x)
    np.testing.assert_array_equal(LABELS, y)
    np.testing.assert_array_equal(LABELS, data.labels)


def test_every_byte_is_scaled_as_by_a_division(tmp_path: Path) -> None:
    """All 256 of them, for the default bounds."""
    every = np.arange(256, dtype=np.uint8).reshape(1, 256)
    x, _ = gathered(open_data(write_npz(tmp_path / "d.npz", x=every, y=[0])))
    np.testing.assert_array_equal(every.astype(np.float32) / np.float32(255), x)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0), (-2.1179, 2.64), (0.1, 0.7)])
def test_bytes_are_mapped_to_the_bounds(low: float, high: float, tmp_path: Path) -> None:
    """0 becomes the lower bound, 255 the upper one, the rest lies evenly between."""
    x, _ = gathered(open_data(write_npz(tmp_path / "d.npz"), bounds=(low, high)))
    np.testing.assert_allclose(low + BYTES / 255 * (high - low), x, rtol=1e-6, atol=1e-6)
    ends = write_npz(tmp_path / "ends.npz", x=np.array([[0, 255]], np.uint8), y=[0])
    x, _ = gathered(open_data(ends, bounds=(low, high)))
    assert [np.float32(low), np.float32(high)] == x[0].tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">f8"])
def test_float_samples_stay_as_they_are(dtype: str, tmp_path: Path) -> None:
    """In any precision and byte order, also at the bounds, which float32 need not have."""
    x = np.array([[-0.1, 0.0, 0.25, 0.7]]).astype(np.float32).astype(dtype)
    path = write_npz(tmp_path / "d.npz", x=x, y=[1])
    low = -0.125 if dtype == "float16" else -0.1
    found, _ = gathered(open_data(path, bounds=(low, 0.701 if dtype == "float16" else 0.7)))
    np.testing.assert_array_equal(x.astype(np.float32), found)


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_a_limit_takes_the_first_samples(limit: int, batch_size: int, tmp_path: Path) -> None:
    """In order, in batches that are full but for the last one; as often as wanted."""
    data = open_data(write_npz(tmp_path / "d.npz"), limit=limit)
    n = min(limit, 7)
    assert n == data.n
    for _ in range(2):
        sizes = [len(batch.x) for batch in data.batches(batch_size)]
        assert sizes == [len(batch.y) for batch in data.batches(batch_size)]
        assert [min(batch_size, n - start) for start in range(0, n, batch_size)] == sizes
        x, y = gathered(data, batch_size)
        np.testing.assert_array_equal(BYTES[:n] / np.float32(255), x)
        np.testing.assert_array_equal(LABELS[:n], y)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_stored_and_deflated_members_in_either_order(save: Any, order: Any, tmp_path: Path) -> None:
    """Arrays in Fortran order too, though not streamed; labels of any integer type."""
    x = np.asarray(BYTES / np.float32(255), order=order)
    save(tmp_path / "d.npz", x=x, y=LABELS.astype(">u2"), z=np.arange(3))
    found, y = gathered(open_data(tmp_path / "d.npz", limit=5))
    np.testing.assert_array_equal(x[:5], found)
    np.testing.assert_array_equal(LABELS[:5], y)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_of_zip_are_read(method: int, tmp_path: Path) -> None:
    """Whatever this Python can unpack."""
    with zipfile.ZipFile(tmp_path / "d.npz", "w", method) as archive:
        for name, array in (("x", BYTES), ("y", LABELS)):
            with archive.open(f"{name}.npy", "w") as stream:
                np.save(stream, array)
    x, _ = gathered(open_data(tmp_path / "d.npz"))
    np.testing.assert_array_equal(BYTES / np.float32(255), x)


@pytest.mark.parametrize(
    ("dtype", "compressed"), [(np.uint8, True), (np.float32, False)], ids=["deflated", "stored"]
)
def test_a_large_file_needs_memory_for_a_batch(
    compressed: bool, dtype: Any, tmp_path: Path
) -> None:
    """20,000 images of 3×32×32, read 100 at a time, in a few megabytes."""
    some = np.random.default_rng(0).integers(0, 2, (2000, 3, 32, 32)).astype(dtype)
    x, y = np.concatenate([some] * 10), np.zeros(20_000, np.int64)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "d.npz", x=x, y=y)
    del some, x
    tracemalloc.start()
    count = sum(len(batch.x) for batch in open_data(tmp_path / "d.npz").batches(100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 20_000 == count
    assert peak < 8e6  # a batch is 1.2 MB as float32, all samples are 246 MB


def test_idx_images_get_a_channel(tmp_path: Path) -> None:
    """28×28 becomes 1×28×28; labels come from the file beside."""
    images = BYTES[:, 0]
    data = open_data(write_idx(tmp_path, images, LABELS), limit=5)
    x, y = gathered(data)
    assert (5, (1, 4, 5)) == (data.n, data.shape)
    np.testing.assert_array_equal(images[:5, np.newaxis] / np.float32(255), x)
    np.testing.assert_array_equal(LABELS[:5], y)


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("packed", [(), ("images",), ("labels",), ("images", "labels")])
def test_idx_files_by_their_usual_names(mark: str, packed: tuple[str, ...], tmp_path: Path) -> None:
    """With a dash or a dot, either file compressed or not."""
    images = write_idx(tmp_path, BYTES[:, 0], LABELS, mark)
    labels = images.with_name(f"t10k-labels{mark}idx1-ubyte")
    for what, plain in (("images", images), ("labels", labels)):
        if what in packed:
            plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
            plain.unlink()
    _, y = gathered(open_data(next(tmp_path.glob("*images*"))))
    np.testing.assert_array_equal(LABELS, y)


def test_idx_floats_and_shapes_that_are_no_grey_images(tmp_path: Path) -> None:
    """Big-endian numbers are read; a shape of other rank stays."""
    x = BYTES.astype(np.float64) / 255
    x_found, _ = gathered(open_data(write_idx(tmp_path, x, LABELS)))
    np.testing.assert_array_equal(x.astype(np.float32), x_found)


def test_a_folder_is_read_by_class_and_name(tmp_path: Path) -> None:
    """Labels are indices into the sorted sub-folders; other files and hidden folders are not."""
    write_images(
        tmp_path,
        {
            "dog/b.png": flat(1),
            "dog/a.PNG": flat(2),
            "cat/deeper/c.bmp": flat(3),
            ".hidden/h.png": flat(4),
            "cat/.hidden.png": flat(4),
            "cat/.deeper/h.png": flat(4),
            "outside.png": flat(5),
        },
    )
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "bird").mkdir()
    data = open_data(tmp_path)
    x, y = gathered(data, 2)
    assert ("bird", "cat", "dog") == data.classes
    assert ((1, 2, 3), [1, 2, 2]) == (data.shape, y.tolist())
    np.testing.assert_array_equal([3, 2, 1], np.rint(x[:, 0, 0, 0] * 255))


def test_colours_come_first_in_the_shape(tmp_path: Path) -> None:
    """H×W×3 becomes 3×H×W; transparency is dropped."""
    pixels = BYTES[0].transpose(1, 2, 0)
    opaque = np.concatenate([pixels, flat(128, 4, 5, 1)], axis=2)
    write_images(tmp_path, {"a/rgb.png": pixels, "a/rgba.png": opaque})
    x, _ = gathered(open_data(tmp_path))
    np.testing.assert_array_equal(np.stack([BYTES[0]] * 2) / np.float32(255), x)


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.tiff", "1.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation: int, name: str, tmp_path: Path) -> None:
    """As their EXIF orientation says, whatever the number of channels."""
    library = pytest.importorskip("PIL.Image")
    stored = np.kron([[0, 80], [160, 240], [40, 120]], np.ones((16, 16))).astype(np.uint8)
    exif = library.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a").mkdir()
    image = library.fromarray(np.stack([stored] * 3, axis=2))
    image.save(tmp_path / "a" / name, exif=exif, quality=100)
    turns: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
        lambda x: x,
        np.fliplr,
        lambda x: np.rot90(x, 2),
        np.flipud,
        np.transpose,
        lambda x: np.rot90(x, -1),
        lambda x: np.rot90(x, 2).T,
        np.rot90,
    ]
    expected = turns[orientation - 1](stored)
    for channels in (1, 3):
        x, _ = gathered(open_data(tmp_path, channels=channels))
        assert (channels, *expected.shape) == x.shape[1:]
        np.testing.assert_allclose(
            np.broadcast_to(expected, x.shape[1:]), x[0] * 255, rtol=0, atol=8
        )


def test_a_number_of_channels_can_be_asked_for(tmp_path: Path) -> None:
    """Grey images become coloured, or coloured ones grey."""
    write_images(tmp_path, {"a/1.png": flat(7), "a/2.png": flat(9, 2, 3, 3)})
    for channels in (1, 3):
        data = open_data(tmp_path, channels=channels)
        x, _ = gathered(data)
        assert (channels, 2, 3) == data.shape
        assert {7.0} == set(np.rint(x[0] * 255).ravel().tolist())
        assert {9.0} == set(np.rint(x[1] * 255).ravel().tolist())


@pytest.mark.parametrize(
    ("counts", "limit", "labels"),
    [
        ((2, 3, 1), None, [0, 0, 1, 1, 1, 2]),
        ((2, 3, 1), 100, [0, 0, 1, 1, 1, 2]),
        ((2, 3, 1), 3, [0, 1, 2]),
        ((2, 3, 1), 5, [0, 0, 1, 1, 2]),
        ((3, 3, 3), 4, [0, 0, 1, 2]),
        ((1, 1, 1, 1), 2, [0, 2]),
        ((1, 0, 9), 6, [0, 2, 2, 2, 2, 2]),
    ],
)
def test_a_limit_is_spread_over_the_classes_of_a_folder(
    counts: tuple[int, ...], limit: int | None, labels: list[int], tmp_path: Path
) -> None:
    """Equally, as far as there are images; the first of each class, always the same."""
    images = {f"{c}/{i}.png": flat(10 * c + i) for c, n in enumerate(counts) for i in range(n)}
    for c in range(len(counts)):
        (tmp_path / str(c)).mkdir()
    x, y = gathered(open_data(write_images(tmp_path, images), limit=limit), 2)
    assert labels == y.tolist()
    taken = [10 * c + i for c in range(len(counts)) for i in range(labels.count(c))]
    np.testing.assert_array_equal(taken, np.rint(x[:, 0, 0, 0] * 255))


def test_the_hash_is_that_of_the_files(tmp_path: Path) -> None:
    """Of one file its own, of several that of what sha256sum prints; a limit changes nothing."""
    path = write_npz(tmp_path / "d.npz")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert expected == open_data(path).sha256 == open_data(path, limit=2).sha256
    path = write_idx(tmp_path, BYTES[:, 0], LABELS)
    names = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    lines = [f"{hashlib.sha256((tmp_path / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == open_data(path, limit=1).sha256
    folder = write_images(tmp_path / "f", {"b/1.png": flat(1), "a/2.png": flat(2)})
    names = ["a/2.png", "b/1.png"]
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == open_data(folder, limit=1).sha256


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": None}, " has no array 'x'; it has 'y'"),
        ({"y": None, "z": [1]}, " has no array 'y'; it has 'x', 'z'"),
        ({"y": LABELS[:6]}, " has 7 samples but 6 labels"),
        ({"x": BYTES.astype(int)}, ": the array 'x' holds int64; samples are uint8 or float"),
        ({"x": BYTES > 1}, ": the array 'x' holds bool; samples are uint8 or float"),
        ({"x": np.array([None])}, ": the array 'x' holds object, not plain numbers"),
        ({"x": BYTES[0, 0, 0]}, ": the array 'x' is uint8 of shape 5, not N samples of a shape"),
        ({"x": np.float32(1)}, ": the array 'x' is one float32, not N samples of a shape"),
        ({"x": BYTES[:0], "y": LABELS[:0]}, ": the array 'x' is empty: its shape is 0×3×4×5"),
        ({"x": BYTES[:, :0]}, ": the array 'x' is empty: its shape is 7×0×4×5"),
        ({"y": LABELS / 2}, ": the array 'y' is float64 of shape 7, not N integers"),
        ({"y": LABELS[:, None]}, ": the array 'y' is int64 of shape 7×1, not N integers"),
        ({"y": 3}, ": the array 'y' is one int64, not N integers"),
        ({"y": LABELS - 1}, ": the label of sample 0 is -1, not at least 0"),
        (
            {"y": LABELS.astype(np.uint64) + np.uint64(2**63)},
            ": the label of sample 0 is 9223372036854775808, not at least 0",
        ),
    ],
)
def test_an_npz_file_of_another_form_is_refused(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """In one sentence that says what is there and what should be."""
    assert f"d.npz{message}" == refusal(write_npz(tmp_path / "d.npz", **arrays))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "d.npz: sample 4 has 2 of 6 values that are not within 0 and 1, such as nan"),
        (np.inf, "d.npz: sample 4 has 2 of 6 values that are not within 0 and 1, such as inf"),
        (1e300, "d.npz: sample 4 has 2 of 6 values that are not within 0 and 1, such as inf"),
        (-0.5, "d.npz: sample 4 has 2 of 6 values that are not within 0 and 1, such as -0.5"),
        (255.0, "d.npz: sample 4 has 2 of 6 values that are not within 0 and 1, such as 255"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_values_outside_the_bounds_are_refused(
    value: float, message: str, batch_size: int, tmp_path: Path
) -> None:
    """The first sample that has any is named, whatever the batches."""
    x = np.full((7, 2, 3), 0.5)
    x[4, 1, :2] = x[6, 0, 0] = value
    path = write_npz(tmp_path / "d.npz", x=x)
    assert message == refusal(path, batch_size)
    assert 4 == open_data(path, limit=4).n
    gathered(open_data(path, limit=4), batch_size)


def damaged_files(folder: Path) -> dict[str, str]:
    """Write files that cannot be read, and return the sentence for each."""
    whole = write_npz(folder / "whole.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 1
    encrypted = bytearray(whole)
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        encrypted[encrypted.find(signature) + offset] |= 1
    images = idx(BYTES[:, 0])
    files: dict[str, tuple[bytes, str]] = {
        "cut.npz": (whole[:200], "cannot be read: File is…"),
        "flipped.npz": (bytes(flipped), "cannot be read: Bad CRC…"),
        "encrypted.npz": (bytes(encrypted), "cannot be read: File 'x.npy' is encrypted…"),
        "text.npz": (b"no zip", "cannot be read: File is…"),
        "empty.npz": (b"", "cannot be read: File is…"),
        "other.bin": (
            b"other",
            "is neither an .npz file, nor IDX data, nor a folder of images",
        ),
        "one.npy": (
            npy(BYTES),
            "is one array; samples and labels come as x and y in an .npz file",
        ),
        "some.idx": (
            images,
            "is IDX data of another name than, say, train-images-idx3-ubyte: "
            "name the images so, and their labels train-labels-idx1-ubyte",
        ),
        "alone-images-idx3-ubyte": (
            images,
            "has no labels beside it: alone-labels-idx1-ubyte does not exist",
        ),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: f"{name} {message}" for name, (_, message) in files.items()}


@pytest.mark.parametrize("which", [0, 1], ids=["images", "labels"])
def test_packed_idx_files_are_read_to_their_end(which: int, tmp_path: Path) -> None:
    """There the checksum is, which a damaged pixel shows in, and the end itself."""
    path = write_idx(tmp_path, BYTES[:, 0], LABELS)
    files = [path, path.with_name("t10k-labels-idx1-ubyte")]
    whole = [gzip.compress(file.read_bytes()) for file in files]
    packed = [file.with_name(f"{file.name}.gz") for file in files]
    for file, content in zip(files, whole, strict=True):
        file.with_name(f"{file.name}.gz").write_bytes(content)
        file.unlink()
    assert len(LABELS) == len(open_data(packed[0]).labels)

    damaged = bytearray(whole[which])
    damaged[-8] ^= 1
    packed[which].write_bytes(damaged)
    assert "CRC check failed" in refusal(packed[0])
    packed[which].write_bytes(whole[which][:-9])
    assert packed[which].name in refusal(packed[0])


def npy(array: NDArray[Any]) -> bytes:
    """Return an array as ``numpy.save`` writes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Each in one sentence that names the file."""
    for name, message in damaged_files(tmp_path).items():
        assert_says(message, refusal(tmp_path / name))
    assert "nowhere.npz cannot be read: No such file or directory" == refusal(
        tmp_path / "nowhere.npz"
    )


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (npy(BYTES)[:-1], ": the array 'x' needs 420 bytes and has 419"),
        (npy(BYTES) + b"!", ": the array 'x' needs 420 bytes and has 421"),
        (npy(BYTES)[:50], NO_HEADER),
        (b"", NO_HEADER),
        (b"\x93NUMPY\x09\x00", NO_HEADER),
        (npy(BYTES).replace(b"3, 4", b"9**9"), NO_HEADER),
        (npy(BYTES).replace(b"(7, 3,", b"((((((("), NO_HEADER),
        (npy(BYTES).replace(b"|u1", b"zzz"), NO_HEADER),
    ],
)
def test_damaged_members_are_refused(x: bytes, message: str, tmp_path: Path) -> None:
    """Before any sample is read, and whatever the header claims."""
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", npy(LABELS))
    assert f"d.npz{message}" == refusal(tmp_path / "d.npz")


def test_a_header_that_claims_too_much_takes_no_memory(tmp_path: Path) -> None:
    """Of samples and of labels."""
    huge = npy(LABELS).replace(b"(7,), ", b"(9999999999999,), ")[: len(npy(LABELS))]
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", npy(BYTES))
        archive.writestr("y.npy", huge)
    assert re.fullmatch(
        r"d\.npz: the array 'y' needs 79999999999992 bytes and has \d+",
        refusal(tmp_path / "d.npz"),
    )


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"\0\0\x08", None, "I is not in the IDX format"),
        (b"\0\0\x07\x01\0\0\0\x07", None, "I is not in the IDX format"),
        (idx(BYTES[:, 0])[:9], None, "I is cut off"),
        (idx(BYTES[:, 0])[:-21], None, "I is cut off: it has 5 of 7 samples"),
        (gzip.compress(idx(BYTES[:, 0]))[:-30], None, "I cannot be read: Compressed file ended…"),
        (b"\x1f\x8bnothing at all", None, "I cannot be read: Unknown compression method…"),
        (idx(BYTES[:, 0].astype(np.int32)), None, "I holds >i4; samples are uint8 or float"),
        (idx(BYTES[:, 0, 0, 0]), None, "I is uint8 of shape 7, not N samples of a shape"),
        (idx(BYTES[:0, 0]), None, "I is empty: its shape is 0×4×5"),
        (None, idx(LABELS.astype(np.uint8))[:-2], "L is cut off: it has 5 of 7 labels"),
        (None, idx(LABELS[:6].astype(np.uint8)), "I has 7 samples but L 6 labels"),
        (None, idx(BYTES[:, 0]), "L holds uint8 of shape 7×4×5, not N integers"),
        (None, idx(LABELS.astype(np.float32)), "L holds >f4 of shape 7, not N integers"),
        (None, idx((LABELS - 1).astype(np.int8)), "L: the label of sample 0 is -1, not at least 0"),
        (None, b"labels", "L is not in the IDX format"),
        (idx(BYTES[:, 0]) + b"!", None, "I is longer than its header says"),
        (None, idx(LABELS.astype(np.uint8)) + b"!", "L is longer than its header says"),
    ],
)  # fmt: skip
def test_damaged_idx_files_are_refused(
    images: bytes | None, labels: bytes | None, message: str, tmp_path: Path
) -> None:
    """The images by name, or the labels."""
    path = write_idx(tmp_path, BYTES[:, 0], LABELS)
    beside = path.with_name("t10k-labels-idx1-ubyte")
    if images is not None:
        path.write_bytes(images)
    if labels is not None:
        beside.write_bytes(labels)
    found = refusal(path).replace(path.name, "I").replace(beside.name, "L")
    assert_says(message, found.replace(f"{tmp_path}/", ""))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "{} has no sub-folders; each class of images needs one"),
        ({"outside.png": flat(1)}, "{} has no sub-folders; each class of images needs one"),
        (
            {"a/1.png": flat(1), "b/2.png": flat(1, 3, 2)},
            "{}/b/2.png is 1×3×2, but {}/a/1.png is 1×2×3: "
            "all images must have one size and number of channels",
        ),
        (
            {"a/1.png": flat(1), "a/2.png": flat(1, 2, 3, 3)},
            "{}/a/2.png is 3×2×3, but {}/a/1.png is 1×2×3: "
            "all images must have one size and number of channels",
        ),
        (
            {"a/1.png": np.full((2, 3), 300, np.uint16)},
            "{}/a/1.png is of mode I;16, which has no 8 bits per channel",
        ),
    ],
)
def test_folders_of_another_form_are_refused(
    images: dict[str, NDArray[Any]], message: str, tmp_path: Path
) -> None:
    """The sentence names the images."""
    folder = tmp_path / "d"
    folder.mkdir()
    write_images(folder, images)
    assert message.replace("{}", "d") == refusal(folder)


def test_damaged_images_are_refused(tmp_path: Path) -> None:
    """By name, with Pillow's reason; a folder without images too."""
    folder = write_images(tmp_path / "d", {"a/1.png": flat(1, 50, 50)})
    path = folder / "a" / "1.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert refusal(folder).startswith("d/a/1.png cannot be read: ")
    path.write_bytes(b"text")
    assert refusal(folder).startswith("d/a/1.png cannot be read: cannot identify image file")
    path.unlink()
    assert "d has no images in its sub-folders" == refusal(folder)


def test_without_pillow_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the error that Python raises for a missing package."""
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    (tmp_path / "a").mkdir()
    with pytest.raises(ModuleNotFoundError) as refused:
        open_data(tmp_path)
    assert "images need Pillow: pip install 'onnxfit[twin]'" == str(refused.value)
    assert "PIL" == refused.value.name


def test_a_limit_below_1_is_refused(tmp_path: Path) -> None:
    """As bad data is."""
    path = write_npz(tmp_path / "d.npz")
    assert "expected a limit of at least 1 sample, got 0" == refusal(path, limit=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (1, 0)}, "expected finite bounds, the lower one first, got (1, 0)"),
        ({"bounds": (0, np.inf)}, "expected finite bounds, the lower one first, got (0, inf)"),
        ({"channels": 2}, "expected channels of 1 or 3, got 2"),
    ],
)
def test_wrong_arguments_are_value_errors(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """As everywhere in Python."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_data(write_npz(tmp_path / "d.npz"), **options)
    with pytest.raises(ValueError, match=r"^expected batch_size >= 1, got 0$"):
        next(open_data(tmp_path / "d.npz").batches(0))


@pytest.mark.parametrize("given", [np.zeros((4, 3)), (np.zeros((4, 3)),), None])
def test_samples_without_labels(given: Any) -> None:
    """One sentence, not what Python says of a call with other arguments."""
    with pytest.raises(DataError, match=r"samples and their labels as two arrays$"):
        as_dataset(given, limit=None, bounds=(0, 1), channels=None)


def test_arrays_are_written_a_batch_at_a_time(tmp_path: Path) -> None:
    """NumPy reads them as if they had been written at once; equal arrays give equal bytes."""
    for name, cuts in (("a.npz", [3, 4]), ("b.npz", [1, 5, 6])):
        with npz.writing(tmp_path / name) as append:
            for x, y in zip(np.split(BYTES, cuts), np.split(LABELS, cuts), strict=True):
                append(x=x.transpose(0, 3, 1, 2), y=y)
    with np.load(tmp_path / "a.npz") as found:
        assert ["x", "y"] == list(found)
        np.testing.assert_array_equal(BYTES.transpose(0, 3, 1, 2), found["x"])
        np.testing.assert_array_equal(LABELS, found["y"])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert {"a.npz", "b.npz"} == {path.name for path in tmp_path.iterdir()}


def test_an_interrupted_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """And nothing else."""
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), npz.writing(path) as append:  # noqa: PT012
        append(x=BYTES)
        raise KeyboardInterrupt
    assert b"old" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


def test_batches_of_another_type_or_shape_are_not_written(tmp_path: Path) -> None:
    """An array has one of each."""
    message = "expected uint8 of shape (3, 4, 5), got int64 of shape ()"
    with npz.writing(tmp_path / "a.npz") as append:
        append(x=BYTES)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            append(x=LABELS)
    with (
        pytest.raises(DataError, match=r"^the folder .*/nowhere does not exist$"),
        npz.writing(tmp_path / "nowhere" / "a.npz"),
    ):
        pass
    with pytest.raises(DataError, match=r" is a directory$"), npz.writing(tmp_path):
        pass
