"""Recurrent networks: RNN, GRU and LSTM."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onnxfit.data_sources import times
from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.recurrent_cells import (
    ACTIVATIONS,
    Activation,
    Cell,
    gru_cell,
    lstm_cell,
    rnn_cell,
    steps,
)
from onnxfit.twin.registry import converter
from onnxfit.twin.transforms import transformed
from onnxfit.twin.values import Variable


class Kind(NamedTuple):
    """How a recurrent operator is computed.

    Attributes:
        cell: One time step.
        activations: Its default activations in one direction.
        states: How many states it has.
        flag: The attribute that changes its equations.
    """

    cell: Cell
    activations: tuple[str, ...]
    states: int
    flag: str


KINDS = {
    "RNN": Kind(rnn_cell, ("tanh",), 1, ""),
    "GRU": Kind(gru_cell, ("sigmoid", "tanh"), 1, "linear_before_reset"),
    "LSTM": Kind(lstm_cell, ("sigmoid", "tanh", "tanh"), 2, "input_forget"),
}
# How many gates belong together in ONNX's order, and which of these parts PyTorch has there.
Gates = tuple[tuple[int, int], ...]
# PyTorch's own function for these activations and this flag, with its order of the gates.
FUSED: dict[tuple[tuple[str, ...], int], tuple[Callable[..., Any], Gates]] = {
    (("tanh",), 0): (torch.rnn_tanh, ()),
    (("relu",), 0): (torch.rnn_relu, ()),
    (("sigmoid", "tanh"), 1): (torch.gru, ((1, 1), (1, 0), (1, 2))),
    (("sigmoid", "tanh", "tanh"), 0): (torch.lstm, ((1, 0), (1, 2), (2, 1))),
}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@converter("RNN", "GRU", "LSTM")
def recurrent(node: Node) -> Outputs:
    """Emit PyTorch's own network where there is one, else a cell for each time step."""
    kind = KINDS[node.op_type]
    direction = node.get("direction", "forward")
    if direction not in DIRECTIONS:
        node.unsupported(f"there is no direction {direction!r}")
    directions = DIRECTIONS[direction]
    flag = node.get(kind.flag, 0) if kind.flag else 0
    clip = node.get("clip")
    chosen = _activations(node, kind, len(directions))
    names = {tuple(name for name, *_ in each) for each in chosen}
    fused = FUSED.get((names.pop(), flag)) if len(names) == 1 else None
    if clip is not None or node.has(7):
        fused = None
    function, gates = fused or (None, ())
    batch_first = bool(node.get("layout", 0))
    states = [_state(node, 5 + index) for index in range(kind.states)]
    return node.emit(
        recur,
        *(node.input(index) for index in range(5)),
        states,
        node.input(7),
        kind.cell,
        function,
        gates,
        directions,
        batch_first,
        any(state is not None for state in states) and _is_for_one(node, 1 - batch_first),
        chosen,
        clip,
        bool(flag),
        outputs=1 + kind.states,
    )


def _activations(node: Node, kind: Kind, directions: int) -> list[list[Activation]]:
    """Read the activations of each direction, with the numbers that belong to them."""
    each = len(kind.activations)
    names = node.get("activations", kind.activations * directions)
    if len(names) < each * directions:
        node.unsupported(f"it has {len(names)} activations instead of {each * directions}")
    alphas, betas = (list(node.get(f"activation_{name}", ())) for name in ("alpha", "beta"))
    found: list[Activation] = []
    for name in names[: each * directions]:
        if name.lower() not in ACTIVATIONS:
            node.unsupported(f"there is no activation {name!r}")
        numbers = []
        defaults = ACTIVATIONS[name.lower()][1]
        for given, default in zip((alphas, betas), defaults, strict=False):
            numbers.append(given.pop(0) if given else default)
        if None in numbers:
            node.unsupported(f"nothing says what alpha and beta its activation {name} has")
        found.append((name.lower(), *numbers))
    return [found[start : start + each] for start in range(0, len(found), each)]


def _state(node: Node, index: int) -> Any:
    """Return a first state as an argument; zeros are left out, to fit every batch."""
    known = node.known(index)
    return None if known is not None and not known.any() else node.input(index)


