"""Rewrites of whole models: the same bits, where ONNX Runtime rounds at the same places."""

import numpy as np
import pytest
from corpus import CORPUS, HEAVY, Source, all_same_bits, feeds_for, read, run
from onnx import ModelProto, TensorProto

import onnxfit
from onnxfit import rewrites

WITHOUT_ADD = [name for name in rewrites.ALL if name != "add"]
# How often each applies to the models that the onnx package bundles, at one jump for all sites.
BUNDLED = {
    "bvlc_alexnet": {"maxpool": 1},
    "densenet121": {"maxpool": 1},
    "inception_v1": {"maxpool": 3, "concat": 9},
    "inception_v2": {"maxpool": 2, "concat": 8},
    "resnet50": {"add": 16, "maxpool": 1},
    "shufflenet": {"add": 13, "maxpool": 1},
    "squeezenet": {"maxpool": 3, "concat": 8},
    "vgg19": {"maxpool": 5},
    "zfnet512": {"maxpool": 1},
}
# Other models that have something to rewrite, and are quick to run.
OTHERS = [
    "cifar10/resnet_2b.onnx",
    "cifar10/scl_resnet20.onnx",
    "cifar10/winml_imageclassifier_dyn.onnx",
    "derived/resnet20_fp16_keepio.onnx",
    "derived/resnet20_if.onnx",
    "derived/resnet2b_external/model.onnx",
    "edge/simple_cnn_external/simple_cnn.onnx",
    "imagenet/squeezenet_fp16.onnx",
    "mnist/cntk_mnist.onnx",
    "mnist/convnet_maxpool.onnx",
    "mnist/jb_mnist_cnn_dyn.onnx",
    "structure/tinyyolo.onnx",
    "structure/yunet_n_dynamic.onnx",
]
QUICK = [f"light/light_{name}.onnx" for name in BUNDLED]
QUICK = [name for name in (*QUICK, *OTHERS) if name in CORPUS and name not in HEAVY]


@pytest.mark.parametrize("name", BUNDLED)
def test_rewrites_of_the_bundled_architectures(name: str) -> None:
    """Pooling behind a stem, joins of branches, residual additions: as many as there are."""
    source = read(f"light/light_{name}.onnx").model
    hard = onnxfit.retrofit(source, 0.1, optimize=rewrites.ALL)
    assert BUNDLED[name] == onnxfit.inspect(hard).provenance["rewrites"]
    assert source.SerializeToString() == onnxfit.restore(hard).SerializeToString()


def rewritten(model: ModelProto, names: list[str] | None = None) -> ModelProto:
    """Return a rewritten copy."""
    copy = ModelProto()
    copy.CopyFrom(model)
    rewrites.apply(copy, rewrites.ALL if names is None else names)
    return copy


@pytest.mark.parametrize("name", QUICK)
def test_models_compute_the_same_bits(name: str) -> None:
    """Optimised or not, with the library or without.

    With both, additions that a kernel makes are left out: ONNX Runtime fuses others into
    convolutions, which rounds otherwise. Of float16, which it computes in float with roundings
    where the graph has them, the decisions are compared.
    """
    source = read(name)
    hard = onnxfit.retrofit(source.model, jump=0.1)
    assert rewritten(hard) != hard
    feeds, folder = feeds_for(source)[:1], source.folder
    for library in (False, True):
        for optimise in (False, True):
            changed = rewritten(hard, WITHOUT_ADD if library and optimise else None)
            expected = run(hard, feeds, library=library, optimise=optimise, folder=folder)
            actual = run(changed, feeds, library=library, optimise=optimise, folder=folder)
            if source.element_type != TensorProto.FLOAT16:
                assert all_same_bits(expected, actual)
                continue
            for one, other in zip(expected, actual, strict=True):
                np.testing.assert_array_equal(one.argmax(-1), other.argmax(-1))


def test_a_model_that_has_nothing_to_rewrite_stays_as_it_is() -> None:
    """The additions of a densely connected network are biases; what it joins is used again."""
    source: Source = read("light/light_densenet121.onnx")
    hard = onnxfit.retrofit(source.model, jump=0.1)
    assert hard == rewritten(hard, ["add", "concat"])
