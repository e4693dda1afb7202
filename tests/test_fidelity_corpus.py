"""Whole models, hardened: equal to their source but for the activations, and exact in use."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from corpus import (
    CORPUS,
    HARDENED,
    HEAVY,
    LIGHT_ONLY,
    LOWERINGS,
    NOT_RUN,
    REFUSED,
    Outputs,
    Source,
    all_same_bits,
    feeds_for,
    manifest,
    read,
    run,
)
from independent import differences, expose, jump_of, main_graph_values, swapped
from onnx import ModelProto, TensorProto
from onnx.numpy_helper import from_array, to_array
from onnxruntime import InferenceSession
from support import SHARED, parse, quiet

import onnxfit
from onnxfit.errors import ModelError
from onnxfit.hardening import Lowering


@pytest.fixture(scope="module", params=HARDENED)
def source(request: pytest.FixtureRequest) -> Source:
    """Each model of the corpus that can be hardened; the tests of one follow each other."""
    return read(request.param)


@pytest.fixture(scope="module")
def hardened(source: Source) -> ModelProto:
    """The model with JumpReLUs of many sizes."""
    return onnxfit.retrofit(source.model, jumps=source.jumps)


def lowerings(source: Source) -> tuple[Lowering, ...]:
    """Return the lowerings to look at."""
    return LOWERINGS[:1] if source.name in HEAVY else LOWERINGS


def assert_close(expected: Outputs, actual: Outputs) -> None:
    """Check that arrays differ by no more than the rounding of a differently fused network."""
    for one, other in zip(expected, actual, strict=True):
        scale = max(1.0, float(np.max(np.abs(one), initial=0)))
        np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=1e-4)


def assert_same_top1(expected: Outputs, actual: Outputs) -> None:
    """Check that a classifier decides the same."""
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(
            one.reshape(len(one), -1).argmax(1), other.reshape(len(other), -1).argmax(1)
        )


@pytest.mark.skipif(LIGHT_ONLY, reason=f"there is no {SHARED / 'models'}")
def test_corpus_is_complete() -> None:
    """Every model that the manifest lists is looked at."""
    assert set(manifest()) <= set(CORPUS)


def test_nothing_but_the_activations_changes(source: Source) -> None:
    """Nodes, initializers, metadata, annotations, subgraphs and functions stay as they were."""
    for lowering in lowerings(source):
        changed = onnxfit.retrofit(source.model, jumps=source.jumps, lowering=lowering)
        assert [] == differences(source.model, changed)
        assert source.jumps == {s.name: s.jump for s in onnxfit.find_sites(changed)}


def test_the_checker_accepts_what_it_accepted_before(source: Source, tmp_path: Path) -> None:
    """The hardened file passes onnx's full check whenever its source does."""
    for lowering in lowerings(source):
        changed = onnxfit.retrofit(source.model, jump=0.5, lowering=lowering)
        if _accepted(source, source.model, tmp_path / "source"):
            assert _accepted(source, changed, tmp_path / lowering)


def _accepted(source: Source, model: ModelProto, folder: Path) -> bool:
    checked: ModelProto | str = model
    if source.folder is not None:
        folder.mkdir(exist_ok=True)
        for file in source.folder.iterdir():
            shutil.copyfile(file, folder / file.name)
        checked = str(folder / "checked.onnx")
        onnxfit.save(model, checked)
    try:
        onnx.checker.check_model(checked, full_check=True)
    except onnx.checker.ValidationError:
        return False
    return True


def test_restore_gives_back_the_source(source: Source) -> None:
    """What retrofit did, restore undoes: the model is equal, and so are its bytes."""
    for lowering in lowerings(source):
        changed = onnxfit.retrofit(source.model, jumps=source.jumps, lowering=lowering)
        restored = onnxfit.restore(changed)
        assert source.model == restored
        assert source.model.SerializeToString() == restored.SerializeToString()


def test_new_jumps_take_the_place_of_old_ones(source: Source) -> None:
    """Hardening a hardened model is the same as hardening its source."""
    for lowering in lowerings(source):
        once = onnxfit.retrofit(source.model, jump=0.25, lowering=lowering)
        twice = onnxfit.retrofit(
            onnxfit.retrofit(source.model, jumps=source.jumps), jump=0.25, lowering=lowering
        )
        assert once == twice


def test_the_source_itself_stays_untouched(source: Source) -> None:
    """Retrofit and restore return new models."""
    before = source.model.SerializeToString()
    onnxfit.restore(onnxfit.retrofit(source.model, jump=0.5))
    assert before == source.model.SerializeToString()


