"""Sessions that compile: what is kept on disk, for whom, and that no half of it is ever seen."""

import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from support import MODELS, parse, quiet, relu_model, same_bits

import onnxfit
from onnxfit.compilation import cache, compiler
from onnxfit.compilation.machine import this_machine
from onnxfit.compilation.optimising import optimise
from onnxfit.errors import ModelError, NativeLibraryError
from onnxfit.files import save
from onnxfit.native_library import CPU

X = np.linspace(-2, 2, 41, dtype=np.float32)
TWO = "h = Relu(x) n = Neg(x) k = Relu(n) y = Sub(h, k)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the cache be an empty folder."""
    path = tmp_path / "cache"
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(path))
    return path


@pytest.fixture(autouse=True)
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Collect the models that are compiled, while the cache goes on as usual."""
    seen: list[object] = []

    def count(model: Any, **options: Any) -> ModelProto:
        seen.append(model)
        return compiler.compile(model, **options)

    monkeypatch.setattr(cache, "compile_model", count)
    return seen


def model(jump: float = 0.5) -> ModelProto:
    """Harden two activations."""
    return onnxfit.retrofit(relu_model(nodes=TWO), jump)


def run(hard: ModelProto | Path, base_dir: Path | None = None) -> NDArray[Any]:
    """Run a model compiled, and return the output."""
    session = onnxfit.session(hard, quiet(), base_dir=base_dir, compile=True)
    result: NDArray[Any] = session.run(None, {"x": X})[0]
    return result


def entries(folder: Path) -> list[Path]:
    """List the compiled models of the cache, and check that nothing else is in it."""
    found = sorted(folder.iterdir())
    names = [sorted(file.name for file in entry.iterdir()) for entry in found]
    assert all(["digests.json", "model.onnx"] == each for each in names)
    return found


def test_a_model_is_compiled_once(folder: Path, tmp_path: Path, compilations: list[object]) -> None:
    """The second session of the same model, or of its file, takes what is there."""
    expected = onnxfit.session(model(), quiet()).run(None, {"x": X})[0]
    for _ in range(2):
        assert same_bits(expected, run(model()))
    assert 1 == len(compilations)
    (entry,) = entries(folder)
    before = (entry / "model.onnx").stat()
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    assert same_bits(expected, run(tmp_path / "m.onnx"))
    assert 1 == len(compilations)
    after = (entry / "model.onnx").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_a_changed_model_is_another_entry(folder: Path, compilations: list[object]) -> None:
    """Each jump gives its own result, whatever was there before."""
    for jump in (0.5, 1.0, 0.5):
        expected = onnxfit.session(model(jump), quiet()).run(None, {"x": X})[0]
        assert same_bits(expected, run(model(jump)))
    assert 2 == len(compilations)
    assert 2 == len(entries(folder))


def test_changed_external_weights_are_another_entry(
    folder: Path, tmp_path: Path, compilations: list[object]
) -> None:
    """The model's own bytes stay the same then."""
    source = relu_model(nodes="s = Add(x, b) y = Relu(s)")
    bias = onnx.numpy_helper.from_array(np.full(1, 0.5, np.float32), "b")
    source.graph.initializer.append(bias)
    onnx.save(
        source, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="w"
    )
    hard = onnxfit.retrofit(tmp_path / "m.onnx", 0.5)
    onnxfit.save(hard, tmp_path / "hard.onnx", tmp_path)
    for given, base_dir in ((hard, tmp_path), (tmp_path / "hard.onnx", None)):
        for number in (0.5, 1.5):
            (tmp_path / "w").write_bytes(np.full(1, number, np.float32).tobytes())
            moved = X + np.float32(number)
            assert same_bits(np.where(moved <= 0.5, np.float32(0), moved), run(given, base_dir))
    assert len(compilations) == len(entries(folder))
    with pytest.raises(ModelError, match=r"^the model has external data; say with base_dir in wh"):
        run(hard)


