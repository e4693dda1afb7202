"""What the classifiers of ai.onnx.ml do with their scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxfit.twin.node import Node
from onnxfit.twin.values import Constant

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def transform_of(node: Node) -> str:
    """Read what becomes of the scores, by name or by number."""
    name = node.get("post_transform", "NONE")
    name = TRANSFORMS[name] if isinstance(name, int) else name
    if name not in TRANSFORMS:
        node.unsupported(f"there is no post_transform {name!r}")
    if name == "PROBIT":
        node.unsupported("ONNX Runtime only approximates its post_transform PROBIT")
    return name


def labels_of(node: Node, numbers: str) -> Constant:
    """Return the class labels as a constant, of integers or of strings."""
    words = node.get("classlabels_strings")
    if words:
        return strings(words)
    return Constant(torch.tensor(node.get(numbers, ()), dtype=torch.int64))


def strings(words: Sequence[str]) -> Constant:
    """Return strings as a constant array."""
    array = np.empty(len(words), dtype=object)
    array[:] = words
    return Constant(array)


def transform(scores: Tensor, name: str) -> Tensor:
    """Transform the scores of each row."""
    if name == "LOGISTIC":
        return torch.sigmoid(scores)
    if name == "SOFTMAX":
        return scores.softmax(1)
    if name == "SOFTMAX_ZERO":
        return softmax_zero(scores)
    return scores


def softmax_zero(scores: Tensor) -> Tensor:
    """Compute the softmax of the scores that are not zero."""
    some = scores.abs() > 1e-7
    largest = scores.amax(1, keepdim=True)
    powers = torch.where(some, (scores - largest).exp(), 0.0)
    rest = torch.where(some, 0.0, scores * (-largest).exp())
    return (powers + rest) / powers.sum(1, keepdim=True)


def with_opposite(score: Tensor, name: str) -> Tensor:
    """Return the scores of two classes from the one of the second, ``[rows, 1]``."""
    return transform(torch.cat((-score, score), 1), name)


def with_complement(score: Tensor) -> Tensor:
    """Return the probabilities of two classes from the one of the second, ``[rows, 1]``."""
    return torch.cat((1.0 - score, score), 1)


def pick(labels: Any, places: Tensor) -> Any:
    """Return the labels at some places, integers or strings."""
    if isinstance(labels, np.ndarray):
        return np.asarray(labels[places.cpu().numpy()], dtype=object)
    return labels[places]
