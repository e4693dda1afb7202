"""Interpolation over labelled features in the place of the last layer."""

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from command import Command, runner
from interpolation_support import (
    DIGITS,
    HEADS,
    OPSETS,
    TEMPLATES,
    C,
    D,
    M,
    computed,
    network,
    samples,
    with_output,
)
from numpy.typing import NDArray
from onnx import ModelProto
from support import MODELS

import onnxfit
from onnxfit import files, passes
from onnxfit.cli import main
from onnxfit.errors import DataError, ModelError
from onnxfit.passes.head import find_head
from onnxfit.passes.interpolation import _KINDS, Kind
from onnxfit.record import provenance


@pytest.fixture
def onnxfit_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line."""
    return runner(capsys)


def by_hand(
    features: NDArray[Any], templates: NDArray[Any], labels: NDArray[np.int64], k: int, m: int
) -> NDArray[np.float64]:
    """Compute the probabilities of the classes in double precision."""
    square = ((features[:, None].astype(np.float64) - templates[None]) ** 2).sum(2)
    found = np.zeros((len(features), C))
    for row, distances in enumerate(square):
        nearest = np.argsort(distances, kind="stable")[:k]
        width = distances[nearest[m - 1]]
        weights = np.exp(-distances[nearest] / width)
        np.add.at(found[row], labels[nearest], weights / weights.sum())
    return found


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("k", "m"), [(15, 8), (5, 1), (1, 1)])
def test_it_is_the_kernel_of_the_nearest_features(head: str, k: int, m: int) -> None:
    """The formula in double precision gives the same, behind every form of a dense layer."""
    model, (x, _), (t, labels) = network(HEADS[head]), samples(30, 1), samples(M, 2)
    found = onnxfit.interpolate(model, (t, labels), neighbours=k, bandwidth_neighbour=m)
    onnx.checker.check_model(found, full_check=True)
    plain = with_output(model, "h")
    wanted = by_hand(computed(plain, x, "h"), computed(plain, t, "h"), labels, k, m)
    given = computed(found, x)
    probabilities = given if head == "probabilities" else np.exp(given)
    np.testing.assert_allclose(probabilities, wanted, atol=2e-5)


@pytest.mark.parametrize(("opset", "ir"), OPSETS)
def test_old_and_new_files(opset: int, ir: int) -> None:
    """The checker passes, also where initializers are among the inputs; results are the same."""
    data = samples(M, 2)
    wanted = computed(onnxfit.interpolate(network(), data), data[0])
    model = network(opset=opset, ir=ir)
    found = onnxfit.interpolate(model, data)
    onnx.checker.check_model(found, full_check=True)
    np.testing.assert_allclose(computed(found, data[0]), wanted, rtol=1e-4, atol=1e-5)
    assert model == onnxfit.restore(found)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_types(kind: Any) -> None:
    """Distances are computed in float32; the output has the type that it had."""
    model = network(kind=kind)
    data = samples(M, 2)
    found = computed(onnxfit.interpolate(model, data), data[0].astype(kind))
    assert kind == found.dtype
    wanted = computed(onnxfit.interpolate(network(), data), data[0])
    np.testing.assert_allclose(np.exp(found), np.exp(wanted), atol=0.02)


INSIDE = """
    z = Cast<to = 10>(x)
    g = Gemm<transB = 1>(z, v, c)
    h = Relu(g)
    m = Gemm<transB = 1>(h, w, b)
    p = Softmax(m)
    logits = Cast<to = 1>(p)
"""


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("feature", [None, "h"])
def test_another_type_inside(kind: Kind, feature: str | None) -> None:
    """Where float16 is computed in, and float given and returned, so it is afterwards."""
    model, data = network(kind=np.float16), samples(M, 2)
    inside = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        network (float[N, 4] x) => (float[N, {C}] logits) {{ {INSIDE} }}
        """
    )
    inside.graph.initializer.extend(model.graph.initializer)
    found = onnxfit.interpolate(inside, data, kind=kind, feature=feature)
    onnx.checker.check_model(found, full_check=True)
    given = computed(found, data[0])
    assert np.float32 == given.dtype
    wanted = computed(onnxfit.interpolate(model, data, kind=kind), data[0].astype(np.float16))
    np.testing.assert_allclose(given, np.exp(wanted), atol=0.002)


