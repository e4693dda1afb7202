"""Networks to follow where a retrofit around a network leaves no gradient worth following.

Attacks take logits and gradients of such a network, and count what fools the model itself
(``judge`` in :class:`onnxfit.attacks.attack.Attack`).

=================  =====================================================  ====================
record             networks                                               file
=================  =====================================================  ====================
``interpolation``  the model with its own head; all templates as a        ``interpolation.py``
                   smooth kernel, of several widths
``denoising``      the model, and each of these, with a gradient that     ``denoising.py``
                   passes the denoising over
=================  =====================================================  ====================
"""

from collections.abc import Iterator
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
    plain = rewrites.unrewritten(model)
    found = dict(_interpolating(plain, folder, build))
    if DENOISING in passes.applied(plain):
        front, bare = apart(plain)
        before = build(front, before_probabilities=False)
        found[PAST] = Past(before, build(bare))
        for name, network in _interpolating(bare, folder, build):
            found[f"{name} {PAST}"] = Past(before, network)
    return found


def _interpolating(
    model: ModelProto, folder: Path | None, build: Build
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the networks of an interpolation by name; args as in :func:`surrogate_networks`."""
    if INTERPOLATION in passes.applied(model):
        yield OWN_HEAD, build(with_own_head(model))
        yield from kernels(model, folder, build)
