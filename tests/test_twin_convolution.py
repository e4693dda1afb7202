"""Convolutions against ONNX Runtime, over versions, paddings and layouts."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model, parse  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402
from onnxfit.twin.ops.layouts import block_size  # noqa: E402

RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[Any]:
    """Draw float32 numbers."""
    return RNG.normal(size=shape).astype(np.float32)


def with_weights(model: onnx.ModelProto, **weights: NDArray[Any]) -> onnx.ModelProto:
    """Turn inputs of a graph into initializers."""
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def check_both_ways(
    op: str, opset: int, x: NDArray[Any], w: NDArray[Any], b: NDArray[Any], attributes: str
) -> None:
    """Compare an operator whose weights are in the file, and one that is given them."""
    given = {"x": x, "w": w, "b": b}
    agrees(node_model(op, opset, given, "x w b", attributes=attributes), x, w, b)
    model = node_model(op, opset, given, "x w b", attributes=attributes)
    agrees(with_weights(model, w=w, b=b), x)


CONV = [
    ((2, 4, 9), (6, 2, 3), "group = 2, strides = [2], pads = [1, 0]"),
    ((2, 3, 9, 8), (4, 3, 3, 2), ""),
    ((2, 3, 9, 8), (4, 3, 3, 3), "pads = [1, 1, 1, 1], strides = [2, 1], dilations = [1, 2]"),
    ((2, 3, 9, 8), (4, 3, 3, 2), "pads = [0, 2, 1, 0], strides = [2, 3]"),
    ((2, 3, 9, 8), (4, 3, 4, 3), 'auto_pad = "SAME_UPPER", strides = [2, 3]'),
    ((2, 3, 9, 8), (4, 3, 4, 3), 'auto_pad = "SAME_LOWER", strides = [2, 3]'),
    ((2, 3, 9, 8), (4, 3, 4, 2), 'auto_pad = "SAME_LOWER"'),
    ((2, 3, 9, 8), (4, 3, 3, 3), 'auto_pad = "VALID", strides = [2, 2]'),
    ((2, 3, 9, 8), (4, 3, 1, 1), 'auto_pad = "SAME_UPPER", strides = [3, 2]'),
    ((1, 2, 5, 6, 4), (2, 2, 2, 3, 1), "pads = [1, 0, 0, 1, 1, 0], strides = [1, 2, 1]"),
    ((1, 4, 5, 6, 4), (4, 1, 3, 3, 3), "group = 4, pads = [1, 1, 1, 1, 1, 1]"),
    # Patches beside each other: exactly, with a rest, and where they are not quite that.
    ((2, 3, 16, 24), (4, 3, 8, 8), "strides = [8, 8]"),
    ((2, 3, 33, 15), (4, 3, 16, 4), 'strides = [16, 4], auto_pad = "VALID"'),
    ((2, 3, 130), (4, 3, 64), "strides = [64]"),
    ((2, 1, 9, 4, 9), (2, 1, 4, 4, 4), "strides = [4, 4, 4]"),
    ((2, 4, 16, 24), (6, 2, 8, 8), "group = 2, strides = [8, 8]"),
    ((2, 3, 16, 24), (4, 3, 8, 8), "strides = [8, 8], pads = [4, 4, 4, 4]"),
    ((2, 3, 16, 24), (4, 3, 8, 8), "strides = [8, 8], pads = [4, 0, 4, 0]"),
    ((2, 3, 16, 24), (4, 3, 8, 8), "strides = [8, 7]"),
    ((2, 3, 32, 32), (4, 3, 8, 8), "strides = [8, 8], dilations = [2, 2]"),
]


@pytest.mark.parametrize("opset", [7, 11, 22])
@pytest.mark.parametrize(("shape", "weight", "attributes"), CONV)
def test_conv(shape: tuple[int, ...], weight: tuple[int, ...], attributes: str, opset: int) -> None:
    """Every padding, stride, dilation and group in one to three dimensions."""
    check_both_ways("Conv", opset, normal(*shape), normal(*weight), normal(weight[0]), attributes)


CONV_TRANSPOSE = [
    ((2, 4, 7), (4, 3, 3), "group = 2, strides = [2], pads = [1, 0]"),
    ((2, 3, 6, 5), (3, 2, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]"),
    ((2, 3, 6, 5), (3, 2, 3, 2), "strides = [2, 3], pads = [0, 1, 2, 0], dilations = [2, 1]"),
    ((2, 3, 6, 5), (3, 2, 3, 2), "strides = [2, 2], pads = [2, 1, 0, 1]"),
    ((2, 3, 6, 5), (3, 2, 3, 3), 'auto_pad = "SAME_UPPER", strides = [2, 2]'),
    ((2, 3, 6, 5), (3, 2, 4, 3), 'auto_pad = "SAME_LOWER", strides = [2, 1]'),
    ((2, 3, 6, 5), (3, 2, 3, 3), 'auto_pad = "VALID", strides = [2, 2]'),
    ((2, 3, 6, 5), (3, 2, 3, 3), "strides = [3, 2], output_shape = [17, 10]"),
    (
        (2, 3, 6, 5),
        (3, 2, 4, 3),
        'auto_pad = "SAME_UPPER", strides = [2, 2], output_shape = [11, 10]',
    ),
    (
        (2, 3, 6, 5),
        (3, 2, 2, 2),
        "strides = [3, 2], output_shape = [18, 9], output_padding = [1, 0]",
    ),
    ((1, 2, 3, 4, 3), (2, 3, 2, 3, 2), "strides = [2, 2, 1], pads = [0, 1, 0, 0, 1, 1]"),
]


@pytest.mark.parametrize("opset", [7, 11, 22])
@pytest.mark.parametrize(("shape", "weight", "attributes"), CONV_TRANSPOSE)
def test_conv_transpose(
    shape: tuple[int, ...], weight: tuple[int, ...], attributes: str, opset: int
) -> None:
    """Margins that PyTorch takes as they are, and those that it does not."""
    bias = normal(weight[1] * (2 if "group" in attributes else 1))
    arguments = (normal(*shape), normal(*weight), bias, attributes)
    check_both_ways("ConvTranspose", opset, *arguments)


@pytest.mark.parametrize(
    ("op", "attributes", "step"),
    [
        (
            "Conv",
            "pads = [1, 1, 1, 1]",
            "v1 = conv2d(v0, self.w, self.b, (1, 1), (1, 1), (1, 1), 1)",
        ),
        (
            "Conv",
            'auto_pad = "SAME_UPPER"',
            "v1 = conv2d(v0, self.w, self.b, (1, 1), (1, 1), (1, 1), 1)",
        ),
        (
            "ConvTranspose",
            'auto_pad = "SAME_UPPER", strides = [2, 2]',
            "v1 = conv_transpose2d(v0, self.w, self.b, (2, 2), (0, 0), (0, 0), 1, (1, 1))",
        ),
    ],
)
def test_a_plain_convolution_is_one_call_of_pytorch(op: str, attributes: str, step: str) -> None:
    """What is known when the twin is built is decided then."""
    x, w, b = normal(1, 3, 5, 5), normal(3, 3, 3, 3), normal(3)
    if op == "ConvTranspose":
        w = normal(3, 3, 2, 2)
    model = node_model(op, 22, {"x": x, "w": w, "b": b}, "x w b", attributes=attributes)
    assert step in to_torch(with_weights(model, w=w, b=b)).source


def test_patches_beside_each_other_have_the_gradients_of_a_convolution() -> None:
    """A transformer's patches are multiplied by a matrix; windows of another kind are not."""
    x, w, b = normal(2, 3, 19, 24), normal(5, 3, 8, 12), normal(5)
    model = node_model(
        "Conv", 22, {"x": x, "w": w, "b": b}, "x w b", attributes="strides = [8, 12]"
    )
    twin = to_torch(with_weights(model, w=w, b=b))
    assert "convolve_patches(v0, self.w, self.b)" in twin.source
    given = torch.from_numpy(x).requires_grad_()
    wanted = torch.conv2d(given, twin.w, twin.b, (8, 12))
    found = twin(given)
    torch.testing.assert_close(found, wanted)
    slope = torch.from_numpy(normal(*wanted.shape))
    inputs = [given, twin.w, twin.b]
    for one, other in zip(
        torch.autograd.grad(found, inputs, slope),
        torch.autograd.grad(wanted, inputs, slope),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="smaller than the kernel"):
        twin(given[:, :, :7])
    model = node_model("Conv", 22, {"x": x, "w": w}, "x w", attributes="strides = [8, 11]")
    assert "convolve_patches" not in to_torch(with_weights(model, w=w)).source


