"""Normalization and Dropout of the twin, over the versions of their operators."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model, parse, twin_outputs  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

BATCH = "x scale bias mean var"
FLOAT16, FLOAT, BOOL, INT32 = 10, 1, 9, 6


def normal(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    """Draw numbers, the same for a shape."""
    return np.random.default_rng(list(shape)).normal(size=shape).astype(dtype)


def typed(model: onnx.ModelProto, *types: int) -> onnx.ModelProto:
    """Say of what types the outputs of a model are."""
    for value, element_type in zip(model.graph.output, types, strict=True):
        value.type.tensor_type.elem_type = element_type
    return model


def differentiates(twin: Any, *arrays: NDArray[Any]) -> None:
    """Compare the gradients of all inputs with central differences."""
    inputs = [torch.from_numpy(a).double().requires_grad_() for a in arrays]
    assert torch.autograd.gradcheck(twin.double(), inputs, fast_mode=True, atol=1e-4)


def statistics(*shape: int, dtype: Any = np.float32) -> list[NDArray[Any]]:
    """Draw scale, bias, mean and variance."""
    found = [normal(index + 2, *shape)[0].astype(dtype) for index in range(4)]
    return [*found[:3], abs(found[3]) + 0.1]


def batch_model(
    x: NDArray[Any], given: list[NDArray[Any]], opset: int, outputs: str = "y", attributes: str = ""
) -> onnx.ModelProto:
    """Write a model of one BatchNormalization whose parameters are initializers."""
    names = BATCH.split()
    arrays = dict(zip(names, [x, *given], strict=True))
    model = node_model("BatchNormalization", opset, arrays, BATCH, outputs, attributes)
    for name, array in zip(names[1:], given, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    del model.graph.input[1:]
    return model


@pytest.mark.parametrize("opset", [7, 8, 9, 14, 15])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3), (4, 3, 5), (2, 3, 2, 2, 2), (7,)])
def test_batch_normalization_at_inference(opset: int, shape: tuple[int, ...]) -> None:
    """Fixed statistics are buffers, scale and bias parameters."""
    if len(shape) == 1 and opset < 9:
        pytest.skip("a single axis came with version 9")
    given = statistics(shape[1] if len(shape) > 1 else 1)
    model = batch_model(normal(*shape), given, opset, attributes="epsilon = 0.01")
    twin = agrees(model, normal(*shape))
    assert ["bias", "scale"] == sorted(name for name, _ in twin.named_parameters())
    differentiates(twin, normal(*shape))


def test_batch_normalization_by_computed_statistics_differentiates_them() -> None:
    """PyTorch's function knows no gradient of mean and variance."""
    arrays = [normal(4, 3, 5, 6), *statistics(3)]
    model = node_model(
        "BatchNormalization", 15, dict(zip(BATCH.split(), arrays, strict=True)), BATCH
    )
    differentiates(agrees(model, *arrays), *arrays)


def test_batch_normalization_of_each_activation() -> None:
    """Version 7 has statistics for every element of a sample."""
    x, given = normal(4, 3, 5, 6), statistics(3, 5, 6)
    twin = agrees(batch_model(x, given, 7, attributes="spatial = 0"), x)
    differentiates(twin, x)
    with pytest.raises(UnsupportedOperator) as caught:
        to_torch(batch_model(x, given, 7, "y a b c d", "spatial = 0"))
    assert "it is in training mode with spatial = 0" == caught.value.reason


@pytest.mark.parametrize(
    ("x", "scale", "mean"),
    [("float16", "float32", "float32"), ("float32", "float16", "float16")],
)
def test_batch_normalization_of_several_types(x: str, scale: str, mean: str) -> None:
    """The result has the type of the input."""
    found = statistics(3)
    given = [a.astype(scale) for a in found[:2]] + [a.astype(mean) for a in found[2:]]
    model = batch_model(normal(4, 3, 5), given, 15)
    element_type = FLOAT16 if x == "float16" else FLOAT
    model.graph.input[0].type.tensor_type.elem_type = element_type
    agrees(typed(model, element_type), normal(4, 3, 5).astype(x), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("opset", [14, 15])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3), (7,)])
