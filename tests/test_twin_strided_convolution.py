"""The input's gradient of a convolution with strides, and the layout that gradients come in."""

from typing import Any

import onnx
import onnx.parser
import pytest

torch = pytest.importorskip("torch")

from twin_support import node_model  # noqa: E402

from onnxfit.twin.module import to_torch  # noqa: E402
from onnxfit.twin.ops.memory_layout import keeping_layout  # noqa: E402
from onnxfit.twin.ops.strided_convolution import (  # noqa: E402
    CONV,
    FEW_CHANNELS,
    convolve_strided,
)

LAST = torch.channels_last
# Channels in and out, sizes, kernel, strides, pads.
CASES = [
    (1, 3, (9,), (3,), (2,), (1,)),
    (3, 4, (32, 32), (3, 3), (2, 2), (1, 1)),
    (3, 8, (23, 30), (7, 7), (2, 2), (3, 3)),
    (2, 5, (13, 9), (4, 3), (3, 1), (0, 2)),
    (4, 1, (12, 12), (3, 3), (3, 3), (0, 0)),
    (3, 2, (14, 15), (5, 2), (4, 2), (0, 1)),
    (2, 3, (6, 7, 5), (3, 2, 1), (2, 2, 1), (1, 0, 0)),
]


def drawn(*shape: int) -> Any:
    """Draw numbers, the same for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def is_fast(y: Any) -> bool:
    """Tell whether an output has the faster gradient."""
    return "_Strided" in y.grad_fn.name()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_the_gradient_is_that_of_pytorch(case: Any, last: bool) -> None:
    """Over one, two and three axes, windows that leave a rest, and channels first and last."""
    channels, after, sizes, kernel, strides, pads = case
    x, w, b = drawn(2, channels, *sizes), drawn(after, channels, *kernel), drawn(after)
    if last and len(sizes) == 2:
        x, w = x.contiguous(memory_format=LAST), w.contiguous(memory_format=LAST)
    x.requires_grad_()
    wanted = CONV[len(sizes)](x, w, b, strides, pads)
    found = convolve_strided(x, w, b, strides, pads)
    assert is_fast(found)
    assert torch.equal(wanted, found)
    slope = drawn(*wanted.shape)
    (one,) = torch.autograd.grad(wanted, x, slope)
    (other,) = torch.autograd.grad(found, x, slope)
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_the_gradient_has_a_gradient() -> None:
    """A penalty on the gradient has the derivative that PyTorch's own convolution gives it."""
    x, w = drawn(2, 3, 8, 8).requires_grad_(), drawn(4, 3, 3, 3)
    derivatives = []
    for convolve in (torch.conv2d, convolve_strided):
        y = convolve(x, w, None, (2, 2), (1, 1))
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        derivatives += torch.autograd.grad(first.square().sum(), x)
    torch.testing.assert_close(derivatives[1], derivatives[0], rtol=1e-3, atol=1e-2)


def test_only_what_gains_by_it_is_computed_in_this_way() -> None:
    """Weights that learn, many channels, doubles and torch.func have PyTorch's own gradient."""
    x, w, b = drawn(2, 3, 8, 8).requires_grad_(), drawn(4, 3, 3, 3), drawn(4)
    setting: Any = ((2, 2), (1, 1))
    assert is_fast(convolve_strided(x, w, b, *setting))
    assert not is_fast(convolve_strided(x, w.clone().requires_grad_(), b, *setting))
    assert not is_fast(convolve_strided(x, w, b.clone().requires_grad_(), *setting))
    assert not is_fast(convolve_strided(x.double(), w.double(), b.double(), *setting))
    many = FEW_CHANNELS + 1
    wide = drawn(2, many, 8, 8).requires_grad_()
    assert not is_fast(convolve_strided(wide, drawn(4, many, 3, 3), b, *setting))
    with torch.no_grad():
        assert convolve_strided(x, w, b, *setting).grad_fn is None

    def total(x: Any) -> Any:
        return convolve_strided(x, w, b, *setting).square().sum()

    (wanted,) = torch.autograd.grad(total(x), x)
    torch.testing.assert_close(torch.func.grad(total)(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "is_strided"),
    [
        ("strides = [2, 2]", True),
        ("strides = [2, 1], pads = [1, 0, 1, 0]", True),
        ("strides = [4, 2]", False),
        ("strides = [2, 2], dilations = [2, 1]", False),
        ("", False),
    ],
)
def test_the_twin_uses_it_for_strides_within_the_kernel(attributes: str, is_strided: bool) -> None:
    """Windows that leave gaps or are dilated stay PyTorch's."""
    x, w = drawn(1, 3, 8, 8), drawn(4, 3, 3, 3)
    given = {"x": x.numpy(), "w": w.numpy()}
    attributes = ", ".join(["kernel_shape = [3, 3]", *filter(None, [attributes])])
    twin = to_torch(node_model("Conv", 22, given, "x w", attributes=attributes))
    assert is_strided == ("convolve_strided" in twin.source)


