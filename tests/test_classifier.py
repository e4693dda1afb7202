"""A model's twin as a classifier, and normalisation as a part of a model."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto
from support import parse, run

from onnxfit.errors import DataError, ModelError

torch = pytest.importorskip("torch")

from onnxfit.twin.classifier import Classifier  # noqa: E402
from onnxfit.twin.preprocessing import Preprocessed  # noqa: E402

NOT_FLOAT = "the input 'x' of the model is {}; gradients need a floating-point one"
OTHER_SHAPE = "the model's input 'x' takes samples of shape {}; those of the data are {}"


def model(
    samples: str, nodes: str, logits: str = "float[N, 2]", *, ir_version: int = 8
) -> ModelProto:
    """Write a model of one input ``x`` and one output ``y``."""
    return parse(
        f'<ir_version: {ir_version}, opset_import: ["": 17]> '
        f"g ({samples} x) => ({logits} y) <float[3, 2] w = {{1, 2, 3, 4, 5, 6}}> {{ {nodes} }}"
    )


def rows(n: int) -> Any:
    """Return so many samples of three numbers, all different."""
    return torch.linspace(-1, 1, 3 * n).reshape(n, 3) ** 3


def each(found: ModelProto, x: Any) -> Any:
    """Return what ONNX Runtime computes for one sample after the other."""
    one = ModelProto()
    one.CopyFrom(found)
    return np.concatenate([run(one, {"x": sample[None].numpy()})[0] for sample in x])


def test_a_classifier_computes_logits() -> None:
    """As ONNX Runtime does; it tells what the file says of its input."""
    plain = model("float[N, 3]", "y = MatMul(x, w)")
    classifier = Classifier(plain)
    np.testing.assert_allclose(run(plain, {"x": rows(5).numpy()})[0], classifier(rows(5)).detach())
    assert ("x", (3,), None, None) == (
        classifier.input_name,
        classifier.shape,
        classifier.channels,
        classifier.probabilities,
    )


@pytest.mark.parametrize("element_type", ["float16", "double", "bfloat16"])
def test_samples_are_converted_to_the_type_of_the_input(element_type: str) -> None:
    """And logits and gradients back."""
    nodes = "z = Cast<to = 1>(x) v = MatMul(z, w) y = CastLike(v, x)"
    classifier = Classifier(model(f"{element_type}[N, 3]", nodes, f"{element_type}[N, 2]"))
    x = rows(4).requires_grad_()
    logits = classifier(x)
    assert torch.float32 == logits.dtype
    np.testing.assert_allclose(
        x.detach() @ torch.tensor([[1.0, 2], [3, 4], [5, 6]]), logits.detach(), atol=0.05
    )
    logits[:, 1].sum().backward()
    np.testing.assert_allclose(torch.tensor([[2.0, 4, 6]] * 4), x.grad)


@pytest.mark.parametrize(
    "nodes",
    [
        "y = MatMul(x, w)",
        "s = Constant<value_ints = [1, 3]>() z = Reshape(x, s) y = MatMul(z, w)",
        "m = ReduceMean<keepdims = 1>(x) z = Sub(x, m) y = MatMul(z, w)",
        "s = ReduceSum(x) z = Div(x, s) y = MatMul(z, w)",
    ],
    ids=["plain", "reshape", "mean over all axes", "sum over all axes"],
)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_file_for_one_sample_takes_many(nodes: str, n: int) -> None:
    """Each is computed as if it came alone, gradients too."""
    fixed = model("float[1, 3]", nodes, "float[1, 2]")
    x = rows(n) + 2
    classifier = Classifier(fixed)
    np.testing.assert_allclose(each(fixed, x), classifier(x).detach(), rtol=1e-5, atol=1e-6)
    alone = []
    for sample in x:
        one = sample[None].clone().requires_grad_()
        classifier(one)[:, 0].sum().backward()
        alone.append(one.grad)
    x.requires_grad_()
    classifier(x)[:, 0].sum().backward()
    np.testing.assert_allclose(torch.cat(alone), x.grad, rtol=1e-5, atol=1e-6)


def test_a_file_for_two_samples_takes_them_two_by_two() -> None:
    """Where it must; the last sample is computed with a copy of itself."""
    nodes = "m = ReduceMean<axes = [0], keepdims = 1>(x) z = Sub(x, m) y = MatMul(z, w)"
    fixed = model("float[2, 3]", nodes, "float[2, 2]")
    x = rows(5)
    parts = [x[:2], x[2:4], x[[4, 4]]]
    expected = np.concatenate([run(fixed, {"x": part.numpy()})[0] for part in parts])[:5]
    np.testing.assert_allclose(expected, Classifier(fixed)(x).detach(), rtol=1e-5, atol=1e-6)


def test_inputs_that_are_initializers_do_not_count() -> None:
    """As in files of IR version 3, which list them."""
    listed = model("float[N, 3]", "y = MatMul(x, w)", ir_version=3)
    listed.graph.input.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2]))
    assert "x" == Classifier(listed).input_name


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("float[N, 3] x, float[N, 3] z", "a classifier has one input, the model has 2: 'x', 'z'"),
        ("", "a classifier has one input, the model has 0: none"),
        ("uint8[N, 3] x", NOT_FLOAT.format("uint8")),
        ("seq(float[N, 3]) x", NOT_FLOAT.format("no tensor")),
    ],
)
def test_models_of_other_inputs_are_refused(inputs: str, message: str) -> None:
    """Before the twin is built."""
    other = parse(
        f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[1] y) '
        "{ y = Constant<value_floats = [1.0]>() }"
    )
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        Classifier(other)


@pytest.mark.parametrize(
    ("declared", "shape", "message"),
    [
        ("float[N, 3]", (3,), None),
        ("float[N, C]", (3,), None),
        ("float[]", (3,), None),
        ("float[1, 1, 8, 8]", (1, 8, 8), None),
        ("float[N, 3]", (4,), OTHER_SHAPE.format("3", "4")),
        ("float[N, 3, H, 8]", (8, 9, 4), OTHER_SHAPE.format("3×?×8", "8×9×4")),
        (
            "float[N, 3, H, 8]",
            (8, 8, 3),
            OTHER_SHAPE.format("3×?×8", "8×8×3")
            + ": the channels are last in the data and first in the model",
        ),
        (
            "float[N, H, 8, 3]",
            (3, 8, 8),
            OTHER_SHAPE.format("?×8×3", "3×8×8")
            + ": the channels are first in the data and last in the model",
        ),
        ("float[N, 784]", (1, 28, 28), OTHER_SHAPE.format("784", "1×28×28")),
        ("float[N]", (3,), OTHER_SHAPE.format("()", "3")),
    ],
)
def test_samples_must_have_the_declared_shape(
    declared: str, shape: tuple[int, ...], message: str | None
) -> None:
    """As far as the file declares one."""
    classifier = Classifier(model(declared, "y = Identity(x)"))
    if message is None:
        classifier.check(shape)
        return
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        classifier.check(shape)


@pytest.mark.parametrize(
    ("declared", "channels"),
    [
        ("float[N, 3, H, W]", 3),
        ("float[1, 1, 8, 8]", 1),
        ("float[N, 4, 8, 8]", None),
        ("float[N, 3]", None),
        ("float[]", None),
    ],
)
def test_the_channels_of_images(declared: str, channels: int | None) -> None:
    """One or three where the file says that it takes images."""
    assert channels == Classifier(model(declared, "y = Identity(x)")).channels


@pytest.mark.parametrize(
    ("nodes", "operator"),
    [
        ("z = MatMul(x, w) y = Softmax(z)", "Softmax"),
        ("z = MatMul(x, w) y = Sigmoid(z)", "Sigmoid"),
        (
            "m = MatMul(x, w) z = Softmax(m) i = Identity(z) s = Constant<value_ints = [-1, 2]>() "
            "r = Reshape(i, s) f = Flatten(r) d = Cast<to = 11>(f) y = Cast<to = 1>(d)",
            "Softmax",
        ),
        (
            "m = MatMul(x, w) z = Sigmoid(m) a = Constant<value_ints = [2]>() "
            "u = Unsqueeze(z, a) y = Squeeze(u, a)",
            "Sigmoid",
        ),
        ("z = Softmax(x) y = MatMul(z, w)", None),
        ("z = MatMul(x, w) p = Softmax(z) y = Log(p)", None),
        ("y = Identity(x)", None),
    ],
)
def test_probabilities_at_the_end_are_noticed(nodes: str, operator: str | None) -> None:
    """They are no logits, whatever their shape or type is made to be."""
    assert operator == Classifier(model("float[N, 3]", nodes)).probabilities


def test_external_data_is_found_beside_the_file(tmp_path: Path) -> None:
    """Or in the folder that is named."""
    plain = model("float[N, 3]", "y = MatMul(x, w)")
    onnx.save(plain, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    expected = Classifier(plain)(rows(2)).detach()
    for found in (
        Classifier(tmp_path / "m.onnx"),
        Classifier(onnx.load(tmp_path / "m.onnx", load_external_data=False), tmp_path),
    ):
        np.testing.assert_array_equal(expected, found(rows(2)).detach())


def test_normalisation_by_one_number_and_of_any_rank() -> None:
    """For all channels, of vectors too; the type of the samples stays."""
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
        x = torch.rand(shape, dtype=torch.float64)
        found = Preprocessed(torch.nn.Identity(), 0.5, 0.25)(x)
        assert torch.float64 == found.dtype
        np.testing.assert_allclose((x - 0.5) / 0.25, found)
        found = Preprocessed(torch.nn.Identity(), (0.5,), (1, 2, 4))(x)
        along = torch.tensor([1.0, 2, 4]).reshape(3, *[1] * (len(shape) - 2))
        np.testing.assert_allclose((x - 0.5) / along, found)


def test_normalisation_along_the_last_axis() -> None:
    """Of images that have their channels there."""
    x = torch.rand(2, 4, 5, 3)
    found = Preprocessed(torch.nn.Identity(), (0.5, 0.25, 0.0), (1, 2, 4))(x)
    expected = (x - torch.tensor([0.5, 0.25, 0.0])) / torch.tensor([1.0, 2, 4])
    torch.testing.assert_close(expected, found)


def test_normalisation_goes_where_the_module_goes() -> None:
    """Mean and std are buffers; they are no parameters to train."""
    module = Preprocessed(torch.nn.Identity(), 0.5, 0.25)
    assert ["mean", "std"] == list(module.state_dict())
    assert {"meta"} == {buffer.device.type for buffer in module.to("meta").buffers()}
    assert [] == list(module.parameters())


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.0, 0.0, "expected finite numbers above 0 as std, got [0.0]"),
        (0.0, (1.0, -1.0), "expected finite numbers above 0 as std, got (1.0, -1.0)"),
        (float("nan"), 1.0, "expected finite numbers as mean, got [nan]"),
        ((), 1.0, "expected finite numbers as mean, got ()"),
        ((0.0, 0.0), 1.0, "expected a mean of 1 number or 3, one per channel, got 2"),
        (0.0, (1.0, 2.0, 3.0, 4.0), "expected a std of 1 number or 3, one per channel, got 4"),
    ],
)
def test_normalisation_that_does_not_fit_is_refused(mean: Any, std: Any, message: str) -> None:
    """When it is made, or when samples come."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Preprocessed(torch.nn.Identity(), mean, std)(torch.zeros(2, 3, 4, 4))
