"""Trained parameters back into the file: what changed, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from independent import differences
from onnx import TensorProto
from support import MODELS, parse

torch = pytest.importorskip("torch")

import onnxfit  # noqa: E402
from onnxfit.errors import ModelError  # noqa: E402

MODEL = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N,2] x, bool c) => (float[N,2] y)
<float[2,2] W = {1, 2, 3, 4}, float16[2] h = {1, 2}, int64[1] n = {5}> {
    m = MatMul(x, W)
    f = Cast<to = 1>(h)
    a = Mul(m, f)
    k = Constant<value = float[2] {0.5, 0.25}>()
    b = Add(a, k)
    i = If(c) <
        then_branch = t () => (float[N,2] p) <float[2] V = {1, 1}> { p = Mul(b, V) },
        else_branch = e () => (float[N,2] q) { q = Neg(b) }>
    y = local.Shift(i)
}
<domain: "local", opset_import: ["": 17]>
Shift (X) => (Y) { s = Constant<value = float[2] {7, 8}>() Y = Add(X, s) }
"""


def tensors(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the arrays of the model above by name."""
    graph = model.graph
    found = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    found["k"] = onnx.numpy_helper.to_array(graph.node[3].attribute[0].t)
    then = next(a.g for a in graph.node[5].attribute if a.name == "then_branch")
    found["V"] = onnx.numpy_helper.to_array(then.initializer[0])
    found["s"] = onnx.numpy_helper.to_array(model.functions[0].node[0].attribute[0].t)
    return found


def test_every_place_that_holds_a_weight_is_written() -> None:
    """Initializers, those of subgraphs, and Constant nodes, in functions too; types stay."""
    model = parse(MODEL)
    twin = onnxfit.to_torch(model)
    assert {"W", "h", "k", "V", "s"} == {name for name, _ in twin.named_parameters()}
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    changed = onnxfit.write_back(model, twin)
    before, after = tensors(model), tensors(changed)
    for name in ("W", "h", "k", "V", "s"):
        assert before[name].dtype == after[name].dtype
        np.testing.assert_array_equal(2 * before[name], after[name])
    assert 5 == after["n"]
    x = np.array([[1.0, -2.0]], np.float32)
    (expected,) = onnxfit.session(changed).run(None, {"x": x, "c": np.array(True)})
    found = twin(torch.from_numpy(x), torch.tensor(True)).detach().numpy()
    np.testing.assert_allclose(expected, found, rtol=1e-6)


def test_an_untouched_twin_gives_the_same_bytes() -> None:
    """Tensors keep their encoding, whatever type and device the twin was moved to."""
    for model in (parse(MODEL), onnxfit.load(MODELS / "digits_cnn.onnx")):
        for move in ("float", "half", "double", "bfloat16"):
            twin = getattr(onnxfit.to_torch(model), move)()
            changed = onnxfit.write_back(model, twin)
            assert model.SerializeToString() == changed.SerializeToString()


def test_one_changed_tensor_leaves_the_others_alone() -> None:
    """Only the tensor that was trained differs, and the argument is not touched."""
    model = onnxfit.load(MODELS / "digits_cnn.onnx")
    source = model.SerializeToString()
    twin = onnxfit.to_torch(model)
    name = next(iter(dict(twin.named_parameters())))
    with torch.no_grad():
        twin.get_parameter(name).add_(0.01)
    changed = onnxfit.write_back(model, twin)
    assert source == model.SerializeToString()
    found = differences(model, changed)
    assert 1 == len(found)
    assert twin.weight_names[name][1] in found[0] or "initializer" in found[0]


def test_a_folded_batchnorm_stays_folded() -> None:
    """The nodes of a file whose BatchNorm went into the convolution stay what they are."""
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).eval()
    from twin_networks import to_onnx

    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(module[0], module[1])
    model = to_onnx(torch.nn.Sequential(folded), torch.zeros(1, 1, 4, 4))
    twin = onnxfit.to_torch(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    x = torch.randn(8, 1, 4, 4)
    before = twin(x).square().mean()
    before.backward()
    optimizer.step()
    changed = onnxfit.write_back(model, twin)
    assert [n.op_type for n in model.graph.node] == [n.op_type for n in changed.graph.node]
    (found,) = onnxfit.session(changed).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(twin(x).detach().numpy(), found, rtol=1e-5, atol=1e-6)
    assert np.square(found).mean() < before.item()


def test_hardened_models_keep_their_jumps() -> None:
    """What was trained goes back into the hardened file, and restore still undoes the jumps."""
    source = onnxfit.load(MODELS / "digits_cnn.onnx")
    model = onnxfit.retrofit(source, 0.5)
    twin = onnxfit.to_torch(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.01)
    changed = onnxfit.write_back(model, twin)
    assert onnxfit.find_sites(model) == onnxfit.find_sites(changed)
    plain = onnxfit.restore(changed)
    assert [n.op_type for n in source.graph.node] == [n.op_type for n in plain.graph.node]


def test_external_data_is_left_or_taken_in(tmp_path: Path) -> None:
    """Unchanged tensors still point to their file; a changed one moves into the model."""
    model = parse(MODEL)
    for tensor in model.graph.initializer:  # Only raw bytes can go to another file.
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(
        model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
        convert_attribute=False,
    )
    twin = onnxfit.to_torch(tmp_path / "m.onnx")
    with torch.no_grad():
        twin.get_parameter("W").add_(1)
    changed = onnxfit.write_back(tmp_path / "m.onnx", twin)
    places = {t.name: t.data_location for t in changed.graph.initializer}
    assert (TensorProto.DEFAULT, TensorProto.EXTERNAL) == (places["W"], places["h"])
    onnxfit.save(changed, tmp_path / "new.onnx", base_dir=tmp_path)
    x = np.array([[1.0, -2.0]], np.float32)
    feed = {"x": x, "c": np.array(True)}
    (expected,) = onnxfit.session(tmp_path / "new.onnx").run(None, feed)
    found = twin(torch.from_numpy(x), torch.tensor(True)).detach().numpy()
    np.testing.assert_allclose(expected, found, rtol=1e-6)


def test_another_model_or_broken_weights_are_refused() -> None:
    """A sentence each, and nothing is returned."""
    model = parse(MODEL)
    twin = onnxfit.to_torch(model)
    other = parse(MODEL.replace("W", "U"))
    with pytest.raises(ModelError, match=r"^the tensor 'W', a weight of the twin, is not in the"):
        onnxfit.write_back(other, twin)
    wider = parse(MODEL.replace("float[2,2] W = {1, 2, 3, 4}", "float[2,1] W = {1, 2}"))
    with pytest.raises(ModelError, match=r"^the tensor 'W' has the shape \(2, 1\), in the twin"):
        onnxfit.write_back(wider, twin)
    with torch.no_grad():
        twin.get_parameter("W")[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"^the tensor 'W' is not finite in the twin, in 1 elem"):
        onnxfit.write_back(model, twin)


def sparse_model() -> onnx.ModelProto:
    """Return a model with a sparse initializer and a Constant that is a list of floats."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,3] y) '
        "{ k = Constant<value_floats = [0.5, -0.25, 0.1]>() "
        "one = Constant<value_float = 2.0>() a = Mul(x, k) b = Mul(a, one) y = Add(b, S) }"
    )
    sparse = model.graph.sparse_initializer.add(dims=[3])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.array([7, 8], np.float32), "S"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 2], np.int64), "S_indices"))
    return model


