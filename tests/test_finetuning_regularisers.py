"""The terms of the loss of fine-tuning, and the search for points that two of them need."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attack_support import Constant, Counter, Function, Linear, lengths, random_images  # noqa: E402

from onnxfit.attacks.ball import NORMS, Ball  # noqa: E402
from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.finetuning.terms import TERMS, adversarial, trades  # noqa: E402
from onnxfit.finetuning.terms.adversarial import Adversarial  # noqa: E402
from onnxfit.finetuning.terms.j_sigr import SelectiveInputGradient, important  # noqa: E402
from onnxfit.finetuning.terms.jacobian import Jacobian, squared_norm  # noqa: E402
from onnxfit.finetuning.terms.perturbing import worst_points  # noqa: E402
from onnxfit.finetuning.terms.sensitivity import Sensitivity  # noqa: E402
from onnxfit.finetuning.terms.term import Batch, Term, Threat  # noqa: E402
from onnxfit.finetuning.terms.trades import Trades  # noqa: E402
from onnxfit.twin.image_layout import Turned, with_channels  # noqa: E402
from onnxfit.twin.jump_relu import JumpReLU  # noqa: E402

STEP = 1e-6  # Of central differences.
THREAT = Threat(eps=0.1)


def batch_of(model: Any, x: Any, y: Any = None, threat: Threat = THREAT, *, seed: int = 0) -> Batch:
    """Make a batch of samples, of class 1 where no classes are given."""
    return Batch(
        model=model,
        x=x.detach().clone().requires_grad_(),
        y=torch.ones(len(x), dtype=torch.int64) if y is None else torch.tensor(y),
        threat=threat,
        generator=torch.Generator().manual_seed(seed),
    )


def network(middle: Any) -> Any:
    """Make a network in double precision: three values, an activation of four, three classes."""
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), middle, torch.nn.Linear(4, 3)).double()


def some_samples() -> Any:
    """Draw four samples of three values in double precision."""
    return torch.rand(4, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def check_slopes(model: Any, compute: Callable[[], Any]) -> None:
    """Compare the gradient of each weight with a central difference."""
    weights = list(model.parameters())
    found = torch.autograd.grad(compute(), weights, allow_unused=True)
    largest = 0.0
    for weight, gradient in zip(weights, found, strict=True):
        slopes = torch.zeros_like(weight) if gradient is None else gradient
        values = weight.data.view(-1)
        for i, slope in enumerate(slopes.flatten().tolist()):
            before = values[i].item()
            ends = []
            for value in (before - STEP, before + STEP):
                values[i] = value
                ends.append(compute().item())
            values[i] = before
            expected = (ends[1] - ends[0]) / (2 * STEP)
            assert expected == pytest.approx(slope, abs=1e-8, rel=1e-5)
            largest = max(largest, abs(slope))
    assert largest > 1e-3


# Gradients.


@pytest.mark.parametrize("term", [Jacobian(), Jacobian(3), Jacobian(0), SelectiveInputGradient()])
def test_gradients_of_terms_of_input_gradients(term: Term) -> None:
    """The gradient of each weight is the central difference."""
    model, x = network(torch.nn.Tanh()), some_samples()
    check_slopes(model, lambda: term(batch_of(model, x, [0, 1, 2, 1])))


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_the_sensitivity(norm: Any) -> None:
    """The gradient of each weight is the central difference where no activation is at its kink."""
    model, x = network(JumpReLU(torch.tensor(0.0))), some_samples()
    before = model[0](x)
    assert before.abs().min() > 1e-3
    assert before.min() < 0 < before.max()
    threat = Threat(eps=0.1, norm=norm)
    check_slopes(model, lambda: Sensitivity()(batch_of(model, x, threat=threat)))


@pytest.mark.parametrize(("term", "module"), [(Adversarial(), adversarial), (Trades(), trades)])
def test_gradients_at_adversarial_points(term: Term, module: Any, monkeypatch: Any) -> None:
    """With the points held where they are, the gradient of each weight is the central difference.

    A gradient takes the points as fixed. Where the search moves them with the weights, differences
    see the move as well, and a search of few steps does not end where that makes no difference.
    """
    model, x, threat = network(torch.nn.Tanh()), some_samples(), Threat(eps=0.4)
    points: list[Any] = []

    def search(batch: Batch, objective: Any) -> Any:
        if not points:
            points.append(worst_points(batch, objective))
        return points[0]

    monkeypatch.setattr(module, "worst_points", search)
    check_slopes(model, lambda: term(batch_of(model, x, [0, 1, 2, 1], threat)))


def test_the_weights_alone_get_gradients_of_the_search() -> None:
    """No gradient of a weight is left behind by the search for points."""
    model = network(torch.nn.Tanh())
    batch = batch_of(model, some_samples())
    assert not worst_points(batch, lambda logits: logits.square().sum()).requires_grad
    assert [None] * 4 == [weight.grad for weight in model.parameters()]


# The Jacobian.


def linear() -> Any:
    """Make a linear model of five values and three classes in double precision."""
    torch.manual_seed(1)
    return torch.nn.Linear(5, 3).double()


def test_the_exact_jacobian_of_a_linear_model() -> None:
    """It is half the sum of the squared weights, whatever the samples are."""
    model = linear()
    expected = model.weight.square().sum().item() / 2
    for n in (1, 6):
        value = Jacobian(0)(batch_of(model, torch.rand(n, 5, dtype=torch.float64)))
        assert expected == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize("projections", [1, 3])
def test_random_projections_are_right_on_average(projections: int) -> None:
    """The mean of many estimates is the exact value to within four standard errors."""
    model = linear()
    expected = model.weight.square().sum().item() / 2
    batch, term = batch_of(model, torch.rand(2, 5, dtype=torch.float64)), Jacobian(projections)
    draws = torch.stack([term(batch).detach() for _ in range(1000)])
    error = (draws.std() / len(draws) ** 0.5).item()
    assert expected == pytest.approx(draws.mean().item(), abs=4 * error)
    assert 0 < error < 0.05 * expected


def test_the_jacobian_is_in_the_units_of_the_samples() -> None:
    """Samples of 0 to 255 have a term 255² times smaller than those of 0 to 1."""
    model = linear()
    x = torch.rand(2, 5, dtype=torch.float64)
    small = Jacobian()(batch_of(model, x))
    large = Jacobian()(batch_of(lambda x: model(x / 255), 255 * x))
    assert small.item() == pytest.approx(255**2 * large.item())


@pytest.mark.parametrize("name", [name for name in TERMS if TERMS[name].differentiates])
def test_logits_that_no_sample_changes_are_refused(name: str) -> None:
    """A term of gradients of the samples says that there are none."""
    for model in (Constant([0.0, 1.0]), Constant([0.0, 1.0]).requires_grad_(False)):
        with pytest.raises(ModelError, match="no gradient reaches the model's input"):
            TERMS[name]()(batch_of(model, torch.rand(2, 5)))


def test_a_negative_number_of_projections_is_refused() -> None:
    """There is no such number of draws."""
    with pytest.raises(ValueError, match="not negative, got -1"):
        Jacobian(-1)


# The sensitivity.


def with_sites(function: Callable[..., Any], *sites: JumpReLU) -> Any:
    """Make a model of a function of the samples and of JumpReLUs."""
    model = Function(lambda x: function(x, *sites))
    model.sites = torch.nn.ModuleList(sites)
    return model


def sensitivity(monkeypatch: Any, model: Any, x: Any, noisy: Any) -> Any:
    """Compute the term with noise that is given."""
    monkeypatch.setattr(Ball, "random", lambda *_: noisy)
    return Sensitivity()(batch_of(model, x))


X = torch.tensor([[1.0, 0.5]])
NOISY = torch.tensor([[0.8, 0.6]])


def test_the_sensitivity_by_hand(monkeypatch: Any) -> None:
    """A value becomes 0.8 of 1 and one 0.6 of 0, where the mean of the four is 0.6."""
    model = with_sites(lambda x, site: site(x).sum(1), JumpReLU(torch.tensor(0.5)))
    expected = (0.2 / (1 + 0.6) + 0.6 / (0 + 0.6)) / 2
    assert expected == pytest.approx(sensitivity(monkeypatch, model, X, NOISY).item())


def test_sites_are_added(monkeypatch: Any) -> None:
    """The term is the sum over the sites, also where activations are in other units."""
    sites = [JumpReLU(torch.tensor(jump)) for jump in (0.5, 50.0)]
    model = with_sites(lambda x, a, b: a(x).sum(1) + b(100 * x).sum(1), *sites)
    expected = 0.2 / (1 + 0.6) + 0.6 / (0 + 0.6)
    assert expected == pytest.approx(sensitivity(monkeypatch, model, X, NOISY).item())


def test_calls_of_one_site_are_paired_in_order(monkeypatch: Any) -> None:
    """The second call is compared with the second call, and all calls have one mean."""
    model = with_sites(lambda x, site: site(2 * site(x)).sum(1), JumpReLU(torch.tensor(0.5)))
    floor = (1 + 0 + 2 + 0 + 0.8 + 0.6 + 1.6 + 1.2) / 8
    ratios = [0.2 / (1 + floor), 0.6 / floor, 0.4 / (2 + floor), 1.2 / floor]
    found = sensitivity(monkeypatch, model, X, NOISY)
    assert sum(ratios) / 4 == pytest.approx(found.item())


def test_the_number_of_calls_may_depend_on_the_samples(monkeypatch: Any) -> None:
    """Calls that have no partner do not count."""

    def turns(x: Any, site: Any) -> Any:
        for _ in range(1 if x.max() == 1 else 3):
            x = site(x)
        return x.sum(1)

    def first(x: Any, site: Any) -> Any:
        return site(x).sum(1) if x.max() == 1 else x.sum(1)

    model = with_sites(turns, JumpReLU(torch.tensor(0.5)))
    expected = (0.2 / (1 + 0.6) + 0.6 / (0 + 0.6)) / 2
    assert expected == pytest.approx(sensitivity(monkeypatch, model, X, NOISY).item())
    model = with_sites(first, JumpReLU(torch.tensor(0.5)))
    for x, noisy in ((X, NOISY), (NOISY, X)):
        with pytest.raises(ModelError, match="the model computes none"):
            sensitivity(monkeypatch, model, x, noisy)


@pytest.mark.parametrize("jump", [0.55, 0.9])
def test_the_sensitivity_of_silent_sites_is_finite(monkeypatch: Any, jump: float) -> None:
    """A site that is 0 without noise counts as 2 at most, one that stays 0 as 0."""
    layer = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.eye_(layer.weight)
    model = torch.nn.Sequential(layer, JumpReLU(torch.tensor(jump)))
    value = sensitivity(monkeypatch, model, X / 2, NOISY)
    assert (2.0 if jump < 0.6 else 0.0) == pytest.approx(value.item())
    (gradient,) = torch.autograd.grad(value, layer.weight)
    assert gradient.isfinite().all()


def test_the_scale_of_activations_does_not_matter() -> None:
    """Weights ten times as large have the same sensitivity, which does not reward small ones."""
    model, x = network(JumpReLU(torch.tensor(0.0))), some_samples()
    before = Sensitivity()(batch_of(model, x))
    gradients = torch.autograd.grad(before, list(model[0].parameters()))
    pairs = zip(model[0].parameters(), gradients, strict=True)
    assert 0 == pytest.approx(sum((w * g).sum().item() for w, g in pairs), abs=1e-12)
    with torch.no_grad():
        for weight in model[0].parameters():
            weight.mul_(10)
    assert before.item() == pytest.approx(Sensitivity()(batch_of(model, x)).item())


def test_noise_is_in_the_ball_and_hooks_are_removed() -> None:
    """The model sees the samples, then points of the ball, and keeps nothing."""
    site = JumpReLU(torch.tensor(0.0))
    model = Counter(torch.nn.Sequential(site, torch.nn.Flatten()))
    x = torch.rand(5, 3, 2)
    Sensitivity()(batch_of(model, x))
    clean, noisy = model.inputs
    assert torch.equal(x, clean)
    assert not torch.equal(x, noisy)
    assert Ball(x, 0.1, "linf", (0.0, 1.0)).contains(noisy).all()
    assert 0 == len(site._forward_hooks)


def test_the_sensitivity_needs_a_site() -> None:
    """A model without a JumpReLU is refused in a sentence."""
    with pytest.raises(ModelError, match="that of JumpReLUs, and the model computes none"):
        Sensitivity()(batch_of(network(torch.nn.ReLU()), some_samples()))


# J-SIGR.


def image_weights(*patches: tuple[int, int, float]) -> Any:
    """Make weights of one channel of 14×14, some of the 49 patches of which are not 0."""
    weights = torch.zeros(14, 14)
    for row, column, value in patches:
        weights[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = value
    return weights


def selective(batch: Batch) -> float:
    """Return the part of the term that the mask selects."""
    state = batch.generator.get_state()
    total = SelectiveInputGradient()(batch)
    batch.generator.set_state(state)
    return float((total - squared_norm(batch, 1)).item())


def test_what_the_logit_rests_on_may_have_a_gradient() -> None:
    """The mask covers the only patch that matters, so nothing is left to penalise."""
    weights = image_weights((1, 2, 0.5))
    x = torch.zeros(1, 1, 14, 14)
    x[0, 0, 2:4, 4:6] = 1
    batch = batch_of(Linear(weights.flatten().tolist()), x)
    assert torch.equal(weights[None, None] != 0, important(batch))
    assert 0.0 == pytest.approx(selective(batch), abs=1e-6)
    assert SelectiveInputGradient()(batch) > 0


def test_a_gradient_elsewhere_is_penalised() -> None:
    """What raises the logit when it is replaced, or hardly lowers it, counts with its gradient."""
    weights = image_weights((1, 2, 0.5), (6, 6, -3.0), (0, 5, 0.01))
    x = ((weights != 0) * 1.0).expand(2, 1, 14, 14)
    batch = batch_of(Linear(weights.flatten().tolist()), x)
    assert torch.equal((weights == 0.5).expand(2, 1, 14, 14), important(batch))
    # Four pixels in each patch.
    assert 4 * (3.0**2 + 0.01**2) == pytest.approx(selective(batch), rel=1e-5)
    # The logit of class 0 is always 0.
    assert 0.0 == pytest.approx(selective(batch_of(batch.model, x, [0, 0])), abs=1e-4)


def test_samples_have_masks_of_their_own() -> None:
    """The same weights matter in one sample and not in another, and the term is their mean."""
    weights = image_weights((1, 2, 1.0), (6, 6, 1.0))
    x = torch.zeros(2, 1, 14, 14)
    x[0, 0, 2:4, 4:6], x[1, 0, 12:, 12:] = 1, 0.1
    batch = batch_of(Linear(weights.flatten().tolist()), x)
    assert torch.equal(x > 0, important(batch))
    assert 4.0 == pytest.approx(selective(batch), rel=1e-5)


def test_the_mask_of_images_with_their_channels_last() -> None:
    """It is that of the same images with their channels first, and so is the term."""
    weights = torch.randn(3, 14, 21, generator=torch.Generator().manual_seed(0))
    x = random_images(4, 3, 14, 21)
    first = batch_of(Linear(weights.flatten().tolist()), x)
    last = batch_of(Turned(first.model, last=False), with_channels(x, last=True))
    assert 0 < important(first).float().mean() < 1
    assert torch.equal(important(first), important(last))
    assert selective(first) == pytest.approx(selective(last), rel=1e-5)


def test_the_mask_is_that_of_all_channels() -> None:
    """A patch that matters in one channel is left alone in each, by the mean of each channel."""
    weights = torch.zeros(3, 14, 14)
    weights[1] = image_weights((3, 3, 1.0))
    weights[2] = image_weights((3, 3, -0.5))
    x = torch.zeros(1, 3, 14, 14)
    x[0, 1, 6:8, 6:8] = 1
    x[0, 2] = 0.7
    batch = batch_of(Linear(weights.flatten().tolist()), x)
    assert (1, 1, 14, 14) == important(batch).shape
    assert torch.equal(image_weights((3, 3, 1.0)) != 0, important(batch)[0, 0])
    assert 0.0 == pytest.approx(selective(batch), abs=1e-5)


@pytest.mark.parametrize("shape", [(130,), (26, 5), (2, 13, 1, 5)])
def test_samples_that_are_no_images(shape: tuple[int, ...]) -> None:
    """Runs of ⌈130 / 49⌉ = 3 values are replaced, in the order in which they are stored."""
    weights, x = torch.zeros(130), torch.zeros(1, 130)
    weights[3:6], weights[60] = 1.0, -1.0
    x[0, 3:6] = x[0, 60] = 1
    batch = batch_of(Linear(weights.tolist()), x.reshape(1, *shape))
    assert torch.equal(weights > 0, important(batch).flatten())
    assert 1.0 == pytest.approx(selective(batch), rel=1e-5)


@pytest.mark.parametrize("sides", [(1, 1), (3, 5), (8, 30), (50, 7)])
def test_images_of_any_size(sides: tuple[int, int]) -> None:
    """Every pixel is in a patch, and there are no more than 49."""
    model = Counter(Function(lambda x: x.square().flatten(1).sum(1)))
    batch = batch_of(model, torch.rand(2, 3, *sides))
    assert (2, 1, *sides) == important(batch).shape
    points = torch.cat(model.inputs[1:]).unflatten(0, (-1, 2))
    assert len(points) <= 49
    moved = (points != batch.x).any(2).sum(0)
    assert torch.equal(torch.full_like(moved, int(sides != (1, 1))), moved)


def test_where_nothing_drops_there_is_no_mask() -> None:
    """The whole gradient counts where the label's logit only rises, and where it stays."""
    weights = image_weights((2, 2, -1.0)).flatten().tolist()
    x = torch.full((2, 1, 14, 14), 0.25)
    x[0, 0, 4:6, 4:6] = 1
    batch = batch_of(Linear(weights), x)
    assert not important(batch).any()
    assert 4.0 == pytest.approx(selective(batch), rel=1e-5)


