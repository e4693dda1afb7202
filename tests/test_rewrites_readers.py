"""Rewritten files are ordinary hardened files to everything that reads one."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Command
from corpus import all_same_bits, run
from support import MODELS, parse, relu_model

import onnxfit
from onnxfit import rewrites
from onnxfit.record import provenance, record_calibration
from onnxfit.run_time_jumps import with_run_time_jumps

DIGITS = MODELS / "digits_cnn.onnx"
EVERY = {"add": 2}
TWO_FEATURES = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
<float[2,2] w = {1, 0, 0, 1}, float[2,2] v = {-4, 4, 0, 0}, float[2] c = {3, -3}> {
  a = MatMul(x, w) s = Add(a, x) h = Relu(s) t = MatMul(h, v) y = Add(t, c)
}
"""


@pytest.fixture(scope="module")
def hardened() -> onnx.ModelProto:
    """The digits network at jump 0.5."""
    return onnxfit.retrofit(DIGITS, 0.5)


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the same network, rewritten."""
    path = tmp_path_factory.mktemp("rewritten") / "digits.jump.onnx"
    onnxfit.save(onnxfit.retrofit(DIGITS, 0.5, optimize=rewrites.ALL), path)
    return path


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Images, N×1×8×8."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        return np.asarray(arrays["x"][:64], np.float32)


def test_the_verb_rewrites_and_says_so(tmp_path: Path, onnxfit_command: Command) -> None:
    """`retrofit --optimize` counts what it did, and the file has it."""
    output = tmp_path / "hard.onnx"
    arguments = ("retrofit", DIGITS, "--jump", "0.5", "-o", output)
    ran = onnxfit_command(*arguments, "--optimize")
    assert (0, "") == (ran.status, ran.err)
    assert f"6 sites, 6 hardened\nrewrites: maxpool 2\nwrote {output}\n" in ran.out
    ran = onnxfit_command(*arguments, "--rewrites", "add,concat", "--force")
    assert f"6 sites, 6 hardened\nrewrites: add 2\nwrote {output}\n" in ran.out
    assert 2 == sum(node.op_type == "AddJumpReLU" for node in onnx.load(output).graph.node)
    ran = onnxfit_command(*arguments, "--optimize", "--rewrites=add", "--force", "--json")
    assert EVERY == json.loads(ran.out)["provenance"]["rewrites"]
    for none in ((), ("--rewrites", ""), ("--optimize", "--rewrites", "")):
        ran = onnxfit_command(*arguments, *none, "--force")
        assert "rewrites:" not in ran.out
    ran = onnxfit_command(*arguments, "--rewrites", "all", "--force")
    assert 2 == ran.status
    assert "the rewrites are twice, add, maxpool, concat, got 'all'" in ran.err
    onnx.save(relu_model(), tmp_path / "relu.onnx")
    ran = onnxfit_command("retrofit", tmp_path / "relu.onnx", "--jump", "1", "--optimize")
    assert "rewrites: there was nothing to rewrite\n" in ran.out


def test_the_standard_lowering_cannot_be_rewritten(onnxfit_command: Command) -> None:
    """A mistake in the command, told as one."""
    ran = onnxfit_command(
        "retrofit", DIGITS, "--jump", "1", "--lowering", "standard", "--optimize", "--dry-run"
    )
    assert 2 == ran.status
    assert "optimize rewrites JumpReLU nodes; the standard lowering has none" in ran.err


def test_inspect_shows_the_sites_as_they_were(
    rewritten: Path, hardened: onnx.ModelProto, onnxfit_command: Command
) -> None:
    """Same names, jumps and reasons, and which rewrites applied."""
    found, plain = onnxfit.inspect(rewritten), onnxfit.inspect(hardened)
    assert (plain.sites, plain.unreplaced, plain.jumps) == (
        found.sites,
        found.unreplaced,
        found.jumps,
    )
    assert plain.provenance | {"rewrites": EVERY} == found.provenance
    assert plain.sites == tuple(onnxfit.find_sites(rewritten))
    assert "rewrites add" in onnxfit_command("inspect", rewritten).out


def test_restore_gives_back_the_source(
    rewritten: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Byte for byte, as from a file that was not rewritten."""
    output = tmp_path / "restored.onnx"
    ran = onnxfit_command("restore", rewritten, "-o", output)
    assert f"wrote {output} (byte for byte the source)\n" == ran.out
    assert DIGITS.read_bytes() == output.read_bytes()


def test_retrofitting_again_changes_jumps(rewritten: Path, hardened: onnx.ModelProto) -> None:
    """As of a file that was not rewritten; the new one is rewritten where that is asked for."""
    name = onnxfit.find_sites(hardened)[0].name
    expected = onnxfit.retrofit(hardened, jumps={name: 1.0})
    assert expected == onnxfit.retrofit(rewritten, jumps={name: 1.0})
    again = onnxfit.retrofit(rewritten, jumps={name: 1.0}, optimize=rewrites.ALL)
    assert expected != again
    assert expected == rewrites.unrewritten(again)


def test_jumps_may_become_inputs(rewritten: Path) -> None:
    """Of the network as it was."""
    assert with_run_time_jumps(DIGITS)[1] == with_run_time_jumps(rewritten)[1]


def test_a_calibration_can_be_recorded(rewritten: Path) -> None:
    """Beside the record of what was rewritten; restoring removes both."""
    model = onnxfit.load(rewritten)
    record_calibration(model, {"steps": 3})
    assert {"steps": 3} == provenance(model)["calibration"]
    assert EVERY == onnxfit.inspect(model).provenance["rewrites"]
    assert onnx.load(DIGITS) == onnxfit.restore(model)


