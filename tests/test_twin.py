"""The twin as a PyTorch module: names, state, transforms, layouts, batches, errors."""

import copy
import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import MODELS, parse, relu_model

torch = pytest.importorskip("torch")

from twin_support import agrees, compiled  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.deployed import Deployed  # noqa: E402
from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin import registry  # noqa: E402
from onnxfit.twin.builder import checked_batch  # noqa: E402

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,2,4,4] x) => (float[N,3] logits) {
    c = Conv<pads = [1,1,1,1]>(x, W, B)
    n = BatchNormalization(c, scale, shift, mean, var)
    r = Relu(n)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    logits = Gemm<transB = 1>(f, FW, FB)
}"""
SHAPES = {
    "W": (4, 2, 3, 3),
    "B": (4,),
    "scale": (4,),
    "shift": (4,),
    "mean": (4,),
    "var": (4,),
    "FW": (3, 4),
    "FB": (3,),
}
NAMES = {
    "W": "block.conv.weight",
    "B": "block.conv.bias",
    "FW": "fc/weight:0",
    "FB": "training",
    "mean": "block.running_mean",
}


def network(text: str = NETWORK, names: dict[str, str] | None = None) -> onnx.ModelProto:
    """Make a small convolutional network, its initializers renamed."""
    names = names or {}
    model = parse(text)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = rng.uniform(0.5, 1.5, shape) if name == "var" else rng.normal(size=shape)
        tensor = onnx.numpy_helper.from_array(values.astype(np.float32), names.get(name, name))
        model.graph.initializer.append(tensor)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


def images(n: int = 3) -> Any:
    """Make a batch of inputs."""
    return torch.from_numpy(np.random.default_rng(1).normal(size=(n, 2, 4, 4)).astype(np.float32))


def test_parameters_carry_the_names_of_the_file() -> None:
    """Weights are parameters and statistics buffers, all under the initializers' names."""
    twin = onnxfit.to_torch(network())
    assert {"W", "B", "scale", "shift", "FW", "FB"} == {n for n, _ in twin.named_parameters()}
    assert {"mean", "var"} == {name for name, _ in twin.named_buffers()}
    assert set(SHAPES) == set(twin.state_dict())
    for tensor in network().graph.initializer:
        expected = onnx.numpy_helper.to_array(tensor)
        np.testing.assert_array_equal(expected, twin.state_dict()[tensor.name].numpy())


def test_dots_make_modules_and_taken_names_get_an_underscore() -> None:
    """Any initializer's name becomes a path, and the twin tells which name a path stands for."""
    model = network(names=NAMES)
    twin = onnxfit.to_torch(model)
    assert {
        "block.conv.weight",
        "block.conv.bias",
        "block.running_mean",
        "scale",
        "shift",
        "var",
        "fc/weight:0",
        "training_",
    } == set(twin.state_dict())
    assert ("", "training") == twin.weight_names["training_"]
    assert ("", "fc/weight:0") == twin.weight_names["fc/weight:0"]
    agrees(model, images().numpy())


