"""JumpReLU in the twin, with the gradients that attacks choose between."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

# What the backward pass takes the slope to be; the forward pass is exact with each of them.
BACKWARDS = ("true", "relu", "smooth", "straight-through")


class JumpReLU(torch.nn.Module):
    """``0`` where ``x <= jump``, else ``x``; NaN passes through (arXiv 1904.03750).

    The jump itself has no gradient, which is what makes plain gradient attacks on a hardened
    model look weaker than they are. So the slope of the backward pass can be chosen:

    ====================  ===========================================================
    ``true``              1 where ``x > jump``, else 0
    ``relu``              1 where ``x > 0``, else 0
    ``smooth``            ``s + x·s·(1 − s)/τ`` with ``s = σ((x − jump)/τ)``: the slope of
                          ``x·σ((x − jump)/τ)``, which reaches across the jump
    ``straight-through``  1 everywhere
    ====================  ===========================================================

    Args:
        jump: Tensor that broadcasts to the input: one number, or one for each channel as
            ``[C, 1, 1]``; None where each call gives it. One that is set goes before the call's.
        site: The name of the activation in the model.

    Attributes:
        site: The name of the activation in the model.
        backward_mode: Which of the slopes is in use, ``true`` at first.
        tau: The width τ of the smooth gate, in the units of ``x``; 1 at first.
    """

    jump: torch.Tensor | None

    def __init__(self, jump: torch.Tensor | None, site: str = "") -> None:
        super().__init__()
        self.register_buffer("jump", None if jump is None else jump.detach().clone())
        self.site = site
        self.backward_mode = "true"
        self.tau = 1.0

    def forward(self, x: torch.Tensor, jump: torch.Tensor | None = None) -> torch.Tensor:
        """Compute JumpReLU of a tensor of any shape, with the slope that is set."""
        limit = jump if self.jump is None else self.jump
        if limit is None:
            raise ValueError(f"site {self.site!r} takes its jump at run time, and none was given")
        if self.backward_mode == "true":
            return exact(x, limit)
        # torch.compile takes no function with a forward derivative of its own.
        function = _Surrogate if torch.compiler.is_compiling() else _SurrogateBothWays
        y: torch.Tensor = function.apply(x, limit, self.backward_mode, self.tau)
        return y

    def extra_repr(self) -> str:
        """Describe the module in ``print``."""
        return f"site={self.site!r}, backward={self.backward_mode!r}"


def exact(x: torch.Tensor, jump: torch.Tensor) -> torch.Tensor:
    """Compute JumpReLU; its gradient is 1 where ``x > jump`` or NaN, else 0."""
    if not jump.dim() and jump.device.type == "cpu" and not torch.compiler.is_compiling():
        try:
            number = jump.item()
        except RuntimeError:  # torch.func.vmap runs over several jumps.
            return torch.where(x <= jump, 0.0, x)
        # One kernel in place of two: a tenth of the time.
        return torch.nn.functional.threshold(x, number, 0.0)
    return torch.where(x <= jump, 0.0, x)


def slope(x: torch.Tensor, jump: torch.Tensor, mode: str, tau: float) -> torch.Tensor:
    """Return what a backward pass takes the slope of JumpReLU to be, of the shape of ``x``."""
    if mode == "relu":
        return (x > 0).to(x.dtype)
    if mode == "straight-through":
        return torch.ones_like(x)
    if mode == "smooth":
        gate = torch.sigmoid((x - jump) / tau)
        return gate + x * gate * (1 - gate) / tau
    return (x > jump).to(x.dtype)


class _Surrogate(torch.autograd.Function):
    """JumpReLU whose derivative is the chosen slope."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, jump: torch.Tensor, mode: str, tau: float) -> torch.Tensor:
        return exact(x, jump)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        del output
        x, jump, ctx.mode, ctx.tau = inputs
        ctx.save_for_backward(x, jump)
        ctx.save_for_forward(x, jump)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, jump = ctx.saved_tensors
        return grads[0] * slope(x, jump, ctx.mode, ctx.tau), None, None, None


class _SurrogateBothWays(_Surrogate):
    """The same with its forward-mode derivative."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        x, jump = ctx.saved_tensors
        tangent: torch.Tensor = tangents[0] * slope(x, jump, ctx.mode, ctx.tau)
        return tangent


def set_backward(
    module: torch.nn.Module, mode: str, tau: float | Mapping[str, float] = 1.0
) -> None:
    """Choose the slope of every JumpReLU in a module, at once and without rebuilding it.

    Args:
        module: A twin, or any module that holds one.
        mode: ``true``, ``relu``, ``smooth`` or ``straight-through``.
        tau: Width of the smooth gate in the units of the activations: one number, or one for each
            site by name.

    Raises:
        ValueError: There is no such mode, a width is not above 0, or a site has none.
    """
    if mode not in BACKWARDS:
        raise ValueError(f"there is no backward {mode!r}, there are {', '.join(BACKWARDS)}")
    sites = jump_relus(module)
    widths = []
    for site in sites:
        if isinstance(tau, Mapping) and site.site not in tau:
            raise ValueError(f"tau has no width for the site {site.site!r}")
        width = float(tau[site.site] if isinstance(tau, Mapping) else tau)
        if not 0 < width < float("inf"):
            raise ValueError(f"tau is finite and above 0, got {width}")
        widths.append(width)
    for site, width in zip(sites, widths, strict=True):
        site.backward_mode, site.tau = mode, width


@contextmanager
def backward(
    module: torch.nn.Module, mode: str, tau: float | Mapping[str, float] = 1.0
) -> Iterator[None]:
    """Choose the slope of every JumpReLU for the length of a ``with`` block.

    Args and errors are those of :func:`set_backward`.
    """
    before = [(site, site.backward_mode, site.tau) for site in jump_relus(module)]
    set_backward(module, mode, tau)
    try:
        yield
    finally:
        for site, earlier, width in before:
            site.backward_mode, site.tau = earlier, width


def has_jumps(module: torch.nn.Module) -> bool:
    """Tell whether any jump in a module is not 0, or is given by each call."""
    return any(site.jump is None or bool(site.jump.any()) for site in jump_relus(module))


def jump_relus(module: torch.nn.Module) -> list[JumpReLU]:
    """Return the JumpReLUs in a module."""
    return [part for part in module.modules() if isinstance(part, JumpReLU)]
