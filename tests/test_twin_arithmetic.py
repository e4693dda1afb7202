"""Arithmetic, comparisons and functions of one number, against ONNX Runtime."""

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import parse

torch = pytest.importorskip("torch")

from twin_support import agrees, twin_outputs  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

RNG = np.random.default_rng(0)
FLOATS: dict[str, Any] = {"float": np.float32, "double": np.float64}
INTEGERS: dict[str, Any] = {"int32": np.int32, "int64": np.int64}


def model_of(node: str, types: list[str], result: str, opset: int = 13, constants: str = "") -> str:
    """Write a model of one node, whose inputs are a, b and so on."""
    inputs = ", ".join(f"{t}[N,M] {'abcdef'[i]}" for i, t in enumerate(types))
    return (
        f'<ir_version: 7, opset_import: ["": {opset}]> '
        f"g ({inputs}) => ({result}[N,M] y) {constants} {{ y = {node} }}"
    )


def numbers(dtype: Any, *shape: int, least: float = -9, most: float = 9) -> NDArray[Any]:
    """Draw numbers of a type."""
    return RNG.uniform(least, most, shape).astype(dtype)


@pytest.mark.parametrize("opset", [7, 13, 14, 20])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("kind", [*FLOATS, *INTEGERS])
def test_arithmetic_of_two(op_type: str, kind: str, opset: int) -> None:
    """Broadcast, and truncate the quotient of integers towards 0."""
    dtype = {**FLOATS, **INTEGERS}[kind]
    a, b = numbers(dtype, 50, 1), numbers(dtype, 1, 7)
    b[np.abs(b) < 1] = -3
    text = model_of(f"{op_type}(a, b)", [kind, kind], kind, opset).replace("[N,M] a", "[N,1] a")
    agrees(text.replace("[N,M] b", "[1,M] b"), a, b)


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("op_type", ["Div", "Mod", "Mod<fmod = 1>"])
def test_the_least_integer_by_minus_one(op_type: str, kind: str) -> None:
    """It overflows to itself; the processor's own division would end the process."""
    name, _, attribute = op_type.partition("<")
    node = f"{name}<{attribute}(a, b)" if attribute else f"{name}(a, b)"
    model = parse(model_of(node, [kind, kind], kind))
    info = np.iinfo(INTEGERS[kind])
    a = np.array([[info.min, 7, info.min]], INTEGERS[kind])
    b = np.array([[-1, -1, 2]], INTEGERS[kind])
    expected = [[info.min, -7, info.min // 2]] if name == "Div" else [[0, 0, 0]]
    assert expected == twin_outputs(to_torch(model), model, a, b)[0].tolist()


@pytest.mark.parametrize("opset", [10, 13])
@pytest.mark.parametrize(("fmod", "kind"), [(0, "int32"), (0, "int64"), (1, "int64"), (1, "float")])
def test_mod(fmod: int, kind: str, opset: int) -> None:
    """The remainder has the sign of the divisor, or with fmod that of the dividend."""
    dtype = {**FLOATS, **INTEGERS}[kind]
    a, b = numbers(dtype, 40, 5), numbers(dtype, 40, 5)
    b[np.abs(b) < 1] = -3
    agrees(model_of(f"Mod<fmod = {fmod}>(a, b)", [kind, kind], kind, opset), a, b)


@pytest.mark.parametrize(
    ("base", "exponent", "opset"),
    [
        ("float", "float", 7),
        ("double", "double", 7),
        ("float", "float", 12),
        ("float", "int32", 12),
        ("float", "int64", 13),
        ("float", "double", 15),
        ("double", "float", 15),
        ("int32", "int32", 13),
        ("int64", "int64", 13),
        ("int32", "float", 13),
        ("int64", "double", 15),
    ],
)
def test_pow_of_two_types(base: str, exponent: str, opset: int) -> None:
    """The result has the type of the base, and 10 to the third is 1000 however it is computed."""
    types = {**FLOATS, **INTEGERS}
    a = numbers(types[base], 30, 4, least=1, most=11)
    b = np.tile(np.array([[3, 2, 0, 1]], types[exponent]), (30, 1))
    agrees(model_of("Pow(a, b)", [base, exponent], base, opset), a, b)


@pytest.mark.parametrize("exponent", ["float e = {2}", "int64 e = {3}", "float e = {-0.5}"])
def test_pow_with_a_known_exponent(exponent: str) -> None:
    """A number in the file is no weight: it stays as it is, and the gradient needs no logarithm."""
    text = model_of("Pow(a, e)", ["float"], "float", constants=f"<{exponent}>")
    twin = agrees(text, numbers(np.float32, 5, 5, least=0.5))
    assert [] == list(twin.parameters())
    if "-" not in exponent:
        x = torch.zeros(1, 1, requires_grad=True)
        twin(x).backward()
        assert [[0.0]] == x.grad.tolist()


@pytest.mark.parametrize(("shape", "result"), [("[1]", "[N,M]"), ("[1,1,1]", "[K,N,M]")])
def test_pow_with_an_exponent_of_one_element(shape: str, result: str) -> None:
    """It is the same number, no weight either; only the axes of the result follow its shape."""
    text = model_of("Pow(a, e)", ["float"], "float", constants=f"<float{shape} e = {{2}}>")
    x = numbers(np.float32, 5, 5)
    twin = agrees(text.replace("[N,M] y", f"{result} y"), x)
    assert [] == list(twin.parameters())


UNARY = [
    *("Ceil", "Exp", "Floor", "Neg", "Reciprocal", "Sign", "Abs", "Tanh", "Round", "Sin", "Cos"),
    *("Tan", "Atan", "Sinh", "Cosh", "Asinh", "Erf"),
]
WITHOUT_DOUBLE = ("Tan", "Atan", "Sinh", "Cosh", "Asinh", "Erf")


@pytest.mark.parametrize("kind", ["float", "double"])
def test_sign_of_what_is_no_number(kind: str) -> None:
    """NaN has the sign NaN, and infinities theirs; the gradient is 0 everywhere."""
    x = np.array([[np.nan, np.inf, -np.inf, 0, 1e-45, -2]], FLOATS[kind])
    twin = agrees(model_of("Sign(a)", [kind], kind, 13), x)
    given = torch.from_numpy(x).requires_grad_()
    twin(given).sum().backward()
    assert [[0.0] * 6] == given.grad.tolist()


@pytest.mark.parametrize(
    ("op_type", "kind"),
    [(o, k) for o in UNARY for k in FLOATS if k == "float" or o not in WITHOUT_DOUBLE],
)
def test_functions_of_one_number(op_type: str, kind: str) -> None:
    """Halves are rounded to even."""
    x = numbers(FLOATS[kind], 20, 8, least=-3, most=3)
    x[0, :6] = [0.5, 1.5, 2.5, -0.5, -1.5, 1]
    opset = 11 if op_type == "Round" else 9
    agrees(model_of(f"{op_type}(a)", [kind], kind, opset), x)


@pytest.mark.parametrize(
    ("op_type", "least", "most"),
    [
        ("Sqrt", 0, 9),
        ("Log", 0.1, 9),
        ("Asin", -1, 1),
        ("Acos", -1, 1),
        ("Acosh", 1, 9),
        ("Atanh", -0.9, 0.9),
    ],
)
def test_functions_with_a_domain(op_type: str, least: float, most: float) -> None:
    """Compute within the domain."""
    x = numbers(np.float32, 9, 9, least=least, most=most)
    agrees(model_of(f"{op_type}(a)", ["float"], "float", 9), x)


def test_erf_of_integers_is_refused() -> None:
    """Version 9 declares it, and nothing says what type the result is rounded to."""
    with pytest.raises(UnsupportedOperator, match="for which the operator is not specified"):
        to_torch(parse(model_of("Erf(a)", ["int32"], "int32", 9)))


@pytest.mark.parametrize("opset", [8, 12, 13])
@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_inputs(op_type: str, count: int, opset: int) -> None:
    """Combine inputs that broadcast."""
    given = [numbers(np.float32, *shape) for shape in ((4, 5), (1, 5), (4, 1))[:count]]
    text = model_of(f"{op_type}({', '.join('abc'[:count])})", ["float"] * count, "float", opset)
    agrees(text.replace("[N,M] b", "[1,M] b").replace("[N,M] c", "[N,1] c"), *given)


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        ("Clip<min = -1.5, max = 2.0>(a)", 7),
        ("Clip<min = -1.5>(a)", 7),
        ("Clip<max = 2.0>(a)", 10),
        ("Clip(a)", 10),
        ("Clip(a, l, m)", 11),
        ("Clip(a, l)", 12),
        ("Clip(a, , m)", 13),
        ("Clip(a, m, l)", 13),
        ("Clip(a)", 13),
    ],
)
def test_clip(node: str, opset: int) -> None:
    """Bounds are attributes or inputs; the upper one wins, and attributes have finite defaults."""
    constants = "<float l = {-1.5}, float m = {2}>" if "(a, " in node else ""
    text = model_of(node, ["float"], "float", opset, constants)
    x = numbers(np.float32, 9, 9)
    if opset < 11:
        x[0, :2] = [np.inf, -np.inf]
    twin = agrees(text, x)
    halves = twin.half()(torch.from_numpy(x[1:]).half())
    torch.testing.assert_close(twin.float()(torch.from_numpy(x[1:])).half(), halves)