BRANCH = f"""
    s = ReduceSum<keepdims = 0>(h)
    zero = Constant<value = float {{0.0}}>()
    more = Less(zero, s)
    m = Gemm<transB = 1>(h, w, b)
    logits = If(more) <
        then_branch = yes () => (float[N, {C}] t) {{ t = Softmax(m) }},
        else_branch = no () => (float[N, {C}] e) {{ e = Softmax(m) }}
    >
"""
PARTS = f"""
    m = Gemm<transB = 1>(h, w, b)
    e = Exp(m)
    ones = Constant<value = float[{C}, {C}] {{{", ".join("1" * C * C)}}}>()
    s = MatMul(e, ones)
    logits = Div(e, s)
"""


@pytest.mark.parametrize("head", [BRANCH, PARTS])
def test_what_comes_out_is_what_the_source_gives(head: str) -> None:
    """Probabilities, also where no last Softmax of the main graph makes them."""
    data = samples(M, 2)
    found = onnxfit.interpolate(network(head), data, feature="h")
    assert "probabilities" == provenance(found)["interpolation"]["gives"]
    wanted = computed(onnxfit.interpolate(network(HEADS["probabilities"]), data), data[0])
    np.testing.assert_array_equal(wanted, computed(found, data[0]))


def test_features_too_large_for_distances() -> None:
    """Squares that float32 does not hold would make every answer no number."""
    large = "k = Constant<value = float {1e19}>()\n j = Mul(h, k)\n logits = MatMul(j, wt)"
    with pytest.raises(
        DataError, match=r"a template are \d\.\de\+19 long: float32 holds no squared"
    ):
        onnxfit.interpolate(network(large), samples(M, 2))
    fits = network(large.replace("1e19", "1e17"))
    found = computed(onnxfit.interpolate(fits, samples(M, 2)), samples(M, 2)[0])
    wanted = computed(onnxfit.interpolate(network(), samples(M, 2)), samples(M, 2)[0])
    np.testing.assert_allclose(np.exp(found), np.exp(wanted), atol=1e-5)


def test_features_may_be_named() -> None:
    """Those of a convolution are laid out in a row; without a dense layer they must be named."""
    model = onnx.load(DIGITS)
    pool = next(node for node in model.graph.node if node.op_type in ("MaxPool", "Conv"))
    found = onnxfit.interpolate(model, TEMPLATES, feature=pool.output[0])
    record = provenance(found)["interpolation"]
    assert pool.output[0] == record["feature"]
    assert record["dimensions"] > 64
    with pytest.raises(ModelError, match="no node of the main graph writes features named 'y'"):
        onnxfit.interpolate(model, TEMPLATES, feature="y")
    bare = network("logits = Mul(h, h)")
    with pytest.raises(
        ModelError, match=r"'logits' is no dense layer .* name the value .* --feature"
    ):
        onnxfit.interpolate(bare, samples(M, 2))
    named = onnxfit.interpolate(bare, (samples(M, 2)[0], np.arange(M) % D), feature="h")
    assert (M, D) == computed(named, samples(M, 2)[0]).shape


