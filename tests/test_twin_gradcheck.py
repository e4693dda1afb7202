"""Gradients of every differentiable operator against central differences in double precision.

The graphs are those of the ``onnx`` package's backend suite, moved a little so that no value lies
where a function has a kink, and read in double precision.
"""

import re
from typing import Any

import onnx
import pytest

torch = pytest.importorskip("torch")

from backend_suite import carried, cases, is_random, operators  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

# Elements of the inputs: central differences in more directions take too long.
LARGEST = 3000
# Their gradient passes rounding straight through, which no difference quotient shows.
STRAIGHT_THROUGH = re.compile(r"quantizelinear|FLOAT8|FLOAT4|to_BFLOAT16|to_FLOAT16")


def differentiable(case: Any) -> tuple[Any, list[Any]] | None:
    """Return a case's twin and inputs in double precision, or None where it has no gradient."""
    if is_random(case):
        return None
    try:
        twin = to_torch(case.model).double()
    except UnsupportedOperator:
        return None
    generator = torch.Generator().manual_seed(0)
    given = []
    settings = without_gradient(case.model.graph)
    for value, described in zip(case.data_sets[0][0], case.model.graph.input, strict=True):
        tensor = carried(value, described.type)
        if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32:
            if not torch.isfinite(tensor).all():
                return None
            tensor = tensor.double()
            if described.name not in settings:
                tensor += 1e-3 * torch.rand(tensor.shape, generator=generator).double()
                tensor.requires_grad_(tensor.numel() > 0)
        given.append(tensor)
    sizes = [t.numel() for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
    if not sizes or sum(sizes) > LARGEST:
        return None
    return twin, given


def without_gradient(graph: onnx.GraphProto) -> set[str]:
    """Return the names of inputs that the specification calls not differentiable."""
    category = onnx.defs.OpSchema.DifferentiationCategory.NonDifferentiable
    found = set()
    for node in graph.node:
        formal = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
        for index, name in enumerate(node.input):
            if formal[min(index, len(formal) - 1)].differentiation_category == category:
                found.add(name)
    return found


def floating(outputs: Any) -> tuple[Any, ...]:
    """Return the outputs that gradients flow from."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    tensors = [o for o in outputs if isinstance(o, torch.Tensor) and o.requires_grad and o.numel()]
    return tuple(tensor for tensor in tensors if torch.isfinite(tensor).all())


def names() -> list[str]:
    """List the cases of float32 that are no expanded form of another."""
    return [
        name
        for name, case in cases().items()
        if "_expanded" not in name
        and not STRAIGHT_THROUGH.search(name)
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
