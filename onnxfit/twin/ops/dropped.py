"""Operators of ONNX's first version that it dropped; old files hold them."""

from collections.abc import Sequence

import torch

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter


@converter("Affine")
def affine(node: Node) -> Outputs:
    return node.emit(scale_and_shift, node.input(0), node.get("alpha", 1.0), node.get("beta", 0.0))


def scale_and_shift(x: torch.Tensor, scale: float, shift: float) -> torch.Tensor:
    return x * scale + shift


@converter("ImageScaler")
def image_scaler(node: Node) -> Outputs:
    return node.emit(
        scale_and_shift_channels, node.input(0), node.get("scale", 1.0), node.get("bias")
    )


def scale_and_shift_channels(x: torch.Tensor, scale: float, bias: Sequence[float]) -> torch.Tensor:
    return x * scale + x.new_tensor(bias).reshape(-1, 1, 1)


@converter("Crop")
def crop(node: Node) -> Outputs:
    return node.emit(cropped, node.input(0), node.get("border"), node.get("scale"))


def cropped(x: torch.Tensor, border: Sequence[int], size: Sequence[int] | None) -> torch.Tensor:
    """Cut off the left, upper, right and lower border; a given size replaces the latter two."""
    left, top, right, bottom = border
    height, width = size or (x.shape[2] - top - bottom, x.shape[3] - left - right)
    return x[:, :, top : top + height, left : left + width]


@converter("ParametricSoftplus")
def parametric_softplus(node: Node) -> Outputs:
    return node.emit(scaled_softplus, node.input(0), node.get("alpha"), node.get("beta"))


def scaled_softplus(x: torch.Tensor, scale: float, slope: float) -> torch.Tensor:
    return scale * torch.logaddexp(x * slope, x.new_zeros(()))


@converter("ScaledTanh")
def scaled_tanh(node: Node) -> Outputs:
    return node.emit(stretched_tanh, node.input(0), node.get("alpha"), node.get("beta"))


def stretched_tanh(x: torch.Tensor, scale: float, slope: float) -> torch.Tensor:
    return scale * torch.tanh(x * slope)
