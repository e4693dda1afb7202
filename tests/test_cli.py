"""The command line: status, stdout, stderr and files of every verb."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest
from command import Command
from support import MODELS, relu_model

import onnxfit
from onnxfit import cli, cli_retrofit, native_library, rewrites
from onnxfit.compilation.machine import this_machine
from onnxfit.hardening import Lowering

TWO = "h = Relu(x) n = Neg(h) s = Add(n, x) y = Relu(s)"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a model of two sites, ``h`` and ``y``."""
    path = tmp_path / "m.onnx"
    onnx.save(relu_model(nodes=TWO), path)
    return path


def files(folder: Path) -> set[str]:
    """List the names in a folder."""
    return {file.name for file in folder.iterdir()}


def test_retrofit_writes_beside_the_model_by_default(model: Path, onnxfit_command: Command) -> None:
    """The default output is the stem with .jump.onnx; the table shows the jumps."""
    ran = onnxfit_command("retrofit", model, "--jump", "0.5")
    assert (0, "") == (ran.status, ran.err)
    output = model.with_name("m.jump.onnx")
    assert [0.5, 0.5] == [site.jump for site in onnxfit.find_sites(output)]
    assert "2 sites, 2 hardened\n" in ran.out
    assert ran.out.endswith(f"wrote {output}\n")


@pytest.mark.parametrize(("text", "jump"), [("0.5", 0.5), ("1/4", 0.25), ("0", 0.0), ("1e-1", 0.1)])
def test_numbers_may_be_fractions(
    text: str, jump: float, model: Path, onnxfit_command: Command
) -> None:
    """As in 8/255."""
    ran = onnxfit_command("retrofit", model, "--jump", text, "--json")
    assert [jump, jump] == [site["jump"] for site in json.loads(ran.out)["sites"]]


@pytest.mark.parametrize("lowering", ["function", "custom", "standard"])
def test_retrofit_then_restore_gives_the_same_bytes(
    lowering: str, model: Path, onnxfit_command: Command
) -> None:
    """A round trip through files ends where it began, and says so."""
    onnxfit_command("retrofit", model, "--jump", "0.5", "--lowering", lowering)
    ran = onnxfit_command("restore", model.with_name("m.jump.onnx"))
    restored = model.with_name("m.restored.onnx")
    assert model.read_bytes() == restored.read_bytes()
    assert (0, f"wrote {restored} (byte for byte the source)\n", "") == ran


def test_jumps_from_a_file(model: Path, tmp_path: Path, onnxfit_command: Command) -> None:
    """Jumps by site, alone or before a common one."""
    (tmp_path / "jumps.json").write_text('{"h": 0.25}')
    output = tmp_path / "out.onnx"
    arguments = ("retrofit", model, "--jumps", tmp_path / "jumps.json", "-o", output)
    assert onnxfit_command(*arguments).status == 0
    assert [0.25, None] == [site.jump for site in onnxfit.find_sites(output)]
    assert onnxfit_command(*arguments, "--jump", "1", "--force").status == 0
    assert [0.25, 1.0] == [site.jump for site in onnxfit.find_sites(output)]


def test_include_and_exclude(model: Path, onnxfit_command: Command) -> None:
    """Each may be given several times."""
    ran = onnxfit_command("retrofit", model, "--jump", "1", "--exclude", "^h$", "--json")
    assert [None, 1.0] == [site["jump"] for site in json.loads(ran.out)["sites"]]
    both = ("--include", "h", "--include", "y", "--force", "--json")
    ran = onnxfit_command("retrofit", model, "--jump", "1", *both)
    assert [1.0, 1.0] == [site["jump"] for site in json.loads(ran.out)["sites"]]