@pytest.mark.parametrize(
    ("behind", "shape"),
    [
        ("logits = Reshape(m, four)", (2, C, 1, 1)),
        ("logits = Reshape(m, three)", (2, 1, C)),
        ("p = Softmax(m)\n logits = Reshape(p, four)", (2, C, 1, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["kernel", "wnll"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_head_of_more_axes(behind: str, shape: tuple[int, ...], kind: Kind, dtype: Any) -> None:
    """The output keeps its shape."""
    axes = f"""
        four = Constant<value_ints = [0, {C}, 1, 1]>()
        three = Constant<value_ints = [0, 1, {C}]>()
    """
    model, data = (
        network(f"{axes}\nm = Gemm<transB = 1>(h, w, b)\n{behind}", kind=dtype),
        samples(M, 2),
    )
    x = data[0][:2].astype(dtype)
    assert shape == computed(model, x).shape
    given = computed(onnxfit.interpolate(model, data, kind=kind), x)
    head = HEADS["probabilities" if "Softmax" in behind else "logits"]
    flat = computed(onnxfit.interpolate(network(head, kind=dtype), data, kind=kind), x)
    np.testing.assert_array_equal(flat.reshape(shape), given)


def test_a_template_has_its_own_class() -> None:
    """With a single neighbour each template is recognised, and of all digits nearly all are."""
    data = samples(M, 2)
    one = onnxfit.interpolate(network(), data, neighbours=1, bandwidth_neighbour=1)
    assert (data[1] == computed(one, data[0]).argmax(1)).all()
    with np.load(MODELS / "digits_test.npz") as file:
        x, y = file["x"], file["y"]
    before, after = (
        float((computed(model, x).argmax(1) == y).mean())
        for model in (onnx.load(DIGITS), onnxfit.interpolate(DIGITS, TEMPLATES))
    )
    assert before - 0.01 <= after


def test_equal_features_are_no_division_by_zero() -> None:
    """Where the nearest templates are the sample itself, the output is finite."""
    x, y = samples(3, 1)
    found = onnxfit.interpolate(network(), (x.repeat(10, 0), y.repeat(10, 0)), neighbours=8)
    given = computed(found, x)
    assert np.isfinite(given).all()
    assert (y == given.argmax(1)).all()


@pytest.mark.parametrize("optimize", [False, True])
def test_it_goes_with_jumps(optimize: bool) -> None:
    """Features are computed with the jumps in place; restoring takes both back."""
    hard = onnxfit.retrofit(DIGITS, 0.3, optimize=optimize)
    both = onnxfit.interpolate(hard, TEMPLATES)
    assert both != onnxfit.interpolate(DIGITS, TEMPLATES)
    assert DIGITS.read_bytes() == onnxfit.restore(both).SerializeToString()
    assert {"jumps", "interpolation"} <= set(provenance(both))
    with np.load(MODELS / "digits_test.npz") as file:
        x = file["x"][:50]
    name = provenance(both)["interpolation"]["feature"]
    parts = [onnxfit.session(with_output(model, name)) for model in (hard, both)]
    features = [session.run([name], {session.get_inputs()[0].name: x})[0] for session in parts]
    np.testing.assert_array_equal(features[0], features[1])


def test_a_second_interpolation_takes_the_place_of_the_first() -> None:
    """The same comes out as of the source, but for what it says it was made of."""
    data = samples(M, 2)
    first = onnxfit.interpolate(network(), samples(M, 5), neighbours=4, bandwidth_neighbour=2)
    again, once = (onnxfit.interpolate(model, data) for model in (first, network()))
    assert once.graph == again.graph
    assert network() == onnxfit.restore(again)


def test_a_value_that_a_branch_reads_keeps_its_name() -> None:
    """The head's value is renamed where subgraphs read it, too, and back again."""
    head = (
        HEADS["logits"]
        + """
            s = ReduceSum<keepdims = 0>(logits)
            zero = Constant<value = float {0.0}>()
            more = Greater(s, zero)
            unused = If(more) <
                then_branch = yes () => (float[N, 3] t) { t = Identity(logits) },
                else_branch = no () => (float[N, 3] e) { e = Neg(logits) }
            >
    """
    )
    model = network(head)
    found = onnxfit.interpolate(model, samples(M, 2))
    onnx.checker.check_model(found)
    branch = next(node for node in found.graph.node if node.op_type == "If")
    assert ["onnxfit.head/logits"] * 2 == [a.g.node[0].input[0] for a in branch.attribute]
    branch.attribute[0].g.output[0].name = "onnxfit.head/logits"
    given = onnxfit.restore(found).graph.node[-1].attribute[0].g
    assert "logits" == given.output[0].name
    branch.attribute[0].g.output[0].name = "t"
    assert model == onnxfit.restore(found)


def test_the_twin_computes_the_same_and_its_gradients() -> None:
    """Gradients reach the sample through the distances."""
    torch = pytest.importorskip("torch")
    found = onnxfit.interpolate(network(), samples(M, 2))
    x = torch.from_numpy(samples(20, 1)[0]).requires_grad_()
    y = onnxfit.to_torch(found)(x)
    np.testing.assert_allclose(y.detach().numpy(), computed(found, x.detach().numpy()), atol=1e-4)
    (slope,) = torch.autograd.grad(y[:, 0].exp().sum(), x)
    step = 2e-3 * slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-9)
    ahead = computed(found, (x + step).detach().numpy())
    behind = computed(found, (x - step).detach().numpy())
    moved = (np.exp(ahead) - np.exp(behind))[:, 0] / 2
    wanted = (slope * step).sum(1).numpy()
    smooth = np.abs(moved - wanted) < 0.1 * np.abs(wanted) + 2e-5
    assert smooth.mean() > 0.7  # Elsewhere a neighbour comes or goes.


def test_verify_compares_it_with_its_own_head() -> None:
    """The baseline is the model before, found in the file."""
    pytest.importorskip("torch")
    with np.load(MODELS / "digits_test.npz") as file:
        data = file["x"][:40], file["y"][:40]
    found = onnxfit.verify(onnxfit.interpolate(DIGITS, TEMPLATES), data, suite="quick", eps=0.1)
    assert not found["baseline"]["same_as_model"]
    alone = onnxfit.verify(DIGITS, data, suite="quick", eps=0.1)
    assert alone["clean"]["accuracy"] == found["baseline"]["clean"]["accuracy"]
    assert not found.passed  # Gradients vanish where all neighbours are of one class.
    failed = {check["check"] for check in found["diagnostics"] if not check["passed"]}
    assert "zero-gradients" in failed
    networks = ["own head", "template kernel 1", "template kernel 4", "template kernel 16"]
    through = [record for record in found["attacks"] if "network" in record]
    assert networks == [record["network"] for record in through]
    assert found["worst_case"]["robust_accuracy"] < found["native"]["robust_accuracy"] - 0.15
    others = found["baseline"]["attacks"]
    assert [None] * 4 == [r["robust_accuracy"] for r in others if r.get("network") in networks]
    assert not any("network" in record for record in alone["attacks"])
    told = next(c["detail"] for c in found["diagnostics"] if c["check"] == "native-gradients")
    assert " (own head), " in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbours": M + 1}, f"there are {M} templates, fewer than the {M + 1} neighbours"),
        ({"y": np.zeros(M, np.int64)}, "there is no template of class 1, 2: it could never be"),
        ({"y": np.arange(M) % 4}, "the label of template 3 is 3, but the model has 3 classes"),
        ({"x": np.zeros((M, 5), np.float32)}, "takes samples of shape 4; the templates are 5"),
    ],
)
def test_templates_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    """One sentence says why."""
    x, y = samples(M, 2)
    data = change.pop("x", x), change.pop("y", y)
    with pytest.raises(DataError, match=message):
        onnxfit.interpolate(network(), data, **change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "bogus"}, "expected a kind of kernel or wnll, got 'bogus'"),
        ({"neighbours": "15"}, "expected a whole number for neighbours, got '15'"),
        ({"neighbours": 15.0}, "expected a whole number for neighbours, got 15.0"),
        ({"bandwidth_neighbour": 0}, "expected bandwidth_neighbour >= 1, got 0"),
        ({"mean": [0.1] * 3}, "expected a mean of 1 number or 4, one per channel, got 3"),
        ({"std": [0.0]}, r"expected finite numbers above 0 as std, got \[0.0\]"),
    ],
)
def test_settings_out_of_their_range(settings: dict[str, Any], message: str) -> None:
    """One sentence says what is wrong."""
    with pytest.raises(ValueError, match=message):
        onnxfit.interpolate(network(), samples(M, 2), **settings)


