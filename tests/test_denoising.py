"""Total variation minimised in front of a network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Command, runner
from numpy.typing import NDArray
from onnx import ModelProto
from support import MODELS, newest_opset, parse, plain_session, run

import onnxfit
from onnxfit import files, passes, rewrites
from onnxfit.errors import ModelError, ParityError
from onnxfit.randomness import drawn_value
from onnxfit.record import provenance

skimage = pytest.importorskip("skimage.restoration")

DIGITS = MODELS / "digits_cnn.onnx"
WEIGHT = 0.1


@pytest.fixture
def onnxfit_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line."""
    return runner(capsys)


def network(
    sizes: str = "N, 3, H, W",
    *,
    opset: int = 17,
    ir: int = 8,
    kind: str = "float",
    nodes: str = "y = Identity(x)",
) -> ModelProto:
    """Make a network that gives the images that it is given."""
    return parse(
        f'<ir_version: {ir}, opset_import: ["": {opset}]> '
        f"g ({kind}[{sizes}] x) => ({kind}[{sizes}] y) {{ {nodes} }}"
    )


def images(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Draw images of smooth areas with noise, from 0 to 1."""
    random = np.random.default_rng(seed)
    coarse = random.random((*shape[:-2], -(-shape[-2] // 4), -(-shape[-1] // 4)))
    smooth = coarse.repeat(4, -2).repeat(4, -1)[..., : shape[-2], : shape[-1]]
    return (0.8 * smooth + 0.2 * random.random(shape)).astype(np.float32)


def computed(model: ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    """Run a model in ONNX Runtime."""
    return run(model, {model.graph.input[0].name: x})[0]


def by_skimage(
    x: NDArray[Any], weight: float = WEIGHT, steps: int = 50, channel_axis: int | None = 0
) -> NDArray[np.float64]:
    """Denoise images one by one in double precision, without stopping early."""
    how: dict[str, Any] = {"eps": 0, "max_num_iter": steps, "channel_axis": channel_axis}
    wide = x.astype(np.float64)
    return np.array([skimage.denoise_tv_chambolle(each, weight, **how) for each in wide])


def objective(
    u: NDArray[np.float64], f: NDArray[np.float64], kept: NDArray[np.float64], weight: float
) -> float:
    """Compute what is minimised, of one image H×W."""
    down, right = np.zeros_like(u), np.zeros_like(u)
    down[:-1], right[:, :-1] = np.diff(u, axis=0), np.diff(u, axis=1)
    return float(0.5 * (kept * (u - f) ** 2).sum() + weight * np.hypot(down, right).sum())


def minimised(
    f: NDArray[np.float64], kept: NDArray[np.float64], weight: float, smooth: float
) -> NDArray[np.float64]:
    """Minimise the objective with |∇u| smoothed, less and less, by SciPy's L-BFGS."""
    from scipy.optimize import minimize

    def value(flat: NDArray[np.float64], tiny: float) -> tuple[float, NDArray[np.float64]]:
        u = flat.reshape(f.shape)
        down, right = np.zeros_like(u), np.zeros_like(u)
        down[:-1], right[:, :-1] = np.diff(u, axis=0), np.diff(u, axis=1)
        length = np.sqrt(down**2 + right**2 + tiny**2)
        slope = kept * (u - f)
        for part, axis in ((down / length, 0), (right / length, 1)):
            slope = slope - weight * (part - np.roll(part, 1, axis))
        total = 0.5 * (kept * (u - f) ** 2).sum() + weight * length.sum()
        return float(total), slope.ravel()

    u, tiny = np.full(f.shape, 0.5), 0.1
    while tiny > smooth:
        tiny /= 3
        found = minimize(
            value, u.ravel(), (tiny,), "L-BFGS-B", jac=True, options={"maxiter": 3000, "ftol": 0}
        )
        u = found.x.reshape(f.shape)
    return u


@pytest.mark.parametrize(
    "shape", [(2, 3, 17, 9), (3, 1, 8, 8), (1, 2, 1, 7), (2, 1, 6, 1), (1, 3, 1, 1), (0, 3, 4, 4)]
)
@pytest.mark.parametrize(("weight", "steps"), [(0.03, 50), (0.5, 20), (0.1, 2)])
def test_it_is_scikit_image(shape: tuple[int, ...], weight: float, steps: int) -> None:
    """Grey and coloured images of any size, each channel alone, as Chambolle's iterations there."""
    x = images(*shape)
    found = onnxfit.denoise(network(f"N, {shape[1]}, H, W"), weight, steps=steps)
    onnx.checker.check_model(found, full_check=True)
    wanted = by_skimage(x, weight, steps).reshape(shape)
    np.testing.assert_allclose(computed(found, x), wanted, atol=1e-5)


def test_images_without_channels() -> None:
    """N×H×W are grey images."""
    x = images(3, 9, 7)
    found = computed(onnxfit.denoise(network("N, H, W"), WEIGHT), x)
    np.testing.assert_allclose(found, by_skimage(x, channel_axis=None), atol=1e-5)


def test_it_works_in_the_units_of_pixels() -> None:
    """What the network takes is denoised as pixels, and normalised again."""
    pixels, mean, std = 255 * images(2, 3, 8, 9), (120.0, 110.0, 90.0), (60.0, 55.0, 70.0)
    shape = (1, 3, 1, 1)
    given = (pixels - np.reshape(mean, shape)) / np.reshape(std, shape)
    found = onnxfit.denoise(network(), 25, bounds=(0, 255), mean=mean, std=std)
    wanted = by_skimage(pixels, 25)
    normalised = (wanted - np.reshape(mean, shape)) / np.reshape(std, shape)
    np.testing.assert_allclose(computed(found, given.astype(np.float32)), normalised, atol=1e-4)
    plain = onnxfit.denoise(network(), 25, bounds=(0, 255))
    assert len(plain.graph.node) < len(found.graph.node)


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_images_do_not_see_each_other(keep: float) -> None:
    """One by one they come out as together."""
    x = images(4, 3, 8, 8)
    model = onnxfit.denoise(network("N, 3, 8, 8"), WEIGHT, keep=keep, seed=None if keep == 1 else 0)
    alone = np.concatenate([computed(model, each[None]) for each in x])
    np.testing.assert_allclose(computed(model, x), alone, atol=1e-6)


OPSETS = [(7, 3), (8, 3), (9, 4), (10, 5), (11, 6), (12, 7), (13, 7), (16, 8), (18, 8), (19, 9)]


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize(("opset", "ir"), [*OPSETS, (21, 10), (23, 11), (newest_opset(), 11)])
def test_old_and_new_files(opset: int, ir: int, keep: float) -> None:
    """The checker passes at every opset, results are the same, restoring gives the file."""
    x, sizes = images(2, 3, 8, 8), "N, 3, 8, 8"
    seed = None if keep == 1 else 0
    wanted = computed(onnxfit.denoise(network(sizes), WEIGHT, keep=keep, seed=seed), x)
    model = network(sizes, opset=opset, ir=ir)
    found = onnxfit.denoise(model, WEIGHT, keep=keep, seed=seed)
    onnx.checker.check_model(found, full_check=True)
    np.testing.assert_allclose(computed(found, x), wanted, atol=1e-6)
    assert model.SerializeToString() == onnxfit.restore(found).SerializeToString()


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_types(kind: str, dtype: Any) -> None:
    """It computes in float32, and gives what the network takes."""
    x = images(2, 3, 8, 8).astype(dtype)
    found = computed(onnxfit.denoise(network(kind=kind), WEIGHT), x)
    assert dtype == found.dtype
    np.testing.assert_allclose(found, by_skimage(x), atol=1e-3 if kind == "float16" else 1e-5)


BRANCHES = """
    s = ReduceSum<keepdims = 0>(x)
    zero = Constant<value = float {0.0}>()
    more = Greater(s, zero)
    y = If(more) <
        then_branch = yes () => (float[N, 3, H, W] t) { t = Identity(x) },
        else_branch = no () => (float[N, 3, H, W] e) { e = Neg(x) }
    >
"""


def test_readers_in_subgraphs() -> None:
    """A branch reads the denoised images, and the input itself again after restoring."""
    model, x = network(nodes=BRANCHES), images(2, 3, 8, 8)
    found = onnxfit.denoise(model, WEIGHT)
    onnx.checker.check_model(found, full_check=True)
    np.testing.assert_allclose(computed(found, x), by_skimage(x), atol=1e-5)
    assert model == onnxfit.restore(found)


def test_the_input_stays_as_it_is() -> None:
    """Its name, type and shape, and an output of its own name."""
    model = network(nodes="y = Identity(x)")
    model.graph.output.append(model.graph.input[0])
    found = onnxfit.denoise(model, WEIGHT)
    assert model.graph.input == found.graph.input
    x = images(1, 3, 6, 6)
    y, same = run(found, {"x": x})
    np.testing.assert_array_equal(x, same)
    np.testing.assert_allclose(y, by_skimage(x), atol=1e-5)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("weight", [0.03, 0.3])
def test_pixels_that_are_dropped_are_filled_in(keep: float, weight: float) -> None:
    """The objective is that of a long solve by another method; 50 steps come near."""
    x = images(1, 1, 12, 10)
    record = np.random.default_rng(5).random((1, 1, 1, 12, 10)) < keep
    kept, f = record[0, 0, 0].astype(np.float64), x[0, 0].astype(np.float64)
    model = network("N, 1, 12, 10")
    best = objective(minimised(f, kept, weight, 1e-5), f, kept, weight)
    many, few, none = (
        objective(
            computed(onnxfit.denoise(model, weight, keep=keep, seed=5, steps=steps), x)[0, 0],
            f,
            kept,
            weight,
        )
        for steps in (4000, 50, 1)
    )
    assert abs(many - best) < 2e-3 * best
    assert few - best < 0.2 * (none - best)


def test_what_is_dropped_does_not_count() -> None:
    """Other numbers in pixels that are dropped change nothing."""
    x = images(1, 3, 8, 8)
    dropped = np.random.default_rng(7).random((1, 1, 3, 8, 8))[0] >= 0.5
    other = np.where(dropped, 1 - x, x)
    model = onnxfit.denoise(network("N, 3, 8, 8"), WEIGHT, keep=0.5, seed=7)
    assert not np.array_equal(x, other)
    np.testing.assert_allclose(computed(model, x), computed(model, other), atol=1e-6)


def test_with_all_pixels_kept_both_iterations_end_alike() -> None:
    """A mask that drops nothing leads where Chambolle's iterations lead."""
    x, model = images(1, 1, 8, 8), network("N, 1, 8, 8")
    found = onnxfit.denoise(model, WEIGHT, keep=1 - 1e-9, seed=0, steps=3000)
    np.testing.assert_allclose(computed(found, x), by_skimage(x, steps=30000), atol=1e-4)


@pytest.mark.parametrize("opset", [7, 17, newest_opset()])
def test_a_mask_without_a_seed_is_drawn_anew(opset: int) -> None:
    """Other pixels at each run and in each sample, as many as asked for; with a seed the same."""
    x = np.repeat(images(1, 3, 16, 16), 2, 0)
    sizes, ir = "N, 3, 16, 16", 10 if opset > 21 else 8
    drawn = plain_session(onnxfit.denoise(network(sizes, opset=opset, ir=ir), 1e-3, keep=0.7))
    one, other = (drawn.run(None, {"x": x})[0] for _ in range(2))
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])
    # At so small a weight what is kept stays as it is, nearly.
    share = (np.abs(one - x) < 0.01).mean()
    assert 0.6 < share < 0.85
    fixed = [onnxfit.denoise(network(sizes), WEIGHT, keep=0.7, seed=seed) for seed in (0, 0, 1)]
    assert fixed[0] == fixed[1]
    same, again, another = (computed(model, x) for model in fixed)
    np.testing.assert_array_equal(same, again)
    np.testing.assert_array_equal(same[0], same[1])
    assert not np.array_equal(same, another)


