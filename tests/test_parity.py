"""Parity finds a twin that differs from its file, and says where."""

from typing import Any

import numpy as np
import onnx
import pytest
from support import MODELS, parse

torch = pytest.importorskip("torch")

from twin_support import compiled  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.errors import ModelError, ParityError  # noqa: E402
from onnxfit.twin.jump_relu import jump_relus  # noqa: E402
from onnxfit.twin.parity import require_parity  # noqa: E402


def digits() -> tuple[onnx.ModelProto, Any, Any]:
    """Return the shipped network with its test data, as the network takes it."""
    data = np.load(MODELS / "digits_test.npz")
    x = data["x"].astype(np.float32) / 255 if data["x"].dtype == np.uint8 else data["x"]
    return onnxfit.load(MODELS / "digits_cnn.onnx"), x[:200], data["y"][:200]


def test_a_right_twin_agrees() -> None:
    """Plain and hardened: within rounding where the jumps are 0, the same classes with them."""
    model, x, _ = digits()
    for tested in (model, onnxfit.retrofit(model, 0.5)):
        found = require_parity(tested, onnxfit.to_torch(tested), x)
        assert (200, True, None) == (found.samples, found.agrees, found.first_difference)
        assert 0 < found.largest_difference < 1e-3
        assert found.relative_difference < 1e-4
        assert 1.0 == found.top1_agreement


@pytest.mark.parametrize("jump", [0.0, 0.5])
def test_a_changed_weight_is_noticed(jump: float) -> None:
    """Top-1 may still agree: the numbers tell, and the first value behind the weight is named."""
    source, x, _ = digits()
    model = onnxfit.retrofit(source, jump) if jump else source
    twin = onnxfit.to_torch(model)
    name, parameter = list(twin.named_parameters())[-3]
    with torch.no_grad():
        parameter.mul_(1.05)
    found = onnxfit.parity(model, twin, x)
    assert not found.agrees
    weight = twin.weight_names[name][1]
    user = next(node for node in model.graph.node if weight in node.input)
    assert user.output[0] == found.first_difference
    with pytest.raises(ParityError, match=rf"the first value that differs is '{user.output[0]}'$"):
        require_parity(model, twin, x)


def test_bisection_names_the_first_of_many() -> None:
    """With every node after it different too, the node that went wrong is the one named."""
    nodes = " ".join(f"v{i + 1} = Mul(v{i}, w{i})" for i in range(20))
    weights = ", ".join(f"float[1] w{i} = {{1.01}}" for i in range(20))
    model = parse(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,3] v0) => (float[N,3] v20) '
        f"<{weights}> {{ {nodes} }}"
    )
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for broken in (0, 7, 19):
        twin = onnxfit.to_torch(model)
        with torch.no_grad():
            twin.get_parameter(f"w{broken}").add_(0.5)
        assert f"v{broken + 1}" == onnxfit.parity(model, twin, x).first_difference


def test_a_wrong_jump_is_noticed_by_its_decisions() -> None:
    """The numbers agree with every jump at 0, the classes do not with the file's own."""
    source, x, _ = digits()
    model = onnxfit.retrofit(source, 0.1)
    twin = onnxfit.to_torch(model)
    for site in twin.sites.values():
        site.jump = torch.tensor(3.0)
    found = onnxfit.parity(model, twin, x)
    assert not found.agrees
    assert found.relative_difference < found.tolerance
    assert found.top1_agreement < 0.98
    assert found.flips > 0
    assert {3.0} == {float(site.jump) for site in jump_relus(twin) if site.jump is not None}
    assert found.first_difference in {site.name for site in onnxfit.find_sites(model)}


