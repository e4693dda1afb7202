"""Networks written in PyTorch against the twins of their own ONNX exports: values and gradients."""

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from twin_networks import NETWORKS, make, to_onnx  # noqa: E402
from twin_support import compiled  # noqa: E402

import onnxfit  # noqa: E402

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 5, 9])


def exported(network: Any, exporter: str) -> onnx.ModelProto:
    """Export a network with its batch left open."""
    if exporter == "torchscript":
        return to_onnx(network, IMAGES[:2])
    pytest.importorskip("onnxscript")
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (IMAGES[:2],),
            content,
            dynamo=True,
            input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    return onnx.load_from_string(content.getvalue())


def gradients(network: Any, images: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return logits, and the loss's gradients to the images and to the parameters."""
    x = images.clone().requires_grad_()
    network.zero_grad()
    logits = network(x)
    torch.nn.functional.cross_entropy(logits, LABELS[: len(x)].to(x.device)).backward()
    return logits, x.grad, {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_has_the_gradients_of_its_network(name: str, exporter: str) -> None:
    """The input's, and those of every parameter that the exporter left under its name."""
    network = make(name)
    twin = onnxfit.to_torch(exported(network, exporter))
    expected, expected_gradient, expected_weights = gradients(network, IMAGES)
    logits, gradient, weights = gradients(twin, IMAGES)
    torch.testing.assert_close(expected, logits, rtol=1e-4, atol=1e-4)
    scale = expected_gradient.abs().max()
    torch.testing.assert_close(expected_gradient / scale, gradient / scale, rtol=1e-3, atol=1e-4)
    own, theirs = dict(network.named_parameters()), dict(twin.named_parameters())
    # The newer exporter folds BatchNorm into convolutions, under the old names.
    shared = [n for n in weights if n in own and torch.equal(own[n], theirs[n])]
    assert len(shared) >= (0.9 * len(own) if exporter == "torchscript" else 2)
    for path in shared:
        scale = expected_weights[path].abs().max()
        one, other = expected_weights[path] / scale, weights[path] / scale
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_exports_run_under_compile_and_transforms(name: str) -> None:
    """Shapes that are computed on the host leave one graph, which vmap can map."""
    network = make(name).double()
    twin = onnxfit.to_torch(to_onnx(make(name), IMAGES[:2])).double()
    images = IMAGES[:2].double()
    x = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(compiled(twin, "aot_eager")(x)[:, 0].sum(), x)
    y = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(y)[:, 0].sum(), y)
    torch.testing.assert_close(expected, found, rtol=1e-4, atol=1e-6)
    each = torch.func.vmap(torch.func.grad(lambda image: twin(image[None])[0, 0]))(images)
    torch.testing.assert_close(expected, each, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_that_fixes_its_batch_takes_any(name: str) -> None:
    """A file made with batch 1 gives each sample of a larger batch what it gives it alone."""
    network = make(name)
    model = to_onnx(network, IMAGES[:1], dynamic=False)
    assert 1 == model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    twin = onnxfit.to_torch(model)
    np.testing.assert_allclose(
        network(IMAGES).detach().numpy(), twin(IMAGES).detach().numpy(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_a_twin_on_the_gpu_computes_the_same(name: str) -> None:
    """Moved by ``.to``, with a hardened activation and each of its slopes."""
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA device")
    model = (
        onnxfit.retrofit(to_onnx(make(name), IMAGES[:2]), 0.0)
        if name != "transformer"
        else (to_onnx(make(name), IMAGES[:2]))
    )
    twin = onnxfit.to_torch(model)
    for mode in ("true", "smooth"):
        onnxfit.set_backward(twin, mode, tau=0.5)
        expected, expected_gradient, _ = gradients(twin.cpu(), IMAGES)
        logits, gradient, _ = gradients(twin.cuda(), IMAGES.cuda())
        torch.testing.assert_close(expected, logits.cpu(), rtol=1e-3, atol=1e-3)
        scale = expected_gradient.abs().max()
        found = gradient.cpu() / scale
        torch.testing.assert_close(expected_gradient / scale, found, rtol=1e-2, atol=1e-2)