def test_it_computes_the_same(
    rewritten: Path, hardened: onnx.ModelProto, digits: np.ndarray
) -> None:
    """In ONNX Runtime, with the library and without."""
    model, feeds = onnxfit.load(rewritten), [{"image": digits}]
    for library in (False, True):
        expected = run(hardened, feeds, library=library)
        assert all_same_bits(expected, run(model, feeds, library=library))


def test_its_external_data_stays_where_it_is(tmp_path: Path) -> None:
    """No weight is read: one that is missing is not missed."""
    model = onnx.load(DIGITS)
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    source = onnxfit.load(tmp_path / "m.onnx")
    (tmp_path / "w.bin").unlink()
    hard = onnxfit.retrofit(source, 0.5, optimize=rewrites.ALL)
    assert EVERY == onnxfit.inspect(hard).provenance["rewrites"]
    assert source == onnxfit.restore(hard)


def test_the_twin_is_that_of_the_network_as_it_was(
    rewritten: Path, hardened: onnx.ModelProto, digits: np.ndarray
) -> None:
    """The same module computes the same, agrees with the file, and is written back into it."""
    torch = pytest.importorskip("torch")
    twin, expected = onnxfit.to_torch(rewritten), onnxfit.to_torch(hardened)
    assert str(expected) == str(twin)
    x = torch.from_numpy(digits)
    assert torch.equal(expected(x), twin(x))
    assert onnxfit.parity(rewritten, twin, digits).agrees
    assert onnx.load(rewritten) == onnxfit.write_back(rewritten, twin)


def test_a_twin_that_differs_is_told_by_a_value_of_the_network_as_it_was(
    rewritten: Path, digits: np.ndarray
) -> None:
    """The search for the first difference does not see what rewrites made."""
    torch = pytest.importorskip("torch")
    twin, plain = onnxfit.to_torch(rewritten), onnxfit.to_torch(DIGITS)
    for module in (twin, plain):
        with torch.no_grad():
            next(iter(module.parameters())).mul_(-1)
    found = onnxfit.parity(rewritten, twin, digits)
    assert not found.agrees
    assert onnxfit.parity(DIGITS, plain, digits).first_difference == found.first_difference


def test_a_softmax_behind_it_is_taken_off(rewritten: Path, digits: np.ndarray) -> None:
    """A rewritten classifier that ends in probabilities is attacked by its logits."""
    torch = pytest.importorskip("torch")
    from onnxfit.twin.classifier import Classifier

    model = onnx.load(DIGITS)
    logits = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Softmax", [logits], ["probabilities"]))
    model.graph.output[0].name = "probabilities"
    hard = onnxfit.retrofit(model, 0.5, optimize=rewrites.ALL)
    classifier = Classifier(hard, before_probabilities=True)
    assert classifier.probabilities == "Softmax"
    x = torch.from_numpy(digits)
    assert torch.equal(onnxfit.to_torch(rewritten)(x), classifier.twin(x))


def test_it_is_a_target_as_it_was(rewritten: Path) -> None:
    """Its sites, its jumps, and what it was made of."""
    pytest.importorskip("torch")
    from onnxfit.verification.target import Target

    target = Target(rewritten)
    assert target.is_hardened
    assert [0.5] * 6 == list(target.jumps.values())
    assert target.record()["sites"] == 6
    assert onnx.load(DIGITS) == target.unhardened().model
    assert target.was_made_of(Target(DIGITS))


def test_it_can_be_verified(tmp_path: Path, onnxfit_command: Command) -> None:
    """As a file that was not rewritten, against what it was before it was hardened."""
    pytest.importorskip("torch")
    pytest.importorskip("jinja2")
    source = parse(TWO_FEATURES)
    onnxfit.save(onnxfit.retrofit(source, 0.1, optimize=rewrites.ALL), tmp_path / "hard.onnx")
    assert ["MatMul", "AddJumpReLU", "MatMul", "Add"] == [
        node.op_type for node in onnx.load(tmp_path / "hard.onnx").graph.node
    ]
    y = np.arange(20) % 2
    x = np.stack([0.2 + 0.6 * y, np.full(20, 0.5)], 1).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    options = ("--data", tmp_path / "d.npz", "--suite", "quick", "--steps", "2", "--eps", "0.05")
    ran = onnxfit_command("verify", tmp_path / "hard.onnx", *options, "--json")
    result = json.loads(ran.out)
    assert {"h": 0.1} == result["model"]["jumps"]
    assert result["model"]["sites"] == 1
    assert result["parity"]["agrees"]
    assert result["clean"]["accuracy"] == 1


def test_it_can_be_calibrated_anew(
    rewritten: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """The jumps are those that its source gets."""
    pytest.importorskip("torch")
    data = ("--data", MODELS / "digits_val.npz", "--limit", "80", "--max-drop", "0.05")
    options = (*data, "--steps", "1", "--eps", "0.1", "--attack-limit", "8", "--points", "8")
    for path, name in ((rewritten, "one.onnx"), (DIGITS, "other.onnx")):
        ran = onnxfit_command("calibrate", path, *options, "-o", tmp_path / name)
        assert ran.status == 0, ran.err
    one, other = (onnxfit.inspect(tmp_path / name).jumps for name in ("one.onnx", "other.onnx"))
    assert other == one


def test_what_needs_the_library_is_known(rewritten: Path) -> None:
    """A rewritten file of the custom lowering may have no other node of ours."""
    from onnxfit.runtime import needs_library

    assert not needs_library(onnx.load(rewritten))
    source = relu_model(nodes="s = Add(x, x) y = Relu(s)")
    assert needs_library(onnxfit.retrofit(source, 0.5, lowering="custom", optimize=rewrites.ALL))