def test_a_name_may_be_the_beginning_of_another() -> None:
    """Initializers ``a`` and ``a.b`` and ``a..b`` live side by side."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
        "<float[1] p = {2}, float[1] q = {3}, float[1] r = {4}> "
        "{ s = Mul(x, p) t = Mul(s, q) y = Mul(t, r) }"
    )
    for names in (("a", "a.b", "a..b"), ("a.b", "a", "a.b.c")):
        renamed = dict(zip("pqr", names, strict=True))
        changed = copy.deepcopy(model)
        for tensor in changed.graph.initializer:
            tensor.name = renamed[tensor.name]
        for node in changed.graph.node:
            node.input[1] = renamed[node.input[1]]
        twin = onnxfit.to_torch(changed)
        assert set(names) == {name for _, name in twin.weight_names.values()}
        assert [24.0] == twin(torch.ones(1)).tolist()


@pytest.mark.parametrize(
    "name",
    [
        "weight_names",
        "weight_names.x",
        "_program",
        "_fixed_batch",
        "source",
        "source.x",
        "sites",
        "input_names",
        "output_names",
        "forward",
        "constants.c0",
        "parts",
    ],
)
def test_a_name_that_the_twin_needs_gets_an_underscore(name: str) -> None:
    """Its own attributes stay what they are."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
        "<float[2] p = {2, 3}> { c = Constant<value_floats = [1.0, 1.0]>() d = Neg(c) "
        "i = Constant<value = int64[2] {1, 0}>() g = Gather(x, i) s = Mul(g, p) y = Add(s, d) }"
    )
    model.graph.initializer[0].name = name
    model.graph.node[4].input[1] = name
    twin = onnxfit.to_torch(model)
    first, *rest = name.split(".")
    path = ".".join([f"{first}_", *rest])
    assert {path: ("", name)} == {p: n for p, n in twin.weight_names.items() if n[1] == name}
    assert path in twin.state_dict()
    assert path in twin.source
    assert (["x"], ["y"]) == (twin.input_names, twin.output_names)
    agrees(model, np.array([5.0, 7.0], np.float32))


def test_operators_older_than_opset_7_are_read_where_they_stayed_the_same() -> None:
    """Not has not changed since opset 1; Relu of opset 1 had another attribute."""
    text = '<ir_version: 8, opset_import: ["": %d]> g (%s[N] x) => (%s[N] y) { y = %s(x) }'
    agrees(parse(text % (7, "float", "float", "Relu")), np.ones(2, np.float32))
    found = onnxfit.to_torch(parse(text % (1, "bool", "bool", "Not")))(torch.tensor([True]))
    assert [False] == found.tolist()
    with pytest.raises(UnsupportedOperator, match=r"^the twin cannot compute node '', Relu of op"):
        onnxfit.to_torch(parse(text % (1, "float", "float", "Relu")))


def test_a_model_of_another_domain_alone_needs_no_opset() -> None:
    """As those of scikit-learn may be; but one of no domain and one without outputs are nothing."""
    model = parse(
        '<ir_version: 8, opset_import: ["ai.onnx.ml": 3]> g (float[N, 2] x) => (float[N, 2] y) '
        "{ y = ai.onnx.ml.Scaler<offset = [1.0, 2.0], scale = [2.0, 2.0]>(x) }"
    )
    assert [[0.0, 2.0]] == onnxfit.to_torch(model)(torch.tensor([[1.0, 3.0]])).tolist()
    del model.opset_import[:]
    with pytest.raises(ModelError, match=r"^the model does not say of which opset it is$"):
        onnxfit.to_torch(model)
    with pytest.raises(ModelError, match=r"^the model has no outputs$"):
        onnxfit.to_torch(onnx.ModelProto())


def test_gradients_reach_inputs_and_parameters() -> None:
    """They are those of the same network written by hand."""
    model = network()
    twin = onnxfit.to_torch(model)
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer}
    for name in ("W", "B", "scale", "shift", "FW", "FB"):
        weights[name].requires_grad_()
    x, mine = images().requires_grad_(), images().requires_grad_()
    functional = torch.nn.functional
    y = functional.conv2d(mine, weights["W"], weights["B"], padding=1)
    y = (y - weights["mean"].reshape(-1, 1, 1)) / (weights["var"].reshape(-1, 1, 1) + 1e-5).sqrt()
    y = y * weights["scale"].reshape(-1, 1, 1) + weights["shift"].reshape(-1, 1, 1)
    y = functional.linear(y.relu().mean((2, 3)), weights["FW"], weights["FB"])
    functional.cross_entropy(y, torch.tensor([0, 1, 2])).backward()
    functional.cross_entropy(twin(x), torch.tensor([0, 1, 2])).backward()
    torch.testing.assert_close(mine.grad, x.grad)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(weights[name].grad, parameter.grad)


