"""The size of the Jacobian."""

import torch

from onnxfit.finetuning.terms.term import Batch, Term
from onnxfit.twin.gradients import gradient_of


class Jacobian(Term):
    """How fast the logits change with the samples (Hoffman, Roberts and Yaida 2019).

    ``½‖J(x)‖²_F`` with ``J`` the derivative of the logits with respect to a sample, a mean over
    the batch, after "Robust learning with Jacobian regularization" (arXiv 1908.02729). It is
    estimated without bias by ``½·C/(P·n)·Σ ‖∂(v·f(x))/∂x‖²`` over P directions ``v`` for each of n
    samples, uniform on the unit sphere of the C logits. Samples are in the units of the data's
    bounds, so that in units k times smaller the term is k² times smaller.

    Args:
        projections: How many directions are drawn for each sample; 0 for the exact value, which
            takes a backward pass for each class.
    """

    name = "jacobian"
    differentiates = True

    def __init__(self, projections: int = 1) -> None:
        if projections < 0:
            raise ValueError(f"the number of projections is not negative, got {projections}")
        self.projections = projections

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Compute the mean over the batch."""
        return squared_norm(batch, self.projections) / 2


def squared_norm(batch: Batch, projections: int) -> torch.Tensor:
    """Compute or estimate ``‖J‖²_F``, as part of the graph.

    Args:
        batch: The samples.
        projections: How many directions are drawn for each sample; 0 for the exact value.

    Returns:
        The mean over the batch.

    Raises:
        ModelError: The logits do not depend on the samples.
    """
    logits = batch.logits
    n, classes = logits.shape
    if not projections:
        squares = [
            gradient_of(z.sum(), batch.x, create_graph=True).square().sum()
            for z in logits.unbind(1)
        ]
        return torch.stack(squares).sum() / n
    squares = []
    for _ in range(projections):
        drawn = batch.normal(n, classes)
        directions = drawn / drawn.norm(dim=1, keepdim=True)
        gradient = gradient_of((directions * logits).sum(), batch.x, create_graph=True)
        squares.append(gradient.square().sum())
    return torch.stack(squares).mean() * classes / n
