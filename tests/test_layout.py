"""Samples keep their layout in memory when some of them are chosen."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from onnxfit.attacks.layout import laid_out, select  # noqa: E402

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
