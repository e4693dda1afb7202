"""TRADES."""

import torch
from torch.nn import functional

from onnxfit.finetuning.terms.perturbing import worst_points
from onnxfit.finetuning.terms.term import Batch, Term


class Trades(Term):
    """How far predictions change near a sample (TRADES, Zhang et al. 2019, equation 5).

    ``max over ‖δ‖ ≤ ε of KL(softmax f(x) ‖ softmax f(x + δ))``, a mean over the batch; the paper's
    1/λ is its weight, 1 to 6 there. The points climb that divergence, not the cross-entropy.
    """

    name = "trades"

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Compute the mean over the batch."""
        clean = torch.log_softmax(batch.logits, 1)
        fixed = clean.detach()
        points = worst_points(batch, lambda logits: _divergence(fixed, logits, "sum"))
        return _divergence(clean, batch.model(points), "batchmean")


def _divergence(logs: torch.Tensor, logits: torch.Tensor, reduction: str) -> torch.Tensor:
    """Return the Kullback–Leibler divergence of distributions by logits from others by logs."""
    other = torch.log_softmax(logits, 1)
    return functional.kl_div(other, logs, reduction=reduction, log_target=True)