def test_who_draws_random_numbers() -> None:
    """A mask of each run is known by its first value, and no fixed one is; nor plain Dropout."""
    model = network("N, 3, 8, 8")
    assert drawn_value(model) is drawn_value(onnxfit.denoise(model, WEIGHT)) is None
    assert drawn_value(onnxfit.denoise(model, WEIGHT, keep=0.5, seed=0)) is None
    for opset in (17, 22):
        found = drawn_value(onnxfit.denoise(network("N, 3, 8, 8", opset=opset), WEIGHT, keep=0.5))
        assert found is not None
        assert found.startswith("onnxfit.denoising/")
    assert drawn_value(network(nodes="y = Dropout(x)")) is None


@pytest.mark.parametrize("optimize", [False, True, ("add",)])
def test_it_goes_with_jumps(optimize: Any) -> None:
    """Jumps stay, rewritten or not; restoring takes both back."""
    nodes = "h = Relu(x)\n g = Add(h, x)\n r = Relu(g)\n m = MaxPool<kernel_shape = [1, 1]>(r)\n"
    model = network(nodes=nodes + "y = Add(m, x)")
    hard = onnxfit.retrofit(model, 0.3, optimize=optimize)
    both = onnxfit.denoise(hard, WEIGHT)
    assert rewrites.names_of(hard) == rewrites.names_of(both)
    assert onnxfit.inspect(hard).jumps == onnxfit.inspect(both).jumps
    assert model == onnxfit.restore(both)
    x = images(2, 3, 8, 8)
    denoised = computed(onnxfit.denoise(network(), WEIGHT), x)
    wanted = onnxfit.session(hard).run(None, {"x": denoised})[0]
    np.testing.assert_allclose(onnxfit.session(both).run(None, {"x": x})[0], wanted, atol=1e-6)


