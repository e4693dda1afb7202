"""What attacks maximise: one number for each sample, larger where it is nearer to misclassified."""

import math
from collections.abc import Callable
from typing import Literal

import torch

Loss = Literal["ce", "margin", "dlr"]

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy_margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return ``log Σ_{j≠y} exp z_j − z_y``, N×C and N → N.

    With the cross-entropy L it is ``log(e^L − 1)``: it orders points as L does, and its gradient
    is that of L times a positive number, ``1 / (1 − p_y)``. So a step of a given length is the
    same, but where L underflows, from gaps of about 17 between logits on, this does not.
    """
    rivals = logits.scatter(1, labels[:, None], float("-inf"))
    return rivals.logsumexp(1) - of_label(logits, labels)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return ``max_{j≠y} z_j − z_y`` (Carlini and Wagner, 2017): above 0 if misclassified."""
    rivals = logits.scatter(1, labels[:, None], float("-inf"))
    return rivals.amax(1) - of_label(logits, labels)


def dlr(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the difference of logits ratio (Croce and Hein, 2020, eq. 6).

    ``(max_{j≠y} z_j − z_y) / (z_(1) − z_(3))`` with the logits sorted, so that their scale does
    not matter. With two classes, which have no third, it is the margin.
    """
    if logits.shape[1] < 3:
        return margin(logits, labels)
    top = logits.topk(3).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the targeted difference of logits ratio (Croce and Hein, 2020, eq. 7).

    ``(z_t − z_y) / (z_(1) − (z_(3) + z_(4)) / 2)``; with fewer than four classes ``z_t − z_y``.
    """
    gap = of_label(logits, targets) - of_label(logits, labels)
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4).values
    return gap / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def likeliest(logits: torch.Tensor, labels: torch.Tensor, count: int | None) -> torch.Tensor:
    """Return the classes with the largest logits but the label, largest first.

    Args:
        logits: n×C.
        labels: n.
        count: How many, at most C − 1; None for these.

    Returns:
        n×count or fewer.
    """
    others = logits.shape[1] - 1
    count = others if count is None else min(count, others)
    return logits.scatter(1, labels[:, None], -math.inf).topk(count).indices


def of_label(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the logit of each sample's label, N×C and N → N."""
    return logits.gather(1, labels[:, None]).squeeze(1)


LOSSES: dict[Loss, LossFunction] = {"ce": cross_entropy_margin, "margin": margin, "dlr": dlr}
