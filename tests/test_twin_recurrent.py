"""RNN, GRU and LSTM of the twin, beside ONNX Runtime."""

import pickle
import re
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model  # noqa: E402

from onnxfit.data_sources import times  # noqa: E402
from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

LENGTH, BATCH, INPUT, HIDDEN = 5, 3, 4, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
SLOTS = "x w r b lengths h c p"
rng = np.random.default_rng(0)


def values(op: str, directions: int, *extra: str) -> dict[str, Any]:
    """Return input and weights of an operator, and its other inputs by their slot's name."""
    shapes = {
        "b": (directions, 2 * GATES[op] * HIDDEN),
        "h": (directions, BATCH, HIDDEN),
        "c": (directions, BATCH, HIDDEN),
        "p": (directions, 3 * HIDDEN),
    }
    given = {
        "x": (LENGTH, BATCH, INPUT),
        "w": (directions, GATES[op] * HIDDEN, INPUT),
        "r": (directions, GATES[op] * HIDDEN, HIDDEN),
        **{name: shapes[name] for name in extra if name in shapes},
    }
    found = {name: rng.uniform(-1, 1, s).astype(np.float32) for name, s in given.items()}
    if "lengths" in extra:
        found["lengths"] = np.array([3, 5, 1], np.int32)
    return found


def model(op: str, opset: int, given: dict[str, Any], attributes: str = "") -> Any:
    """Write a model of one recurrent operator."""
    outputs = "y yh yc" if op == "LSTM" else "y yh"
    text = f"hidden_size={HIDDEN}, {attributes}".removesuffix(", ")
    return node_model(op, opset, given, SLOTS, outputs, text)


def stored(found: Any, given: dict[str, Any]) -> Any:
    """Make weights of all inputs but the first."""
    for name, array in list(given.items())[1:]:
        found.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return found


@pytest.mark.parametrize("opset", [7, 14, 22])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(
    ("extra", "attributes"),
    [
        ((), ""),
        (("b", "h"), ""),
        (("b", "lengths", "h"), ""),
        (("b",), "clip=0.3"),
    ],
)
def test_recurrent_operators_agree(
    op: str, extra: Any, attributes: str, direction: str, opset: int
) -> None:
    """Every operator computes what ONNX Runtime does, padded sequences and first states too."""
    given = values(op, 2 if direction == "bidirectional" else 1, *extra)
    text = f'direction="{direction}", {attributes}'.removesuffix(", ")
    agrees(model(op, opset, given, text), *given.values())


@pytest.mark.parametrize(
    ("op", "extra", "attributes"),
    [
        ("RNN", ("b",), 'activations=["Relu"]'),
        ("RNN", ("b",), 'activations=["LeakyRelu"]'),
        ("RNN", ("b",), 'activations=["Softsign"]'),
        ("RNN", ("b",), 'activations=["Softplus"]'),
        ("RNN", ("b",), 'activations=["Elu"], activation_alpha=[0.3]'),
        ("RNN", ("b",), 'activations=["HardSigmoid"]'),
        ("RNN", ("b",), 'activations=["Affine"], activation_alpha=[0.3], activation_beta=[0.1]'),
        ("RNN", ("b",), 'activations=["ThresholdedRelu"], activation_alpha=[0.2]'),
        (
            "RNN",
            ("b",),
            'activations=["ScaledTanh"], activation_alpha=[0.3], activation_beta=[2.0]',
        ),
        ("GRU", ("b",), "linear_before_reset=1"),
        ("GRU", ("b", "h", "lengths"), "linear_before_reset=1, clip=0.5"),
        ("GRU", (), "linear_before_reset=1"),
        ("LSTM", ("b", "h", "c"), ""),
        ("LSTM", ("b", "h", "c", "p"), ""),
        ("LSTM", ("b", "c", "p", "lengths"), "clip=0.2"),
        ("LSTM", ("b", "p"), "input_forget=1"),
        (
            "LSTM",
            ("b",),
            'activations=["HardSigmoid", "ELU", "softsign"], activation_alpha=[0.3, 0.7]',
        ),
    ],
)
def test_their_attributes_agree(op: str, extra: Any, attributes: str) -> None:
    """Activations with their numbers, clipping, peepholes and coupled gates."""
    given = values(op, 1, *extra)
    agrees(model(op, 14, given, attributes), *given.values())


def test_numbers_go_to_the_activations_that_take_them() -> None:
    """Alphas and betas are used up in order by the activations that have them."""
    text = (
        'direction="bidirectional", activations=["Sigmoid", "LeakyRelu", "HardSigmoid", "Affine"],'
        " activation_alpha=[0.3, 0.4, 0.5], activation_beta=[0.6, 0.7]"
    )
    given = values("GRU", 2, "b")
    agrees(model("GRU", 14, given, text), *given.values())


def test_a_sequence_without_steps_ends_in_zeros() -> None:
    """The last state of an empty sequence is zero whatever its first one was, as in the runtime."""
    given = values("LSTM", 1, "h", "c", "lengths")
    given["lengths"][1] = 0
    agrees(model("LSTM", 14, given), *given.values())


