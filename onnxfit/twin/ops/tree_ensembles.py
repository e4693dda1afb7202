"""Tree ensembles of ai.onnx.ml.

Their outputs are right and their gradients zero: a tree's output is constant but for jumps. Attacks
that follow gradients find nothing there; those that only ask for outputs do.
"""

from typing import Any

import torch
from torch import Tensor

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.ml import DOMAIN, flat
from onnxfit.twin.ops.ml_scores import (
    labels_of,
    pick,
    transform,
    transform_of,
    with_complement,
    with_opposite,
)
from onnxfit.twin.ops.tree_reading import LEAF, MEMBER, Trees, base_values, read, read_split
from onnxfit.twin.registry import converter
from onnxfit.twin.values import Constant

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


@converter("TreeEnsembleRegressor", domain=DOMAIN)
def tree_ensemble_regressor(node: Node) -> Outputs:
    targets, name = node.get("n_targets", 1), transform_of(node)
    if targets == 1 and name != "NONE":
        node.unsupported("ONNX Runtime does not transform a single target")
    trees = read(node, "target", targets)
    aggregate = node.get("aggregate_function", "SUM")
    like = node.like(torch.float32)
    scores = _scores(node, trees, _leaves(node, trees), aggregate, base_values(node), like)
    return node.emit(transform, scores, name)


@converter("TreeEnsembleClassifier", domain=DOMAIN)
def tree_ensemble_classifier(node: Node) -> Outputs:
    """Convert to the scores and the label of the best class; two classes have one score."""
    labels, name = labels_of(node, "classlabels_int64s"), transform_of(node)
    classes, like = len(labels.value), node.like(torch.float32)
    trees, base = read(node, "class", classes), base_values(node)
    if classes > 2:
        leaves = _leaves(node, trees)
        scores = _scores(node, trees, leaves, "SUM", base, like)
        always = base is not None or bool(trees.always.all())
        given = None if always else Constant(trees.given)
        label = node.emit(best_label, scores, labels, leaves, given)
        return label, node.emit(transform, scores, name)
    ids = set(node.get("class_ids"))
    if classes != 2 or ids != {0}:
        node.unsupported("the scores of two classes that each have some are not defined")
    if name not in ("NONE", "LOGISTIC") or (base is not None and len(base) != 1):
        node.unsupported("one score for two classes is neither softmax nor has two base values")
    trees.weights, trees.given = trees.weights[:, :1], trees.given[:, :1]
    score = _scores(node, trees, _leaves(node, trees), "SUM", base, like)
    positive = bool((trees.weights >= 0).all())
    label = node.emit(label_above, score, labels, 0.5 if positive else 0.0)
    if positive and name == "NONE":
        return label, node.emit(with_complement, score)
    return label, node.emit(with_opposite, score, name)


@converter("TreeEnsemble", domain=DOMAIN, since=5)
def tree_ensemble(node: Node) -> Outputs:
    """Convert the operator that takes the place of both others."""
    targets, name = node.get("n_targets", 1), transform_of(node)
    if targets == 1 and name != "NONE":
        node.unsupported("ONNX Runtime does not transform a single target")
    trees = read_split(node, targets)
    if name in ("SOFTMAX", "LOGISTIC"):
        node.unsupported("ONNX Runtime takes SOFTMAX for LOGISTIC and the other way round")
    aggregate = AGGREGATES[node.get("aggregate_function", 1)]
    scores = _scores(node, trees, _leaves(node, trees), aggregate, None, None)
    return node.emit(transform, scores, name)


def _leaves(node: Node, trees: Trees) -> Any:
    """Emit the walk from each root to a leaf."""
    used = sorted(set(trees.modes.tolist()) - {LEAF})
    widest = max(map(len, trees.members.values()), default=0)
    members = trees.splits.new_full((len(trees.modes), widest), torch.nan)
    for place, values in trees.members.items():
        members[place, : len(values)] = trees.splits.new_tensor(values)
    return node.emit(
        walk,
        node.input(0),
        *map(Constant, (trees.roots, trees.features, trees.modes, trees.splits, trees.children)),
        Constant(trees.missing) if bool(trees.missing.any()) else None,
        Constant(members) if MEMBER in used else None,
        tuple(used),
        trees.depth,
    )


def _scores(
    node: Node, trees: Trees, leaves: Any, aggregate: str, base: Tensor | None, like: Any
) -> Any:
    """Emit the aggregate of what the leaves give to each target."""
    targets = trees.weights.shape[1]
    if base is not None and len(base) != targets:
        node.unsupported(f"it has {len(base)} base values for {targets} targets")
    if base is not None and node.op_type == "TreeEnsembleRegressor" and not trees.always.all():
        node.unsupported("ONNX Runtime leaves out the base value of a target without a leaf")
    everywhere = bool(trees.given[trees.modes == LEAF].all())
    return node.emit(
        gather_scores,
        node.input(0),
        leaves,
        Constant(trees.weights),
        None if everywhere or aggregate not in ("MIN", "MAX") else Constant(trees.given),
        aggregate,
        None if base is None else Constant(base),
        like,
    )


def walk(
    x: Tensor,
    roots: Tensor,
    features: Tensor,
    modes: Tensor,
    splits: Tensor,
    children: Tensor,
    missing: Tensor | None,
    members: Tensor | None,
    used: tuple[int, ...],
    depth: int,
) -> Tensor:
    """Return the leaf that each row reaches in each tree, ``[rows, trees]``."""
    at = roots.expand(len(x), -1)
    for _ in range(depth):
        values = x.gather(1, features[at])
        true = torch.zeros_like(at, dtype=torch.bool)
        for mode in used:
            holds = compare(values, splits[at], mode, None if members is None else members[at])
            true = holds if len(used) == 1 else torch.where(modes[at] == mode, holds, true)
        if missing is not None:
            true = true | (missing[at] & values.isnan())
        at = torch.where(true, children[1][at], children[0][at])
    return at


def compare(values: Tensor, splits: Tensor, mode: int, members: Tensor | None) -> Tensor:
    """Make the comparison of a mode."""
    if mode == MEMBER and members is not None:
        return (values[..., None] == members).any(-1)
    functions = (torch.le, torch.lt, torch.ge, torch.gt, torch.eq, torch.ne)
    return functions[mode](values, splits)


def gather_scores(
    x: Tensor,
    leaves: Tensor,
    weights: Tensor,
    given: Tensor | None,
    aggregate: str,
    base: Tensor | None,
    like: Tensor | None,
) -> Tensor:
    """Aggregate what the leaves give to each target; 0 where they give nothing."""
    values = weights[leaves]
    if aggregate in ("SUM", "AVERAGE"):
        found = values.sum(1)
        found = found / leaves.shape[1] if aggregate == "AVERAGE" else found
    else:
        sign = 1.0 if aggregate == "MAX" else -1.0
        values = sign * values
        if given is not None:
            values = values.masked_fill(~given[leaves], -torch.inf)
        found = sign * values.amax(1)
        found = torch.where(found.isinf(), 0.0, found)
    found = found if base is None else found + base
    return flat(found if like is None else found.to(like.dtype), x)


def best_label(scores: Tensor, labels: Any, leaves: Tensor, given: Tensor | None) -> Any:
    """Return the label of the largest score among those that a leaf gives."""
    if given is not None:
        scores = scores.masked_fill(~given[leaves].any(1), -torch.inf)
    return pick(labels, scores.argmax(1))


def label_above(score: Tensor, labels: Any, limit: float) -> Any:
    return pick(labels, (score[:, 0] > limit).long())