def test_what_may_be_rounding_is_no_drop() -> None:
    """A logit of 100000 that drops by 4 has no mask; one of 4 that does has one."""
    x = torch.zeros(1, 1, 14, 14)
    x[0, 0, 4:6, 4:6] = 1
    weights = image_weights((2, 2, 1.0)).flatten().tolist()
    for offset in (0.0, 1e5):
        assert (offset == 0) == important(batch_of(Linear(weights, offset), x)).any()


def test_replaced_images_keep_their_layout() -> None:
    """Each of the 49 patches is replaced once, few at a time, in images that stay channels last."""
    seen = []

    def function(x: Any) -> Any:
        seen.append((len(x), x.is_contiguous(memory_format=torch.channels_last)))
        return x.square().flatten(1).sum(1)

    x = torch.rand(5, 3, 14, 14).contiguous(memory_format=torch.channels_last)
    batch = batch_of(Function(function), x)
    assert important(batch).any()
    assert all(last for _, last in seen)
    assert 5 + 49 * 5 == sum(n for n, _ in seen)
    assert max(n for n, _ in seen) <= 4 * 5


# The search for points.


def cross_entropy(batch: Batch) -> Callable[[Any], Any]:
    """Make what adversarial training climbs."""
    return lambda logits: torch.nn.functional.cross_entropy(logits, batch.y, reduction="sum")


