"""JumpReLU and AddJumpReLU as one would write them in Triton, to compare with the CUDA kernels."""

# ruff: noqa: ANN001, ANN201, PLR0913, PLR0917 - Triton gives the arguments their types

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

BLOCKS = (1024, 4096)


@triton.jit  # type: ignore[attr-defined, untyped-decorator, unused-ignore]
def kernel(  # type: ignore[no-untyped-def, unused-ignore]
    a, b, y, jump, row, count, channels: tl.constexpr, adds: tl.constexpr, block: tl.constexpr
):
    """Compute one block of fewer than 2^31 elements; each ``row`` of them has a jump of its own."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < count
    x = tl.load(a + at, mask=inside)
    if adds:
        x = x + tl.load(b + at, mask=inside)
    if channels == 1:
        own = tl.load(jump)
        tl.store(y + at, tl.where(x <= own, tl.zeros_like(x), x), mask=inside)
    else:
        jumps = tl.load(jump + at // row % channels, mask=inside)
        tl.store(y + at, tl.where(x <= jumps, tl.zeros_like(x), x), mask=inside)


def launch(
    a: torch.Tensor, b: torch.Tensor | None, y: torch.Tensor, jump: torch.Tensor, block: int
) -> None:
    """Compute y from a, or from a + b, n×C×…; jump has one element or C."""
    row = a[0, 0].numel()
    grid = (-(-a.numel() // block),)
    second = a if b is None else b
    kernel[grid](a, second, y, jump, row, a.numel(), jump.numel(), b is not None, block)
