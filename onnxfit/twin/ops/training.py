"""The optimisers of ai.onnx.preview.training: a training step inside the graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

DOMAIN = "ai.onnx.preview.training"


@converter("Adagrad", domain=DOMAIN)
def adagrad(node: Node) -> Outputs:
    numbers = [node.get("norm_coefficient", 0.0), node.get("decay_factor", 0.0)]
    return _each(node, adagrad_step, 3, *numbers, node.get("epsilon", 1e-6))


@converter("Adam", domain=DOMAIN)
def adam(node: Node) -> Outputs:
    numbers = [node.get("norm_coefficient", 0.0), node.get("norm_coefficient_post", 0.0)]
    numbers += [node.get("alpha", 0.9), node.get("beta", 0.999), node.get("epsilon", 1e-6)]
    return _each(node, adam_step, 4, *numbers)


@converter("Momentum", domain=DOMAIN)
def momentum(node: Node) -> Outputs:
    mode = node.get("mode")
    if mode not in ("standard", "nesterov"):
        node.unsupported(f"there is no mode {mode!r}")
    numbers = [node.get(name) for name in ("norm_coefficient", "alpha", "beta")]
    return _each(node, momentum_step, 3, *numbers, mode == "nesterov")


def _each(node: Node, step: Callable[..., Any], groups: int, *numbers: Any) -> Outputs:
    """Emit a step for each tensor; its value, gradient and states lie in groups of inputs."""
    rate, count, *rest = node.inputs
    tensors = len(rest) // groups
    results = [
        node.emit(step, rate, count, *rest[index::tensors], *numbers, outputs=groups - 1)
        for index in range(tensors)
    ]
    return tuple(value for group in zip(*results, strict=True) for value in group)


def adagrad_step(
    rate: Tensor,
    count: Tensor,
    x: Tensor,
    gradient: Tensor,
    squares: Tensor,
    norm: float,
    decay: float,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Return the value and the sum of squared gradients after a step."""
    rate = rate / (1 + count * decay)
    gradient = norm * x + gradient
    squares = squares + gradient * gradient
    return x - rate * gradient / (squares.sqrt() + epsilon), squares


def adam_step(
    rate: Tensor,
    count: Tensor,
    x: Tensor,
    gradient: Tensor,
    mean: Tensor,
    squares: Tensor,
    norm: float,
    norm_after: float,
    alpha: float,
    beta: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value and the running means of gradients and their squares after a step."""
    gradient = norm * x + gradient
    mean = alpha * mean + (1 - alpha) * gradient
    squares = beta * squares + (1 - beta) * gradient * gradient
    steps = count.clamp(min=1).to(rate.dtype)
    corrected = rate * (1 - beta**steps).sqrt() / (1 - alpha**steps)
    rate = torch.where(count > 0, corrected, rate)
    x = x - rate * mean / (squares.sqrt() + epsilon)
    return (1 - norm_after) * x, mean, squares


def momentum_step(
    rate: Tensor,
    count: Tensor,
    x: Tensor,
    gradient: Tensor,
    velocity: Tensor,
    norm: float,
    alpha: float,
    beta: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor]:
    """Return the value and its momentum after a step."""
    gradient = norm * x + gradient
    velocity = alpha * velocity + torch.where(count > 0, beta, 1.0).to(x.dtype) * gradient
    return x - rate * (gradient + alpha * velocity if nesterov else velocity), velocity