def test_numbers_of_numpy() -> None:
    """They are as good as Python's, which a record holds."""
    given: dict[str, Any] = {"neighbours": np.int64(5), "bandwidth_neighbour": np.int64(3)}
    found = onnxfit.interpolate(network(), samples(M, 2), **given)
    wanted = onnxfit.interpolate(network(), samples(M, 2), neighbours=5, bandwidth_neighbour=3)
    assert wanted == found


def test_the_command_line_knows_all_kinds() -> None:
    """Its list is written out, so that --help need not import them."""
    options = {option.name: option for option in main.commands["retrofit"].params}
    choice: Any = options["interpolation"].type
    assert get_args(Kind) == tuple(choice.choices)
    assert get_args(Kind) == tuple(_KINDS)


@pytest.mark.parametrize("name", ["onnxfit.interpolation/m", "onnxfit.head/m"])
def test_names_that_it_would_give_are_its_own(name: str) -> None:
    """A source that has one is refused."""
    model = network(f'"{name}" = Neg(h)\n logits = Gemm<transB = 1>(h, w, b)')
    with pytest.raises(ModelError, match=f"has '{name}', a name that onnxfit keeps for itself"):
        onnxfit.interpolate(model, samples(M, 2))


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("head", ["logits", "probabilities"])
def test_node_names_that_were_dropped(kind: Kind, head: str) -> None:
    """Values are enough to take it out, the output's included; what reads of it stops that."""
    source = network(HEADS[head])
    model = onnxfit.interpolate(source, samples(M, 2), kind=kind)
    for node in model.graph.node:
        node.ClearField("name")
    assert source == onnxfit.restore(model)
    onnx.checker.check_model(onnxfit.restore(model), full_check=True)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(model.graph.node[-2].output[0], 1, None)
    )
    with pytest.raises(ModelError, match=r"another tool lets 'onnxfit\.interpolation/.*' be read"):
        onnxfit.restore(model)


