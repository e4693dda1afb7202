"""Interpolation by the weighted nonlocal Laplacian, which takes a batch as a whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import runner
from interpolation_support import (
    DIGITS,
    OPSETS,
    TEMPLATES,
    M,
    computed,
    network,
    samples,
    with_output,
)
from numpy.typing import NDArray
from onnx import ModelProto
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve
from support import MODELS

import onnxfit
from onnxfit.data import as_dataset
from onnxfit.deployed import Deployed
from onnxfit.errors import DataError
from onnxfit.passes.wnll import RIDGE, SWEEPS
from onnxfit.record import provenance

K, MIDDLE, CLASSES = 15, 8, 10
BOUNDS = (-1000.0, 1000.0)
Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Case = tuple[NDArray[np.float32], NDArray[np.float32], Labels]


def bare(d: int) -> ModelProto:
    """Make a network of double precision whose features are its input."""
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        network (double[N, {d}] x) => (double[N, {CLASSES}] logits)
        <double[{d}, {CLASSES}] w> {{ h = Identity(x)\n logits = MatMul(h, w) }}
        """
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((d, CLASSES)), "w"))
    return model


def solved(case: Case, k: int = K, m: int = MIDDLE, sweeps: int = SWEEPS) -> Array:
    """Run the file on a batch of features; return its probabilities."""
    x, templates, labels = case
    model = onnxfit.interpolate(
        bare(x.shape[1]),
        (templates, labels),
        kind="wnll",
        neighbours=k,
        bandwidth_neighbour=m,
        bounds=BOUNDS,
    )
    limit = next(t for t in model.graph.initializer if t.name.endswith("/sweeps"))
    limit.raw_data = np.int64(sweeps).tobytes()
    found: Array = np.exp(computed(model, x.astype(np.float64))) - 1e-7
    return found


def directed_weights(points: Array, k: int, m: int) -> dict[tuple[int, int], float]:
    """Compute w(x, y) of all points, one by one: x, y → weight, none for those farther away."""
    weights = {}
    for row, point in enumerate(points):
        square = ((points - point) ** 2).sum(1)
        others = [other for other in range(len(points)) if other != row]
        nearest = sorted(others, key=lambda other: square[other])
        # Those as far as the k-th count too.
        last = square[nearest[k - 1]] * (1 + 1e-6)
        for other in [other for other in others if square[other] <= last]:
            weights[row, other] = float(np.exp(-square[other] / square[nearest[m - 1]]))
    return weights


def system(case: Case, k: int = K, m: int = MIDDLE) -> tuple[Any, Array]:
    """Build the equations of the papers for a batch, from the definition: matrix, right side."""
    x, templates, labels = case
    n, count = len(x), len(templates)
    weights = directed_weights(np.concatenate([x, templates]).astype(np.float64), k, m)
    entries: list[tuple[int, int, float]] = []
    right = np.zeros((n, int(labels.max()) + 1))
    for (a, b), weight in weights.items():
        # As w(x, y) of the unknown a, and as w(y, x) of the unknown b.
        for row, other in ((a, b), (b, a)):
            if row >= n:
                continue
            tie = weight
            if other >= n and other == a:
                tie += weight * ((n + count) / count - 1)
            entries.append((row, row, tie))
            if other < n:
                entries.append((row, other, -tie))
            else:
                right[row, labels[other - n]] += tie
    rows, columns, values = zip(*entries, strict=True)
    return coo_array((values, (rows, columns)), shape=(n, n)).tocsc(), right


def by_the_kernel(case: Case, k: int = K, m: int = MIDDLE) -> Array:
    """Compute what the nearest templates alone say of each sample."""
    x, templates, labels = case
    found = np.zeros((len(x), int(labels.max()) + 1))
    for row, point in enumerate(x.astype(np.float64)):
        square = ((templates.astype(np.float64) - point) ** 2).sum(1)
        nearest = np.argsort(square)[:k]
        weights = np.exp(-(square[nearest] - square[nearest[0]]) / square[nearest[m - 1]])
        np.add.at(found[row], labels[nearest], weights / weights.sum())
    return found


def with_ridge(case: Case, k: int = K, m: int = MIDDLE) -> Array:
    """Solve the equations with the term that ties each sample to the kernel's answer."""
    matrix, right = system(case, k, m)
    n = len(case[0])
    ridge = coo_array((np.full(n, RIDGE), (range(n), range(n))), shape=(n, n))
    found: Array = spsolve((matrix + ridge).tocsc(), right + RIDGE * by_the_kernel(case, k, m))
    return found.reshape(right.shape)


def scattered(n: int, count: int, d: int, seed: int = 0) -> Case:
    """Draw features without any order."""
    random = np.random.default_rng(seed)
    x, templates = random.normal(size=(n, d)), random.normal(size=(count, d))
    return x.astype(np.float32), templates.astype(np.float32), np.arange(count) % CLASSES


