"""Backward passes that see across a jump, and how wide their gates must be for a network."""

import contextlib
from collections.abc import Iterator, Mapping

import torch

from onnxfit.twin.jump_relu import JumpReLU, backward, jump_relus

# Widths of the smooth gate that a sweep tries, as shares of a site's scale.
TAUS = (0.05, 0.1, 0.2, 0.5)


def scales_of(model: torch.nn.Module, x: torch.Tensor) -> dict[str, float]:
    """Measure the scale of each JumpReLU: its jump, or the spread of its input if that is larger.

    The spread is the standard deviation over all values that reach the site. A jump of several
    numbers counts with their mean.

    Args:
        model: A module with JumpReLUs.
        x: Samples, N×…, that it is given.

    Returns:
        The scale of each site by its name, above 0.
    """
    sums: dict[str, tuple[float, float, float]] = {}
    jumps: dict[str, float] = {}

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        if not isinstance(module, JumpReLU) or not inputs[0].numel():
            return
        values = inputs[0].detach().double()
        n, total, squares = sums.get(module.site, (0.0, 0.0, 0.0))
        squares += float(values.square().sum())
        sums[module.site] = (n + values.numel(), total + float(values.sum()), squares)
        jump = module.jump if len(inputs) < 2 or module.jump is not None else inputs[1]
        if jump is not None and jump.numel():
            jumps[module.site] = float(jump.double().mean())

    sites = jump_relus(model)
    with contextlib.ExitStack() as hooks:
        for site in sites:
            hooks.enter_context(site.register_forward_hook(note))
        with torch.no_grad():
            model(x)
    scales = {}
    for site in sites:
        n, total, squares = sums.get(site.site, (1.0, 0.0, 0.0))
        spread = max(squares / n - (total / n) ** 2, 0.0) ** 0.5
        scales[site.site] = max(jumps.get(site.site, 0.0), spread) or 1.0
    return scales


@contextlib.contextmanager
def surrogate(
    model: torch.nn.Module, mode: str, tau: float = 1.0, scales: Mapping[str, float] | None = None
) -> Iterator[None]:
    """Choose the slope of every JumpReLU for the length of a ``with`` block.

    Args:
        model: Any module.
        mode: ``true``, ``relu``, ``smooth`` or ``straight-through``.
        tau: Width of the smooth gate as a share of each site's scale.
        scales: The scale of each site.
    """
    widths = {name: tau * scale for name, scale in (scales or {}).items()}
    with backward(model, mode, widths if mode == "smooth" else 1.0):
        yield
