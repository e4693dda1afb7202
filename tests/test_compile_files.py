"""Compiled models and files: external data, large weights, the record."""

import errno
import functools
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compile_support import (
    HEAD,
    RESIDUAL,
    WEIGHTS,
    Array,
    X,
    distinct,
    network,
    outputs,
)
from corpus import Feeds, all_same_bits, run
from independent import jump_of, swapped
from support import MODELS, parse, quiet

import onnxfit
from onnxfit.compilation import compiler
from onnxfit.compilation.machine import this_machine
from onnxfit.compilation.optimising import optimise
from onnxfit.compilation.record import recorded
from onnxfit.errors import ModelError
from onnxfit.external_data import external_files, relocate, take_inside


def test_external_data_stays_readable(tmp_path: Path) -> None:
    """From a file, and from a model with base_dir; the compiled model holds its weights.

    Those that ONNX Runtime leaves as they are too.
    """
    text = HEAD + "g " + RESIDUAL.replace("c = Conv(x,", "o = Mul(x, three) c = Conv(o,")
    source = network(text)
    onnx.save(
        network(text),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        size_threshold=0,
    )
    model = onnxfit.retrofit(tmp_path / "m.onnx", jumps=distinct(source))
    onnxfit.save(model, tmp_path / "hard.onnx", tmp_path)
    expected = run(swapped(source, lambda value: jump_of(value, 1.125)), [{"x": X}])
    for given, folder in ((tmp_path / "hard.onnx", None), (model, tmp_path)):
        compiled = onnxfit.compile(given, base_dir=folder)
        assert all(map(np.array_equal, expected, outputs(compiled, {"x": X})))
    with pytest.raises(ModelError, match=r"^the model has external data; say with base_dir in wh"):
        onnxfit.compile(model)


def test_a_folder_may_be_one_that_can_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: the model is read elsewhere, with its external data."""
    expected = external(tmp_path / "hard.onnx", "w.data")
    make = tempfile.mkstemp

    def refuse(*, dir: Path, **options: Any) -> Any:  # noqa: A002 - the name of the library
        if dir == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return make(dir=dir, **options)

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    compiled = onnxfit.compile(tmp_path / "hard.onnx")
    assert np.array_equal(expected, outputs(compiled, {"x": X})[0])
    model = onnx.load(tmp_path / "hard.onnx", load_external_data=False)
    started = onnxfit.session(model, quiet(), base_dir=tmp_path)
    assert np.array_equal(expected, started.run(None, {"x": X})[0])
    assert {"hard.onnx", "w.data"} == {path.name for path in tmp_path.iterdir()}


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let weights of a kilobyte and more need a file of their own."""
    monkeypatch.setattr(compiler, "optimise", functools.partial(optimise, most_inside=1024))


@pytest.mark.usefixtures("small_files")
def test_large_weights_go_to_their_own_file(tmp_path: Path) -> None:
    """Which is written once, whole, and is all that the folder then has."""
    source = network(HEAD + "g " + RESIDUAL)
    hard = onnxfit.retrofit(source, jumps=distinct(source))
    message = r"^the weights of the model are too large for one file: give a data_dir$"
    with pytest.raises(ModelError, match=message):
        onnxfit.compile(hard)
    for _ in range(2):
        compiled = onnxfit.compile(hard, data_dir=tmp_path, weights="w.data")
        assert ["w.data"] == [path.name for path in tmp_path.iterdir()]
    expected = run(swapped(source, lambda value: jump_of(value, 1.125)), [{"x": X}])
    found = outputs(compiled, {"x": X}, tmp_path)
    assert all(map(np.array_equal, expected, found))
    (tmp_path / "there").mkdir()
    onnxfit.save(compiled, tmp_path / "there/c.onnx", tmp_path)
    session = onnxfit.session(tmp_path / "there/c.onnx", quiet())
    assert all(map(np.array_equal, expected, session.run(None, {"x": X})))


def test_the_model_stays_as_it_was() -> None:
    """Compiling changes no argument, and gives the same model twice."""
    hard = onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.1)
    before = hard.SerializeToString()
    compiled = onnxfit.compile(hard)
    assert before == hard.SerializeToString()
    assert compiled.graph == onnxfit.compile(hard).graph


def test_a_record_of_what_was_compiled_and_for_what(tmp_path: Path) -> None:
    """The hardened file's digest, the source's, how the jumps were chosen; no key twice."""
    path = tmp_path / "hard.onnx"
    onnxfit.save(onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.1), path)
    compiled = onnxfit.compile(path)
    made = recorded(compiled)
    assert made is not None
    assert onnxfit.inspect(path).sha256 == made["hardened_sha256"]
    assert this_machine() == made["machine"]
    keys = [entry.key for entry in compiled.metadata_props]
    assert len(keys) == len(set(keys))
    found = onnxfit.inspect(compiled)
    source = onnxfit.inspect(MODELS / "digits_cnn.onnx").sha256
    assert source == found.provenance["source_sha256"]
    assert {0.1} == set(found.jumps.values())


