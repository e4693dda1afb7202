"""The verb `compile`: status, stdout, stderr and files."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Command
from support import MODELS, parse, quiet, relu_model, same_bits

import onnxfit
from onnxfit import native_library
from onnxfit.compilation import comparing, compiler
from onnxfit.compilation.machine import this_machine
from onnxfit.compilation.optimising import optimise
from onnxfit.compilation.record import recorded
from onnxfit.record import record_calibration


@pytest.fixture
def hard(tmp_path: Path) -> Path:
    """Write a hardened network of the digits."""
    path = tmp_path / "m.jump.onnx"
    onnxfit.save(onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.1), path)
    return path


def files(folder: Path) -> set[str]:
    """List the names in a folder."""
    return {file.name for file in folder.iterdir()}


def images() -> dict[str, Any]:
    """Return digits as the network takes them."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        return {"image": np.asarray(arrays["x"][:64], np.float32)}


def test_a_model_is_compiled_beside_others(hard: Path, onnxfit_command: Command) -> None:
    """The file is what Python compiles; the text says for what and how far its outputs are."""
    before, output = hard.read_bytes(), hard.with_name("c.onnx")
    ran = onnxfit_command("compile", hard, "-o", output)
    assert (0, "") == (ran.status, ran.err)
    machine = this_machine()
    lines = ran.out.splitlines()
    assert f"ONNX Runtime {machine['onnxruntime']}, {machine['architecture']}" in lines[0]
    assert lines[1].endswith(", ".join(machine["instructions"]) or "none that matter")
    assert f"wrote {output}" == lines[-1]
    assert {hard.name, "c.onnx"} == files(hard.parent)
    assert before == hard.read_bytes()
    expected = onnxfit.session(onnxfit.compile(hard), quiet()).run(None, images())[0]
    assert same_bits(expected, onnxfit.session(output, quiet()).run(None, images())[0])