def test_copies_pickles_and_state_dicts() -> None:
    """A twin survives deepcopy, pickle and torch.save; a state_dict goes in and out."""
    twin = onnxfit.to_torch(onnxfit.retrofit(network(), 0.5))
    x = images()
    expected = twin(x)
    saved = io.BytesIO()
    torch.save(twin, saved)
    saved.seek(0)
    copies = [
        copy.deepcopy(twin),
        pickle.loads(pickle.dumps(twin)),  # noqa: S301
        torch.load(saved, weights_only=False),
    ]
    for other in copies:
        assert torch.equal(expected, other(x))
        with torch.no_grad():
            other.get_parameter("FB").add_(1.0)
        assert torch.equal(expected, twin(x))
        assert not torch.equal(expected, other(x))
        other.load_state_dict(twin.state_dict())
        assert torch.equal(expected, other(x))


def test_training_mode_changes_nothing() -> None:
    """The twin computes what the file does, whatever ``train()`` says."""
    twin = onnxfit.to_torch(network())
    x = images()
    expected = twin(x)
    assert torch.equal(expected, twin.train()(x))
    assert torch.equal(expected, twin(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_types(dtype: Any) -> None:
    """``.double()``, ``.half()`` and ``.bfloat16()`` convert everything, casts in the file too."""
    text = NETWORK.replace("r = Relu(n)", "d = Cast<to = 1>(n) r = Relu(d)")
    text = text.replace(
        "f = Flatten(p)", "two = Constant<value = float {2}>() e = Flatten(p) f = Mul(e, two)"
    )
    model = network(text)
    expected = onnxfit.to_torch(model)(images())
    twin = onnxfit.to_torch(model).to(dtype)
    found = twin(images().to(dtype))
    assert dtype == found.dtype
    tolerance = {torch.float64: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    torch.testing.assert_close(expected, found.float(), rtol=tolerance, atol=tolerance)


def test_channels_last_stays_channels_last() -> None:
    """The layout of the input reaches the end, and changes no result."""
    model = network(NETWORK.replace("(float[N,3] logits)", "(float[N,3] logits, float[N,4,4,4] r)"))
    twin = onnxfit.to_torch(model)
    expected, _ = twin(images())
    twin.to(memory_format=torch.channels_last)
    logits, inner = twin(images().to(memory_format=torch.channels_last))
    assert inner.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(expected, logits)


def test_function_transforms_and_functional_call() -> None:
    """Mapping over samples, jacobians both ways and derivatives along a direction agree."""
    twin = onnxfit.to_torch(network()).double()
    x = images().double()

    def single(sample: Any) -> Any:
        return twin(sample[None])[0]

    rows = [torch.autograd.functional.jacobian(single, sample) for sample in x]
    expected = torch.stack(rows)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(expected, torch.func.vmap(transform(single))(x))
    direction = torch.ones_like(x)
    _, tangent = torch.func.jvp(twin, (x,), (direction,))
    torch.testing.assert_close(expected.flatten(2).sum(2), tangent)
    _, pull = torch.func.vjp(twin, x)
    weights = torch.ones(3, 3, dtype=torch.float64)
    torch.testing.assert_close(expected.sum(1), pull(weights)[0])
    state = {name: 0 * tensor for name, tensor in twin.named_parameters()}
    zeros = torch.func.functional_call(twin, state, (x,))
    assert torch.equal(torch.zeros(3, 3, dtype=torch.float64), zeros)


def test_torch_compile_takes_the_whole_twin() -> None:
    """One graph without breaks, the same results and gradients, for changing batches."""
    twin = onnxfit.to_torch(onnxfit.retrofit(network(), 0.5))
    one_graph = compiled(twin, "aot_eager")
    for n in (3, 5, 2):
        x, other = images(n).requires_grad_(), images(n).requires_grad_()
        twin(x).sum().backward()
        one_graph(other).sum().backward()
        torch.testing.assert_close(x.grad, other.grad)


def test_a_file_that_fixes_its_batch_takes_any() -> None:
    """Batch 1 in the file, its Reshapes included, does not bind the twin."""
    text = NETWORK.replace("float[N,2,4,4]", "float[1,2,4,4]").replace("float[N,3]", "float[1,3]")
    text = text.replace("f = Flatten(p)", "f = Reshape(p, shape)")
    for shape in ([1, 4], [1, -1], [-1, 4], [0, -1]):
        model = network(text)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), "shape"))
        twin = onnxfit.to_torch(model)
        together = twin(images(5))
        one_by_one = torch.cat([twin(image[None]) for image in images(5)])
        torch.testing.assert_close(one_by_one, together)


