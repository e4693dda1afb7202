"""A hardened file is its source but for the activations: proto by proto, and bit for bit in use.

The corpus is the nine real architectures that the onnx package bundles and, where it is present,
every model in the folder that ``ONNXFIT_SHARED`` names.
"""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from independent import differences, expose, jump_of, main_graph_values, swapped
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from support import (
    MODELS,
    NAMES,
    SHARED,
    dtype_of,
    edge_values,
    newest_opset,
    parse,
    quiet,
    relu_model,
    run_one,
    same_bits,
)

import onnxfit
from onnxfit.errors import ModelError

Lowering = Literal["function", "custom", "standard"]
Feeds = list[dict[str, NDArray[Any]]]
Outputs = list[NDArray[Any]]

LOWERINGS: tuple[Lowering, ...] = get_args(Lowering)
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"

# What cannot be hardened, and the reason that the message must name.
REFUSED = {
    "edge/winml_pcb_aoi_opset1.onnx": "the model is of opset 1, onnxfit needs 7 or newer",
    "edge/sigmoid_only_no_relu.onnx": "the model has no Relu .* 6 Sigmoid",
    "derived/lenet_qdq_relu_folded_away.onnx": "a Relu was folded into the zero point",
}
# Files with operators for which ONNX Runtime has no kernel.
NOT_RUN = {"edge/qonnx_jettagging_customop.onnx", "edge/qonnx_kwsmlp_customop.onnx"}
# Too slow or too large for more than one look.
HEAVY = {
    "big/tll_N56_159MB.onnx.gz",
    "light/light_densenet121.onnx",
    "light/light_vgg19.onnx",
    "light/light_zfnet512.onnx",
    "structure/candy_style.onnx",
}
# Fixed sizes for inputs that state none.
SHAPES = {
    "qat_mobilenetv4s_qdq_u8in.onnx": {"input_u8": (1, 3, 96, 96)},
    "silero_vad_if.onnx": {"input": (1, 576), "state": (2, 1, 128)},
    "yunet_n_dynamic.onnx": {"input": (1, 3, 64, 96)},
}


@dataclass(frozen=True)
class Source:
    """A model of the corpus.

    Attributes:
        name: Its path in the corpus.
        path: Its file.
        model: What the file holds.
        folder: Where its external data is, if it has any.
    """

    name: str
    path: Path
    model: ModelProto
    folder: Path | None

    @property
    def element_type(self) -> int:
        """The type of its activations."""
        return int(TensorProto.FLOAT16 if "fp16" in self.name else TensorProto.FLOAT)

    @property
    def jumps(self) -> dict[str, float]:
        """A jump size for every site, by the name of the value it writes."""
        return jumps_of(self.model)


def jumps_of(model: ModelProto) -> dict[str, float]:
    """Choose a jump size for every site by the value that it writes, whatever its scope."""
    return {
        site.name: jump_of(site.name.removeprefix(f"{site.scope}/" if site.scope else ""))
        for site in onnxfit.find_sites(model)
    }


def corpus() -> dict[str, Path]:
    """Return the files of the corpus by name, those of the onnx package first."""
    files = {f"light/{path.name}": path for path in sorted(LIGHT.glob("*.onnx"))}
    folder = SHARED / "models"
    for path in sorted([*folder.rglob("*.onnx"), *folder.rglob("*.onnx.gz")]):
        files[path.relative_to(folder).as_posix()] = path
    return files


CORPUS = corpus()
HARDENED = [name for name in CORPUS if name not in REFUSED]
LIGHT_ONLY = len(CORPUS) == len(list(LIGHT.glob("*.onnx")))


def read(name: str) -> Source:
    """Read a model of the corpus, its external data left on disk."""
    path = CORPUS[name]
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    model = ModelProto.FromString(content)
    external = any(t.data_location == TensorProto.EXTERNAL for t in model.graph.initializer)
    return Source(name, path, model, path.parent if external else None)


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