def test_flips_are_counted_and_forgiven() -> None:
    """A value that lies on the jump itself may fall on either side without an error."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float[2] w = {1, 1}, float[1] b = {10}, float[2] one = {0, 100}> "
        "{ m = Mul(x, w) r = Relu(m) s = Mul(r, b) y = Add(s, one) }"
    )
    hard = onnxfit.retrofit(model, 1.0)
    twin = onnxfit.to_torch(hard)
    with torch.no_grad():
        twin.get_parameter("w").mul_(1 + 1e-6)
    x = np.array([[1.0, 0.5], [2.0, 2.0], [0.3, 0.2]], np.float32)
    found = onnxfit.parity(hard, twin, x)
    assert found.agrees
    assert 1 == found.flips
    assert 10.0 == pytest.approx(found.largest_flip, rel=1e-4)


def test_a_file_that_fixes_its_batch_is_compared_on_all_samples() -> None:
    """ONNX Runtime gets one sample at a time, the twin all of them."""
    model, x, _ = digits()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    found = onnxfit.parity(model, onnxfit.to_torch(model), x[:10], batch_size=4)
    assert found.agrees
    assert 10 == found.samples


def test_no_samples_are_no_agreement() -> None:
    """An empty batch is refused."""
    model, x, _ = digits()
    with pytest.raises(ValueError, match=r"^parity needs at least one sample$"):
        onnxfit.parity(model, onnxfit.to_torch(model), x[:0])


def linear(
    weights: Any, output: str = "float[N,C] y", nodes: str = "y = MatMul(x, w)"
) -> onnx.ModelProto:
    """Return a model of one linear layer with these weights, one column for each class."""
    model = parse(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,K] x) => ({output}) {{{nodes}}}'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(weights, np.float32), "w"))
    return model


class Replaced(torch.nn.Module):  # type: ignore[name-defined,misc]
    """A twin whose outputs are something else."""

    def __init__(self, twin: Any, change: Any) -> None:
        super().__init__()
        self.twin, self.change = twin, change

    def forward(self, *inputs: Any) -> Any:
        """Compute the outputs and change them."""
        outputs = self.twin(*inputs)
        return self.change(*outputs) if isinstance(outputs, tuple) else self.change(outputs)


def judged(model: onnx.ModelProto, x: Any, change: Any = None, **settings: Any) -> Any:
    """Compare a model with its twin, or with a changed one."""
    twin = onnxfit.to_torch(model)
    return onnxfit.parity(model, Replaced(twin, change) if change else twin, x, **settings)


def noise(*shape: int) -> Any:
    """Return numbers of a fixed seed."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("size", [1e-6, 1e-5, 1.0, 1e5])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_a_twin_of_zeros_fails_whatever_the_size_of_the_outputs(size: float, n: int) -> None:
    """Small logits are compared by their own size; the right twin agrees."""
    model, x = linear(noise(6, 4) * size), noise(n, 6)
    assert judged(model, x).agrees
    assert not judged(model, x, torch.zeros_like).agrees
    assert not judged(model, x, lambda y: y * 1.3).agrees


@pytest.mark.parametrize("n", [1, 5, 40])
def test_each_class_is_measured_by_its_own_size(n: int) -> None:
    """A class with logits of a million hides no wrong ones beside it."""
    model, x = linear(noise(6, 4) * np.array([1e6, 1, 1, 1], np.float32)), np.abs(noise(n, 6))
    assert judged(model, x).agrees
    for value in (0.0, -7.0):
        constant = torch.tensor([1.0, 0.0, 0.0, 0.0])
        found = judged(model, x, lambda y, c=constant, v=value: y * c + v * (1 - c))
        assert not found.agrees


def test_logits_that_are_the_same_in_one_class_alone_fail() -> None:
    """The top class is right in every sample, and the others are made up."""
    model, x = linear(np.array([[9, 1, 1, 1]], np.float32)), np.ones((20, 1), np.float32)
    found = judged(model, x, lambda y: torch.cat([y[:, :1], torch.full_like(y[:, 1:], -7)], 1))
    assert 1.0 == found.top1_agreement
    assert not found.agrees


@pytest.mark.parametrize("n", [1, 2, 9])
def test_a_class_that_is_small_by_chance_is_forgiven_the_rounding_of_others(n: int) -> None:
    """What is left when large numbers cancel has their rounding, in the twin as in the file."""
    model, x = linear(noise(6, 40)), noise(n, 6)
    with torch.no_grad():
        y = onnxfit.to_torch(model)(torch.from_numpy(x))
    small = y.abs().amax(0).argmin()
    shift = torch.zeros(40)
    shift[small] = 2e-7 * y.abs().max()
    assert judged(model, x, lambda y: y + shift).agrees


def test_only_what_the_outputs_are_computed_with_loosens_the_tolerance() -> None:
    """Stored in 16 bits, quantised as a weight, or left unused: the numbers are exact."""
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
    exact = [
        "<float16[2] h = {1, 2}> { w = Cast<to = 1>(h) y = Mul(x, w) }",
        "<float16[2] h = {1, 2}> { y = Neg(x) }",
        "<float s = {1}, int8[2] q = {1, 2}> { w = DequantizeLinear(q, s) y = Mul(x, w) }",
        "<float s = {1}, int8 z = {0}> { q = QuantizeLinear(x, s, z) y = Neg(x) }",
        "{ h = Cast<to = 10>(x) y = Neg(x) }",
    ]
    loose = [
        "{ h = Cast<to = 10>(x) y = Cast<to = 1>(h) }",
        "<float s = {1}, int8 z = {0}> "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        "<bool c = {1}> { y = If(c) <then_branch = t () => (float[N,2] a) "
        "{ h = Cast<to = 10>(x) a = Cast<to = 1>(h) }, "
        "else_branch = e () => (float[N,2] b) { b = Neg(x) }> }",
    ]
    x = noise(20, 2)
    assert [1e-4] * 5 == [judged(parse(head + body), x).tolerance for body in exact]
    assert [2e-2, 1e-1, 2e-2] == [judged(parse(head + body), x).tolerance for body in loose]
    inside = parse(
        '<ir_version: 8, opset_import: ["": 17, "l": 1]> g (float[N,2] x) => (float[N,2] y) '
        '{ y = l.F(x) } <domain: "l", opset_import: ["": 17]> F (X) => (Y) '
        "{ h = Cast<to = 10>(X) Y = Cast<to = 1>(h) }"
    )
    assert 2e-2 == judged(inside, x).tolerance


