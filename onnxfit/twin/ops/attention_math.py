"""What the attention operators have in common; queries are ``[batch, heads, length, size]``."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from onnxfit.twin.node import Node
from onnxfit.twin.transforms import transformed

UNBOUNDED = (-1, -1)
# PyTorch's kernel on the CPU rounds more often in these types than ONNX's results allow.
HALF = (torch.float16, torch.bfloat16)
# Numbers as large as this hide keys: no training made them.
HIDES = 1e4


def mask_input(node: Node, index: int) -> object:
    """Return an additive mask as an argument, frozen where it hides keys for good."""
    known = node.known(index)
    if known is not None and known.is_floating_point() and bool((known.abs() >= HIDES).any()):
        return node.frozen(index)
    return node.input(index)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Turn ``[batch, length, heads · size]`` into ``[batch, heads, length, size]``."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Turn ``[batch, heads, length, size]`` into ``[batch, length, heads · size]``."""
    return x.transpose(1, 2).flatten(2)


def bias_of(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None = None,
    causal: bool = False,
    window: tuple[int, int] = UNBOUNDED,
    past: int = 0,
) -> Tensor | None:
    """Compose a mask with the keys that each query may see.

    Args:
        q: The queries, the first of which comes after ``past`` keys.
        k: The keys, past ones included.
        mask: What is added to the scores, or True for each key to see; 1 to 4 axes.
        lengths: How many of each sample's keys there are; the queries are the last of them.
        causal: No query sees a later key.
        window: How many keys to the left and to the right a query sees; -1 for all.
        past: How many keys come before the first query, where there are no ``lengths``.

    Returns:
        A tensor of 4 axes like the mask, booleans where it has no numbers; None to see all.
    """
    allowed = _allowed(q.shape[2], k, lengths, causal, window, past)
    if mask is None:
        return allowed
    mask = mask[(None,) * (4 - mask.dim())]
    booleans = mask.dtype == torch.bool
    if mask.shape[3] < k.shape[2]:
        missing = (0, k.shape[2] - mask.shape[3])
        mask = functional.pad(mask, missing, value=False if booleans else -math.inf)
    if booleans:
        return mask if allowed is None else mask & allowed
    return (mask if allowed is None else torch.where(allowed, mask, -math.inf)).to(q.dtype)


def _allowed(
    queries: int,
    k: Tensor,
    lengths: Tensor | None,
    causal: bool,
    window: tuple[int, int],
    past: int,
) -> Tensor | None:
    """Tell which keys each query may see, with 4 axes; None for all."""
    keys = torch.arange(k.shape[2], device=k.device)[None, None, None]
    offset: Tensor | int = past
    rules = []
    if lengths is not None:
        lengths = lengths.reshape(-1, 1, 1, 1)
        offset = lengths - queries
        rules.append(keys < lengths)
    own = torch.arange(queries, device=k.device)[None, None, :, None] + offset
    left, right = window
    if causal:
        rules.append(keys <= own)
    if left >= 0:
        rules.append(keys >= own - left)
    if right >= 0:
        rules.append(keys <= own + right)
    allowed = None
    for rule in rules:
        allowed = rule if allowed is None else allowed & rule
    return allowed


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Compute attention the fast way; ``causal`` only where there is no bias.

    PyTorch's fused kernels have no second derivative: who needs one runs the twin under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    """
    if q.is_cpu and q.dtype in HALF:
        wide = None if bias is None or bias.dtype == torch.bool else bias.float()
        wide = bias if wide is None else wide
        return attend(q.float(), k.float(), v.float(), wide, causal, scale).to(q.dtype)
    if transformed():
        bias = bias_of(q, k, bias, causal=causal)
        return attend_written_out(q, k, v, bias, scale)[0]
    return functional.scaled_dot_product_attention(
        q, k, v, bias, 0.0, causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def attend_written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float | None,
    softcap: float = 0.0,
    precise: Tensor | None = None,
    mode: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute attention and what an Attention of a ``qk_matmul_output_mode`` shows of it.

    Args:
        q: The queries; there may be more heads of them than of keys.
        k: The keys.
        v: The values.
        bias: As :func:`bias_of` returns it.
        scale: The factor of the scores.
        softcap: The largest score; 0 for no limit.
        precise: A tensor of the type in which the softmax is computed.
        mode: 0 for the scores, 1 with the limit, 2 with the bias, 3 for their softmax.
    """
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    factor = math.sqrt(q.shape[3] ** -0.5 if scale is None else scale)
    raw = (q * factor) @ (k * factor).transpose(2, 3)
    capped = softcap * torch.tanh(raw / softcap) if softcap > 0 else raw
    biased, empty = add_bias(capped, bias)
    finite = biased if empty is None else biased.masked_fill(empty, 0.0)
    weights = finite.softmax(3, dtype=None if precise is None else precise.dtype).to(q.dtype)
    if empty is not None:
        weights = weights.masked_fill(empty, 0.0)
    return weights @ v, (raw, capped, biased, weights)[mode]


def add_bias(scores: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return scores with their bias, and which queries see no key at all."""
    if bias is None:
        return scores, None
    if bias.dtype == torch.bool:
        return scores.masked_fill(~bias, -math.inf), ~bias.any(3, keepdim=True)
    return scores + bias, (bias == -math.inf).all(3, keepdim=True)