@cache
def manifest() -> dict[str, dict[str, Any]]:
    """Return what is known of the models, by name."""
    path = SHARED / "models/MANIFEST.json"
    if not path.is_file():
        return {}
    return {entry["file"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}


@cache
def images(data: str) -> NDArray[np.float32]:
    """Return a few real images in [0, 1]."""
    name = {
        "mnist": "mnist_0_4999",
        "cifar": "cifar10_exact_549",
        "imagenet": "imagenet_sample_100",
    }
    with np.load(SHARED / f"data/{name[data]}.npz") as arrays:
        chosen = np.asarray(arrays["x"][: 2 if data == "imagenet" else 8], np.float32) / 255
    if data == "imagenet":
        chosen = np.ascontiguousarray(chosen[:, ::-1, 16:240, 16:240])
    return chosen


def feeds_for(source: Source) -> Feeds:
    """Return inputs of a model: preprocessed images where it was trained on some, else noise."""
    entry = manifest().get(source.name, {})
    initializers = {tensor.name for tensor in source.model.graph.initializer}
    inputs = [value for value in source.model.graph.input if value.name not in initializers]
    if entry.get("data"):
        mean, std = (np.float32(entry[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
        x = (images(entry["data"]) - mean) / std
        dims = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
        if len(dims) == 4 and dims[3] in (1, 3):
            x = x.transpose(0, 2, 3, 1)
        elif len(dims) < 4:
            x = x.reshape(len(x), *dims[1:])
        x = np.ascontiguousarray(x, dtype_of(inputs[0].type.tensor_type.elem_type))
        return [{inputs[0].name: one} for one in (np.split(x, len(x)) if dims[0] == 1 else [x])]
    rng = np.random.default_rng(0)
    return [{value.name: _noise(source.path.name, value, rng) for value in inputs}]


def _noise(file: str, value: onnx.ValueInfoProto, rng: np.random.Generator) -> NDArray[Any]:
    tensor = value.type.tensor_type
    dims = [max(dim.dim_value, 1) for dim in tensor.shape.dim]
    dims = list(SHAPES.get(file, {}).get(value.name, dims))
    if tensor.elem_type == TensorProto.BOOL:
        return np.ones(dims, bool)
    if tensor.elem_type == TensorProto.INT64:
        return np.full(dims, 16000 if value.name == "sr" else 3)
    if tensor.elem_type == TensorProto.UINT8:
        return rng.integers(0, 256, dims, np.uint8)
    return rng.standard_normal(dims).astype(dtype_of(tensor.elem_type))


def run(
    model: ModelProto,
    feeds: Feeds,
    *,
    library: bool = False,
    optimise: bool = False,
    folder: Path | None = None,
) -> Outputs:
    """Run a model in ONNX Runtime and return the outputs for all inputs, one after the other."""
    options = quiet(optimise=optimise)
    if library:
        onnxfit.register(options)
    if folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder.resolve()))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [output for feed in feeds for output in session.run(None, feed)]


def all_same_bits(expected: Outputs, actual: Outputs) -> bool:
    """Tell whether two lists of arrays agree in every bit."""
    return all(same_bits(one, other) for one, other in zip(expected, actual, strict=True))


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


# --- the corpus -----------------------------------------------------------------------------


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
    custom = onnxfit.retrofit(source.model, jumps=source.jumps, lowering="custom")
    standard = onnxfit.retrofit(source.model, jumps=source.jumps, lowering="standard")
    expected = run(hardened, feeds, folder=folder)
    assert all_same_bits(expected, run(custom, feeds, library=True, folder=folder))
    assert all_same_bits(expected, run(standard, feeds, folder=folder))


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


def test_external_data_goes_along_to_another_folder(tmp_path: Path) -> None:
    """A hardened file with external data is complete in another folder, and its source still is.

    onnx refuses external data with several hard links, of the copy and of the source alike.
    """
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,512] x) => (float[N,512] y) '
        "{ h = Mul(x, w) y = Relu(h) }"
    )
    weights = onnx.numpy_helper.from_array(np.arange(512, dtype=np.float32), "w")
    model.graph.initializer.append(weights)
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    path, target = tmp_path / "source/m.onnx", tmp_path / "target/m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    onnx.checker.check_model(str(path), full_check=True)
    onnxfit.save(onnxfit.retrofit(path, jump=0.5), target, base_dir=path.parent)
    x = np.full((1, 512), -1, np.float32)
    assert all_same_bits(
        [np.zeros_like(x)],
        run(onnxfit.load(target), [{"x": x}], folder=target.parent),
    )
    for file in (target, path):
        onnx.checker.check_model(str(file), full_check=True)
        assert weights.raw_data == onnx.load(file).graph.initializer[0].raw_data


# --- the comparison itself ------------------------------------------------------------------

