"""Which tensors of a file a fine-tuning moves, by what reads them."""

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.finetuning.finetuner import finetune  # noqa: E402
from onnxfit.finetuning.roles import roles_of  # noqa: E402
from onnxfit.finetuning.weights import choose_weights  # noqa: E402
from onnxfit.twin.write_back import tensors_of  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

HEAD = '<ir_version: 8, opset_import: ["" : 17{domains}]>\n'
# A LayerNorm as exporters write it out, of a layer's 8 values.
NORM = """
    h = Gemm<transB = 1>(x, w1, b1)
    m = ReduceMean<axes = [{axis}]>(h)
    d = Sub(h, m)
    p = Pow(d, two)
    v = ReduceMean<axes = [{axis}]>(p)
    e = Add(v, epsilon)
    s = Sqrt(e)
    n = Div(d, s)
    g = Mul(n, gamma)
    k = Add(g, beta)
    a = Relu(k)
    logits = Gemm<transB = 1>(a, w2, b2)
"""
QUICK: dict[str, Any] = {
    "eps": 0.05,
    "epochs": 2,
    "batch_size": 25,
    "learning_rate": 0.02,
    "max_drop": 1.0,
    "steps": 2,
}
LAYERS = {"w1": (8, 6), "b1": (8,), "w2": (3, 8), "b2": (3,)}


def model_of(
    body: str,
    tensors: dict[str, Any],
    *,
    image: str = "float[N, 6] x",
    functions: str = "",
    domains: str = "",
) -> onnx.ModelProto:
    """Make a model; a shape in ``tensors`` stands for random numbers of it."""
    text = HEAD.replace("{domains}", domains)
    text += f"network ({image}) => (float[N, 3] logits) {{ {body} }}\n{functions}"
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, value in tensors.items():
        array = random.normal(0, 0.5, value) if isinstance(value, tuple) else value
        tensor = onnx.numpy_helper.from_array(np.asarray(array, np.float32), name)
        model.graph.initializer.append(tensor)
    onnx.checker.check_model(model, full_check=True)
    return model


def samples(n: int, seed: int, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], Any]:
    """Draw samples of three classes, of random values."""
    x = np.random.default_rng(seed).random((n, *shape)).astype(np.float32)
    return x, np.arange(n) % 3


def tuned(model: onnx.ModelProto, shape: tuple[int, ...] = (6,), **settings: Any) -> Any:
    """Fine-tune quickly, on random samples."""
    return finetune(model, samples(75, 0, shape), samples(75, 1, shape), **{**QUICK, **settings})


def values(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return the initializers by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def moved(model: onnx.ModelProto, shape: tuple[int, ...] = (6,), **settings: Any) -> set[str]:
    """Fine-tune; return the names of the tensors whose values changed."""
    found = tuned(model, shape, **settings)
    assert found.model is not None
    before, after = tensors_of(model), tensors_of(found.model)
    return {name for (scope, name) in before if before[scope, name] != after[scope, name]}


def untrained(model: onnx.ModelProto) -> list[str]:
    """Return the names of what layers read as weights and no training moves."""
    return choose_weights(Target(model), statistics=False).untrained


def with_stored(
    body: str, stored: dict[str, NDArray[Any]], tensors: dict[str, Any]
) -> onnx.ModelProto:
    """Make a model that has tensors of other types as well."""
    model = model_of(body, {**tensors, **stored})
    for tensor in model.graph.initializer:
        if tensor.name in stored:
            tensor.CopyFrom(onnx.numpy_helper.from_array(stored[tensor.name], tensor.name))
    return model


@pytest.mark.parametrize("axis", [1, -1])
def test_numbers_of_a_norm_stay_whatever_their_shape(axis: int) -> None:
    """With exponent and epsilon of one element the weights come out as with bare numbers."""
    written = []
    for shape in ((), (1,)):
        numbers = {"two": np.full(shape, 2.0), "epsilon": np.full(shape, 1e-5)}
        norm = {"gamma": np.ones(8), "beta": np.zeros(8)}
        model = model_of(NORM.replace("{axis}", str(axis)), {**LAYERS, **norm, **numbers})
        found = tuned(model).model
        assert found is not None
        before, after = values(model), values(found)
        assert {*LAYERS, *norm} == {n for n in before if (before[n] != after[n]).any()}
        written.append({name: after[name].tobytes() for name in after})
    assert written[0] == written[1]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 1, 1)])