def test_a_second_denoising_takes_the_place_of_the_first() -> None:
    """The same comes out as of the source, and is said to be made of it."""
    first = onnxfit.denoise(DIGITS, 0.5, steps=3)
    assert onnxfit.denoise(DIGITS, WEIGHT) == onnxfit.denoise(first, WEIGHT)


def test_features_of_templates_are_computed_behind_it() -> None:
    """An interpolation stands on it; a denoising put in front of one is refused."""
    templates = MODELS / "digits_val.npz"
    denoised = onnxfit.denoise(DIGITS, WEIGHT)
    both = onnxfit.interpolate(denoised, templates)
    assert ["onnxfit.denoising", "onnxfit.interpolation"] == passes.applied(both)
    alone = onnxfit.interpolate(DIGITS, templates)
    name = "onnxfit.interpolation/templates"
    features = [
        next(onnx.numpy_helper.to_array(t) for t in each.graph.initializer if t.name == name)
        for each in (alone, both)
    ]
    assert not np.allclose(features[0], features[1], atol=1e-3)
    assert both == onnxfit.interpolate(both, templates)
    assert DIGITS.read_bytes() == onnxfit.restore(both).SerializeToString()
    with pytest.raises(ModelError, match=r"has an interpolation .*: restore it first, and apply"):
        onnxfit.denoise(alone, WEIGHT)