def test_a_quantised_twin_is_judged_by_its_typical_sample() -> None:
    """One step in a few samples is rounding; five percent in each of them is a wrong twin."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float s = {0.05}, int8 z = {0}> "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    x = np.tile(np.array([[1.0, 3.0]], np.float32), (20, 1))
    one = torch.zeros(20, 2)
    one[3] = 0.05
    found = judged(model, x, lambda y: y + one)
    assert (True, 0.0) == (found.agrees, found.typical_difference)
    assert found.relative_difference > 1e-2
    found = judged(model, x, lambda y: y * 1.05)
    assert found.relative_difference < found.tolerance
    assert not found.agrees


@pytest.mark.parametrize(
    ("output", "nodes"),
    [
        ("float[N] y", "s = MatMul(x, w) y = ReduceSum<keepdims = 0>(s, axis)"),
        ("float[N,1] y", "s = MatMul(x, w) y = ReduceSum(s, axis)"),
        ("float y", "s = MatMul(x, w) y = ReduceMean<keepdims = 0>(s)"),
    ],
)
def test_outputs_that_name_no_class_are_compared_as_numbers(output: str, nodes: str) -> None:
    """One number a sample, or one for all: within rounding they agree, zeros do not."""
    model = linear(noise(6, 4), output, nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axis"))
    x = noise(50, 6)
    found = judged(model, x, lambda y: y * (1 + 1e-6))
    assert (True, 1.0) == (found.agrees, found.top1_agreement)
    assert not judged(model, x, torch.zeros_like).agrees


def test_labels_are_counted_and_not_measured() -> None:
    """One wrong label in a hundred may be a tie; the classes' numbers do not matter."""
    model = linear(noise(6, 90), "int64[N] y", "s = MatMul(x, w) y = ArgMax<axis=1,keepdims=0>(s)")
    x = noise(100, 6)
    assert 1.0 == judged(model, x).top1_agreement
    for wrong, agrees in ((1, True), (5, False)):
        change = torch.zeros(100, dtype=torch.int64)
        change[-wrong:] = 50
        found = judged(model, x, lambda y, c=change: y + c, batch_size=100)
        assert (agrees, 0.0) == (found.agrees, found.largest_difference)
        assert 1 - wrong / 100 == found.top1_agreement


def test_labels_beside_probabilities() -> None:
    """As sklearn gives them: the class is that of the probabilities, the labels must agree too."""
    model = linear(
        noise(6, 3),
        "int64[N] label, float[N,3] p",
        "s = MatMul(x, w) p = Softmax(s) label = ArgMax<axis = 1, keepdims = 0>(s)",
    )
    x = noise(30, 6)
    assert judged(model, x).agrees
    assert not judged(model, x, lambda label, p: (label * 0, p)).agrees
    assert not judged(model, x, lambda label, p: (label, p.flip(1))).agrees


def test_a_jump_that_is_an_input_beside_a_constant_one() -> None:
    """Both are 0 when the numbers are compared, in the file and in the twin."""
    model = parse(
        '<ir_version: 10, opset_import: ["": 17, "onnxfit": 1]> '
        "g (float[N,3] x, float k) => (float[N,3] y) <float c = {0.25}> "
        "{ a = onnxfit.JumpReLU(x, c) y = onnxfit.JumpReLU(a, k) }"
        '<domain: "onnxfit", opset_import: ["": 17]> JumpReLU (X, J) => (Y) '
        "{ off = LessOrEqual(X, J) zero = Sub(X, X) Y = Where(off, zero, X) }"
    )
    twin = onnxfit.to_torch(model)
    inputs = [noise(20, 3), np.float32(0.5)]
    found = onnxfit.parity(model, twin, inputs)
    assert (True, 0.0) == (found.agrees, found.largest_difference)
    assert [0.25, None] == [
        s.jump if s.jump is None else float(s.jump) for s in twin.sites.values()
    ]


