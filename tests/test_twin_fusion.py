"""Groups of operators that one step of PyTorch does: found where they are, and only there."""

from typing import Any

import numpy as np
import pytest
from support import parse

torch = pytest.importorskip("torch")

from twin_support import agrees  # noqa: E402

import onnxfit  # noqa: E402

X = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[N,5,I] x) => (float[N,5,O] y)'
NORM = """m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) two = Constant<value = float {2}>()
p = Pow(d, two) v = ReduceMean<axes = [-1]>(p) e = Constant<value = float {0.00001}>()
s = Add(v, e) t = Sqrt(s) n = Div(d, t) k = Mul(n, scale) y = Add(k, shift)"""
GATE = """r = Constant<value = float {1.4142135}>() one = Constant<value = float {1}>()
half = Constant<value = float {0.5}>() q = Div(x, r) e = Erf(q) g = Add(e, one) """
HALVED = "h = Mul(x, g) y = Mul(h, half)"
NORMS = "<float[3] scale = {1, 2, 3}, float[3] shift = {0.1, 0.2, 0.3}>"
MATRIX = "<float[3,2] W = {1, 2, 3, 4, 5, 6}, float[2] b = {7, 8}>"

FOUND = {
    "linear": (MATRIX, "h = MatMul(x, W) y = Add(h, b)", "in_out_linear"),
    "linear, bias first": (MATRIX, "h = MatMul(x, W) y = Add(b, h)", "in_out_linear"),
    "linear, transposed": (
        "<float[2,3] W = {1, 2, 3, 4, 5, 6}, float[2] b = {7, 8}>",
        "t = Transpose(W) h = MatMul(x, t) y = Add(h, b)",
        "linear",
    ),
    "layer norm": (NORMS, NORM, "norm_of_rows"),
    "layer norm, numbers with an axis": (
        NORMS.replace("<", "<float[1] two = {2}, float[1] e = {0.00001}, "),
        NORM.replace("two = Constant<value = float {2}>()", "").replace(
            "e = Constant<value = float {0.00001}>()", ""
        ),
        "norm_of_rows",
    ),
    "gelu": ("", GATE + HALVED, "gelu"),
    "gelu, half of x": ("", GATE + "h = Mul(half, x) y = Mul(h, g)", "gelu"),
    "gelu, half of the gate": ("", GATE + "h = Mul(g, half) y = Mul(h, x)", "gelu"),
    "gelu, by a product": (
        "",
        GATE.replace("1.4142135", "0.70710677").replace("Div", "Mul") + HALVED,
        "gelu",
    ),
    "silu": ("", "s = Sigmoid(x) y = Mul(x, s)", "silu"),
}
NOT_FOUND = {
    "other root": ("", GATE.replace("1.4142135", "1.4142") + HALVED),
    "no half": ("", GATE.replace("0.5", "0.25") + HALVED),
    "gate of another": (
        "",
        GATE.replace("Div(x, r)", "Div(half, r)") + HALVED,
    ),
    "sigmoid of another": ("", "t = Tanh(x) s = Sigmoid(t) y = Mul(x, s)"),
    "a transpose that changes nothing": (
        "<float[3,3] W = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] b = {1, 2, 3}>",
        "t = Transpose<perm = [0, 1]>(W) h = MatMul(x, t) y = Add(h, b)",
    ),
    "constants with dimensions": (
        "<float[1,1,1,1] half = {0.5}>",
        GATE.replace("half = Constant<value = float {0.5}>()", "") + HALVED,
    ),
    "bias for rows": (
        "<float[3,3] W = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[5,1] b = {1, 2, 3, 4, 5}>",
        "h = MatMul(x, W) y = Add(h, b)",
    ),
    "scale for rows": ("<float[5,1] scale = {1, 2, 3, 4, 5}, float[3] shift = {1, 2, 3}>", NORM),
    "other axis": (
        NORMS,
        NORM.replace("m = ReduceMean<axes = [-1]", "m = ReduceMean<axes = [1]"),
    ),
    "cube": (NORMS, NORM.replace("float {2}", "float {3}")),
}


def text(weights: str, nodes: str) -> str:
    """Write a model."""
    return f"{HEAD} {weights} {{ {nodes} }}"


@pytest.mark.parametrize("name", FOUND)
def test_a_group_becomes_one_step(name: str) -> None:
    """The same numbers as ONNX Runtime's, in one call, with gradients."""
    weights, nodes, function = FOUND[name]
    x = np.abs(X) if name == "cube" else X
    twin = agrees(text(weights, nodes), x, rtol=1e-4, atol=1e-5)
    assert 1 == twin.source.count(" = ")
    assert f" {function}(" in twin.source
    twin.double()
    given = torch.from_numpy(X).double().requires_grad_()
    assert torch.autograd.gradcheck(twin, [given])
    assert {n for n in ("W", "b", "scale", "shift") if n in weights} == {
        path for path, _ in twin.named_parameters()
    }


@pytest.mark.parametrize("name", NOT_FOUND)
def test_what_only_looks_alike_stays(name: str) -> None:
    """Another constant, axis, shape or operand is another computation."""
    twin = agrees(text(*NOT_FOUND[name]), np.abs(X))
    for function in ("linear(", "gelu(", "silu(", "norm_of_rows("):
        assert function not in twin.source


@pytest.mark.parametrize(("width", "length"), [(3, 1), (1, 3), (3, 3)])
def test_a_norm_whose_scale_is_of_another_length(width: int, length: int) -> None:
    """Scale and shift broadcast to the normalised values, or these to them."""
    numbers = ", ".join(str(i + 1) for i in range(length))
    weights = f"<float[{length}] scale = {{{numbers}}}, float[{length}] shift = {{{numbers}}}>"
    twin = agrees(text(weights, NORM), X[..., :width].copy(), rtol=1e-4, atol=1e-4)
    assert "norm_of_rows(" in twin.source


def test_a_group_whose_inner_value_is_read_elsewhere_stays() -> None:
    """Nothing is computed twice."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,5,3] x) => (float[N,5,2] y, '
        f"float[N,5,2] h) {MATRIX} {{ h = MatMul(x, W) y = Add(h, b) }}"
    )
    twin = agrees(model, X)
    assert "linear" not in twin.source


def test_groups_in_bodies_are_found_too() -> None:
    """Blocks inside blocks are treated alike."""
    inner = FOUND["gelu"][1].replace("Mul(h, half)", "Mul(h, half)").replace("y =", "a =")
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,5,3] x, bool c) => (float[N,5,3] y) '
        f"{{ y = If(c) <then_branch = t () => (float[N,5,3] a) {{ {inner} }}, "
        "else_branch = e () => (float[N,5,3] b) { b = Neg(x) }> }"
    )
    twin = agrees(model, X, np.array(True))
    assert "gelu(" in twin.source
    assert "erf" not in twin.source


def test_numbers_without_dimensions_are_no_parameters() -> None:
    """An attention's scale is a setting: a buffer under its name, which goes back into the file."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
        "<float s = {2}, float[1] w = {3}> { h = Mul(x, s) y = Mul(h, w) }"
    )
    twin = onnxfit.to_torch(model)
    assert ["w"] == [name for name, _ in twin.named_parameters()]
    assert {"s", "w"} == set(twin.state_dict())
    twin.get_buffer("s").fill_(5.0)
    changed = onnxfit.write_back(model, twin)
    values: dict[str, Any] = {t.name: t for t in changed.graph.initializer}
    assert 5.0 == np.frombuffer(values["s"].raw_data, np.float32)[0]