def named_classes() -> ModelProto:
    """Make a network that gives the class alone."""
    model = network("m = Gemm<transB = 1>(h, w, b)\n k = ArgMax<axis = 1>(m)")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("k", 7, ["N", 1]))
    return model


def test_models_that_have_no_one_head() -> None:
    """Several outputs, several inputs, and settings out of their range."""
    data = samples(M, 2)
    with pytest.raises(ModelError, match="has the outputs 'logits', 'h'; a head is replaced where"):
        onnxfit.interpolate(with_output(network(), "h"), data)
    two = network("k = Add(h, z)\n logits = Gemm<transB = 1>(k, w, b)")
    two.graph.input.append(onnx.helper.make_tensor_value_info("z", 1, ["N", D]))
    with pytest.raises(ModelError, match="the model takes 2 inputs; templates are for one"):
        onnxfit.interpolate(two, data)
    with pytest.raises(ValueError, match="bandwidth_neighbour from 1 to the 5 neighbours, got 8"):
        onnxfit.interpolate(network(), data, neighbours=5)
    with pytest.raises(ModelError, match="the output 'k' holds no floating-point numbers"):
        onnxfit.interpolate(named_classes(), data, feature="h")
    with pytest.raises(ModelError, match="'logits' does not depend on 'side'"):
        find_head(network("side = Neg(h)\n logits = Gemm<transB = 1>(h, w, b)"), "side")


def test_a_head_that_was_dropped_cannot_come_back() -> None:
    """An optimiser removes what nothing reads; the sentence says what to take."""
    found = onnxfit.interpolate(network(), samples(M, 2))
    kept = [node for node in found.graph.node if "onnxfit.head/logits" not in node.output]
    del found.graph.node[:]
    found.graph.node.extend(kept)
    with pytest.raises(ModelError, match=r"the head that was replaced is gone: .* take the source"):
        onnxfit.restore(found)
    found.metadata_props[-1].value = "{}"
    with pytest.raises(ModelError, match=r"entry onnxfit\.interpolation is damaged"):
        passes.take_back(found)


