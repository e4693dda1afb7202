"""Activations in subgraphs and functions, in old formats, at every opset and of every type."""

import numpy as np
import onnx
import onnxruntime
import pytest
from corpus import LOWERINGS, Feeds, all_same_bits, jumps_of, run
from independent import differences, jump_of, swapped
from onnx import ModelProto, TensorProto
from support import (
    NAMES,
    dtype_of,
    edge_values,
    newest_opset,
    parse,
    plain_session,
    quiet,
    relu_model,
    run_one,
    same_bits,
)

import onnxfit
from onnxfit.errors import ModelError
from onnxfit.hardening import Lowering
from onnxfit.op import jump_relu

STRUCTURES = {
    "if": (
        ["a.then_branch/t", "a.then_branch/u.else_branch/v", "a.else_branch/e", "y"],
        """
        <ir_version: 8, opset_import: ["": 16]>
        g (float[N] x, bool c) => (float[N] y) {
          no = Not(c)
          a = If(c) <
            then_branch = one () => (float[N] u) {
              t = Relu(x)
              u = If(no) <
                then_branch = three () => (float[N] w) { w = Neg(t) },
                else_branch = four () => (float[N] v) { v0 = Sub(x, t) v1 = Neg(v0) v = Relu(v1) }
              >
            },
            else_branch = two () => (float[N] e) { n = Neg(x) e = Relu(n) }
          >
          d = Sub(a, x)
          y = Relu(d)
        }
        """,
    ),
    "loop": (
        ["y.body/next"],
        """
        <ir_version: 8, opset_import: ["": 13]>
        g (float[N] x, int64 n, bool c) => (float[N] y) <float step = {0.25}> {
          y = Loop(n, c, x) <
            body = b (int64 i, bool go, float[N] v) => (bool go_on, float[N] next) {
              go_on = Identity(go)
              less = Sub(v, step)
              next = Relu(less)
            }
          >
        }
        """,
    ),
    "scan": (
        ["all.body/state"],
        """
        <ir_version: 8, opset_import: ["": 11]>
        g (float[N] x) => (float all, float[N] y) <float start = {0}> {
          all, y = Scan<num_scan_inputs = 1,
            body = b (float before, float v) => (float state, float each) {
              sum = Add(before, v)
              state = Relu(sum)
              each = Identity(state)
            }
          >(start, x)
        }
        """,
    ),
    "function": (
        ["local::inner/Y", "local::outer/Z.then_branch/T"],
        """
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[N] x, bool c) => (float[N] y) {
          h = local.outer(x, c)
          y = local.inner(h)
        }
        <domain: "local", opset_import: ["": 17]>
        inner (X) => (Y) { N = Neg(X) Y = Relu(N) }
        <domain: "local", opset_import: ["": 17, "local": 1]>
        outer (X, C) => (Z) {
          I = local.inner(X)
          Z = If(C) <
            then_branch = one () => (float[N] T) { S = Sub(X, I) T = Relu(S) },
            else_branch = two () => (float[N] E) { E = Neg(I) }
          >
        }
        """,
    ),
    "clip": (
        ["a", "y"],
        """
        <ir_version: 7, opset_import: ["": 11]>
        g (float[N] x) => (float[N] y) <float zero = {0}, float half = {0.5}, float one = {1}> {
          a = Clip(x, zero, one)
          b = Sub(one, a)
          d = Clip(b, half)
          y = Clip(d, zero)
        }
        """,
    ),
    "clip with attributes": (
        ["y"],
        """
        <ir_version: 3, opset_import: ["": 7]>
        g (float[N] x) => (float[N] y) {
          a = Clip<min: float = -1.0, max: float = 1.0>(x)
          y = Clip<min: float = 0.0, max: float = 0.6>(a)
        }
        """,
    ),
}


def structure(name: str) -> tuple[ModelProto, Feeds]:
    """Return a model with activations in unusual places, and inputs for it."""
    model = parse(STRUCTURES[name][1])
    x = np.linspace(-1, 1, 41, dtype=np.float32)
    common = {"x": x, "n": np.array(3)}
    names = {value.name for value in model.graph.input}
    feeds: Feeds = [
        {key: value for key, value in {**common, "c": np.array(c)}.items() if key in names}
        for c in (True, False)
    ]
    return model, feeds


@pytest.fixture(params=STRUCTURES)
def structured(request: pytest.FixtureRequest) -> tuple[str, ModelProto, Feeds]:
    """Each structure with its inputs."""
    return (request.param, *structure(request.param))


def test_sites_are_found_wherever_they_are(structured: tuple[str, ModelProto, Feeds]) -> None:
    """Sites of subgraphs and functions are named after their scope."""
    name, model, _ = structured
    assert sorted(STRUCTURES[name][0]) == sorted(s.name for s in onnxfit.find_sites(model))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_structures_run_like_the_reference(
    structured: tuple[str, ModelProto, Feeds], lowering: Lowering
) -> None:
    """Hardened subgraphs and functions compute the reference bit for bit, and are restored."""
    name, model, feeds = structured
    changed = onnxfit.retrofit(model, jumps=jumps_of(model), lowering=lowering)
    onnx.checker.check_model(changed, full_check=True)
    assert [] == differences(model, changed)
    assert model.SerializeToString() == onnxfit.restore(changed).SerializeToString()
    expected = run(swapped(model, jump_of), feeds)
    assert not all_same_bits(run(model, feeds), expected)
    for optimise in (False, True):
        assert all_same_bits(expected, run(changed, feeds, library=True, optimise=optimise))
        if lowering != "custom" or name == "function":
            assert all_same_bits(expected, run(changed, feeds, optimise=optimise))