@pytest.mark.parametrize("norm", NORMS)
def test_worst_points_of_a_linear_model(norm: Any) -> None:
    """They are inside, and worse than the samples; for linf they are the corner."""
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    model = Linear(weights.tolist()).double()
    x = torch.cat([some_samples(), torch.zeros(1, 3), torch.ones(1, 3)])
    threat = Threat(eps=0.1, norm=norm)
    batch = batch_of(model, x, [0, 0, 1, 1, 0, 1], threat)
    points = worst_points(batch, cross_entropy(batch))
    assert Ball(x, 0.1, norm, (0.0, 1.0)).contains(points).all()
    away = 1 - 2 * batch.y[:, None]
    gains = ((points - x) @ weights) * away[:, 0]
    assert gains.min() > 0
    if norm == "linf":
        corner = (x + 0.1 * (away * weights.sign())).clamp(0, 1)
        assert torch.allclose(corner, points, rtol=0, atol=1e-12)
    else:
        moved = lengths(points - x, norm)[:4].tolist()
        assert [0.1] * 4 == pytest.approx(moved, rel=0.1)


def test_worst_points_are_in_the_bounds_of_the_data() -> None:
    """Steps are in the units of the bounds."""
    x = torch.tensor([[0.0, 100.0, 255.0]])
    threat = Threat(eps=8.0, bounds=(0.0, 255.0))
    batch = batch_of(Linear([1.0, -2.0, 0.5], scale=0.01), x, [0], threat)
    points = worst_points(batch, cross_entropy(batch))
    assert [[8.0, 92.0, 255.0]] == points.tolist()


