"""The verb ``attack``: one attack, replayed on the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Command, document_of
from support import MODELS, with_channels_last

import onnxfit
from onnxfit import cli_attack_transfer
from onnxfit.cli_attack import ATTACKS, BACKWARDS

torch = pytest.importorskip("torch")

from onnxfit.attacks.catalogue import CATALOGUE  # noqa: E402
from onnxfit.twin import jump_relu  # noqa: E402
from onnxfit.verification import transfer_source  # noqa: E402
from onnxfit.verification.progress import Advance, nobody  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

ROBUST = MODELS / "digits_cnn_pgd.onnx"
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
    "no source": (("--attack", "pgd", "--source-std", "1"), "--source-std goes with --source"),
    "means": (
        ("--attack", "transfer", "--source", DIGITS, "--source-mean", "0", "--source-mean", "1"),
        "--source-mean is given 2 times and --source 1: give it once, or as often.",
    ),
    "channels": (
        ("--attack", "transfer", "--source", DIGITS, "--source-mean", "0,1"),
        "--source-mean has 2 numbers; the samples have 1 channels, so give 1 or that many.",
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


def transferred(onnxfit_command: Command, *arguments: object) -> Any:
    """Run a transfer onto the digits network with an eps that fools many."""
    transfer = ("--attack", "transfer", "--eps", "0.15", "--source", *arguments)
    return onnxfit_command("attack", DIGITS, *FEW, *transfer)


def test_sources_of_another_shape_are_refused(tmp_path: Path, onnxfit_command: Command) -> None:
    """A transfer starts from models that take the same samples."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,64] x) => (float[N,64] y) '
        "{ y = Relu(x) }"
    )
    other = tmp_path / "other.onnx"
    onnx.save(onnx.parser.parse_model(text), other)
    result = transferred(onnxfit_command, other)
    sentence = (
        f"the source {other}'s input 'x' takes samples of shape 64; those of the data are 1×8×8"
    )
    assert (2, "", f"Error: {sentence}\n") == result


def test_sources_of_any_layout(tmp_path: Path, onnxfit_command: Command) -> None:
    """Open sizes take what fits, and a model with its channels last is given images turned."""
    model, turned = onnx.load(ROBUST), tmp_path / "turned.onnx"
    onnx.save(with_channels_last(model), turned)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    onnx.save(model, tmp_path / "open.onnx")
    found = []
    for path in (ROBUST, tmp_path / "open.onnx", turned):
        result = transferred(onnxfit_command, path, "--json")
        assert 0 == result.status
        found.append(json.loads(result.out))
        sentence = f"The source {path} takes images with their channels last: it is given"
        assert (path == turned) == (sentence in result.err)
        assert (path == turned) == found[-1]["sources"][0]["turned"]
    assert [found[0]["deployed_success"]] * 3 == [each["deployed_success"] for each in found]
    assert found[0]["deployed_success"] > 0


def normalised(mean: float, std: float) -> onnx.ModelProto:
    """Return the robust network as it takes samples less ``mean``, divided by ``std``."""
    model = onnx.load(ROBUST)
    (given,) = model.graph.input
    for name, value in (("mean", mean), ("std", std)):
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array([value], np.float32), name)
        )
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["widened", "mean"], [given.name]))
    model.graph.node.insert(0, onnx.helper.make_node("Mul", ["given", "std"], ["widened"]))
    given.name = "given"
    return model


def test_sources_have_their_own_normalisation(tmp_path: Path, onnxfit_command: Command) -> None:
    """Once for all or once for each, in order; by default the model's."""
    scaled = tmp_path / "scaled.onnx"
    onnx.save(normalised(0.5, 0.25), scaled)
    expected = json.loads(transferred(onnxfit_command, ROBUST, "--json").out)
    own = ("--source-mean", "0.5", "--source-std", "0.25", "--json")
    found = json.loads(transferred(onnxfit_command, scaled, *own).out)
    assert found["deployed_success"] == expected["deployed_success"] > 0
    assert ([0.5], [0.25]) == (found["sources"][0]["mean"], found["sources"][0]["std"])
    both = (ROBUST, "--source", scaled, "--source-mean", "0", "--source-mean", "0.5")
    each = ("--source-std", "1", "--source-std", "0.25", "--json")
    found = json.loads(transferred(onnxfit_command, *both, *each).out)
    assert expected["deployed_success"] == found["deployed_success"]
    assert [[0.0], [0.5]] == [source["mean"] for source in found["sources"]]
    assert [1.0, 1.0] == [source["clean"]["accuracy"] for source in found["sources"]]


def test_sources_that_know_nothing_are_told_of(tmp_path: Path, onnxfit_command: Command) -> None:
    """What their points do not do says nothing; how often they are right is printed."""
    model, path = onnx.load(ROBUST), tmp_path / "untrained.onnx"
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1:
            drawn = np.random.default_rng(0).normal(0, 0.1, values.shape).astype(values.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(drawn, tensor.name))
    onnx.save(model, path)
    result = transferred(onnxfit_command, path)
    assert 0 == result.status
    assert f"clean accuracy of {path}" in result.out
    assert "of 30 samples, which is not significantly better than chance" in result.err
    result = transferred(onnxfit_command, ROBUST)
    assert "" == result.err
    assert f"clean accuracy of {ROBUST}" in result.out


def test_hardened_sources_are_followed_with_every_backward(
    hardened: Path, onnxfit_command: Command
) -> None:
    """By default; who asks for native gradients alone is told so."""
    found = json.loads(transferred(onnxfit_command, hardened, "--json").out)
    smooth = [f"smooth {tau}" for tau in (0.05, 0.1, 0.2, 0.5)]
    assert ["true", "relu", *smooth] == [record["backward"] for record in found["attacks"]]
    result = transferred(onnxfit_command, hardened, "--backward", "true", "--json")
    assert f"Of the source {hardened}, which is hardened, the native gradient alone" in result.err
    assert json.loads(result.out)["deployed_success"] < found["deployed_success"]


def test_sources_are_scored_on_some_samples(
    onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed says on how many, and a bar shows how far it is."""
    begun: list[tuple[float, str]] = []

    @contextmanager
    def begin(total: float, what: str) -> Iterator[Advance]:
        begun.append((total, what))
        yield nobody

    assert "samples" not in transferred(onnxfit_command, ROBUST).out.rsplit("clean accuracy")[-1]
    monkeypatch.setattr(transfer_source, "MOST", 12)
    monkeypatch.setattr(cli_attack_transfer, "progress", begin)
    assert "of 12 samples\n" in transferred(onnxfit_command, ROBUST).out
    assert [(12, "clean accuracy of a source")] == begun


def test_sources_without_jumps_have_one_slope(hardened: Path, onnxfit_command: Command) -> None:
    """The others would make the same points; one hardened source is enough for all of them."""
    every = ("--backward", "all", "--json")
    found = json.loads(transferred(onnxfit_command, ROBUST, *every).out)
    assert ["true"] == [record["backward"] for record in found["attacks"]]
    found = json.loads(transferred(onnxfit_command, ROBUST, "--source", hardened, *every).out)
    assert 6 == len(found["attacks"])


def test_sources_of_other_classes_are_refused(tmp_path: Path, onnxfit_command: Command) -> None:
    """They would be others' numbers."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,8,8] x) => (float[N,64] y) '
        "{ y = Flatten(x) }"
    )
    other = tmp_path / "other.onnx"
    onnx.save(onnx.parser.parse_model(text), other)
    result = transferred(onnxfit_command, other)
    assert (2, "", f"Error: {other} tells 64 classes apart, the model 10\n") == result
