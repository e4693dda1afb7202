"""Networks to follow where a retrofit around a network leaves no gradient worth following.

Attacks take logits and gradients of such a network, and count what fools the model itself
(``judge`` in :class:`onnxfit.attacks.attack.Attack`).

=================  =====================================================  ====================
record             networks                                               file
=================  =====================================================  ====================
``interpolation``  the model with its own head; all templates as a        ``interpolation.py``
                   smooth kernel, of several widths
``denoising``      the model, and with its own head, with a gradient      ``denoising.py``
                   that passes the denoising over
=================  =====================================================  ====================
"""

from pathlib import Path

import torch
from onnx import ModelProto

from onnxfit import passes, rewrites
from onnxfit.passes.interpolation import KEY as INTERPOLATION
from onnxfit.passes.total_variation import KEY as DENOISING
from onnxfit.surrogate_networks.building import Build
from onnxfit.surrogate_networks.denoising import PAST, Past, apart
from onnxfit.surrogate_networks.interpolation import OWN_HEAD, kernels, with_own_head

__all__ = ["surrogate_networks"]


def surrogate_networks(
    model: ModelProto, folder: Path | None, build: Build
) -> dict[str, torch.nn.Module]:
    """Make the networks that attacks on a model should follow beside the model's own.

    Args:
        model: Any model; most have none.
        folder: Of its external data.
        build: Makes modules.

    Returns:
        Modules of the same samples and classes as the model, by the names that reports give them.

    Raises:
        ModelError: A record is damaged, or another tool changed what it tells of.
    """
    if not passes.applied(model):
        return {}
    plain, found = rewrites.unrewritten(model), {}
    if INTERPOLATION in passes.applied(plain):
        found[OWN_HEAD] = build(with_own_head(plain))
        found |= kernels(plain, folder, build)
    if DENOISING in passes.applied(plain):
        front, bare = apart(plain)
        before = build(front)
        found[PAST] = Past(before, build(bare))
        if OWN_HEAD in found:
            found[f"{OWN_HEAD} {PAST}"] = Past(before, build(with_own_head(bare)))
    return found
