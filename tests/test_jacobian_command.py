"""The verb ``jacobian`` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Command, document_of
from support import MODELS

import onnxfit

torch = pytest.importorskip("torch")

from onnxfit import cli  # noqa: E402
from onnxfit.attacks import UniversalPerturbation  # noqa: E402
from onnxfit.cli_jacobian import BACKWARDS  # noqa: E402
from onnxfit.data import open_data, sha256_of  # noqa: E402
from onnxfit.jacobians.measure import measure  # noqa: E402
from onnxfit.jacobians.universal import reached  # noqa: E402
from onnxfit.json_values import finite  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"
FEW = ("--data", TEST, "--limit", "40", "--pairs", "60", "--eps", "0.1")


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network at jump 0.5."""
    path = tmp_path_factory.mktemp("models") / "hard.onnx"
    onnx.save(onnxfit.retrofit(DIGITS, 0.5), path)
    return path


def test_the_document(onnxfit_command: Command) -> None:
    """One, of the model's own slopes, with what was measured on what."""
    document = document_of(onnxfit_command, "jacobian", DIGITS, *FEW)
    assert [
        "schema_version",
        "model",
        "data",
        "eps",
        "norm",
        "seed",
        "classes",
        "dimensions",
        "versions",
        "jacobians",
    ] == list(document)
    assert 1 == document["schema_version"]
    assert (sha256_of(DIGITS), False) == tuple(document["model"][k] for k in ("sha256", "hardened"))
    data = document["data"]
    assert (str(TEST), sha256_of(TEST), 40) == (data["path"], data["sha256"], data["n"])
    assert (0.1, "linf", 10, 64) == tuple(
        document[key] for key in ("eps", "norm", "classes", "dimensions")
    )
    (found,) = document["jacobians"]
    measured = ["backward", "tau", "frobenius_norm", "spectral_norm", "stacked", "pairs"]
    assert [*measured, "universal"] == list(found)
    assert 40 == found["universal"]["samples"]
    quantiles = ["mean", "min", "p5", "p25", "median", "p75", "p95", "max", "undefined"]
    assert quantiles == list(found["frobenius_norm"]) == list(found["spectral_norm"])
    measures = [*quantiles, "spearman_with_joint_success"]
    assert measures == list(found["pairs"]["cosine"]) == list(found["pairs"]["spectral_ratio"])
    assert 60 == found["pairs"]["n"]


def test_the_page_names_every_key(onnxfit_command: Command) -> None:
    """docs/jacobian.md says what each key of the document holds."""
    page = (Path(__file__).parents[1] / "docs" / "jacobian.md").read_text()
    document = document_of(onnxfit_command, "jacobian", DIGITS, *FEW)
    (record,) = document["jacobians"]
    nested = [value for value in record.values() if isinstance(value, dict)]
    keys = [
        *document,
        *record,
        *(key for part in nested for key in part),
        *record["pairs"]["cosine"],
    ]
    assert [] == [key for key in keys if f"`{key}`" not in page]


def test_the_figures_are_those_of_the_module(onnxfit_command: Command) -> None:
    """The verdict on pairs is the file's."""
    arguments = (
        *FEW,
        "--eps",
        "1.5",
        "--norm",
        "l2",
        "--seed",
        "3",
        "--backward",
        "smooth",
        "--tau",
        "0.2",
    )
    (found,) = document_of(onnxfit_command, "jacobian", DIGITS, *arguments)["jacobians"]
    target = Target(DIGITS)
    expected = measure(
        target.twin,
        open_data(TEST, limit=40),
        eps=1.5,
        norm="l2",
        pairs=60,
        seed=3,
        backward="smooth",
        tau=0.2,
        classify=target.predictions,
    )
    universal = found.pop("universal")
    assert json.loads(json.dumps(finite(expected.document))) == found
    attack = UniversalPerturbation(
        eps=1.5, norm="l2", batch_size=64, seed=3, backward="smooth", tau=0.2
    )
    made = reached(attack, target.twin, target.deployed, open_data(TEST, limit=40))
    assert json.loads(json.dumps(made)) == universal
    assert 0 < found["pairs"]["both_fooled"] < found["pairs"]["both_correct"]
    assert ("smooth", 0.2, 1.5) == (found["backward"], found["tau"], found["stacked"]["l2_size"])


@pytest.mark.parametrize("backward", [(), ("--backward", "smooth")])
def test_a_hardened_model_is_measured_both_ways(
    backward: tuple[str, ...], hardened: Path, onnxfit_command: Command
) -> None:
    """Its own slopes understate the norms, and the reader is told."""
    result = onnxfit_command("jacobian", hardened, *FEW, *backward, "--json")
    assert 0 == result.status
    assert result.err.startswith("The model is hardened: its own slopes do not see the jumps")
    native, smooth = json.loads(result.out)["jacobians"]
    assert list(BACKWARDS) == [native["backward"], smooth["backward"]]
    for key in ("frobenius_norm", "spectral_norm"):
        assert 1.5 * native[key]["median"] < smooth[key]["median"]
    assert 1.5 * native["stacked"]["sigma_max"] < smooth["stacked"]["sigma_max"]


