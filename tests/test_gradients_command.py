"""The verb ``gradients``: what it writes, what it says, what it refuses."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from command import Command
from numpy.typing import NDArray
from support import MODELS, parse

import onnxfit
from onnxfit.cli_options import DataOptions, data_options

torch = pytest.importorskip("torch")

from onnxfit.twin.module import to_torch  # noqa: E402

DIGITS = MODELS / "digits_cnn.onnx"
TEST = MODELS / "digits_test.npz"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Name a file in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "grads.npz"


def loaded(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file."""
    with np.load(path) as arrays:
        return dict(arrays)


def digits(path: Path, jump: float) -> Any:
    """Rebuild the network in models/ from its definition and its weights, in double precision."""
    sys.path.insert(0, str(MODELS))
    try:
        from networks import DigitsCNN
    finally:
        sys.path.remove(str(MODELS))
    network = DigitsCNN().double().eval()
    weights = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load(path).graph.initializer
    }
    network.load_state_dict(weights, strict=False)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, torch.nn.Threshold(jump, 0.0))
    return network


@pytest.mark.parametrize("jump", [None, 0.1])
@pytest.mark.parametrize("logit", [None, 7])
def test_the_gradients_of_a_trained_network(
    jump: float | None, logit: int | None, output: Path, onnxfit_command: Command
) -> None:
    """Plain and hardened, they are those of the network that was trained, as autograd has them."""
    model = DIGITS
    if jump is not None:
        model = output.with_name("hard.onnx")
        onnxfit.save(onnxfit.retrofit(DIGITS, jump), model)
    options = [] if logit is None else ["--logit", logit]
    ran = onnxfit_command("gradients", model, "--data", TEST, "-o", output, *options)
    assert (0, "") == (ran.status, ran.err)
    network = digits(model, jump or 0.0)
    with np.load(TEST) as test:
        x, y = torch.from_numpy(test["x"]).double().requires_grad_(), torch.from_numpy(test["y"])
    logits = network(x)
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    (losses if logit is None else logits[:, logit]).sum().backward()
    found = loaded(output)
    # Where a value lies within rounding of its jump, either side is right.
    near = np.abs(found["logits"] - logits.detach().numpy()).max(axis=1) < 1e-3
    assert near.mean() > 0.99
    gradients = x.grad.numpy()[near]
    np.testing.assert_allclose(
        gradients, found["gradients"][near], rtol=0, atol=1e-3 * float(np.abs(gradients).max())
    )
    np.testing.assert_allclose(
        losses.detach().numpy()[near], found["losses"][near], rtol=1e-3, atol=1e-3
    )
    np.testing.assert_array_equal(y, found["labels"])


def test_the_command_says_what_it_wrote(output: Path, onnxfit_command: Command) -> None:
    """How many gradients of what, how accurate the twin is, where they are."""
    arguments = ("gradients", DIGITS, "--data", TEST, "--limit", 20, "-o", output)
    assert (
        0,
        f"20 gradients of the loss; the twin's accuracy is 100.00%\nwrote {output}\n",
        "",
    ) == onnxfit_command(*arguments)
    pytest.importorskip("PIL.Image")
    maps = output.parent / "maps"
    ran = onnxfit_command(*arguments, "--logit", 3, "--saliency", maps, "--force")
    assert (
        0,
        "20 gradients of logit 3; the twin's accuracy is 100.00%\n"
        f"wrote {output}\nwrote 20 saliency maps to {maps}\n",
        "",
    ) == ran
    assert 20 == len(list(maps.iterdir()))