def test_custom_lowering_in_functions_carries_the_function() -> None:
    """A file with sites inside functions gets the function, and so runs without the library.

    ONNX Runtime infers no type through an operator without a body in there.
    """
    model, _ = structure("function")
    custom, function = (
        onnxfit.retrofit(model, jumps=jumps_of(model), lowering=lowering)
        for lowering in ("custom", "function")
    )
    assert function == custom
    assert ("onnxfit", "JumpReLU") in {(f.domain, f.name) for f in custom.functions}


FOREIGN = """
<ir_version: 8, opset_import: ["": {model}, "local": 1]>
g (float[N] x) => (float[N] y) {{ y = local.act(x) }}
<domain: "local", opset_import: ["": {function}]>
act (X) => (Y) {{ N = Neg(X) Y = Relu(N) }}
"""


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("of_model", "of_function"), [(8, 17), (11, 17), (17, 8), (17, 11), (14, 15), (15, 14)]
)
def test_a_function_of_another_opset_runs_like_the_reference(
    of_model: int, of_function: int, lowering: Lowering
) -> None:
    """What stands in a function is known to its opset and to the model's, at which it is inlined.

    onnx's checker accepts a function whose operators are the same at both.
    """
    source = parse(FOREIGN.format(model=of_model, function=of_function))
    changed = onnxfit.retrofit(source, jump=0.5, lowering=lowering)
    assert source == onnxfit.restore(changed)
    if min(of_model, of_function) >= 14:
        onnx.checker.check_model(changed, full_check=True)
    x = edge_values(TensorProto.FLOAT, 0.5)
    x = x[~np.isnan(x)]  # Its sign may change in the body for opset 8.
    expected = [jump_relu(-x, 0.5)]
    for library in (False, True):
        assert all_same_bits(expected, run(changed, [{"x": x}], library=library))


@pytest.mark.parametrize(("of_model", "of_function"), [(14, 15), (15, 14)])
def test_a_function_for_several_types_needs_opset_15_on_both_sides(
    of_model: int, of_function: int
) -> None:
    """``CastLike`` must be known to the function and to the model."""
    source = parse(
        FOREIGN.format(model=of_model, function=of_function).replace(
            "y = local.act(x)",
            "a = local.act(x) b = Cast<to=11>(a) c = local.act(b) y = Cast<to=1>(c)",
        )
    )
    with pytest.raises(ModelError, match="with several element types, which needs opset 15"):
        onnxfit.retrofit(source, jump=0.5)


OLD = """
<ir_version: 3, opset_import: ["": 9]>
g (float[1,1,6,6] x, float[1,1,3,3] w, float[1] b, float[1] m, float[1] v)
  => (float[1,1,4,4] y)
<float[1,1,3,3] w = {1, -2, 3, -4, 5, -6, 7, -8, 9}, float[1] b = {0.5}, float[1] m = {0.25},
 float[1] v = {1.5}>
{
  h = Conv(x, w)
  n = BatchNormalization(h, v, b, m, v)
  y = Relu(n)
}
"""


@pytest.mark.parametrize("optimise", [False, True])
def test_weights_stay_constants_in_the_oldest_format(optimise: bool) -> None:
    """In a file of IR version 3, whose weights are inputs too, ONNX Runtime still folds weights.

    From IR version 4 on such a weight is an input's default, which ONNX Runtime must not fold.
    """
    model = parse(OLD)
    feeds: Feeds = [{"x": np.linspace(-1, 1, 36, dtype=np.float32).reshape(1, 1, 6, 6)}]
    changed = onnxfit.retrofit(model, jumps={"y": jump_of("y")})
    expected = run(swapped(model, jump_of), feeds, optimise=optimise)
    for library in (False, True):
        assert all_same_bits(expected, run(changed, feeds, library=library, optimise=optimise))
    overridable = plain_session(changed).get_overridable_initializers()
    assert [] == [value.name for value in overridable]


# --- one activation, every opset and type ---------------------------------------------------

OPSETS = range(7, newest_opset() + 1)
JUMPS = (0.0, 0.1, 1.0)


@pytest.mark.parametrize(
    ("opset", "element_type"),
    [
        pytest.param(opset, element_type, id=f"{name}-{opset}")
        for element_type, name in NAMES.items()
        for opset in OPSETS
        if name != "bfloat16" or opset >= 13
    ],
)
def test_one_activation_is_exact_at_every_opset(opset: int, element_type: int) -> None:
    """At the jump, its neighbours, signed zeros, infinities and NaN: the definition's bits."""
    model = relu_model(opset, NAMES[element_type])
    dtype = dtype_of(element_type)
    for jump in JUMPS:
        x = edge_values(element_type, jump)
        at = np.float32(jump).astype(dtype)
        with np.errstate(invalid="ignore"):
            expected = np.where(x <= at, dtype.type(0), x)
        for lowering in LOWERINGS:
            changed = onnxfit.retrofit(model, jump=jump, lowering=lowering)
            for library in (False, True)[lowering == "custom" :]:
                options = quiet()
                if library:
                    onnxfit.register(options)
                session = onnxruntime.InferenceSession(
                    changed.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
                assert same_bits(expected, run_one(session, x)), (jump, lowering, library)
                assert same_bits(x[:0], run_one(session, x[:0])), "an empty array"