def clustered(n: int, count: int, d: int, seed: int = 0) -> Case:
    """Draw features around a centre for each class."""
    random = np.random.default_rng(seed)
    centres, labels = 6 * random.normal(size=(CLASSES, d)), np.arange(count) % CLASSES
    x = centres[random.integers(CLASSES, size=n)] + random.normal(size=(n, d))
    templates = centres[labels] + random.normal(size=(count, d))
    return x.astype(np.float32), templates.astype(np.float32), labels


def moved(n: int, count: int, d: int, seed: int = 0) -> Case:
    """Draw clusters, and move half of the samples away from all templates."""
    x, templates, labels = clustered(n, count, d, seed)
    way = np.random.default_rng(seed + 1).normal(size=d)
    x[n // 2 :] += (60 * way / np.linalg.norm(way)).astype(np.float32)
    return x, templates, labels


def island(n: int, count: int, d: int, seed: int = 0) -> Case:
    """Draw clusters, and the samples of a batch far away, close together."""
    _, templates, labels = clustered(n, count, d, seed)
    x = 300 + np.random.default_rng(seed + 1).normal(size=(n, d))
    return x.astype(np.float32), templates, labels


@pytest.mark.parametrize("n", [1, 2, 17, 256])
@pytest.mark.parametrize("make", [scattered, clustered])
@pytest.mark.parametrize(("count", "d"), [(20, 6), (300, 64)])
def test_it_is_the_solution_of_the_sparse_system(n: int, make: Any, count: int, d: int) -> None:
    """The papers' equations alone, solved by SciPy, give the same where labels are near."""
    case = make(n, count, d)
    matrix, right = system(case)
    wanted = spsolve(matrix, right).reshape(right.shape)
    found = solved(case)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(found, with_ridge(case), atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(("k", "m"), [(K, MIDDLE), (5, 4), (20, 3)])
def test_neighbours_that_are_equally_far(k: int, m: int) -> None:
    """Samples that are templates are as far from all others as these, and all of them count."""
    _, templates, labels = scattered(1, 60, 6)
    case = templates[:30], templates, labels
    weights = directed_weights(np.concatenate(case[:2]).astype(np.float64), k, m)
    assert len(weights) > 90 * k
    np.testing.assert_allclose(solved(case, k, m), with_ridge(case, k, m), atol=1e-6)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (5, 1), (5, 5), (20, 3)])
def test_other_neighbourhoods(k: int, m: int) -> None:
    """Also where as many neighbours are asked for as there are templates."""
    case = scattered(9, 20, 4)
    np.testing.assert_allclose(solved(case, k, m), with_ridge(case, k, m), atol=1e-5)


def test_one_sample_alone() -> None:
    """Its probabilities are shares of weights, those of templates counted a little more."""
    x, templates, labels = clustered(1, 60, 6)
    weights = directed_weights(np.concatenate([x, templates]).astype(np.float64), K, MIDDLE)
    wanted = np.zeros(CLASSES)
    for (a, b), weight in weights.items():
        if 0 in (a, b):
            wanted[labels[max(a, b) - 1]] += weight * (1 if a == 0 else 1 + 1 / 60)
    np.testing.assert_allclose(solved((x, templates, labels))[0], wanted / wanted.sum(), atol=1e-5)


@pytest.mark.parametrize("n", [17, 256])
def test_samples_without_a_label_near_take_the_mean_of_what_the_kernel_says(n: int) -> None:
    """The papers' system is singular there; the ridge makes one answer of an island."""
    case = island(n, 100, 6)
    matrix, _ = system(case)
    # Templates' own rows reach no farther than to other templates, so that nothing is tied down.
    assert np.abs(np.asarray(matrix.sum(1))).max() < 1e-9
    found = solved(case)
    wanted = by_the_kernel(case).mean(0)
    np.testing.assert_allclose(found, np.tile(wanted, (n, 1)), atol=1e-4)


