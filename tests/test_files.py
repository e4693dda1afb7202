"""Reading and writing files: whole or not at all, external data in its place."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from support import relu_model

import onnxfit
from onnxfit import files
from onnxfit.errors import ModelError

WEIGHTS = np.arange(16, dtype=np.float32)


def external_model(location: str = "weights.bin", length: int = 64) -> ModelProto:
    """Make a model whose initializer ``w`` lies in another file."""
    model = relu_model(nodes="h = Add(x, w) y = Relu(h)")
    tensor = TensorProto(name="w", data_type=1, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    model.graph.initializer.append(tensor)
    return model


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """Write an external-data model into a folder of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(WEIGHTS.tobytes())
    path = folder / "m.onnx"
    path.write_bytes(external_model().SerializeToString())
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Saving and loading give an equal model."""
    path = tmp_path / "m.onnx"
    onnxfit.save(relu_model(), path)
    assert relu_model() == onnxfit.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty$"),
        (b"hello, this is a text file\n" * 9, r"is not an ONNX \w+: it is a text file$"),
        (b"<!DOCTYPE html><html><body>404</body></html>", r": it is a web or XML page$"),
        (b"\n\n  <html><body>404</body></html>", r": it is a web or XML page$"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r": it is a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(60), r": it is a ZIP archive, as PyTorch checkpoints are$"),
        (b"\x1f\x8b\x08" + bytes(60), r": it is compressed with gzip$"),
        (b"\x80\x04\x95" + bytes(60), r": it is a Python pickle$"),
        (b"\x1c\x00\x00\x00ORTM" + bytes(60), r": it is in ONNX Runtime's own format \(\.ort\)$"),
        (bytes([255] * 200), r"is not an ONNX \w+: it is damaged, cut off, or"),
        (b"text" + bytes([255] * 200), r"is not an ONNX \w+: it is damaged, cut off, or"),
        (b"x" * 1023 + "é".encode() * 9, r": it is a text file$"),
        (ModelProto(ir_version=8).SerializeToString(), r"is not an ONNX model"),
    ],
)
def test_what_is_no_model_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """Every other file is a ModelError of one sentence that names the file."""
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        onnxfit.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A file that was cut off anywhere is no model."""
    content = relu_model(nodes="h = Relu(x) y = Relu(h)").SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError):
            onnxfit.load(path)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    """Neither is a traceback."""
    with pytest.raises(ModelError, match=r"none\.onnx does not exist$"):
        onnxfit.load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match=r" is a directory, not an ONNX file$"):
        onnxfit.load(tmp_path)


def test_external_data_goes_along_as_a_hard_link(external: Path, tmp_path: Path) -> None:
    """On one file system no byte is copied, and ONNX Runtime finds the weights."""
    target = tmp_path / "target"
    target.mkdir()
    onnxfit.save(onnxfit.load(external), target / "m.onnx", base_dir=external.parent)
    assert (target / "weights.bin").samefile(external.parent / "weights.bin")
    session = onnxfit.session(target / "m.onnx")
    (y,) = session.run(None, {"x": np.zeros(16, np.float32)})
    np.testing.assert_array_equal(WEIGHTS, y)


