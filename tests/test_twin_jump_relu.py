"""JumpReLU in the twin: exact forward, and a backward that can be chosen."""

from typing import Any

import numpy as np
import pytest
from support import parse, relu_model

torch = pytest.importorskip("torch")

from twin_support import compiled  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.op import jump_relu as reference  # noqa: E402
from onnxfit.twin.jump_relu import BACKWARDS, JumpReLU, backward  # noqa: E402

JUMP = 0.5
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def edges(dtype: Any, jump: float = JUMP) -> Any:
    """Return the jump and its neighbours, zeros, infinities, NaN and others, of a torch type."""
    bits = torch.tensor([jump], dtype=dtype).view(INTEGERS[dtype.itemsize])
    near = torch.cat([bits - 1, bits, bits + 1]).view(dtype)
    rest = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, -3.0, 0.1, 7.0], dtype=dtype)
    return torch.cat([near, -near, rest])


@pytest.mark.parametrize("mode", BACKWARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_forward_pass_is_exact_whatever_the_backward(dtype: Any, mode: str) -> None:
    """Bit for bit the NumPy reference, at the jump, beside it, and at every odd value."""
    module = JumpReLU(torch.tensor(JUMP))
    onnxfit.set_backward(module, mode, tau=0.1)
    x = edges(dtype)
    y = module(x)
    exact = x.to(torch.float64).numpy()  # Every value of the smaller types is one of these.
    expected = torch.from_numpy(reference(exact, JUMP)).to(dtype)
    assert dtype == y.dtype
    nan = torch.isnan(expected)
    assert torch.equal(nan, torch.isnan(y))
    integers = (
        torch.int16 if dtype.itemsize == 2 else torch.int32 if dtype.itemsize == 4 else torch.int64
    )
    assert torch.equal(expected[~nan].view(integers), y[~nan].view(integers))


def test_the_slopes_are_those_of_their_definitions() -> None:
    """True, Relu's, straight through; and the smooth one is the derivative of x·σ((x − κ)/τ)."""
    x = torch.tensor([-1.0, 0.2, 0.5, 0.9], dtype=torch.float64)
    module = JumpReLU(torch.tensor(JUMP)).double()
    slopes = {}
    for mode in BACKWARDS:
        with backward(module, mode, tau=0.3):
            given = x.clone().requires_grad_()
            (slopes[mode],) = torch.autograd.grad(module(given).sum(), given)
    assert [0, 0, 0, 1] == slopes["true"].tolist()
    assert [0, 1, 1, 1] == slopes["relu"].tolist()
    assert [1, 1, 1, 1] == slopes["straight-through"].tolist()
    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((given * torch.sigmoid((given - 0.5) / 0.3)).sum(), given)
    torch.testing.assert_close(slopes["smooth"], expected)


def test_nan_has_no_influence_on_other_elements() -> None:
    """One NaN among the inputs leaves the gradients of the rest finite."""
    x = torch.tensor([float("nan"), 1.0], requires_grad=True)
    JumpReLU(torch.tensor(JUMP))(x)[1].backward()
    assert [0.0, 1.0] == x.grad.tolist()


def hardened_twin() -> Any:
    """Make the twin of two hardened activations in a row."""
    model = relu_model(nodes="a = Relu(x) b = Add(a, a) y = Relu(b)")
    return onnxfit.to_torch(onnxfit.retrofit(model, jumps={"a": 0.5, "y": 0.25}))


def test_one_call_sets_the_whole_twin() -> None:
    """Every site changes, with one width or one for each, and no new twin is built."""
    twin = hardened_twin()
    assert {"a": 0.5, "y": 0.25} == {name: float(s.jump) for name, s in twin.sites.items()}
    x = torch.tensor([0.3], requires_grad=True)
    assert 0.0 == torch.autograd.grad(twin(x).sum(), x)[0].item()
    onnxfit.set_backward(twin, "relu")
    assert 0.0 == torch.autograd.grad(twin(x).sum(), x)[0].item()  # The second one gets 0.
    onnxfit.set_backward(torch.nn.Sequential(twin), "straight-through")
    assert 2.0 == torch.autograd.grad(twin(x).sum(), x)[0].item()
    onnxfit.set_backward(twin, "smooth", tau={"a": 0.1, "y": 0.2})
    assert {"a": 0.1, "y": 0.2} == {name: site.tau for name, site in twin.sites.items()}
    with backward(twin, "true"):
        assert {"true"} == {site.backward_mode for site in twin.sites.values()}
    assert {"smooth"} == {site.backward_mode for site in twin.sites.values()}
    assert [0.1, 0.2] == [site.tau for site in twin.sites.values()]


@pytest.mark.parametrize(
    ("mode", "tau", "message"),
    [
        (
            "rely",
            1.0,
            f"there is no backward 'rely', there are {', '.join(BACKWARDS)}",
        ),
        ("smooth", 0.0, "tau is finite and above 0, got 0.0"),
        ("smooth", float("nan"), "tau is finite and above 0, got nan"),
        ("smooth", {"a": 1.0}, "tau has no width for the site 'y'"),
    ],
)
def test_wrong_settings_change_nothing(mode: str, tau: Any, message: str) -> None:
    """A wrong mode or width is one sentence, and the twin stays as it was."""
    twin = hardened_twin()
    with pytest.raises(ValueError, match=f"^{message}$"):
        onnxfit.set_backward(twin, mode, tau)
    assert {("true", 1.0)} == {(s.backward_mode, s.tau) for s in twin.sites.values()}


@pytest.mark.parametrize("mode", BACKWARDS)
def test_every_slope_works_under_function_transforms(mode: str) -> None:
    """vmap, reverse and forward derivatives and torch.compile find the same slope."""
    module = JumpReLU(torch.tensor(JUMP)).double()
    onnxfit.set_backward(module, mode, tau=0.3)
    x = torch.linspace(-1, 1.5, 12, dtype=torch.float64).reshape(4, 3)
    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(given).sum(), given)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        jacobians = torch.func.vmap(transform(module))(x)
        torch.testing.assert_close(torch.diag_embed(expected), jacobians)
    _, tangent = torch.func.jvp(module, (x,), (torch.full_like(x, 2.0),))
    torch.testing.assert_close(2 * expected, tangent)
    given = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(compiled(module, "aot_eager")(given).sum(), given)
    torch.testing.assert_close(expected, found)


