"""Resize and Upsample."""

from collections.abc import Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.interpolation import (
    Scaling,
    Sizes,
    by_scales,
    by_sizes,
    gathered,
    nearest_index,
    taps,
)
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Variable

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
MODES = ("nearest", "linear", "cubic")
POLICIES = ("stretch", "not_larger", "not_smaller")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Mode and number of axes besides batch and channels → PyTorch's name for it.
NATIVE = {
    ("linear", 1): "linear",
    ("linear", 2): "bilinear",
    ("linear", 3): "trilinear",
    ("cubic", 2): "bicubic",
}
NATIVE_CUBIC = -0.75
# Factors whose inverse is exact, so that PyTorch's nearest elements are ONNX's.
EXACT = (1.0, 2.0, 4.0, 8.0, 16.0)
REPEATS = {
    ("asymmetric", "floor"),
    ("asymmetric", "simple"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
}


@converter("Upsample", since=7)
def upsample_by_attribute(node: Node) -> Outputs:
    return _resize_plainly(node, node.get("scales"))


@converter("Upsample", since=9)
@converter("Resize", since=10)
def resize_by_input(node: Node) -> Outputs:
    return _resize_plainly(node, node.host(1))


def _resize_plainly(node: Node, scales: Any) -> Outputs:
    """Resize as it was before there was a choice of coordinates."""
    mode = node.get("mode", "nearest")
    if mode not in ("nearest", "linear"):
        node.unsupported(f"its mode is {mode!r}")
    options = {"mode": mode, "coordinates": "asymmetric", "rounding": "simple"}
    return emit_resize(node, node.input(0), scales, None, **options)


@converter("Resize", since=11)
def resize(node: Node) -> Outputs:
    mode = node.get("mode", "nearest")
    coordinates = node.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.get("nearest_mode", "round_prefer_floor")
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    known = mode in MODES and policy in POLICIES
    if not known or coordinates not in COORDINATES or rounding not in ROUNDINGS:
        node.unsupported(f"its modes are {mode!r}, {coordinates!r}, {rounding!r} and {policy!r}")
    scales, sizes = node.host(2) or None, node.host(3) or None
    if coordinates == "align_corners" and isinstance(scales, Variable):
        # ONNX's reference takes the length of the output before it is rounded.
        node.unsupported("its corners depend on its scales, which are not constant")
    options: dict[str, Any] = {"axes": node.get("axes")} if node.get("axes") else {}
    if coordinates == "tf_crop_and_resize":
        if scales is not None:
            node.unsupported("it crops by scales, with which its size has no agreed meaning")
        options |= {"roi": node.host(1), "outside": node.get("extrapolation_value", 0.0)}
    if mode == "cubic":
        options["cubic"] = node.get("cubic_coeff_a", NATIVE_CUBIC)
    if policy != "stretch":
        options["policy"] = policy
    for name in ("exclude_outside", "antialias"):
        if node.get(name, 0):
            options[name] = True
    options |= {"mode": mode, "coordinates": coordinates, "rounding": rounding}
    return emit_resize(node, node.input(0), scales, sizes, **options)


def emit_resize(node: Node, x: Any, scales: Any, sizes: Any, **options: Any) -> Any:
    """Add the step of a resize: PyTorch's own where it is known to be the same."""
    if node.element_type(0) == TensorProto.STRING:
        node.unsupported("PyTorch has no strings")
    kind = (options["coordinates"], options["rounding"])
    repeats = options["mode"] == "nearest" and kind in REPEATS and "axes" not in options
    if repeats and isinstance(scales, tuple) and node.element_type(0) in FLOATS:
        factors = scales[2:]
        if scales[:2] == (1, 1) and 1 <= len(factors) <= 3 and set(factors) <= set(EXACT):
            return node.emit(functional.interpolate, x, scale_factor=factors, mode="nearest")
    batch = node.frame.builder.batch
    if batch and isinstance(sizes, tuple) and "axes" not in options and sizes[0] == batch[0]:
        options["batch"] = batch[1]
    return node.emit(resized, x, scales, sizes, **options)


def resized(
    x: torch.Tensor,
    scales: Sequence[float] | None,
    sizes: Sizes | None,
    *,
    mode: str,
    coordinates: str,
    rounding: str,
    axes: Sizes | None = None,
    roi: Sequence[float] = (),
    outside: float = 0.0,
    cubic: float = NATIVE_CUBIC,
    policy: str = "stretch",
    exclude_outside: bool = False,
    antialias: bool = False,
    batch: int | None = None,
) -> torch.Tensor:
    """Resize along each axis in turn.

    Args:
        x: The tensor.
        scales: The factor of each axis, or None.
        sizes: The new length of each axis, if there are no factors.
        mode: ``nearest``, ``linear`` or ``cubic``.
        coordinates: The name of the map from the output's elements to points on the input.
        rounding: How to find the nearest element.
        axes: The axes that ``scales``, ``sizes`` and ``roi`` tell of.
        roi: First the beginning, then the end of the part of each axis to show.
        outside: The value outside the input.
        cubic: The parameter of the cubic filter.
        policy: Whether ``sizes`` are limits within which the ratio of the sides stays.
        exclude_outside: Whether elements outside the input count nothing.
        antialias: Whether the filter becomes wider when the axis becomes shorter.
        batch: The batch size that the twin was given, in place of the one in ``sizes``.
    """
    axes = tuple(axis % x.dim() for axis in axes) if axes else tuple(range(x.dim()))
    if scales:
        plan = by_scales(x.shape, scales, axes)
    elif sizes:
        if batch is not None and batch == x.shape[0]:
            sizes = (batch, *sizes[1:])
        plan = by_sizes(x.shape, sizes, axes, roi, policy)
    else:
        raise ValueError("neither scales nor sizes are given")
    crops = coordinates == "tf_crop_and_resize"
    plan = [s for s in plan if not s.is_identity]
    if not plan:
        return x
    kept = [s for s in plan if s.resized == s.length]
    if ((crops or antialias) and kept) or len(kept) == len(plan):
        # The specification interpolates, ONNX Runtime takes the elements as they are.
        raise ValueError("a change of scale that keeps a length has no agreed meaning")
    if mode == "nearest":
        y = x
        for s in plan:
            index = nearest_index(s.points(coordinates, x.device), s, rounding)
            y = y.index_select(s.axis, index)
    elif not (exclude_outside or antialias) and is_native(x, plan, mode, coordinates, cubic):
        return native(x, plan, mode, coordinates)
    elif not x.is_floating_point():
        raise ValueError(f"integers are resized in the mode 'nearest' only, not {mode!r}")
    else:
        dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        y = x.to(dtype)
        for s in plan:
            stretch = min(s.scale, 1.0) if antialias else 1.0
            points = s.points(coordinates, x.device)
            found = taps(points, s.length, mode == "cubic", stretch, cubic, exclude_outside)
            y = gathered(y, s.axis, *found)
        y = y.to(x.dtype)
    return fill_outside(y, plan, coordinates, outside) if crops else y


def is_native(
    x: torch.Tensor, plan: Sequence[Scaling], mode: str, coordinates: str, cubic: float
) -> bool:
    """Tell whether PyTorch's own function computes the same."""
    single_point = any(s.resized == 1 for s in plan)
    return (
        x.is_floating_point()
        and (mode, x.dim() - 2) in NATIVE
        and (mode == "linear" or cubic == NATIVE_CUBIC)
        and all(s.axis > 1 and s.is_plain for s in plan)
        and (
            coordinates in ("half_pixel", "align_corners")
            or (coordinates == "pytorch_half_pixel" and not single_point)
        )
    )


def native(x: torch.Tensor, plan: Sequence[Scaling], mode: str, coordinates: str) -> torch.Tensor:
    size = list(x.shape[2:])
    for s in plan:
        size[s.axis - 2] = s.resized
    align_corners = coordinates == "align_corners"
    return functional.interpolate(
        x, size, mode=NATIVE[mode, len(size)], align_corners=align_corners
    )


def fill_outside(
    y: torch.Tensor, plan: Sequence[Scaling], coordinates: str, value: float
) -> torch.Tensor:
    """Replace what lies outside the input by a value."""
    inside = torch.ones((), dtype=torch.bool, device=y.device)
    for s in plan:
        points = s.points(coordinates, y.device)
        shape = [-1 if axis == s.axis else 1 for axis in range(y.dim())]
        inside = inside & ((points >= 0) & (points <= s.length - 1)).reshape(shape)
    return y.masked_fill(~inside, value)