def test_what_is_refused() -> None:
    """A side without an agreed length, four axes, and an unknown activation."""
    x, w = normal(1, 3, 5, 5), normal(3, 3, 1, 1)
    attributes = 'auto_pad = "SAME_UPPER", strides = [2, 2]'
    model = node_model("ConvTranspose", 22, {"x": x, "w": w}, "x w", attributes=attributes)
    with pytest.raises(ModelError, match="its kernel is shorter than its stride"):
        to_torch(model)(torch.from_numpy(x), torch.from_numpy(w))
    with pytest.raises(UnsupportedOperator, match="its kernel is shorter than its stride"):
        to_torch(with_weights(model, w=w))
    w = normal(3, 3, 1, 1, 1, 1)
    model = node_model("Conv", 22, {"x": x, "w": w}, "x w")
    with pytest.raises(UnsupportedOperator, match="its kernel has 4 dimensions"):
        to_torch(with_weights(model, w=w))
    model = node_model("com.microsoft.FusedConv", 22, {"x": x, "w": w}, "x w")
    model = with_weights(model, w=normal(3, 3, 1, 1))
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("activation", "Erf"))
    with pytest.raises(UnsupportedOperator, match="its activation 'Erf' is not supported"):
        to_torch(model)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", ""),
        ("Tanh", ""),
        ("Sigmoid", ""),
        ("LeakyRelu", ", activation_params = [0.2]"),
        ("Clip", ", activation_params = [-0.5, 0.75]"),
        ("HardSigmoid", ", activation_params = [0.3, 0.4]"),
    ],
)
@pytest.mark.parametrize("slots", ["x w b z", "x w"])
def test_fused_conv(slots: str, activation: str, parameters: str) -> None:
    """The activation comes after Z is added."""
    given = {
        "x": normal(2, 3, 5, 5),
        "w": normal(4, 3, 3, 3),
        "b": normal(4),
        "z": normal(2, 4, 5, 5),
    }
    given = {name: given[name] for name in slots.split()}
    attributes = f'pads = [1, 1, 1, 1], activation = "{activation}"{parameters}'
    agrees(
        node_model("com.microsoft.FusedConv", 17, given, slots, attributes=attributes),
        *given.values(),
    )