def test_the_json_of_the_command(output: Path, onnxfit_command: Command) -> None:
    """One document: what was computed from what, with hashes."""
    bounds = ("--bounds", "-1,1", "--mean", "1/2", "--std", "0.25")
    options = ("--limit", 20, "--seed", 7, "--logit", 1, *bounds)
    arguments = ("gradients", DIGITS, "--data", TEST, "-o", output, *options, "--json")
    ran = onnxfit_command(*arguments)
    document = json.loads(ran.out)
    assert "" == ran.err
    accuracy = document.pop("accuracy")
    assert 0 <= accuracy <= 1
    assert {
        "model": {"path": str(DIGITS), "sha256": hashlib.sha256(DIGITS.read_bytes()).hexdigest()},
        "data": {
            "path": str(TEST),
            "sha256": hashlib.sha256(TEST.read_bytes()).hexdigest(),
            "n": 20,
            "bounds": [-1.0, 1.0],
            "mean": [0.5],
            "std": [0.25],
        },
        "seed": 7,
        "logit": 1,
        "path": str(output),
        "saliency": None,
        "classes": 10,
        "zero": 0,
        "not_finite": 0,
    } == document


def test_an_existing_output_is_replaced_only_by_force(
    output: Path, onnxfit_command: Command
) -> None:
    """The file, and all maps, those of an older and longer run too; other pictures stay."""
    pytest.importorskip("PIL.Image")
    arguments = ("gradients", DIGITS, "--data", TEST, "--limit", 3, "-o", output)
    maps = output.parent / "maps"
    maps.mkdir()
    (maps / "mine.png").write_bytes(b"mine")
    assert 0 == onnxfit_command(*arguments, "--saliency", maps).status
    before = {path: path.read_bytes() for path in output.parent.rglob("*") if path.is_file()}
    assert 5 == len(before)
    ran = onnxfit_command(*arguments)
    assert (2, "", f"Error: {output} exists; give --force to replace it\n") == ran
    ran = onnxfit_command(*arguments[:-1], output.with_name("b.npz"), "--saliency", maps)
    first = min(path for path in before if path.name.startswith("00000"))
    assert (
        2,
        "",
        f"Error: {first} exists; give --force to replace the maps in {maps}\n",
    ) == ran
    assert before == {p: p.read_bytes() for p in output.parent.rglob("*") if p.is_file()}
    (maps / "00003-label0-predicted0.png").write_bytes(b"of another sample")
    assert 0 == onnxfit_command(*arguments, "--saliency", maps, "--force").status
    assert before.keys() == {p for p in output.parent.rglob("*") if p.is_file()}


def test_a_folder_of_images_takes_the_channels_of_the_model(
    tmp_path: Path, output: Path, onnxfit_command: Command
) -> None:
    """Coloured images are made grey for a model of grey ones."""
    library = pytest.importorskip("PIL.Image")
    for label in range(3):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        pixels = np.full((8, 8, 3), 40 * label, np.uint8)
        library.fromarray(pixels).save(tmp_path / "images" / str(label) / "a.png")
    ran = onnxfit_command("gradients", DIGITS, "--data", tmp_path / "images", "-o", output)
    assert (0, "") == (ran.status, ran.err)
    assert (3, 1, 8, 8) == loaded(output)["gradients"].shape


def small(path: Path, samples: str = "float[N, 3] x", nodes: str = "y = MatMul(x, w)") -> Path:
    """Write a model of one input and two logits."""
    text = (
        f'<ir_version: 8, opset_import: ["": 17]> g ({samples}) => (float[N, 2] y) '
        f"<float[3, 2] w = {{1, 2, 3, 4, 5, 6}}> {{ {nodes} }}"
    )
    onnx.save(parse(text), path)
    return path