def test_the_command_line(tmp_path: Path, onnxfit_command: Command) -> None:
    """The file has its ending, inspect shows it, restore gives the source byte for byte."""
    model = tmp_path / "m.onnx"
    model.write_bytes(DIGITS.read_bytes())
    ran = onnxfit_command("retrofit", model, "--interpolate", TEMPLATES, "--json")
    assert 0 == ran.status, ran.err
    record = json.loads(ran.out)["provenance"]["interpolation"]
    assert (450, 64, 15, 8) == tuple(
        record[key] for key in ("templates", "dimensions", "neighbours", "bandwidth_neighbour")
    )
    out = tmp_path / "m.interpolated.onnx"
    assert record["bytes"] < out.stat().st_size - model.stat().st_size
    ran = onnxfit_command("inspect", out)
    assert "interpolation templates" in ran.out
    ran = onnxfit_command("restore", out)
    assert "byte for byte the source" in ran.out
    assert model.read_bytes() == (tmp_path / "m.restored.onnx").read_bytes()
    ran = onnxfit_command("retrofit", model, "--interpolate", TEMPLATES, "--jump", "0.2")
    assert 0 == ran.status, ran.err
    assert "by the 15 nearest of 450 templates, 64 features each" in ran.out
    assert (tmp_path / "m.jump.interpolated.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--interpolate", "nothing.npz"), "nothing.npz cannot be read"),
        (("--interpolate", TEMPLATES, "--neighbours", "4"), "from 1 to the 4 neighbours, got 8"),
        (("--interpolate", TEMPLATES, "--mean", "0.1,0.2,0.3"), "a mean of 1 number or 1, one per"),
        (("--interpolate", TEMPLATES, "--include", "x"), "--include, --exclude, --optimize and"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[Any, ...], message: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Status 2, nothing written."""
    ran = onnxfit_command("retrofit", DIGITS, *arguments, "-o", tmp_path / "out.onnx")
    assert 2 == ran.status
    assert message in ran.err
    assert [] == list(tmp_path.iterdir())


def with_weights_outside(folder: Path) -> Path:
    """Write a network whose weights lie in a file of their own."""
    path = folder / "m.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("kind", ["kernel", "wnll"])
def test_templates_go_outside_where_weights_are(
    kind: Kind, tmp_path: Path, onnxfit_command: Command
) -> None:
    """They get a file of their own beside the output, and restoring needs none of it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "made").mkdir()
    source = with_weights_outside(tmp_path / "source")
    x, y = samples(200, 2)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    out = tmp_path / "made" / "out.onnx"
    given = ("retrofit", source, "--interpolate", tmp_path / "t.npz", "--interpolation", kind)
    ran = onnxfit_command(*given, "-o", out, "--dry-run", "--json")
    assert 0 == ran.status, ran.err
    assert [] == list(out.parent.iterdir())
    planned = json.loads(ran.out)["sha256"]
    ran = onnxfit_command(*given, "-o", out)
    assert 0 == ran.status, ran.err
    names = {path.name for path in out.parent.iterdir()}
    assert {"out.onnx", "out.onnx.data", "weights.bin"} == names
    assert planned == hashlib.sha256(out.read_bytes()).hexdigest()
    stored = 4 * 200 * (D + C)
    assert stored <= (tmp_path / "made" / "out.onnx.data").stat().st_size
    wanted = computed(onnxfit.interpolate(network(), (x, y), kind=kind), x)
    session = onnxfit.session(out)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], wanted, atol=1e-5)
    ran = onnxfit_command("restore", out)
    assert 0 == ran.status, ran.err
    assert source.read_bytes() == (tmp_path / "made" / "out.restored.onnx").read_bytes()
    other = tmp_path / "other" / "again.onnx"
    other.parent.mkdir()
    onnxfit.save(onnxfit.load(out), other, base_dir=out.parent)
    np.testing.assert_array_equal(
        session.run(None, {"x": x})[0], onnxfit.session(other).run(None, {"x": x})[0]
    )


def test_templates_go_outside_where_a_file_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A protobuf has a limit; another file of that name is left alone."""
    x, y = samples(200, 2)
    model = onnxfit.interpolate(network(), (x, y))
    out, data = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    onnxfit.save(model, out)
    assert not data.exists()
    monkeypatch.setattr(files, "_INSIDE", 4000)
    data.write_bytes(b"of somebody else")
    with pytest.raises(ModelError, match=r"out\.onnx\.data exists and .*; remove it, or choose"):
        onnxfit.save(model, out)
    assert b"of somebody else" == data.read_bytes()
    data.unlink()
    onnxfit.save(model, out)
    onnxfit.save(model, out)
    assert out.stat().st_size < 200 * (D + C) * 4 <= data.stat().st_size
    wanted = computed(model, x)
    np.testing.assert_array_equal(wanted, onnxfit.session(out).run(None, {"x": x})[0])
    onnxfit.save(network(), tmp_path / "plain.onnx")
    assert not (tmp_path / "plain.onnx.data").exists()
    assert network() == onnxfit.restore(out)


@pytest.mark.parametrize("verb", ["retrofit", "calibrate", "finetune", "compile"])
def test_what_would_make_its_features_wrong_is_refused(
    verb: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Other jumps or weights, for its features would be of those before."""
    pytest.importorskip("torch")
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnxfit.save(onnxfit.interpolate(onnxfit.retrofit(DIGITS, 0.2), TEMPLATES), path)
    more: dict[str, tuple[Any, ...]] = {
        "retrofit": ("--jump", "0.3"),
        "calibrate": ("--data", TEMPLATES),
        "finetune": ("--data", TEMPLATES, "--val", MODELS / "digits_test.npz"),
        "compile": (),
    }
    ran = onnxfit_command(verb, path, *more[verb], "-o", out)
    if verb == "compile" and "library" in ran.err:
        pytest.skip("there is no custom-op library")
    assert 2 == ran.status
    assert "the model has an interpolation that belongs to its weights and jumps" in ran.err
    assert not out.exists()
