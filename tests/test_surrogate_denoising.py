"""Surrogate networks of models that denoise their images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import runner
from onnx import ModelProto
from support import MODELS, parse

import onnxfit
from onnxfit.passes.denoising import denoise

torch = pytest.importorskip("torch")

from attack_support import Counter, Function, digits, lengths  # noqa: E402

from onnxfit.attacks import PGD  # noqa: E402
from onnxfit.surrogate_networks.denoising import Past  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS, TEMPLATES = MODELS / "digits_cnn.onnx", MODELS / "digits_val.npz"
WEIGHT, STEPS = 0.1, 10


def denoised(**settings: Any) -> ModelProto:
    """Put few steps of denoising in front of the network for digits."""
    return denoise(DIGITS, WEIGHT, steps=STEPS, **settings)


@pytest.mark.parametrize("jump", [None, 0.3])
def test_the_gradient_passes_the_denoising_over(jump: float | None) -> None:
    """The logits are the model's; the gradient is the network's at the denoised image."""
    source: Any = DIGITS if jump is None else onnxfit.retrofit(DIGITS, jump)
    target = Target(denoise(source, WEIGHT, steps=STEPS))
    assert ["past denoising"] == list(target.networks)
    network, (x, _) = target.networks["past denoising"], digits(8)
    leaf = x.clone().requires_grad_()
    logits = network(leaf)
    torch.testing.assert_close(target.twin(x), logits.detach(), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), leaf)
    moved = network.module.front(x).reshape(x.shape).requires_grad_()
    assert (moved - x).abs().max() > 0.05
    bare = Target(source).twin(moved)
    (expected,) = torch.autograd.grad(bare[:, 3].sum(), moved)
    torch.testing.assert_close(expected, gradient, rtol=1e-5, atol=1e-6)


def test_normalised_images() -> None:
    """The denoising is in units of pixels, and so are samples and steps."""
    normalised: dict[str, Any] = {"mean": (0.3,), "std": (0.5,)}
    target = Target(denoised(**normalised), **normalised)
    x, _ = digits(8)
    found = target.networks["past denoising"](x)
    torch.testing.assert_close(target.twin(x), found, rtol=1e-5, atol=1e-5)


def test_with_an_interpolation() -> None:
    """Its surrogates lead through the denoising, and they and the model also past it."""
    target = Target(onnxfit.interpolate(denoised(), TEMPLATES))
    own, past = "own head", "past denoising"
    kernels = [f"template kernel {width}" for width in (1, 4, 16)]
    beyond = [f"{name} {past}" for name in (own, *kernels)]
    assert [own, *kernels, past, *beyond] == list(target.networks)
    (x, y), networks = digits(40), target.networks
    for name in (own, *kernels):
        through, passed = networks[name](x), networks[f"{name} {past}"](x)
        torch.testing.assert_close(through, passed, rtol=1e-4, atol=1e-4)
    left = {}
    for name, network in {"native": target.twin, **networks}.items():
        points = PGD(eps=0.1, steps=8)(network, x, y, judge=target.twin)
        assert (lengths(points - x, "linf") <= 0.1 + 1e-7).all()
        left[name] = int((target.predictions(points) == y.numpy()).sum())
    assert left[own] < left["native"] - 6
    assert left[f"{own} {past}"] < left["native"]
    assert min(left[f"{name} {past}"] for name in kernels) < left["native"]


def test_features_that_are_the_denoised_images() -> None:
    """They are there without the denoising too: the images themselves."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 1, 4, 4] x) => (float[N, 2] y) <float[16, 2] w = {LIST}>
        { f = Flatten(x)\n y = MatMul(f, w) }
        """.replace("LIST", ", ".join(str(k % 3 - 1) for k in range(32)))
    )
    random = np.random.default_rng(0)
    data = random.random((40, 1, 4, 4)).astype(np.float32), np.arange(40) % 2
    feature = "onnxfit.denoising/x"
    target = Target(onnxfit.interpolate(denoise(model, WEIGHT, steps=5), data, feature=feature))
    x = torch.from_numpy(data[0][:8])
    networks = target.networks
    there, beyond = (
        networks["template kernel 4"](x),
        networks["template kernel 4 past denoising"](x),
    )
    torch.testing.assert_close(there, beyond, rtol=1e-4, atol=1e-4)


def test_a_mask_that_is_drawn_anew() -> None:
    """Every pass has another mask, and a gradient is the mean over several (EOT)."""
    target = Target(denoised(keep=0.6))
    network, (x, _) = target.networks["past denoising"], digits(4)
    assert not torch.equal(network(x), network(x))
    front = Counter(network.module.front)
    moved = Past(front, network.module.network)
    attack = PGD(eps=0.0, steps=3, eot=5, early_stop=False)
    right = Function(lambda x: -torch.ones(len(x)))
    points = attack(moved, x, torch.zeros(4, dtype=torch.long), judge=right)
    assert torch.equal(x, points)
    # The samples, each step, and the last points.
    assert [4] * 5 * (1 + 3 + 1) == front.calls


def test_a_mask_that_is_fixed() -> None:
    """What the surrogate computes is what the file does."""
    target = Target(denoised(keep=0.6, seed=1))
    x, _ = digits(8)
    found = target.networks["past denoising"](x).argmax(1).numpy()
    np.testing.assert_array_equal(target.predictions(x), found)


@pytest.mark.parametrize(
    ("jump", "missed"),
    [
        (None, "surrogate networks (past denoising) were not followed"),
        (
            0.3,
            "they do not see across the jumps, and surrogate networks (past denoising) were not "
            "followed",
        ),
    ],
)
def test_the_verb_attack_says_what_it_did_not_follow(
    jump: float | None, missed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where one backward pass was asked for: by name, also of a hardened model."""
    path = tmp_path / "m.onnx"
    source: Any = DIGITS if jump is None else onnxfit.retrofit(DIGITS, jump)
    onnxfit.save(denoise(source, WEIGHT, steps=STEPS), path)
    arguments = ("--data", MODELS / "digits_test.npz", "--limit", "10", "--eps", "0.1")
    more = ("--attack", "pgd", "--steps", "2", "--backward", "true")
    ran = runner(capsys)("attack", path, *arguments, *more)
    assert 0 == ran.status, ran.err
    told = f"These are native gradients alone: {missed}. --backward all finds more."
    assert told in ran.err
