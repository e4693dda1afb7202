"""What is known of a value while the twin is built."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(eq=False)
class Weight:
    """A tensor of the file that gradients reach: it becomes a parameter of the twin.

    Attributes:
        scope: The graph or function that holds it, as in :class:`onnxfit.graph.Scope`.
        name: Its name in the file.
        tensor: Its value.
    """

    scope: str
    name: str
    tensor: torch.Tensor


@dataclass(eq=False)
class Constant:
    """A value known when the twin is built.

    Attributes:
        value: A tensor; an array of strings; a list for a sequence; None for an empty optional.
        weight: The tensor of the file whose value this is, if any.
    """

    value: Any
    weight: Weight | None = None


@dataclass(eq=False)
class Variable:
    """A value that only a call of the twin knows.

    Attributes:
        host: It is a Python integer or a tuple of them, as the shape of a tensor is.
        dtype: Its type as a tensor, where ``host``.
        rank: Where ``host``: 0 for an integer, 1 for a tuple, 2 for a tuple of tuples, None where
            that is not known.
        floats: The same numbers in a floating-point type, where quantisation made them: gradients
            pass through these, and not through integers.
    """

    host: bool = False
    dtype: torch.dtype = torch.int64
    rank: int | None = None
    floats: "Variable | None" = None


@dataclass(eq=False)
class Part:
    """A module of the twin, given to a step as an argument."""

    module: torch.nn.Module


Value = Weight | Constant | Variable