MIXING = {
    "a mean of all": "a = ReduceMean<keepdims = 0>(x) y = Sub(x, a)",
    "a sum over rows": "s = Constant<value_ints = [0]>() a = ReduceSum(x, s) y = Sub(x, a)",
    "the batch size as a number": "s = Shape(x) n = ReduceProd<keepdims = 0>(s) "
    "f = Cast<to = 1>(n) y = Div(x, f)",
    "a running sum over rows": "a = Constant<value_int = 0>() y = CumSum(x, a)",
    "rows written to": "i = Constant<value = int64[1,1] {0}>() "
    "u = Constant<value = float[1,4] {9, 9, 9, 9}>() r = Relu(x) y = ScatterND(r, i, u)",
    "a branch for all": "m = ReduceMax<keepdims = 0>(x) l = Constant<value_float = 0.7>() "
    "c = Greater(m, l) y = If(c) <then_branch = t () => (float[1,4] p) { p = Neg(x) }, "
    "else_branch = e () => (float[1,4] q) { q = Abs(x) }>",
    "a function": "y = local.Centre(x)",
    "a letter summed": 'a = Einsum<equation = "bi->i">(x) y = Add(x, a)',
    "two letters": 'a = Einsum<equation = "bi,cj->bj">(x, x) y = Add(x, a)',
    "a triangle": "a = Trilu(x) y = Add(a, x)",
}
CENTRE = """<domain: "local", opset_import: ["": 17]>
Centre (X) => (Y) { m = ReduceMean<keepdims = 0>(X) Y = Sub(X, m) }"""


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("fixed", [1, 2])
def test_a_file_that_mixes_its_samples_is_computed_in_parts(name: str, fixed: int) -> None:
    """Each part of the size that the file is made for gives what ONNX Runtime gives for it."""
    nodes = re.sub(r"float\[1,4\] (?=[pq]\))", f"float[{fixed},4] ", MIXING[name])
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "local": 1]> '
        f"g (float[{fixed},4] x) => (float[{fixed},4] y) {{ {nodes} }} {CENTRE}"
    )
    twin = onnxfit.to_torch(model)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = Deployed(model)(x.numpy())[0]
    np.testing.assert_allclose(expected, twin(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_what_has_no_row_for_each_sample_is_refused() -> None:
    """Outputs that cannot be put together, inputs that disagree, and no samples at all."""
    head = '<ir_version: 8, opset_import: ["": 17]> g '
    text = "(float[1,4] x) => (float y) { y = ReduceMax<keepdims = 0>(x) }"
    twin = onnxfit.to_torch(parse(head + text))
    with pytest.raises(ModelError, match=r"^the file is made for a batch of 1, and one of its out"):
        twin(torch.ones(3, 4))
    text = "(float[1,4] x, float[1,4] z) => (float[1,4] y) { y = Add(x, z) }"
    twin = onnxfit.to_torch(parse(head + text))
    with pytest.raises(ModelError, match=r"^the file is made for a batch of 1, and the first dim"):
        twin(torch.ones(3, 4), torch.ones(2, 4))
    twin = onnxfit.to_torch(
        parse(head + "(float[2] s, float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    )
    with pytest.raises(ModelError, match=r"do not fit together: 3 in place of 1$"):
        twin(torch.ones(2), torch.ones(3, 4))


def test_an_output_without_a_row_for_each_sample_is_refused() -> None:
    """The last check of a file that fixes its batch, whatever came before it."""
    assert (1, 3) == checked_batch(torch.ones(1, 3), 1, 1).shape
    assert (5, 3) == checked_batch(torch.ones(5, 3), 1, 5).shape
    with pytest.raises(ValueError, match=r"^the model is made for a batch of 1 and mixes the"):
        checked_batch(torch.ones(1, 3), 1, 5)


def test_what_was_computed_ahead_is_no_state() -> None:
    """Constants of nodes, and what follows from them, stay out of the state_dict."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float[2] w = {1, 2}> { t = Constant<value = float {3}>() u = Exp(t) "
        "h = Mul(x, u) y = Add(h, w) }"
    )
    twin = onnxfit.to_torch(model)
    assert ["w"] == list(twin.state_dict())
    assert "exp" not in twin.source


def test_functions_of_the_model_are_inlined_with_their_attributes() -> None:
    """Calls differ in their attributes, share the body's weights, and may nest."""
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N,2] x) => (float[N,2] y, float[N,2] z) {
        a = local.Outer<slope = 0.5>(x)
        y = local.Inner(a)
        z = local.Inner<slope = 2.0>(x)
    }
    <domain: "local", opset_import: ["": 17, "local": 1]>
    Outer <slope> (X) => (Y) { Y = local.Inner<slope: float = @slope>(X) }
    <domain: "local", opset_import: ["": 17]>
    Inner <slope: float = 0.25> (X) => (Y)
    { w = Constant<value = float[2] {1, 3}>() p = Mul(X, w)
      Y = LeakyRelu<alpha: float = @slope>(p) }
    """
    twin = agrees(parse(text), np.array([[-1, 2], [3, -4]], np.float32))
    assert ["w"] == [name for name, _ in twin.named_parameters()]


def test_functions_that_call_themselves_are_refused() -> None:
    """A cycle is one sentence, not an endless descent."""
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N] x) => (float[N] y) { y = local.F(x) }
    <domain: "local", opset_import: ["": 17, "local": 1]> F (X) => (Y) { Y = local.F(X) }
    """
    with pytest.raises(ModelError, match=r"^the functions behind local::F 'Y' call each other"):
        onnxfit.to_torch(parse(text))


def test_what_nothing_reads_is_not_computed() -> None:
    """An unsupported node that no output depends on does not matter."""
    text = '<ir_version: 8, opset_import: ["": 17, "odd": 1]> g (float[N] x) => (float[N] y) '
    twin = onnxfit.to_torch(parse(text + "{ z = odd.Thing(x) y = Relu(x) }"))
    assert "Thing" not in twin.source
    assert 1 == twin.source.count("relu")


def test_an_unsupported_operator_is_named() -> None:
    """Node, operator, version and domain, in the message and as attributes."""
    text = '<ir_version: 8, opset_import: ["": 17, "odd": 3]> g (float[N] x) => (float[N] y) '
    model = parse(text + "{ y = odd.Thing(x) }")
    model.graph.node[0].name = "strange"
    with pytest.raises(UnsupportedOperator) as caught:
        onnxfit.to_torch(model)
    error = caught.value
    assert ("strange", "Thing", 3, "odd") == (
        error.node,
        error.op_type,
        error.opset,
        error.domain,
    )
    assert (
        "the twin cannot compute node 'strange', Thing of opset 3 in the domain 'odd': "
        "there is no converter for it"
    ) == str(error)
    assert str(error) == str(pickle.loads(pickle.dumps(error)))  # noqa: S301


def test_an_operator_that_changed_since_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that no converter was compared with may mean something else."""
    model = relu_model(17)
    monkeypatch.setitem(registry.NEWEST, "", 13)
    with pytest.raises(UnsupportedOperator, match=r"node '', Relu of opset 17 in the domain"):
        onnxfit.to_torch(model)
    monkeypatch.setitem(registry.NEWEST, "", 14)
    assert [0.0, 2.0] == onnxfit.to_torch(model)(torch.tensor([-1.0, 2.0])).tolist()


def test_wrong_inputs_are_one_sentence_that_names_the_node() -> None:
    """Too many inputs, or a shape that a node cannot take."""
    twin = onnxfit.to_torch(network())
    with pytest.raises(ValueError, match=r"^the model takes 1 inputs \(x\), 2 were given$"):
        twin(images(), images())
    with pytest.raises(ModelError, match=r"^Conv 'c' cannot be computed: "):
        twin(torch.ones(1, 5, 4, 4))


def test_weights_in_another_file(tmp_path: Path) -> None:
    """External data is found beside the path, or in base_dir, or missed in a sentence.

    Its file may have two names, as after a model was written into another folder.
    """
    model = network()
    expected = onnxfit.to_torch(model)(images())
    onnx.save(
        model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert torch.equal(expected, onnxfit.to_torch(tmp_path / "m.onnx")(images()))
    loaded = onnxfit.load(tmp_path / "m.onnx")
    assert torch.equal(expected, onnxfit.to_torch(loaded, base_dir=tmp_path)(images()))
    with pytest.raises(ModelError, match=r"base_dir"):
        onnxfit.to_torch(loaded)
    elsewhere = tmp_path / "other" / "m.onnx"
    elsewhere.parent.mkdir()
    onnxfit.save(loaded, elsewhere, base_dir=tmp_path)
    assert elsewhere.with_name("weights.bin").samefile(tmp_path / "weights.bin")
    for path in (elsewhere, tmp_path / "m.onnx"):
        assert torch.equal(expected, onnxfit.to_torch(path)(images()))
    elsewhere.with_name("weights.bin").unlink()
    with pytest.raises(ModelError, match=r"the external data weights\.bin is not in"):
        onnxfit.to_torch(loaded, base_dir=elsewhere.parent)


def test_several_outputs_are_a_tuple_and_defaults_are_no_inputs() -> None:
    """Outputs keep their order; an initializer that is also an input is no input of the twin."""
    text = """<ir_version: 3, opset_import: ["": 8]>
    g (float[N] x, float[1] w) => (float[N] y, float[N] x, float[1] w) <float[1] w = {3}>
    { y = Mul(x, w) }"""
    twin = onnxfit.to_torch(parse(text))
    assert ["x"] == twin.input_names
    y, x, w = twin(torch.ones(2))
    assert ([3.0, 3.0], [1.0, 1.0], [3.0]) == (y.tolist(), x.tolist(), w.tolist())


def test_control_flow_sees_the_values_around_it() -> None:
    """If, Loop and Scan in each other, with weights of their own, and gradients through them."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x, bool c) => (float[N] y) <int64 trips = {3}, float[1] w = {1.5}, bool yes = {1}> {
        y = If(c) <
            then_branch = t () => (float[N] a) {
                a = Loop(trips, yes, x) <body =
                    b (int64 i, bool k, float[N] s) => (bool k, float[N] u)
                    <float[1] v = {0.5}>
                    { m = Mul(s, w) n = Add(m, v) u = Add(n, x) }>
            },
            else_branch = e () => (float[N] d) { d = Mul(x, x) }>
    }"""
    x = np.array([1.0, -2.0], np.float32)
    for condition in (True, False):
        twin = agrees(parse(text), x, np.array(condition))
    assert {"w", "v"} == {name for name, _ in twin.named_parameters()}
    given = torch.tensor(x, requires_grad=True)
    twin(given, torch.tensor(True)).sum().backward()
    assert [1.5**3 + 1.5**2 + 1.5 + 1] * 2 == given.grad.tolist()
    assert twin.get_parameter("v").grad.tolist() == [2 * (1.5**2 + 1.5 + 1)]


def test_digits_twin_agrees_on_real_data() -> None:
    """The shipped network and its hardened form, on the shipped test set."""
    data = np.load(MODELS / "digits_test.npz")
    x = data["x"].astype(np.float32) / 255 if data["x"].dtype == np.uint8 else data["x"]
    model = onnxfit.load(MODELS / "digits_cnn.onnx")
    for tested in (model, onnxfit.retrofit(model, 0.5)):
        (expected,) = onnxfit.session(tested).run(None, {tested.graph.input[0].name: x})
        found = onnxfit.to_torch(tested)(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(expected, found, rtol=1e-3, atol=1e-3)
        assert 0.97 < np.mean(found.argmax(1) == data["y"])