def test_what_is_done_to_pixels_stays(shape: tuple[int, ...]) -> None:
    """Mean and scale before the first layer; the scale and shift of the same shape behind it do."""
    body = """
        c = Sub(x, mean)
        z = Mul(c, scale)
        h = Conv(z, w1)
        n = Mul(h, gamma)
        k = Add(n, beta)
        a = Relu(k)
        f = Flatten(a)
        logits = Gemm<transB = 1>(f, w2, b2)
    """
    pixels = {"mean": np.full(shape, 0.5), "scale": np.full(shape, 1 / 0.25)}
    behind = {"w1": (3, 3, 3, 3), "gamma": np.ones((1, 3, 1, 1)), "beta": (1, 3, 1, 1)}
    tensors = {**pixels, **behind, "w2": (3, 12), "b2": (3,)}
    model = model_of(body, tensors, image="float[N, 3, 4, 4] x")
    assert {*tensors} - {*pixels} == moved(model, (3, 4, 4))
    assert ["mean", "scale"] == sorted(tuned(model, (3, 4, 4)).document["fixed"])


def test_weights_are_found_through_what_moves_or_computes_them() -> None:
    """Reshaped, turned, cast, looked up, joined, or normalised by themselves."""
    body = """
        one = Constant<value = float[1] {1.0}>()
        axes = Constant<value = int64[2] {0, 1}>()
        shape = Constant<value = int64[2] {6, 8}>()
        flat = Reshape(w1, shape)
        turned = Transpose(b1)
        row = Squeeze(turned, axes)
        same = Identity(row)
        h = Gemm(x, flat, same)
        a = Relu(h)
        size = ReduceL2<axes = [1]>(direction)
        unit = Div(direction, size)
        long = Mul(unit, length)
        sum = Add(long, tiny)
        g = MatMul(a, sum)
        b = Concat<axis = 0>(left, right)
        k = Add(g, b)
        logits = Mul(k, one)
    """
    weights = {
        "w1": (48,),
        "b1": (8, 1, 1),
        "direction": (8, 3),
        "length": (1, 3),
        "left": (1,),
        "right": (2,),
    }
    assert {*weights} == moved(model_of(body, {**weights, "tiny": np.full(1, 1e-6)}))


def test_a_reader_that_makes_a_constant_decides() -> None:
    """A bias that is a limit, or shifts the samples as well, stays; its shape may be read."""
    body = """
        zero = Constant<value_int = 0>()
        s = Sub(x, shift)
        h = Gemm<transB = 1>(s, w1, shift)
        a = Relu(h)
        k = Add(a, limit)
        c = Max(k, limit)
        size = Shape(w1)
        many = Gather(size, zero)
        float = Cast<to = 1>(many)
        d = Div(c, float)
        logits = Gemm<transB = 1>(d, w2, b2)
    """
    tensors = {"w1": (6, 6), "shift": (6,), "limit": (6,), "w2": (3, 6), "b2": (3,)}
    assert {"w1", "w2", "b2"} == moved(model_of(body, tensors))


def test_functions_and_branches() -> None:
    """Their tensors are weights by the same rule, at each call and in each branch."""
    functions = """
        <domain: "own", opset_import: ["" : 17]> scaled (v) => (y)
        {
            scale = Constant<value = float[8] {1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0}>()
            power = Constant<value = float[8] {1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0}>()
            r = Relu(v)
            p = Pow(r, power)
            y = Mul(p, scale)
        }
    """
    body = """
        zero = Constant<value_float = 0.0>()
        first = Gemm<transB = 1>(x, w1, b1)
        h = own.scaled(first)
        total = ReduceSum<keepdims = 0>(x)
        is = Greater(total, zero)
        chosen = If(is)
            <then_branch = yes () => (float[N, 8] there) { there = Add(h, then) },
             else_branch = no () => (float[N, 8] here) { here = Max(h, other) }>
        logits = Gemm<transB = 1>(chosen, w2, b2)
    """
    tensors = {**LAYERS, "then": (8,), "other": (8,)}
    model = model_of(body, tensors, functions=functions, domains=', "own" : 1')
    assert {*LAYERS, "then", "scale"} == moved(model)
    roles = roles_of(model)
    assert ("own::scaled", "scale") in roles.weights
    assert ("own::scaled", "power") not in roles.weights


