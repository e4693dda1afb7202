"""What one perturbation of all samples does indeed, beside the bound of what it can do."""

from typing import Any

import torch

from onnxfit.attacks.evasion import apply, universal_evasion_rate
from onnxfit.attacks.universal import UniversalPerturbation
from onnxfit.data import Dataset
from onnxfit.twin.gradients import device_of

# Samples that the perturbation is made of and measured on, held in memory.
LIMIT = 1000


def reached(
    attack: UniversalPerturbation,
    model: torch.nn.Module,
    deployed: torch.nn.Module,
    data: Dataset,
) -> dict[str, Any]:
    """Make a universal perturbation of samples (SGD-UAP) and measure it on the same ones.

    On other samples it does less: this is to be read beside the bound, which is of these too.

    Args:
        attack: How it is made.
        model: From samples, N×…, to logits, N×C, with gradients.
        deployed: The same without gradients; its verdict counts.
        data: The samples; at most 1,000 are used, spread evenly.

    Returns:
        For JSON: the number of samples; the mean of ‖f(x + δ) − f(x)‖² over them; the share that
        is misclassified with δ, of all and of those classified rightly without it, each with its
        95 % interval (None where there are none).
    """
    x, y = data.spread(LIMIT)
    delta = attack(model, x, y)
    size = attack.batch_size
    evasion = universal_evasion_rate(deployed, x, y, delta, data.bounds, size)
    clean, moved = (torch.from_numpy(points) for points in (x, apply(x, delta, data.bounds)))
    device, total = device_of(model), 0.0
    with torch.no_grad():
        for one, other in zip(clean.split(size), moved.split(size), strict=True):
            change = model(other.to(device)).double() - model(one.to(device)).double()
            total += float(change.square().sum())
    return {"samples": len(x), "mean_squared_change": total / len(x), **evasion.record}