def test_external_data_is_copied_where_no_link_is_possible(
    external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across file systems the copy has the same bytes and leaves no temporary file."""

    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    target = tmp_path / "target"
    target.mkdir()
    onnxfit.save(onnxfit.load(external), target / "m.onnx", base_dir=external.parent)
    assert WEIGHTS.tobytes() == (target / "weights.bin").read_bytes()
    assert not (target / "weights.bin").samefile(external.parent / "weights.bin")
    assert {"m.onnx", "weights.bin"} == {file.name for file in target.iterdir()}


def test_external_data_in_a_subfolder_keeps_its_relative_name(tmp_path: Path) -> None:
    """The folder is made in the target."""
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "data").mkdir(parents=True)
    target.mkdir()
    (source / "data" / "w.bin").write_bytes(WEIGHTS.tobytes())
    onnxfit.save(external_model("data/w.bin"), target / "m.onnx", base_dir=source)
    assert WEIGHTS.tobytes() == (target / "data" / "w.bin").read_bytes()


def test_another_file_of_that_name_is_never_overwritten(external: Path, tmp_path: Path) -> None:
    """Nothing is written then; a file with the same bytes is the data and stays."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "weights.bin").write_bytes(b"mine")
    model = onnxfit.load(external)
    with pytest.raises(ModelError, match=r"weights\.bin exists and is not the model's external"):
        onnxfit.save(model, target / "m.onnx", base_dir=external.parent)
    assert ["weights.bin"] == [file.name for file in target.iterdir()]
    assert (target / "weights.bin").read_bytes() == b"mine"
    (target / "weights.bin").write_bytes(WEIGHTS.tobytes())
    onnxfit.save(model, target / "m.onnx", base_dir=external.parent)
    assert (target / "m.onnx").exists()


def test_external_data_without_a_folder_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Unless the data is already beside the output."""
    with pytest.raises(ModelError, match=r"say with base_dir in which folder it is$"):
        onnxfit.save(external_model(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"say with base_dir in which folder it is$"):
        onnxfit.session(external_model())
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    onnxfit.save(external_model(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").exists()


def test_a_model_in_memory_finds_its_external_data_by_base_dir(external: Path) -> None:
    """A session of a ModelProto takes its weights from the folder."""
    session = onnxfit.session(onnxfit.load(external), base_dir=external.parent)
    (y,) = session.run(None, {"x": np.zeros(16, np.float32)})
    np.testing.assert_array_equal(WEIGHTS, y)


@pytest.mark.parametrize(
    "location",
    ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "C:/w.bin", "..\\w.bin", ""],
)
def test_a_path_that_leaves_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    """Whether or not there is such a file."""
    model = external_model(location)
    with pytest.raises(ModelError, match=r"which leaves the model's folder$"):
        onnxfit.save(model, tmp_path / "m.onnx", base_dir=tmp_path)
    with pytest.raises(ModelError, match=r"which leaves the model's folder$"):
        onnxfit.retrofit(model, 0.5, base_dir=tmp_path)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    """The path is judged by where it leads."""
    folder = tmp_path / "source"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="is a link that leaves"):
        onnxfit.retrofit(external_model(), 0.5, base_dir=folder)


def test_missing_and_short_external_data_is_named(tmp_path: Path) -> None:
    """With the file, and the bytes that are there and that are needed."""
    path = tmp_path / "m.onnx"
    path.write_bytes(external_model().SerializeToString())
    with pytest.raises(ModelError, match=r"^the external data weights\.bin is not in "):
        onnxfit.retrofit(path, 0.5)
    (tmp_path / "weights.bin").write_bytes(bytes(63))
    with pytest.raises(ModelError, match=r"has 63 bytes, the model needs 64$"):
        onnxfit.retrofit(path, 0.5)


def test_external_data_is_found_in_constants_subgraphs_and_functions(tmp_path: Path) -> None:
    """Wherever a tensor stands, its file is checked and goes along."""
    tensor = external_model().graph.initializer[0]
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    model = relu_model()
    model.functions.append(
        helper.make_function("f", "n", [], ["k"], [constant], [helper.make_opsetid("", 17)])
    )
    branch = helper.make_graph([constant], "b", [], [])
    nested = relu_model()
    nested.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch))
    for holder in (model, nested):
        with pytest.raises(ModelError, match=r"weights\.bin is not in"):
            onnxfit.save(holder, tmp_path / "m.onnx", base_dir=tmp_path)


def test_no_weight_is_read(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retrofitting reads the graph's file alone."""
    opened: list[str] = []
    original = Path.read_bytes

    def spy(self: Path) -> bytes:
        opened.append(self.name)
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", spy)
    onnxfit.save(onnxfit.retrofit(external, 0.5), external.parent / "out.onnx")
    assert ["m.onnx"] == opened


def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half file and no temporary one, as when the disk is full."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ModelError, match=r"cannot be written: No space left on device$"):
        onnxfit.save(relu_model(), path)
    assert path.read_bytes() == b"old"
    assert ["m.onnx"] == [file.name for file in tmp_path.iterdir()]


def test_a_killed_process_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """Killed at any moment while it writes again and again, never half a file."""
    path = tmp_path / "m.onnx"
    small, large = relu_model(), relu_model(nodes="h = Add(x, w) y = Relu(h)")
    large.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros(4_000_000, np.float32), "w")
    )
    for number, model in enumerate((small, large)):
        (tmp_path / f"{number}.bin").write_bytes(model.SerializeToString())
    whole = {hashlib.sha256(model.SerializeToString()).hexdigest() for model in (small, large)}
    program = (
        "import sys, onnxfit\n"
        "models = [onnxfit.load(p) for p in sys.argv[2:]]\n"
        "while True:\n"
        "    for model in models:\n"
        "        onnxfit.save(model, sys.argv[1])\n"
        "        print('.', flush=True)\n"
    )
    for delay in (0.0, 0.01, 0.03, 0.05):
        arguments = [sys.executable, "-c", program, str(path)]
        arguments += [str(tmp_path / "0.bin"), str(tmp_path / "1.bin")]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert hashlib.sha256(path.read_bytes()).hexdigest() in whole


