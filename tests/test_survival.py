"""What other tools make of a hardened file: each row of docs/survival.md."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from independent import jump_of
from numpy.typing import NDArray
from onnx import ModelProto
from support import MODELS, SHARED, parse, quiet

import onnxfit
from onnxfit.errors import ModelError

Lowering = Literal["function", "custom", "standard"]
Array = NDArray[Any]

NOT_REGISTERED = "JumpReLU.* is not a registered function/op"


@dataclass(frozen=True)
class Fate:
    """What a hardened file is after a tool.

    Attributes:
        plain: It runs without the custom-op library; with it, it always does.
        jumps: ``onnxfit inspect`` names every jump, and ``onnxfit restore`` works.
        outputs: ``bits``: the same bit for bit; ``close``: but for rounding; ``top1``: nearly
            every decision is the same.
    """

    plain: bool = True
    jumps: bool = True
    outputs: Literal["bits", "close", "top1"] = "bits"


@pytest.fixture(scope="module")
def images() -> Array:
    """Images that the network was not trained on."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        return np.asarray(arrays["x"], np.float32)


@pytest.fixture(scope="module")
def source() -> ModelProto:
    """A trained network with batch normalisation and residual blocks."""
    return onnx.load(MODELS / "digits_cnn.onnx")


@pytest.fixture(scope="module")
def jumps(source: ModelProto) -> dict[str, float]:
    """A jump size for every site."""
    return {site.name: jump_of(site.name) for site in onnxfit.find_sites(source)}


@pytest.fixture
def tolerant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let other people's code warn, and leave its files in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run(model: ModelProto, x: Array, *, library: bool, optimise: bool = False) -> Array:
    """Run a model in ONNX Runtime and return its first output."""
    options = quiet(optimise=optimise)
    if library:
        onnxfit.register(options)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    output: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    return output


def assert_agree(fate: Fate, expected: Array, actual: Array) -> None:
    """Check outputs against what the table says of them."""
    if fate.outputs == "bits":
        assert expected.tobytes() == actual.tobytes()
    elif fate.outputs == "close":
        np.testing.assert_allclose(expected, actual, rtol=0, atol=1e-4 * np.abs(expected).max())
    agreement = (expected.argmax(1) == actual.argmax(1)).mean()
    assert agreement >= (0.95 if fate.outputs == "top1" else 1)


# --- the tools ------------------------------------------------------------------------------


def onnxsim(model: ModelProto, folder: Path) -> ModelProto:
    """Simplify with onnxsim."""
    del folder
    simplified, same = pytest.importorskip("onnxsim").simplify(model)
    assert same
    return _proto(simplified)


def onnxslim(model: ModelProto, folder: Path) -> ModelProto:
    """Simplify with onnxslim."""
    del folder
    return _proto(pytest.importorskip("onnxslim").slim(model))


def onnx_ir(model: ModelProto, folder: Path) -> ModelProto:
    """Load into onnx-ir's own structure and write that."""
    del folder
    ir = pytest.importorskip("onnx_ir")
    return _proto(ir.to_proto(ir.from_proto(model)))


def graphsurgeon(model: ModelProto, folder: Path) -> ModelProto:
    """Load into graphsurgeon's own structure and write that."""
    del folder
    gs = pytest.importorskip("onnx_graphsurgeon")
    return _proto(gs.export_onnx(gs.import_onnx(model)))


def shape_inference(model: ModelProto, folder: Path) -> ModelProto:
    """Annotate shapes with onnx."""
    del folder
    return onnx.shape_inference.infer_shapes(model)


def version_converter(model: ModelProto, folder: Path) -> ModelProto:
    """Convert to another opset with onnx."""
    del folder
    return onnx.version_converter.convert_version(model, 21)


def inliner(model: ModelProto, folder: Path) -> ModelProto:
    """Inline functions with onnx."""
    del folder
    return onnx.inliner.inline_local_functions(model)


def optimiser(model: ModelProto, folder: Path) -> ModelProto:
    """Optimise ahead of time with ONNX Runtime, which knows nothing of the library."""
    return _optimised(model, folder, quiet())


def optimiser_with_library(model: ModelProto, folder: Path) -> ModelProto:
    """Optimise ahead of time with ONNX Runtime and the library."""
    options = quiet()
    onnxfit.register(options)
    return _optimised(model, folder, options)


