"""Which activation of an optimised model is which of the model's own.

ONNX Runtime's optimiser merges an activation into the operator before it, renames values and drops
what it finds redundant. A trace of the old name stays: in the value that a node writes, or in the
name of a node of the blocked layout.
"""

from collections import Counter
from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from onnxfit.element_types import every_graph
from onnxfit.graph import BLOCKED_DOMAIN
from onnxfit.sites import Found

_BLOCKED_SUFFIX = "_nchwc"
_CAST_PREFIX = "InsertedPrecisionFreeCast_"
_ACTIVATIONS = ("Clip", "JumpReLU", "Relu")
# What may lie between the value that gave a fused operator its name and the activation.
_FUSED_BEFORE = ("Add", "BatchNormalization", "Cast", "Mul", "Sum")


class Names:
    """The values of a model that its activations write, and what leads to them.

    Args:
        model: The model; values of one name in several subgraphs are left out.
    """

    def __init__(self, model: ModelProto) -> None:
        nodes = [node for graph in every_graph(model) for node in graph.node]
        self._next: dict[str, list[NodeProto]] = {}
        for node in nodes:
            for value in node.input:
                self._next.setdefault(value, []).append(node)
        written = Counter(value for node in nodes for value in node.output if value)
        self._written = set(written)
        self.unique = {value for value, count in written.items() if count == 1}
        self._activated = {node.output[0] for node in nodes if node.output and _activates(node)}
        named = Counter(node.name for node in nodes)
        self._by_node = {n.name: n.output[0] for n in nodes if n.output and named[n.name] == 1}
        self._by_node.pop("", None)

    def sites_of(self, optimised: Iterable[Found], wanted: Iterable[str]) -> dict[str, Found]:
        """Find activations of the model in what ONNX Runtime made of it.

        Args:
            optimised: The activations of the optimised model.
            wanted: The values that activations of the model write.

        Returns:
            Those of which there is no doubt, by the value's name in the model.
        """
        sought = self.unique.intersection(wanted)
        pairs = [(self._value(found.place.node, sought), found) for found in optimised]
        times = Counter(value for value, _ in pairs)
        return {value: found for value, found in pairs if value and times[value] == 1}

    def _value(self, node: NodeProto, sought: set[str]) -> str | None:
        """Return which of some values a node of the optimised model writes; None where unclear."""
        traces = [self._uncast(node.output[0])]
        if node.domain == BLOCKED_DOMAIN:
            traces.append(self._uncast(node.name.removesuffix(_BLOCKED_SUFFIX)))
        elif node.op_type in ("Relu", "Clip"):
            traces.append(self._by_node.get(node.name, ""))
        return next((value for t in traces if (value := self._behind(t, sought))), None)

    def _uncast(self, name: str) -> str:
        """Return the value that a name tells of: itself, or the one that a cast was put behind."""
        return name if name in self._written else name.removeprefix(_CAST_PREFIX)

    def _behind(self, value: str, sought: set[str]) -> str | None:
        """Follow a value through what is fused with it to one of those that are sought."""
        if value in self._activated and value not in sought:
            return None
        passed = set()
        while value not in sought:
            # One name in several graphs may lead back to itself.
            passed.add(value)
            users = self._next.get(value, [])
            if len(users) != 1 or not users[0].output or users[0].output[0] in passed:
                return None
            value = users[0].output[0]
            if value not in sought and users[0].op_type not in _FUSED_BEFORE:
                return None
        return value


def _activates(node: NodeProto) -> bool:
    """Tell whether a node writes an activation's value, its own or a fused one's."""
    return node.op_type in _ACTIVATIONS or any(a.name == "activation" for a in node.attribute)
