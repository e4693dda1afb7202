"""Training steps in the graph, beside PyTorch's optimisers."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from twin_support import parse  # noqa: E402

from onnxfit.errors import UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

GRADIENTS = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.125]])
RATE = torch.tensor(0.1)


def twin_of(op: str, attributes: str, states: int) -> Any:
    """Make the twin of an optimiser of one tensor with so many states."""
    inputs = ["r", "x", "g", *"vh"[:states]]
    outputs = ["y", *(f"{name}2" for name in "vh"[:states])]
    typed = ", ".join(f"float{'' if name == 'r' else '[N]'} {name}" for name in inputs)
    return to_torch(
        parse(
            '<ir_version: 8, opset_import: ["": 17, "ai.onnx.preview.training": 1]>'
            f" g (int64 t, {typed}) => ({', '.join(f'float {name}' for name in outputs)})"
            f" {{ {', '.join(outputs)} = ai.onnx.preview.training.{op} <{attributes}>"
            f" (r, t, {', '.join(inputs[1:])}) }}"
        )
    )


@pytest.mark.parametrize(
    ("op", "attributes", "states", "optimiser", "settings"),
    [
        ("Adagrad", "decay_factor=0.5, epsilon=1e-10", 1, "Adagrad", {"lr_decay": 0.5}),
        ("Adam", "epsilon=1e-12", 2, "Adam", {"eps": 1e-12}),
        (
            "Momentum",
            'alpha=0.9, beta=1.0, norm_coefficient=0.0, mode="standard"',
            1,
            "SGD",
            {"momentum": 0.9},
        ),
        (
            "Momentum",
            'alpha=0.9, beta=1.0, norm_coefficient=0.01, mode="nesterov"',
            1,
            "SGD",
            {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        ),
    ],
)
def test_steps_are_those_of_pytorch(
    op: str, attributes: str, states: int, optimiser: str, settings: Any
) -> None:
    """Two steps move a tensor as PyTorch's optimiser of that name does."""
    expected = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    x, state = expected.detach().clone(), [torch.zeros(3)] * states
    trained = getattr(torch.optim, optimiser)([expected], lr=0.1, **settings)
    twin = twin_of(op, attributes, states)
    for step, gradient in enumerate(GRADIENTS):
        expected.grad = gradient.clone()
        trained.step()
        count = torch.tensor(step + 1 if op == "Adam" else step)
        x, *state = twin(count, RATE, x, gradient, *state)
        torch.testing.assert_close(x, expected.detach())


def test_the_first_step_of_momentum_is_whole() -> None:
    """In the first step the gradient counts fully, whatever its coefficient."""
    twin = twin_of("Momentum", 'alpha=0.9, beta=0.5, norm_coefficient=0.0, mode="standard"', 1)
    x = torch.zeros(3)
    assert torch.equal(GRADIENTS[0], twin(torch.tensor(0), RATE, x, GRADIENTS[0], x)[1])
    assert torch.equal(GRADIENTS[0] / 2, twin(torch.tensor(1), RATE, x, GRADIENTS[0], x)[1])


def test_an_unknown_mode_is_refused() -> None:
    """Momentum is standard or Nesterov's."""
    with pytest.raises(UnsupportedOperator, match="there is no mode 'heavy'"):
        twin_of("Momentum", 'alpha=0.9, beta=1.0, norm_coefficient=0.0, mode="heavy"', 1)