def quantiser(model: ModelProto, folder: Path) -> ModelProto:
    """Quantise to eight bits with ONNX Runtime, in its default form (QDQ)."""
    return quantised(model, folder)


def quantiser_of_operators(model: ModelProto, folder: Path) -> ModelProto:
    """Quantise with ONNX Runtime, in the form of quantised operators."""
    from onnxruntime.quantization import QuantFormat

    return quantised(model, folder, quant_format=QuantFormat.QOperator)


def quantisers_preprocessing(model: ModelProto, folder: Path) -> ModelProto:
    """Prepare for quantisation with ONNX Runtime, as its manual recommends."""
    pytest.importorskip("sympy", reason="ONNX Runtime's shape inference needs it")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx.save(model, folder / "before.onnx")
    quant_pre_process(str(folder / "before.onnx"), str(folder / "after.onnx"))
    return onnx.load(folder / "after.onnx")


def float16(model: ModelProto, folder: Path) -> ModelProto:
    """Convert to float16 with ONNX Runtime."""
    del folder
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return _proto(convert_float_to_float16(model, keep_io_types=True))


def quantised(model: ModelProto, folder: Path, **settings: Any) -> ModelProto:
    """Quantise with ONNX Runtime, calibrated on validation images."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            with np.load(MODELS / "digits_val.npz") as arrays:
                self.batches = iter(np.split(np.asarray(arrays["x"][:200], np.float32), 4))

        def get_next(self) -> dict[str, Array] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    onnx.save(model, folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "quantised.onnx", Reader(), **settings)
    return onnx.load(folder / "quantised.onnx")


def _optimised(model: ModelProto, folder: Path, options: onnxruntime.SessionOptions) -> ModelProto:
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return onnx.load(folder / "optimised.onnx")


def _proto(model: Any) -> ModelProto:
    assert isinstance(model, ModelProto)
    return model


Tool = Callable[[ModelProto, Path], ModelProto]

# Tool → its fate by lowering; None where the tool refuses the file.
FATES: dict[Tool, dict[Lowering, Fate | None]] = {
    onnxsim: {
        "function": Fate(outputs="close"),
        "custom": Fate(plain=False, outputs="close"),
        "standard": Fate(outputs="close"),
    },
    onnxslim: {
        "function": Fate(outputs="close"),
        "custom": Fate(plain=False, outputs="close"),
        "standard": Fate(outputs="close"),
    },
    onnx_ir: {"function": Fate(), "custom": Fate(plain=False), "standard": Fate()},
    graphsurgeon: {"function": Fate(), "custom": Fate(plain=False), "standard": Fate()},
    shape_inference: {"function": Fate(), "custom": Fate(plain=False), "standard": Fate()},
    version_converter: {
        "function": Fate(plain=False),
        "custom": Fate(plain=False),
        "standard": Fate(),
    },
    inliner: {"function": Fate(jumps=False), "custom": Fate(plain=False), "standard": Fate()},
    optimiser: {
        "function": Fate(jumps=False, outputs="close"),
        "custom": None,
        "standard": Fate(outputs="close"),
    },
    optimiser_with_library: {
        "function": Fate(plain=False, outputs="close"),
        "custom": Fate(plain=False, outputs="close"),
        "standard": Fate(outputs="close"),
    },
    quantiser: {
        "function": Fate(outputs="top1"),
        "custom": None,
        "standard": Fate(outputs="top1"),
    },
    quantiser_of_operators: {
        "function": Fate(outputs="top1"),
        "custom": None,
        "standard": Fate(outputs="top1"),
    },
    quantisers_preprocessing: {
        "function": Fate(jumps=False, outputs="close"),
        "custom": None,
        "standard": Fate(outputs="close"),
    },
    float16: {
        "function": Fate(outputs="top1"),
        "custom": Fate(plain=False, outputs="top1"),
        "standard": Fate(outputs="top1"),
    },
}


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize(
    ("tool", "lowering", "fate"),
    [
        pytest.param(tool, lowering, fate, id=f"{tool.__name__}-{lowering}")
        for tool, fates in FATES.items()
        for lowering, fate in fates.items()
    ],
)
def test_a_hardened_file_has_the_fate_that_the_table_states(
    tool: Tool,
    lowering: Lowering,
    fate: Fate | None,
    source: ModelProto,
    jumps: dict[str, float],
    images: Array,
    tmp_path: Path,
) -> None:
    """After the tool, the file runs, means the same, and tells of its jumps as documented."""
    hardened = onnxfit.retrofit(source, jumps=jumps, lowering=lowering)
    expected = run(hardened, images, library=True)
    assert not np.array_equal(expected, run(source, images, library=False))
    copy = ModelProto()
    copy.CopyFrom(hardened)
    if fate is None:
        with pytest.raises(Exception, match=f"{NOT_REGISTERED}|Incomplete symbolic shape"):
            tool(copy, tmp_path)
        return
    after = tool(copy, tmp_path)

    # It runs and means the same.
    for optimise in (False, True):
        actual = run(after, images, library=True, optimise=optimise)
        assert_agree(
            Fate(outputs="close") if optimise and fate.outputs == "bits" else fate, expected, actual
        )
    if fate.plain:
        assert_agree(fate, expected, run(after, images, library=False))
    else:
        with pytest.raises(Exception, match=NOT_REGISTERED):
            run(after, images, library=False)

    # It tells of its jumps, and can be restored.
    sites = onnxfit.inspect(after).sites
    if not fate.jumps:
        assert [] == [site for site in sites if site.jump is not None]
        for act in (onnxfit.restore, lambda model: onnxfit.retrofit(model, jump=1)):
            with pytest.raises(ModelError, match="another tool"):
                act(after)
        return
    assert sorted(jumps.values()) == sorted(
        site.jump for site in sites if isinstance(site.jump, float)
    )
    restored = onnxfit.restore(after)
    assert "onnxfit" not in {node.domain for node in restored.graph.node}
    assert [] == list(restored.functions)
    back = run(restored, images, library=False)
    assert_agree(fate, run(source, images, library=False), back)


def test_the_table_in_the_documentation_is_this_one() -> None:
    """docs/survival.md has a row for each tool, in this order, with these words."""
    text = (MODELS.parent / "docs/survival.md").read_text(encoding="utf-8")
    start = text.index("| Tool |")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text[start : text.index("\n\n", start)].splitlines()[2:]
    ]
    assert [row[1:] for row in rows] == [
        [_words(fates[lowering]) for lowering in ("function", "standard", "custom")]
        for fates in FATES.values()
    ]


def _words(fate: Fate | None) -> str:
    if fate is None:
        return "refused"
    words = [{"bits": "same bits", "close": "rounding", "top1": "top-1"}[fate.outputs]]
    words += [] if fate.plain else ["needs the library"]
    words += [] if fate.jumps else ["jumps unreadable"]
    return ", ".join(words)


# --- what the table does not show -----------------------------------------------------------


def test_hardening_again_brings_a_lost_function_back(
    source: ModelProto, jumps: dict[str, float], images: Array, tmp_path: Path
) -> None:
    """A file whose function the version converter dropped gets it back by a retrofit."""
    converted = version_converter(onnxfit.retrofit(source, jumps=jumps), tmp_path)
    again = onnxfit.retrofit(converted, jumps=jumps)
    expected = run(converted, images, library=True)
    assert expected.tobytes() == run(again, images, library=False).tobytes()


@pytest.mark.parametrize("opset", [7, 9, 12, 17])
@pytest.mark.parametrize("tool", [inliner, optimiser], ids=lambda tool: tool.__name__)
def test_an_inlined_file_is_not_hardened_on_top(tool: Tool, opset: int, tmp_path: Path) -> None:
    """Where another tool wrote the JumpReLUs out, a retrofit would nest them: it is refused.

    The body for opset 7 and 8 contains a Relu, which is no activation of the network.
    """
    model = parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N] x) => (float[N] y) '
        "{ h = Neg(x) y = Relu(h) }"
    )
    inlined = tool(onnxfit.retrofit(model, jump=0.5), tmp_path)
    with pytest.raises(ModelError, match="another tool"):
        onnxfit.retrofit(inlined, jump=1)


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("lowering", ["function", "standard"])
@pytest.mark.parametrize("tool", [onnxsim, onnxslim], ids=lambda tool: tool.__name__)
def test_restore_leaves_no_constant_behind(tool: Tool, lowering: Lowering, tmp_path: Path) -> None:
    """Constants of a hardened file that a tool made initializers go when it is restored."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 9]> g (float[N] x) => (float[N] y) '
        "{ h = Neg(x) y = Relu(h) }"
    )
    after = tool(onnxfit.retrofit(model, jump=0.5, lowering=lowering), tmp_path)
    assert [0.5] == [site.jump for site in onnxfit.find_sites(after)]
    again = onnxfit.retrofit(after, jump=0.25, lowering=lowering)
    restored = onnxfit.restore(again)
    assert ["Neg", "Relu"] == [node.op_type for node in restored.graph.node]
    assert [] == list(restored.graph.initializer)


