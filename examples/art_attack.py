"""Attack a hardened network with an attack that onnxfit does not have, through its twin.

The attack is the Auto Conjugate Gradient attack (Yamamura et al., 2022) of the Adversarial
Robustness Toolbox. Its gradients come from the twin, first with the true slope of JumpReLU and then
with one that sees across the jump. Whether a point counts is up to the hardened file in ONNX
Runtime.

    pip install "onnxfit[twin]" adversarial-robustness-toolbox
    python examples/art_attack.py [--jump 0.5] [--eps 0.1]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import AutoConjugateGradient
from numpy.typing import NDArray

import onnxfit
from onnxfit.attacks import as_art_classifier, scales_of

MODELS = Path(__file__).parent.parent / "models"

Floats = NDArray[np.float32]


def attack(twin: torch.nn.Module, x: Floats, labels: NDArray[np.int64], eps: float) -> Floats:
    """Return adversarial points within ``eps`` of each value, by ART."""
    acg = AutoConjugateGradient(
        as_art_classifier(twin, shape=x.shape[1:]),
        norm=np.inf,
        eps=eps,
        eps_step=2 * eps,
        max_iter=20,
        nb_random_init=1,
        loss_type="difference_logits_ratio",
        batch_size=len(x),
        verbose=False,
    )
    points: Floats = acg.generate(x, labels)
    return points


def accuracy(session: Any, x: Floats, labels: NDArray[np.int64]) -> float:
    """Return the share of samples that the file classifies rightly in ONNX Runtime."""
    logits = session.run(None, {"image": x})[0]
    return float((logits.argmax(axis=1) == labels).mean())


def main() -> None:
    """Harden, attack, replay on the file, and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jump", type=float, default=0.5)
    parser.add_argument("--eps", type=float, default=0.1)
    options = parser.parse_args()
    np.random.seed(0)  # ART draws its starting points there.
    with np.load(MODELS / "digits_test.npz") as data:
        x, labels = data["x"][:100], data["y"][:100]

    hardened = onnxfit.retrofit(MODELS / "digits_cnn.onnx", jump=options.jump)
    session = onnxfit.session(hardened)
    print(f"clean                          {accuracy(session, x, labels):.4f}")

    twin = onnxfit.to_torch(hardened)
    scales = scales_of(twin, torch.from_numpy(x))
    slopes: dict[str, Any] = {
        "its own slope": ("true", 1.0),
        "a smooth gate": ("smooth", {site: 0.2 * scale for site, scale in scales.items()}),
    }
    for name, (mode, widths) in slopes.items():
        onnxfit.set_backward(twin, mode, widths)
        points = attack(twin, x, labels, options.eps)
        print(f"attacked, {name:<20} {accuracy(session, points, labels):.4f}")


if __name__ == "__main__":
    main()
