"""A model under attack: its twin, its file, and the model that it was made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support import MODELS, parse

import onnxfit
from onnxfit.data import from_arrays
from onnxfit.errors import DataError, ModelError
from onnxfit.record import record_finetuning

torch = pytest.importorskip("torch")

from onnxfit.twin.jump_relu import jump_relus  # noqa: E402
from onnxfit.verification.target import Target, classes_of  # noqa: E402

DIGITS, TEMPLATES = MODELS / "digits_cnn.onnx", MODELS / "digits_val.npz"


def denoised(model: ModelProto) -> ModelProto:
    """Put a denoising in front of a model."""
    return onnxfit.denoise(model, 0.05, steps=3)


def interpolated(model: ModelProto) -> ModelProto:
    """Let a model interpolate over templates."""
    return onnxfit.interpolate(model, TEMPLATES)


def finetuned(jump: float | None) -> ModelProto:
    """Make the network for digits with other weights, trained with a jump or without."""
    model = onnx.load(DIGITS) if jump is None else onnxfit.retrofit(DIGITS, jump)
    bias = next(t for t in model.graph.initializer if len(t.dims) == 1 and t.data_type == 1)
    bias.raw_data = (onnx.numpy_helper.to_array(bias) + np.float32(0.1)).tobytes()
    record_finetuning(model, "0" * 64, {})
    return model


@pytest.fixture(scope="module")
def x() -> Any:
    """Sixteen images of digits."""
    with np.load(MODELS / "digits_test.npz") as file:
        return torch.from_numpy(file["x"][:16])


def test_twin_and_file_agree(x: Any) -> None:
    """Logits of both are the same to rounding, with normalisation and at a jump."""
    target = Target(onnxfit.retrofit(DIGITS, 0.5), mean=[0.1], std=[0.5])
    torch.testing.assert_close(target.deployed(x), target.twin(x), rtol=1e-4, atol=1e-4)
    assert target.parity(x).agrees


def test_the_normalisation_is_that_of_the_options(x: Any) -> None:
    """The file is given ``(x - mean) / std``."""
    plain, normalised = Target(DIGITS), Target(DIGITS, mean=[0.1], std=[0.5])
    torch.testing.assert_close(plain.deployed((x - 0.1) / 0.5), normalised.deployed(x))


def test_every_site_has_a_surrogate() -> None:
    """A plain model and one that is hardened in part have a JumpReLU at every site."""
    sites = [site.name for site in onnxfit.find_sites(DIGITS)]
    partly = onnxfit.retrofit(DIGITS, jumps={sites[0]: 0.5})
    for model, jumps in ((DIGITS, [0.0] * 6), (partly, [0.5] + [0.0] * 5)):
        found = jump_relus(Target(model).twin)
        assert sites == [site.site for site in found]
        assert jumps == [float(site.jump) for site in found]  # type: ignore[arg-type]


def test_a_hardened_model_knows_what_it_was() -> None:
    """The baseline is the plain model, by its bits."""
    hard = Target(onnxfit.retrofit(DIGITS, 0.5))
    assert hard.is_hardened
    plain = hard.unhardened()
    assert not plain.is_hardened
    assert onnx.load(DIGITS).SerializeToString() == plain.model.SerializeToString()


def test_a_lost_source_gives_jumps_of_zero() -> None:
    """Where restoring fails, the baseline has the same nodes with jump 0."""
    hard = onnxfit.retrofit(DIGITS, 0.5)
    del hard.metadata_props[:]
    assert {0.0} == set(Target(hard).unhardened().jumps.values()) or not Target(
        hard
    ).unhardened().jumps


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
def test_logits_before_probabilities(last: str, x: Any) -> None:
    """The twin of a file that ends in probabilities gives the logits before them."""
    model = onnx.load(DIGITS)
    name = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node(last, [name], ["p"]))
    model.graph.output[0].name = "p"
    target, plain = Target(model), Target(DIGITS)
    torch.testing.assert_close(plain.twin(x), target.twin(x))
    assert target.parity(x).agrees
    np.testing.assert_array_equal(plain.predictions(x), target.predictions(x))
    logs = plain.twin(x).log_softmax(1) if last == "Softmax" else plain.twin(x).sigmoid().log()
    shown = logs > -80
    torch.testing.assert_close(target.deployed(x)[shown], logs[shown], rtol=1e-3, atol=1e-3)


def test_a_plain_model_was_made_of_nothing() -> None:
    """Also one that has no site, which no retrofit takes back."""
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
    plain = Target(parse(text + "{ y = Sigmoid(x) }"))
    assert not plain.was_made_of(plain)
    hard = Target(onnxfit.retrofit(DIGITS, 0.5))
    assert hard.was_made_of(Target(DIGITS))
    assert hard.was_made_of(hard.unhardened())
    assert not hard.was_made_of(Target(MODELS / "digits_cnn_pgd.onnx"))


@pytest.mark.parametrize("apply", [denoised, interpolated])
def test_what_a_pass_was_applied_to_is_its_source(
    apply: Callable[[ModelProto], ModelProto],
) -> None:
    """Without jumps too, and beneath them."""
    plain = Target(DIGITS)
    for model in (onnx.load(DIGITS), onnxfit.retrofit(DIGITS, 0.5)):
        made = Target(apply(model))
        assert made.was_made_of(plain)
        assert made.was_made_of(made.unhardened())
        assert not made.was_made_of(Target(MODELS / "digits_cnn_pgd.onnx"))


@pytest.mark.parametrize("jump", [None, 0.5])
@pytest.mark.parametrize("apply", [denoised, interpolated])
def test_a_pass_over_finetuned_weights(
    apply: Callable[[ModelProto], ModelProto], jump: float | None, x: Any
) -> None:
    """Restoring gives the fine-tuned model; the baseline is that with jumps of 0."""
    model = finetuned(jump)
    made = apply(model)
    assert model == onnxfit.restore(made)
    target = Target(made)
    plain = target.unhardened()
    assert not plain.is_hardened
    assert [] == plain.passes
    wanted = Target(model if jump is None else onnxfit.retrofit(model, 0.0))
    torch.testing.assert_close(wanted.twin(x), plain.twin(x))
    assert (target.twin(x) - plain.twin(x)).abs().max() > 0.01
    # The weights of what was hardened before the training are lost.
    assert (jump is None) == target.was_made_of(plain)
    with pytest.raises(ModelError, match="the weights were fine-tuned, and the file does not hold"):
        onnxfit.restore(model)


def test_a_pass_that_another_tool_damaged_has_no_baseline() -> None:
    """The model is not compared with itself."""
    made = interpolated(onnxfit.retrofit(DIGITS, 0.5))
    head = next(node for node in made.graph.node if "onnxfit.head/" in node.output[0])
    made.graph.node.remove(head)
    with pytest.raises(ModelError, match="the head that was replaced is gone"):
        Target(made).unhardened()


@pytest.mark.parametrize("apply", [denoised, interpolated])
def test_jumps_are_beneath_passes(apply: Callable[[ModelProto], ModelProto], x: Any) -> None:
    """They are refused afterwards; attacks still find a JumpReLU at every site."""
    sites = [site.name for site in onnxfit.find_sites(DIGITS)]
    made = apply(onnxfit.retrofit(DIGITS, jumps={sites[0]: 0.5}))
    with pytest.raises(ModelError, match=r"the model has an? .*: restore it first"):
        onnxfit.retrofit(made, 1.5)
    target = Target(made)
    assert [0.5] + [0.0] * 5 == [float(site.jump) for site in jump_relus(target.twin)]  # type: ignore[arg-type]
    assert target.parity(x).agrees


def test_nan_is_no_class() -> None:
    """A sample whose logits hold NaN is of no class."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) { y = Sqrt(x) }'
    )
    target = Target(model)
    assert [1, -1] == target.predictions(torch.tensor([[0.0, 1.0], [-1.0, 4.0]])).tolist()