def test_a_dry_run_shows_everything_and_writes_nothing(
    model: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """The output is named as what would be written."""
    ran = onnxfit_command("retrofit", model, "--jump", "0.5", "--dry-run")
    assert ran.status == 0
    assert ran.out.endswith(f"would write {tmp_path / 'm.jump.onnx'}\n")
    assert {"m.onnx"} == files(tmp_path)


def test_the_json_of_retrofit(model: Path, onnxfit_command: Command) -> None:
    """One document, nothing else on stdout."""
    document = json.loads(onnxfit_command("retrofit", model, "--jump", "0.5", "--json").out)
    output = model.with_name("m.jump.onnx")
    assert {"h": 0.5, "y": 0.5} == document["jumps"]
    assert (str(model), str(output), True) == (
        document["source"],
        document["path"],
        document["written"],
    )
    assert hashlib.sha256(output.read_bytes()).hexdigest() == document["sha256"]
    source_hash = hashlib.sha256(model.read_bytes()).hexdigest()
    assert source_hash == document["provenance"]["source_sha256"]
    assert {
        "name": "h",
        "kind": "relu",
        "jump": 0.5,
        "scope": "",
        "element_type": "float",
        "lowering": "operator",
    } == document["sites"][0]


def test_inspect_shows_sites_and_what_stays(tmp_path: Path, onnxfit_command: Command) -> None:
    """As a table and as JSON; the model may be hardened or not."""
    path = tmp_path / "m.onnx"
    onnx.save(relu_model(nodes="h = Relu(x) y = Sigmoid(h)"), path)
    ran = onnxfit_command("inspect", path)
    assert (0, "") == (ran.status, ran.err)
    assert "1 sites, 0 hardened" in ran.out
    assert "it is no rectifier" in ran.out
    document = json.loads(onnxfit_command("inspect", path, "--json").out)
    assert {"name": "y", "op_type": "Sigmoid", "reason": "it is no rectifier"} == document[
        "unreplaced"
    ][0]
    assert {"ai.onnx": 17} == document["opset_imports"]
    assert {} == document["provenance"]


def test_inspect_shows_the_provenance_of_a_hardened_model(
    model: Path, onnxfit_command: Command
) -> None:
    """Version, source hash and lowering."""
    onnxfit_command("retrofit", model, "--jump", "0.5")
    ran = onnxfit_command("inspect", model.with_name("m.jump.onnx"))
    assert hashlib.sha256(model.read_bytes()).hexdigest() in ran.out
    assert "2 sites, 2 hardened" in ran.out


@pytest.mark.parametrize("name", ["[/b]", "[red]x", "a:bug:b", "naïve–名", "tab\tline\n"])
def test_names_are_shown_as_they_are(name: str, tmp_path: Path, onnxfit_command: Command) -> None:
    """No markup, no emoji, and no character that moves the cursor."""
    source = relu_model(nodes="y = Relu(x)")
    source.graph.node[0].output[0] = source.graph.output[0].name = name
    onnx.save(source, tmp_path / "m.onnx")
    shown = name.replace("\t", "\\t").replace("\n", "\\n")
    assert f"  {shown} " in onnxfit_command("inspect", tmp_path / "m.onnx").out


def shell(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    program = [sys.executable, "-m", "onnxfit", *map(str, arguments)]
    return subprocess.run(program, text=True, check=False, stderr=subprocess.PIPE, **options)


def test_a_terminal_without_unicode_is_served(tmp_path: Path) -> None:
    """What it cannot show is escaped; the status stays 0."""
    source = relu_model(nodes="y = Relu(x)")
    source.graph.node[0].output[0] = source.graph.output[0].name = "naïve–名"
    onnx.save(source, tmp_path / "m.onnx")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ran = shell("inspect", tmp_path / "m.onnx", env=environment, stdout=subprocess.PIPE)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert r"na\xefve\u2013\u540d" in ran.stdout


def test_a_reader_that_goes_away_is_no_failed_gate(model: Path) -> None:
    """A closed pipe ends the command with the status that shells give for it."""
    reader, writer = os.pipe()
    os.close(reader)
    ran = shell("inspect", model, stdout=writer)
    os.close(writer)
    assert (141, "") == (ran.returncode, ran.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_output_is_one_sentence(model: Path) -> None:
    """Not a traceback."""
    with Path("/dev/full").open("w") as full:
        ran = shell("inspect", model, stdout=full)
    assert (2, "Error: No space left on device\n") == (ran.returncode, ran.stderr)


def test_linked_weights_are_said_to_be(tmp_path: Path, onnxfit_command: Command) -> None:
    """A hard link is worth a word on stderr; a copy is not."""
    source = relu_model(nodes="h = Add(x, w) y = Relu(h)")
    tensor = source.graph.initializer.add(name="w", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(4))
    path = tmp_path / "m.onnx"
    path.write_bytes(source.SerializeToString())
    for name, options, links in (("linked", (), 2), ("copied", ("--copy-data",), 1)):
        (tmp_path / name).mkdir()
        output = tmp_path / name / "m.onnx"
        ran = onnxfit_command("retrofit", path, "--jump", "1", "-o", output, *options)
        assert (0, links == 2) == (ran.status, "--copy-data makes copies" in ran.err)
        assert links == (tmp_path / name / "w.bin").stat().st_nlink
        (tmp_path / name / "w.bin").unlink()


def test_restoring_without_a_record_says_so(model: Path, onnxfit_command: Command) -> None:
    """Where a tool dropped the metadata, nothing is claimed about the source."""
    hard = onnxfit.retrofit(model, 0.5)
    del hard.metadata_props[:]
    onnxfit.save(hard, model.with_name("bare.onnx"))
    ran = onnxfit_command("restore", model.with_name("bare.onnx"))
    assert ran.out.endswith("(there is no record of the source)\n")


def test_long_names_are_not_cut_in_a_pipe(tmp_path: Path, onnxfit_command: Command) -> None:
    """What another program reads holds whole site names."""
    name = "a/very/long/" * 30
    source = relu_model(nodes="y = Relu(x)")
    source.graph.node[0].output[0] = source.graph.output[0].name = name
    onnx.save(source, tmp_path / "m.onnx")
    assert name in onnxfit_command("inspect", tmp_path / "m.onnx").out


def bad_inputs(folder: Path) -> dict[str, list[object]]:
    """Write bad files and list the commands that must refuse them."""
    good = folder / "good.onnx"
    onnx.save(relu_model(nodes=TWO), good)
    content = good.read_bytes()
    for name, data in {
        "empty.onnx": b"",
        "cut.onnx": content[: len(content) // 2],
        "text.onnx": b"some text\n" * 20,
        "page.onnx": b"<!DOCTYPE html><html>404</html>",
        "bad.json": b'{"h": ',
        "list.json": b"[0.5]",
        "unknown.json": b'{"z": 0.5}',
        "negative.json": b'{"h": -1}',
        "nan.json": b'{"h": NaN}',
        "string.json": b'{"h": "1"}',
        "true.json": b'{"h": true}',
        "huge.json": b'{"h": 1' + b"0" * 400 + b"}",
        "deep.json": b"[" * 100_000,
        "twice.json": b'{"h": 1, "h": 2}',
        "exists.onnx": b"precious",
    }.items():
        (folder / name).write_bytes(data)
    onnx.save(relu_model(nodes="y = Sigmoid(x)"), folder / "sigmoid.onnx")
    (folder / "folder.onnx").mkdir()
    for name, location in (("missing.onnx", "gone.bin"), ("leaves.onnx", "../gone.bin")):
        external = relu_model(nodes=TWO)
        tensor = external.graph.initializer.add(name="w", data_type=1, dims=[1], data_location=1)
        tensor.external_data.add(key="location", value=location)
        onnx.save(external, folder / name)
    quantised = relu_model(nodes="z = MatMul(x, x) q = QuantizeLinear(z, s) y = Identity(x)")
    quantised.graph.initializer.append(onnx.helper.make_tensor("s", 1, [], [0.1]))
    onnx.save(quantised, folder / "quantised.onnx")

    def retrofit(name: str, *options: object) -> list[object]:
        return ["retrofit", folder / name, "--jump", "0.5", *options]

    def with_jumps(name: str) -> list[object]:
        return ["retrofit", good, "--jumps", folder / name]

    return {
        "nope.onnx does not exist": retrofit("nope.onnx"),
        "is a directory, not an ONNX file": retrofit("folder.onnx"),
        "empty.onnx is empty": retrofit("empty.onnx"),
        "it is damaged, cut off, or of another format": retrofit("cut.onnx"),
        "it is a text file": retrofit("text.onnx"),
        "it is a web or XML page": retrofit("page.onnx"),
        "the model has no Relu": retrofit("sigmoid.onnx"),
        "harden first, quantise second": retrofit("quantised.onnx"),
        "gone.bin is not in": retrofit("missing.onnx"),
        "which leaves the model's folder": retrofit("leaves.onnx"),
        "-1 is not a finite number": ["retrofit", good, "--jump", "-1"],
        "nan is not a finite number": ["retrofit", good, "--jump", "nan"],
        "inf is not a finite number": ["retrofit", good, "--jump", "inf"],
        "'x' is not a number": ["retrofit", good, "--jump", "x"],
        "'1/0' is not a number": ["retrofit", good, "--jump", "1/0"],
        "'8/' is not a number": ["retrofit", good, "--jump", "8/"],
        "the jump size 1e-50 is 0 in float": ["retrofit", good, "--jump", "1e-50"],
        "Give --jump or --jumps": ["retrofit", good],
        "bad.json is not JSON": with_jumps("bad.json"),
        'must hold jump sizes by site, as in {"site": 0.5}': with_jumps("list.json"),
        "no activation writes 'z'; the model has 'h', 'y'": with_jumps("unknown.json"),
        "the jump of 'h' is -1": with_jumps("negative.json"),
        "the jump of 'h' is nan": with_jumps("nan.json"),
        "the jump of 'h' is '1'": with_jumps("string.json"),
        "the jump of 'h' is True": with_jumps("true.json"),
        "the jump of 'h' is 1000": with_jumps("huge.json"),
        "deep.json is not JSON": with_jumps("deep.json"),
        "a name is given twice": with_jumps("twice.json"),
        "File name too long": retrofit("n" * 300),
        "File name too long: output": retrofit("good.onnx", "-o", folder / ("n" * 300)),
        "is no ordinary file": retrofit("good.onnx", "--force", "-o", "/dev/null"),
        "cannot be read: No such file": with_jumps("nope.json"),
        "no site matches 'q'": retrofit("good.onnx", "--include", "q"),
        "no site matches 'r'": retrofit("good.onnx", "--exclude", "r"),
        "'(' is no regular expression": retrofit("good.onnx", "--include", "("),
        "'x{99999999999}' is no regular": retrofit("good.onnx", "--include", "x{99999999999}"),
        ". is a directory": ["retrofit", ".", "--jump", "1"],
        "no activation is left to harden": retrofit("good.onnx", "--exclude", "."),
        "is the input": retrofit("good.onnx", "-o", good),
        "exists.onnx exists; give --force": retrofit("good.onnx", "-o", folder / "exists.onnx"),
        "nowhere does not exist": retrofit("good.onnx", "-o", folder / "nowhere" / "o.onnx"),
        "folder.onnx is a directory": retrofit("good.onnx", "-o", folder / "folder.onnx"),
        "'fast' is not one of": retrofit("good.onnx", "--lowering", "fast"),
        "the model is not hardened": ["restore", good],
        "restoring nope.onnx": ["restore", folder / "nope.onnx"],
        "inspecting empty.onnx": ["inspect", folder / "empty.onnx"],
        "No such command 'harden'": ["harden", good],
    }


def test_bad_input_is_status_2_with_one_sentence_and_nothing_written(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """No traceback, nothing on stdout, no file touched; the sentence names what is wrong."""
    for message, arguments in bad_inputs(tmp_path).items():
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        ran = onnxfit_command(*arguments)
        assert (2, "") == (ran.status, ran.out), message
        if not message.startswith(("restoring", "inspecting")):
            assert message.removesuffix(": output") in ran.err
        error = ran.err.splitlines()[-1]
        assert error.startswith("Error: ")
        assert "Traceback" not in ran.err
        after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert before == after, message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_status_2(
    model: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """With the folder named."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    ran = onnxfit_command("retrofit", model, "--jump", "1", "-o", folder / "o.onnx")
    assert ran.status == 2
    assert "locked is not writable" in ran.err


def test_an_output_that_cannot_be_written_is_status_2(
    model: Path, onnxfit_command: Command
) -> None:
    """A folder that takes no files, even from root."""
    ran = onnxfit_command("retrofit", model, "--jump", "1", "-o", "/proc/o.onnx")
    assert (2, "") == (ran.status, ran.out)
    assert ran.err.startswith("Error: ")


def test_the_output_may_not_be_another_name_of_the_input(
    model: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """A link to the input is the input, even with --force."""
    for name, link in (("soft.onnx", Path.symlink_to), ("hard.onnx", Path.hardlink_to)):
        link(tmp_path / name, model)
        ran = onnxfit_command("retrofit", model, "--jump", "1", "--force", "-o", tmp_path / name)
        assert ran.status == 2
        assert "is the input" in ran.err


def test_the_output_may_not_be_the_file_of_jumps(
    model: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Whatever --force says."""
    jumps = tmp_path / "jumps.json"
    jumps.write_text('{"h": 0.25}')
    ran = onnxfit_command("retrofit", model, "--jumps", jumps, "-o", jumps, "--force")
    assert (2, "", f"Error: the output {jumps} is the input\n") == ran
    assert '{"h": 0.25}' == jumps.read_text()


def test_force_replaces_an_existing_output(model: Path, onnxfit_command: Command) -> None:
    """The old file gives way to the new one."""
    output = model.with_name("m.jump.onnx")
    output.write_bytes(b"old")
    assert onnxfit_command("retrofit", model, "--jump", "1", "--force").status == 0
    assert [1.0, 1.0] == [site.jump for site in onnxfit.find_sites(output)]


def test_a_minority_type_is_reported(tmp_path: Path, onnxfit_command: Command) -> None:
    """Sites that took the standard lowering are counted and explained."""
    nodes = "a = Relu(x) b = Relu(a) c = Cast<to = 16>(b) d = Relu(c) y = Cast<to = 1>(d)"
    onnx.save(relu_model(nodes=nodes), tmp_path / "m.onnx")
    ran = onnxfit_command("retrofit", tmp_path / "m.onnx", "--jump", "0.5")
    assert "1 of another element type than the rest took the standard lowering" in ran.out


def test_doctor_is_healthy_here(onnxfit_command: Command) -> None:
    """It tries the function body and the kernel and tells what the library was built with."""
    ran = onnxfit_command("doctor", "--json")
    document = json.loads(ran.out)
    assert (0, True) == (ran.status, document["healthy"])
    passed = {check["check"]: check["passed"] for check in document["checks"]}
    assert passed["function body on CPUExecutionProvider"] is True
    assert passed["custom-op kernel on CPUExecutionProvider"] is True
    assert onnx.__version__ == document["versions"]["onnx"]
    text = onnxfit_command("doctor").out
    assert str(onnxfit.library_path()) in text


@pytest.mark.parametrize("limit", ["", "baseline"])
def test_doctor_names_the_path_of_the_cpu_kernels(limit: str) -> None:
    """The one taken in this process, as the processor and the environment allow."""
    environment = {**os.environ, "ONNXFIT_CPU_PATH": limit}
    document, text = (
        shell("doctor", *options, env=environment, stdout=subprocess.PIPE).stdout
        for options in (("--json",), ())
    )
    path = json.loads(document)["build"]["cpu_path"]
    vectors = not limit and "AVX2" in this_machine()["instructions"]
    assert path in ({"avx2", "avx512"} if vectors else {"baseline"})
    assert ["library", "cpu_path", path] in [line.split() for line in text.splitlines()]


def test_doctor_says_what_to_do_when_the_library_does_not_load(
    onnxfit_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 3: the environment cannot do it."""
    broken = tmp_path / "libonnxfit_ops.so"
    broken.write_bytes(b"")
    monkeypatch.setenv(native_library.LIBRARY_VARIABLE, str(broken))
    ran = onnxfit_command("doctor")
    assert ran.status == 3
    assert "FAILED" in ran.out
    assert "reinstall onnxfit on this machine" in ran.out


def test_doctor_says_when_no_library_was_built(
    onnxfit_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 0: hardened models run through the function body."""
    monkeypatch.delenv(native_library.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(native_library, "_folders", lambda: [tmp_path])
    ran = onnxfit_command("doctor")
    assert ran.status == 0
    assert "none was built" in ran.out
    assert "installed without its custom-op library" in ran.out


def test_the_lowerings_are_those_of_retrofit() -> None:
    """The command line lists them itself, so that its help need not import onnx."""
    assert get_args(Lowering) == cli_retrofit.LOWERINGS


def test_optimize_takes_no_value(tmp_path: Path, onnxfit_command: Command) -> None:
    """The model may follow it; what it does is what Python does by default."""
    path, output = tmp_path / "m.onnx", tmp_path / "m.jump.onnx"
    onnx.save(relu_model(nodes="h = Relu(x) y = Relu(h)"), path)
    ran = onnxfit_command("retrofit", "--jump", "0.5", "--optimize", path)
    assert (0, "") == (ran.status, ran.err)
    assert "rewrites: twice 1\n" in ran.out
    assert onnxfit.retrofit(path, 0.5, optimize=True) == onnx.load(output)


def test_the_rewrites_in_options_are_those_that_there_are() -> None:
    """In the default of `compile`, and in the help of `retrofit`."""
    compiling = {option.name: option for option in cli.main.commands["compile"].params}
    assert ",".join(rewrites.ALL) == compiling["rewrites"].default
    hardening = {option.name: option for option in cli.main.commands["retrofit"].params}
    for option, names in (("optimize", rewrites.EVERYWHERE), ("rewrites", rewrites.ALL)):
        text = getattr(hardening[option], "help", "")
        assert set(names) == {name for name in rewrites.ALL if name in text}


def test_help_names_every_verb(onnxfit_command: Command) -> None:
    """Each with a line of its own."""
    ran = onnxfit_command("--help")
    assert ran.status == 0
    for verb in ("inspect", "retrofit", "restore", "doctor"):
        assert f"  {verb} " in ran.out
        assert onnxfit_command(verb, "--help").status == 0


def test_an_interrupt_is_status_130(
    model: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither success nor a failed gate."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxfit.inspection.inspect", interrupt)
    assert (130, "", "Interrupted.\n") == onnxfit_command("inspect", model)


def test_a_signal_to_end_is_status_143(
    model: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends a verb as an interrupt does; afterwards the signal is what it was."""
    monkeypatch.setattr("onnxfit.inspection.inspect", lambda _: signal.raise_signal(signal.SIGTERM))
    assert (143, "", "Terminated.\n") == onnxfit_command("inspect", model)
    assert signal.SIG_DFL == signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("module", [True, False], ids=["python -m onnxfit", "onnxfit"])
def test_the_program_runs_from_the_shell(module: bool, tmp_path: Path) -> None:
    """The installed entry point and the module, on a trained network, in a folder of its own."""
    script = Path(sys.executable).parent / "onnxfit"
    if not module and not script.exists():
        pytest.skip("onnxfit is not installed")
    program = [sys.executable, "-m", "onnxfit"] if module else [str(script)]
    source = str(MODELS / "digits_cnn.onnx")
    output = tmp_path / "ein Netz – hart.onnx"
    ran = subprocess.run(
        [*program, "retrofit", source, "--jump", "0.5", "-o", output.name],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (0, "") == (ran.returncode, ran.stderr)
    assert ran.stdout.endswith(f"wrote {output.name}\n")
    assert [0.5] * 6 == [site.jump for site in onnxfit.find_sites(output)]