def test_the_weights_of_the_input_are_not_overwritten(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """Whatever is said: they are the input as well."""
    source = onnx.load(MODELS / "digits_cnn.onnx")
    onnx.save(
        source, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data"
    )
    hard = tmp_path / "m.jump.onnx"
    onnxfit.save(onnxfit.retrofit(tmp_path / "m.onnx", 0.1), hard, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    ran = onnxfit_command("compile", hard, "-o", tmp_path / "m.data", "--force")
    assert 2 == ran.status
    assert f"the output {tmp_path / 'm.data'} is the input" in ran.err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_the_record_as_json(hard: Path, onnxfit_command: Command) -> None:
    """One document: the paths, the record, and what was compared."""
    output = hard.with_name("c.onnx")
    ran = onnxfit_command("compile", hard, "-o", output, "--json")
    document = json.loads(ran.out)
    compared = document.pop("comparison")
    record = recorded(onnx.load(output))
    assert record is not None
    assert {"source": str(hard), "path": str(output), **record} == document
    assert onnxfit.inspect(hard).sha256 == document["hardened_sha256"]
    fields = {
        "outputs",
        "different",
        "largest",
        "mean",
        "samples",
        "same_class",
        "float16",
        "at_zero",
    }
    assert fields == set(compared)
    assert [2, 2, False] == [compared[key] for key in ("samples", "same_class", "float16")]
    assert 20 == compared["outputs"]
    assert 1e-5 > compared["largest"]
    assert (compared["different"] == 0) == (compared["largest"] == 0)


def test_the_written_model_is_what_is_compared(
    hard: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that computes something else, or nothing, is an error and written nowhere."""
    other = onnxfit.compile(onnxfit.retrofit(hard, 0.5))
    broken = onnxfit.compile(hard)
    broken.graph.node[0].op_type = "NoSuchOperator"
    for made, message in (
        (other, r"Error: the compiled model differs from the hardened one by [\d.e-]+ of the "
         r"largest output, which rounding does not explain; please report it\n"),
        (broken, r"Error: the compiled model does not run: ONNX Runtime refuses the .*\n"),
    ):  # fmt: skip
        monkeypatch.setattr(compiler, "compile", lambda *_, made=made, **__: made)
        ran = onnxfit_command("compile", hard, "-o", hard.with_name("c.onnx"), "--json")
        assert (2, "") == (ran.status, ran.out)
        assert re.fullmatch(message, ran.err)
        assert {hard.name} == files(hard.parent)


def test_what_cannot_be_compared(tmp_path: Path, onnxfit_command: Command) -> None:
    """An input of texts has no random ones: stdout, stderr and the document say so."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (string[N] i) => (float[N] y) '
        "{ x = Cast<to = 1>(i) y = Relu(x) }"
    )
    onnxfit.save(onnxfit.retrofit(source, 0.5), tmp_path / "m.onnx")
    arguments = ("compile", tmp_path / "m.onnx", "-o", tmp_path / "c.onnx")
    ran = onnxfit_command(*arguments)
    reason = "not compared: of inputs like these no random ones can be made\n"
    assert (0, f"the outputs were {reason}") == (ran.status, ran.err)
    assert reason in ran.out
    ran = onnxfit_command(*arguments, "--force", "--json")
    assert (0, f"the outputs were {reason}") == (ran.status, ran.err)
    assert json.loads(ran.out)["comparison"] is None


@pytest.mark.parametrize("height", ["H", "8"])
def test_images_of_any_size_are_compared(
    height: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Axes of unknown length are tried with a likely one."""
    source = parse(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,3,{height},W] x) => '
        f"(float[N,3,{height},W] y) {{ y = Relu(x) }}"
    )
    onnxfit.save(onnxfit.retrofit(source, 0.5), tmp_path / "m.onnx")
    ran = onnxfit_command("compile", tmp_path / "m.onnx", "-o", tmp_path / "c.onnx", "--json")
    expected = 2 * 3 * 32 * (32 if height == "H" else 8)
    compared = json.loads(ran.out)["comparison"]
    assert [expected, 0, 0] == [compared[key] for key in ("outputs", "different", "largest")]


def test_an_existing_file_is_replaced_when_told_so(hard: Path, onnxfit_command: Command) -> None:
    """Otherwise it stays as it is."""
    output = hard.with_name("c.onnx")
    output.write_text("mine")
    ran = onnxfit_command("compile", hard, "-o", output)
    expected = f"Error: {output} exists; give --force to replace it\n"
    assert (2, "", expected) == ran
    assert "mine" == output.read_text()
    assert 0 == onnxfit_command("compile", hard, "-o", output, "--force").status
    assert recorded(onnx.load(output)) is not None


def test_the_input_is_never_replaced(hard: Path, onnxfit_command: Command) -> None:
    """Under no name, and not with --force."""
    before = hard.read_bytes()
    other = hard.with_name("other.onnx")
    other.symlink_to(hard)
    for output, what in ((hard, "the input"), (other, f"the input {hard}")):
        ran = onnxfit_command("compile", hard, "-o", output, "--force")
        assert (2, "", f"Error: the output {output} is {what}\n") == ran
    assert before == hard.read_bytes()
    assert {hard.name, other.name} == files(hard.parent)


def test_a_missing_folder(hard: Path, onnxfit_command: Command) -> None:
    """It is named, and not made."""
    output = hard.parent / "none/c.onnx"
    ran = onnxfit_command("compile", hard, "-o", output)
    assert (2, "", f"Error: the folder {output.parent} does not exist\n") == ran
    assert {hard.name} == files(hard.parent)


def test_an_output_must_be_named(hard: Path, onnxfit_command: Command) -> None:
    """A compiled file does not appear by itself."""
    ran = onnxfit_command("compile", hard)
    assert 2 == ran.status
    assert "Missing option '-o' / '--output'" in ran.err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: onnx.save(relu_model(), path),
            "the model is not hardened, so there is nothing that compiling would save",
        ),
        (lambda path: path.write_text("text"), "{path} is not an ONNX file: it is a text file"),
        (lambda path: None, "{path} does not exist"),
    ],
    ids=["plain", "text", "missing"],
)
def test_what_is_no_hardened_model_is_refused(
    make: Any, message: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """With one sentence, and nothing is written."""
    path = tmp_path / "m.onnx"
    make(path)
    before = files(tmp_path)
    ran = onnxfit_command("compile", path, "-o", tmp_path / "c.onnx")
    assert (2, "", f"Error: {message.format(path=path)}\n") == ran
    assert before == files(tmp_path)


def test_a_compiled_model_is_refused(hard: Path, onnxfit_command: Command) -> None:
    """By compile, retrofit and restore, with the digest of the file to take."""
    output = hard.with_name("c.onnx")
    onnxfit_command("compile", hard, "-o", output)
    digest = onnxfit.inspect(hard).sha256
    for verb in (("compile",), ("retrofit", "--jump", "0.5"), ("restore",)):
        ran = onnxfit_command(*verb, output, "-o", hard.with_name("other.onnx"))
        sentence = (
            f"the model was compiled: take the hardened file, the one with the SHA-256 {digest}"
        )
        assert (2, "", f"Error: {sentence}\n") == ran
        assert {hard.name, "c.onnx"} == files(hard.parent)
    shown = onnxfit_command("inspect", output)
    assert 0 == shown.status
    assert digest in shown.out


def test_without_a_library_the_status_is_3(
    hard: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment cannot do it."""
    monkeypatch.setenv(native_library.LIBRARY_VARIABLE, "/nowhere/lib.so")
    ran = onnxfit_command("compile", hard, "-o", hard.with_name("c.onnx"))
    message = "Error: ONNXFIT_LIBRARY names /nowhere/lib.so, which is no file\n"
    assert (3, "", message) == ran
    assert {hard.name} == files(hard.parent)


@pytest.mark.parametrize("place", ["optimise", "compare", "save"])
@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, 130), (OSError(28, "No space left on device"), 2)]
)
def test_nothing_is_left_of_what_was_interrupted(
    place: str,
    error: Any,
    status: int,
    hard: Path,
    onnxfit_command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C or a full disk while it optimises, compares or writes: the old file or none."""

    def fail(*_: object, **__: object) -> None:
        raise error

    name = {"optimise": "_optimised", "compare": "compare", "save": "replacing"}[place]
    module: Any = {"optimise": compiler, "compare": comparing, "save": onnxfit.files}[place]
    output = hard.with_name("c.onnx")
    for before in (None, "mine"):
        if before is not None:
            output.write_text(before)
        with monkeypatch.context() as patched:
            patched.setattr(module, name, fail)
            ran = onnxfit_command("compile", hard, "-o", output, "--force")
        assert (status, "") == (ran.status, ran.out)
        assert 1 == ran.err.count("\n")
        assert before == (output.read_text() if output.exists() else None)
        assert {hard.name} == files(hard.parent) - {"c.onnx"}


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let weights of a kilobyte and more need a file of their own."""
    small = functools.partial(optimise, most_inside=1024)
    monkeypatch.setattr(compiler, "optimise", small)


@pytest.mark.usefixtures("_small_files")
def test_large_weights_go_beside_the_output(hard: Path, onnxfit_command: Command) -> None:
    """Into one file named after it, which stays where the weights are the same again."""
    (hard.parent / "out").mkdir()
    output = hard.parent / "out/c.onnx"
    for jump in (0.1, 0.2):
        onnxfit.save(onnxfit.retrofit(MODELS / "digits_cnn.onnx", jump), hard)
        ran = onnxfit_command("compile", hard, "-o", output, "--force")
        assert (0, "") == (ran.status, ran.err)
        assert {"c.onnx", "c.onnx.data"} == files(output.parent)
        expected = onnxfit.session(hard, quiet()).run(None, images())[0]
        found = onnxfit.session(output, quiet()).run(None, images())[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert {hard.name, "out"} == files(hard.parent)


@pytest.mark.usefixtures("_small_files")
def test_other_weights_are_never_overwritten(hard: Path, onnxfit_command: Command) -> None:
    """The old pair of files stays as it was: another model may read the weights."""
    output = hard.with_name("c.onnx")
    onnxfit_command("compile", hard, "-o", output)
    before = [output.read_bytes(), output.with_name("c.onnx.data").read_bytes()]
    onnxfit.save(onnxfit.retrofit(MODELS / "digits_cnn_pgd.onnx", 0.1), hard)
    ran = onnxfit_command("compile", hard, "-o", output, "--force")
    message = f"Error: {output}.data exists and is not the model's external data\n"
    assert (2, "", message) == ran
    assert before == [output.read_bytes(), output.with_name("c.onnx.data").read_bytes()]
    assert {hard.name, "c.onnx", "c.onnx.data"} == files(hard.parent)


def test_how_the_jumps_were_chosen_is_kept(hard: Path, onnxfit_command: Command) -> None:
    """A record of a calibration goes on to the compiled file."""
    model = onnx.load(hard)
    record_calibration(model, {"max_drop": 0.01})
    onnxfit.save(model, hard)
    onnxfit_command("compile", hard, "-o", hard.with_name("c.onnx"))
    record = onnxfit.inspect(hard.with_name("c.onnx")).provenance
    assert {"max_drop": 0.01} == record["calibration"]