def refused_commands(folder: Path) -> dict[str, list[object]]:
    """Write models and data, and list the commands that must be refused, by their sentence."""
    x = np.full((4, 3), 0.5, np.float32)
    np.savez(folder / "d.npz", x=x, y=[0, 1, 1, 0])
    np.savez(folder / "nan.npz", x=np.where(np.eye(4, 3), np.nan, x), y=[0, 1, 1, 0])
    np.savez(folder / "label.npz", x=x, y=[0, 1, 2, 0])
    np.savez(folder / "wide.npz", x=np.zeros((4, 5), np.uint8), y=[0, 1, 1, 0])
    (folder / "old.npz").write_bytes(b"old")
    (folder / "bad.onnx").write_bytes(b"text")
    good = small(folder / "m.onnx")
    two = small(folder / "two.onnx", "float[N, 3] x, float[N, 3] z")
    cast = "z = Cast<to = 1>(x) y = MatMul(z, w)"
    whole = small(folder / "whole.onnx", "int64[N, 3] x", cast)
    steps = "i = Cast<to = 7>(x) z = Cast<to = 1>(i) y = MatMul(z, w)"
    cut = small(folder / "cut.onnx", nodes=steps)

    def command(model: Path = good, data: str = "d.npz", *options: object) -> list[object]:
        return ["gradients", model, "--data", folder / data, "-o", folder / "o.npz", *options]

    return {
        "Missing option '--data'.": ["gradients", good, "-o", folder / "o.npz"],
        "Missing option '-o' / '--output'.": ["gradients", good, "--data", folder / "d.npz"],
        "nowhere.onnx does not exist": command(folder / "nowhere.onnx"),
        "bad.onnx is not an ONNX file: it is a text file": command(folder / "bad.onnx"),
        "a classifier has one input, the model has 2: 'x', 'z'": command(two),
        "the input 'x' of the model is int64; gradients need a floating-point one": command(whole),
        "no gradient reaches the model's input: its logits do not depend on it": command(cut),
        "nowhere.npz cannot be read: No such file or directory": command(data="nowhere.npz"),
        "nan.npz: sample 0 has 1 of 3 values that are not within 0 and 1, such as nan": command(
            data="nan.npz"
        ),
        "d.npz: sample 0 has 3 of 3 values that are not within 0 and 0.25, such as 0.5": command(
            good, "d.npz", "--bounds", "0,1/4"
        ),
        "label.npz: the label of sample 2 is 2, but the model has 2 classes, 0 to 1": command(
            data="label.npz"
        ),
        "the model's input 'x' takes samples of shape 3; those of the data are 5": command(
            data="wide.npz"
        ),
        "the model has 2 logits, 0 to 1, but no logit 2": command(good, "d.npz", "--logit", 2),
        "Invalid value for '--limit': 0 is not in the range x>=1.": command(
            good, "d.npz", "--limit", 0
        ),
        "Invalid value for '--bounds': '1,0' is not two numbers, the smaller one first.": command(
            good, "d.npz", "--bounds", "1,0"
        ),
        "Invalid value for '--bounds': '1' is not two numbers, the smaller one first.": command(
            good, "d.npz", "--bounds", "1"
        ),
        "Invalid value for '--bounds': inf is not a finite number.": command(
            good, "d.npz", "--bounds", "0,inf"
        ),
        "Invalid value for '--mean': 'a' is not a number.": command(good, "d.npz", "--mean", "a"),
        "Invalid value for '--std': '1,0' holds a number that is not above 0.": command(
            good, "d.npz", "--std", "1,0"
        ),
        "--mean has 2 numbers; the samples have 3 channels, so give 1 or that many.": command(
            good, "d.npz", "--mean", "0,1"
        ),
        "old.npz exists; give --force to replace it": [*command(), "-o", folder / "old.npz"],
        "the output d.npz is the input": [*command(), "-o", folder / "d.npz", "--force"],
        "the output m.onnx is the input": [*command(), "-o", good, "--force"],
        "the folder nowhere does not exist": [*command(), "-o", folder / "nowhere" / "o.npz"],
        "sub is a directory": [*command(), "-o", folder / "sub"],
        "saliency maps are for images, C×H×W or H×W×C, of 1 or 3 channels; the samples of d.npz "
        "are 3": command(good, "d.npz", "--saliency", folder / "maps"),
    }