def test_an_input_that_stood_for_a_folded_constant_is_gone() -> None:
    """Before IR version 4 an initializer is an input too; without it a session would ask for it."""
    source = parse(
        '<ir_version: 3, opset_import: ["": 9]> '
        "g (float[N, 2] x, float[2] a, float[2] b) => (float[N, 2] y) "
        "<float[2] a = {1, 2}, float[2] b = {3, 4}> "
        "{ w = Add(a, b) h = Mul(x, w) y = Relu(h) }"
    )
    hard = onnxfit.retrofit(source, 0.5)
    compiled = onnxfit.compile(hard)
    assert ["x"] == [value.name for value in compiled.graph.input]
    feeds: Feeds = [{"x": np.array([[0.1, 0.2], [1, -1]], np.float32)}]
    assert all_same_bits(run(hard, feeds, library=True), run(compiled, feeds, library=True))


def external(path: Path, location: str) -> Array:
    """Write a hardened residual network whose weights all lie in one file.

    Returns:
        What it computes of X.
    """
    source = network(HEAD + "g " + RESIDUAL.replace("c = Conv(x,", "o = Mul(x, three) c = Conv(o,"))
    expected = run(swapped(source, lambda value: jump_of(value, 1.125)), [{"x": X}])[0]
    plain = path.with_name("plain.onnx")
    jumps = distinct(source)
    onnx.save(source, plain, save_as_external_data=True, size_threshold=0, location=location)
    onnxfit.save(onnxfit.retrofit(plain, jumps=jumps), path, path.parent)
    plain.unlink()
    return expected


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("location", ["weights.data", "other.data"])
def test_small_weights_of_a_large_model_come_along(location: str, tmp_path: Path) -> None:
    """Nothing in the compiled model lies in a file of the source, whatever that is named."""
    expected = external(tmp_path / "hard.onnx", location)
    (tmp_path / "made").mkdir()
    compiled = onnxfit.compile(tmp_path / "hard.onnx", data_dir=tmp_path / "made")
    assert ["weights.data"] == [path.name for path in (tmp_path / "made").iterdir()]
    assert [tmp_path / "made/weights.data"] == external_files(compiled, tmp_path / "made")
    assert np.array_equal(expected, outputs(compiled, {"x": X}, tmp_path / "made")[0])


@pytest.mark.usefixtures("small_files")
def test_weights_of_others_are_never_overwritten(tmp_path: Path) -> None:
    """Neither the source's own nor a file of other content; nothing else is left behind."""
    external(tmp_path / "hard.onnx", "weights.data")
    weights = tmp_path / "weights.data"
    before = weights.read_bytes()
    (tmp_path / "link.data").symlink_to(weights)
    for name in ("weights.data", "link.data"):
        message = f"^{re.escape(str(tmp_path / name))} is where the model's external data lies$"
        with pytest.raises(ModelError, match=message):
            onnxfit.compile(tmp_path / "hard.onnx", data_dir=tmp_path, weights=name)
    assert before == weights.read_bytes()
    mine = tmp_path / "mine.data"
    mine.write_text("mine")
    message = f"^{re.escape(str(mine))} exists and is not the model's external data$"
    with pytest.raises(ModelError, match=message):
        onnxfit.compile(tmp_path / "hard.onnx", data_dir=tmp_path, weights="mine.data")
    assert "mine" == mine.read_text()
    names = {"hard.onnx", "weights.data", "link.data", "mine.data"}
    assert names == {path.name for path in tmp_path.iterdir()}


def test_a_folder_for_weights_must_be_there(tmp_path: Path) -> None:
    """It is named, and not made."""
    hard = onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), 1.5)
    message = f"^{re.escape(str(tmp_path / 'none'))} takes no temporary file: "
    with pytest.raises(ModelError, match=message):
        onnxfit.compile(hard, data_dir=tmp_path / "none")
    assert [] == list(tmp_path.iterdir())


def test_one_file_of_weights_stays_outside(tmp_path: Path) -> None:
    """What lies in others is read into the model, whatever ONNX Runtime leaves there."""
    external(tmp_path / "hard.onnx", "w.data")
    model = onnx.load(tmp_path / "hard.onnx", load_external_data=False)
    first, *others = model.graph.initializer
    (location,) = [entry for entry in first.external_data if entry.key == "location"]
    location.value = "elsewhere.data"
    take_inside(model, tmp_path, but="elsewhere.data")
    relocate(model, "elsewhere.data", "made.data")
    assert [tmp_path / "made.data"] == external_files(model, tmp_path)
    assert 2 == len(others)
    assert not any(tensor.external_data for tensor in others)
    for tensor in others:
        assert np.array_equal(np.asarray(WEIGHTS[tensor.name]), onnx.numpy_helper.to_array(tensor))