def test_a_new_file_has_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    """Not the private ones of a temporary file; a replaced file keeps its own."""
    path = tmp_path / "m.onnx"
    onnxfit.save(relu_model(), path)
    plain = tmp_path / "plain"
    plain.touch()
    assert plain.stat().st_mode == path.stat().st_mode
    path.chmod(0o640)
    onnxfit.save(relu_model(), path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_output_without_a_folder_is_refused(tmp_path: Path) -> None:
    """The folder is the user's to make."""
    with pytest.raises(ModelError, match=r"^the folder .*nowhere does not exist$"):
        onnxfit.save(relu_model(), tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(ModelError, match=r" is a directory$"):
        onnxfit.save(relu_model(), tmp_path)


def test_checking_writes_nothing(external: Path, tmp_path: Path) -> None:
    """What a dry run relies on."""
    target = tmp_path / "target"
    target.mkdir()
    files.check_writable(onnxfit.load(external), target / "m.onnx", external.parent)
    assert [] == list(target.iterdir())


@pytest.mark.parametrize("copy_data", [False, True])
def test_a_link_inside_the_folder_goes_along_as_the_file_behind_it(
    copy_data: bool, external: Path, tmp_path: Path
) -> None:
    """ONNX Runtime reads no symbolic link, and a relative one would lead nowhere."""
    weights, target = external.parent / "weights.bin", tmp_path / "target"
    weights.rename(external.parent / "real.bin")
    weights.symlink_to("real.bin")
    target.mkdir()
    onnxfit.save(
        onnxfit.load(external), target / "m.onnx", base_dir=external.parent, copy_data=copy_data
    )
    assert not (target / "weights.bin").is_symlink()
    assert copy_data != (target / "weights.bin").samefile(external.parent / "real.bin")
    session = onnxfit.session(target / "m.onnx")
    (y,) = session.run(None, {"x": np.zeros(16, np.float32)})
    np.testing.assert_array_equal(WEIGHTS, y)


@pytest.mark.parametrize("role", ["values", "indices"])
def test_external_data_of_sparse_initializers_is_checked_and_goes_along(
    role: str, tmp_path: Path
) -> None:
    """The numbers as well as their places may lie in another file."""
    model = relu_model(nodes="h = Add(x, w) y = Relu(h)")
    sparse = model.graph.sparse_initializer.add(dims=[16])
    for name, numbers in (("values", WEIGHTS[:4]), ("indices", np.arange(4))):
        getattr(sparse, name).CopyFrom(onnx.numpy_helper.from_array(numbers, "w"))
    tensor = getattr(sparse, role)
    content = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "sparse.bin"), ("length", str(len(content)))):
        tensor.external_data.add(key=key, value=value)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with pytest.raises(ModelError, match=r"^the external data sparse\.bin is not in "):
        onnxfit.retrofit(model, 0.5, base_dir=source)
    (source / "sparse.bin").write_bytes(content[1:])
    with pytest.raises(ModelError, match=rf"has {len(content) - 1} bytes, the model needs"):
        onnxfit.retrofit(model, 0.5, base_dir=source)
    (source / "sparse.bin").write_bytes(content)
    hard = onnxfit.retrofit(model, 0.5, base_dir=source)
    onnxfit.save(hard, target / "m.onnx", base_dir=source)
    assert content == (target / "sparse.bin").read_bytes()
