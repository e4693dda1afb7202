"""Linear attention: a state that each token of a sequence changes and reads."""

import torch
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.attention_math import merge_heads, split_heads
from onnxfit.twin.registry import converter

RULES = ("linear", "gated", "delta", "gated_delta")


@converter("LinearAttention", since=27)
def linear_attention(node: Node) -> Outputs:
    rule = node.get("update_rule", "gated_delta")
    if rule not in RULES:
        node.unsupported(f"there is no update_rule {rule!r}")
    for index, name, wanted in ((4, "decay", "gated" in rule), (5, "beta", "delta" in rule)):
        if node.has(index) != wanted:
            node.unsupported(f"its update_rule {rule} {'needs' if wanted else 'has no'} {name}")
    heads = (node.get("q_num_heads"), node.get("kv_num_heads"))
    inputs = [node.input(index) for index in range(6)]
    return node.emit(attend, *inputs, heads, node.get("scale", 0.0), outputs=2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None,
    decay: Tensor | None,
    beta: Tensor | None,
    heads: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Write each token to the state and read it, at least in float32.

    Args:
        query: ``[batch, length, heads · size]``, of more heads than the others maybe.
        key: Like ``query``.
        value: Like ``query``, of another size maybe.
        past: The state before, ``[batch, heads, key size, value size]``; None for zeros.
        decay: The logarithm of what is kept of the state, for each head or each of its rows.
        beta: How much of what the state lacks of a token's value is written, for each head or
            for all; None to write the value itself.
        heads: How many heads queries and the others have.
        scale: The factor of what is read; 0 for the inverse root of the key's size.

    Returns:
        What was read, ``[batch, length, query heads · value size]``, and the last state.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    k, v = (split_heads(x.to(wide), heads[1]) for x in (key, value))
    q = split_heads(query.to(wide), heads[0])
    q = q.unflatten(1, (heads[1], -1)) * (scale or q.shape[3] ** -0.5)
    state = k.new_zeros((*k.shape[:2], k.shape[3], v.shape[3])) if past is None else past.to(wide)
    kept = None if decay is None else split_heads(decay.to(wide), heads[1]).exp()
    share = None if beta is None else beta.to(wide).transpose(1, 2)[..., None]
    read = []
    for t in range(k.shape[2]):
        if kept is not None:
            state = state * kept[:, :, t, :, None]
        written = v[:, :, t, None]
        if share is not None:
            written = share[:, :, t, None] * (written - k[:, :, t, None] @ state)
        state = state + k[:, :, t, :, None] * written
        read.append((q[:, :, :, t] @ state).flatten(1, 2))
    y = merge_heads(torch.stack(read, 2)).to(query.dtype)
    return y, state.to(query.dtype if past is None else past.dtype)