def test_the_seed_decides_the_worst_points() -> None:
    """The same seed finds the same points, another one others."""
    model, x = network(torch.nn.Tanh()), some_samples()
    threat = Threat(eps=0.1, norm="l2", steps=2)
    found = []
    for seed in (0, 0, 1):
        batch = batch_of(model, x, threat=threat, seed=seed)
        found.append(worst_points(batch, cross_entropy(batch)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("norm", NORMS)
def test_terms_at_worst_points_are_no_less_than_at_the_samples(norm: Any) -> None:
    """Adversarial points have a larger cross-entropy, and distributions near a sample differ."""
    model, threat = network(torch.nn.Tanh()), Threat(eps=0.1, norm=norm)
    batch = batch_of(model, some_samples(), [0, 1, 2, 1], threat)
    assert batch.cross_entropy < Adversarial()(batch)
    assert Trades()(batch) > 0


def test_trades_by_hand(monkeypatch: Any) -> None:
    """The divergence is from the distribution at the sample to that at the point."""
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.eye_(model.weight)
    monkeypatch.setattr(trades, "worst_points", lambda *_: torch.zeros(1, 2))
    p = torch.softmax(torch.tensor([1.0, 0.0]), 0)
    expected = (p * (2 * p).log()).sum().item()
    found = Trades()(batch_of(model, torch.tensor([[1.0, 0.0]])))
    assert expected == pytest.approx(found.item())