@pytest.mark.parametrize("node", ["Clip(a, b, c)", "Clip(a, b)", "Clip(a, , c)", "Clip(a, b, two)"])
@pytest.mark.parametrize("kind", ["float", "int8", "uint64"])
def test_clip_with_computed_bounds(node: str, kind: str) -> None:
    """A call may give the bounds."""
    text = f"""<ir_version: 7, opset_import: ["": 13]>
        g ({kind}[N,M] a, {kind} b, {kind} c) => ({kind}[N,M] y)
        <{kind} two = {{2}}> {{ y = {node} }}"""
    dtype = np.float32 if kind == "float" else np.dtype(kind).type
    agrees(text, numbers(dtype, 9, 9, least=0), np.array(1, dtype), np.array(5, dtype))


COMPARISONS = [
    *(("Equal", opset) for opset in (7, 11, 13, 19)),
    *((op_type, opset) for op_type in ("Greater", "Less") for opset in (7, 9, 13)),
    *((op_type, opset) for op_type in ("GreaterOrEqual", "LessOrEqual") for opset in (12, 16)),
]


@pytest.mark.parametrize(("op_type", "opset"), COMPARISONS)
def test_comparisons(op_type: str, opset: int) -> None:
    """Compare numbers, which are equal now and then; NaN equals nothing."""
    kind = "int32" if (op_type, opset) == ("Equal", 7) else "float"
    dtype = {**FLOATS, **INTEGERS}[kind]
    a, b = (RNG.integers(0, 3, (20, 6)).astype(dtype) for _ in range(2))
    if kind == "float":
        a[0, 0] = np.nan
    agrees(model_of(f"{op_type}(a, b)", [kind, kind], "bool", opset), a, b)


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic(op_type: str) -> None:
    """Combine truth values that broadcast."""
    a, b = (RNG.integers(0, 2, shape).astype(bool) for shape in ((4, 6), (1, 6)))
    agrees(
        f"""<ir_version: 7, opset_import: ["": 7]>
        g (bool[N,M] a, bool[1,M] b) => (bool[N,M] y) {{ c = {op_type}(a, b) y = Not(c) }}""",
        a,
        b,
    )


