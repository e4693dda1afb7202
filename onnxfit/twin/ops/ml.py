"""Feature preparation of ai.onnx.ml: scaling, filling in, one-hot encoding."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Constant

DOMAIN = "ai.onnx.ml"


def floats(numbers: Any) -> Constant:
    """Return numbers of an attribute as a constant of the type that the twin has."""
    return Constant(torch.tensor(numbers, dtype=torch.float32))


def flat(y: Tensor, x: Tensor) -> Tensor:
    """Return ``y``, a function of ``x`` made of steps, with its gradient: zero."""
    if not x.is_floating_point():
        return y
    zeros = torch.where(torch.zeros_like(x, dtype=torch.bool), x, 0.0)
    return y + zeros.sum().to(y.dtype)


@converter("Scaler", domain=DOMAIN)
def scaler(node: Node) -> Outputs:
    offset, scale = floats(node.get("offset", (0.0,))), floats(node.get("scale", (1.0,)))
    return node.emit(rescale, node.input(0), offset, scale)


@converter("Normalizer", domain=DOMAIN)
def normalizer(node: Node) -> Outputs:
    norm = node.get("norm", "MAX")
    if norm not in ("MAX", "L1", "L2"):
        node.unsupported(f"there is no norm {norm!r}")
    return node.emit(normalize, node.input(0), norm, node.like(torch.float32))


@converter("Binarizer", domain=DOMAIN)
def binarizer(node: Node) -> Outputs:
    return node.emit(binarize, node.input(0), node.get("threshold", 0.0))


@converter("Imputer", domain=DOMAIN)
def imputer(node: Node) -> Outputs:
    """Fill in what the attributes for the input's type say, which one of them alone tells."""
    filled = node.get("imputed_value_floats")
    if filled is not None:
        replaced = node.get("replaced_value_float", 0.0)
        known = None if math.isnan(replaced) else replaced
        return node.emit(impute, node.input(0), known, floats(filled))
    filled = Constant(torch.tensor(node.get("imputed_value_int64s")))
    return node.emit(impute, node.input(0), node.get("replaced_value_int64", 0), filled)


@converter("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(node: Node) -> Outputs:
    widths = node.get("inputdimensions")
    return node.emit(join_features, node.inputs, widths, node.like(torch.float32))


@converter("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(node: Node) -> Outputs:
    words, numbers = node.get("cats_strings"), node.get("cats_int64s")
    categories = words if words else Constant(torch.tensor(numbers, dtype=torch.int64))
    zeros = bool(node.get("zeros", 1))
    return node.emit(one_hot, node.input(0), categories, zeros, node.like(torch.float32))


@converter("ZipMap", domain=DOMAIN)
def zip_map(node: Node) -> Outputs:
    """Convert to a list of dictionaries whose values are tensors of one number."""
    labels = node.get("classlabels_strings") or node.get("classlabels_int64s", ())
    return node.emit(zip_rows, node.input(0), tuple(labels))


def rescale(x: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    return (x.to(scale.dtype) - offset) * scale


def normalize(x: Tensor, norm: str, like: Tensor) -> Tensor:
    """Divide each row by its norm where that is not zero."""
    if x.dim() > 2:
        raise ValueError(f"rows of an input of {x.dim()} axes are not defined")
    x = x.to(like.dtype)
    if norm == "MAX":
        size = x.amax(-1, keepdim=True)
    elif norm == "L1":
        size = x.abs().sum(-1, keepdim=True)
    else:
        size = x.square().sum(-1, keepdim=True)
    size = torch.where(size == 0, 1.0, size)
    return x / (size.sqrt() if norm == "L2" else size)


def binarize(x: Tensor, threshold: float) -> Tensor:
    return flat((x > threshold).to(x.dtype), x)


def impute(x: Tensor, replaced: float | None, filled: Tensor) -> Tensor:
    """Put other values where ``x`` has a value, NaN where that is None."""
    missing = x.isnan() if replaced is None else x == replaced
    return torch.where(missing, filled.to(x.dtype), x)


def join_features(inputs: list[Tensor], widths: tuple[int, ...] | None, like: Tensor) -> Tensor:
    """Put the columns of all inputs side by side."""
    rows = [x[None] if x.dim() == 1 else x for x in inputs]
    found = tuple(x.shape[1] for x in rows)
    if widths is not None and widths != found:
        raise ValueError(f"inputdimensions are {widths}, and the inputs have {found} columns")
    return torch.cat([x.to(like.dtype) for x in rows], 1)


def one_hot(x: Any, categories: Any, zeros: bool, like: Tensor) -> Tensor:
    """Add an axis with a 1 at the category of each element, which may be a string."""
    if isinstance(x, np.ndarray):
        hits = torch.from_numpy(x[..., None] == np.array(categories, dtype=object))
        hits = hits.to(like.device)
    else:
        hits = x.long()[..., None] == categories
    if not zeros and not bool(hits.any(-1).all()):
        raise ValueError("there is an element of none of its categories")
    return hits.to(like.dtype)


def zip_rows(x: Tensor, labels: tuple[Any, ...]) -> list[dict[Any, Tensor]]:
    """Give each row's columns their labels."""
    rows = x[None] if x.dim() == 1 else x
    return [dict(zip(labels, row.unbind(0), strict=True)) for row in rows]