RICH = """
<
  ir_version: 10, opset_import: ["": 17, "local": 1], producer_name: "test",
  model_version: 7, doc_string: "a model", metadata_props: ["author": "somebody"]
>
g (float[N,4] x, bool c) => (float[N,4] y)
<float[4] w = {1, 2, 3, 4}, float zero = {0}, float six = {6}, float[N,4] h>
{
  [first] h = Mul(x, w)
  [second] a = Relu(h)
  [third] b = Clip(a, zero, six)
  d = If(c) <
    then_branch = inner_then () => (float[N,4] t) { t = Relu(b) },
    else_branch = inner_else () => (float[N,4] e) { e = Neg(b) }
  >
  s = LeakyRelu<alpha: float = 0.25>(d)
  y = local.act(s)
}
<domain: "local", opset_import: ["": 17]>
act (X) => (Y) { r = Relu(X) Y = Add(r, r) }
"""


def rich_model() -> ModelProto:
    """Return a model with everything that an editor of protos might lose."""
    model = parse(RICH)
    model.graph.node[1].doc_string = "the activation"
    model.graph.node[1].metadata_props.add(key="origin", value="layer 1")
    model.graph.doc_string = "a graph"
    model.functions[0].doc_string = "a function"
    annotation = model.graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="zero")
    model.training_info.add().initialization_binding.add(key="w", value="x")
    return model


def initializer(model: ModelProto) -> None:
    """Change a weight."""
    model.graph.initializer[0].float_data[2] = 3.5


def doc_string_of_an_activation(model: ModelProto) -> None:
    """Drop the text at a replaced node."""
    next(node for node in model.graph.node if node.name == "second").ClearField("doc_string")


def doc_string_of_a_function(model: ModelProto) -> None:
    """Drop the text at a function."""
    model.functions[0].ClearField("doc_string")


def node_metadata(model: ModelProto) -> None:
    """Drop the metadata of a replaced node."""
    del next(node for node in model.graph.node if node.name == "second").metadata_props[:]


def node_name(model: ModelProto) -> None:
    """Rename a replaced node."""
    next(node for node in model.graph.node if node.name == "second").name = "other"


def attribute(model: ModelProto) -> None:
    """Change a number at a node that is no site."""
    next(node for node in model.graph.node if node.op_type == "LeakyRelu").attribute[0].f = 0.5


def node_in_a_subgraph(model: ModelProto) -> None:
    """Change an operator inside an If."""
    branches = next(node for node in model.graph.node if node.op_type == "If").attribute
    branches[1].g.node[0].op_type = "Abs"


def node_in_a_function(model: ModelProto) -> None:
    """Change an operator inside a function."""
    model.functions[0].node[-1].op_type = "Mul"


def order(model: ModelProto) -> None:
    """Swap two nodes."""
    last, before = model.graph.node[-1], model.graph.node[-2]
    copy = onnx.NodeProto()
    copy.CopyFrom(last)
    last.CopyFrom(before)
    before.CopyFrom(copy)


def added_node(model: ModelProto) -> None:
    """Add a node that nobody asked for."""
    model.graph.node.add(op_type="Identity", input=["x"], output=["unused"])


def missing_node(model: ModelProto) -> None:
    """Take the last node away."""
    del model.graph.node[-1]


def input_of_an_activation(model: ModelProto) -> None:
    """Let a JumpReLU read another value."""
    next(node for node in model.graph.node if node.name == "second").input[0] = "x"


def value_info(model: ModelProto) -> None:
    """Drop the type of an inner value."""
    del model.graph.value_info[:]


def annotation(model: ModelProto) -> None:
    """Drop a quantisation annotation."""
    del model.graph.quantization_annotation[:]


def metadata(model: ModelProto) -> None:
    """Drop the author."""
    del model.metadata_props[0]


def model_version(model: ModelProto) -> None:
    """Drop the version that the model's author gave it."""
    model.ClearField("model_version")


def training(model: ModelProto) -> None:
    """Drop what a trainer left."""
    del model.training_info[:]


def ir_version(model: ModelProto) -> None:
    """Raise the version of the format without need."""
    model.ir_version += 1


def opset(model: ModelProto) -> None:
    """Read the nodes at another version."""
    model.opset_import[0].version += 1