@pytest.mark.parametrize("what", ["machine", "version", "format", "onnx"])
def test_another_machine_or_version_is_another_entry(
    what: str, folder: Path, compilations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home folder may be shared, and a package updated."""
    run(model())
    if what == "version":
        monkeypatch.setattr(cache, "__version__", "0.0.0")
    elif what == "format":
        monkeypatch.setattr(cache, "FORMAT", 0)
    elif what == "onnx":
        monkeypatch.setattr(onnx, "__version__", "0.0.0")
    else:
        here = this_machine()
        monkeypatch.setattr(cache, "this_machine", lambda: {**here, "onnxruntime": "1.0"})
    run(model())
    assert 2 == len(compilations)
    assert 2 == len(entries(folder))


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, folder: Path) -> None:
    """The model is compiled and runs; nothing is left behind."""
    folder.write_text("a file is no folder")
    expected = onnxfit.session(model(), quiet()).run(None, {"x": X})[0]
    with pytest.warns(RuntimeWarning, match=rf"^the cache {folder} cannot be written: ") as warned:
        assert same_bits(expected, run(model()))
    assert [__file__] == [warning.filename for warning in warned]
    assert ["cache"] == [path.name for path in tmp_path.iterdir()]


def test_nothing_is_left_of_what_failed(
    folder: Path, compilations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while an entry is written leaves none, and the next session compiles."""

    def fail(*arguments: Any) -> None:
        save(*arguments)
        # The model is whole by now, and still at no place where a session would look.
        (made,) = folder.iterdir()
        assert not (made / "model.onnx").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        run(model())
    assert [] == list(folder.iterdir())
    monkeypatch.setattr(cache, "save", save)
    run(model())
    assert 2 == len(compilations)
    assert 1 == len(entries(folder))


def test_a_full_disk_is_a_warning(
    folder: Path, compilations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model runs all the same, from a folder elsewhere that is gone afterwards."""
    written: list[Path] = []

    def fail(compiled: ModelProto, path: Path, data: Path) -> None:
        if folder in path.parents:
            raise ModelError(f"{path} cannot be written: No space left on device")
        save(compiled, path, data)
        written.append(path)

    expected = onnxfit.session(model(), quiet()).run(None, {"x": X})[0]
    monkeypatch.setattr(cache, "save", fail)
    with pytest.warns(
        RuntimeWarning, match=rf"^the compiled model is not kept: {folder}/.*: No space left on"
    ) as warned:
        assert same_bits(expected, run(model()))
    assert [__file__] == [warning.filename for warning in warned]
    assert 2 == len(compilations)
    assert 1 == len(written)
    assert [] == list(folder.iterdir())
    assert not written[0].exists()


def test_a_disk_that_fills_up_while_compiling_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a large model, whose weights ONNX Runtime writes."""

    def fail(given: Any, data_dir: Path, **options: Any) -> ModelProto:
        if folder in data_dir.parents:
            raise ModelError("ONNX Runtime refuses the model: no space")
        return compiler.compile(given, data_dir=data_dir, **options)

    expected = run(model())
    shutil.rmtree(folder)
    monkeypatch.setattr(cache, "compile_model", fail)
    with pytest.warns(RuntimeWarning, match=r"^the compiled model is not kept: .*: no space$"):
        assert same_bits(expected, run(model()))
    assert [] == list(folder.iterdir())


def test_what_cannot_be_compiled_is_no_matter_of_the_disk(folder: Path) -> None:
    """It is told with its own reason alone, and leaves nothing."""
    hard = onnxfit.retrofit(relu_model(nodes="h = Relu(x) y = local.None(h)"), 0.5)
    with pytest.raises(ModelError, match=r"^ONNX Runtime refuses the model: "):
        run(hard)
    assert [] == list(folder.iterdir())


def zero(file: Path) -> None:
    """Let a file have as many bytes, all of them 0, as after a loss of power."""
    file.write_bytes(bytes(file.stat().st_size))


def link_to_nothing(entry: Path) -> None:
    """Let an entry be a link whose folder was deleted."""
    shutil.rmtree(entry)
    entry.symlink_to(entry.with_name("deleted"), target_is_directory=True)


@pytest.mark.parametrize(
    "damage",
    {
        "no model": lambda entry: (entry / "model.onnx").unlink(),
        "half a model": lambda entry: (entry / "model.onnx").write_bytes(b"\x08"),
        "zeros": lambda entry: zero(entry / "model.onnx"),
        "no list": lambda entry: (entry / "digests.json").unlink(),
        "half a list": lambda entry: (entry / "digests.json").write_text('{"model.on'),
        "an empty list": lambda entry: (entry / "digests.json").write_text("[]"),
        "a deep list": lambda entry: (entry / "digests.json").write_text("[" * 200_000),
        "no number": lambda entry: (entry / "digests.json").write_text('{"model.onnx": null}'),
        "a link to nothing": link_to_nothing,
    }.items(),
    ids=lambda item: item[0],
)
def test_a_damaged_entry_is_replaced(
    damage: tuple[str, Callable[[Path], object]], folder: Path, compilations: list[object]
) -> None:
    """By a whole one, at the same place."""
    expected = run(model())
    (entry,) = entries(folder)
    damage[1](entry)
    for _ in range(2):
        assert same_bits(expected, run(model()))
    assert 2 == len(compilations)
    assert [entry] == entries(folder)


def test_what_an_ended_process_left_is_removed(folder: Path) -> None:
    """Folders of entries in the making, a day after; younger ones and what is not ours stay."""
    folder.mkdir()
    for name, hours in (("onnxfit-making-a", 25), ("onnxfit-making-b", 23), ("other", 25)):
        (folder / name / "compiled").mkdir(parents=True)
        then = time.time() - 3600 * hours
        os.utime(folder / name, (then, then))
    run(model())
    left = {path.name for path in folder.iterdir()}
    assert {"onnxfit-making-b", "other"} == {name for name in left if len(name) < 32}
    assert 3 == len(left)


def age(path: Path, days: float) -> None:
    """Let a file or folder be as old."""
    then = time.time() - 86_400 * days
    os.utime(path, (then, then))


def aged(folder: Path, jumps: Sequence[float]) -> list[Path]:
    """Make an entry for each jump, not used for 31 days.

    Returns:
        Their folders, in the order of the jumps.
    """
    made: list[Path] = []
    for jump in jumps:
        run(model(jump))
        made += set(entries(folder)) - set(made)
    for entry in made:
        age(entry, 31)
    return made


def test_an_entry_that_no_session_took_for_long_is_removed(folder: Path) -> None:
    """It goes when another one is made; one that was taken since stays, and so a younger one."""
    old, used, young = aged(folder, (1.0, 2.0, 3.0))
    age(young, 29)
    run(model(2.0))
    assert {old, used, young} == set(entries(folder))
    run(model(4.0))
    assert {used, young} == set(entries(folder)) & {old, used, young}
    assert 3 == len(entries(folder))


def test_what_is_not_an_entry_is_never_removed(folder: Path) -> None:
    """A folder without our list, one of another name, a link, a file: the folder may hold any."""
    (entry,) = aged(folder, (1.0,))
    entry.rename(folder / "other")
    (folder / ("a" * 64)).mkdir()
    (folder / ("b" * 64)).symlink_to(folder / "other", target_is_directory=True)
    (folder / ("c" * 64)).write_text("mine")
    for path in (*folder.iterdir(), folder / "other"):
        age(path, 31)
    before = set(folder.iterdir())
    run(model(2.0))
    assert before < set(folder.iterdir())


@pytest.mark.parametrize("failing", ["rename", "iterdir"])
def test_an_entry_that_cannot_be_removed_stays(
    failing: str, folder: Path, compilations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it is another user's, or in use on Windows; the session starts all the same."""
    (old,) = aged(folder, (1.0,))
    original = getattr(Path, failing)

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path in (old, folder):
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **options)

    expected = onnxfit.session(model(2.0), quiet()).run(None, {"x": X})[0]
    with monkeypatch.context() as patched:
        patched.setattr(Path, failing, fail)
        found = onnxfit.session(model(2.0), quiet(), compile=True).run(None, {"x": X})[0]
    assert same_bits(expected, found)
    assert old in entries(folder)
    assert 2 == len(entries(folder)) == len(compilations)


def test_an_entry_that_cannot_be_touched_is_taken(
    folder: Path, compilations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache may be one that this user can only read."""
    expected = run(model())

    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", fail)
    assert same_bits(expected, run(model()))
    assert 1 == len(compilations) == len(entries(folder))


def test_a_process_that_was_faster_wins(
    folder: Path, compilations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry stays, and the slower one takes its own copy away."""
    before: list[int] = []

    def late(*arguments: Any) -> None:
        save(*arguments)
        monkeypatch.setattr(cache, "save", save)
        run(model())
        before.extend(path.stat().st_ino for path in folder.glob("*/model.onnx"))

    monkeypatch.setattr(cache, "save", late)
    expected = onnxfit.session(model(), quiet()).run(None, {"x": X})[0]
    assert same_bits(expected, run(model()))
    assert 2 == len(compilations)
    (entry,) = entries(folder)
    assert before == [(entry / "model.onnx").stat().st_ino]


PROGRAM = """
import sys, onnx, onnxfit, numpy as np
session = onnxfit.session(sys.argv[1], compile=True)
print(session.run(None, {"x": np.array([-1, 0.25, 0.75], np.float32)})[0].tolist())
"""


def test_processes_at_once(folder: Path, tmp_path: Path) -> None:
    """Several that start together all run, and leave one entry."""
    onnxfit.save(model(), tmp_path / "m.onnx")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "m.onnx")]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [("[-1.0, 0.0, 0.75]\n", "")] * 3 == [process.communicate() for process in started]
    assert 1 == len(entries(folder))


def test_large_weights_lie_beside_the_model(
    folder: Path, compilations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are found there by the next session."""
    small = functools.partial(optimise, most_inside=1024)
    monkeypatch.setattr(compiler, "optimise", small)
    source = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,16,6,6] y) '
        "{ c = Conv(x, w) y = Relu(c) }"
    )
    weights = np.random.default_rng(0).integers(-2, 3, (16, 3, 3, 3)).astype(np.float32)
    source.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    hard, x = onnxfit.retrofit(source, 2.5), np.ones((1, 3, 8, 8), np.float32)
    expected = onnxfit.session(hard, quiet()).run(None, {"x": x})[0]
    for _ in range(2):
        session = onnxfit.session(hard, quiet(), compile=True)
        assert np.array_equal(expected, session.run(None, {"x": x})[0])
    assert 1 == len(compilations)
    (entry,) = folder.iterdir()
    names = ["digests.json", "model.onnx", "weights.data"]
    assert names == sorted(path.name for path in entry.iterdir())
    for damage in (Path.unlink, zero):
        damage(entry / "weights.data")
        session = onnxfit.session(hard, quiet(), compile=True)
        assert np.array_equal(expected, session.run(None, {"x": x})[0])
        assert names == sorted(path.name for path in entry.iterdir())
    assert 3 == len(compilations)
    assert [entry] == list(folder.iterdir())


def test_options_reach_the_compiled_session(compilations: list[object]) -> None:
    """The user's options are completed for both sessions, and keep their level."""
    options = quiet()
    level = options.graph_optimization_level
    for _ in range(2):
        session = onnxfit.session(model(), options, [(CPU, {})], compile=True)
        assert 1 == session.get_session_options().intra_op_num_threads
        assert level == options.graph_optimization_level
    assert 1 == len(compilations)


def test_what_is_no_hardened_model_makes_no_entry(folder: Path, tmp_path: Path) -> None:
    """A plain model, a compiled one, and a missing file are refused."""
    refused: dict[str, ModelProto | Path] = {
        "is not hardened": onnx.load(MODELS / "digits_cnn.onnx"),
        "was compiled: take the hardened file": onnxfit.compile(model()),
        "does not exist": tmp_path / "none.onnx",
    }
    for message, given in refused.items():
        with pytest.raises(ModelError, match=message):
            run(given)
        assert not folder.exists() or [] == list(folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="another variable names the folder there")
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable goes before the desktop's folder, and that before the home folder's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert tmp_path / "cache" == cache.cache_folder()
    for empty in (True, False):
        if empty:
            monkeypatch.setenv(cache.CACHE_VARIABLE, "")
        else:
            monkeypatch.delenv(cache.CACHE_VARIABLE)
        assert tmp_path / "xdg/onnxfit" == cache.cache_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tmp_path / "home/.cache/onnxfit" == cache.cache_folder()
    assert not os.path.lexists(tmp_path / "home")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(NativeLibraryError, match=r"^there is no home folder .* ONNXFIT_CACHE name"):
        run(model())