def test_numbers_of_numpy() -> None:
    """They are as good as Python's, which a record holds."""
    given: dict[str, Any] = {"steps": np.int64(5), "keep": np.float64(0.5), "seed": np.int64(2)}
    units: dict[str, Any] = {"mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32)}
    weight: Any = np.float32(0.25)
    found = onnxfit.denoise(network("N, 3, 4, 4"), weight, **given, **units)
    expected: dict[str, Any] = {
        "steps": 5,
        "keep": 0.5,
        "seed": 2,
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
    }
    assert onnxfit.denoise(network("N, 3, 4, 4"), 0.25, **expected) == found


def test_the_source_is_the_file_that_all_began_with() -> None:
    """Not what lay between in memory: of jumps, denoising and interpolation together."""
    _, source = files.read(DIGITS)
    hard = onnxfit.retrofit(DIGITS, 0.2)
    both = onnxfit.interpolate(onnxfit.denoise(hard, WEIGHT), MODELS / "digits_val.npz")
    record = provenance(both)
    assert source == record["source_sha256"]
    assert source == record["denoising"]["source_sha256"]
    assert source == record["interpolation"]["source_sha256"]
    assert (
        source
        == provenance(onnxfit.denoise(onnxfit.denoise(DIGITS, 0.5), WEIGHT))["denoising"][
            "source_sha256"
        ]
    )


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("opset", [7, 17])
def test_its_own_nodes_are_no_activations_of_the_network(opset: int, keep: float) -> None:
    """Inspect shows those of the source, and none that was put in front of it."""
    model = network(opset=opset, nodes="h = Relu(x)\n y = Sigmoid(h)")
    found = onnxfit.inspect(onnxfit.denoise(model, WEIGHT, keep=keep))
    assert onnxfit.inspect(model).sites == found.sites
    assert onnxfit.inspect(model).unreplaced == found.unreplaced


def test_names_that_it_would_give_are_its_own() -> None:
    """A source that has one is refused."""
    model = network(nodes='"onnxfit.denoising/x" = Relu(x)\n y = Relu(x)')
    with pytest.raises(ModelError, match=r"has 'onnxfit\.denoising/x', a name that onnxfit keeps"):
        onnxfit.denoise(model, WEIGHT)


def test_node_names_that_were_dropped() -> None:
    """Values are enough to take it out; what other nodes read of it cannot be."""
    model = onnxfit.denoise(DIGITS, WEIGHT, keep=0.5, seed=0)
    for node in model.graph.node:
        node.ClearField("name")
    source = onnxfit.load(DIGITS)
    found = onnxfit.restore(model)
    for node in source.graph.node:
        node.ClearField("name")
    assert source == found
    inner = model.graph.node[0].output[0]
    model.graph.node.append(onnx.helper.make_node("Identity", [inner], ["other"]))
    with pytest.raises(ModelError, match=r"another tool lets 'onnxfit\.denoising/.*' be read else"):
        onnxfit.restore(model)


def test_the_record() -> None:
    """It tells all settings, and what the file was made of."""
    model = onnxfit.denoise(
        DIGITS, WEIGHT, steps=7, keep=0.5, seed=3, bounds=(-1, 1), mean=[0.1], std=[0.3]
    )
    record = provenance(model)["denoising"]
    assert 64 == len(record.pop("source_sha256"))
    assert {
        "input": "image",
        "denoised": "onnxfit.denoising/image",
        "method": "total variation",
        "weight": WEIGHT,
        "steps": 7,
        "keep": 0.5,
        "mask": "fixed",
        "seed": 3,
        "bounds": [-1, 1],
        "mean": [0.1],
        "std": [0.3],
    } == record


@pytest.mark.parametrize("change", ["nodes", "record"])
def test_what_another_tool_changed_cannot_come_back(change: str) -> None:
    """The sentence says what to take."""
    model = onnxfit.denoise(DIGITS, WEIGHT)
    if change == "nodes":
        kept = [node for node in model.graph.node if not node.name.startswith("onnxfit.denoising")]
        del model.graph.node[:]
        model.graph.node.extend(kept)
        message = "the denoising is gone: another tool changed it; take the source"
    else:
        model.metadata_props[-1].value = "{}"
        message = r"entry onnxfit\.denoising is damaged"
    with pytest.raises(ModelError, match=message):
        passes.take_back(model)


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_the_twin_computes_the_same_and_its_gradients(keep: float) -> None:
    """Through 50 steps, by central differences in double precision; flat areas included."""
    torch = pytest.importorskip("torch")
    model = onnxfit.denoise(DIGITS, 0.05, keep=keep, seed=None if keep == 1 else 1)
    with np.load(MODELS / "digits_test.npz") as file:
        x = file["x"][:8]
    assert onnxfit.parity(model, onnxfit.to_torch(model), x).agrees
    twin = onnxfit.to_torch(model).double()
    point = torch.from_numpy(x).double().requires_grad_()
    (slope,) = torch.autograd.grad(twin(point)[:, 3].sum(), point)
    assert slope.isfinite().all()
    assert (slope.flatten(1).norm(dim=1) > 0).all()
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(point.shape, generator=generator, dtype=torch.double)
    with torch.no_grad():
        ahead, behind = (twin(point + sign * 1e-7 * along)[:, 3] for sign in (1, -1))
    wanted = (slope * along).sum((1, 2, 3))
    torch.testing.assert_close((ahead - behind) / 2e-7, wanted, rtol=1e-4, atol=1e-4)


def test_the_twin_draws_a_mask_of_its_own() -> None:
    """Another one at each call, ruled by torch's seed; parity is refused and says why."""
    torch = pytest.importorskip("torch")
    from onnxfit.twin.parity import require_parity

    model = onnxfit.denoise(DIGITS, 0.05, keep=0.5)
    twin = onnxfit.to_torch(model)
    x = torch.rand(4, 1, 8, 8)
    torch.manual_seed(0)
    one, other = twin(x), twin(x)
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    assert torch.equal(one, twin(x))
    with pytest.raises(ParityError, match=r"draws 'onnxfit\.denoising/.*' at random, .* --tv-seed"):
        require_parity(model, twin, x)


def plain_with_data() -> tuple[ModelProto, NDArray[np.float32], NDArray[np.int64]]:
    """Make a network for small images, ten of them, and labels of which seven are its own."""
    plain = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 1, 4, 4] x) => (float[N, 2] y) { f = Flatten(x)\n y = MatMul(f, w) }
        """
    )
    random = np.random.default_rng(0)
    weights = random.normal(size=(16, 2)).astype(np.float32)
    plain.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    x = images(10, 1, 4, 4)
    labels = computed(plain, x).argmax(1)
    labels[:3] ^= 1
    return plain, x, labels


@pytest.mark.parametrize("seed", [0, None])
def test_verify_compares_it_with_the_network_alone(seed: int | None) -> None:
    """The baseline has no denoising; where masks are drawn at each run, the report says so."""
    pytest.importorskip("torch")
    plain, x, labels = plain_with_data()
    model = onnxfit.denoise(plain, 0.05, keep=0.5, seed=seed, steps=1)
    found = onnxfit.verify(model, (x, labels), suite="quick", eps=0.1, steps=2)
    assert not found["baseline"]["same_as_model"]
    assert 0.7 == found["baseline"]["clean"]["accuracy"]
    checks = {check["check"]: check["passed"] for check in found["diagnostics"]}
    warned = any("draws random numbers" in warning for warning in found["warnings"])
    assert (seed is not None, seed is None) == (checks["repeatable"], warned)
    assert (found["parity"] is None) == warned


def test_what_cannot_be_repeated_need_not_draw_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of a mask where no value is drawn."""
    pytest.importorskip("torch")
    from onnxfit.verification.cautions import RANDOM, UNSTABLE
    from onnxfit.verification.evidence import Evidence

    monkeypatch.setattr(Evidence, "is_repeatable", False)
    plain, x, labels = plain_with_data()
    found = onnxfit.verify(plain, (x, labels), suite="quick", eps=0.1, steps=2)
    assert UNSTABLE in found["warnings"]
    assert RANDOM not in found["warnings"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, "expected weight from 1e-30 to 1e[+]30, got 0.0"),
        ({"weight": float("nan")}, "expected weight from .*, got nan"),
        ({"weight": float("inf")}, "expected weight from .*, got inf"),
        ({"weight": "0.1"}, "expected weight from .*, got '0.1'"),
        ({"steps": 1}, "expected steps >= 2, got 1"),
        ({"steps": 0, "keep": 0.5}, "expected steps >= 1, got 0"),
        ({"steps": 2.5}, "expected a whole number for steps, got 2.5"),
        ({"keep": 0.0}, "expected keep > 0, got 0.0"),
        ({"keep": 1.5}, "expected keep from 0 to 1, got 1.5"),
        ({"seed": 1}, "a seed is for a mask: no pixel is dropped"),
        ({"keep": 0.5, "seed": -1}, "expected seed >= 0, got -1"),
        ({"keep": 0.5, "seed": 1.0}, "expected a whole number for seed, got 1.0"),
        ({"bounds": (1.0, 0.0)}, "expected finite bounds, the lower one first"),
        ({"mean": [float("nan")]}, r"expected finite numbers as mean, got \[nan\]"),
        ({"mean": [-1.0], "std": [0.0]}, r"expected finite numbers above 0 as std, got \[0.0\]"),
        ({"mean": "0.1"}, "expected a sequence of numbers as mean, got '0.1'"),
        ({"mean": [0.1, 0.2]}, "expected a mean of 1 number or 3, one per channel, got 2"),
    ],
)
def test_settings_out_of_their_range(settings: dict[str, Any], message: str) -> None:
    """One sentence says what is wrong."""
    with pytest.raises(ValueError, match=message):
        onnxfit.denoise(network(), **{"weight": WEIGHT, **settings})