def test_batch_normalization_in_training_mode(opset: int, shape: tuple[int, ...]) -> None:
    """The statistics are the batch's, and the running ones move towards them."""
    attributes = "training_mode = 1, momentum = 0.7"
    given = statistics(shape[1] if len(shape) > 1 else 1)
    twin = agrees(batch_model(normal(*shape), given, opset, "y m v", attributes), normal(*shape))
    differentiates(twin, normal(*shape))


def test_several_outputs_mean_training_before_version_14() -> None:
    """Those that the specification explains are computed, the other is refused when read."""
    x, given = normal(4, 3, 5, 6), statistics(3)
    model = batch_model(x, given, 9, "y m v saved_m saved_v")
    with pytest.raises(ModelError, match="does not say what its output saved_var holds"):
        to_torch(model)(torch.from_numpy(x))
    del model.graph.output[4]
    agrees(model, x)
    nameless = batch_model(x, given, 9, 'y "" "" "" ""')
    found = to_torch(nameless)(torch.from_numpy(x))
    assert torch.equal(to_torch(batch_model(x, given, 9))(torch.from_numpy(x)), found)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (2, 3, 1, 1)])
def test_instance_normalization(shape: tuple[int, ...]) -> None:
    """Each channel of each sample, a single element too."""
    given = {"x": normal(*shape), "scale": normal(3), "bias": normal(3) + 1}
    model = node_model(
        "InstanceNormalization", 7, given, "x scale bias", attributes="epsilon = 0.02"
    )
    differentiates(agrees(model, *given.values()), *given.values())


@pytest.mark.parametrize("axis", [-1, 1, 2, -2, 0])
@pytest.mark.parametrize("scale", [(4,), (1,), (3, 4), (3, 1), (2, 3, 4), (2, 1, 1)])
@pytest.mark.parametrize("opset", [12, 17])
def test_layer_normalization_broadcasts_scale_and_bias(
    axis: int, scale: tuple[int, ...], opset: int
) -> None:
    """They need not have the shape that is normalized; ONNX Runtime has it before version 17."""
    given = {"x": normal(2, 3, 4), "scale": normal(*scale), "bias": normal(*scale) + 1}
    attributes = f"axis = {axis}, epsilon = 0.03"
    model = node_model("LayerNormalization", opset, given, "x scale bias", "y", attributes)
    differentiates(agrees(model, *given.values()), *given.values())
    del given["bias"]
    model = node_model("LayerNormalization", opset, given, "x scale", "y m v", attributes)
    differentiates(agrees(model, *given.values()), *given.values())


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_the_result_of_layer_normalization_has_the_type_of_the_scale(op: str) -> None:
    """ONNX Runtime's own version allows two types."""
    for types in (("float16", "float32"), ("float32", "float16")):
        given = {"x": normal(2, 3, 4).astype(types[0]), "scale": normal(4).astype(types[1])}
        model = typed(node_model(op, 12, given, "x scale"), FLOAT if types[0] == "float16" else 10)
        agrees(model, *given.values(), rtol=2e-3, atol=2e-3)


def test_statistics_of_layer_normalization_follow_the_twin() -> None:
    """They are of float32 in the file, and of float16 where all of the twin is."""
    given = {"x": normal(2, 3, 4), "scale": normal(4)}
    twin = to_torch(node_model("LayerNormalization", 17, given, "x scale", "y mean inverse"))
    arrays = [torch.from_numpy(a).half() for a in given.values()]
    assert [torch.float16] * 3 == [t.dtype for t in twin.half()(*arrays)]


