"""Samples keep their layout in memory when some of them are chosen."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

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


def test_weights_are_constant_while_a_module_is_attacked() -> None:
    """Those that asked for gradients ask again afterwards, and no others."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    module[1].requires_grad_(False)
    with evaluated(module):
        assert not module.training
        assert not any(weight.requires_grad for weight in module.parameters())
    assert module.training
    assert [True, True, False, False] == [w.requires_grad for w in module.parameters()]
