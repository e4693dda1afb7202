"""How much activations change under noise."""

from contextlib import ExitStack

import torch

from onnxfit.attacks.ball import make_ball
from onnxfit.errors import ModelError
from onnxfit.finetuning.terms.term import Batch, Term
from onnxfit.twin.jump_relu import JumpReLU, jump_relus

# ε₀ as a share of a site's mean absolute activation. About half of what leaves a Relu is 0: by a
# fixed small number these values alone would be the term, by a share of the mean it is the same in
# all units of the activations. The mean is of the activations with and without noise, so a site
# that is 0 without it does not divide by 0, and none exceeds 2 / _FLOOR. Gradients pass through
# the mean: held fixed, it would reward smaller activations, which do not make the term smaller.
_FLOOR = 1.0


class Sensitivity(Term):
    """The relative change of activations under random noise (after Fidel et al. 2020).

    ``Σ_l mean_j E_ξ[|a_lj(x + ξ) − a_lj(x)| / (|a_lj(x)| + ε₀)]`` over the sites l, whose
    activations are ``a_l``, with ξ uniform in the ball of the threat and drawn once in each step.
    This is a reconstruction from the abstract of arXiv 2009.11349; the sites are the JumpReLUs of
    the model. All calls of one in a forward pass count as one site.
    """

    name = "sensitivity"

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Compute the sum over the sites of the mean over the batch.

        Raises:
            ModelError: The model computes no JumpReLU.
        """
        threat, x = batch.threat, batch.x.detach()
        noisy = make_ball(x, threat.eps, threat.norm, threat.bounds).random(batch.generator)
        before = _activations(batch.model, x)
        after = _activations(batch.model, noisy)
        changes = [
            _change(before[site], after[site]) for site in before if before[site] and after[site]
        ]
        if not changes:
            raise ModelError("the sensitivity is that of JumpReLUs, and the model computes none")
        return torch.stack(changes).sum()


def _activations(model: torch.nn.Module, x: torch.Tensor) -> dict[JumpReLU, list[torch.Tensor]]:
    """Compute the outputs of each JumpReLU, one for each call in order."""
    outputs: dict[JumpReLU, list[torch.Tensor]] = {site: [] for site in jump_relus(model)}

    def note(site: JumpReLU, _: object, output: torch.Tensor) -> None:
        outputs[site].append(output)

    with ExitStack() as hooks:
        for site in outputs:
            hooks.enter_context(site.register_forward_hook(note))
        model(x)
    return outputs


def _change(before: list[torch.Tensor], after: list[torch.Tensor]) -> torch.Tensor:
    """Return the mean relative change of a site's activations over its calls."""
    # The number of turns of a Loop may depend on the samples.
    pairs = list(zip(before, after, strict=False))
    count = max(sum(a.numel() for a, _ in pairs), 1)
    sizes = torch.stack([a.abs().sum() + b.abs().sum() for a, b in pairs])
    floor = _FLOOR * sizes.sum() / (2 * count) + torch.finfo(sizes.dtype).tiny
    changes = [((b - a).abs() / (a.abs() + floor)).sum() for a, b in pairs]
    return torch.stack(changes).sum() / count