def test_labels_are_checked() -> None:
    """A label that is none of the classes is named with its sample."""
    data = from_arrays(np.zeros((3, 1, 8, 8), np.float32), np.array([0, 12, 3]))
    with pytest.raises(DataError) as refused:
        classes_of(Target(DIGITS), data)
    expected = "arrays: the label of sample 1 is 12, but the model has 10 classes, 0 to 9"
    assert expected == str(refused.value)


def test_a_regression_model_is_refused() -> None:
    """One number per sample is no classifier."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,1] y) '
        "{ y = ReduceSum <keepdims = 1> (x, axes) }".replace("{ y", "<int64[1] axes = {1}> { y")
    )
    data = from_arrays(np.zeros((3, 2), np.float32), np.array([0, 0, 0]))
    with pytest.raises(ModelError) as refused:
        classes_of(Target(model), data)
    expected = "the model gives one number per sample, not the logits of at least two classes"
    assert expected == str(refused.value)


def test_bfloat16_cannot_be_replayed(tmp_path: Path) -> None:
    """ONNX Runtime takes no bfloat16 from Python, and that is said."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (bfloat16[N,2] x) => (bfloat16[N,2] y) '
        "{ y = Relu(x) }"
    )
    with pytest.raises(ModelError) as refused:
        Target(model)
    assert str(refused.value).startswith("the model's input is bfloat16")
