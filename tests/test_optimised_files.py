"""Files that ONNX Runtime has optimised, whose activations are fused into other operators."""

from collections.abc import Callable, Iterable
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from corpus import LOWERINGS, Feeds, all_same_bits, jumps_of, run
from independent import differences, jump_of, swapped
from numpy.typing import NDArray
from onnx import ModelProto
from support import MODELS, parse, quiet, relu_model

import onnxfit
from onnxfit.hardening import Lowering

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
    """Let ONNX Runtime write the model as it optimises it, where the library is known or not."""
    options = quiet()
    if library:
        onnxfit.register(options)
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    written = onnx.load(path)
    if not library:
        # What an earlier registration in this process left behind.
        for i in reversed(range(len(written.opset_import))):
            if written.opset_import[i].domain == "onnxfit":
                del written.opset_import[i]
    return written


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
    jumps = jumps_of(model)
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


def fused_model(op_type: str, attributes: Iterable[str], opset: int = 17) -> ModelProto:
    """Return a node with an activation fused into it, its attributes in the order given."""
    model = parse(
        f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> '
        "g (float[1,1,8,8] x) => (float[1,1,8,8] y) "
        f"{{ y = com.microsoft.{op_type}<{', '.join(attributes)}>(x, w) }}"
    )
    weights = np.full((1, 1, 1, 1), -1, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return model


CLIP = ['activation = "Clip"', "activation_params = [0.0, 0.75]"]


@pytest.mark.parametrize("activation", [CLIP, ['activation = "Relu"']], ids=["clip", "relu"])
@pytest.mark.parametrize(
    ("op_type", "others"),
    [
        ("FusedConv", ["strides = [1, 1]", "pads = [0, 0, 0, 0]"]),
        ("FusedGemm", ["alpha = 2.0", "transB = 1"]),
    ],
)
def test_attributes_of_a_fused_activation_return_to_their_places(
    op_type: str, others: list[str], activation: list[str]
) -> None:
    """Restore gives back the order of attributes, wherever among them the activation stood."""
    for attributes in permutations([*activation, *others]):
        model = fused_model(op_type, attributes)
        for lowering in LOWERINGS:
            changed = onnxfit.retrofit(model, jump=0.5, lowering=lowering)
            assert [] == differences(model, changed)
            assert model.SerializeToString() == onnxfit.restore(changed).SerializeToString()


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("opset", [9, 10, 11, 12, 17])
def test_a_fused_clip_keeps_its_upper_bound_at_every_opset(opset: int, lowering: Lowering) -> None:
    """The Clip that is split off has its bounds as attributes below opset 11, then as inputs."""
    model = fused_model("FusedConv", CLIP, opset)
    changed = onnxfit.retrofit(model, jump=0.25, lowering=lowering)
    x: Feeds = [{"x": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)}]
    expected = run(swapped(model, lambda _: 0.25), x)
    assert {0.0, 0.75} < set(expected[0].ravel().tolist())
    assert all_same_bits(expected, run(changed, x, library=True))
    if lowering != "custom":
        assert all_same_bits(expected, run(changed, x))
