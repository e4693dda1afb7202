"""Adversarial training."""

import torch
from torch.nn import functional

from onnxfit.finetuning.terms.perturbing import worst_points
from onnxfit.finetuning.terms.term import Batch, Term


class Adversarial(Term):
    """The cross-entropy of adversarial points, in place of the samples' own (Madry et al. 2018).

    ``max over ‖δ‖ ≤ ε of CE(f(x + δ), y)``, the points found by projected gradient descent. Its
    weight is its share of the cross-entropy: with 1 the samples themselves are not trained on,
    with 0.5 both count the same (Goodfellow et al. 2015).
    """

    name = "adversarial"
    share = True

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Compute the mean over the batch."""
        points = worst_points(
            batch, lambda logits: functional.cross_entropy(logits, batch.y, reduction="sum")
        )
        return functional.cross_entropy(batch.model(points), batch.y)