def test_the_samples_that_differ_are_looked_at() -> None:
    """A weight that the last samples alone read is found all the same."""
    model = linear(noise(6, 4), nodes="m = MatMul(x, w) y = Relu(m)")
    x = noise(100, 6)
    x[:90, 5] = 0
    twin = onnxfit.to_torch(model)
    with torch.no_grad():
        twin.get_parameter("w")[5] *= 1.5
    assert "m" == onnxfit.parity(model, twin, x).first_difference


def test_a_sequence_is_refused_by_one_sentence() -> None:
    """There is nothing to measure a sequence with."""
    model = linear(noise(6, 4), "seq(float[N,4]) y", "s = MatMul(x, w) y = SequenceConstruct(s)")
    with pytest.raises(ModelError, match=r"^output 1 of the model is a sequence or a map, which"):
        judged(model, noise(3, 6))


def test_one_number_for_a_batch_that_the_file_fixes() -> None:
    """The file is given as many samples as it takes, or the call is refused."""
    model = linear(noise(6, 4), "float y", "s = MatMul(x, w) y = ReduceMean<keepdims = 0>(s)")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert judged(model, noise(5, 6), batch_size=1).agrees
    with pytest.raises(ModelError, match=r"batch of 1 and its output 'y' does not go by samples"):
        judged(model, noise(5, 6))


def test_every_batch_counts_where_outputs_do_not_go_by_samples() -> None:
    """The mean over a batch is wrong in the last batch alone."""
    model = linear(noise(6, 4), "float y", "s = MatMul(x, w) y = ReduceMean<keepdims = 0>(s)")
    calls = []

    def change(y: Any) -> Any:
        calls.append(y)
        return y * 2 if len(calls) == 3 else y

    assert not judged(model, noise(12, 6), change, batch_size=4).agrees
    assert 3 == len(calls)


@pytest.mark.parametrize("move", ["half", "bfloat16", "double"])
def test_a_twin_of_another_type_is_measured_by_its_own_rounding(move: str) -> None:
    """The tolerance is that of the lower precision, and a wrong weight is still noticed."""
    model, x, _ = digits()
    twin = getattr(onnxfit.to_torch(model), move)()
    found = require_parity(model, twin, x)
    assert {"half": 2e-2, "bfloat16": 1e-1, "double": 1e-4}[move] == found.tolerance
    with torch.no_grad():
        next(twin.parameters()).neg_()
    found = onnxfit.parity(model, twin, x)
    assert not found.agrees
    assert found.first_difference


def test_numbers_of_another_float_type_are_converted() -> None:
    """NumPy makes float64 where the file takes float32."""
    model = linear(noise(6, 4))
    assert judged(model, noise(5, 6).astype(np.float64)).agrees
    assert judged(model, torch.from_numpy(noise(5, 6)).bfloat16()).agrees


def test_the_twin_is_given_the_batch_that_was_asked_for() -> None:
    """Where the file fixes its batch the twin does not fall back to it."""
    model, x, _ = digits()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    sizes = []

    def change(y: Any) -> Any:
        sizes.append(len(y))
        return y

    assert judged(model, x[:10], change, batch_size=4).agrees
    assert [4, 4, 2] == sizes
    with pytest.raises(ValueError, match=r"^batch_size is at least 1, got 0$"):
        judged(model, x[:10], batch_size=0)


def test_calls_of_a_function_keep_their_own_jumps() -> None:
    """Two calls give one site two jumps, and each has its own."""
    model = parse(
        '<ir_version: 10, opset_import: ["": 17, "l": 1]> g (float[N,3] x) => (float[N,3] y) '
        "<float a = {0.25}, float b = {0.75}> "
        "{ p = l.F(x, a) q = l.F(x, b) y = Concat<axis=1>(p, q) }"
        '<domain: "l", opset_import: ["": 17, "onnxfit": 1]> F (X, J) => (Y) '
        "{ Y = onnxfit.JumpReLU(X, J) }"
        '<domain: "onnxfit", opset_import: ["": 17]> JumpReLU (X, J) => (Y) '
        "{ off = LessOrEqual(X, J) zero = Sub(X, X) Y = Where(off, zero, X) }"
    )
    found = require_parity(model, onnxfit.to_torch(model), noise(20, 3))
    assert (1.0, 0) == (found.top1_agreement, found.flips)


def test_a_compiled_twin_is_compared_and_bisected() -> None:
    """What the compiler wrapped has the weights that the names in the file belong to."""
    model = linear(noise(6, 4), nodes="m = MatMul(x, w) y = Relu(m)")
    twin = onnxfit.to_torch(model)
    wrapped = compiled(twin)
    assert onnxfit.parity(model, wrapped, noise(5, 6)).agrees
    with torch.no_grad():
        twin.get_parameter("w").mul_(1.5)
    assert "m" == onnxfit.parity(model, wrapped, noise(5, 6)).first_difference
