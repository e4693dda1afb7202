"""The largest singular value of the Jacobians of all samples, stacked."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from onnxfit.data import Dataset
from onnxfit.errors import ModelError
from onnxfit.jacobians.products import Advance, products_of

MOST_STEPS = 60
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Stacked:
    """The largest singular value of all Jacobians stacked, as :func:`largest_singular` finds it.

    Attributes:
        sigma_max: σ_max(J̄), from below.
        residual: An eigenvalue of J̄ᵀJ̄ is within this of ``sigma_max²``.
        steps: How often the method went through all samples.
        converged: Whether the residual became small enough.
    """

    sigma_max: float
    residual: float
    steps: int
    converged: bool


def largest_singular(
    model: torch.nn.Module,
    data: Dataset,
    *,
    batch_size: int = 64,
    seed: int = 0,
    device: str | torch.device = "cpu",
    tolerance: float = TOLERANCE,
    advance: Advance = lambda count: None,
) -> Stacked:
    """Find σ_max of the Jacobians of all samples, stacked, without making that matrix.

    By Lanczos' method on ``Σᵢ JᵢᵀJᵢ`` from a random direction, with all directions kept and made
    orthogonal twice. It stops where the residual is at most ``tolerance`` times the eigenvalue, so
    that σ is known to half of that share, and at the latest after ``MOST_STEPS`` steps.

    Args:
        model: From samples to logits, each sample's its own.
        data: The samples.
        batch_size: Samples computed at a time.
        seed: Of the direction to start from.
        device: Where the model computes.
        tolerance: When to stop.
        advance: Is told of ``MOST_STEPS`` times as many samples as there are, in parts.

    Raises:
        DataError: The data is damaged.
        ModelError: As :func:`products_of`; or a product is not finite.
    """
    dimensions = math.prod(data.shape)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(dimensions, generator=generator, dtype=torch.float64).to(device)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    value = residual = 0.0
    converged = False
    most = min(MOST_STEPS, dimensions)
    while len(diagonal) < most and not converged:
        image = torch.zeros_like(start)
        for x, _ in data.batches(batch_size):
            image += products_of(model, torch.from_numpy(x).to(device), basis[-1])[1]
            advance(len(x))
        if not image.isfinite().all():
            raise ModelError("the Jacobian of a sample holds NaN or infinity")
        diagonal.append(float(image @ basis[-1]))
        directions = torch.stack(basis)
        for _ in range(2):
            image -= directions.T @ (directions @ image)
        length = float(image.norm())
        small = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(small)
        value = max(float(values[-1]), 0.0)
        residual = length * abs(float(vectors[-1, -1]))
        # All directions there are leave nothing but rounding.
        converged = residual <= tolerance * value or len(diagonal) == dimensions
        beside.append(length)
        if not converged:
            basis.append(image / length)
    advance((MOST_STEPS - len(diagonal)) * data.n)
    return Stacked(
        sigma_max=math.sqrt(value),
        residual=residual,
        steps=len(diagonal),
        converged=converged,
    )