def output(model: ModelProto) -> None:
    """Lose the shape of an output."""
    model.graph.output[0].type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_comparison_finds_nothing_in_an_honest_file(lowering: Lowering) -> None:
    """The comparison accepts what retrofit does."""
    model = rich_model()
    assert [] == differences(model, onnxfit.retrofit(model, jump=0.5, lowering=lowering))


TAMPERS: list[Callable[[ModelProto], None]] = [
    initializer,
    doc_string_of_an_activation,
    doc_string_of_a_function,
    node_metadata,
    node_name,
    attribute,
    node_in_a_subgraph,
    node_in_a_function,
    order,
    added_node,
    missing_node,
    input_of_an_activation,
    value_info,
    annotation,
    metadata,
    model_version,
    training,
    ir_version,
    opset,
    output,
]


@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda tamper: tamper.__name__)
def test_comparison_notices_a_tampered_file(tamper: Callable[[ModelProto], None]) -> None:
    """The comparison reports whatever else is changed."""
    model = rich_model()
    changed = onnxfit.retrofit(model, jump=0.5)
    tamper(changed)
    assert differences(model, changed)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_rich_model_is_restored(lowering: Lowering) -> None:
    """Restore gives back doc strings, annotations, functions and subgraphs too."""
    model = rich_model()
    restored = onnxfit.restore(onnxfit.retrofit(model, jump=0.5, lowering=lowering))
    assert model.SerializeToString() == restored.SerializeToString()


# --- subgraphs, functions and old formats ---------------------------------------------------

STRUCTURES = {
    "if": (
        ["a.then_branch/t", "a.then_branch/u.else_branch/v", "a.else_branch/e", "y"],
        """
        <ir_version: 8, opset_import: ["": 16]>
        g (float[N] x, bool c) => (float[N] y) {
          no = Not(c)
          a = If(c) <
            then_branch = one () => (float[N] u) {
              t = Relu(x)
              u = If(no) <
                then_branch = three () => (float[N] w) { w = Neg(t) },
                else_branch = four () => (float[N] v) { v0 = Sub(x, t) v1 = Neg(v0) v = Relu(v1) }
              >
            },
            else_branch = two () => (float[N] e) { n = Neg(x) e = Relu(n) }
          >
          d = Sub(a, x)
          y = Relu(d)
        }
        """,
    ),
    "loop": (
        ["y.body/next"],
        """
        <ir_version: 8, opset_import: ["": 13]>
        g (float[N] x, int64 n, bool c) => (float[N] y) <float step = {0.25}> {
          y = Loop(n, c, x) <
            body = b (int64 i, bool go, float[N] v) => (bool go_on, float[N] next) {
              go_on = Identity(go)
              less = Sub(v, step)
              next = Relu(less)
            }
          >
        }
        """,
    ),
    "scan": (
        ["all.body/state"],
        """
        <ir_version: 8, opset_import: ["": 11]>
        g (float[N] x) => (float all, float[N] y) <float start = {0}> {
          all, y = Scan<num_scan_inputs = 1,
            body = b (float before, float v) => (float state, float each) {
              sum = Add(before, v)
              state = Relu(sum)
              each = Identity(state)
            }
          >(start, x)
        }
        """,
    ),
    "function": (
        ["local::inner/Y", "local::outer/Z.then_branch/T"],
        """
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[N] x, bool c) => (float[N] y) {
          h = local.outer(x, c)
          y = local.inner(h)
        }
        <domain: "local", opset_import: ["": 17]>
        inner (X) => (Y) { N = Neg(X) Y = Relu(N) }
        <domain: "local", opset_import: ["": 17, "local": 1]>
        outer (X, C) => (Z) {
          I = local.inner(X)
          Z = If(C) <
            then_branch = one () => (float[N] T) { S = Sub(X, I) T = Relu(S) },
            else_branch = two () => (float[N] E) { E = Neg(I) }
          >
        }
        """,
    ),
    "clip": (
        ["a", "y"],
        """
        <ir_version: 7, opset_import: ["": 11]>
        g (float[N] x) => (float[N] y) <float zero = {0}, float half = {0.5}, float one = {1}> {
          a = Clip(x, zero, one)
          b = Sub(one, a)
          d = Clip(b, half)
          y = Clip(d, zero)
        }
        """,
    ),
    "clip with attributes": (
        ["y"],
        """
        <ir_version: 3, opset_import: ["": 7]>
        g (float[N] x) => (float[N] y) {
          a = Clip<min: float = -1.0, max: float = 1.0>(x)
          y = Clip<min: float = 0.0, max: float = 0.6>(a)
        }
        """,
    ),
}