def test_the_gradient_of_a_flattened_image_has_the_layout_of_the_image() -> None:
    """With the channels last it comes so, and otherwise as PyTorch has it; values are the same."""
    for layout in (LAST, torch.contiguous_format):
        x = drawn(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
        y = keeping_layout(x) * 1.0
        slope = drawn(2, 3 * 4 * 5)
        (found,) = torch.autograd.grad(y.flatten(1), y, slope, retain_graph=True)
        assert found.is_contiguous()
        (found,) = torch.autograd.grad(keeping_layout(x).flatten(1), x, slope)
        assert found.is_contiguous(memory_format=layout)
        assert torch.equal(slope.reshape(2, 3, 4, 5), found)
    same = drawn(2, 3, 1, 1).requires_grad_()
    assert keeping_layout(same) is same


def resnet() -> Any:
    """Return a twin that begins with a strided convolution and flattens, weights constant."""
    w, v = drawn(4, 3, 3, 3), drawn(4 * 4 * 4, 5)
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        network (float[N, 3, 8, 8] x) => (float[N, 5] logits)
        {
            y = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w)
            z = BatchNormalization(y, one, zero, zero, one)
            h = Relu(z)
            f = Flatten(h)
            logits = MatMul(f, v)
        }
        """
    )
    for name, tensor in (("w", w), ("v", v), ("one", torch.ones(4)), ("zero", torch.zeros(4))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), name))
    return to_torch(model).requires_grad_(False)


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
def test_whatever_runs_a_twin_finds_the_same_gradients(layout: Any) -> None:
    """Batched gradients, ``torch.func``, autocast and ``torch.compile``'s tracer among them."""
    twin = resnet()
    x = drawn(2, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    (wanted,) = torch.autograd.grad(twin(x).square().sum(), x)

    def one(sample: Any) -> Any:
        return twin(sample[None])[0]

    found = torch.autograd.functional.jacobian(twin, x, vectorize=True)
    assert (2, 5, 2, 3, 8, 8) == found.shape
    weighted = torch.einsum("nk,nkmchw->mchw", 2 * twin(x), found)
    torch.testing.assert_close(weighted, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.func.vmap(one)(x.detach()), twin(x), rtol=1e-4, atol=1e-4)
    single = torch.func.vmap(torch.func.grad(lambda s: one(s).square().sum()))(x.detach())
    torch.testing.assert_close(single, wanted, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = twin(x)
    (rough,) = torch.autograd.grad(logits.float().square().sum(), x)
    torch.testing.assert_close(rough, wanted, rtol=0.1, atol=0.1 * float(wanted.abs().max()))


def test_a_twin_is_one_graph_for_the_compiler() -> None:
    """Nothing in it breaks a graph, a BatchNorm's statistics least of all."""
    twin = resnet()
    explained = torch._dynamo.explain(twin)(drawn(2, 3, 8, 8))
    assert (1, 0) == (explained.graph_count, explained.graph_break_count)