@pytest.mark.usefixtures("tolerant")
def test_quantisation_keeps_a_jump_relu_but_may_fold_a_relu(
    source: ModelProto, jumps: dict[str, float], tmp_path: Path
) -> None:
    """Quantised first, the Relus are gone and the file is refused; hardened first, all stay.

    ``QDQKeepRemovableActivations`` keeps a Relu; to a JumpReLU it makes no difference.
    """
    keep = {"extra_options": {"QDQKeepRemovableActivations": True}}
    with pytest.raises(ModelError, match="harden first, quantise second"):
        onnxfit.retrofit(quantised(source, tmp_path), jump=0.5)
    kept = quantised(source, tmp_path, **keep)
    assert len(jumps) == len(onnxfit.find_sites(onnxfit.retrofit(kept, jump=0.5)))
    hardened = onnxfit.retrofit(source, jumps=jumps)
    assert quantised(hardened, tmp_path) == quantised(hardened, tmp_path, **keep)


def convolution(opset: int) -> ModelProto:
    """Return a small network for the digits' images."""
    model = parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,1,8,8] image) => '
        "(float[N,4,6,6] y) { h = Conv(image, w) y = Relu(h) }"
    )
    weights = np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return model


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("opset", [9, 10, 11])
def test_quantisation_of_old_files(opset: int, images: Array, tmp_path: Path) -> None:
    """Below opset 10 the quantiser converts the file, which drops the function it then needs."""
    hardened = onnxfit.retrofit(convolution(opset), jump=0.1)
    if opset < 10:
        with pytest.raises(Exception, match=NOT_REGISTERED):
            quantised(hardened, tmp_path)
    else:
        run(quantised(hardened, tmp_path), images, library=False)
    standard = onnxfit.retrofit(convolution(opset), jump=0.1, lowering="standard")
    run(quantised(standard, tmp_path), images, library=False)


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("opset", [9, 14, 15])
def test_float16_conversion_of_old_files(opset: int, images: Array, tmp_path: Path) -> None:
    """Below opset 15 the function is for float alone: convert to float16 first, then harden."""
    hardened = onnxfit.retrofit(convolution(opset), jump=0.1)
    after = float16(hardened, tmp_path)
    if opset < 15:
        with pytest.raises(Exception, match="inconsistent type"):
            run(after, images, library=False)
    else:
        expected, actual = (run(model, images, library=False) for model in (hardened, after))
        assert np.mean(np.abs(expected - actual) < 0.01) > 0.99
    first = float16(convolution(opset), tmp_path)
    run(onnxfit.retrofit(first, jump=0.1), images, library=False)


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("name", ["imagenet/squeezenet_fp16.onnx", "cifar10/scl_resnet20.onnx"])
@pytest.mark.parametrize(
    "tool", [onnxsim, onnxslim, onnx_ir, graphsurgeon], ids=lambda tool: tool.__name__
)
def test_old_files_survive_too(tool: Tool, name: str, tmp_path: Path) -> None:
    """A hardened file of opset 7 and IR version 3 still runs without the library."""
    path = SHARED / "models" / name
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    source = onnx.load(path)
    hardened = onnxfit.retrofit(source, jump=0.1)
    weights = {tensor.name for tensor in source.graph.initializer}
    inputs = [value for value in source.graph.input if value.name not in weights]
    dims = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
    half = "fp16" in name
    x = np.random.default_rng(0).standard_normal(dims).astype(np.float16 if half else np.float32)
    expected = run(hardened, x, library=False)
    copy = ModelProto()
    copy.CopyFrom(hardened)
    actual = run(tool(copy, tmp_path), x, library=False)
    assert_agree(Fate(outputs="top1" if half else "close"), expected, actual)
    assert len(onnxfit.find_sites(source)) == len(onnxfit.find_sites(tool(hardened, tmp_path)))
