"""Gradients of a classifier by its input, and the files that hold them."""

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxfit.data import Dataset, open_data
from onnxfit.errors import DataError, ModelError, ParityError
from onnxfit.saliency.folder import picture

torch = pytest.importorskip("torch")

from onnxfit.twin.gradients import Exported, export_gradients, input_gradients  # noqa: E402
from onnxfit.twin.preprocessing import Preprocessed  # noqa: E402

N, CLASSES, SHAPE = 11, 4, (3, 5, 6)

NOT_LOGITS = "the first output of the model is {} for 11 samples, not logits of N×classes"
NO_TENSOR = "the first output of the model is no floating-point tensor"
NO_GRADIENT = "no gradient reaches the model's input: its logits do not depend on it"
LABEL = "data.npz: the label of sample 3 is 3, but the model has 3 classes, 0 to 2"
ONE_LOGIT = (
    "the model has one logit, and the cross-entropy of one class is always 0: "
    "ask for the gradient of logit 0"
)
NO_IMAGES = (
    "saliency maps are for images, C×H×W or H×W×C, of 1 or 3 channels; the samples of d.npz are {}"
)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Write eleven images of four classes, float32 in [0, 1]."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(N, *SHAPE)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(N) % CLASSES)
    return open_data(tmp_path / "data.npz")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Name a file in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "grads.npz"


def linear() -> Any:
    """Make a classifier whose gradients are known: logits = W·x + b."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 5 * 6, CLASSES))


def smooth() -> Any:
    """Make a small convolutional classifier without kinks."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(4 * 3 * 4, CLASSES))


