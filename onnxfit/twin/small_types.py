"""Rounding to types of 8 bits and fewer, with gradients that pass straight through."""

import torch
from onnx import TensorProto

FLOAT8 = (
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
)
# The integers of fewer than 8 bits: how many, and whether one of them is the sign.
NARROW: dict[int, tuple[int, bool]] = {
    TensorProto.UINT4: (4, False),
    TensorProto.INT4: (4, True),
    TensorProto.UINT2: (2, False),
    TensorProto.INT2: (2, True),
}


def round_straight_through(x: torch.Tensor) -> torch.Tensor:
    """Round finite numbers to integers, halves to even, with the gradient of the identity."""
    flat = x.detach()
    return x + (torch.round(flat) - flat)


def to_float8(x: torch.Tensor, dtype: torch.dtype, saturate: bool) -> torch.Tensor:
    """Round to a float8 type's numbers and leave them in the type of ``x``.

    Numbers beyond the range are cut to it, or else become infinite or NaN as the type has it. The
    gradient is 1 in the range and 0 beyond.
    """
    largest = torch.finfo(dtype).max
    y = torch.clamp(x, -largest, largest)
    flat = y.detach()
    rounded = y + (flat.to(dtype).to(x.dtype) - flat)
    if saturate:
        return rounded
    # Half a step above the largest number; e4m3fn alone rounds the tie down.
    size = x.detach().abs()
    if dtype == torch.float8_e4m3fn:
        beyond = size > 464.0
    else:
        beyond = size >= (248.0 if dtype == torch.float8_e4m3fnuz else 61440.0)
    if dtype == torch.float8_e5m2:
        return torch.where(beyond, torch.copysign(torch.full_like(size, torch.inf), x), rounded)
    return torch.where(beyond, torch.nan, rounded)


def to_float8e8m0(x: torch.Tensor, round_mode: str) -> torch.Tensor:
    """Round the magnitude to a power of 2: up, down or to the nearest, in the type's range."""
    bits = x.to(torch.float32).view(torch.int32)
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    if round_mode == "up":
        exponent = exponent + (fraction > 0)
    elif round_mode == "nearest":
        exponent = exponent + ((fraction > 0x400000) | ((fraction == 0x400000) & (exponent > 0)))
    exponent = torch.where(torch.isnan(x), 0xFF, torch.clamp(exponent, max=0xFE))
    return exponent.to(torch.uint8).view(torch.float8_e8m0fnu)


def to_float4(x: torch.Tensor) -> torch.Tensor:
    """Round to 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives; NaN becomes 0.

    The gradient is 1 between -6 and 6, and 0 beyond.
    """
    y = torch.clamp(torch.where(torch.isnan(x), 0.0, x), -6.0, 6.0)
    flat = y.detach()
    size = flat.abs()
    step = 0.5 + 0.5 * (size >= 2).to(x.dtype) + (size >= 4).to(x.dtype)
    return y + (torch.round(flat / step) * step - flat)


def to_integer(
    x: torch.Tensor, dtype: torch.dtype, bits: int = 0, signed: bool = False
) -> torch.Tensor:
    """Truncate to integers, of which the lowest bits are kept where ``bits`` is above 0."""
    if x.is_floating_point() and x.element_size() == 1:
        x = x.to(torch.float32)
    if not bits:
        return x.to(dtype)
    low = x.to(torch.int64) & (1 << bits) - 1
    if signed:
        low = low - ((low >> bits - 1) << bits)
    return low.to(dtype)