def test_a_list_of_floats_is_written() -> None:
    """A Constant's value_floats stays where it is, byte for byte where it did not change."""
    model = sparse_model()
    twin = onnxfit.to_torch(model)
    assert model.SerializeToString() == onnxfit.write_back(model, twin).SerializeToString()
    with torch.no_grad():
        twin.get_parameter("k").mul_(2)
    changed = onnxfit.write_back(model, twin)
    expected = np.array([1.0, -0.5, 0.2], np.float32).tolist()
    assert expected == list(changed.graph.node[0].attribute[0].floats)
    x = torch.ones(1, 3)
    (y,) = onnxfit.session(changed).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(twin(x).detach().numpy(), y, rtol=1e-6)


def test_a_sparse_tensor_that_changed_is_refused() -> None:
    """There is no place for values where the file has none."""
    model = sparse_model()
    twin = onnxfit.to_torch(model)
    assert ("", "S") == twin.weight_names["S"]
    with torch.no_grad():
        twin.get_parameter("S")[1] = 1.0
    with pytest.raises(ModelError, match=r"^the tensor 'S' is sparse and cannot be written back$"):
        onnxfit.write_back(model, twin)


def test_zeros_of_another_sign_and_nan_are_changes() -> None:
    """Bit for bit the twin's numbers, but for what kind of NaN one is."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,3] y) '
        "{ y = Add(x, w) }"
    )
    weights = np.array([np.nan, 0.0, 1.0], np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    twin = onnxfit.to_torch(model)
    assert model.SerializeToString() == onnxfit.write_back(model, twin).SerializeToString()
    with torch.no_grad():
        twin.get_parameter("w").copy_(torch.tensor([0.0, -0.0, 1.0]))
    found = onnx.numpy_helper.to_array(onnxfit.write_back(model, twin).graph.initializer[0])
    assert np.array([0.0, -0.0, 1.0], np.float32).tobytes() == found.tobytes()


def test_compiled_and_parametrized_twins() -> None:
    """What is written is the weight that the twin computes with."""
    model = parse(MODEL)
    twin = onnxfit.to_torch(model)
    with torch.no_grad():
        twin.get_parameter("W").mul_(3)
    compiled = onnxfit.write_back(model, torch.compile(twin, backend="eager"))
    np.testing.assert_array_equal([[3, 6], [9, 12]], tensors(compiled)["W"])

    class Double(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any) -> Any:
            return 2 * x

    torch.nn.utils.parametrize.register_parametrization(twin, "W", Double())
    np.testing.assert_array_equal(
        [[6, 12], [18, 24]], tensors(onnxfit.write_back(model, twin))["W"]
    )


def test_what_is_no_twin_is_refused() -> None:
    """A network of another kind has no names in the file."""
    with pytest.raises(TypeError, match=r"^write_back takes what to_torch returned, got Linear$"):
        onnxfit.write_back(parse(MODEL), torch.nn.Linear(2, 2))
