"""Sequences and optionals of the twin, beside ONNX Runtime."""

import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, parse  # noqa: E402

from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

X = np.arange(24, dtype=np.float32).reshape(4, 6) - 7.5
HEAD = '<ir_version: 8, opset_import: ["": 17]>'


@pytest.mark.parametrize("opset", [11, 15, 17, 21])
@pytest.mark.parametrize(
    "body",
    [
        "s = SplitToSequence (x) y = ConcatFromSequence <axis=1> (s)",
        "s = SplitToSequence <axis=1, keepdims=0> (x) y = ConcatFromSequence <axis=0> (s)",
        "s = SplitToSequence <axis=-1> (x, four) y = SequenceAt (s, one)",
        "s = SplitToSequence <axis=1, keepdims=0> (x, sizes) y = SequenceAt (s, last)",
        "s = SplitToSequence <axis=1, keepdims=0> (x, one) y = SequenceAt (s, last)",
        "s = SplitToSequence (x) t = SequenceErase (s) y = ConcatFromSequence <axis=0> (t)",
        "s = SplitToSequence (x) t = SequenceErase (s, last) y = ConcatFromSequence <axis=0> (t)",
        "s = SequenceConstruct (x, x) z = Neg (x) t = SequenceInsert (s, z, last)"
        " y = ConcatFromSequence <axis=-1, new_axis=1> (t)",
        "e = SequenceEmpty <dtype=1> () s = SequenceInsert (e, x)"
        " y = ConcatFromSequence <axis=0> (s)",
        "s = SplitToSequence (x) n = SequenceLength (s) y = Cast <to=1> (n)",
    ],
)
def test_sequences_agree(body: str, opset: int) -> None:
    """Splitting, inserting, erasing and joining, with positions from both ends."""
    model = parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N, M] x) => (float y)'
        "<int64 one = {1}, int64 four = {4}, int64 last = {-1}, int64[3] sizes = {1, 2, 3}>"
        f" {{ {body} }}"
    )
    agrees(model, X)
    agrees(model, X[:3])


def test_strings_are_split_and_joined() -> None:
    """A sequence of strings is one of arrays."""
    agrees(
        f"{HEAD} g (string[N] x) => (string y) <int64[2] sizes = {{1, 2}}>"
        " { s = SplitToSequence (x, sizes) y = ConcatFromSequence <axis=0> (s) }",
        np.array(["a", "b", "ö"], dtype=object),
    )


@pytest.mark.parametrize("opset", [17, 18])
def test_sequence_map_agrees(opset: int) -> None:
    """The body runs for each element; a tensor goes to all of them, a sequence along with them."""
    agrees(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N, M] x, float[M] z) => (float y)'
        "{ s = SplitToSequence <keepdims=0> (x) t = SequenceMap <body = each (float[M] a, float[M]"
        " b, float[M] c) => (float[M] d) { ab = Mul (a, b) d = Add (ab, c) }> (s, s, z)"
        " y = ConcatFromSequence <axis=0> (t) }",
        X,
        X[0],
    )


@pytest.mark.parametrize("given", [True, False])
def test_optionals_agree(given: bool) -> None:
    """An optional tells whether it holds something, and gives it out."""
    branches = (
        "then_branch = t () => (float[N, M] a) { a = OptionalGetElement (o) },"
        " else_branch = e () => (float[N, M] b) { b = Neg (x) }"
    )
    model: Any = parse(
        f"{HEAD} g (float[N, M] x) => (float y) {{ o = Identity (x) h = OptionalHasElement (o)"
        f" y = If <{branches}> (h) }}"
    )
    node = parse(f"{HEAD} g (float[N, M] x) => (float y) {{ o = Optional (x) y = Neg (x) }}")
    model.graph.node[0].CopyFrom(node.graph.node[0])
    if not given:
        del model.graph.node[0].input[:]
        model.graph.node[0].attribute.add(name="type", type=13).tp.tensor_type.elem_type = 1
    agrees(model, X)


def test_gradients_pass_through_sequences() -> None:
    """Elements of a sequence have gradients of their own."""
    twin = to_torch(
        parse(
            f"{HEAD} g (float[N, M] x) => (float y) {{ s = SplitToSequence (x) "
            "t = SequenceErase (s) u = ConcatFromSequence <axis=0> (t) y = Mul (u, u) }"
        )
    )
    x = torch.from_numpy(X).double().requires_grad_()
    assert torch.autograd.gradcheck(twin, x)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = SequenceAt (s, far)", "there is no position 9 in a sequence of 4"),
        ("t = SequenceErase (s, far) y = SequenceAt (t, far)", "there is no position 9"),
        ("t = SplitToSequence (x, few) y = SequenceAt (t, far)", "parts of (1, 2) do not make"),
        (
            "e = SequenceEmpty () y = ConcatFromSequence <axis=0> (e)",
            "an empty sequence has nothing to concatenate",
        ),
    ],
)
def test_what_goes_wrong_is_named(body: str, reason: str) -> None:
    """A position or a size that does not fit names the node."""
    text = f"{HEAD} g (float[N, M] x) => (float y) <int64 far = {{9}}, int64[2] few = {{1, 2}}>"
    twin = to_torch(parse(f"{text} {{ s = SplitToSequence (x) {body} }}"))
    with pytest.raises(ModelError, match=f" cannot be computed: {re.escape(reason)}"):
        twin(torch.from_numpy(X))