@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("slots", ["x w offset", "x w offset b mask"])
@pytest.mark.parametrize("groups", ["", ", group = 2, offset_group = 2"])
def test_deform_conv(groups: str, slots: str, opset: int) -> None:
    """Offsets reach out of the image, where there are zeros."""
    count = 2 if groups else 1
    given = {
        "x": normal(2, 4, 7, 6),
        "w": normal(4, 4 // count, 2, 3),
        "offset": 2 * normal(2, count * 12, 4, 5),
        "b": normal(4),
        "mask": normal(2, count * 6, 4, 5),
    }
    given = {name: given[name] for name in slots.split()}
    attributes = f"kernel_shape = [2, 3], strides = [2, 1], pads = [1, 0, 1, 1]{groups}"
    agrees(node_model("DeformConv", opset, given, slots, attributes=attributes), *given.values())


def test_a_twin_of_convolutions_can_be_mapped_pickled_and_made_half() -> None:
    """It is a module like another."""
    x, w, b = normal(3, 2, 6, 5), normal(2, 2, 3, 3), normal(2)
    model = node_model(
        "Conv",
        22,
        {"x": x, "w": w, "b": b},
        "x w b",
        attributes='auto_pad = "SAME_LOWER", strides = [2, 2]',
    )
    twin = to_torch(with_weights(model, w=w, b=b))
    images = torch.from_numpy(x)
    expected = twin(images)
    mapped = torch.func.vmap(lambda image: twin(image[None])[0])(images)
    torch.testing.assert_close(mapped, expected)
    assert torch.equal(expected, pickle.loads(pickle.dumps(twin))(images))  # noqa: S301
    assert twin.half()(images.half()).dtype == torch.float16


def optimised(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return what ONNX Runtime makes of a model at its highest level."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return onnx.load(path)


BLOCKED = """<ir_version: 8, opset_import: ["": 9]>
g (float[N, H, W, 3] image) => (float[N, H, W, 64] left, float[N, 24] right) {
    x = Transpose<perm = [0, 3, 1, 2]>(image)
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    b = Relu(a)
    c = Conv<group = 32, dilations = [2, 2], pads = [2, 2, 2, 2]>(b, w2, b2)
    d = Add(c, b)
    e = Relu(d)
    g = GlobalAveragePool(e)
    h = Conv(g, w3, b3)
    i = Sigmoid(h)
    j = Mul(e, i)
    k = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(j)
    l = Conv<pads = [1, 1, 1, 1]>(k, w4)
    m = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(l)
    n = Upsample(m, scales)
    o = Concat<axis = 1>(c, e)
    p = Transpose<perm = [0, 2, 3, 1]>(o)
    left = Identity(p)
    q = Upsample<mode = "linear">(n, scales)
    r = Conv<strides = [2, 2]>(q, w5)
    s = GlobalMaxPool(r)
    right = Flatten(s)
}"""


def test_the_layout_of_an_optimised_file(tmp_path: Path) -> None:
    """Blocks of channels, also through operators that know nothing of them, and gradients."""
    if not block_size():
        pytest.skip("ONNX Runtime has no such layout on this machine")
    model = parse(BLOCKED)
    weights = {
        "w1": normal(32, 3, 3, 3),
        "b1": normal(32),
        "w2": normal(32, 1, 3, 3),
        "b2": normal(32),
        "w3": normal(32, 32, 1, 1) / 5,
        "b3": normal(32),
        "w4": normal(32, 32, 3, 3) / 5,
        "w5": normal(24, 32, 2, 2) / 5,
    }
    numbers = {"scales": [1.0, 1.0, 2.0, 2.0]}
    weights |= {name: np.array(value, np.float32) for name, value in numbers.items()}
    file = optimised(with_weights(model, **weights), tmp_path / "optimised.onnx")
    used = {node.op_type for node in file.graph.node if node.domain == "com.microsoft.nchwc"}
    assert {"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "Upsample"} <= used
    assert {"Reshape", "Concat"} <= {node.op_type for node in file.graph.node if not node.domain}
    image = normal(2, 12, 12, 3)
    twin = agrees(file, image, atol=1e-4)
    twin.double()
    x = torch.from_numpy(image).double().requires_grad_()
    assert torch.autograd.gradcheck(twin, x, fast_mode=True)
    sum(y.sum() for y in twin(x)).backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())


def test_channels_that_fill_no_block(tmp_path: Path) -> None:
    """They are filled up with zeros, also where they are the last axis."""
    if not block_size():
        pytest.skip("ONNX Runtime has no such layout on this machine")
    model = parse(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 6, 5, 20] image) => (float[N, 4, 3, 12] y) {
            x = Transpose<perm = [0, 3, 1, 2]>(image)
            a = Conv(x, w, b)
            y = Transpose<perm = [0, 2, 3, 1]>(a)
        }"""
    )
    weights = {"w": normal(12, 20, 3, 3), "b": normal(12)}
    file = optimised(with_weights(model, **weights), tmp_path / "optimised.onnx")
    kinds = [node.op_type for node in file.graph.node]
    assert ["ReorderInput", "Conv", "ReorderOutput"] == kinds
    agrees(file, normal(2, 6, 5, 20))