def test_tables_are_printed(hardened: Path, onnxfit_command: Command) -> None:
    """A line for each measure and slope, then a column for each slope."""
    result = onnxfit_command("jacobian", hardened, *FEW)
    assert 0 == result.status
    lines = [line.strip() for line in result.out.splitlines()]
    for what in ("Frobenius norm", "spectral norm", "cosine of a pair", "spectral ratio of a pair"):
        assert 1 == sum(line.startswith(what) and " true " in line for line in lines)
        assert 1 == sum(line.startswith(what) and " smooth 0.1 " in line for line in lines)
    (stacked,) = (line for line in lines if line.startswith("σ_max, stacked"))
    assert 2 == stacked.count("steps)")
    assert "all samples" in result.out
    assert "to first order: a large one can do more" in result.out


def test_the_eps_has_the_default_of_other_verbs(onnxfit_command: Command) -> None:
    """8/255, for linf an l2 size of √64 times that."""
    document = document_of(onnxfit_command, "jacobian", DIGITS, "--data", TEST, "--limit", "5")
    assert 8 / 255 == pytest.approx(document["eps"])
    stacked = document["jacobians"][0]["stacked"]
    assert 64 / 255 == pytest.approx(stacked["l2_size"])
    assert 10 == document["jacobians"][0]["pairs"]["n"]


def test_what_is_undefined_is_null(tmp_path: Path, onnxfit_command: Command) -> None:
    """Labels that the model never names: no pair is classified correctly."""
    data = tmp_path / "wrong.npz"
    with np.load(TEST) as right:
        classes = Target(DIGITS).predictions(right["x"][:6])
        np.savez(data, x=right["x"][:6], y=(classes + 1) % 10)
    (found,) = document_of(onnxfit_command, "jacobian", DIGITS, "--data", data)["jacobians"]
    pairs = found["pairs"]
    assert (15, 0, None) == (pairs["n"], pairs["both_correct"], pairs["joint_success"])
    assert pairs["cosine"]["spearman_with_joint_success"] is None
    result = onnxfit_command("jacobian", DIGITS, "--data", data)
    assert 0 == result.status
    assert "none is classified correctly" in result.out
    assert "undefined" in result.out


def test_a_softmax_at_the_end_is_left_out(tmp_path: Path, onnxfit_command: Command) -> None:
    """The Jacobians are those of the logits, and the reader is told."""
    model = onnx.load(DIGITS)
    (output,) = model.graph.output
    node = onnx.helper.make_node("Softmax", [output.name], ["probabilities"], axis=1)
    model.graph.node.append(node)
    output.name = "probabilities"
    path = tmp_path / "softmax.onnx"
    onnx.save(model, path)
    result = onnxfit_command("jacobian", path, *FEW, "--json")
    assert 0 == result.status, result.err
    message = "The model ends in a Softmax: the Jacobians are those of the logits before it.\n"
    assert message == result.err
    found = json.loads(result.out)["jacobians"]
    (expected,) = document_of(onnxfit_command, "jacobian", DIGITS, *FEW)["jacobians"]
    assert expected["stacked"] == found[0]["stacked"]


def test_the_verb_is_listed(onnxfit_command: Command) -> None:
    """In the help, with its own."""
    assert "  jacobian " in onnxfit_command("--help").out
    result = onnxfit_command("jacobian", "--help")
    assert 0 == result.status
    assert "of a hardened model always both" in " ".join(result.out.split())
    assert "jacobian" in cli.main.commands


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "no data": ((), "Missing option '--data'"),
    "no such data": (("--data", "nowhere.npz"), "nowhere.npz"),
    "eps": ((*FEW, "--eps", "0"), "Invalid value for '--eps': 0 is not above 0."),
    "tau": ((*FEW, "--tau", "0"), "Invalid value for '--tau': 0 is not above 0."),
    "pairs": ((*FEW, "--pairs", "0"), "Invalid value for '--pairs': 0 is not in the range x>=1."),
    "norm": ((*FEW, "--norm", "l1"), "'l1' is not one of 'linf', 'l2'"),
    "backward": ((*FEW, "--backward", "relu"), "'relu' is not one of 'true', 'smooth'"),
    "one sample": ((*FEW, "--limit", "1"), "has a single sample, of which there are no pairs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_usage(case: str, onnxfit_command: Command) -> None:
    """One sentence and status 2."""
    arguments, sentence = BAD[case]
    result = onnxfit_command("jacobian", DIGITS, *arguments)
    assert (2, "") == (result.status, result.out)
    assert sentence in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("shape", "label", "message"),
    [
        ((6, 1, 9, 9), 0, "takes samples of shape 1×8×8; those of the data are 1×9×9"),
        ((6, 1, 8, 8), 10, "the label of sample 0 is 10, but the model has 10 classes"),
    ],
)
def test_data_that_does_not_fit(
    shape: tuple[int, ...], label: int, message: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """The reason in a sentence."""
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros(shape, np.float32), y=np.full(shape[0], label))
    result = onnxfit_command("jacobian", DIGITS, "--data", path)
    assert (2, "") == (result.status, result.out)
    assert message in result.err
