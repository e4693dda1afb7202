"""Scaled dot-product attention of ONNX's own domain."""

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.attention_math import (
    UNBOUNDED,
    attend,
    attend_written_out,
    bias_of,
    mask_input,
    merge_heads,
    split_heads,
)
from onnxfit.twin.registry import converter
from onnxfit.twin.tensors import DTYPES

# The types whose softmax PyTorch's own attention computes in float32.
_SHORT = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@converter("Attention", since=23)
def attention(node: Node) -> Outputs:
    """Emit PyTorch's own attention; one written out where the node asks for more than that."""
    _check(node)
    heads = (node.get("q_num_heads"), node.get("kv_num_heads"))
    window = (node.get("left_window_size", -1), node.get("right_window_size", -1))
    causal, scale = bool(node.get("is_causal", 0)), node.get("scale")
    softcap, precision = node.get("softcap", 0.0), node.get("softmax_precision")
    same = precision == TensorProto.FLOAT and node.element_type(0) in _SHORT
    q, k, v = node.inputs[:3]
    masks = (mask_input(node, 3), node.input(6), causal, window)
    past = (node.input(4), node.input(5))
    if node.wants(3) or softcap > 0 or not (precision is None or same):
        precise = None if precision is None else node.like(DTYPES[precision])
        details = (softcap, precise, node.get("qk_matmul_output_mode", 0))
        return node.emit(full, q, k, v, *past, heads, *masks, scale, *details, outputs=4)
    if node.wants(1) or node.wants(2):
        return node.emit(with_cache, q, k, v, *past, heads, *masks, scale, outputs=3)
    if node.has(3) or node.has(4) or node.has(6) or window != UNBOUNDED:
        return node.emit(masked, q, k, v, *past, heads, *masks, scale)
    return node.emit(plain, q, k, v, heads, causal, scale)


def _check(node: Node) -> None:
    """Refuse what the specification does not give a meaning."""
    if (node.get("q_num_heads") is None) != (node.get("kv_num_heads") is None):
        node.unsupported("it has one of the attributes q_num_heads and kv_num_heads only")
    if node.has(4) != node.has(5):
        node.unsupported("it has one of the inputs past_key and past_value only")
    if node.has(4) and node.has(6):
        node.unsupported("it has both past_key and nonpad_kv_seqlen")
    if node.get("scale", 1.0) < 0:
        node.unsupported(f"its scale is {node.get('scale'):g}, and it takes the root of that")


def plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: tuple[int, int],
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Compute attention without a mask or a cache."""
    if q.dim() == 4:
        return attend(q, k, v, None, causal, scale)
    q, k, v = _split(q, k, v, heads)
    return merge_heads(attend(q, k, v, None, causal, scale))


def masked(q: Tensor, *rest: Any) -> Tensor:
    """Compute attention; what it takes is what :func:`with_cache` does."""
    return with_cache(q, *rest)[0]


def with_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_key: Tensor | None,
    past_value: Tensor | None,
    heads: tuple[int, int],
    mask: Tensor | None,
    lengths: Tensor | None,
    causal: bool,
    window: tuple[int, int],
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute attention, and the keys and values with those of the cache before them."""
    merged = q.dim() == 3
    q, k, v, past = _prepared(q, k, v, past_key, past_value, heads)
    if past or window != UNBOUNDED or mask is not None or lengths is not None:
        mask, causal = bias_of(q, k, mask, lengths, causal, window, past), False
    y = attend(q, k, v, mask, causal, scale)
    return merge_heads(y) if merged else y, k, v


def full(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_key: Tensor | None,
    past_value: Tensor | None,
    heads: tuple[int, int],
    mask: Tensor | None,
    lengths: Tensor | None,
    causal: bool,
    window: tuple[int, int],
    scale: float | None,
    softcap: float,
    precise: Tensor | None,
    mode: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute attention like :func:`with_cache` does, and show a step of it."""
    merged = q.dim() == 3
    q, k, v, past = _prepared(q, k, v, past_key, past_value, heads)
    bias = bias_of(q, k, mask, lengths, causal, window, past)
    y, shown = attend_written_out(q, k, v, bias, scale, softcap, precise, mode)
    return merge_heads(y) if merged else y, k, v, shown


def _prepared(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_key: Tensor | None,
    past_value: Tensor | None,
    heads: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return queries, keys and values by heads, and how many of the keys are of the cache."""
    q, k, v = _split(q, k, v, heads) if q.dim() == 3 else (q, k, v)
    k, v, past = _cached(k, v, past_key, past_value)
    return q, k, v, past


def _split(
    q: Tensor, k: Tensor, v: Tensor, heads: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    if heads[0] is None:
        raise ValueError("inputs of 3 axes need the attributes q_num_heads and kv_num_heads")
    return split_heads(q, heads[0]), split_heads(k, heads[1]), split_heads(v, heads[1])


def _cached(
    k: Tensor, v: Tensor, past_key: Tensor | None, past_value: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """Put a cache before keys and values; return its length too."""
    if past_key is None or past_value is None:
        return k, v, 0
    return (
        torch.cat((past_key, k), 2),
        torch.cat((past_value, v), 2),
        past_key.shape[2],
    )
