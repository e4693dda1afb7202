"""Random numbers of the twin: right types, shapes and distributions, and seeds that hold."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import parse, runtime_outputs  # noqa: E402

from onnxfit.errors import UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

X = np.linspace(0.0, 1.0, 4000, dtype=np.float32).reshape(2, 2000)


def model(body: str, opset: int = 17, output: str = "float") -> Any:
    """Write a model of one input."""
    return parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N, M] x) => ({output} y)'
        f" {{ y = {body} }}"
    )


MOMENTS = [
    ("RandomNormal <shape=[40, 50], mean=2.0, scale=3.0> ()", 2.0, 3.0),
    ("RandomUniform <shape=[2000], low=-1.0, high=5.0> ()", 2.0, 6 / 12**0.5),
    ("RandomNormalLike <mean=-1.0> (x)", -1.0, 1.0),
    ("RandomUniformLike <high=2.0> (x)", 1.0, 2 / 12**0.5),
    ("Bernoulli (x)", 0.5, 0.5),
]


@pytest.mark.parametrize("opset", [15, 21, 22])
@pytest.mark.parametrize(("body", "mean", "deviation"), MOMENTS)
def test_distributions_are_right(body: str, mean: float, deviation: float, opset: int) -> None:
    """Mean and standard deviation are those asked for; type and shape are ONNX Runtime's."""
    torch.manual_seed(0)
    drawn = to_torch(model(body, opset))(torch.from_numpy(X))
    expected = runtime_outputs(model(body, 21 if opset == 22 else opset), X)[0]
    assert expected.shape == tuple(drawn.shape)
    assert torch.float32 == drawn.dtype
    assert abs(drawn.mean().item() - mean) < 0.15
    assert abs(drawn.std().item() - deviation) < 0.15


@pytest.mark.parametrize("body", [body for body, _, _ in MOMENTS])
def test_numbers_are_drawn_anew_unless_there_is_a_seed(body: str) -> None:
    """Each call draws other numbers; with a seed each call draws the same."""
    x = torch.from_numpy(X)
    twin = to_torch(model(body))
    assert not torch.equal(twin(x), twin(x))
    op, _, inputs = body.rpartition(" ")
    attributes = op.replace(">", ", seed=7.0>") if ">" in op else f"{op} <seed=7.0>"
    seeded = to_torch(model(f"{attributes} {inputs}"))
    assert torch.equal(seeded(x), seeded(x))


def test_bernoulli_follows_its_probabilities() -> None:
    """Each number is drawn with its own probability, in the type asked for."""
    probabilities = torch.tensor([0.0, 0.25, 1.0]).repeat(4000, 1)
    drawn = to_torch(model("Bernoulli <dtype=4> (x)", output="uint16"))(probabilities)
    assert torch.uint16 == drawn.dtype
    means = drawn.float().mean(0)
    torch.testing.assert_close(means, torch.tensor([0.0, 0.25, 1.0]), rtol=0, atol=0.03)


@pytest.mark.parametrize("opset", [7, 22])
def test_multinomial_follows_log_probabilities(opset: int) -> None:
    """Classes come as often as the softmax of the input says."""
    x = torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, -50.0]])
    body = "Multinomial <sample_size=6000, dtype=7> (x)"
    drawn = to_torch(model(body, opset, "int64"))(x)
    assert (2, 6000) == tuple(drawn.shape)
    assert torch.int64 == drawn.dtype
    found = torch.nn.functional.one_hot(drawn, 3).float().mean(1)
    torch.testing.assert_close(found, x.softmax(1), rtol=0, atol=0.03)


def test_types_follow_the_twin() -> None:
    """What the file calls float32 is half once the twin is, and no gradient is asked for."""
    twin = to_torch(model("RandomNormal <shape=[3]> ()")).half()
    assert torch.float16 == twin(torch.from_numpy(X)).dtype
    bits = to_torch(model("Bernoulli (x)"))
    assert not bits(torch.from_numpy(X).requires_grad_()).requires_grad


def test_an_unknown_type_is_refused() -> None:
    """There are no random strings."""
    with pytest.raises(UnsupportedOperator, match=r"no random numbers of type 8$"):
        to_torch(model("RandomNormalLike <dtype=8> (x)"))
