"""Labels of ai.onnx.ml: tables that turn words to numbers and back; they have no gradients."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.ml import DOMAIN
from onnxfit.twin.ops.ml_scores import pick, strings
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Constant

KINDS = ("strings", "int64s", "floats")
DEFAULTS = {
    "strings": ("default_string", "_Unused"),
    "int64s": ("default_int64", -1),
    "floats": ("default_float", 0.0),
}
DTYPES = {"int64s": torch.int64, "floats": torch.float32}


@converter("LabelEncoder", domain=DOMAIN)
def label_encoder_by_place(node: Node) -> Outputs:
    """Convert the first version, whose numbers are places in its list of strings."""
    words = node.get("classes_strings")
    return _mapper(node, words, list(range(len(words))))


@converter("CategoryMapper", domain=DOMAIN)
def category_mapper(node: Node) -> Outputs:
    return _mapper(node, node.get("cats_strings"), list(node.get("cats_int64s")))


@converter("LabelEncoder", domain=DOMAIN, since=2)
def label_encoder(node: Node) -> Outputs:
    keys, kind = _listed(node, "keys")
    values, out = _listed(node, "values")
    default = node.get("default_tensor")
    if default is None:
        name, otherwise = DEFAULTS[out]
        default = node.get(name, otherwise)
    elif not isinstance(default, str):
        default = default.reshape(-1).tolist()[0]
    if node.opset < 4 and any(map(is_nan, keys)):
        node.unsupported("ONNX Runtime does not find NaN among the keys before version 4")
    tensor = node.get("values_tensor")
    dtype = DTYPES.get(out) if tensor is None else getattr(tensor, "dtype", None)
    table = _table([*values, default], dtype if isinstance(dtype, torch.dtype) else None)
    return _look_up(node, keys, table, words=kind == "strings")


def _mapper(node: Node, words: Sequence[str], numbers: Sequence[int]) -> Outputs:
    """Emit the table from words to numbers or the other way, as the input's type wants it."""
    if not node.element_type(0):
        node.unsupported("the type of its input is not known")
    if node.element_type(0) == 8:
        default = node.get("default_int64", -1)
        return _look_up(node, words, _table([*numbers, default], torch.int64), words=True)
    default = node.get("default_string", "_Unused")
    return _look_up(node, numbers, _table([*words, default], None), words=False)


def _listed(node: Node, what: str) -> tuple[list[Any], str]:
    """Return the keys or the values of a table, and what kind they are."""
    tensor = node.get(f"{what}_tensor")
    if tensor is not None:
        kind = "strings" if isinstance(tensor, np.ndarray) else "int64s"
        if kind == "int64s" and tensor.is_floating_point():
            kind = "floats"
        return tensor.reshape(-1).tolist(), kind
    for kind in KINDS:
        found = node.get(f"{what}_{kind}")
        if found is not None:
            return list(found), kind
    return node.unsupported(f"it has no {what}")


def _table(values: list[Any], dtype: torch.dtype | None) -> Constant:
    """Return values as a constant: strings where there is no type."""
    if dtype is None:
        return strings(values)
    return Constant(torch.tensor(values, dtype=dtype))


def _look_up(node: Node, keys: Sequence[Any], table: Constant, *, words: bool) -> Outputs:
    order = sorted(range(len(keys)), key=lambda i: (is_nan(keys[i]), keys[i]))  # NaN last.
    ordered = [keys[i] for i in order]
    if any(a == b or (is_nan(a) and is_nan(b)) for a, b in pairwise(ordered)):
        node.unsupported(
            "of two values of a key ONNX Runtime takes the first, the specification the last"
        )
    if words:
        places = {key: place for place, key in enumerate(keys)}
        return node.emit(look_up_words, node.input(0), places, table, node.like(torch.float32))
    sorted_keys = Constant(torch.tensor(ordered))
    return node.emit(look_up_numbers, node.input(0), sorted_keys, tuple(order), table)


def is_nan(key: Any) -> bool:
    return isinstance(key, float) and math.isnan(key)


def look_up_words(x: Any, places: dict[str, int], table: Any, like: Tensor) -> Any:
    """Replace words by the values at their places in a table, the last where they have none."""
    found = np.array([places.get(text, len(table) - 1) for text in x.ravel()], dtype=np.int64)
    return pick(table, torch.from_numpy(found).reshape(x.shape).to(like.device))


def look_up_numbers(x: Tensor, keys: Tensor, places: tuple[int, ...], table: Any) -> Any:
    """Replace numbers like :func:`look_up_words` does; the keys are sorted, NaN the last."""
    found = torch.searchsorted(keys, x.to(keys.dtype).contiguous()).clamp(max=len(keys) - 1)
    hits = keys[found] == x
    if keys.is_floating_point():
        hits = hits | (keys[found].isnan() & x.isnan())
    order = torch.tensor(places, device=x.device)
    return pick(table, torch.where(hits, order[found], len(table) - 1))