def test_bad_input_is_status_2_with_one_sentence_and_nothing_written(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """No traceback, nothing on stdout, no file touched."""
    pytest.importorskip("PIL.Image")
    (tmp_path / "sub").mkdir()
    commands = refused_commands(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for message, arguments in commands.items():
        ran = onnxfit_command(*arguments)
        error = ran.err.splitlines()[-1].replace(f"{tmp_path}/", "")
        assert (2, "", f"Error: {message}") == (ran.status, ran.out, error)
        after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert before == after, message
        assert ["sub"] == [path.name for path in tmp_path.iterdir() if path.is_dir()]


def test_no_force_destroys_what_is_read(tmp_path: Path, onnxfit_command: Command) -> None:
    """External data, the labels of IDX images and whole folders of images, by any name."""
    library = pytest.importorskip("PIL.Image")
    plain = onnx.load(DIGITS)
    onnx.save(plain, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin")
    images, labels = tmp_path / "t-images-idx3-ubyte", tmp_path / "t-labels-idx1-ubyte"
    images.write_bytes(bytes([0, 0, 8, 3, *(0, 0, 0, 1), *(0, 0, 0, 8) * 2]) + bytes(64))
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 0]))
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    library.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "a" / "1.png")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "other").hardlink_to(labels)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    out = tmp_path / "o.npz"
    inside = "{} lies in the folder of the data, {}"
    cases: list[tuple[Path, tuple[Any, ...], str]] = [
        (images, ("-o", tmp_path / "m.bin"), f"the output {tmp_path}/m.bin is the input"),
        (
            images,
            ("-o", tmp_path / "other"),
            f"the output {tmp_path}/other is the input {labels}",
        ),
        (images, ("-o", labels), f"the output {labels} is the input"),
        (
            folder,
            ("-o", folder / "a" / "1.png"),
            f"the output {folder}/a/1.png is the input",
        ),
        (folder, ("-o", folder / "o.npz"), inside.format(folder / "o.npz", folder)),
        (
            tmp_path / "link",
            ("-o", folder / "a" / "o.npz"),
            inside.format(folder / "a" / "o.npz", tmp_path / "link"),
        ),
        (folder, ("-o", out, "--saliency", folder), inside.format(folder, folder)),
        (
            folder,
            ("-o", out, "--saliency", folder / "b"),
            inside.format(folder / "b", folder),
        ),
    ]
    for data, options, message in cases:
        ran = onnxfit_command("gradients", tmp_path / "m.onnx", "--data", data, *options, "--force")
        assert (2, "", f"Error: {message}\n") == ran
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_a_model_that_mixes_samples_is_status_3(
    tmp_path: Path, output: Path, onnxfit_command: Command
) -> None:
    """Its gradients would depend on the batch size."""
    nodes = "z = MatMul(x, w) m = ReduceMean<axes = [0], keepdims = 1>(z) y = Sub(z, m)"
    model = small(tmp_path / "m.onnx", nodes=nodes)
    x = np.random.default_rng(0).uniform(size=(5, 3))
    np.savez(tmp_path / "d.npz", x=x, y=[0, 1, 0, 1, 0])
    ran = onnxfit_command("gradients", model, "--data", tmp_path / "d.npz", "-o", output)
    assert (
        3,
        "",
        "Error: the model mixes the samples of a batch: alone they have other logits than in a "
        "batch of 5, so that gradients would depend on the batch size\n",
    ) == ran
    assert [] == list(output.parent.iterdir())


