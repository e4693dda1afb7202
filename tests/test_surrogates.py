"""How wide a gate is for a network, and what a backward pass through it finds."""

from typing import Any

import numpy as np
import pytest
from support import parse

torch = pytest.importorskip("torch")

from attack_support import Jumping, Two, random_images  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.attacks.gradient import BIM, PGD  # noqa: E402
from onnxfit.attacks.surrogates import TAUS, scales_of, surrogate  # noqa: E402
from onnxfit.twin.jump_relu import JumpReLU, jump_relus  # noqa: E402


def test_a_scale_is_the_jump_or_the_spread_whichever_is_larger() -> None:
    """By hand with NumPy; several jumps count with their mean, an unused site with its own."""
    x = random_images(20, 3, 4, 4) * 3 - 1
    hidden = 4 * np.where(x.numpy() > 0.5, x.numpy(), 0).astype(np.float64)
    scales = scales_of(Two(), x)
    spread = float(x.double().std(correction=0))
    assert spread > 0.5
    assert spread == pytest.approx(scales["first"], rel=1e-6)
    assert max(10.2 / 3, float(hidden.std())) == pytest.approx(scales["second"], rel=1e-6)
    assert scales["unused"] > 0
    narrow = scales_of(Two(), torch.full((2, 3, 4, 4), 0.3))
    assert {"first": 0.5, "second": pytest.approx(10.2 / 3)} == {
        name: narrow[name] for name in ("first", "second")
    }


def test_a_large_mean_does_not_swallow_the_spread() -> None:
    """Values near 1000 that differ by 0.1."""
    x = 1000 + 0.1 * torch.randn(50, 100, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(JumpReLU(torch.tensor(0.0), "a"))
    expected = float(x.double().std(correction=0))
    assert expected == pytest.approx(scales_of(model, x)["a"], rel=1e-6)


def test_a_site_without_jump_or_spread_has_the_scale_1() -> None:
    """A width must be above 0."""
    model = torch.nn.Sequential(JumpReLU(torch.tensor(0.0), "a"))
    assert {"a": 1.0} == scales_of(model, torch.zeros(3, 4))


def test_a_module_without_sites_has_no_scales() -> None:
    """And surrogate backwards change nothing about it."""
    model = torch.nn.Linear(3, 2)
    assert {} == scales_of(model, torch.zeros(3, 3))
    x = random_images(5, 3)
    y = model(x).argmax(1)
    found = [BIM(eps=0.2, backward=mode)(model, x, y) for mode in ("true", "smooth", "relu")]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_sites_of_a_file_are_known_by_their_names() -> None:
    """Those of the twin are what ``find_sites`` lists, and leave no hook behind."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> '
        "g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Add(a, a) y = Relu(b) }"
    )
    twin = onnxfit.to_torch(onnxfit.retrofit(model, jumps={"a": 0.5, "y": 7.0}))
    x = random_images(30, 4)
    scales = scales_of(twin, x)
    assert {"a": 0.5, "y": 7.0} == scales
    assert not any(site._forward_hooks for site in jump_relus(twin))


def test_each_site_has_its_own_width() -> None:
    """τ times its scale, in the block alone."""
    model = Two()
    scales = {"first": 2.0, "second": 0.5, "unused": 1.0}
    with surrogate(model, "smooth", 0.1, scales):
        widths = [0.2, 0.05, 0.1]
        assert widths == pytest.approx([site.tau for site in jump_relus(model)])
        assert ["smooth"] * 3 == [site.backward_mode for site in jump_relus(model)]
    assert [1.0] * 3 == [site.tau for site in jump_relus(model)]
    assert ["true"] * 3 == [site.backward_mode for site in jump_relus(model)]
    with pytest.raises(ValueError, match=r"^tau has no width for the site 'unused'$"):
        surrogate(model, "smooth", 0.1, {"first": 1.0, "second": 1.0}).__enter__()


@pytest.mark.parametrize("mode", ["relu", "smooth"])
def test_a_jump_hides_a_way_that_surrogates_find(mode: str) -> None:
    """The true gradient moves x₂ alone and fails; x₁ beyond the jump is 0.05 away."""
    model, y = Jumping(), torch.zeros(20, dtype=torch.long)
    x = torch.tensor([[0.75, 0.9]]).repeat(20, 1) - torch.linspace(0, 0.1, 20)[:, None]
    for attack in (BIM, PGD):
        found = {
            name: attack(eps=0.1, backward=name, random_start=False)(model, x, y)
            for name in ("true", mode)
        }
        broken = {name: int((model(points).argmax(1) != y).sum()) for name, points in found.items()}
        within = int((0.8 - x[:, 0] < 0.1 - 1e-4).sum())
        assert 0 == broken["true"]
        assert 5 < within == broken[mode] < 20


def test_the_widths_of_a_sweep_are_above_0() -> None:
    """They grow, and the default of the attacks is one of them."""
    assert list(TAUS) == sorted(set(TAUS))
    assert TAUS[0] > 0
    assert PGD(eps=0.1).tau in TAUS


def test_the_forward_pass_is_exact_under_every_slope() -> None:
    """What is recorded as broken is so with the true JumpReLU."""
    model, x = Two(), random_images(6, 3, 4, 4)
    expected = model(x)
    for mode in ("true", "relu", "smooth", "straight-through"):
        with surrogate(model, mode, 0.1, scales_of(model, x)):
            actual: Any = model(x)
        assert torch.equal(expected, actual)
