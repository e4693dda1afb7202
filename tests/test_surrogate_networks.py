"""Surrogate networks of interpolated models, and what attacks that follow them find."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Command, runner
from numpy.typing import NDArray
from onnx import ModelProto
from support import MODELS, parse

import onnxfit
from onnxfit.data import Dataset, open_data
from onnxfit.errors import ModelError

torch = pytest.importorskip("torch")

from attack_support import lengths  # noqa: E402

from onnxfit.attacks import FGSM, PGD, TargetedAPGD  # noqa: E402
from onnxfit.surrogate_networks.template_kernel import TemplateKernel  # noqa: E402
from onnxfit.verification import probes  # noqa: E402
from onnxfit.verification.campaign import Campaign, Found  # noqa: E402
from onnxfit.verification.curve import GRID, Curve  # noqa: E402
from onnxfit.verification.records import scored  # noqa: E402
from onnxfit.verification.suites import Stage, Suite, Threat, stages  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS, TEMPLATES = MODELS / "digits_cnn.onnx", MODELS / "digits_val.npz"
NETWORKS = ["own head", "template kernel 1", "template kernel 4", "template kernel 16"]
KERNELS = NETWORKS[1:]
EPS = 0.1
# Features and classes of the toy.
D, C = 6, 2


@pytest.fixture
def onnxfit_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line."""
    return runner(capsys)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Forty images of digits."""
    return open_data(MODELS / "digits_test.npz", limit=40)


@pytest.fixture(scope="module")
def interpolated() -> Target:
    """The network for digits over the templates of its validation."""
    return Target(onnxfit.interpolate(DIGITS, TEMPLATES))


@pytest.fixture(scope="module")
def hardened() -> Target:
    """The same, hardened before."""
    return Target(onnxfit.interpolate(onnxfit.retrofit(DIGITS, 0.5), TEMPLATES))


def toy(kind: str = "float", last: str = "Identity") -> ModelProto:
    """Make a model whose features are the sample, with templates about 0.3 and 0.7 everywhere.

    Or they are what an operator makes of it. The weights of its own head are 0, so that no
    gradient passes through that either.
    """
    zeros = ", ".join(["0"] * D)
    model = parse(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        toy ({kind}[N, {D}] x) => ({kind}[N, {C}] logits)
        <{kind}[{C}, {D}] w = {{{zeros}, {zeros}}}, {kind}[{C}] b = {{0, 0}}>
        {{
            h = {last}(x)
            logits = Gemm<transB = 1>(h, w, b)
        }}
        """
    )
    random = np.random.default_rng(0)
    middles = np.repeat([0.3, 0.7], 20)
    x = middles[:, None] + random.uniform(-0.02, 0.02, (40, D))
    return onnxfit.interpolate(model, (x.astype(np.float32), (middles > 0.5).astype(np.int64)))


def by_hand(
    points: NDArray[Any], templates: NDArray[Any], labels: NDArray[Any], width: float
) -> NDArray[np.float64]:
    """Compute the kernel's logits in double precision."""
    own = ((templates[:, None] - templates[None]) ** 2).sum(2)
    scale = width * np.median(np.sort(own, 1)[:, 8])
    weights = np.exp(-((points[:, None] - templates[None]) ** 2).sum(2) / scale)
    logits: NDArray[np.float64] = np.log([weights[:, labels == c].sum(1) for c in range(3)])
    return logits.T


@pytest.mark.parametrize("width", [1, 4])
def test_the_kernel_is_its_formula(width: float) -> None:
    """In double precision, with classes of different sizes, in any order."""
    random = np.random.default_rng(0)
    templates, points = random.normal(size=(41, 5)), random.normal(size=(7, 5))
    labels = random.permutation(np.repeat([0, 1, 2], [5, 12, 24]))
    middle = torch.from_numpy(templates.mean(0))
    given = torch.from_numpy(templates) - middle, torch.from_numpy(labels)
    kernel = TemplateKernel(torch.nn.Identity(), *given, width, middle)
    expected = by_hand(points, templates, labels, width)
    np.testing.assert_allclose(expected, kernel(torch.from_numpy(points)).numpy(), rtol=1e-9)


def test_the_kernel_has_a_gradient_far_away() -> None:
    """Where every weight underflows, logits are finite and the way to a class is its templates'."""
    templates = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).repeat_interleave(10, 0)
    templates[:, 1] = torch.arange(20) * 1e-3
    labels = torch.tensor([0, 1]).repeat_interleave(10)
    kernel = TemplateKernel(torch.nn.Identity(), templates, labels, 1, torch.zeros(2))
    x = torch.tensor([[-3.0, 0.0]], requires_grad=True)
    logits = kernel(x)
    assert logits.isfinite().all()
    (gradient,) = torch.autograd.grad(logits[0, 1] - logits[0, 0], x)
    assert gradient[0, 0] > 100 * gradient[0, 1].abs()


