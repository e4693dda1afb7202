"""What models/README.md states about the networks and images in models/."""

import hashlib
import re
import runpy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

MODELS = Path(__file__).parents[1] / "models"
README = (MODELS / "README.md").read_text(encoding="utf-8")


def table(title: str) -> list[dict[str, str]]:
    """Return the rows of the README's table whose first column has this title."""
    found = re.search(rf"^\| {title} \|.*?\n(?!\|)", README, re.MULTILINE | re.DOTALL)
    assert found, f"models/README.md has no table that starts with {title!r}"
    lines = found[0].splitlines()
    header, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def images(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the arrays of models/digits_<name>.npz."""
    with np.load(MODELS / f"digits_{name}.npz") as arrays:
        return arrays["x"], arrays["y"]


def pixels(x: NDArray[np.float32]) -> list[bytes]:
    """Return something hashable per image, equal when all pixels are."""
    return [image.tobytes() for image in x]


FILES = table("File")
NETWORKS = table("Network")
# What each architecture has beside Conv, Gemm and Relu, and how many Relu.
OPERATORS = {
    "cnn": ({"Add", "BatchNormalization", "MaxPool"}, 6),
    "lenet": ({"MaxPool"}, 4),
    "alexnet": ({"MaxPool"}, 6),
    "resnet20": ({"Add", "BatchNormalization", "GlobalAveragePool"}, 19),
    "mobilenetv2": ({"Add", "BatchNormalization", "GlobalAveragePool"}, 35),
    "wideresnet": ({"Add", "BatchNormalization", "GlobalAveragePool"}, 7),
}
NAMES = {f"digits_{name}{mark}.onnx" for name in OPERATORS for mark in ("", "_pgd")}


@pytest.fixture(params=NETWORKS, ids=lambda row: row["Network"])
def network(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return a network's row of the README."""
    row: dict[str, str] = request.param
    return row


def metadata(network: dict[str, str]) -> dict[str, str]:
    """Return what the file of a network says about itself."""
    properties = onnx.load(MODELS / network["Network"]).metadata_props
    return {entry.key: entry.value for entry in properties}


def test_readme_lists_the_files() -> None:
    """All networks, plain and adversarially trained, and both sets of images are listed."""
    assert NAMES | {"digits_val.npz", "digits_test.npz"} == {row["File"] for row in FILES}
    assert NAMES == {row["Network"] for row in NETWORKS}


def test_the_files_stay_small() -> None:
    """A checkout needs little room for them."""
    assert 10_500_000 > sum((MODELS / row["File"]).stat().st_size for row in FILES)


@pytest.mark.parametrize("row", FILES, ids=lambda row: row["File"])
def test_files_have_the_stated_hash(row: dict[str, str]) -> None:
    """Every listed file has the SHA-256 given for it."""
    assert row["SHA-256"] == hashlib.sha256((MODELS / row["File"]).read_bytes()).hexdigest()


@pytest.mark.parametrize(("column", "name"), [("Validation", "val"), ("Test", "test")])
def test_clean_accuracy_is_reproduced(network: dict[str, str], column: str, name: str) -> None:
    """ONNX Runtime reaches the stated clean accuracy, to all stated digits."""
    x, y = images(name)
    session = onnxruntime.InferenceSession(
        MODELS / network["Network"], providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["logits"], {"image": x})
    assert network[column] == f"{100 * np.mean(logits.argmax(axis=1) == y):.2f} %"


@pytest.mark.parametrize("eps", ["0.05", "0.1", "0.15"])
def test_robust_accuracy_is_that_in_the_file(network: dict[str, str], eps: str) -> None:
    """The table has what the training script measured and wrote into the file."""
    measured = float(metadata(network)[f"robust accuracy on test at eps {eps}"])
    assert f"{100 * measured:.2f} %" == network[f"PGD eps {eps}"]


def test_adversarial_training_has_worked(network: dict[str, str]) -> None:
    """Every network is accurate; those trained on PGD examples, and only those, are robust."""
    assert float(network["Test"].rstrip(" %")) >= 96
    robust = float(network["PGD eps 0.1"].rstrip(" %")) >= 70
    assert robust == network["Network"].endswith("_pgd.onnx")


def test_networks_are_worth_hardening(network: dict[str, str]) -> None:
    """The graph is valid, with the operators and activations of its architecture, unfolded."""
    model = onnx.load(MODELS / network["Network"])
    onnx.checker.check_model(model, full_check=True)
    others, activations = OPERATORS[network["Network"].split("_")[1].removesuffix(".onnx")]
    operators = [node.op_type for node in model.graph.node]
    assert {"Conv", "Gemm", "Relu"} | others <= set(operators)
    assert activations == operators.count("Relu")


def test_networks_accept_any_batch_size(network: dict[str, str]) -> None:
    """The first dimension of input and output is a name, not a number."""
    graph = onnx.load(MODELS / network["Network"]).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"image": ["N", 1, 8, 8], "logits": ["N", 10]}


def test_training_command_is_in_the_file(network: dict[str, str]) -> None:
    """A network's metadata holds the command that the README gives for it."""
    command = metadata(network)["command"]
    assert command.endswith(f"--out models/{network['Network']}")
    assert f"\n{command}\n" in README


@pytest.mark.parametrize("name", ["val", "test"])
def test_images_come_from_scikit_learn(name: str) -> None:
    """Every image is one of load_digits, divided by 16, with the label it has there."""
    digits = load_digits()
    originals = pixels((digits.images / 16).astype(np.float32))
    labels = dict(zip(originals, digits.target, strict=True))
    x, y = images(name)
    assert (x.dtype.name, x.shape[1:], y.dtype.name) == ("float32", (1, 8, 8), "int64")
    assert [labels[image] for image in pixels(x)] == y.tolist()


def test_images_are_the_split_of_the_script() -> None:
    """The files hold what digits.py sets aside, and no image is in two of the three sets."""
    training, validation, test = runpy.run_path(str(MODELS / "digits.py"))["split"]()
    for expected, name in ((validation, "val"), (test, "test")):
        x, y = images(name)
        np.testing.assert_array_equal(expected.x, x)
        np.testing.assert_array_equal(expected.y, y)
    every = pixels(np.concatenate([training.x, images("val")[0], images("test")[0]]))
    assert len(every) == len(set(every)) == len(load_digits().target)
