"""Random numbers: new ones in each call, the same ones where a node has a seed.

``torch.manual_seed`` rules those without a seed. Where a node has one, ONNX Runtime goes on from
call to call and the twin begins anew; neither draws the numbers of the other.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.tensors import DTYPES

# Their attributes with the defaults.
NORMAL = (("mean", 0.0), ("scale", 1.0))
UNIFORM = (("low", 0.0), ("high", 1.0))


@converter("RandomNormal")
def random_normal(node: Node) -> Outputs:
    return _of_shape(node, normal, NORMAL)


@converter("RandomUniform")
def random_uniform(node: Node) -> Outputs:
    return _of_shape(node, uniform, UNIFORM)


@converter("RandomNormalLike")
def random_normal_like(node: Node) -> Outputs:
    return _like_input(node, normal, NORMAL)


@converter("RandomUniformLike")
def random_uniform_like(node: Node) -> Outputs:
    return _like_input(node, uniform, UNIFORM)


@converter("Bernoulli", since=15)
def bernoulli(node: Node) -> Outputs:
    return node.emit_random(draw_bits, node.input(0), _dtype(node), node.get("seed"))


@converter("Multinomial", since=7)
def multinomial(node: Node) -> Outputs:
    size, dtype = node.get("sample_size", 1), _dtype(node, 6)
    return node.emit_random(draw_classes, node.input(0), size, dtype, node.get("seed"))


def _of_shape(
    node: Node, function: Callable[..., Tensor], names: tuple[tuple[str, float], ...]
) -> Outputs:
    numbers = (node.get(name, default) for name, default in names)
    shape, like = node.get("shape"), _dtype(node, 1)
    return node.emit_random(function, shape, like, *numbers, node.get("seed"))


def _like_input(
    node: Node, function: Callable[..., Tensor], names: tuple[tuple[str, float], ...]
) -> Outputs:
    numbers = [node.get(name, default) for name, default in names]
    like = _dtype(node)
    arguments = (function, node.input(0), like, *numbers, node.get("seed"))
    return node.emit_random(draw_like, *arguments)


def _dtype(node: Node, default: int | None = None) -> Any:
    """Return what tells the type of the output; None for that of the input."""
    element_type = node.get("dtype", default)
    if element_type is None:
        return None
    if element_type not in DTYPES:
        node.unsupported(f"there are no random numbers of type {element_type}")
    return node.like(DTYPES[element_type])


def normal(
    shape: tuple[int, ...], like: Tensor, mean: float, scale: float, seed: float | None
) -> Tensor:
    generator = seeded(seed, like)
    drawn = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    return drawn * scale + mean


def uniform(
    shape: tuple[int, ...], like: Tensor, low: float, high: float, seed: float | None
) -> Tensor:
    generator = seeded(seed, like)
    drawn = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    return drawn * (high - low) + low


def draw_like(
    function: Callable[..., Tensor], x: Any, like: Tensor | None, *numbers: float | None
) -> Tensor:
    """Draw as many numbers as there are in ``x``, of its type where nothing else is asked for."""
    return function(tuple(x.shape), x if like is None else like, *numbers)


def draw_bits(x: Tensor, like: Tensor | None, seed: float | None) -> Tensor:
    """Draw 1 with the probabilities ``x``, else 0; there is no gradient."""
    drawn = torch.bernoulli(x.detach(), generator=seeded(seed, x))
    return drawn if like is None else drawn.to(like.dtype)


def draw_classes(x: Tensor, size: int, like: Tensor, seed: float | None) -> Tensor:
    """Draw classes by their unnormalised log-probabilities ``x``; there is no gradient."""
    wide = torch.promote_types(x.dtype, torch.float32)
    probabilities = x.detach().softmax(-1, dtype=wide)
    drawn = torch.multinomial(probabilities, size, replacement=True, generator=seeded(seed, x))
    return drawn.to(like.dtype)


def seeded(seed: float | None, like: Tensor) -> torch.Generator | None:
    """Return a generator that begins with a seed; None for PyTorch's own."""
    if seed is None:
        return None
    return torch.Generator(like.device).manual_seed(int(seed))