def test_a_narrower_stash_type_is_refused() -> None:
    """The operator would have to compute in bfloat16."""
    given = {"x": normal(2, 3), "scale": normal(3)}
    with pytest.raises(UnsupportedOperator) as caught:
        to_torch(node_model("LayerNormalization", 17, given, "x scale", "y", "stash_type = 16"))
    assert "its stash_type is BFLOAT16" == caught.value.reason


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (2, 6, 3), (1, 6)])
def test_group_normalization(opset: int, shape: tuple[int, ...]) -> None:
    """Scale and bias are a group's in version 18 and a channel's from 21 on."""
    size = 3 if opset == 18 else 6
    x, scale, bias = normal(*shape), normal(size), normal(size) + 1
    given = {"x": x, "scale": scale, "bias": bias}
    model = node_model(
        "GroupNormalization", opset, given, "x scale bias", attributes="num_groups = 3"
    )
    rows = x.reshape(shape[0], 3, -1)
    rows = (rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + 1e-5)
    if opset == 18:
        expected = (rows * scale[:, None] + bias[:, None]).reshape(shape)
    else:
        rows = rows.reshape(shape[0], 6, -1)
        expected = (rows * scale[:, None] + bias[:, None]).reshape(shape)
    twin = to_torch(model)
    np.testing.assert_allclose(
        twin_outputs(twin, model, *given.values())[0], expected, rtol=1e-4, atol=1e-5
    )
    differentiates(twin, *given.values())


@pytest.mark.parametrize("axis", [-1, 1, -2])
@pytest.mark.parametrize("scale", [(4,), (1,), (3, 4), (2, 1, 1)])
def test_rms_normalization(axis: int, scale: tuple[int, ...]) -> None:
    """ONNX Runtime's SimplifiedLayerNormalization and RMSNormalization, scales that broadcast."""
    given = {"x": normal(2, 3, 4), "scale": normal(*scale)}
    attributes = f"axis = {axis}, epsilon = 0.04"
    model = node_model("RMSNormalization", 23, given, "x scale", "y", attributes)
    differentiates(agrees(model, *given.values()), *given.values())
    if scale in ((4,), (3, 4)):
        simplified = "SimplifiedLayerNormalization"
        model = node_model(simplified, 17, given, "x scale", "y v", attributes)
        differentiates(agrees(model, *given.values()), *given.values())


@pytest.mark.parametrize("size", [1, 3, 5, 11])
@pytest.mark.parametrize("opset", [7, 13])
def test_lrn(size: int, opset: int) -> None:
    """The window may be wider than there are channels."""
    x = normal(2, 6, 3, 4)
    attributes = f"size = {size}, alpha = 0.5, beta = 0.6, bias = 2.0"
    differentiates(agrees(node_model("LRN", opset, {"x": x}, "x", "y", attributes), x), x)