def test_many_jumps_at_once() -> None:
    """Mapping over jump sizes computes the network for each of them in one call."""
    module = JumpReLU(torch.tensor(JUMP))
    x = torch.linspace(-1, 2, 7)
    jumps = torch.tensor([0.0, 0.5, 1.0])
    found = torch.func.vmap(lambda jump: torch.func.functional_call(module, {"jump": jump}, (x,)))(
        jumps
    )
    expected = torch.stack([torch.where(x <= jump, 0.0, x) for jump in jumps])
    assert torch.equal(expected, found)


def test_the_smooth_slope_can_be_differentiated_again() -> None:
    """Second-order methods get the derivative of the slope, not zero."""
    module = JumpReLU(torch.tensor(JUMP)).double()
    onnxfit.set_backward(module, "smooth", tau=0.3)
    x = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(slope.sum(), x)
    y = (x * torch.sigmoid((x - 0.5) / 0.3)).sum()
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    (expected,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(expected, found)


INSIDE = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N] x, bool c) => (float[N] y) {
    h = local.Twice(x)
    k = local.Twice(h)
    y = If(c) <then_branch = t () => (float[N] a) { a = Relu(k) },
               else_branch = e () => (float[N] b) { b = Neg(k) }>
}
<domain: "local", opset_import: ["": 17]>
Twice (X) => (Y) { r = Relu(X) Y = Add(r, r) }
"""


@pytest.mark.parametrize("lowering", ["function", "standard"])
def test_sites_are_found_wherever_they_are_and_however_written(lowering: Any) -> None:
    """In functions (one module for all calls), in branches, and as standard operators."""
    model = parse(INSIDE)
    hardened = onnxfit.retrofit(model, 0.5, lowering=lowering)
    twin = onnxfit.to_torch(hardened)
    assert {site.name for site in onnxfit.find_sites(hardened)} == set(twin.sites)
    x = np.array([-1.0, 0.2, 0.4, 0.6, 2.0], np.float32)
    session = onnxfit.session(hardened)
    for condition in (True, False):
        (expected,) = session.run(None, {"x": x, "c": np.array(condition)})
        found = twin(torch.from_numpy(x), torch.tensor(condition))
        np.testing.assert_array_equal(expected, found.numpy())


def test_a_jump_for_each_channel_and_one_given_at_run_time() -> None:
    """The input J may be a tensor of the file or an input of the graph."""
    text = """<ir_version: 8, opset_import: ["": 17, "onnxfit": 1]>
    g (float[N,2,1,2] x, float j) => (float[N,2,1,2] y)
    <float[2,1,1] per_channel = {0.5, 1.5}>
    { h = onnxfit.JumpReLU(x, per_channel) y = onnxfit.JumpReLU(h, j) }"""
    twin = onnxfit.to_torch(parse(text))
    x = torch.tensor([[[[0.4, 1.0]], [[1.0, 2.0]]]])
    assert [0.0, 1.0, 0.0, 2.0] == twin(x, torch.tensor(0.0)).flatten().tolist()
    assert [0.0, 0.0, 0.0, 2.0] == twin(x, torch.tensor(1.0)).flatten().tolist()
    assert (2, 1, 1) == twin.get_buffer("parts.jumprelu0.jump").shape
    assert twin.sites["y"].jump is None


def test_a_jump_at_the_edge_of_float16_is_rounded_as_in_the_file() -> None:
    """The twin of a float16 file compares with the file's own number."""
    model = onnxfit.retrofit(relu_model(element_type="float16"), 0.1)
    twin = onnxfit.to_torch(model)
    x = edges(torch.float16, 0.1)
    (expected,) = onnxfit.session(model).run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(expected, twin(x).numpy())
