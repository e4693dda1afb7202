"""Jacobians of a classifier: norms, the bound of all of them, and what pairs have in common."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import MODELS

torch = pytest.importorskip("torch")

from attack_support import Constant, Jumping, digits_cnn, random_images  # noqa: E402

from onnxfit.attacks.evasion import apply  # noqa: E402
from onnxfit.attacks.surrogates import scales_of, surrogate  # noqa: E402
from onnxfit.attacks.universal import UniversalPerturbation  # noqa: E402
from onnxfit.data import Dataset, from_arrays, open_data  # noqa: E402
from onnxfit.errors import DataError, ModelError, ParityError  # noqa: E402
from onnxfit.jacobians.measure import measure, work_of  # noqa: E402
from onnxfit.jacobians.pairs import Pairs, draw_pairs, pair_metrics  # noqa: E402
from onnxfit.jacobians.products import gram_of, jacobians_of, products_of  # noqa: E402
from onnxfit.jacobians.stacked import MOST_STEPS, largest_singular  # noqa: E402
from onnxfit.jacobians.universal import reached  # noqa: E402
from onnxfit.twin.jump_relu import JumpReLU  # noqa: E402

C, SHAPE, D = 4, (3, 2, 2), 12


class Matrix(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Logits ``A·x`` for samples of any shape: the Jacobian of every sample is A."""

    def __init__(self, matrix: NDArray[Any]) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.as_tensor(matrix, dtype=torch.float32))

    def forward(self, x: Any) -> Any:
        """Compute the logits of N×…."""
        return x.flatten(1) @ self.matrix.T


def matrix(seed: int = 0) -> NDArray[Any]:
    """Return a matrix of C×D that float32 holds."""
    drawn: NDArray[Any] = np.random.default_rng(seed).normal(size=(C, D)).astype(np.float32)
    return drawn


def network(activation: Any = None) -> Any:
    """Return a small network with an activation in it, tanh unless another is given."""
    torch.manual_seed(3)
    middle = torch.nn.Tanh() if activation is None else activation
    layers = (torch.nn.Linear(D, 20), middle, torch.nn.Linear(20, C))
    return torch.nn.Sequential(torch.nn.Flatten(), *layers)


def samples(count: int = 30) -> Dataset:
    """Return random images with random labels."""
    labels = np.random.default_rng(1).integers(0, C, count)
    return from_arrays(random_images(count, *SHAPE).numpy(), labels)


def stack_of(model: Any, data: Dataset) -> NDArray[np.float64]:
    """Return the Jacobians of all samples, N×C×D, as torch finds them one by one."""
    parts = [
        torch.autograd.functional.jacobian(model, torch.from_numpy(x)).reshape(-1, D)
        for x, _ in data.batches(1)
    ]
    stacked: NDArray[np.float64] = torch.stack(parts).double().numpy()
    return stacked


