"""Attention and rotary embeddings of the twin, beside ONNX Runtime."""

import re
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from twin_support import agrees, compiled, node_model  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

BATCH, HEADS, QUERIES, KEYS, PAST, SIZE = 2, 4, 5, 7, 3, 8


rng = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    """Return random numbers."""
    return rng.standard_normal(shape).astype(np.float32)


def chosen(*shape: int) -> Any:
    """Return random booleans, the first of each row True."""
    mask = rng.random(shape) > 0.5
    mask[..., 0] = True
    return mask


FOUR = {
    "q": normal(BATCH, HEADS, QUERIES, SIZE),
    "k": normal(BATCH, 2, KEYS, SIZE),
    "v": normal(BATCH, 2, KEYS, 6),
}
SQUARE = {name: normal(BATCH, HEADS, KEYS, SIZE + i) for i, name in ((0, "q"), (0, "k"), (1, "v"))}
THREE = {
    "q": normal(BATCH, QUERIES, HEADS * SIZE),
    "k": normal(BATCH, KEYS, 2 * SIZE),
    "v": normal(BATCH, KEYS, 2 * 6),
}
CACHE = {"pk": normal(BATCH, 2, PAST, SIZE), "pv": normal(BATCH, 2, PAST, 6)}
GROUPED = "q_num_heads=4, kv_num_heads=2"


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize(
    ("given", "outputs", "attributes"),
    [
        (FOUR, "y", ""),
        (FOUR, "y", "scale=0.4"),
        (SQUARE, "y", "is_causal=1"),
        (THREE, "y", GROUPED),
        (THREE, "y", f"{GROUPED}, is_causal=1, softcap=2.0"),
        ({**FOUR, "m": normal(QUERIES, KEYS)}, "y", ""),
        ({**FOUR, "m": chosen(BATCH, 1, QUERIES, KEYS)}, "y", ""),
        ({**THREE, **CACHE}, "y a b", GROUPED),
        ({**FOUR, **CACHE, "m": normal(QUERIES, KEYS + PAST)}, "y a b", "is_causal=1"),
        ({**FOUR, "m": normal(QUERIES, KEYS)}, 'y "" "" s', "qk_matmul_output_mode=0"),
        ({**FOUR, "m": normal(QUERIES, KEYS)}, 'y "" "" s', "qk_matmul_output_mode=3"),
    ],
)
def test_attention_agrees(given: Any, outputs: str, attributes: str, opset: int) -> None:
    """Attention computes what ONNX Runtime does, with masks, caches and groups of heads."""
    agrees(
        node_model("Attention", opset, given, "q k v m pk pv", outputs, attributes), *given.values()
    )


@pytest.mark.parametrize("attributes", ["is_causal=1", "", "softcap=1.5"])
@pytest.mark.parametrize("masked", [None, False, True])
def test_attention_has_gradients(attributes: str, masked: bool | None) -> None:
    """The gradients are right and finite, where a query sees no key at all too."""
    given = dict(SQUARE)
    if masked is not None:
        mask = chosen(KEYS, KEYS)
        mask[2] = False
        given["m"] = mask if masked else np.where(mask, 0.5, -np.inf).astype(np.float32)
    twin = to_torch(node_model("Attention", 23, given, "q k v m", "y", attributes)).double()
    q, k, v = (torch.from_numpy(a[:1, :2]).double().requires_grad_() for a in SQUARE.values())
    rest = [torch.from_numpy(given["m"])] if "m" in given else []
    rest = [m.double() if m.is_floating_point() else m for m in rest]
    assert torch.autograd.gradcheck(lambda *x: twin(*x, *rest), (q, k, v), fast_mode=True)


@pytest.mark.parametrize("attributes", ["", "is_causal=1"])
def test_attention_is_transformed(attributes: str) -> None:
    """Forward derivatives, batches of gradients and torch.compile give what backward does."""
    twin = to_torch(node_model("Attention", 23, SQUARE, "q k v", "y", attributes))
    q, k, v = map(torch.from_numpy, SQUARE.values())
    q, k, v = q[:1, :1, :3], k[:1, :1, :3], v[:1, :1, :3]
    expected = torch.autograd.functional.jacobian(lambda x: twin(x, k, v), q)
    torch.testing.assert_close(torch.func.jacrev(lambda x: twin(x, k, v))(q), expected)
    torch.testing.assert_close(torch.func.jacfwd(lambda x: twin(x, k, v))(q), expected)
    torch.testing.assert_close(compiled(twin)(q, k, v), twin(q, k, v))


def test_attention_has_second_derivatives() -> None:
    """They are there where PyTorch is told to write attention out."""
    twin = to_torch(node_model("Attention", 23, SQUARE, "q k v")).double()
    inputs = [torch.from_numpy(a[:1, :1, :3]).double().requires_grad_() for a in SQUARE.values()]
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(twin, inputs, fast_mode=True)