@pytest.mark.parametrize("size", [2, 4])
def test_lrn_of_an_even_window_reaches_one_further_up(size: int) -> None:
    """Which ONNX Runtime does not compute."""
    x = normal(1, 6, 2)
    twin = to_torch(node_model("LRN", 13, {"x": x}, "x", "y", f"size = {size}, alpha = 0.5"))
    first, last = (size - 1) // 2, size // 2
    squares = [(x[:, max(0, c - first) : c + last + 1] ** 2).sum(1) for c in range(6)]
    expected = x / (1 + 0.5 / size * np.stack(squares, 1)) ** 0.75
    np.testing.assert_allclose(twin(torch.from_numpy(x)).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_lp_normalization_leaves_zeros(p: int, axis: int) -> None:
    """A norm of 0 divides nothing."""
    x = normal(3, 4)
    x[1], x[:, 2] = 0, 0
    attributes = f"p = {p}, axis = {axis}"
    twin = agrees(node_model("LpNormalization", 7, {"x": x}, "x", "y", attributes), x)
    x = normal(3, 4)
    differentiates(twin, x)


@pytest.mark.parametrize("axes", ["", "axes = [0, 2, 3]", "axes = [2, 3]", "axes = [0, -1]"])
@pytest.mark.parametrize("opset", [9, 13])
def test_mean_variance_normalization(axes: str, opset: int) -> None:
    """Over the batch or within a sample, where the mean is large too."""
    x = normal(2, 3, 4, 5) + 10
    model = node_model("MeanVarianceNormalization", opset, {"x": x}, "x", attributes=axes)
    if axes != "axes = [0, -1]":
        differentiates(agrees(model, x, rtol=1e-3), x)
    double = to_torch(model).double()(torch.from_numpy(x).double()).numpy()
    over = tuple(int(n) for n in axes[8:-1].split(", ")) if axes else (0, 2, 3)
    wide = x.astype(float)
    expected = (wide - wide.mean(over, keepdims=True)) / wide.std(over, keepdims=True)
    np.testing.assert_allclose(double, expected, rtol=1e-6)


@pytest.mark.parametrize("skip", [(2, 3, 4), (1, 3, 4), (3, 4)])
@pytest.mark.parametrize("present", ["beta bias", "beta", "bias", ""])
def test_skip_layer_normalization(skip: tuple[int, ...], present: str) -> None:
    """All outputs, with and without beta and bias."""
    given = {"x": normal(2, 3, 4), "skip": normal(*skip) + 1, "gamma": normal(4)}
    given |= {name: normal(4) + index for index, name in enumerate(present.split())}
    model = node_model(
        "com.microsoft.SkipLayerNormalization", 17, given, "x skip gamma beta bias", "y m v s"
    )
    differentiates(agrees(model, *given.values()), *given.values())


@pytest.mark.parametrize("present", ["bias", ""])
def test_skip_simplified_layer_normalization(present: str) -> None:
    """Result and sum; the mean, which nothing defines, is refused when read."""
    given = {"x": normal(2, 3, 4), "skip": normal(2, 3, 4) + 1, "gamma": normal(4)}
    given |= {name: normal(4) for name in present.split()}
    op, slots = "com.microsoft.SkipSimplifiedLayerNormalization", "x skip gamma bias"
    model = node_model(op, 17, given, slots, 'y "" "" s')
    differentiates(agrees(model, *given.values()), *given.values())
    with pytest.raises(ModelError, match="does not say what its output mean holds"):
        to_torch(node_model(op, 17, given, slots, "y m"))(
            *(torch.from_numpy(a) for a in given.values())
        )


def test_the_default_epsilon_of_skip_layer_normalization_is_small() -> None:
    """It is 1e-12, not the 1e-5 of LayerNormalization."""
    given = {"x": normal(2, 3, 4) * 1e-6, "skip": normal(2, 3, 4) * 1e-6, "gamma": normal(4)}
    op = "com.microsoft.SkipLayerNormalization"
    agrees(node_model(op, 17, given, "x skip gamma"), *given.values())


@pytest.mark.parametrize("present", ["", "segments kinds", "segments kinds mask places"])
def test_embed_layer_normalization(present: str) -> None:
    """Words, positions and segments, the lengths that a mask says and the sum."""
    given = {
        "ids": np.array([[1, 2, 0], [3, 1, 0]], np.int32),
        "segments": np.array([[0, 1, 0], [1, 1, 0]], np.int32),
        "words": normal(5, 4),
        "positions": normal(6, 4),
        "kinds": normal(2, 4),
        "gamma": normal(4),
        "beta": normal(4) + 1,
        "mask": np.array([[1, 1, 0], [2, 0, 1]], np.int32),
        "places": np.array([[2, 0, 1], [1, 1, 5]], np.int32),
    }
    slots = " ".join(given)
    optional = {"segments", "kinds", "mask", "places"} - set(present.split())
    given = {name: array for name, array in given.items() if name not in optional}
    op = "com.microsoft.EmbedLayerNormalization"
    model = typed(node_model(op, 17, given, slots, "y length sum"), FLOAT, INT32, FLOAT)
    for value, array in zip(model.graph.input, given.values(), strict=True):
        for dimension, size in zip(value.type.tensor_type.shape.dim, array.shape, strict=True):
            dimension.dim_value = size
    agrees(model, *given.values())


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
def test_dropout_passes_its_input_through(opset: int) -> None:
    """At inference, whatever the ratio."""
    x = normal(2, 3)
    attributes = "ratio = 0.9" if opset < 12 else ""
    model = node_model("Dropout", opset, {"x": x}, "x", "y", attributes)
    y = to_torch(model)(torch.from_numpy(x))
    assert torch.equal(torch.from_numpy(x), y)
    if opset < 22:
        agrees(model, x)


def test_the_mask_of_dropout_at_inference() -> None:
    """Nothing is dropped; before version 12 the specification does not say what the mask is."""
    x = normal(2, 3)
    agrees(typed(node_model("Dropout", 13, {"x": x}, "x", "y mask"), FLOAT, BOOL), x)
    model = node_model("Dropout", 7, {"x": x}, "x", "y mask")
    with pytest.raises(ModelError, match="does not say what its output mask holds"):
        to_torch(model)(torch.from_numpy(x))
    del model.graph.output[1]
    agrees(model, x)


def dropout_model(ratio: str, training: str, outputs: str) -> onnx.ModelProto:
    """Write a Dropout whose ratio and mode are known, or inputs where they are empty."""
    inputs = "".join(
        f", {kind} {name}"
        for kind, name, known in (("float", "ratio", ratio), ("bool", "training", training))
        if not known
    )
    weights = ", ".join(
        f"{kind} {name} = {{{known}}}"
        for kind, name, known in (("float", "ratio", ratio), ("bool", "training", training))
        if known
    )
    return parse(
        f'<ir_version: 8, opset_import: ["": 13]> g (float[N] x{inputs}) => ({outputs})'
        f"<{weights}> {{ {', '.join(o.split()[1] for o in outputs.split(', '))} = "
        "Dropout (x, ratio, training) }"
    )


@pytest.mark.parametrize("outputs", ["float y", "float y, bool mask"])
@pytest.mark.parametrize("ratio", ["0.25", ""])
@pytest.mark.parametrize("training", ["1", ""])
def test_dropout_in_training_drops_and_scales(outputs: str, ratio: str, training: str) -> None:
    """A quarter becomes 0, the rest grows by 4/3, the mask tells which, gradients follow it."""
    twin = to_torch(dropout_model(ratio, training, outputs))
    x = torch.rand(4000, requires_grad=True)
    given = [x] + [torch.tensor(0.25)] * (not ratio) + [torch.tensor(True)] * (not training)
    torch.manual_seed(0)
    found = twin(*given)
    y, mask = found if isinstance(found, tuple) else (found, found != 0)
    torch.testing.assert_close(y, torch.where(mask, x * 4 / 3, 0.0))
    assert 0.22 < (~mask).float().mean().item() < 0.28
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], mask * 4 / 3)
    again = twin(*given)
    assert not torch.equal(y, again[0] if isinstance(again, tuple) else again)
    if not training:
        given[-1] = torch.tensor(False)
        passed = twin(*given)
        assert torch.equal(x, passed[0] if isinstance(passed, tuple) else passed)