def test_a_twin_that_disagrees_with_the_file_is_status_3(
    output: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradients would say nothing about the file."""

    def changed(*arguments: Any) -> Any:
        twin = to_torch(*arguments)
        with torch.no_grad():
            twin.output.bias[0] += 100
        return twin

    monkeypatch.setattr("onnxfit.twin.classifier.to_torch", changed)
    ran = onnxfit_command("gradients", DIGITS, "--data", TEST, "-o", output)
    assert (3, "") == (ran.status, ran.out)
    assert ran.err.startswith("Error: the twin and ONNX Runtime disagree: ")
    assert [] == list(output.parent.iterdir())


@pytest.mark.parametrize(
    ("package", "options", "message"),
    [
        ("torch", (), "this needs PyTorch: pip install 'onnxfit[twin]'"),
        ("PIL.Image", ("--saliency", "maps"), "images need Pillow: pip install 'onnxfit[twin]'"),
    ],
)
def test_a_missing_package_is_status_3(
    package: str,
    options: tuple[str, ...],
    message: str,
    output: Path,
    onnxfit_command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sentence says how to install it."""
    monkeypatch.chdir(output.parent)
    monkeypatch.setitem(sys.modules, package, None)
    ran = onnxfit_command("gradients", DIGITS, "--data", TEST, "-o", output, *options)
    assert (3, "", f"Error: {message}\n") == ran
    assert [] == list(output.parent.iterdir())


@pytest.mark.parametrize("operator", ["Softmax", "Sigmoid"])
def test_probabilities_at_the_end_are_worth_a_word(
    operator: str, tmp_path: Path, output: Path, onnxfit_command: Command
) -> None:
    """On stderr; the gradients are written all the same, for a file of one sample too."""
    nodes = "s = Constant<value_ints = [1, 3]>() r = Reshape(x, s) z = MatMul(r, w) "
    nodes += f"p = {operator}(z) y = Identity(p)"
    model = small(tmp_path / "m.onnx", "float[1, 3] x", nodes)
    x = np.random.default_rng(0).uniform(size=(5, 3))
    np.savez(tmp_path / "d.npz", x=x, y=[0, 1, 0, 1, 0])
    ran = onnxfit_command("gradients", model, "--data", tmp_path / "d.npz", "-o", output)
    assert (
        0,
        f"The model ends in {operator}: its probabilities are taken as logits, so that losses and "
        "gradients are not those of the logits before it.\n",
    ) == (ran.status, ran.err)
    weight = np.array([[1, 2], [3, 4], [5, 6]])
    odds = np.exp(x @ weight)
    expected = odds / (odds.sum(axis=1, keepdims=True) if operator == "Softmax" else 1 + odds)
    np.testing.assert_allclose(expected, loaded(output)["logits"], rtol=1e-5)


def test_the_options_of_data_take_fractions_and_lists() -> None:
    """They reach the verb as one argument."""
    found: list[DataOptions] = []

    @click.command()
    @data_options
    def verb(data: DataOptions) -> None:
        found.append(data)

    arguments = ["--data", "d.npz", "--bounds", "-1,255/2", "--mean", "1/2, 0,-3", "--std", "2"]
    verb(arguments, standalone_mode=False)
    assert [
        DataOptions(
            path=Path("d.npz"),
            limit=None,
            seed=0,
            batch_size=64,
            bounds=(-1.0, 127.5),
            mean=(0.5, 0.0, -3.0),
            std=(2.0,),
        )
    ] == found


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_run_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM cleans up as Ctrl-C does, and is status 143."""
    pytest.importorskip("PIL.Image")
    out = tmp_path / "out"
    out.mkdir()
    x = np.zeros((200_000, 1, 8, 8), np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(len(x), np.int64))
    data = ("--data", tmp_path / "d.npz", "--saliency", out / "maps", "-o", out / "g.npz")
    command = [sys.executable, "-m", "onnxfit", "gradients", *map(str, (DIGITS, *data))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    started = time.monotonic()
    while not list(out.rglob("*.png")):
        assert process.poll() is None
        assert time.monotonic() - started < 100
        time.sleep(0.05)
    process.terminate()
    assert "Terminated.\n" == process.communicate(timeout=60)[1]
    assert 143 == process.returncode
    assert [] == list(out.iterdir())