def test_masks_are_no_parameters() -> None:
    """A mask that hides keys is not trained; a bias that weighs them is."""
    hidden = np.where(chosen(KEYS, KEYS), 0.0, -np.inf).astype(np.float32)
    for mask, parameters in ((hidden, []), (normal(KEYS, KEYS), ["m"])):
        model = node_model("Attention", 23, {**SQUARE, "m": mask}, "q k v m")
        model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "m"))
        twin = to_torch(model)
        assert parameters == [name for name, _ in twin.named_parameters()]
        assert "m" in twin.state_dict()


def test_attention_uses_the_fused_kernel() -> None:
    """Plain attention is one call of PyTorch's own, which keeps no scores."""
    twin = to_torch(node_model("Attention", 23, SQUARE, "q k v"))
    q, k, _ = map(torch.from_numpy, SQUARE.values())
    with torch.profiler.profile() as profile:
        twin(q, k, k)
    assert any("flash_attention" in event.key for event in profile.key_averages())


def test_half_precision_follows() -> None:
    """A twin made half computes in half, its softmax in float32 as the file asks."""
    text = "softmax_precision=1, softcap=3.0"
    twin = to_torch(node_model("Attention", 23, SQUARE, "q k v", "y", text)).half()
    inputs = [torch.from_numpy(a) for a in SQUARE.values()]
    expected = to_torch(node_model("Attention", 23, SQUARE, "q k v", "y", text))(*inputs)
    found = twin(*(x.half() for x in inputs))
    assert torch.float16 == found.dtype
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


X3, X4 = normal(BATCH, QUERIES, HEADS * SIZE), normal(BATCH, HEADS, QUERIES, SIZE)
POSITIONS = rng.integers(0, 9, (BATCH, QUERIES))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("x", [X3, X4], ids=["3d", "4d"])
@pytest.mark.parametrize("op", ["RotaryEmbedding", "com.microsoft.RotaryEmbedding"])
def test_rotary_embedding_agrees(op: str, x: Any, size: int, interleaved: int) -> None:
    """Rotary embeddings compute what ONNX Runtime does, on whole heads and on a part of them."""
    pairs = (size or SIZE) // 2
    given = {"x": x, "p": POSITIONS, "c": normal(9, pairs), "s": normal(9, pairs) * 2}
    slots = "x p c s" if "." in op else "x c s p"
    text = f"interleaved={interleaved}, num_heads={HEADS}, rotary_embedding_dim={size}"
    agrees(node_model(op, 23, given, slots, "y", text), *given.values())


def test_rotary_embedding_without_positions() -> None:
    """A cache of each sample's own, and a first position alone, stand for positions."""
    given = {"x": X4, "c": normal(BATCH, QUERIES, 4), "s": normal(BATCH, QUERIES, 4) * 2}
    agrees(node_model("RotaryEmbedding", 23, given, "x c s"), *given.values())
    given = {"x": X3, "p": np.array([2]), "c": normal(9, 4), "s": normal(9, 4) * 2}
    agrees(node_model("com.microsoft.RotaryEmbedding", 23, given, "x p c s"), *given.values())


WIDE = HEADS * SIZE
PROJECTED = {
    "q": normal(BATCH, QUERIES, WIDE),
    "k": normal(BATCH, KEYS, WIDE),
    "v": normal(BATCH, KEYS, 24),
}
SELF = {name: normal(BATCH, QUERIES, WIDE) + i for i, name in enumerate("qkv")}
STATE = {
    "pk": normal(BATCH, HEADS, PAST, SIZE),
    "pv": normal(BATCH, HEADS, PAST, SIZE),
}


@pytest.mark.parametrize(
    ("given", "outputs", "attributes"),
    [
        (PROJECTED, "y", ""),
        (PROJECTED, "y", "scale=0.3"),
        ({**PROJECTED, "b": normal(2 * WIDE + 24)}, "y", ""),
        ({**PROJECTED, "m": np.array([3, 7], np.int32)}, "y", "mask_filter_value=-5.0"),
        ({**PROJECTED, "m": chosen(BATCH, KEYS).astype(np.int32)}, "y", ""),
        ({**PROJECTED, "m": np.zeros((BATCH, KEYS), np.int32)}, "y", ""),
        ({**PROJECTED, "m": chosen(BATCH, QUERIES, KEYS).astype(np.int32)}, "y", ""),
        ({**PROJECTED, "a": normal(1, HEADS, QUERIES, KEYS)}, "y", ""),
        ({**SELF, **STATE, "b": normal(3 * WIDE)}, "y e f", "unidirectional=1"),
        (SELF, "y", "unidirectional=1"),
        ({**SELF, "a": normal(1, 1, QUERIES, QUERIES)}, "y", "unidirectional=1"),
        ({"q": SELF["q"], "k": STATE["pk"], "v": STATE["pv"], "b": normal(3 * WIDE)}, "y", ""),
    ],
)
def test_multi_head_attention_agrees(given: Any, outputs: str, attributes: str) -> None:
    """ONNX Runtime's MultiHeadAttention hides keys by its own number and knows three masks."""
    text = f"num_heads={HEADS}, {attributes}".rstrip(", ")
    op = "com.microsoft.MultiHeadAttention"
    agrees(node_model(op, 17, given, "q k v b m a pk pv", outputs, text), *given.values())