def samples(data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return all samples in double precision, and the labels."""
    x, y = next(data.batches(data.n))
    return x.astype(np.float64), y


def cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cross-entropy of each sample."""
    top = logits.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return np.asarray(total - logits[np.arange(len(labels)), labels])


def loaded(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file."""
    with np.load(path) as arrays:
        return dict(arrays)


def test_the_gradient_of_the_loss_of_a_linear_classifier(data: Dataset, output: Path) -> None:
    """It is Wᵀ·(softmax − one-hot), computed here in double precision."""
    twin = linear()
    exported = export_gradients(twin, data, output, batch_size=4)
    weight, bias = (p.detach().double().numpy() for p in twin[1].parameters())
    x, y = samples(data)
    logits = x.reshape(N, -1) @ weight.T + bias
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradients = ((softmax - np.eye(CLASSES)[y]) @ weight).reshape(N, *SHAPE)
    found = loaded(output)
    np.testing.assert_allclose(gradients, found["gradients"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, found["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cross_entropy(logits, y), found["losses"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y, found["labels"])
    accuracy = float((logits.argmax(axis=1) == y).mean())
    expected = Exported(classes=CLASSES, accuracy=accuracy, zero=0, not_finite=0)
    assert expected == exported


def test_what_the_file_holds(data: Dataset, output: Path) -> None:
    """Four arrays in single precision, and the labels."""
    export_gradients(linear(), data, output)
    assert {
        "gradients": ((N, *SHAPE), "float32"),
        "logits": ((N, CLASSES), "float32"),
        "losses": ((N,), "float32"),
        "labels": ((N,), "int64"),
    } == {name: (array.shape, array.dtype.name) for name, array in loaded(output).items()}
    assert [output] == list(output.parent.iterdir())


@pytest.mark.parametrize("logit", [None, 2])
def test_gradients_are_the_slopes_of_the_model(
    logit: int | None, data: Dataset, output: Path
) -> None:
    """Differences of the model in double precision say the same, for some pixels of all samples."""
    twin = smooth()
    export_gradients(twin, data, output, logit=logit)
    found = loaded(output)["gradients"]
    twin.double()
    x, y = samples(data)

    def values(step: float, pixel: tuple[int, int, int]) -> NDArray[np.float64]:
        moved = x.copy()
        moved[:, *pixel] += step
        logits = twin(torch.from_numpy(moved)).detach().numpy()
        return cross_entropy(logits, y) if logit is None else logits[:, logit]

    for pixel in ((0, 0, 0), (1, 2, 3), (2, 4, 5), (2, 0, 5)):
        slope = (values(1e-5, pixel) - values(-1e-5, pixel)) / 2e-5
        np.testing.assert_allclose(slope, found[(slice(None), *pixel)], rtol=1e-4, atol=1e-6)


def test_the_gradient_of_a_logit_is_that_logit_s_alone(data: Dataset, output: Path) -> None:
    """Of a linear classifier it is the logit's row of weights, whatever the sample."""
    twin = linear()
    for logit in range(CLASSES):
        export_gradients(twin, data, output, logit=logit)
        row = twin[1].weight[logit].detach().numpy().reshape(SHAPE)
        np.testing.assert_array_equal(np.stack([row] * N), loaded(output)["gradients"])


@pytest.mark.parametrize("batch_size", [1, 2, 10, 11, 1000])
def test_the_batch_size_does_not_matter(batch_size: int, data: Dataset, output: Path) -> None:
    """But for rounding; a mean over the batch would show."""
    twin = smooth()
    export_gradients(twin, data, output, batch_size=3)
    expected = loaded(output)
    export_gradients(twin, data, output, batch_size=batch_size)
    for name, array in loaded(output).items():
        np.testing.assert_allclose(expected[name], array, rtol=1e-5, atol=1e-7)


def test_the_mode_of_the_module_does_not_matter(data: Dataset) -> None:
    """Batch normalisation takes its stored figures, dropout drops nothing."""
    twin = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout(), linear()).train()
    first, second = (list(input_gradients(twin, data, batch_size=size)) for size in (N, N))
    np.testing.assert_array_equal(first[0].gradients, second[0].gradients)
    assert (0, 0.0) == (int(twin[0].num_batches_tracked), float(twin[0].running_mean.sum()))


def test_nothing_is_left_on_the_parameters(data: Dataset) -> None:
    """Their gradients are not computed."""
    twin = linear()
    list(input_gradients(twin, data))
    assert [None, None] == [parameter.grad for parameter in twin.parameters()]


def test_zero_and_infinite_gradients_are_counted(tmp_path: Path, output: Path) -> None:
    """By sample: a dead rectifier, and the root of zero."""
    x = np.array([[0.0, 0.0], [0.25, 1.0], [1.0, 0.25]], np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=[0, 0, 1])

    def roots(inputs: Any) -> Any:
        return torch.relu(inputs - 0.5).sum(dim=1, keepdim=True) * torch.ones(2) + torch.stack(
            [inputs[:, 0].sqrt(), inputs[:, 0].sqrt()], dim=1
        )

    twin = torch.nn.Module()
    twin.forward = roots
    exported = export_gradients(twin, open_data(tmp_path / "d.npz"), output, logit=1)
    assert (0, 1) == (exported.zero, exported.not_finite)
    twin.forward = lambda inputs: torch.relu(inputs - 0.5)
    exported = export_gradients(twin, open_data(tmp_path / "d.npz"), output, logit=1)
    assert (2, 0) == (exported.zero, exported.not_finite)


@pytest.mark.parametrize(
    ("forward", "options", "error", "message"),
    [
        (lambda x: x, {}, ModelError, NOT_LOGITS.format("11×3×5×6")),
        (lambda x: x.sum(), {}, ModelError, NOT_LOGITS.format("one number")),
        (lambda x: x.flatten(1)[:1], {}, ModelError, NOT_LOGITS.format("1×90")),
        (lambda x: x.flatten(1).long(), {}, ModelError, NO_TENSOR),
        (lambda x: [x], {}, ModelError, NO_TENSOR),
        (lambda x: torch.ones(len(x), 4), {}, ModelError, NO_GRADIENT),
        (lambda x: torch.ones(len(x), 4, requires_grad=True), {}, ModelError, NO_GRADIENT),
        (lambda x: x.flatten(1)[:, :3], {}, DataError, LABEL),
        (lambda x: x.flatten(1)[:, :1], {}, ModelError, ONE_LOGIT),
        (
            lambda x: x.flatten(1)[:, :4],
            {"logit": 4},
            ModelError,
            "the model has 4 logits, 0 to 3, but no logit 4",
        ),
        (
            lambda x: x.flatten(1)[:, :4],
            {"logit": -1},
            ModelError,
            "the model has 4 logits, 0 to 3, but no logit -1",
        ),
        (lambda x: x.flatten(1), {"batch_size": 0}, ValueError, "expected batch_size >= 1, got 0"),
    ],
)
def test_what_is_no_classifier_of_the_data_is_refused(
    forward: Any, options: Any, error: Any, message: str, data: Dataset, output: Path
) -> None:
    """In one sentence, and nothing is written."""
    twin = torch.nn.Module()
    twin.forward = forward
    with pytest.raises(error) as refused:
        export_gradients(twin, data, output, **options)
    assert message == str(refused.value).replace(f"{data.path.parent}/", "")
    assert [] == list(output.parent.iterdir())


def test_axes_of_length_1_behind_the_classes_are_dropped(data: Dataset) -> None:
    """As old networks for images have them; of several outputs the first is taken."""
    twin = torch.nn.Module()
    twin.forward = lambda x: (x.flatten(1)[:, :4, None, None] * 2, x)
    (batch,) = input_gradients(twin, data)
    assert (N, CLASSES) == batch.logits.shape


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_run_leaves_what_was_there(after: int, data: Dataset, output: Path) -> None:
    """The old file and the old maps; no trace of the new ones."""
    pytest.importorskip("PIL.Image")
    output.write_bytes(b"old")
    maps = output.parent / "maps"
    maps.mkdir()
    (maps / "00000-label0-predicted0.png").write_bytes(b"old")
    calls: Iterator[int] = iter(range(after))

    def interrupt(_: int) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_gradients(linear(), data, output, batch_size=4, pictures=maps, advance=interrupt)
    assert b"old" == output.read_bytes()
    found = [path.relative_to(output.parent).as_posix() for path in output.parent.rglob("*")]
    assert ["grads.npz", "maps", "maps/00000-label0-predicted0.png"] == sorted(found)


def full(*_: object, **__: object) -> None:
    """Fail as a disk does that is full."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "broken",
    [
        "onnxfit.npz._Column.copy_to",
        "onnxfit.saliency.folder.Maps.publish",
        "onnxfit.replacing",
    ],
)
def test_what_fails_at_the_end_leaves_neither_file_nor_maps(
    there: bool, broken: str, data: Dataset, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The array file, the maps, or the last step of all: what was there is there again."""
    pytest.importorskip("PIL.Image")
    maps = output.parent / "maps"
    if there:
        output.write_bytes(b"old")
        maps.mkdir()
        (maps / "00099-label0-predicted0.png").write_bytes(b"old map")
        (maps / "mine.png").write_bytes(b"mine")
    before = {p: p.read_bytes() if p.is_file() else b"" for p in output.parent.rglob("*")}
    if broken == "onnxfit.replacing":
        replace: Callable[[Path, Path], Path] = Path.replace
        monkeypatch.setattr(Path, "replace", lambda *a: full() if a[1] == output else replace(*a))
    elif broken == "onnxfit.saliency.folder.Maps.publish":
        replace = Path.replace
        calls = iter(range(5 + there))
        monkeypatch.setattr(
            Path,
            "replace",
            lambda *a: (
                full()
                if a[1].parent == maps and a[0].parent.name == "new" and next(calls, None) is None
                else replace(*a)
            ),
        )
    else:
        monkeypatch.setattr(broken, full)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device$"):
        export_gradients(linear(), data, output, pictures=maps)
    after = {p: p.read_bytes() if p.is_file() else b"" for p in output.parent.rglob("*")}
    assert before == after


def test_the_file_and_the_folder_of_maps_are_two(data: Dataset, output: Path) -> None:
    """One name cannot be both."""
    with pytest.raises(DataError) as refused:
        export_gradients(linear(), data, output, pictures=output)
    assert f"{output} cannot be both the file and the folder of the pictures" == str(refused.value)
    assert [] == list(output.parent.iterdir())


def mixing(inputs: Any) -> Any:
    """Compute logits of which each depends on all samples."""
    logits = inputs.flatten(1)[:, :CLASSES]
    return logits - logits.mean(dim=0, keepdim=True)


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_a_model_that_mixes_samples_is_refused(
    batch_size: int, data: Dataset, output: Path
) -> None:
    """Its gradients would depend on the batch size; one sample at a time has none to mix with."""
    twin = torch.nn.Module()
    twin.forward = mixing
    with pytest.raises(ParityError) as refused:
        export_gradients(twin, data, output, batch_size=batch_size)
    assert (
        "the model mixes the samples of a batch: alone they have other logits than in a batch of "
        f"{min(batch_size, N)}, so that gradients would depend on the batch size"
    ) == str(refused.value)
    assert [] == list(output.parent.iterdir())
    assert N == export_gradients(twin, data, output, batch_size=1).zero


def test_one_sample_that_rounding_moves_across_a_jump_is_no_mixture(data: Dataset) -> None:
    """Nor are values that are no numbers."""
    x, _ = samples(data)
    first = torch.from_numpy(x[0]).float()

    def jumping(inputs: Any) -> Any:
        logits = inputs.flatten(1)[:, :CLASSES] + torch.tensor([0, 0, 0, torch.nan])
        return logits + 9.0 * (inputs == first).all() * (len(inputs) == 1)

    twin = torch.nn.Module()
    twin.forward = jumping
    assert N == len(next(input_gradients(twin, data)).x)


def test_one_logit_has_a_gradient(tmp_path: Path, output: Path) -> None:
    """Where it is asked for."""
    np.savez(tmp_path / "one.npz", x=np.ones((3, 2), np.uint8), y=[0, 0, 0])
    twin = torch.nn.Linear(2, 1)
    export_gradients(twin, open_data(tmp_path / "one.npz"), output, logit=0)
    row = twin.weight.detach().numpy()
    np.testing.assert_array_equal(np.concatenate([row] * 3), loaded(output)["gradients"])


def test_progress_counts_samples(data: Dataset, output: Path) -> None:
    """After each batch."""
    counts: list[int] = []
    export_gradients(linear(), data, output, batch_size=4, advance=counts.append)
    assert [4, 4, 3] == counts


MEMORY = """
import resource, sys
import torch
from onnxfit.data import open_data
from onnxfit.twin.gradients import export_gradients
torch.set_num_threads(1)
twin = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 100))
for limit in (400, None):
    export_gradients(twin, open_data(sys.argv[1], limit=limit), sys.argv[2], batch_size=100)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in kibibytes there")
def test_many_samples_need_memory_for_a_batch(tmp_path: Path) -> None:
    """20,000 images of 3×32×32 need hardly more than 400; gradients alone are 246 MB."""
    x = np.zeros((20_000, 3, 32, 32), np.uint8)
    np.savez_compressed(tmp_path / "d.npz", x=x, y=np.zeros(len(x), np.int64))
    program = [sys.executable, "-c", MEMORY, str(tmp_path / "d.npz"), str(tmp_path / "g.npz")]
    ran = subprocess.run(program, capture_output=True, text=True, check=False)
    assert "" == ran.stderr
    few, many = map(int, ran.stdout.split())
    assert many - few < 30_000
    assert (20_000, 3, 32, 32) == np.load(tmp_path / "g.npz")["gradients"].shape


def test_normalisation_is_a_part_of_the_model(data: Dataset, output: Path) -> None:
    """(x − mean) / std along the channels; the gradient is by x, that is divided by std."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    twin = linear()
    export_gradients(Preprocessed(twin, mean, std), data, output, logit=1)
    row = twin[1].weight[1].detach().numpy().reshape(SHAPE)
    found = loaded(output)
    gradient = row / np.array(std, np.float32)[:, None, None]
    np.testing.assert_allclose(np.stack([gradient] * N), found["gradients"], rtol=1e-6)
    x, _ = samples(data)
    along = [np.array(v)[:, None, None] for v in (mean, std)]
    logits = twin(torch.from_numpy((x - along[0]) / along[1]).float()).detach()
    np.testing.assert_allclose(logits, found["logits"], rtol=1e-4, atol=1e-5)


def test_maps_are_named_by_index_label_and_prediction(data: Dataset, output: Path) -> None:
    """One PNG per sample, in a folder that is made; older maps give way."""
    library = pytest.importorskip("PIL.Image")
    maps = output.parent / "maps"
    for _ in range(2):
        export_gradients(linear(), data, output, batch_size=4, pictures=maps)
        found = loaded(output)
        names = [
            f"{index:05}-label{label}-predicted{prediction}.png"
            for index, (label, prediction) in enumerate(
                zip(found["labels"], found["logits"].argmax(axis=1), strict=True)
            )
        ]
        assert names == sorted(path.name for path in maps.iterdir())
        (maps / names[3]).rename(maps / "00003-label9-predicted9.png")
    (maps / "00003-label9-predicted9.png").rename(maps / names[3])
    x, _ = samples(data)
    for index, name in enumerate(names):
        expected = picture(x[index].astype(np.float32), found["gradients"][index])
        np.testing.assert_array_equal(expected, np.asarray(library.open(maps / name)))


@pytest.mark.parametrize(
    ("shape", "place", "message"),
    [
        ((2, 5, 6), "maps", NO_IMAGES.format("2×5×6")),
        ((5, 6), "maps", NO_IMAGES.format("5×6")),
        ((3, 5, 6), "d.npz", "d.npz is no folder"),
        ((3, 5, 6), "nowhere/maps", "the folder nowhere does not exist"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused_before_anything_is_written(
    shape: tuple[int, ...], place: str, message: str, tmp_path: Path, output: Path
) -> None:
    """In one sentence."""
    pytest.importorskip("PIL.Image")
    np.savez(tmp_path / "d.npz", x=np.zeros((2, *shape), np.uint8), y=[0, 1])
    data = open_data(tmp_path / "d.npz")
    with pytest.raises(DataError) as refused:
        export_gradients(torch.nn.Flatten(), data, output, pictures=tmp_path / place)
    assert message == str(refused.value).replace(f"{tmp_path}/", "")
    assert [] == list(output.parent.iterdir())
