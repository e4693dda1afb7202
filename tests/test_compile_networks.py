"""Compiled networks: bits at jump 0, and classes beyond."""

import numpy as np
import onnx
import pytest
from bundled_networks import NAMES
from bundled_networks import network as bundled
from compile_support import outputs
from corpus import CORPUS, Feeds, all_same_bits, read, real_inputs
from support import MODELS, quiet

import onnxfit


@pytest.fixture(scope="module")
def digits() -> Feeds:
    """Images that the networks in models/ were not trained on."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        return [{"image": np.asarray(arrays["x"], np.float32)}]


@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_pgd"])
def test_at_jump_zero_a_compiled_network_is_the_original(name: str, digits: Feeds) -> None:
    """ONNX Runtime adds the shortcut in another order, the same one as in the original."""
    source = onnx.load(MODELS / f"{name}.onnx")
    compiled = onnxfit.compile(onnxfit.retrofit(source, 0.0))
    assert all_same_bits(outputs(source, digits[0]), outputs(compiled, digits[0]))


@pytest.mark.parametrize("jump", [0.05, 0.2])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn_pgd"])
def test_no_class_of_a_digit_flips(name: str, jump: float, digits: Feeds) -> None:
    """The sums that ONNX Runtime orders otherwise change no class of 449 images."""
    hard = onnxfit.retrofit(MODELS / f"{name}.onnx", jump)
    (expected,) = outputs(hard, digits[0])
    (found,) = outputs(onnxfit.compile(hard), digits[0])
    assert expected.argmax(1).tolist() == found.argmax(1).tolist()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "cifar10/scl_resnet20.onnx",
        "derived/jumprelu_resnet20_baseline_bn.onnx",
        "derived/lenet_fp16.onnx",
        "derived/lenet_qdq_keeprelu.onnx",
        "derived/resnet20_fp16_keepio.onnx",
        "derived/resnet20_if.onnx",
    ],
)
def test_no_class_of_a_real_network_flips(name: str) -> None:
    """ResNet-20s, also in float16 and inside an If, and a quantised LeNet, on real images."""
    if name not in CORPUS:
        pytest.skip(f"{name} is not here")
    source = read(name)
    x, image = real_inputs(source, 64), source.model.graph.input[0]
    assert x is not None
    one = image.type.tensor_type.shape.dim[0].dim_value == 1
    feeds = [{image.name: part} for part in (np.split(x, len(x))[:16] if one else [x])]
    hard = onnxfit.retrofit(source.model, 0.1)
    pairs = [
        [np.concatenate([session.run(None, feed)[0] for feed in feeds]) for session in sessions]
        for sessions in [
            [onnxfit.session(model, quiet()) for model in (hard, onnxfit.compile(hard))]
        ]
    ]
    (expected, found) = pairs[0]
    assert expected.argmax(-1).tolist() == found.argmax(-1).tolist()


QUICK = ("shufflenet", "squeezenet")
# Chains of convolutions with 250 MiB of weights and more: benchmarks/latency.py checks them.
LARGE = ("bvlc_alexnet", "vgg19", "zfnet512")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
        if name not in LARGE
    ],
)
def test_the_architectures_of_the_onnx_package(name: str) -> None:
    """At jump 0 they have the bits of the originals, at 0.1 the classes of the hardened models."""
    source = bundled(name, 2)
    image = source.graph.input[0]
    shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    feeds = {image.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    compiled = onnxfit.compile(onnxfit.retrofit(source, 0.0))
    assert all_same_bits(outputs(source, feeds), outputs(compiled, feeds))
    hard = onnxfit.retrofit(source, 0.1)
    (expected,), (found,) = outputs(hard, feeds), outputs(onnxfit.compile(hard), feeds)
    assert np.ravel(expected.argmax(1)).tolist() == np.ravel(found.argmax(1)).tolist()
