"""The networks of the JumpReLU paper in models/, and the script that trains them."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from test_datasets import cifar10_files, write_cifar10, write_mnist

torch = pytest.importorskip("torch")

MODELS = Path(__file__).parents[1] / "models"
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
# The Relu nodes of each architecture, wideresnet with a depth of 16.
RELU = {"lenet": 4, "alexnet": 6, "resnet20": 19, "mobilenetv2": 35, "wideresnet": 13}
# Widths and epochs that train in seconds, and the accuracy that they reach at least. MobileNetV2,
# three times as deep as the others, has not begun to learn by then.
QUICK = {
    "lenet": ("1", "3", 0.5),
    "alexnet": ("0.25", "3", 0.5),
    "resnet20": ("0.25", "2", 0.3),
    "mobilenetv2": ("0.25", "1", 0.0),
    "wideresnet": ("0.5", "2", 0.3),
}
ATTACKED = 25

Train = Callable[..., Result]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import the modules in models/ by their names."""
    monkeypatch.syspath_prepend(MODELS)
    return importlib.import_module


@pytest.fixture
def train(modules: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """Run models/train.py in this process, and attack few images to measure robustness."""
    monkeypatch.setattr(modules("training"), "ATTACKED", ATTACKED)
    monkeypatch.setattr(modules("training"), "CHUNK", 200)
    monkeypatch.setattr(modules("training"), "RESTARTS", 1)
    monkeypatch.delenv("ONNXFIT_DATA", raising=False)
    main, threads = modules("train").main, torch.get_num_threads()
    yield lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def facts(path: Path) -> dict[str, str]:
    """Return the metadata of a model."""
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("architecture", RELU)
def test_every_architecture_takes_every_image(
    architecture: str, shape: tuple[int, int, int], modules: Callable[[str], Any]
) -> None:
    """As ONNX it computes what torch does, and each activation carries its own name."""
    torch.manual_seed(0)
    network = modules("paper_networks").ARCHITECTURES[architecture](shape, 0.25)
    images = torch.rand(3, *shape)
    network(images)  # Moves the statistics of the batch normalisation away from 0 and 1.
    network.eval()
    model = modules("training").export(network, images[:1])
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    assert (3, 10) == logits.shape
    with torch.no_grad():
        np.testing.assert_allclose(network(images).numpy(), logits, rtol=1e-3, atol=1e-4)
    written = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    assert RELU[architecture] == len(set(written))
    assert all(re.search(r"relu\d?/Relu_output_0$", name) for name in written)


@pytest.mark.parametrize(
    ("architecture", "shape", "sizes"),
    [
        ("lenet", (1, 28, 28), [320, 120, 90]),
        ("alexnet", (3, 32, 32), [3200, 256, 256]),
        ("lenet", (1, 8, 8), [80, 120, 90]),
        ("alexnet", (1, 8, 8), [512, 256, 256]),
        ("resnet20", (3, 32, 32), [64]),
        ("wideresnet", (3, 32, 32), [64]),
        ("mobilenetv2", (3, 32, 32), [1280]),
    ],
)
def test_dense_layers_have_the_sizes_of_the_papers(
    architecture: str,
    shape: tuple[int, int, int],
    sizes: list[int],
    modules: Callable[[str], Any],
) -> None:
    """At a width of 1; on 8x8 images they follow from convolutions that keep the size."""
    network = modules("paper_networks").ARCHITECTURES[architecture](shape)
    dense = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    assert sizes == [module.in_features for module in dense]


@pytest.mark.parametrize(("depth", "blocks"), [(10, 3), (16, 6), (34, 15)])
def test_wide_residual_networks_have_their_depth(
    depth: int, blocks: int, modules: Callable[[str], Any]
) -> None:
    """Layers are the 3x3 convolutions, the dense one, and the shortcut of each stage."""
    network = modules("paper_networks").wideresnet((3, 32, 32), 4, depth)
    assert blocks == len(network.blocks)
    weighted = (torch.nn.Conv2d, torch.nn.Linear)
    assert depth + 1 == sum(isinstance(module, weighted) for module in network.modules())
    assert 256 == network.output.in_features


@pytest.mark.parametrize("architecture", QUICK)
def test_training_on_digits(architecture: str, tmp_path: Path, train: Train) -> None:
    """It beats chance soon, says so in the file, and leaves nothing else behind."""
    width, epochs, least = QUICK[architecture]
    out = tmp_path / "network.onnx"
    options = ["--data", "digits", "--width", width, "--epochs", epochs, "--device", "cpu"]
    ran = train(architecture, *options, "--out", out)
    assert (0, "") == (ran.exit_code, ran.stderr)
    told = facts(out)
    assert least <= float(told["clean accuracy on test"])
    robust = [f"robust accuracy on the first {ATTACKED} of test at eps {e}" for e in (0.05, 0.1)]
    assert float(told[robust[0]]) >= float(told[robust[1]])
    given = f"--adversarial 0 --epochs {epochs} --width {width} --seed 0 --out network.onnx"
    expected = f"python models/train.py {architecture} --data digits {given}"
    assert expected == told["command"]
    assert f"epoch {epochs} of {epochs}: loss" in ran.stdout
    assert f"clean accuracy on test: {told['clean accuracy on test']}" in ran.stdout
    assert [out] == list(tmp_path.iterdir())


@pytest.mark.parametrize("architecture", ["lenet", "wideresnet"])
def test_the_same_seed_gives_the_same_bytes(
    architecture: str, tmp_path: Path, train: Train
) -> None:
    """With and without batch normalisation, adversarial examples and all; --force replaces."""
    out = tmp_path / "network.onnx"
    options = ["--width", "0.25", "--epochs", 1, "--adversarial", "0.1", "--device", "cpu"]
    contents = []
    for _ in range(2):
        train(architecture, "--data", "digits", *options, "--out", out, "--force")
        contents.append(out.read_bytes())
    assert contents[0] == contents[1]


def test_adversarial_training(tmp_path: Path, train: Train) -> None:
    """A network that was trained on PGD examples withstands PGD, where a plain one does not."""
    robust = []
    for eps in (0.15, 0):
        out = tmp_path / f"{eps}.onnx"
        train("lenet", "--data", "digits", "--adversarial", eps, "--epochs", 8, "--out", out)
        told = facts(out)
        assert f"--adversarial {eps}" in told["command"]
        robust.append(float(told[f"robust accuracy on the first {ATTACKED} of test at eps 0.15"]))
    assert robust[0] > robust[1] + 0.2


def test_the_script_is_a_program(tmp_path: Path) -> None:
    """It runs from its file, as models/README.md has it, and attacks every test image."""
    out = tmp_path / "network.onnx"
    write_mnist(tmp_path)
    options = ["--data", "mnist", "--folder", str(tmp_path), "--epochs", "1", "--out", str(out)]
    command = [sys.executable, str(MODELS / "train.py"), "lenet", *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert "robust accuracy on test at eps 0.1" in facts(out)


def test_another_seed_gives_another_network(tmp_path: Path, train: Train) -> None:
    """The seed reaches the weights, and stands in the file."""
    weights = []
    for seed in (0, 1):
        out = tmp_path / f"{seed}.onnx"
        train("lenet", "--data", "digits", "--epochs", 1, "--seed", seed, "--out", out)
        weights.append(onnx.numpy_helper.to_array(onnx.load(out).graph.initializer[0]))
        assert f"--seed {seed}" in facts(out)["command"]
    assert not np.array_equal(weights[0], weights[1])


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_networks_take_normalised_pixels(
    name: str, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's data is read, and the file's mean and std give the accuracy that it states."""
    if name == "mnist":
        expected = write_mnist(tmp_path)
    else:
        files, expected = cifar10_files("bin")
        write_cifar10(tmp_path, files, packed=False)
    monkeypatch.setenv("ONNXFIT_DATA", str(tmp_path))
    out = tmp_path / "network.onnx"
    ran = train("lenet", "--data", name, "--epochs", 2, "--device", "cpu", "--out", out)
    assert (0, "") == (ran.exit_code, ran.stderr)
    told = facts(out)
    assert f"onnxfit takes it with --mean {told['mean']} --std {told['std']}\n" in ran.stdout
    mean, std = (
        np.array(told[key].split(","), np.float32).reshape(-1, 1, 1) for key in ("mean", "std")
    )
    images, labels = expected["test"]
    pixels = images.reshape(-1, *SHAPES[name]).astype(np.float32) / 255
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": (pixels - mean) / std})
    accuracy = np.mean(logits.argmax(axis=1) == labels)
    assert f"{accuracy:.4f}" == told["clean accuracy on test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet", "--data", "digits", "--out", "{}/taken.onnx"], "--force replaces it"),
        (["lenet", "--data", "digits", "--out", "{}/none/a.onnx"], "none is not a folder"),
        (["lenet", "--data", "mnist", "--out", "{}/a.onnx"], "name it by --folder or ONNXFIT"),
        (["lenet", "--data", "mnist", "--folder", "{}", "--out", "{}/a.onnx"], "is missing"),
        (["lenet", "--data", "digits", "--depth", "16", "--out", "{}/a.onnx"], "for wideresnet"),
        (["wideresnet", "--data", "digits", "--depth", "12", "--out", "{}/a.onnx"], "got 12"),
        (["lenet", "--data", "digits", "--width", "nan", "--out", "{}/a.onnx"], "not a finite"),
        (["lenet", "--data", "digits", "--adversarial", "2", "--out", "{}/a.onnx"], "0<=x<=1"),
        (["vgg", "--data", "digits", "--out", "{}/a.onnx"], "is not one of 'lenet'"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], message: str, tmp_path: Path, train: Train
) -> None:
    """A sentence, status 2, and no file."""
    taken = tmp_path / "taken.onnx"
    taken.touch()
    ran = train(*(argument.format(tmp_path) for argument in arguments))
    assert (2, "") == (ran.exit_code, ran.stdout)
    error = ran.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert [taken] == list(tmp_path.iterdir())
    assert b"" == taken.read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_told(tmp_path: Path, train: Train) -> None:
    """A GPU that was asked for is not replaced by the CPU in silence."""
    ran = train("lenet", "--data", "digits", "--device", "cuda", "--out", tmp_path / "a.onnx")
    expected = "Error: torch sees no CUDA device; --device cpu trains without one\n"
    assert (2, expected) == (ran.exit_code, ran.stderr)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", QUICK)
def test_training_on_a_gpu(architecture: str, tmp_path: Path, train: Train) -> None:
    """It is chosen where there is one, and the file says so."""
    out = tmp_path / "network.onnx"
    options = ["--width", "0.5", "--epochs", 3, "--adversarial", "0.05"]
    ran = train(architecture, "--data", "digits", *options, "--out", out)
    assert (0, "") == (ran.exit_code, ran.stderr)
    assert "--device cuda" in facts(out)["command"]


def test_augmented_images_are_moved_and_mirrored(modules: Callable[[str], Any]) -> None:
    """Each is a window of the padded image or of its mirror image, and both occur."""
    torch.manual_seed(0)
    images = torch.rand(40, 3, 6, 5) + 1
    moved = modules("training").augmented(images)
    assert images.shape == moved.shape
    mirrored = []
    for image, result in zip(images, moved, strict=True):
        windows = [
            torch.nn.functional.pad(image.flip(2) if mirror else image, (4,) * 4)
            .unfold(1, 6, 1)
            .unfold(2, 5, 1)
            .permute(1, 2, 0, 3, 4)
            for mirror in (False, True)
        ]
        found = [bool((window == result).flatten(2).all(2).any()) for window in windows]
        assert any(found)
        mirrored.append(found[1])
    assert 5 < sum(mirrored) < 35


def test_pgd_stays_in_its_ball(modules: Callable[[str], Any]) -> None:
    """Within eps of the input and within the pixels' bounds, and the loss rises."""
    torch.manual_seed(0)
    training = modules("training")
    network = modules("paper_networks").lenet((1, 8, 8)).eval()
    images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    start = training.random_start(images, 0.1)
    found = training.pgd(network, start, images, labels, eps=0.1, steps=7, step_size=0.025)
    for points in (start, found):
        assert float((points - images).abs().max()) <= 0.1 + 1e-6
        assert float(points.min()) >= 0
        assert float(points.max()) <= 1
    with torch.no_grad():
        before, after = (
            torch.nn.functional.cross_entropy(network(points), labels) for points in (images, found)
        )
    assert float(before) < float(after)