FUSED = [
    ("RNN", "", "rnn_tanh"),
    ("RNN", 'activations=["Relu"]', "rnn_relu"),
    ("GRU", "linear_before_reset=1", "gru"),
    ("LSTM", "", "lstm"),
]


@pytest.mark.parametrize(("op", "attributes", "function"), FUSED)
def test_plain_networks_are_pytorchs_own(op: str, attributes: str, function: str) -> None:
    """A network that PyTorch has runs as its function, from weights that keep ONNX's layout."""
    given = values(op, 1, "b")
    twin = agrees(stored(model(op, 14, given, attributes), given), given["x"])
    assert function in twin.source
    assert given["w"].shape == twin.w.shape
    assert np.array_equal(given["w"], twin.w.detach().numpy())
    again = pickle.loads(pickle.dumps(twin))  # noqa: S301
    x = torch.from_numpy(given["x"])
    torch.testing.assert_close(again(x), twin(x))


def test_zeros_as_first_state_fit_every_batch() -> None:
    """A first state that is zeros, or of one row in a file for one sample, serves other batches."""
    given = values("LSTM", 1, "b", "h", "c")
    given["h"][:], given["c"] = 0.0, given["c"][:, :1]
    found = stored(model("LSTM", 14, given), given)
    found.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    twin = to_torch(found)
    x = torch.from_numpy(rng.standard_normal((LENGTH, 7, INPUT)).astype(np.float32))
    single = [twin(x[:, i : i + 1])[0] for i in range(7)]
    torch.testing.assert_close(twin(x)[0], torch.cat(single, 2))


@pytest.mark.parametrize(("op", "slot"), [("RNN", "h"), ("GRU", "h"), ("LSTM", "h"), ("LSTM", "c")])
@pytest.mark.parametrize("attributes", ["", "clip=9.0", "layout=1"])
@pytest.mark.parametrize(
    "shape", [(1, 1, HIDDEN), (1, 2, HIDDEN), (1, 7, HIDDEN), (2, BATCH, HIDDEN), (1, BATCH, 3)]
)
def test_a_first_state_of_another_size_is_refused(
    op: str, slot: str, attributes: str, shape: tuple[int, ...]
) -> None:
    """PyTorch would read beyond its end; another number of samples is nothing to broadcast."""
    states = {"h": (1, BATCH, HIDDEN), "c": (1, BATCH, HIDDEN), slot: shape}
    given = values(op, 1, "b")
    for name in ("h", "c") if op == "LSTM" else ("h",):
        given[name] = np.ones(states[name], np.float32)
    if "layout" in attributes:
        given = {n: a.swapaxes(0, 1) if n in ("x", "h", "c") else a for n, a in given.items()}
    twin = to_torch(model(op, 14, given, attributes))
    with pytest.raises(ModelError) as refused:
        twin(*map(torch.from_numpy, given.values()))
    assert (
        f"{op} 'y' cannot be computed: a first state is {times(shape)}, "
        f"not 1×{BATCH}×{HIDDEN}: directions, samples and hidden size"
    ) == str(refused.value)


CASES = [
    ("RNN", ("b",), ""),
    ("GRU", ("b",), ""),
    ("GRU", ("b",), "linear_before_reset=1"),
    ("LSTM", ("b", "h", "c"), ""),
    ("LSTM", ("b", "p"), ""),
]


@pytest.mark.parametrize(("op", "extra", "attributes"), CASES)
def test_recurrent_operators_have_gradients(op: str, extra: Any, attributes: str) -> None:
    """Gradients of input, weights and states are right, through both directions."""
    given = values(op, 2, *extra)
    twin = to_torch(model(op, 14, given, f'direction="bidirectional", {attributes}'.strip(", ")))
    inputs = [torch.from_numpy(a).double().requires_grad_() for a in given.values()]
    assert torch.autograd.gradcheck(twin.double(), inputs, fast_mode=True)


@pytest.mark.parametrize(("op", "attributes"), [case[::2] for case in CASES])
def test_recurrent_operators_are_transformed(op: str, attributes: str) -> None:
    """Forward derivatives and batches of gradients give what backward does."""
    given = values(op, 1, "b")
    twin = to_torch(stored(model(op, 14, given, attributes), given))
    x = torch.from_numpy(given["x"][:2, :1])
    expected = torch.autograd.functional.jacobian(lambda x: twin(x)[0], x)
    torch.testing.assert_close(torch.func.jacrev(lambda x: twin(x)[0])(x), expected)
    torch.testing.assert_close(torch.func.jacfwd(lambda x: twin(x)[0])(x), expected)


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("RNN", 'activations=["Swish"]', "there is no activation 'Swish'"),
        (
            "RNN",
            'activations=["ScaledTanh"]',
            "nothing says what alpha and beta its activation ScaledTanh has",
        ),
        ("GRU", 'activations=["Tanh"]', "it has 1 activations instead of 2"),
        ("LSTM", 'direction="both"', "there is no direction 'both'"),
    ],
)
def test_what_is_refused(op: str, attributes: str, reason: str) -> None:
    """Attributes without a meaning are refused when the twin is built."""
    given = values(op, 1)
    with pytest.raises(UnsupportedOperator, match=f"{re.escape(reason)}$"):
        to_torch(model(op, 14, given, attributes))