X = {"x": normal(BATCH, QUERIES, 6), "w": normal(6, 3 * WIDE), "b": normal(3 * WIDE)}


@pytest.mark.parametrize(
    ("given", "outputs", "attributes"),
    [
        (X, "y", ""),
        (X, "y p", "scale=0.3, unidirectional=1"),
        ({**X, "m": np.array([3, 5, 1, 2], np.int32)}, "y", ""),
        ({**X, "m": np.array([3, 5], np.int32)}, "y", "unidirectional=1"),
        ({**X, "m": chosen(BATCH, QUERIES).astype(np.int32)}, "y", "mask_filter_value=-2.0"),
        ({**X, "past": normal(2, BATCH, HEADS, PAST, SIZE)}, "y p", "unidirectional=1"),
        ({**X, "a": normal(1, HEADS, QUERIES, QUERIES)}, "y", ""),
        (
            {"x": X["x"], "w": normal(6, 2 * WIDE + 24), "b": normal(2 * WIDE + 24)},
            "y",
            "qkv_hidden_sizes=[32, 32, 24]",
        ),
    ],
)
def test_runtime_attention_agrees(given: Any, outputs: str, attributes: str) -> None:
    """ONNX Runtime's Attention projects its input and knows where keys begin and end."""
    text = f"num_heads={HEADS}, {attributes}".rstrip(", ")
    op = "com.microsoft.Attention"
    agrees(node_model(op, 17, given, "x w b m past a", outputs, text), *given.values())


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_attention_goes_on_from_its_state(rule: str) -> None:
    """Two halves of a sequence, the state of one given to the other, make the whole."""
    given = {"q": normal(2, 6, 8), "k": normal(2, 6, 4), "v": normal(2, 6, 6)}
    given |= {"d": -abs(normal(2, 6, 2))} if "gated" in rule else {}
    given |= {"b": abs(normal(2, 6, 2))} if "delta" in rule else {}
    text = f'q_num_heads=4, kv_num_heads=2, update_rule="{rule}"'
    twin = to_torch(node_model("LinearAttention", 27, given, "q k v s d b", "y e", text))
    x = [torch.from_numpy(a).double().requires_grad_() for a in given.values()]
    y, state = twin.double()(*x)
    first, between = twin(*(a[:, :3] for a in x))
    given["s"] = between.detach().float().numpy()
    again = node_model("LinearAttention", 27, given, "q k v s d b", "y e", text)
    second, last = to_torch(again).double()(*(a[:, 3:] for a in x), between)
    torch.testing.assert_close(torch.cat((first, second), 1), y)
    torch.testing.assert_close(last, state)
    assert torch.autograd.gradcheck(twin, x, fast_mode=True)


@pytest.mark.parametrize(
    ("op", "given", "attributes", "reason"),
    [
        (
            "LinearAttention",
            FOUR,
            "q_num_heads=4, kv_num_heads=2",
            "its update_rule gated_delta needs decay",
        ),
        ("Attention", FOUR, "scale=-1.0", "its scale is -1, and it takes the root of that"),
        (
            "com.microsoft.MultiHeadAttention",
            {"q": SELF["q"]},
            "num_heads=4",
            "packed queries, keys and values are not supported",
        ),
        (
            "com.microsoft.Attention",
            {"q": X["x"], "k": X["w"], "v": X["b"]},
            "num_heads=4, do_rotary=1",
            "its attribute do_rotary is not supported",
        ),
    ],
)
def test_what_is_refused(op: str, given: Any, attributes: str, reason: str) -> None:
    """What the twin cannot compute is refused when it is built."""
    with pytest.raises(UnsupportedOperator, match=f"{re.escape(reason)}$"):
        to_torch(node_model(op, 27, given, "q k v", "y", attributes))


def test_queries_that_look_ahead_are_refused() -> None:
    """ONNX Runtime lets the last query see later keys; the twin does not compute that."""
    text = f"num_heads={HEADS}, unidirectional=1"
    twin = to_torch(
        node_model("com.microsoft.MultiHeadAttention", 17, PROJECTED, "q k v", "y", text)
    )
    with pytest.raises(ModelError, match="of 5 queries to 7 new keys is not supported"):
        twin(*map(torch.from_numpy, PROJECTED.values()))
