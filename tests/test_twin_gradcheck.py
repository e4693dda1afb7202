"""Gradients of every differentiable operator against central differences in double precision.

The graphs are those of the ``onnx`` package's backend suite, moved a little so that no value lies
where a function has a kink, and read in double precision.
"""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from backend_suite import RANDOM, carried, cases, operators  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

# Nothing but a piecewise constant function comes out of these: autograd has no gradient.
LARGEST = 3000


def differentiable(case: Any) -> tuple[Any, list[Any]] | None:
    """Return a case's twin and inputs in double precision, or None where it has no gradient."""
    if any(op_type in RANDOM for _, op_type in operators(case.model.graph)):
        return None
    try:
        twin = to_torch(case.model).double()
    except UnsupportedOperator:
        return None
    generator = torch.Generator().manual_seed(0)
    given = []
    for value, described in zip(case.data_sets[0][0], case.model.graph.input, strict=True):
        tensor = carried(value, described.type)
        if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32:
            moved = tensor.double()
            moved += 1e-3 * torch.rand(moved.shape, generator=generator, dtype=torch.float64)
            tensor = moved.requires_grad_(tensor.numel() > 0)
        given.append(tensor)
    sizes = [t.numel() for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
    if not sizes or sum(sizes) > LARGEST:
        return None
    return twin, given


def floating(outputs: Any) -> tuple[Any, ...]:
    """Return the outputs that gradients flow from."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return tuple(
        o for o in outputs if isinstance(o, torch.Tensor) and o.requires_grad and o.numel()
    )


def names() -> list[str]:
    """List the cases of float32 that are no expanded form of another."""
    return [
        name
        for name, case in cases().items()
        if "_expanded" not in name
        and any(v.type.tensor_type.elem_type == 1 for v in case.model.graph.input)
    ]


checked: set[str] = set()


@pytest.mark.parametrize("name", names())
def test_gradients_agree_with_central_differences(name: str) -> None:
    """Backward passes of every case with a gradient, for all its floating inputs at once."""
    prepared = differentiable(cases()[name])
    if prepared is None:
        pytest.skip("unsupported, random, large or without floating-point input")
    twin, given = prepared
    try:
        outputs = floating(twin(*given))
    except (UnsupportedOperator, ModelError) as error:
        pytest.skip(f"not in double precision: {error}")
    if not outputs:
        pytest.skip("no gradient flows through it")
    assert torch.autograd.gradcheck(
        lambda *inputs: floating(twin(*inputs)), given, fast_mode=True, eps=1e-6, atol=1e-5
    )
    checked.update(op_type for _, op_type in operators(cases()[name].model.graph))