def norms_of(stacked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the spectral norms of matrices."""
    found: NDArray[np.float64] = np.linalg.norm(stacked, 2, axis=(-2, -1))
    return found


def test_a_linear_model_has_one_jacobian() -> None:
    """Its norms are those of the matrix, and all N stacked are √N times as large."""
    a, data = matrix(), samples()
    found = measure(Matrix(a), data, eps=0.1, pairs=40)
    np.testing.assert_allclose(np.full(30, np.linalg.norm(a)), found.frobenius, rtol=1e-6)
    np.testing.assert_allclose(np.full(30, np.linalg.norm(a, 2)), found.spectral, rtol=1e-6)
    expected = math.sqrt(30) * np.linalg.norm(a, 2)
    assert expected == pytest.approx(found.stacked.sigma_max, rel=1e-4)
    assert found.stacked.converged
    assert (C, D) == (found.classes, found.dimensions)
    np.testing.assert_allclose(np.ones(40), found.pairs.cosine, rtol=1e-6)
    np.testing.assert_allclose(np.ones(40), found.pairs.spectral_ratio, rtol=1e-6)


def test_jacobians_are_exact() -> None:
    """Those of a network are those that torch finds for each sample alone."""
    model, data = network(), samples(7)
    x = next(data.batches(7)).x
    expected = stack_of(model, data)
    np.testing.assert_allclose(expected, jacobians_of(model, torch.from_numpy(x)), atol=1e-6)


def test_gram_matrices_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision, whatever the columns of a part."""
    monkeypatch.setattr("onnxfit.jacobians.products._COLUMNS", 5)
    first, second = random_images(3, 2, 12), random_images(3, 4, 12)
    expected = first.double() @ second.double().mT
    torch.testing.assert_close(expected, gram_of(first, second))


def test_norms_and_stack_of_a_network() -> None:
    """Against NumPy's decomposition of the matrix that is never made."""
    model, data = network(), samples()
    stacked = stack_of(model, data)
    found = measure(model, data, eps=0.2, norm="l2", pairs=10)
    np.testing.assert_allclose(np.linalg.norm(stacked, axis=(1, 2)), found.frobenius, rtol=1e-5)
    np.testing.assert_allclose(norms_of(stacked), found.spectral, rtol=1e-5)
    sigma = float(np.linalg.svd(stacked.reshape(-1, D), compute_uv=False)[0])
    assert sigma == pytest.approx(found.stacked.sigma_max, rel=1e-4)
    assert 0.2 == found.l2_size
    assert 0.04 * sigma**2 / 30 == pytest.approx(found.mean_squared_change_bound, rel=3e-4)
    expected = 0.04 * np.square(stacked).sum() / 30
    assert expected == pytest.approx(found.frobenius_bound, rel=1e-5)
    assert found.mean_squared_change_bound <= found.frobenius_bound


def test_largest_singular_stops_at_its_tolerance() -> None:
    """A looser one takes fewer passes; MOST_STEPS are the most."""
    model, data = digits_cnn(), open_data(MODELS / "digits_test.npz", limit=60)
    loose, tight = (largest_singular(model, data, tolerance=limit) for limit in (1e-1, 1e-6))
    assert loose.steps < tight.steps <= MOST_STEPS
    assert loose.converged
    assert tight.sigma_max == pytest.approx(loose.sigma_max, rel=0.1)
    assert loose.sigma_max <= tight.sigma_max * (1 + 1e-6)


def test_a_search_that_is_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure is too small then, and the residual tells by how much it may be."""
    monkeypatch.setattr("onnxfit.jacobians.stacked.MOST_STEPS", 2)
    data = open_data(MODELS / "digits_test.npz", limit=60)
    found = largest_singular(digits_cnn(), data)
    assert (2, False) == (found.steps, found.converged)
    assert found.residual > 1e-4 * found.sigma_max**2


def test_a_stack_of_rank_one() -> None:
    """Lanczos' method has found all there is after a step, and divides by nothing."""
    row = np.zeros((C, D), np.float32)
    row[2, 5] = 3
    found = largest_singular(Matrix(row), samples(16))
    assert 12 == pytest.approx(found.sigma_max, rel=1e-5)
    assert found.steps <= 2


def test_jacobians_of_zero() -> None:
    """Norms and bound are 0; measures of pairs are not defined, and nothing correlates."""
    found = measure(Matrix(np.zeros((C, D))), samples(6), pairs=5)
    assert (0, 0) == (found.stacked.sigma_max, found.mean_squared_change_bound)
    assert np.isnan(found.pairs.cosine).all()
    assert np.isnan(found.pairs.spectral_ratio).all()
    document = found.document
    assert 5 == document["pairs"]["cosine"]["undefined"]
    assert math.isnan(document["pairs"]["cosine"]["median"])
    assert math.isnan(found.pairs.correlation("cosine"))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_bound_holds_for_linear_models(norm: Any) -> None:
    """For any perturbation, since there is no second order; the worst one for l2 reaches it."""
    a, eps = matrix(), 0.3
    found = measure(Matrix(a), samples(), eps=eps, norm=norm, pairs=1)
    drawn = np.random.default_rng(5).normal(size=(500, D))
    worst = np.linalg.svd(a)[2][:1]
    deltas = np.concatenate([drawn, worst, np.sign(worst)])
    sizes = np.abs(deltas).max(1) if norm == "linf" else np.linalg.norm(deltas, axis=1)
    changes = np.square((eps * deltas / sizes[:, None]) @ a.T.astype(np.float64)).sum(1)
    limit = found.mean_squared_change_bound
    assert changes.max() <= limit * (1 + 1e-6)
    reached = changes.max() / limit
    assert reached > (0.5 if norm == "linf" else 0.999)
    assert eps * (math.sqrt(D) if norm == "linf" else 1) == pytest.approx(found.l2_size)


def test_the_bound_is_of_first_order() -> None:
    """A small perturbation along the worst direction reaches it on a network, but for 1 %."""
    model, data, eps = network(), samples(), 1e-2
    stacked = stack_of(model, data).reshape(-1, D)
    worst = torch.from_numpy(np.linalg.svd(stacked)[2][0]).float().reshape(SHAPE)
    limit = measure(model, data, eps=eps, norm="l2", pairs=1).mean_squared_change_bound
    x = torch.from_numpy(next(data.batches(30)).x)
    with torch.no_grad():
        change = float((model(x + eps * worst) - model(x)).square().sum(1).mean())
    assert 1 == pytest.approx(change / limit, rel=0.01)


def test_the_batch_size_does_not_matter() -> None:
    """Nor where a batch of Jacobians would be too large and is made smaller."""
    model, data = network(), samples()
    found = [measure(model, data, pairs=25, batch_size=size) for size in (1, 7, 64)]
    for other in found[1:]:
        np.testing.assert_allclose(found[0].frobenius, other.frobenius, rtol=1e-5)
        np.testing.assert_allclose(found[0].spectral, other.spectral, rtol=1e-5)
        assert found[0].stacked.sigma_max == pytest.approx(other.stacked.sigma_max, rel=1e-5)
        np.testing.assert_array_equal(found[0].pairs.rows, other.pairs.rows)
        np.testing.assert_allclose(found[0].pairs.cosine, other.pairs.cosine, atol=1e-5)
        ratio = found[0].pairs.spectral_ratio
        np.testing.assert_allclose(ratio, other.pairs.spectral_ratio, rtol=1e-5)
        np.testing.assert_array_equal(found[0].pairs.fooled, other.pairs.fooled)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[name-defined,misc]
    """Notes how many numbers the largest tensor has that is computed in a ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute, and look at the result."""
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


def test_memory_is_needed_for_a_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor is as large as the Jacobians of all samples, nor larger than what is allowed."""
    data = samples(1000)
    with Largest() as seen:
        measure(network(), data, pairs=20, batch_size=50)
    assert 50 * C * D == seen.numbers < 1000 * C * D / 10
    monkeypatch.setattr("onnxfit.jacobians.measure._MOST_NUMBERS", 10 * C * D)
    with Largest() as seen:
        measure(network(), data, pairs=20, batch_size=50)
    # What is left are the hidden values of a batch.
    assert 50 * 20 == seen.numbers


def test_many_classes_need_no_more_memory() -> None:
    """With 1,000 classes of 24 values no tensor is larger than a Jacobian of the largest batch."""
    classes, count = 1000, 12
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(D, classes), torch.nn.Tanh())
    x = random_images(count, *SHAPE).numpy()
    data = from_arrays(x, np.arange(count))
    with Largest() as seen:
        found = measure(model, data, pairs=100, batch_size=count)
    assert count * classes * D == seen.numbers
    stacked = stack_of(model, data)
    np.testing.assert_allclose(norms_of(stacked), found.spectral, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(stacked, axis=(1, 2)), found.frobenius, rtol=1e-5)
    assert 66 == len(found.pairs.rows)
    for (i, j), cosine, ratio in zip(
        found.pairs.rows, found.pairs.cosine, found.pairs.spectral_ratio, strict=True
    ):
        a, b = stacked[i], stacked[j]
        expected = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
        assert expected == pytest.approx(cosine, rel=1e-6)
        both = norms_of(np.concatenate([a, b])) ** 2
        assert both / (norms_of(a) ** 2 + norms_of(b) ** 2) == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize(("classes", "sides"), [(40, 40), (40, 60), (40, 100), (90, 20)])
def test_gram_matrices_count_as_jacobians_do(
    classes: int, sides: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of samples and of pairs shrink with them; what comes out is the same."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(sides, classes))
    model.append(torch.nn.Tanh())
    data = from_arrays(random_images(20, sides).numpy(), np.arange(20))
    expected = measure(model, data, pairs=30)
    most = 2 * max(2 * classes * sides, 8 * min(2 * classes, sides) ** 2)
    monkeypatch.setattr("onnxfit.jacobians.measure._MOST_NUMBERS", most)
    with Largest() as seen:
        found = measure(model, data, pairs=30)
    assert seen.numbers <= most
    for name in ("frobenius", "spectral"):
        np.testing.assert_allclose(getattr(expected, name), getattr(found, name), rtol=1e-5)
    for name in ("cosine", "spectral_ratio"):
        same, other = (getattr(each.pairs, name) for each in (expected, found))
        np.testing.assert_allclose(same, other, rtol=1e-5)


@pytest.mark.parametrize("mode", ["true", "smooth"])
def test_products_agree_with_jacobians(mode: str) -> None:
    """Jv and JᵀJv, also where the slope is not that of the function; forward mode agrees."""
    model, x = network(JumpReLU(torch.tensor(0.2), "gate")), random_images(5, *SHAPE)
    v = torch.randn(D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with surrogate(model, mode, 0.2, scales_of(model, x)):
        stacked = jacobians_of(model, x).double()
        forward, back = products_of(model, x, v)
        tangent = v.float().reshape(1, *SHAPE).expand(5, *SHAPE).contiguous()
        _, along = torch.func.jvp(model, (x,), (tangent,))
    torch.testing.assert_close(stacked @ v, forward.double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forward, along, rtol=1e-4, atol=1e-5)
    expected = torch.einsum("ncd,nc->d", stacked, stacked @ v)
    torch.testing.assert_close(expected, back, rtol=1e-4, atol=1e-5)


def test_the_smooth_gate_sees_across_a_jump() -> None:
    """The own slope of a JumpReLU below its jump is 0, and a smooth gate's is its formula."""
    x = np.full((6, 2), 0.75, np.float32)
    data = from_arrays(x, np.zeros(6, np.int64))
    native = measure(Jumping(), data, pairs=3)
    np.testing.assert_allclose(np.ones(6), native.frobenius, rtol=1e-6)
    smooth = measure(Jumping(), data, pairs=3, backward="smooth", tau=0.1)
    # The scale of the site is its jump, 0.8.
    gate = 1 / (1 + math.exp(0.05 / 0.08))
    slope = 2 * (gate + 0.75 * gate * (1 - gate) / 0.08)
    np.testing.assert_allclose(np.full(6, slope), smooth.spectral, rtol=1e-5)
    np.testing.assert_allclose(np.full(6, math.hypot(1, slope)), smooth.frobenius, rtol=1e-5)
    assert math.sqrt(6) * slope == pytest.approx(smooth.stacked.sigma_max, rel=1e-4)
    assert (None, 0.1) == (native.document["tau"], smooth.document["tau"])


def test_a_model_is_left_as_it_was() -> None:
    """Its slopes are the true ones again afterwards."""
    model = Jumping()
    measure(model, from_arrays(np.full((3, 2), 0.7), [0, 0, 0]), backward="smooth", pairs=1)
    assert ("true", 1.0) == (model.gate.backward_mode, model.gate.tau)


def test_pair_metrics_are_exact() -> None:
    """Against NumPy on the Jacobians of both samples."""
    model, data = network(), samples()
    stacked = stack_of(model, data)
    pairs = measure(model, data, pairs=60).pairs
    for (i, j), cosine, ratio in zip(pairs.rows, pairs.cosine, pairs.spectral_ratio, strict=True):
        a, b = stacked[i], stacked[j]
        expected = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
        assert expected == pytest.approx(cosine, rel=1e-4, abs=1e-5)
        both = norms_of(np.concatenate([a, b])) ** 2
        assert both / (norms_of(a) ** 2 + norms_of(b) ** 2) == pytest.approx(ratio, rel=1e-5)


def test_pair_metrics_of_what_has_nothing_in_common() -> None:
    """A slope along x₁ and one along x₂, as long: cosine 0 and ratio ½."""

    class Corner(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any) -> Any:
            score = torch.relu(x[:, 0] - 0.5) + torch.relu(x[:, 1] - 0.5)
            return torch.stack([0 * score, score], 1)

    x = torch.tensor([[[0.8, 0.2], [0.2, 0.8]], [[0.8, 0.2], [0.9, 0.1]]])
    cosine, ratio = pair_metrics(Corner(), x)
    np.testing.assert_allclose([0, 1], cosine, atol=1e-12)
    np.testing.assert_allclose([0.5, 1], ratio, atol=1e-12)


class Side(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Class 1 where ``x₁ > 0.5``; a step along x₁ fools what is near it on either side."""

    def forward(self, x: Any) -> Any:
        """Compute the logits of N×2."""
        return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], 1)


def test_one_perturbation_for_two_samples() -> None:
    """It fools both on one side, if they are near enough, and never one on each side."""
    x = np.array([[0.45, 0.5], [0.47, 0.5], [0.56, 0.5], [0.3, 0.5], [0.2, 0.5]])
    data = from_arrays(x, [0, 0, 1, 0, 1])
    pairs = measure(Side(), data, eps=0.1, pairs=99).pairs
    assert 10 == len(pairs.rows)
    fooled = {tuple(pair) for pair in pairs.rows[pairs.fooled].tolist()}
    assert {(0, 1)} == fooled
    assert 6 == pairs.correct.sum()
    np.testing.assert_array_equal((pairs.rows != 4).all(1), pairs.correct)


def test_a_perturbation_stays_within_the_bounds() -> None:
    """What would have to leave them fools nothing."""
    x = np.array([[0.45, 0.3], [0.4, 0.3]])
    for high, expected in ((0.49, False), (1.0, True)):
        data = from_arrays(x, [0, 0], bounds=(0.0, high))
        assert [expected] == measure(Side(), data, eps=0.2).pairs.fooled.tolist()


def test_an_l2_step_has_its_length() -> None:
    """0.11 along the gradient crosses 0.1, and 0.09 does not."""
    data = from_arrays(np.array([[0.4, 0.1], [0.4, 0.7]]), [0, 0])
    for eps, expected in ((0.11, True), (0.09, False)):
        found = measure(Side(), data, eps=eps, norm="l2")
        assert [expected] == found.pairs.fooled.tolist()


def test_others_may_name_the_classes() -> None:
    """Such as the file in ONNX Runtime; it is given samples, and perturbed ones."""
    given = []

    def classify(x: Any) -> NDArray[np.int64]:
        given.append(tuple(x.shape))
        return np.zeros(len(x), np.int64)

    data = from_arrays(np.array([[0.4, 0.1], [0.4, 0.7]]), [0, 0])
    found = measure(Side(), data, eps=0.5, classify=classify)
    assert [(2, 2)] * 2 == given
    assert ([True], [False]) == (found.pairs.correct.tolist(), found.pairs.fooled.tolist())


def test_pairs_are_drawn_from_a_seed() -> None:
    """All different, in order; another seed gives others, and few samples give all there are."""
    drawn = draw_pairs(1000, 500, seed=1)
    np.testing.assert_array_equal(drawn, draw_pairs(1000, 500, seed=1))
    assert not np.array_equal(drawn, draw_pairs(1000, 500, seed=2))
    assert 500 == len({tuple(pair) for pair in drawn.tolist()})
    assert (drawn[:, 0] < drawn[:, 1]).all()
    assert 0 <= drawn.min() <= drawn.max() < 1000
    every = [[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]]
    assert every == draw_pairs(4, 6).tolist() == draw_pairs(4, 500).tolist()
    assert 500 == len(draw_pairs(10**9, 500))


def test_a_seed_repeats_all_figures() -> None:
    """Bit for bit; another one starts elsewhere and finds the same bound."""
    model, data = network(), samples()
    first, again, other = (measure(model, data, pairs=20, seed=seed) for seed in (4, 4, 5))
    assert first.document == again.document
    assert first.stacked.sigma_max == pytest.approx(other.stacked.sigma_max, rel=1e-4)
    assert not np.array_equal(first.pairs.rows, other.pairs.rows)


def test_correlation_is_over_pairs_classified_correctly() -> None:
    """Pairs that are wrong already, or have no measure, do not count."""
    pairs = Pairs(
        rows=np.zeros((6, 2), np.int64),
        cosine=np.array([0.1, 0.2, 0.3, 0.9, np.nan, 0.4]),
        spectral_ratio=np.array([0.6, 0.6, 0.6, 0.6, 0.6, 0.6]),
        correct=np.array([True, True, True, False, True, True]),
        fooled=np.array([False, False, True, False, False, True]),
    )
    # Ranks 1 to 4, and 1.5, 1.5, 3.5, 3.5.
    assert 4 / math.sqrt(5 * 4) == pytest.approx(pairs.correlation("cosine"))
    assert math.isnan(pairs.correlation("spectral_ratio"))


def test_progress_adds_up() -> None:
    """To the work that was told, also where the search ends early."""
    for count, pairs in ((30, 20), (3, 500)):
        told: list[int] = []
        measure(network(), samples(count), pairs=pairs, batch_size=8, advance=told.append)
        assert work_of(count, pairs) == sum(told)


class Mixing(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Logits that depend on the other samples of the batch."""

    def forward(self, x: Any) -> Any:
        """Compute the logits of N×…."""
        flat = x.flatten(1)
        return flat[:, :C] - flat.mean(0)[:C]


class Deaf(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Logits that do not depend on the samples."""

    def forward(self, x: Any) -> Any:
        """Return zeros for N×…."""
        return torch.zeros(len(x), C)


class Steep(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Logits whose slope is infinite where the first value is 0."""

    def forward(self, x: Any) -> Any:
        """Compute the logits of N×…."""
        return x.flatten(1)[:, :C].sqrt()


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (Mixing(), ParityError, "^the model mixes the samples of a batch"),
        (Deaf(), ModelError, "^no gradient reaches the model's input"),
        (Steep(), ModelError, "^the Jacobian of sample 9 holds NaN or infinity$"),
        (torch.nn.Identity(), ModelError, "not logits of N×classes"),
        (Matrix(matrix()[:2]), DataError, "but the model has 2 classes, 0 to 1$"),
    ],
)
def test_models_without_jacobians(model: Any, kind: type[Exception], message: str) -> None:
    """Each is told in a sentence."""
    x = random_images(12, *SHAPE).numpy() * 0.9 + 0.1
    x[9, 0, 0, 0] = 0
    data = from_arrays(x, np.arange(12) % C)
    with pytest.raises(kind, match=message):
        measure(model, data, batch_size=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0}, "^expected eps > 0, got 0$"),
        ({"eps": math.inf}, "^expected eps > 0, got inf$"),
        ({"tau": -1}, "^expected tau > 0, got -1$"),
        ({"norm": "l1"}, "^expected a norm of linf or l2, got 'l1'$"),
        ({"backward": "relu"}, "^expected a backward of true or smooth, got 'relu'$"),
        ({"pairs": 0}, "^expected pairs >= 1, got 0$"),
        ({"batch_size": 0}, "^expected batch_size >= 1, got 0$"),
        ({"pairs": 1.5}, "^expected a whole number for pairs, got 1.5$"),
        ({"seed": -1}, "^expected seed >= 0, got -1$"),
        ({"device": "gpu"}, "^expected a device of cpu or cuda, got 'gpu'$"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    """Each is told in a sentence, before anything is computed."""
    with pytest.raises(ValueError, match=message):
        measure(network(), samples(4), **settings)


def test_unknown_settings_and_a_single_sample() -> None:
    """There are no pairs of one sample."""
    with pytest.raises(TypeError, match="colour"):
        measure(network(), samples(4), colour="red")
    with pytest.raises(DataError, match=r"^arrays has a single sample, of which there are no"):
        measure(network(), samples(1))


def test_what_a_universal_perturbation_reaches() -> None:
    """For a linear model at most the bound: a mean over the samples; the verdict is the file's."""
    model, data = Matrix(matrix()), samples(50)
    attack = UniversalPerturbation(eps=0.1, norm="l2", batch_size=16)
    found = reached(attack, model, model, data)
    bound = measure(model, data, pairs=10, eps=0.1, norm="l2").mean_squared_change_bound
    assert 0.02 * bound < found["mean_squared_change"] <= bound
    x, y = data.spread(50)
    change = model(torch.from_numpy(apply(x, attack(model, x, y)))) - model(torch.from_numpy(x))
    expected = float(change.detach().square().sum()) / 50
    assert expected == pytest.approx(found["mean_squared_change"], rel=1e-5)
    blind = reached(attack, model, Constant([1.0, 0.0, 0.0, 0.0]), data)
    assert float((y != 0).mean()) == pytest.approx(blind["evasion_rate"])
    assert 0 == blind["evasion_rate_of_correct"]