def test_a_ratio_of_zero_drops_nothing_in_training() -> None:
    """ONNX Runtime agrees, which draws its own numbers otherwise."""
    agrees(dropout_model("0.0", "1", "float y, bool mask"), normal(50))


def test_normalization_differentiates_in_all_ways() -> None:
    """Forward mode, backward mode and both under vmap agree through each operator."""
    text = """
    <ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[N,4,6] x) => (float[N,4,6] y) <
        float[4] one = {1, 2, 3, 4}, float[4] two = {-1, 0, 1, 2}, float[4] v = {1, 2, 1, 3},
        float[6] scale = {1, 2, 3, 4, 5, 6}, float[2] mean = {0, 1}>
    {
        a = BatchNormalization (x, one, two, two, v)
        b = InstanceNormalization (a, one, two)
        c = LayerNormalization (b, scale)
        d = SimplifiedLayerNormalization (c, scale)
        e = LRN <size = 3> (d)
        f = LpNormalization (e)
        h = MeanVarianceNormalization <axes = [1, 2]> (f)
        y = com.microsoft.SkipLayerNormalization (h, x, scale)
    }
    """
    twin = to_torch(parse(text)).double().requires_grad_(False)

    def one(sample: Any) -> Any:
        return twin(sample[None])[0]

    samples = torch.from_numpy(normal(3, 4, 6)).double()
    backward = torch.func.vmap(torch.func.jacrev(one))(samples)
    forward = torch.func.vmap(torch.func.jacfwd(one))(samples)
    torch.testing.assert_close(forward, backward)