def test_loops() -> None:
    """What is joined to a state is a weight where a layer is before it, in a later turn too."""
    body = """
        turns = Constant<value_int = 2>()
        go = Constant<value = bool {1}>()
        last = Loop(turns, go, x)
            <body = turn (int64 i, bool c, float[N, 6] before) => (bool again, float[N, 6] after) {
                again = Identity(c)
                moved = Add(before, shift)
                after = MatMul(moved, inner)
            }>
        logits = Gemm<transB = 1>(last, w2, b2)
    """
    tensors = {"inner": (6, 6), "shift": (6,), "w2": (3, 6), "b2": (3,)}
    assert {*tensors} == moved(model_of(body, tensors))
    plain = body.replace("after = MatMul(moved, inner)", "after = Relu(moved)")
    del tensors["inner"]
    assert {"w2", "b2"} == moved(model_of(plain, tensors))


def test_weights_of_a_scan() -> None:
    """A layer's weights in each step are rows of one tensor; a first state is none."""
    body = """
        first = Gemm<transB = 1>(x, w1, b1)
        last, all = Scan(first, rows)
            <num_scan_inputs = 1,
             body = step (float[N, 8] old, float[8] row) => (float[N, 8] after, float[N, 8] seen) {
                moved = Mul(old, row)
                after = Relu(moved)
                seen = Identity(after)
            }>
        steps, unused = Scan(start, rows)
            <num_scan_inputs = 1,
             body = other (float[8] old, float[8] one) => (float[8] new, float[8] copy) {
                new = Mul(old, one)
                copy = Identity(new)
            }>
        sum = Add(last, steps)
        logits = Gemm<transB = 1>(sum, w2, b2)
    """
    tensors = {**LAYERS, "rows": (3, 8), "start": (8,)}
    places = {("", name) for name in LAYERS}
    found = roles_of(model_of(body, tensors))
    assert places == found.weights
    alone = body[: body.index("steps")] + body[body.index("sum") :].replace("steps", "start")
    assert {*tensors} == moved(model_of(alone, tensors))


def test_a_mask_stays() -> None:
    """One of infinities, which have no average; a bias of the same shape does not."""
    body = """
        h = Gemm<transB = 1>(x, w1, b1)
        m = Add(h, mask)
        p = Softmax(m)
        logits = Gemm<transB = 1>(p, w2, b2)
    """
    mask = np.where(np.arange(8) < 6, 0.0, -np.inf)
    assert {*LAYERS} == moved(model_of(body, {**LAYERS, "mask": mask}))
    assert {*LAYERS, "mask"} == moved(model_of(body, {**LAYERS, "mask": np.arange(8)}))


def test_weights_are_found_through_several_operands() -> None:
    """All that carry values are trained, not what chooses among them, nor a single limit."""
    body = """
        zero = Constant<value_float = 0.0>()
        pruned = Greater(score, zero)
        first = Where(pruned, w1, other)
        bias = Max(b1, least)
        h = Gemm<transB = 1>(x, first, bias)
        a = Relu(h)
        large = Abs(w2)
        kept = Greater(large, zero)
        second = Where(kept, w2, zero)
        rows = Constant<value = int64[1] {0}>()
        last = ScatterElements<axis = 0>(b2, rows, one)
        logits = Gemm<transB = 1>(a, second, last)
    """
    more = {"other": (8, 6), "least": (8,), "one": (1,)}
    model = model_of(body, {**LAYERS, **more, "score": (8, 6)})
    assert {*LAYERS, *more} == moved(model)
    assert [] == untrained(model)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "2 kept their values, 'pick', 'v0'."),
        (4, "5 kept their values, 'pick', 'v0', 'v1', …."),
    ],
)
def test_layers_that_are_not_trained_are_told(count: int, told: str) -> None:
    """In the warnings, with the number of tensors and the first names, not only as a list."""
    turns = [f"g{i} = Gemm(h{i}, w1, v{i}) h{i + 1} = Max(g{i}, v{i})" for i in range(count)]
    body = f"h0 = Gemm(x, w1) {' '.join(turns)} logits = Gemm<transB = 1>(h{count}, pick, b2)"
    shifts = {f"v{i}": (6,) for i in range(count)}
    tensors = {"w1": (6, 6), **shifts, "pick": np.eye(3, 6), "b2": (3,)}
    model = model_of(body, tensors)
    assert ["pick", *shifts] == untrained(model)
    (found,) = [
        text for text in tuned(model).document["warnings"] if text.startswith("Not all weights")
    ]
    assert found.endswith(told)


