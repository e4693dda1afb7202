"""Strings, which are NumPy arrays of objects and have no gradients."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.registry import converter

Strings = NDArray[Any]
# What RE2 knows and Python does not, or reads otherwise.
RE2_ONLY = re.compile(r"\\[pPQEzC]|\[\[:|\(\?\w*U|\\x\{")


@converter("StringConcat", since=20)
def string_concat(node: Node) -> Outputs:
    return node.emit(concat, node.input(0), node.input(1))


@converter("StringNormalizer", since=10)
def string_normalizer(node: Node) -> Outputs:
    action = node.get("case_change_action", "NONE")
    if action not in ("NONE", "LOWER", "UPPER"):
        node.unsupported(f"there is no case_change_action {action!r}")
    sensitive = bool(node.get("is_case_sensitive", 0))
    return node.emit(normalize, node.input(0), action, sensitive, node.get("stopwords", []))


@converter("StringSplit", since=20)
def string_split(node: Node) -> Outputs:
    limit = node.get("maxsplit", -1)
    return node.emit(split, node.input(0), node.get("delimiter", ""), limit, outputs=2)


@converter("RegexFullMatch", since=20)
def regex_full_match(node: Node) -> Outputs:
    pattern = node.get("pattern", "")
    if RE2_ONLY.search(pattern):
        node.unsupported(f"Python cannot read the RE2 pattern {pattern!r}")
    try:
        re.compile(pattern, re.ASCII)
    except re.error as error:
        node.unsupported(f"Python cannot read the RE2 pattern {pattern!r}: {error}")
    return node.emit(full_match, node.input(0), pattern)


@converter("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(node: Node) -> Outputs:
    """Look up the n-grams of each row among those of the pool."""
    pool = node.get("pool_strings") or list(node.get("pool_int64s", ()))
    columns, mode = node.get("ngram_indexes"), node.get("mode")
    if mode == "IDF" and len(set(columns)) < len(columns):
        node.unsupported("two n-grams of one column do not tell how to count them once")
    weights = (1.0,) * len(columns) if mode == "TF" else node.get("weights", (1.0,) * len(columns))
    order = zip(columns, weights, strict=True)
    sizes = range(node.get("min_gram_length"), node.get("max_gram_length") + 1)
    grams: dict[tuple[Any, ...], tuple[int, float]] = {}
    starts = (*node.get("ngram_counts"), len(pool))
    for size, (start, end) in enumerate(pairwise(starts), 1):
        for first in range(start, end - size + 1, size):
            column = next(order)
            if size in sizes:
                grams[tuple(pool[first : first + size])] = column
    limits = (sizes.start, sizes.stop, node.get("max_skip_count"))
    like = node.like(torch.float32)
    return node.emit(count_grams, node.input(0), grams, limits, max(columns) + 1, mode, like)


def strings(found: Sequence[Any], shape: Sequence[int]) -> Strings:
    """Make an array of strings."""
    array = np.empty(len(found), dtype=object)
    array[:] = found
    return array.reshape(tuple(shape))


def concat(x: Strings, y: Strings) -> Strings:
    return np.asarray(x + y, dtype=object)


def change_case(text: str, action: str) -> str:
    """Change a text's case where the length of no character changes, as C does."""
    if action == "NONE":
        return text
    changed = [c.lower() if action == "LOWER" else c.upper() for c in text]
    return "".join(new if len(new) == 1 else old for new, old in zip(changed, text, strict=True))


def normalize(x: Strings, action: str, sensitive: bool, stopwords: Sequence[str]) -> Strings:
    """Leave out the stop words of a row and change the case of the others."""
    if x.ndim not in (1, 2) or (x.ndim == 2 and len(x) != 1):
        raise ValueError(f"its input is one row of strings, not of the shape {x.shape}")
    compared = "NONE" if sensitive else "LOWER"
    stops = {change_case(word, compared) for word in stopwords}
    kept = [text for text in x.ravel() if change_case(text, compared) not in stops]
    found = [change_case(text, action) for text in kept] or [""]
    return strings(found, (-1,) if x.ndim == 1 else (1, -1))


def split(x: Strings, delimiter: str, limit: int) -> tuple[Strings, Tensor]:
    """Split each string and fill up with empty ones; return how many each has, too."""
    texts = list(x.ravel())
    if not delimiter:
        if any(c.isspace() and c != " " for text in texts for c in text):
            raise ValueError("ONNX Runtime splits at spaces only, and there is other white space")
        texts = [text.strip() for text in texts]
    parts = [text.split(delimiter or None, limit) for text in texts]
    counts = [len(part) for part in parts]
    width = max(counts, default=0)
    filled = [text for part in parts for text in (*part, *[""] * (width - len(part)))]
    return strings(filled, (*x.shape, width)), torch.tensor(counts).long().reshape(x.shape)


def full_match(x: Strings, pattern: str) -> Tensor:
    """Tell which strings a pattern matches from beginning to end."""
    folds = re.search(r"\(\?\w*i", pattern) is not None
    if any("\v" in text or (folds and not text.isascii()) for text in x.ravel()):
        raise ValueError("Python and RE2 differ on vertical tabs and on the case of such letters")
    match = re.compile(pattern, re.ASCII).fullmatch
    found = [match(text) is not None for text in x.ravel()]
    return torch.tensor(found, dtype=torch.bool).reshape(x.shape)


def count_grams(
    x: Any,
    grams: dict[tuple[Any, ...], tuple[int, float]],
    limits: tuple[int, int, int],
    width: int,
    mode: str,
    like: Tensor,
) -> Tensor:
    """Count the n-grams of each row.

    Args:
        x: ``[items]`` or ``[rows, items]``, strings or integers.
        grams: The column and the weight of each n-gram.
        limits: The smallest size of the n-grams, the one that is too large, and how many items
            may lie between two of an n-gram.
        width: The number of columns.
        mode: ``IDF`` to count no n-gram twice.
        like: Says type and device.
    """
    rows = x.tolist() if x.ndim == 2 else [x.ravel().tolist()]
    first, end, skips = limits
    found = torch.zeros((len(rows), width), dtype=like.dtype)
    for row, items in zip(found, rows, strict=True):
        counts: Counter[tuple[Any, ...]] = Counter()
        for step in range(1, skips + 2):
            for size in range(first if step == 1 else max(first, 2), end):
                span = step * (size - 1)
                starts = range(len(items) - span)
                counts.update(tuple(items[i : i + span + 1 : step]) for i in starts)
        for gram in counts.keys() & grams.keys():
            column, weight = grams[gram]
            row[column] += weight * (1 if mode == "IDF" else counts[gram])
    return (found if x.ndim == 2 else found[0]).to(like.device)