def _is_for_one(node: Node, axis: int) -> bool:
    """Tell whether the file fixes the batch of the first input, an axis of it, to one sample."""
    if not isinstance(node.value(0), Variable):
        return False
    builder = node.frame.builder
    shape = None if node.frame.scope else builder.partial_shapes.get(node.proto.input[0])
    if shape is None or len(shape) <= axis:
        return builder.batch is not None and builder.batch[0] == 1
    return shape[axis] == 1


def recur(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    states: Sequence[Tensor | None],
    peephole: Tensor | None,
    cell: Cell,
    fused: Callable[..., Any] | None,
    gates: Gates,
    directions: tuple[bool, ...],
    batch_first: bool,
    one_for_all: bool,
    activations: Sequence[Sequence[Activation]],
    clip: float | None,
    flag: bool,
) -> tuple[Tensor, ...]:
    """Compute a recurrent operator: all outputs, and the last states."""
    if batch_first:
        x = x.transpose(0, 1)
        states = [None if state is None else state.transpose(0, 1) for state in states]
    needed = (len(directions), x.shape[1], r.shape[2])
    first = [_first(x, needed, state, one_for_all) for state in states]
    if fused is not None and _is_full(lengths, len(x)):
        y, last = _fused(fused, gates, x, w, r, b, first, directions)
    else:
        results = []
        for index, backwards in enumerate(directions):
            weights = (w[index], r[index], None if b is None else b[index], lengths, backwards)
            holes = None if peephole is None else peephole[index]
            details = (holes, activations[index], clip, flag)
            begin = [state[index] for state in first]
            results.append(steps(cell, x, begin, *weights, *details))
        outputs, *finals = zip(*results, strict=True)
        y, last = torch.stack(outputs, 2), [torch.stack(states) for states in finals]
    if batch_first:
        return y.transpose(0, 1), *(state.transpose(0, 1) for state in last)
    return y.transpose(1, 2), *last


def _first(
    x: Tensor, needed: tuple[int, int, int], state: Tensor | None, one_for_all: bool
) -> Tensor:
    """Return a first state with a row for each sample.

    PyTorch's own networks do not look at the shape, and read what lies behind a smaller state.
    """
    if state is None:
        return x.new_zeros(needed)
    if one_for_all and state.shape[1] == 1:
        state = state.expand(-1, needed[1], -1)
    if state.shape != needed:
        raise ValueError(
            f"a first state is {times(tuple(state.shape))}, not {times(needed)}: "
            "directions, samples and hidden size"
        )
    return state


def _is_full(lengths: Tensor | None, length: int) -> bool:
    """Tell whether PyTorch's own networks can run: no transforms, no padding in the batch."""
    if transformed():
        return False
    return lengths is None or bool((lengths == length).all())


def _fused(
    function: Callable[..., Any],
    gates: Gates,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    states: Sequence[Tensor],
    directions: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor]]:
    """Run PyTorch's own network; return outputs as ``[length, batch, directions, hidden]``."""
    backwards = directions == (True,)
    begin = [state.contiguous() for state in states]
    y, *last = function(
        x.flip(0) if backwards else x,
        begin if len(begin) > 1 else begin[0],
        pack(gates, w, r, b),
        b is not None,
        1,
        0.0,
        True,
        len(directions) == 2,
        False,
    )
    return (y.flip(0) if backwards else y).unflatten(2, (len(directions), -1)), last


def pack(gates: Gates, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    """Put the gates of weights and biases in PyTorch's order."""
    directions, _, size = r.shape
    found = [in_order(gates, x, 1, size).unbind(0) for x in (w, r)]
    if b is not None:
        found += in_order(gates, b.unflatten(1, (2, -1)), 2, size).unbind(1)
    if w.is_cuda:
        found = one_piece(found)
    return [group[index] for index in range(directions) for group in found]


def in_order(gates: Gates, x: Tensor, dim: int, size: int) -> Tensor:
    """Put the gates along an axis in PyTorch's order."""
    if not gates:
        return x
    parts = x.split([count * size for count, _ in gates], dim)
    return torch.cat([parts[place] for _, place in gates], dim)


def one_piece(groups: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Put weights and biases one behind the other in memory, as cuDNN wants them."""
    order = [w for pair in zip(*groups[:2], strict=True) for w in pair]
    order += [b for pair in zip(*groups[2:], strict=True) for b in pair]
    pieces = torch.cat([x.flatten() for x in order]).split([x.numel() for x in order])
    placed = {id(x): piece.view(x.shape) for x, piece in zip(order, pieces, strict=True)}
    return [[placed[id(x)] for x in group] for group in groups]
