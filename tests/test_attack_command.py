"""The verb ``attack``: one attack, replayed on the file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Command, document_of
from support import MODELS

import onnxfit
from onnxfit.cli_attack import ATTACKS, BACKWARDS

torch = pytest.importorskip("torch")

from onnxfit.attacks.catalogue import CATALOGUE  # noqa: E402
from onnxfit.twin import jump_relu  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"
FEW = ("--data", TEST, "--limit", "30")


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network at jump 0.5."""
    path = tmp_path_factory.mktemp("models") / "hard.onnx"
    onnx.save(onnxfit.retrofit(DIGITS, 0.5), path)
    return path


def test_help_names_what_there_is() -> None:
    """The choices, written out so that --help is quick, are those of the modules."""
    assert tuple(CATALOGUE) == ATTACKS
    assert {*jump_relu.BACKWARDS, "all"} == set(BACKWARDS)


CHEAP = {
    "apgd-t": ("--steps", "5"),
    "bim": (),
    "cw": ("--norm", "l2", "--steps", "60"),
    "fab-t": ("--steps", "5"),
    "hop-skip-jump": ("--norm", "l2", "--queries", "100"),
    "square": ("--queries", "50"),
    "transfer": ("--source", MODELS / "digits_cnn_pgd.onnx"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_runs(name: str, tmp_path: Path, onnxfit_command: Command) -> None:
    """What it writes is what it counts: the file is fooled by these inputs and no others."""
    out = tmp_path / "adv.npz"
    budget = ("--eps", "3" if name in ("cw", "hop-skip-jump") else "0.15")
    arguments = (DIGITS, *FEW, "--attack", name, *budget, *CHEAP.get(name, ()), "-o", out)
    document = document_of(onnxfit_command, "attack", *arguments)
    with np.load(out) as written, np.load(TEST) as data:
        found = dict(written)
        moved = (found["x"].astype(np.float64) - data["x"][:30]).reshape(30, -1)
    fooled = Target(DIGITS).predictions(found["x"]) != found["y"]
    clean = round(30 * document["clean"]["accuracy"])
    assert document["deployed_success"] == found["success"].sum()
    assert round(30 * document["robust_accuracy"]) == clean - found["success"].sum()
    np.testing.assert_array_equal(fooled[found["success"]], True)
    assert (fooled & ~found["success"]).sum() == 30 - clean
    sizes = np.abs(moved).max(1) if document["norm"] == "linf" else np.linalg.norm(moved, axis=1)
    np.testing.assert_allclose(sizes, found["distance"])
    assert sizes.max() <= document["eps"]
    assert found["success"].any() or name in ("noise", "transfer")


def test_a_hardened_model_is_attacked_with_every_backward(
    hardened: Path, onnxfit_command: Command
) -> None:
    """By default; the worst of them counts, and the native figure stands beside it."""
    document = document_of(
        onnxfit_command, "attack", hardened, *FEW, "--attack", "pgd", "--eps", "0.1"
    )
    backwards = [record["backward"] for record in document["attacks"]]
    expected = ["true", "relu", "smooth 0.05", "smooth 0.1", "smooth 0.2", "smooth 0.5"]
    assert expected == backwards
    assert document["robust_accuracy"] <= document["native"]["robust_accuracy"] - 0.1


def test_native_gradients_alone_are_labelled(hardened: Path, onnxfit_command: Command) -> None:
    """Who asks for them is told what they miss."""
    arguments = (hardened, *FEW, "--attack", "pgd", "--eps", "0.1", "--backward", "true")
    result = onnxfit_command("attack", *arguments)
    assert 0 == result.status
    assert result.err.startswith(
        "These are native gradients alone: they do not see across the jumps. --backward all finds"
    )
    assert "native gradients alone" in result.out


def test_a_minimal_attack_measures_distances(hardened: Path, onnxfit_command: Command) -> None:
    """Without eps every sample falls, and the perturbations are told."""
    document = document_of(
        onnxfit_command, "attack", hardened, *FEW, "--attack", "deepfool", "--norm", "l2"
    )
    assert 0 == document["robust_accuracy"]
    assert 0.5 < document["perturbation"]["median"] < 3
    assert ["true"] == [record["backward"] for record in document["attacks"]]


BAD = {
    "steps of one": (("--attack", "fgsm", "--steps", "5"), "the attack fgsm has no setting steps"),
    "no backward": (
        ("--attack", "noise", "--backward", "all"),
        "the attack noise has no setting backward",
    ),
    "setting": (("--attack", "fgsm", "--queries", "5"), "the attack fgsm has no setting queries"),
    "source": (("--attack", "transfer"), "--source goes with --attack transfer, which needs one."),
    "no transfer": (
        ("--attack", "pgd", "--source", DIGITS),
        "--source goes with --attack transfer, which needs one.",
    ),
    "norm": (("--attack", "cw", "--norm", "linf"), "expected a norm of l2, got 'linf'"),
    "resume": (("--attack", "pgd", "--resume"), "--resume needs the OUT of the interrupted run."),
    "eps": (("--attack", "pgd", "--eps", "0"), "Invalid value for '--eps': 0 is not above 0."),
    "unknown": (("--attack", "nothing"), "'nothing' is not one of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_usage(case: str, onnxfit_command: Command) -> None:
    """One sentence and status 2."""
    arguments, sentence = BAD[case]
    result = onnxfit_command("attack", DIGITS, *FEW, *arguments)
    assert 2 == result.status
    assert sentence in result.err


def test_an_output_is_not_overwritten(tmp_path: Path, onnxfit_command: Command) -> None:
    """Without --force an existing file stays."""
    out = tmp_path / "adv.npz"
    out.write_bytes(b"mine")
    result = onnxfit_command("attack", DIGITS, *FEW, "--attack", "fgsm", "-o", out)
    assert (2, "", f"Error: {out} exists; give --force to replace it\n") == result
    assert b"mine" == out.read_bytes()


def test_sources_of_another_shape_are_refused(tmp_path: Path, onnxfit_command: Command) -> None:
    """A transfer starts from models that take the same samples."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,64] x) => (float[N,64] y) '
        "{ y = Relu(x) }"
    )
    other = tmp_path / "other.onnx"
    onnx.save(onnx.parser.parse_model(text), other)
    result = onnxfit_command("attack", DIGITS, *FEW, "--attack", "transfer", "--source", other)
    sentence = f"{other} takes samples of another shape than the model"
    assert (2, "", f"Error: {sentence}\n") == result