def test_outputs_equal_the_independent_reference(source: Source, hardened: ModelProto) -> None:
    """With the library and without, every output and activation is the reference's, bit for bit.

    ONNX Runtime's optimiser is off: what it fuses depends on the operators around a convolution,
    and a fused one rounds differently. ONNX Runtime computes float16 networks in float, with
    roundings between that depend on the graph, so of these the decisions are compared.
    """
    if source.name in NOT_RUN:
        pytest.skip("ONNX Runtime has no kernels for operators of this model")
    feeds, element_type = feeds_for(source), source.element_type
    reference = swapped(source.model, jump_of, element_type)
    models = [source.model, reference, hardened]
    half = element_type == TensorProto.FLOAT16
    if not half:
        values = list(main_graph_values(source.model))
        models = [expose(model, values, element_type) for model in models]
    original, expected, fallback = (run(model, feeds, folder=source.folder) for model in models)
    assert not all_same_bits(original, expected), "the jumps change nothing, so nothing is tested"
    native = run(models[2], feeds, library=True, folder=source.folder)
    if half:
        assert_same_top1(expected, fallback)
        assert_same_top1(expected, native)
    else:
        assert all_same_bits(expected, fallback)
        assert all_same_bits(expected, native)


def test_the_other_lowerings_equal_the_function(source: Source, hardened: ModelProto) -> None:
    """The standard operators, and the custom operators alone, compute what the function does."""
    if source.name in NOT_RUN | HEAVY or source.element_type != TensorProto.FLOAT:
        pytest.skip("checked on models that are quick to run, and of type float")
    feeds, folder = feeds_for(source), source.folder
    expected = run(hardened, feeds, folder=folder)
    for lowering in lowerings(source)[1:]:
        other = onnxfit.retrofit(source.model, jumps=source.jumps, lowering=lowering)
        library = lowering == "custom"
        assert all_same_bits(expected, run(other, feeds, library=library, folder=folder))


def test_outputs_are_close_under_full_optimisation(source: Source, hardened: ModelProto) -> None:
    """With ONNX Runtime's default optimisation, only fusion's rounding may differ.

    It does for residual networks, where the convolution that is fused with an addition depends
    on the order of the nodes: a value may then fall on the other side of its jump.
    """
    if source.name in NOT_RUN | HEAVY:
        pytest.skip("checked on models that are quick to run")
    feeds = feeds_for(source)
    reference = swapped(source.model, jump_of, source.element_type)
    expected = run(reference, feeds, optimise=True, folder=source.folder)
    for library in (False, True):
        actual = run(hardened, feeds, library=library, optimise=True, folder=source.folder)
        if source.element_type == TensorProto.FLOAT16:
            assert_same_top1(expected, actual)
        elif not all_same_bits(expected, actual):
            assert_close(expected, actual)


def test_jump_0_reproduces_the_original(source: Source) -> None:
    """A jump of 0 is Relu: equal outputs, but for the rounding of lost fusions (1e-4 of scale)."""
    if source.name in NOT_RUN:
        pytest.skip("ONNX Runtime has no kernels for operators of this model")
    feeds, folder = feeds_for(source), source.folder
    flat = onnxfit.retrofit(source.model, jump=0)
    expected = run(source.model, feeds, folder=folder)
    actual = run(flat, feeds, library=True, folder=folder)
    if source.element_type == TensorProto.FLOAT16:
        assert_same_top1(expected, actual)
    else:
        for one, other in zip(expected, actual, strict=True):
            np.testing.assert_array_equal(one, other)
    if source.name not in HEAVY:
        expected = run(source.model, feeds, optimise=True, folder=folder)
        assert_close(expected, run(flat, feeds, optimise=True, folder=folder))


@pytest.mark.parametrize("name", [name for name in REFUSED if name in CORPUS])
def test_what_cannot_be_hardened_is_refused_with_the_reason(name: str) -> None:
    """A model without a Relu to replace is a ModelError that says what stands in its place."""
    with pytest.raises(ModelError, match=REFUSED[name]):
        onnxfit.retrofit(read(name).model, jump=0.5)


@pytest.fixture
def with_external_data(tmp_path: Path) -> Path:
    """A model whose weights lie in another file, in a folder of its own."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,512] x) => (float[N,512] y) '
        "{ h = Mul(x, w) y = Relu(h) }"
    )
    model.graph.initializer.append(from_array(np.arange(512, dtype=np.float32), "w"))
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    path = tmp_path / "source/m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    onnx.checker.check_model(str(path), full_check=True)
    return path


@pytest.mark.parametrize("copy_data", [False, True])
def test_external_data_goes_along_to_another_folder(
    copy_data: bool, with_external_data: Path, tmp_path: Path
) -> None:
    """ONNX Runtime runs a hardened file in another folder, by default with hard-linked data.

    onnx refuses external data with several hard links, of the link and of the source alike: its
    checker accepts both files where the data was copied.
    """
    target = tmp_path / "target/m.onnx"
    hard = onnxfit.retrofit(with_external_data, jump=0.5)
    onnxfit.save(hard, target, base_dir=with_external_data.parent, copy_data=copy_data)
    ones = np.ones((1, 512), np.float32)
    weights = np.arange(512, dtype=np.float32).reshape(1, 512)
    session = InferenceSession(str(target), quiet(), providers=["CPUExecutionProvider"])
    for x, expected in ((ones, weights), (-ones, np.zeros_like(ones))):
        assert all_same_bits([expected], session.run(None, {"x": x}))
    if copy_data:
        for file in (target, with_external_data):
            onnx.checker.check_model(str(file), full_check=True)
            np.testing.assert_array_equal(
                weights[0], to_array(onnx.load(file).graph.initializer[0])
            )
