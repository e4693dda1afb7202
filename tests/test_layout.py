"""Samples keep their layout in memory when some of them are chosen."""

from collections.abc import Callable
from typing import Any

import pytest
from support import MODELS

torch = pytest.importorskip("torch")

import onnxfit  # noqa: E402
from onnxfit.attacks.layout import evaluated, laid_out, select  # noqa: E402

SHAPES = [(5,), (5, 3), (5, 1, 4, 4), (5, 3, 4, 6), (5, 3, 2, 2, 2)]
MASK = torch.tensor([True, False, True, True, False])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [MASK, MASK.nonzero().squeeze(1)], ids=["mask", "numbers"])
@pytest.mark.parametrize("lay_out", [laid_out, torch.Tensor.contiguous])
def test_selected_samples_are_those_of_an_index(
    shape: tuple[int, ...], rows: Any, lay_out: Callable[[Any], Any]
) -> None:
    """Numbers and masks choose the same samples as an index does, in the same layout."""
    values = lay_out(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    found = select(values, rows)
    assert torch.equal(values[rows], found)
    if values.dim() == 4 and shape[1] > 1:
        assert values[rows].stride() == found.stride()


def test_no_sample_can_be_selected() -> None:
    """An empty choice has the shape of no sample."""
    images = laid_out(torch.rand(2, 3, 4, 4))
    assert select(images, torch.zeros(2, dtype=torch.bool)).shape == (0, 3, 4, 4)


def test_weights_of_a_twin_are_constant_while_it_is_attacked() -> None:
    """Those that asked for gradients ask again afterwards, and no others."""
    twin = onnxfit.to_torch(MODELS / "digits_cnn.onnx")
    module = torch.nn.Sequential(twin, torch.nn.Linear(10, 2))
    frozen, *learning = twin.parameters()
    frozen.requires_grad_(False)
    with evaluated(module):
        assert not module.training
        assert not any(weight.requires_grad for weight in learning)
        # Another module may need gradients of its weights inside its own call.
        assert module[1].weight.requires_grad
    assert module.training
    assert not frozen.requires_grad
    assert all(weight.requires_grad for weight in learning)


def test_a_weight_that_is_computed_is_left_alone() -> None:
    """What is no leaf cannot be made constant; the module is attacked all the same."""
    twin = onnxfit.to_torch(MODELS / "digits_cnn.onnx")
    part = next(p for p in twin.modules() if "weight" in p._parameters)
    part._parameters["weight"] = part.weight * 2
    with evaluated(twin):
        assert part.weight.requires_grad
    assert twin.training
    assert all(weight.requires_grad for weight in twin.parameters())