def structure(name: str) -> tuple[ModelProto, Feeds]:
    """Return a model with activations in unusual places, and inputs for it."""
    model = parse(STRUCTURES[name][1])
    x = np.linspace(-1, 1, 41, dtype=np.float32)
    common = {"x": x, "n": np.array(3)}
    names = {value.name for value in model.graph.input}
    feeds: Feeds = [
        {key: value for key, value in {**common, "c": np.array(c)}.items() if key in names}
        for c in (True, False)
    ]
    return model, feeds


@pytest.fixture(params=STRUCTURES)
def structured(request: pytest.FixtureRequest) -> tuple[str, ModelProto, Feeds]:
    """Each structure with its inputs."""
    return (request.param, *structure(request.param))


def test_sites_are_found_wherever_they_are(structured: tuple[str, ModelProto, Feeds]) -> None:
    """Sites of subgraphs and functions are named after their scope."""
    name, model, _ = structured
    assert sorted(STRUCTURES[name][0]) == sorted(s.name for s in onnxfit.find_sites(model))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_structures_run_like_the_reference(
    structured: tuple[str, ModelProto, Feeds], lowering: Lowering
) -> None:
    """Hardened subgraphs and functions compute the reference bit for bit, and are restored."""
    _, model, feeds = structured
    changed = onnxfit.retrofit(model, jumps=jumps_of(model), lowering=lowering)
    onnx.checker.check_model(changed, full_check=True)
    assert [] == differences(model, changed)
    assert model.SerializeToString() == onnxfit.restore(changed).SerializeToString()
    expected = run(swapped(model, jump_of), feeds)
    assert not all_same_bits(run(model, feeds), expected)
    for optimise in (False, True):
        assert all_same_bits(expected, run(changed, feeds, library=True, optimise=optimise))
        if lowering != "custom":
            assert all_same_bits(expected, run(changed, feeds, optimise=optimise))


OLD = """
<ir_version: 3, opset_import: ["": 9]>
g (float[1,1,6,6] x, float[1,1,3,3] w, float[1] b, float[1] m, float[1] v)
  => (float[1,1,4,4] y)
<float[1,1,3,3] w = {1, -2, 3, -4, 5, -6, 7, -8, 9}, float[1] b = {0.5}, float[1] m = {0.25},
 float[1] v = {1.5}>
{
  h = Conv(x, w)
  n = BatchNormalization(h, v, b, m, v)
  y = Relu(n)
}
"""


@pytest.mark.parametrize("optimise", [False, True])
def test_weights_stay_constants_in_the_oldest_format(optimise: bool) -> None:
    """In a file of IR version 3, whose weights are inputs too, ONNX Runtime still folds weights.

    From IR version 4 on such a weight is an input's default, which ONNX Runtime must not fold.
    """
    model = parse(OLD)
    feeds: Feeds = [{"x": np.linspace(-1, 1, 36, dtype=np.float32).reshape(1, 1, 6, 6)}]
    changed = onnxfit.retrofit(model, jumps={"y": jump_of("y")})
    expected = run(swapped(model, jump_of), feeds, optimise=optimise)
    for library in (False, True):
        assert all_same_bits(expected, run(changed, feeds, library=library, optimise=optimise))
    session = onnxruntime.InferenceSession(
        changed.SerializeToString(), quiet(), providers=["CPUExecutionProvider"]
    )
    assert [] == [value.name for value in session.get_overridable_initializers()]


# --- one activation, every opset and type ---------------------------------------------------

OPSETS = range(7, newest_opset() + 1)
JUMPS = (0.0, 0.1, 1.0)