WRITTEN_OUT = """
    h = Conv(x, w1)
    c = Sub(h, mean)
    e = Add(var, epsilon)
    s = Sqrt(e)
    n = Div(c, s)
    g = Mul(n, gamma)
    k = Add(g, beta)
"""
BY_RECIPROCAL = """
    h = Conv(x, w1)
    c = Sub(h, mean)
    e = Add(var, epsilon)
    s = Sqrt(e)
    r = Reciprocal(s)
    f = Mul(r, gamma)
    g = Mul(c, f)
    k = Add(g, beta)
"""
BEFOREHAND = """
    h = Conv(x, w1)
    e = Add(var, epsilon)
    half = Constant<value_float = -0.5>()
    s = Pow(e, half)
    f = Mul(gamma, s)
    m = Mul(mean, f)
    b = Sub(beta, m)
    g = Mul(h, f)
    k = Add(g, b)
"""
NEGATED = BEFOREHAND.replace("b = Sub(beta, m)", "o = Neg(m) b = Add(beta, o)")


@pytest.mark.parametrize("norm", [WRITTEN_OUT, BY_RECIPROCAL, BEFOREHAND, NEGATED])
def test_a_batch_norm_that_was_written_out(norm: str) -> None:
    """Its mean and variance stay; its scale and shift are trained as those of the operator."""
    body = norm + "a = Relu(k) f2 = Flatten(a) logits = Gemm<transB = 1>(f2, w2, b2)"
    shape = (1, 3, 1, 1)
    statistics = {"mean": shape, "var": np.full(shape, 0.01), "epsilon": np.full(1, 1e-5)}
    trained = {"w1": (3, 3, 3, 3), "gamma": np.ones(shape), "beta": shape, "w2": (3, 12)}
    tensors = {**statistics, **trained, "b2": (3,)}
    model = model_of(body, tensors, image="float[N, 3, 4, 4] x")
    assert {*trained, "b2"} == moved(model, (3, 4, 4))
    assert [] == untrained(model)


def test_a_weight_that_is_normalised() -> None:
    """Direction and length are trained though the norm is a root, of a layer and of a scale."""
    norm = """
        {0}p = Mul({0}, {0})
        {0}q = ReduceSum<keepdims = 1>({0}p)
        {0}n = Sqrt({0}q)
        {0}u = Div({0}, {0}n)
    """
    body = (
        norm.replace("{0}", "w1")
        + norm.replace("{0}", "gamma")
        + """
        w = Mul(length, w1u)
        h = Gemm<transB = 1>(x, w, b1)
        g = Mul(h, gammau)
        size = Exp(w2)
        logits = Gemm<transB = 1>(g, size, b2)
    """
    )
    tensors = {**LAYERS, "length": (8, 1), "gamma": (8,)}
    assert {*tensors} == moved(model_of(body, tensors))


@pytest.mark.parametrize("low", [-1e4, float(np.finfo(np.float32).min)])
def test_masks_of_numbers_stay(low: float) -> None:
    """Of 0 and 1 wherever they are read, of 0 and what hides a score; other numbers do not."""
    body = """
        w = Mul(w1, pruned)
        h = Gemm<transB = 1>(x, w, b1)
        m = Add(h, hidden)
        k = Add(m, small)
        s = Mul(k, same)
        p = Softmax(s)
        logits = Gemm<transB = 1>(p, w2, b2)
    """
    choose = np.arange(8) < 5
    masks = {
        "pruned": np.random.default_rng(1).random((8, 6)) > 0.3,
        "hidden": np.where(choose, 0.0, low),
    }
    biases = {"small": np.where(choose, 0.0, -4.0), "same": np.ones(8)}
    model = model_of(body, {**LAYERS, **masks, **biases})
    assert {*LAYERS, *biases} == moved(model)
    assert [] == untrained(model)