@pytest.mark.parametrize("signs", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(("to", "opset"), [(1, 10), (11, 10), (10, 20), (16, 20)])
def test_infinity(signs: tuple[int, int], to: int, opset: int) -> None:
    """Find infinities of either sign or of one, in types from bfloat16 to double."""
    x = np.array([[np.inf, -np.inf, np.nan, 1, 0]], np.float32)
    agrees(
        f"""<ir_version: 7, opset_import: ["": {opset}]>
        g (float[N,M] x) => (bool[N,M] y, bool[N,M] n) {{
            c = Cast<to = {to}>(x)
            y = IsInf<detect_negative = {signs[0]}, detect_positive = {signs[1]}>(c)
            n = IsNaN(x)
        }}""",
        x,
    )


def test_where_of_strings_and_numbers() -> None:
    """Choose between what broadcasts; strings are compared too."""
    agrees(
        """<ir_version: 10, opset_import: ["": 19]>
        g (string[N,M] a, string[N,1] b, float[N,M] v)
        => (bool[N,M] e, string[N,M] y, float[N,M] z) {
            e = Equal(a, b)
            y = Where(e, b, a)
            n = Neg(v)
            z = Where(e, v, n)
        }""",
        np.array([["a", "b", "a"], ["c", "c", ""]], dtype=object),
        np.array([["a"], [""]], dtype=object),
        numbers(np.float32, 2, 3),
    )


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("kind", ["uint8", "uint32", "uint64"])
def test_bit_shift(direction: str, kind: str) -> None:
    """Shift within the width, as version 11 has it."""
    dtype = np.dtype(kind).type
    a, b = RNG.integers(0, 255, (5, 9)).astype(dtype), RNG.integers(0, 8, (5, 9)).astype(dtype)
    agrees(model_of(f'BitShift<direction = "{direction}">(a, b)', [kind, kind], kind, 11), a, b)


def test_integers_without_kernels_stay_exact() -> None:
    """The largest uint64 is beyond int64 and beyond what float64 holds exactly."""
    model = parse(
        """<ir_version: 8, opset_import: ["": 18]>
        g (uint64[N] a, uint64[N] b)
        => (uint64[N] s, uint64[N] d, uint64[N] m, bool[N] l, uint64[N] n) {
            s = Add(a, b)
            d = Div(a, b)
            m = Max(a, b)
            l = Less(a, b)
            n = BitwiseNot(a)
        }"""
    )
    a, b = np.array([2**64 - 1, 2**63 + 1], np.uint64), np.array([3, 2**64 - 2], np.uint64)
    found = twin_outputs(to_torch(model), model, a, b)
    expected = [
        [2, 2**63 - 1],
        [(2**64 - 1) // 3, 0],
        [2**64 - 1, 2**64 - 2],
        [False, True],
        [0, 2**63 - 2],
    ]
    assert expected == [output.tolist() for output in found]


def test_shapes_are_computed_without_tensors() -> None:
    """What a Reshape is told comes from sizes: Python integers to the end, and any batch."""
    twin = agrees(
        """<ir_version: 8, opset_import: ["": 18]>
        g (float[N,C,H,W] x) => (float[P,Q] y)
        <int64[1] zero = {0}, int64 two = {2}, int64[1] least = {1}, int64 axis = {3},
         int64[1] minus = {-1}> {
            s = Shape(x)
            n = Gather(s, zero)
            w = Gather(s, axis)
            half = Div(w, two)
            rest = Mod(w, two)
            even = Sub(w, rest)
            same = Equal(even, w)
            parts = Where(same, two, rest)
            m = Mul(n, parts)
            more = Max(m, least)
            long = Cast<to = 7>(more)
            sizes = Concat<axis = 0>(long, minus)
            y = Reshape(x, sizes)
        }""",
        numbers(np.float32, 2, 3, 4, 6),
    )
    assert "tensor_of" not in twin.source
    assert (10, 36) == tuple(twin(torch.zeros(5, 3, 4, 6)).shape)


@pytest.mark.parametrize(
    ("node", "a", "b", "expected"),
    [
        ("Div(n, b)", 7, -2, -3),
        ("Div(n, b)", 7, 2, 3),
        ("Mod(n, b)", 7, -2, -1),
        ("Mod<fmod = 1>(n, b)", 7, -2, 1),
        ("Min(n, b)", 7, 4, 4),
        ("Sub(b, n)", 7, 4, -3),
    ],
)
def test_arithmetic_on_sizes(node: str, a: int, b: int, expected: int) -> None:
    """Integers on the host are divided as tensors are."""
    model = parse(
        f"""<ir_version: 8, opset_import: ["": 18]>
        g (float[N] x) => (int64[1] y) <int64[1] b = {{{b}}}> {{ n = Shape(x) y = {node} }}"""
    )
    assert [expected] == to_torch(model)(torch.zeros(a)).tolist()


def test_division_of_a_size_by_zero_is_an_error() -> None:
    """The message names the node."""
    model = parse(
        """<ir_version: 8, opset_import: ["": 18]>
        g (float[N] x) => (int64[1] y) <int64[1] b = {0}> { n = Shape(x) y = Div(n, b) }"""
    )
    message = "Div 'y' cannot be computed: it divides an integer by 0"
    with pytest.raises(ModelError, match=re.escape(message)):
        to_torch(model)(torch.zeros(3))


def test_transforms_see_through() -> None:
    """vmap, forward derivatives and half precision work on a mixture of operators."""
    twin = to_torch(
        parse(
            """<ir_version: 8, opset_import: ["": 13]>
            g (float[N,M] x) => (float[N,M] y) <float two = {2}, float low = {-1}> {
                p = Pow(x, two)
                q = Clip(p, low, two)
                r = Max(q, x)
                e = Exp(r)
                c = Less(x, e)
                s = Neg(x)
                y = Where(c, e, s)
            }"""
        )
    ).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(twin(x), torch.func.vmap(lambda row: twin(row[None])[0])(x))
    _, tangent = torch.func.jvp(twin, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, torch.func.jacrev(lambda v: twin(v).sum())(x))
    assert torch.float16 == twin.half()(x.half()).dtype