TWO = "g (float[N, 3, H, W] x, float[N, 3, H, W] z) => (float[N, 3, H, W] y) { y = Add(x, z) }"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network("N, 64"), "the input 'x' is [?]×64; total variation needs images"),
        (network("N, 2, 3, 8, 8"), "the input 'x' is [?]×2×3×8×8; total variation needs images"),
        (network("N, 8, 8, 3"), "the input 'x' has its channels last; denoising takes images as"),
        (network("N, H, W, 3"), "the input 'x' has its channels last; denoising takes images as"),
        (network(kind="uint8"), "the input 'x' is uint8; denoising takes float, double or float16"),
        (
            parse(f'<ir_version: 8, opset_import: ["": 17]> {TWO}'),
            "the model takes 2 inputs; one of images is denoised",
        ),
    ],
)
def test_models_that_take_no_images(model: ModelProto, message: str) -> None:
    """They are refused in words."""
    with pytest.raises(ModelError, match=message):
        onnxfit.denoise(model, WEIGHT)


def test_a_fixed_mask_needs_a_fixed_size() -> None:
    """Images of any size cannot have one; drawn anew, they can."""
    with pytest.raises(ModelError, match=r"is [?]×3×[?]×[?]; a mask with a seed is for images of"):
        onnxfit.denoise(network(), WEIGHT, keep=0.5, seed=0)
    found = onnxfit.denoise(network(), WEIGHT, keep=0.5)
    assert (2, 3, 5, 7) == computed(found, images(2, 3, 5, 7)).shape