def test_equal_templates_are_no_division_by_zero() -> None:
    """The usual distance is 0, the logits are not NaN."""
    labels = torch.tensor([0, 1]).repeat_interleave(10)
    kernel = TemplateKernel(torch.nn.Identity(), torch.ones(20, 3), labels, 1, torch.zeros(3))
    assert not kernel(torch.zeros(2, 3)).isnan().any()


@pytest.mark.parametrize("jump", [None, 0.5])
@pytest.mark.parametrize("optimize", [False, True])
def test_its_own_head_is_the_model_before(jump: float | None, optimize: bool) -> None:
    """The logits are those of the source, or of the hardened source, to the bit."""
    source: Any = DIGITS
    if jump is not None:
        source = onnxfit.retrofit(DIGITS, jump, optimize=optimize)
    target = Target(onnxfit.interpolate(source, TEMPLATES))
    assert list(target.networks) == NETWORKS
    with np.load(MODELS / "digits_test.npz") as file:
        x = torch.from_numpy(file["x"][:20])
    with torch.no_grad():
        assert torch.equal(Target(source).twin(x), target.networks["own head"](x))
        for name in KERNELS:
            agreement = target.networks[name](x).argmax(1) == target.twin(x).argmax(1)
            assert agreement.float().mean() > 0.9, name


def test_other_models_have_none(data: Dataset) -> None:
    """Their suites are what they were, and no record tells of networks."""
    target = Target(DIGITS)
    assert {} == target.networks
    suites: tuple[Suite, ...] = ("quick", "standard")
    for suite in suites:
        how: dict[str, Any] = {"jumps": True, "transfer": True}
        chosen = stages(suite, Threat(eps=EPS), **how, networks=list(target.networks))
        assert stages(suite, Threat(eps=EPS), **how) == chosen
    campaign = Campaign({"model": target}, data, attacks([]))
    list(campaign.run())
    assert all("network" not in record for record in scored(campaign, "model")["attacks"])


def attacks(networks: list[str], **settings: Any) -> list[Stage]:
    """Make a native stage of few steps, and one for each network."""
    own = Stage(name="pgd", attack=PGD(eps=EPS, steps=10, **settings), family="native")
    return [own, *(own.through(network) for network in networks)]


def run(campaign: Campaign) -> Found:
    """Run to the end."""
    (found,) = campaign.run()
    return found


@pytest.mark.parametrize("which", ["interpolated", "hardened"])
def test_networks_break_what_native_gradients_do_not(
    which: str, data: Dataset, request: pytest.FixtureRequest
) -> None:
    """On digits many more samples fall, within eps exactly, and the same with the same seed."""
    target = request.getfixturevalue(which)
    settings = {} if which == "interpolated" else {"backward": "smooth", "tau": 0.1}
    campaigns = [
        Campaign({"model": target}, data, attacks(NETWORKS, **settings), seed=5) for _ in range(2)
    ]
    found, again = (run(campaign) for campaign in campaigns)
    score = campaigns[0].scores["model"]
    native, worst = (int(score.robust(*names).sum()) for names in (("native",), ()))
    assert worst <= native - 6
    counts = score.broken_through()
    assert NETWORKS == list(counts)
    assert native - worst == sum(counts.values())
    points = found.points["model"]
    assert np.abs(points.astype(np.float64) - found.x).max() <= EPS
    broken = score.finder >= 0
    assert (target.predictions(points[broken]) != found.y[broken]).all()
    np.testing.assert_array_equal(points, again.points["model"])


def test_each_alone_breaks_more_than_native_gradients(interpolated: Target, data: Dataset) -> None:
    """Its own head, and kernels of every width."""
    left = {}
    for network in (None, *NETWORKS):
        chosen = attacks([])[0] if network is None else attacks([network])[1]
        campaign = Campaign({"model": interpolated}, data, [chosen])
        run(campaign)
        left[network] = int(campaign.scores["model"].robust().sum())
    assert all(left[network] <= left[None] - 5 for network in NETWORKS), left


def test_the_way_in_feature_space_is_found_where_there_is_no_gradient() -> None:
    """One step leads to the known point, where neither model nor head has a gradient."""
    target = Target(toy())
    x, y = torch.full((1, D), 0.3), torch.tensor([0])
    assert probes.Count(1, 1) == probes.zero_gradients(target, x, y)
    how: dict[str, Any] = {"judge": target.twin}
    step = FGSM(eps=0.25)
    for name in KERNELS:
        points = step(target.networks[name], x, y, **how)
        assert torch.allclose(x + 0.25, points, atol=1e-6), name
        assert [1] == target.predictions(points).tolist()
        assert (lengths(points - x, "linf") <= 0.25 + 1e-7).all()
    blind = step(target.networks["own head"], x, y, **how)
    assert [0] == target.predictions(blind).tolist()
    # Beyond the middle, with the nearest template at 0.5, there is nothing for this eps.
    short = TargetedAPGD(eps=0.15, steps=20)(target.networks[KERNELS[0]], x, y, **how)
    assert [0] == target.predictions(short).tolist()


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_types(kind: str) -> None:
    """Attacks follow networks of files of other types, and find the same."""
    target = Target(toy(kind))
    x, y = torch.full((1, D), 0.3), torch.tensor([0])
    for name in KERNELS:
        points = FGSM(eps=0.25)(target.networks[name], x, y, judge=target.twin)
        assert torch.allclose(x + 0.25, points, atol=1e-6)
        assert [1] == target.predictions(points).tolist()


