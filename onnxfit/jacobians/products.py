"""Jacobians of a batch of samples, and products with them."""

from collections.abc import Callable

import torch

from onnxfit.twin.classifier import as_logits
from onnxfit.twin.gradients import gradient_of

# Is told how much more is done.
Advance = Callable[[int], object]

# Columns of Jacobians that are taken in double precision at a time.
_COLUMNS = 4096


def logits_at(model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a copy of samples that gradients reach, and the logits there.

    Raises:
        ModelError: The module returns no logits.
    """
    leaf = x.detach().clone().requires_grad_()
    return leaf, as_logits(model(leaf), len(leaf))


def jacobians_of(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Compute the Jacobian of each sample's logits, by a backward pass for each logit.

    Args:
        model: From samples to logits, each sample's its own.
        x: Samples, n×….

    Returns:
        n×C×D, in the type of the samples.

    Raises:
        ModelError: The module returns no logits, or no gradient reaches its input.
    """
    leaf, logits = logits_at(model, x)
    jacobians = x.new_empty(len(x), logits.shape[1], leaf[0].numel())
    for k in range(logits.shape[1]):
        last = k == logits.shape[1] - 1
        gradient = gradient_of(logits[:, k].sum(), leaf, retain_graph=not last)
        jacobians[:, k] = gradient.detach().flatten(1)
    return jacobians


def gram_of(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compute ``A·Bᵀ`` of matrices, n×C×D each, in double precision; n×C×C."""
    gram = first.new_zeros(len(first), first.shape[1], second.shape[1], dtype=torch.float64)
    parts = zip(first.split(_COLUMNS, 2), second.split(_COLUMNS, 2), strict=True)
    for left, right in parts:
        gram += left.double() @ right.double().mT
    return gram


def inner_of(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compute ``⟨A, B⟩_F`` of matrices, n×C×D each, in double precision; n."""
    total = first.new_zeros(len(first), dtype=torch.float64)
    for left, right in zip(first.split(_COLUMNS, 2), second.split(_COLUMNS, 2), strict=True):
        total += (left.double() * right).sum((1, 2))
    return total


def smaller_gram_of(matrices: torch.Tensor) -> torch.Tensor:
    """Compute ``A·Aᵀ`` or ``Aᵀ·A`` of matrices, n×C×D, whichever is smaller, as :func:`gram_of`.

    Both have the same trace, and the same eigenvalues but for zeros. The smaller one has no more
    numbers than ``A``.
    """
    narrow = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    return gram_of(narrow, narrow)


def trace_of(gram: torch.Tensor) -> torch.Tensor:
    """Return the trace of each Gram matrix."""
    return gram.diagonal(dim1=1, dim2=2).sum(1)


def largest_of(gram: torch.Tensor) -> torch.Tensor:
    """Return the largest eigenvalue of each Gram matrix, at least 0."""
    return torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0)


def products_of(
    model: torch.nn.Module, x: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ``Jᵢv`` of each sample, and the sum of ``JᵢᵀJᵢv``, without a Jacobian.

    ``Jᵢᵀu`` is a backward pass. It is linear in ``u``, so that its derivative along ``v`` with
    respect to ``u`` is ``Jᵢv``.

    Args:
        model: From samples to logits, each sample's its own.
        x: Samples, n×….
        v: Direction, D.

    Returns:
        n×C in the type of the samples, and D in double precision.

    Raises:
        ModelError: The module returns no logits, or no gradient reaches its input.
    """
    leaf, logits = logits_at(model, x)
    u = torch.zeros_like(logits, requires_grad=True)
    back = gradient_of((logits * u).sum(), leaf, create_graph=True)
    along = v.to(x).reshape(x.shape[1:])
    forward = gradient_of((back * along).sum(), u, retain_graph=True).detach()
    gradient = gradient_of((logits * forward).sum(), leaf).detach()
    return forward, gradient.flatten(1).sum(0, dtype=torch.float64)