def test_the_command_line(tmp_path: Path, onnxfit_command: Command) -> None:
    """The file has its ending, inspect shows it, restore gives the source byte for byte."""
    model = tmp_path / "m.onnx"
    model.write_bytes(DIGITS.read_bytes())
    ran = onnxfit_command("retrofit", model, "--tv-weight", "1/20", "--tv-steps", "9", "--json")
    assert 0 == ran.status, ran.err
    record = json.loads(ran.out)["provenance"]["denoising"]
    assert (0.05, 9, 1, "none") == tuple(record[k] for k in ("weight", "steps", "keep", "mask"))
    out = tmp_path / "m.denoised.onnx"
    ran = onnxfit_command("inspect", out)
    assert "denoising weight" in ran.out
    ran = onnxfit_command("restore", out)
    assert "byte for byte the source" in ran.out
    assert model.read_bytes() == (tmp_path / "m.restored.onnx").read_bytes()
    ran = onnxfit_command(
        *("retrofit", model, "--jump", "0.2", "--tv-weight", "0.05", "--tv-keep", "0.9"),
        *("--interpolate", MODELS / "digits_val.npz", "--tv-seed", "4"),
    )
    assert 0 == ran.status, ran.err
    assert "denoising of image: total variation, weight 0.05, 50 steps; 0.9 of the" in ran.out
    ran = onnxfit_command("restore", tmp_path / "m.jump.denoised.interpolated.onnx", "--force")
    assert "byte for byte the source" in ran.out
    assert model.read_bytes() == (tmp_path / "m.restored.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tv-steps", "5"), "--tv-steps goes with --tv-weight."),
        (("--tv-seed", "5", "--jump", "0.1"), "--tv-seed goes with --tv-weight."),
        (("--neighbours", "5", "--jump", "0.1"), "--neighbours goes with --interpolate."),
        (("--tv-weight", "0"), "0 is not above 0."),
        (("--tv-weight", "nan"), "nan is not a finite number."),
        (("--tv-weight", "0.1", "--tv-keep", "0"), "expected keep > 0, got 0"),
        (("--tv-weight", "0.1", "--tv-steps", "1"), "expected steps >= 2, got 1"),
        (("--tv-weight", "0.1", "--tv-keep", "2"), "2 is not from 0 to 1."),
        (("--tv-weight", "0.1", "--tv-seed", "1"), "is for a mask: no pixel is dropped"),
        (("--tv-weight", "0.1", "--mean", "1,2"), "expected a mean of 1 number or 1, one per"),
        ((), "Give --jump or --jumps, --tv-weight or --interpolate."),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Status 2, nothing written."""
    ran = onnxfit_command("retrofit", DIGITS, *arguments, "-o", tmp_path / "out.onnx")
    assert 2 == ran.status
    assert message in ran.err
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["retrofit", "calibrate", "finetune", "compile"])
def test_what_is_inside_does_not_change_behind_it(
    verb: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Verbs that write other jumps or weights refuse it, and say what to do."""
    pytest.importorskip("torch")
    path, out, data = tmp_path / "m.onnx", tmp_path / "out.onnx", MODELS / "digits_val.npz"
    onnxfit.save(onnxfit.denoise(onnxfit.retrofit(DIGITS, 0.2), 0.05), path)
    more: dict[str, tuple[Any, ...]] = {
        "retrofit": ("--jump", "0.3"),
        "calibrate": ("--data", data),
        "finetune": ("--data", data, "--val", MODELS / "digits_test.npz"),
        "compile": (),
    }
    ran = onnxfit_command(verb, path, *more[verb], "-o", out)
    if verb == "compile" and "library" in ran.err:
        pytest.skip("there is no custom-op library")
    assert 2 == ran.status
    assert "the model has a denoising in front of it: " in ran.err
    assert not out.exists()
