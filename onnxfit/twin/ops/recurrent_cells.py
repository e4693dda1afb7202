"""One time step of the recurrent operators, and their activations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# An activation's name in small letters, with the alpha and beta that it takes.
Activation = tuple[Any, ...]
Cell = Callable[..., tuple[Tensor, ...]]


def affine(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, 0.0)


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0.0, 1.0)


# The function of each activation with the defaults of the alpha and the beta that it takes; the
# specification has none for those that are None, or ONNX Runtime another one.
ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[float | None, ...]]] = {
    "relu": (torch.relu, ()),
    "tanh": (torch.tanh, ()),
    "sigmoid": (torch.sigmoid, ()),
    "softsign": (functional.softsign, ()),
    "softplus": (functional.softplus, ()),
    "leakyrelu": (functional.leaky_relu, (0.01,)),
    "thresholdedrelu": (thresholded_relu, (None,)),
    "elu": (functional.elu, (1.0,)),
    "affine": (affine, (None, 0.0)),
    "scaledtanh": (scaled_tanh, (None, None)),
    "hardsigmoid": (hard_sigmoid, (0.2, 0.5)),
}


def activate(activation: Activation, x: Tensor, clip: float | None) -> Tensor:
    """Clip what goes into an activation, and compute it."""
    name, *numbers = activation
    if clip is not None:
        x = x.clamp(-clip, clip)
    return ACTIVATIONS[name][0](x, *numbers)


def rnn_cell(
    projected: Tensor,
    states: Sequence[Tensor],
    r: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    activations: Sequence[Activation],
    clip: float | None,
    flag: bool,
) -> tuple[Tensor, ...]:
    """Compute a step of an RNN; what it takes is what every cell does.

    Args:
        projected: The input times its weights, ``[batch, gates · hidden]``.
        states: The states before.
        r: The recurrent weights, ``[gates · hidden, hidden]``.
        bias: The recurrent bias.
        peephole: The weights of an LSTM's peepholes, ``[3 · hidden]``.
        activations: The activations of the direction.
        clip: The bound of what goes into an activation.
        flag: ``linear_before_reset`` of a GRU, ``input_forget`` of an LSTM.

    Returns:
        The states after.
    """
    del peephole, flag
    return (activate(activations[0], projected + functional.linear(states[0], r, bias), clip),)


def gru_cell(
    projected: Tensor,
    states: Sequence[Tensor],
    r: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    activations: Sequence[Activation],
    clip: float | None,
    flag: bool,
) -> tuple[Tensor, ...]:
    """Compute a step of a GRU."""
    del peephole
    h, size = states[0], r.shape[1]
    inputs, new_input = projected.split((2 * size, size), 1)
    if flag:
        recurrent, new = functional.linear(h, r, bias).split((2 * size, size), 1)
    else:
        gates, last = (None, None) if bias is None else bias.split((2 * size, size))
        recurrent = functional.linear(h, r[: 2 * size], gates)
    update, reset = activate(activations[0], inputs + recurrent, clip).chunk(2, 1)
    new = reset * new if flag else functional.linear(reset * h, r[2 * size :], last)
    new = activate(activations[1], new_input + new, clip)
    return (new + update * (h - new),)


def lstm_cell(
    projected: Tensor,
    states: Sequence[Tensor],
    r: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    activations: Sequence[Activation],
    clip: float | None,
    flag: bool,
) -> tuple[Tensor, ...]:
    """Compute a step of an LSTM."""
    h, c = states
    f, g, last = activations
    gates = (projected + functional.linear(h, r, bias)).chunk(4, 1)
    into, out, forget, cell = gates
    if peephole is not None:
        weights = peephole.chunk(3)
        into, forget = into + weights[0] * c, forget + weights[2] * c
    into = activate(f, into, clip)
    forget = 1.0 - into if flag else activate(f, forget, clip)
    c = forget * c + into * activate(g, cell, clip)
    if peephole is not None:
        out = out + weights[1] * c
    return activate(f, out, clip) * activate(last, c, None), c


def steps(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    backwards: bool,
    *details: Any,
) -> tuple[Tensor, ...]:
    """Run a cell along a sequence in one direction.

    Args:
        cell: One of the cells.
        x: ``[length, batch, input]``.
        states: The first states, each ``[batch, hidden]``.
        w: The weights of the input, ``[gates · hidden, input]``.
        r: The recurrent weights.
        b: Both biases, one after the other.
        lengths: How long each sequence is; after its end there is nothing but zeros.
        backwards: Run from the end.
        details: What else the cell takes.

    Returns:
        The outputs, ``[length, batch, hidden]``, and the last states.
    """
    input_bias, bias = (None, None) if b is None else b.chunk(2)
    rows = functional.linear(x, w, input_bias).unbind(0)
    outputs: list[Tensor] = []
    for index in reversed(range(len(rows))) if backwards else range(len(rows)):
        after = cell(rows[index], states, r, bias, *details)
        if lengths is None:
            states = after
            outputs.append(after[0])
            continue
        going = (index < lengths)[:, None]
        states = [torch.where(going, new, old) for new, old in zip(after, states, strict=True)]
        outputs.append(torch.where(going, after[0], 0.0))
    if lengths is not None:  # As ONNX Runtime does where there is no step at all.
        states = [torch.where((lengths > 0)[:, None], state, 0.0) for state in states]
    return torch.stack(outputs[::-1] if backwards else outputs), *states