@pytest.mark.parametrize("last", ["Sigmoid", "Softmax", "Tanh"])
def test_features_may_be_what_looks_like_probabilities(last: str) -> None:
    """The kernel compares with templates what the file does."""
    x, target = torch.rand(5, D), Target(toy(last=last))
    expected = {"Sigmoid": x.sigmoid(), "Softmax": x.softmax(1), "Tanh": x.tanh()}[last]
    for name in KERNELS:
        torch.testing.assert_close(expected, target.networks[name].module.features(x))


def test_what_a_baseline_has_not_got_is_not_measured(interpolated: Target, data: Dataset) -> None:
    """Its records are without a number, those of the model tell which network it was."""
    targets: dict[Any, Target] = {"model": interpolated, "baseline": interpolated.unhardened()}
    campaign = Campaign(targets, data, attacks(NETWORKS[:2]))
    run(campaign)
    model, baseline = (scored(campaign, side)["attacks"] for side in ("model", "baseline"))
    assert [None, "own head", "template kernel 1"] == [one.get("network") for one in model]
    assert ["true", "own head", "template kernel 1"] == [one["backward"] for one in model]
    assert [None, None] == [one["robust_accuracy"] for one in baseline[1:]]
    assert model[2]["robust_accuracy"] == scored(campaign, "model")["worst_case"]["robust_accuracy"]


def test_the_suites_with_networks() -> None:
    """White-box stages come together; hardened models add smooth gates."""
    threat = Threat(eps=EPS)
    few = NETWORKS[:2]
    how: dict[str, Any] = {"jumps": True, "transfer": False, "networks": few}
    quick = stages("quick", threat, **how, hardened=False)
    names = [(s.name, s.backward) for s in quick if s.network is not None]
    assert [("pgd", network) for network in few] == names
    assert ["surrogate", "surrogate", "black-box"] == [s.family for s in quick[-4:-1]]
    gated = stages("quick", threat, **how)
    names = [(s.name, s.backward) for s in gated if s.network == "own head"]
    assert [("pgd", "own head"), ("pgd", "own head, smooth 0.1")] == names
    standard = stages("standard", threat, **how)
    names = [(s.name, s.backward) for s in standard if s.network == "own head"]
    assert [
        ("apgd-ce", "own head"),
        ("apgd-ce", "own head, smooth 0.05"),
        ("apgd-ce", "own head, smooth 0.2"),
        ("apgd-t", "own head"),
    ] == names


def test_the_curve_is_lower_with_networks(interpolated: Target, data: Dataset) -> None:
    """At the smaller eps too the worst case lies below what native gradients say."""
    shard = next(data.batches(20))
    right = interpolated.predictions(shard.x) == shard.y
    none = np.zeros(len(right), bool)
    counts = []
    for networks in ([], NETWORKS[:1]):
        curve = Curve(Threat(eps=2 * EPS), jumps=False, scales={}, networks=networks)
        counts.append(curve.measure(interpolated, shard, right, none, right)["robust"])
    at = 1 + GRID.index(0.75)
    assert counts[1][at] < counts[0][at]


def test_templates_that_another_tool_dropped() -> None:
    """One sentence says so."""
    model = onnxfit.interpolate(DIGITS, TEMPLATES)
    for tensor in model.graph.initializer:
        if tensor.name == "onnxfit.interpolation/classes":
            tensor.name = "labels"
    for node in model.graph.node:
        node.input[:] = [
            "labels" if name == "onnxfit.interpolation/classes" else name for name in node.input
        ]
    onnx.checker.check_model(model)
    with pytest.raises(ModelError, match=r"the templates that onnxfit\.interpolation tells of are"):
        _ = Target(model).networks


@pytest.mark.parametrize(
    ("options", "networks"),
    [
        ((), NETWORKS),
        (("--backward", "all"), NETWORKS),
        (("--backward", "true"), []),
    ],
)
def test_the_verb_attack_follows_them(
    options: tuple[str, ...], networks: list[str], tmp_path: Path, onnxfit_command: Command
) -> None:
    """Unless one backward pass is asked for, and then it says what it misses."""
    path = tmp_path / "m.onnx"
    onnxfit.save(onnxfit.interpolate(DIGITS, TEMPLATES), path)
    arguments = ("--data", MODELS / "digits_test.npz", "--limit", "15", "--eps", "0.1")
    more = ("--attack", "pgd", "--steps", "5", "--json", *options)
    ran = onnxfit_command("attack", path, *arguments, *more)
    assert 0 == ran.status, ran.err
    records = json.loads(ran.out)["attacks"]
    assert networks == list(dict.fromkeys(r["network"] for r in records if "network" in r))
    told = f"surrogate networks ({', '.join(NETWORKS)}) were not followed. --backward all finds"
    assert (told in ran.err) == (not networks)
