"""The attention operators that ONNX Runtime's optimiser writes."""

import torch
from torch import Tensor
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.attention_math import (
    attend,
    bias_of,
    mask_input,
    merge_heads,
    split_heads,
)
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Constant

DOMAIN = "com.microsoft"


@converter("Attention", domain=DOMAIN)
def attention(node: Node) -> Outputs:
    """Convert self-attention with its projections."""
    for name in ("do_rotary", "past_present_share_buffer"):
        if node.get(name, 0):
            node.unsupported(f"its attribute {name} is not supported")
    if node.has(6):
        node.unsupported("its input past_sequence_length is not supported")
    sizes = node.get("qkv_hidden_sizes")
    if node.wants(1) and sizes and sizes[1] != sizes[2]:
        node.unsupported("keys and values of different sizes do not make one output")
    y, k, v = node.emit(
        self_attention,
        *(node.input(index) for index in range(5)),
        mask_input(node, 5),
        node.get("num_heads"),
        sizes,
        *_settings(node),
        outputs=3,
    )
    return y, node.emit(torch.stack, [k, v]) if node.wants(1) else Constant(None)


@converter("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(node: Node) -> Outputs:
    """Convert attention whose projections are done, up to their bias."""
    for index, name in ((8, "past_sequence_length"), (9, "cache_indirection")):
        if node.has(index):
            node.unsupported(f"its input {name} is not supported")
    if node.wants(3):
        node.unsupported("its output qk is not supported")
    if node.has(1) != node.has(2):
        node.unsupported("packed keys and values are not supported")
    if not node.has(1):
        node.unsupported("packed queries, keys and values are not supported")
    return node.emit(
        cross_attention,
        *(node.input(index) for index in range(5)),
        mask_input(node, 5),
        node.input(6),
        node.input(7),
        node.get("num_heads"),
        *_settings(node),
        outputs=3,
    )


def _settings(node: Node) -> tuple[bool, float | None, float]:
    """Read what both operators have: causality, scale and the number that hides keys."""
    scale = node.get("scale", 0.0)
    return (
        bool(node.get("unidirectional", 0)),
        scale if scale else None,
        node.get("mask_filter_value", -10000.0),
    )


def self_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    past: Tensor | None,
    added: Tensor | None,
    heads: int,
    sizes: tuple[int, ...] | None,
    causal: bool,
    scale: float | None,
    hides: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Project ``x`` to queries, keys and values and attend; return keys and values as well."""
    projected = functional.linear(x, weight.t(), bias)
    parts = projected.split(sizes, 2) if sizes else projected.chunk(3, 2)
    q, k, v = (split_heads(part, heads) for part in parts)
    if past is not None:
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
    return _attend(q, k, v, mask, added, causal, scale, hides), k, v


def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    added: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    heads: int,
    causal: bool,
    scale: float | None,
    hides: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend with projected queries, keys and values; keys and values may have their heads."""
    if q.dim() == 5 or k.dim() == 5:
        raise ValueError("packed queries, keys and values are not supported")
    if bias is not None:
        split = k.dim() == 4
        sizes = [q.shape[2]] * 2 + [v.shape[1] * v.shape[3] if split else v.shape[2]]
        parts = bias.split(sizes)
        q = q + parts[0]
        k, v = (k, v) if split else (k + parts[1], v + parts[2])
    q = split_heads(q, heads)
    k, v = (x if x.dim() == 4 else split_heads(x, heads) for x in (k, v))
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError(
            f"unidirectional attention of {q.shape[2]} queries to {k.shape[2]} new keys is "
            "not supported"
        )
    if past_key is not None and past_value is not None:
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    return _attend(q, k, v, mask, added, causal, scale, hides), k, v


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    added: Tensor | None,
    causal: bool,
    scale: float | None,
    hides: float,
) -> Tensor:
    """Attend; a mask adds ``hides`` to the scores, so that a query that sees nothing sees all."""
    zero, bias = q.new_zeros(()), added
    if mask is not None:
        hidden = torch.where(visible(mask, q.shape[0], k.shape[2]), zero, hides)
        bias = hidden if added is None else hidden + added
    past = k.shape[2] - q.shape[2]
    if causal and (bias is not None or past):
        seen = bias_of(q, k, None, causal=True, past=past)
        lowest = torch.finfo(q.dtype).min
        bias, causal = torch.where(seen, zero if bias is None else bias, lowest), False
    return merge_heads(attend(q, k, v, bias, causal, scale))


def visible(mask: Tensor, batch: int, keys: int) -> Tensor:
    """Tell which keys a mask lets each query see.

    Args:
        mask: ``[batch, keys]`` or ``[batch, queries, keys]``, above 0 for a key to see; or
            ``[batch]``, where the keys end; or ``[2 · batch]``, where they end and begin.
        batch: The number of samples.
        keys: The number of keys.
    """
    if mask.dim() == 4:
        raise ValueError("a mask of 4 axes is not supported")
    if mask.dim() == 3:
        return mask[:, None] > 0
    if mask.dim() == 2:
        return mask[:, None, None] > 0
    ends = mask.reshape(-1, batch, 1, 1, 1)
    if len(ends) > 2:
        raise ValueError(f"a mask of {len(mask)} numbers is not supported for {batch} samples")
    positions = torch.arange(keys, device=mask.device)
    seen = positions < ends[0]
    return seen & (positions >= ends[1]) if len(ends) == 2 else seen