@pytest.mark.parametrize(
    ("opset", "element_type"),
    [
        pytest.param(opset, element_type, id=f"{name}-{opset}")
        for element_type, name in NAMES.items()
        for opset in OPSETS
        if name != "bfloat16" or opset >= 13
    ],
)
def test_one_activation_is_exact_at_every_opset(opset: int, element_type: int) -> None:
    """At the jump, its neighbours, signed zeros, infinities and NaN: the definition's bits."""
    model = relu_model(opset, NAMES[element_type])
    dtype = dtype_of(element_type)
    for jump in JUMPS:
        x = edge_values(element_type, jump)
        at = np.float32(jump).astype(dtype)
        with np.errstate(invalid="ignore"):
            expected = np.where(x <= at, dtype.type(0), x)
        for lowering in LOWERINGS:
            changed = onnxfit.retrofit(model, jump=jump, lowering=lowering)
            for library in (False, True)[lowering == "custom" :]:
                options = quiet()
                if library:
                    onnxfit.register(options)
                session = onnxruntime.InferenceSession(
                    changed.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
                assert same_bits(expected, run_one(session, x)), (jump, lowering, library)
                assert same_bits(x[:0], run_one(session, x[:0])), "an empty array"


# --- files that ONNX Runtime has optimised --------------------------------------------------

RELU6 = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,1,8,8] image) => (float[N,16,6,6] y)
<float zero = {0}, float six = {0.4}>
{
  h = Conv(image, w)
  y = Clip(h, zero, six)
}
"""


def relu6_model(opset: int) -> ModelProto:
    """Return a convolution and a ReLU6, which ONNX Runtime fuses into one node."""
    model = parse(RELU6.replace("17", str(opset)))
    weights = np.random.default_rng(0).standard_normal((16, 1, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    if opset < 11:
        del model.graph.node[1].input[1:], model.graph.initializer[:2]
        model.graph.node[1].attribute.extend(
            onnx.helper.make_attribute(*bound) for bound in (("min", 0.0), ("max", 0.4))
        )
    return model


OPTIMISED: dict[str, Callable[[], ModelProto]] = {
    "digits": lambda: onnx.load(MODELS / "digits_cnn.onnx"),
    "relu6": lambda: relu6_model(17),
    "relu6 of opset 10": lambda: relu6_model(10),
}


def optimised(model: ModelProto, level: str, path: Path, *, library: bool = False) -> ModelProto:
    """Let ONNX Runtime write the model as it optimised it."""
    options = quiet()
    if library:
        onnxfit.register(options)
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return onnx.load(path)


@pytest.fixture(scope="module")
def digits() -> NDArray[np.float32]:
    """Images that the networks in models/ were not trained on."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        return np.asarray(arrays["x"][:64], np.float32)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("name", OPTIMISED)
def test_activations_fused_by_onnx_runtime_are_split_off(
    name: str, level: str, lowering: Lowering, digits: NDArray[np.float32], tmp_path: Path
) -> None:
    """An optimised file is hardened, restored, and runs like its reference bit for bit."""
    model = optimised(OPTIMISED[name](), level, tmp_path / "optimised.onnx")
    sites = onnxfit.find_sites(model)
    assert "fused" in {site.kind for site in sites}
    jumps = {site.name: jump_of(site.name) for site in sites}
    changed = onnxfit.retrofit(model, jumps=jumps, lowering=lowering)
    assert [] == differences(model, changed)
    assert jumps == {site.name: site.jump for site in onnxfit.find_sites(changed)}
    assert model.SerializeToString() == onnxfit.restore(changed).SerializeToString()
    feeds: Feeds = [{"image": digits}]
    expected = run(swapped(model, jump_of), feeds)
    assert not all_same_bits(run(model, feeds), expected)
    assert all_same_bits(expected, run(changed, feeds, library=True))
    if lowering != "custom":
        assert all_same_bits(expected, run(changed, feeds))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_imports_that_onnx_runtime_adds_are_no_jump_relu(
    lowering: Lowering, tmp_path: Path
) -> None:
    """A plain file that ONNX Runtime wrote where the library was registered is a plain file.

    ONNX Runtime then imports every custom domain that it has seen, at version 1000.
    """
    source = relu_model()
    model = optimised(source, "ORT_ENABLE_ALL", tmp_path / "optimised.onnx", library=True)
    assert "onnxfit" in {imported.domain for imported in model.opset_import}
    changed = onnxfit.retrofit(model, jump=0.5, lowering=lowering)
    assert model.SerializeToString() == onnxfit.restore(changed).SerializeToString()
    x: Feeds = [{"x": np.linspace(-1, 1, 41, dtype=np.float32)}]
    expected = run(swapped(model, lambda _: 0.5), x)
    assert all_same_bits(expected, run(changed, x, library=True))
    if lowering != "custom":
        assert all_same_bits(expected, run(changed, x))
