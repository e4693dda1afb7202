"""How the trees of ai.onnx.ml are written in attributes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from onnxfit.errors import ModelError
from onnxfit.twin.node import Node

MODES = (
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
    "BRANCH_NEQ",
    "BRANCH_MEMBER",
)
LEAF, MEMBER = -1, 6


@dataclass
class Trees:
    """The nodes of all trees in rows of numbers; a leaf is its own child.

    Attributes:
        features: The column of the input that a node looks at.
        modes: The comparison that it makes: the index in ``MODES``, or ``LEAF``.
        splits: What it compares with.
        children: The nodes that it leads to, where the comparison is false and where it is true.
        missing: It is true of NaN.
        members: The values that a node of mode ``MEMBER`` looks for.
        weights: What each leaf adds to each target, ``[nodes, targets]``.
        given: Which of these numbers there are.
        roots: The first node of each tree.
    """

    features: Tensor
    modes: Tensor
    splits: Tensor
    children: Tensor
    missing: Tensor
    weights: Tensor
    given: Tensor
    roots: Tensor
    members: dict[int, list[float]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """The length of the longest way from a root to a leaf."""
        at, depth = self.roots, 0
        while bool((self.modes[at] != LEAF).any()):
            if depth > len(self.modes):
                raise ModelError("the nodes of a tree lead round in a circle")
            inner = at[self.modes[at] != LEAF]
            at, depth = self.children[:, inner].flatten().unique(), depth + 1
        return depth

    @cached_property
    def always(self) -> Tensor:
        """Which targets get something from every row: those of all leaves of some tree."""
        found = torch.zeros(self.given.shape[1], dtype=torch.bool)
        children, modes = self.children.tolist(), self.modes.tolist()
        for root in self.roots.tolist():
            leaves, left = [], [root]
            while left:
                place = left.pop()
                if modes[place] == LEAF:
                    leaves.append(place)
                else:
                    left += [side[place] for side in children]
            found |= self.given[leaves].all(0)
        return found


def read(node: Node, kind: str, targets: int) -> Trees:
    """Read the trees of the older operators, whose nodes have the numbers of tree and node."""
    keys = list(zip(node.get("nodes_treeids"), node.get("nodes_nodeids"), strict=True))
    places = {key: place for place, key in enumerate(keys)}
    names = node.get("nodes_modes")
    unknown = sorted(set(names) - {*MODES[:MEMBER], "LEAF"})
    if unknown:
        node.unsupported(f"there is no comparison {unknown[0]!r}")
    modes = torch.tensor([LEAF if name == "LEAF" else MODES.index(name) for name in names])
    children = []
    for side in ("false", "true"):
        ids = node.get(f"nodes_{side}nodeids")
        children.append(
            [
                place if names[place] == "LEAF" else places[tree, child]
                for place, ((tree, _), child) in enumerate(zip(keys, ids, strict=True))
            ]
        )
    below = {c for side in children for place, c in enumerate(side) if names[place] != "LEAF"}
    weight_keys = zip(node.get(f"{kind}_treeids"), node.get(f"{kind}_nodeids"), strict=True)
    weights, given = _leaf_table(
        [places[key] for key in weight_keys],
        node.get(f"{kind}_ids"),
        _tensor(node, f"{kind}_weights"),
        (len(keys), targets),
    )
    return Trees(
        features=torch.tensor(node.get("nodes_featureids")),
        modes=modes,
        splits=_tensor(node, "nodes_values"),
        children=torch.tensor(children),
        missing=_missing(node, len(keys)),
        weights=weights,
        given=given,
        roots=torch.tensor([place for place in range(len(keys)) if place not in below]),
    )


def _tensor(node: Node, name: str) -> Tensor:
    """Return an attribute of numbers, which may be a tensor of doubles instead."""
    found = node.get(f"{name}_as_tensor")
    return torch.tensor(node.get(name), dtype=torch.float32) if found is None else found


def base_values(node: Node) -> Tensor | None:
    if node.get("base_values") is None and node.get("base_values_as_tensor") is None:
        return None
    base = _tensor(node, "base_values")
    return base if len(base) else None


def _missing(node: Node, count: int) -> Tensor:
    given = torch.tensor(node.get("nodes_missing_value_tracks_true", ()), dtype=torch.bool)
    return torch.cat((given, torch.zeros(count - len(given), dtype=torch.bool)))


def _members(node: Node, modes: Tensor) -> dict[int, list[float]]:
    """Read the sets of values, between which there is NaN, of the nodes that look for members."""
    values = node.get("membership_values")
    sets: list[list[float]] = [[]]
    for value in [] if values is None else values.tolist():
        if np.isnan(value):
            sets.append([])
        else:
            sets[-1].append(value)
    places = (modes == MEMBER).nonzero()[:, 0].tolist()
    return dict(zip(places, sets, strict=False))


def _leaf_table(
    places: Sequence[int], targets: Sequence[int], numbers: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Write what leaves add to targets as a table, and which entries there are."""
    at = (torch.tensor(places), torch.tensor(targets))
    weights = torch.zeros(shape, dtype=numbers.dtype)
    weights.index_put_(at, numbers, accumulate=True)
    given = torch.zeros(shape, dtype=torch.bool)
    given[at] = True
    return weights, given


def read_split(node: Node, targets: int) -> Trees:
    """Read the trees of the operator of version 5, which holds nodes and leaves apart."""
    inner, leaves = len(node.get("nodes_featureids")), len(node.get("leaf_targetids"))
    children = []
    for side in ("false", "true"):
        places = torch.tensor(node.get(f"nodes_{side}nodeids"))
        is_leaf = torch.tensor(node.get(f"nodes_{side}leafs")) != 0
        own = torch.arange(inner, inner + leaves)
        children.append(torch.cat((torch.where(is_leaf, places + inner, places), own)))
    zeros, splits = torch.zeros(leaves, dtype=torch.int64), node.get("nodes_splits")
    modes = torch.cat((node.get("nodes_modes").long(), zeros + LEAF))
    weights, given = _leaf_table(
        [inner + i for i in range(leaves)],
        node.get("leaf_targetids"),
        node.get("leaf_weights"),
        (inner + leaves, targets),
    )
    return Trees(
        features=torch.cat((torch.tensor(node.get("nodes_featureids")), zeros)),
        modes=modes,
        splits=torch.cat((splits, splits.new_zeros(leaves))),
        children=torch.stack(children),
        missing=_missing(node, inner + leaves),
        weights=weights,
        given=given,
        roots=torch.tensor(node.get("tree_roots")),
        members=_members(node, modes),
    )