def test_narrow_integers_that_are_no_weights() -> None:
    """A table or a mask in 8 bits is none, and the rest is trained; what a layer reads is one."""
    body = """
        c = Cast<to = 1>(keep)
        h = Gemm<transB = 1>(x, w1, b1)
        m = Mul(h, c)
        a = Relu(m)
        d = Cast<to = 1>(mask)
        w = Mul(w2, d)
        logits = Gemm<transB = 1>(a, w, b2)
    """
    stored = {"keep": np.full((1, 8), 3, np.uint8), "mask": np.eye(3, 8, dtype=np.uint8)}
    model = with_stored(body, stored, LAYERS)
    assert {*LAYERS} == moved(model)
    stored["mask"] *= 2
    with pytest.raises(ModelError, match=r"^the weight 'mask' is quantised: fine-tune the model"):
        tuned(with_stored(body, stored, LAYERS))


def test_all_that_keeps_its_value_is_named() -> None:
    """Floating-point tensors that are no parameters of the twin too, as statistics and limits."""
    body = """
        h = Conv(x, w1)
        n = BatchNormalization(h, scale, shift, mean, var)
        least = Constant<value = float {0.0}>()
        a = Clip(n, least, most)
        f = Flatten(a)
        logits = Gemm<transB = 1>(f, w2, b2)
    """
    norm = {"scale": np.ones(3), "shift": np.zeros(3), "mean": (3,), "var": np.full(3, 2.0)}
    tensors = {"w1": (3, 3, 3, 3), **norm, "most": np.float32(6), "w2": (3, 12), "b2": (3,)}
    model = model_of(body, tensors, image="float[N, 3, 4, 4] x")
    for update, fixed in ((False, ["least", "mean", "most", "var"]), (True, ["least", "most"])):
        document = tuned(model, (3, 4, 4), update_statistics=update, jump=0.1).document
        assert fixed == document["fixed"]


def test_a_statistic_stays_where_exporters_share_it() -> None:
    """One tensor as scale and variance, or mean and bias: it keeps its value, and is told."""
    body = """
        h = Conv(x, w1)
        n = BatchNormalization(h, ones, zeros, zeros, ones)
        a = Relu(n)
        f = Flatten(a)
        logits = Gemm<transB = 1>(f, w2, b2)
    """
    tensors = {"w1": (3, 3, 3, 3), "ones": np.ones(3), "zeros": np.zeros(3), "w2": (3, 12)}
    model = model_of(body, {**tensors, "b2": (3,)}, image="float[N, 3, 4, 4] x")
    assert {"w1", "w2", "b2"} == moved(model, (3, 4, 4))
    assert ["ones", "zeros"] == sorted(tuned(model, (3, 4, 4)).document["fixed"])
    assert {("", "ones"), ("", "zeros")} == roles_of(model).statistics
    message = "is a statistic of a BatchNormalization and has another use as well"
    with pytest.raises(ModelError, match=message):
        tuned(model, (3, 4, 4), update_statistics=True)


def test_statistics_follow_where_the_scale_stays() -> None:
    """A BatchNorm learns them whether or not its scale is trained."""
    body = """
        shape = Constant<value = int64[4] {1, 3, 1, 1}>()
        unit = Reshape(scale, shape)
        z = Mul(x, unit)
        h = Conv(z, w1)
        n = BatchNormalization(h, scale, shift, mean, var)
        a = Relu(n)
        f = Flatten(a)
        logits = Gemm<transB = 1>(f, w2, b2)
    """
    norm = {"scale": np.ones(3), "shift": np.zeros(3), "mean": (3,), "var": np.full(3, 2.0)}
    tensors = {"w1": (3, 3, 3, 3), **norm, "w2": (3, 12), "b2": (3,)}
    model = model_of(body, tensors, image="float[N, 3, 4, 4] x")
    assert {*tensors} - {"scale"} == moved(model, (3, 4, 4), update_statistics=True)