@pytest.mark.parametrize(("count", "d"), [(20, 6), (100, 6), (100, 64), (1000, 6)])
def test_weak_ties_to_labels(count: int, d: int) -> None:
    """Far samples hang on few weights or none; a third of the sweeps is to spare."""
    case = moved(256, count, d)
    found = solved(case, sweeps=SWEEPS * 2 // 3)
    np.testing.assert_allclose(found, with_ridge(case), atol=1e-4)
    np.testing.assert_array_equal(found, solved(case))


def test_ordinary_batches_need_few_sweeps() -> None:
    """Among their templates samples are done after 20, to what the output can show."""
    case = scattered(256, 300, 64)
    np.testing.assert_allclose(solved(case, sweeps=20), solved(case), atol=1e-6)


def test_the_order_of_a_batch_is_nothing_but_its_company_is() -> None:
    """Samples bring their answers along; alone they have others."""
    x, templates, labels = scattered(40, 60, 6)
    order = np.random.default_rng(3).permutation(len(x))
    together = solved((x, templates, labels))
    np.testing.assert_allclose(solved((x[order], templates, labels)), together[order], atol=1e-7)
    alone = np.concatenate([solved((x[i : i + 1], templates, labels)) for i in range(5)])
    assert np.abs(alone - together[:5]).max() > 0.05


def test_equal_samples_and_templates() -> None:
    """Many copies of a sample, and of a template, are no division by zero."""
    x, templates, labels = clustered(4, 60, 6)
    found = solved((x.repeat(20, 0), templates.repeat(3, 0), labels.repeat(3)))
    assert np.isfinite(found).all()
    copies = found.reshape(4, 20, CLASSES)
    assert (by_the_kernel((x, templates, labels)).argmax(1)[:, None] == copies.argmax(2)).all()
    np.testing.assert_allclose(copies, copies[:, :1].repeat(20, 1), atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_no_number(value: float) -> None:
    """It has no answer, and leaves the others those of the kernel."""
    x, templates, labels = scattered(6, 60, 6)
    x[2] = value
    found = solved((x, templates, labels))
    others = np.array([0, 1, 3, 4, 5])
    assert np.isnan(found[2]).all()
    wanted = by_the_kernel((x[others], templates, labels))
    np.testing.assert_allclose(found[others], wanted, atol=1e-6)
    assert (0, CLASSES) == solved((x[:0], templates, labels)).shape


@pytest.mark.parametrize(("opset", "ir"), OPSETS)
def test_old_and_new_files(opset: int, ir: int) -> None:
    """The checker passes, and the Loop runs, also where initializers are among the inputs."""
    data = samples(M, 2)
    wanted = computed(onnxfit.interpolate(network(), data, kind="wnll"), data[0])
    model = network(opset=opset, ir=ir)
    found = onnxfit.interpolate(model, data, kind="wnll")
    onnx.checker.check_model(found, full_check=True)
    np.testing.assert_allclose(computed(found, data[0]), wanted, rtol=1e-4, atol=1e-5)
    assert model == onnxfit.restore(found)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_types(kind: Any) -> None:
    """The system is in double precision; the output has the type that it had."""
    data = samples(M, 2)
    found = computed(
        onnxfit.interpolate(network(kind=kind), data, kind="wnll"), data[0].astype(kind)
    )
    assert kind == found.dtype
    wanted = computed(onnxfit.interpolate(network(), data, kind="wnll"), data[0])
    np.testing.assert_allclose(np.exp(found), np.exp(wanted), atol=0.02)


def test_it_goes_with_jumps_and_other_features() -> None:
    """Restoring takes both back, byte for byte; the record says what was done."""
    hard = onnxfit.retrofit(DIGITS, 0.3)
    pool = next(node for node in hard.graph.node if node.op_type == "MaxPool")
    both = onnxfit.interpolate(hard, TEMPLATES, kind="wnll", feature=pool.output[0])
    assert DIGITS.read_bytes() == onnxfit.restore(both).SerializeToString()
    record = provenance(both)["interpolation"]
    assert ("wnll", pool.output[0]) == (record["kind"], record["feature"])
    again = onnxfit.interpolate(both, TEMPLATES)
    assert "kernel" == provenance(again)["interpolation"]["kind"]
    assert onnxfit.interpolate(hard, TEMPLATES).graph == again.graph


def test_a_fixed_batch() -> None:
    """A file made for 8 samples takes them 8 at a time, in ONNX Runtime and in the twin."""
    torch = pytest.importorskip("torch")
    model = network()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    found = onnxfit.interpolate(model, samples(M, 2), kind="wnll")
    x = samples(20, 1)[0]
    wanted = np.concatenate([computed(found, x[:8]), computed(found, x[8:16])])
    (whole,) = Deployed(found)(x)
    np.testing.assert_array_equal(whole[:16], wanted)
    twin = onnxfit.to_torch(found)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(twin, whole, atol=1e-4)


@pytest.mark.parametrize(("make", "n"), [(scattered, 2), (clustered, 20), (moved, 64)])
def test_the_twin_computes_the_same_and_its_gradients(make: Any, n: int) -> None:
    """Gradients through the sweeps of the Loop are those of PyTorch's own solution."""
    torch = pytest.importorskip("torch")
    x, templates, labels = make(n, 100, 6)
    model = onnxfit.interpolate(bare(6), (templates, labels), kind="wnll", bounds=BOUNDS)
    points = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    y = onnxfit.to_torch(model)(points)
    np.testing.assert_allclose(
        np.exp(y.detach().numpy()), np.exp(computed(model, points.detach().numpy())), atol=1e-6
    )
    (found,) = torch.autograd.grad((y.exp() * torch.arange(1, 11)).sum(), points)
    u = solved_by_torch(points, torch.from_numpy(templates).double(), torch.from_numpy(labels))
    np.testing.assert_allclose(y.detach().exp(), u.detach() + 1e-7, atol=1e-6)
    (wanted,) = torch.autograd.grad((u * torch.arange(1, 11)).sum(), points)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def solved_by_torch(x: Any, templates: Any, labels: Any) -> Any:
    """Solve the equations, ridge and all, as PyTorch can differentiate it."""
    import torch

    def square(a: Any, b: Any) -> Any:
        return ((a[:, None] - b[None]) ** 2).sum(2)

    def weights(distances: Any, m: int, k: int) -> Any:
        ordered = distances.sort(1).values
        near = distances <= ordered[:, k - 1 : k]
        return torch.exp(-distances / ordered[:, m - 1 : m]) * near

    n, count = len(x), len(templates)
    everyone = torch.cat([x, templates])
    # Each is its own nearest.
    w = weights(square(everyone, everyone), MIDDLE + 1, K + 1)
    between = w[:n, :n] + w[:n, :n].T
    labelled = w[:n, n:] + w[n:, :n].T * (1 + n / count)
    known = torch.nn.functional.one_hot(labels, CLASSES).double()
    alone = square(x, templates)
    alone = alone - alone.min(1, keepdim=True).values
    far = square(x, templates).sort(1).values
    p = torch.exp(-alone / far[:, MIDDLE - 1 : MIDDLE]) * (
        square(x, templates) <= far[:, K - 1 : K]
    )
    p = (p / p.sum(1, keepdim=True)) @ known
    matrix = torch.diag(between.sum(1) + labelled.sum(1) + RIDGE) - between
    return torch.linalg.solve(matrix, labelled @ known + RIDGE * p)


def test_it_is_seen_that_a_batch_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """``verify`` warns of this kind, and of no file that treats samples one by one."""
    pytest.importorskip("torch")
    from onnxfit.verification import evidence
    from onnxfit.verification.settings import Settings
    from onnxfit.verification.target import Target

    with np.load(MODELS / "digits_test.npz") as file:
        data = file["x"][:20], file["y"][:20]
    opened = as_dataset(data, limit=None, bounds=(0.0, 1.0), channels=1)
    said = {}
    for kind in ("kernel", "wnll"):
        target = Target(onnxfit.interpolate(DIGITS, TEMPLATES, kind=kind))
        found = evidence.Evidence({"model": target}, opened, Settings())
        said[kind] = list(found.warnings())
    assert [] == said["kernel"]
    (text,) = said["wnll"]
    assert "What the model says of a sample depends on the others of its batch" in text
    assert "64 at a time" in text
    monkeypatch.setattr(evidence, "BATCH_EFFECT", -1.0)
    few = data[0][:4], data[1][:4]
    result = onnxfit.verify(DIGITS, few, suite="paper", steps=1)
    assert any("depends on the others of its batch" in text for text in result["warnings"])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record and the printed line name the kind; the option goes with templates alone."""
    run = runner(capsys)
    out = tmp_path / "out.onnx"
    given = ("retrofit", DIGITS, "--interpolate", TEMPLATES, "--interpolation", "wnll", "-o", out)
    ran = run(*given, "--dry-run")
    assert 0 == ran.status, ran.err
    assert "interpolation: wnll, log-probabilities by the 15 nearest of 450 templates" in ran.out
    ran = run(*given, "--json")
    assert "wnll" == json.loads(ran.out)["provenance"]["interpolation"]["kind"]
    assert "wnll" in run("inspect", out).out
    out.unlink()
    ran = run("retrofit", DIGITS, "--jump", "0.2", "--interpolation", "wnll", "-o", out)
    assert 2 == ran.status
    assert "--interpolation goes with --interpolate." in ran.err
    assert not out.exists()


def test_fewer_templates_than_neighbours() -> None:
    """They are refused, though samples would be neighbours too."""
    x, y = samples(10, 2)
    with pytest.raises(DataError, match="there are 10 templates, fewer than the 15 neighbours"):
        onnxfit.interpolate(network(), (x, y), kind="wnll")


def test_features_that_the_file_computes_are_those_of_the_system() -> None:
    """Behind a real layer in float32, too."""
    model, (x, _), (t, labels) = network(), samples(30, 1), samples(60, 2)
    plain = with_output(model, "h")
    h, templates = computed(plain, x, "h"), computed(plain, t, "h")
    matrix, right = system((h, templates, labels))
    given = np.exp(computed(onnxfit.interpolate(model, (t, labels), kind="wnll"), x))
    np.testing.assert_allclose(given, spsolve(matrix, right), atol=1e-4)