def test_statistics_of_another_type_do_not_follow() -> None:
    """They are refused by name before the training, which would leave them as they are."""
    body = """
        h = Gemm<transB = 1>(x, w1, b1)
        n = BatchNormalization(h, scale, shift, mean, var)
        logits = Gemm<transB = 1>(n, w2, b2)
    """
    norm = {"scale": np.ones(8), "shift": np.zeros(8)}
    statistics = {"mean": np.full(8, 0.5, np.float16), "var": np.full(8, 2, np.float16)}
    model = with_stored(body, statistics, {**LAYERS, **norm})
    assert {*LAYERS, *norm} == moved(model)
    with pytest.raises(ModelError, match=r"^the statistic 'mean' is not float32: fine-tune the m"):
        tuned(model, update_statistics=True)


def test_statistics_follow_beside_an_infinity() -> None:
    """One in the file, in the place of what is left out, is no statistic that diverged."""
    body = """
        zero = Constant<value_float = 0.0>()
        h = Conv(x, w1)
        n = BatchNormalization(h, scale, shift, mean, var)
        positive = Greater(n, zero)
        z = Where(positive, n, low)
        q = MaxPool<kernel_shape = [2, 2]>(z)
        a = Relu(q)
        f = Flatten(a)
        logits = Gemm<transB = 1>(f, w2, b2)
    """
    norm = {"scale": np.ones(3), "shift": np.zeros(3), "mean": (3,), "var": np.full(3, 2.0)}
    tensors = {"w1": (3, 3, 3, 3), **norm, "w2": (3, 3), "b2": (3,)}
    low = {"low": np.float32(-np.inf)}
    model = model_of(body, {**tensors, **low}, image="float[N, 3, 4, 4] x")
    assert {*tensors} == moved(model, (3, 4, 4), update_statistics=True)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_a_weight_of_another_type_is_named(kind: str) -> None:
    """Also where the model computes in float32; numbers that no training moves may be of any."""
    number = {"float16": 10, "double": 11}[kind]
    body = """
        cast = Cast<to = 1>(w1)
        limit = Cast<to = 1>(low)
        h = Gemm<transB = 1>(x, cast, b1)
        a = Max(h, limit)
        logits = Gemm<transB = 1>(a, w2, b2)
    """
    model = model_of(body, {**LAYERS, "low": (8,)})
    narrow = onnx.helper.tensor_dtype_to_np_dtype(number)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    changed = onnx.numpy_helper.from_array(values(model)["low"].astype(narrow), "low")
    tensors["low"].CopyFrom(changed)
    assert {*LAYERS} == moved(model)
    tensors["w1"].CopyFrom(onnx.numpy_helper.from_array(values(model)["w1"].astype(narrow), "w1"))
    word = {"float16": "float16", "double": "float64"}[kind]
    with pytest.raises(ModelError, match=f"^the weight 'w1' is {word}: fine-tune the model in f"):
        tuned(model)
    cast = "c = Cast<to = 1>(x) h = Gemm<transB = 1>(c, w1, b1) logits = MatMul(h, w2)"
    wide = model_of(cast, {**LAYERS, "w2": (8, 3)}, image=f"{kind}[N, 6] x")
    with pytest.raises(ModelError, match=f"^the input of the model is {word}: fine-tune the mod"):
        tuned(wide)


def test_what_a_computed_mean_is_subtracted_from() -> None:
    """The shift of a LayerNorm may stand before its mean, as Keras writes it."""
    body = """
        h = MatMul(x, w1)
        m = ReduceMean<axes = [1]>(h)
        c = Sub(h, m)
        q = Mul(c, c)
        v = ReduceMean<axes = [1]>(q)
        e = Add(v, epsilon)
        s = Sqrt(e)
        r = Reciprocal(s)
        i = Mul(r, gamma)
        hi = Mul(h, i)
        mi = Mul(m, i)
        o = Sub(beta, mi)
        k = Add(hi, o)
        a = Relu(k)
        logits = MatMul(a, w2)
    """
    trained = {"w1": (6, 8), "gamma": np.ones(8), "beta": (8,), "w2": (8, 3)}
    model = model_of(body, {**trained, "epsilon": np.full(1, 1e-5)})
    assert {("", name) for name in trained} == roles_of(model).weights
