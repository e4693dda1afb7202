"""Nodes added to a graph of onnx-graphsurgeon, each named after what it does."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto

from onnxfit.edits import remove_where
from onnxfit.errors import ModelError
from onnxfit.graph import reads


class Builder:
    """Adds nodes to a graph.

    Args:
        prefix: What their names, and those of the values that they write, begin with.
        opset: Version of the default domain that they are written for.

    Attributes:
        graph: The graph.
        opset: As given.
    """

    def __init__(self, prefix: str, opset: int) -> None:
        self.graph = gs.Graph(opset=opset)
        self.opset = opset
        self._prefix = prefix

    def __call__(self, op: str, *inputs: gs.Tensor, results: int = 1, **attributes: Any) -> Any:
        """Add a node; return what it writes, a list of several results."""
        name = f"{self._prefix}{len(self.graph.nodes)}/{op}"
        outputs = [gs.Variable(f"{name}:{index}") for index in range(results)]
        node = gs.Node(op, name=name, attrs=attributes, inputs=list(inputs), outputs=outputs)
        self.graph.nodes.append(node)
        return outputs if results > 1 else outputs[0]

    def constant(self, name: str, values: NDArray[Any]) -> gs.Constant:
        """Return an initializer."""
        return gs.Constant(self._prefix + name, values)

    def literal(self, values: ArrayLike, kind: Any = np.float32) -> gs.Variable:
        """Add a Constant node, which inner graphs may have in files of any IR version.

        Below opset 9 there are none of integers.
        """
        return self("Constant", value=gs.Constant("", np.array(values, kind)))

    def with_list(
        self,
        op: str,
        x: gs.Tensor,
        name: str,
        numbers: Sequence[int],
        *,
        since: int,
        **others: Any,
    ) -> Any:
        """Add a node with a list of integers, its second input from an opset on, else an attribute.

        Args:
            op: The operator.
            x: Its first input.
            name: Of the attribute.
            numbers: The list.
            since: The first opset in which it is an input.
            **others: Further attributes.
        """
        if self.opset < since:
            return self(op, x, **others | {name: list(numbers)})
        return self(op, x, self.literal(numbers, np.int64), **others)

    def repeat(
        self,
        times: int,
        states: Sequence[gs.Tensor],
        step: Callable[..., Sequence[gs.Variable]],
    ) -> list[gs.Variable]:
        """Add a Loop.

        Args:
            times: How often to go round.
            states: The float32 values that it begins with, at least two.
            step: Is given the builder of the body and the states; adds the nodes of one round,
                which may read values around the Loop, and returns the states after it.

        Returns:
            The states in the end.
        """
        inner = Builder(f"{self._prefix}{len(self.graph.nodes)}/Loop/", self.opset)
        before = [
            gs.Variable(f"{inner._prefix}state:{index}", np.float32) for index in range(len(states))
        ]
        going = gs.Variable(f"{inner._prefix}going", np.bool_, ())
        after = step(inner, *before)
        for state in after:
            state.dtype = np.dtype(np.float32)
        again = inner("Identity", going)
        again.dtype, again.shape = np.dtype(np.bool_), ()
        inner.graph.name = f"{inner._prefix}body"
        inner.graph.inputs = [gs.Variable(f"{inner._prefix}number", np.int64, ()), going, *before]
        inner.graph.outputs = [again, *after]
        count = self.constant("times", np.array(times, np.int64))
        found: list[gs.Variable] = self(
            "Loop", count, gs.Variable.empty(), *states, results=len(states), body=inner.graph
        )
        return found


def add_initializers(model: ModelProto, built: ModelProto) -> None:
    """Give a model the initializers that nodes built for it read."""
    model.graph.initializer.extend(built.graph.initializer)
    if model.ir_version < 4:
        # Initializers are inputs too there.
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in built.graph.initializer
        )


def remove_built(model: ModelProto, prefix: str, result: str) -> None:
    """Take out of a model what was built with a prefix.

    Args:
        model: It is changed.
        prefix: Of the names of nodes, which other tools may have dropped, and of values.
        result: The value that was built.

    Raises:
        ModelError: Other nodes, or the model's outputs, depend on what is taken out.
    """
    graph = model.graph
    gone: set[str] = set()
    for node in graph.node:
        names = (node.name, *node.output)
        if result in node.output or any(name.startswith(prefix) for name in names):
            gone.update(filter(None, node.output))
    remove_where(graph.node, lambda node: not gone.isdisjoint(node.output))
    for items in (graph.initializer, graph.input, graph.value_info):
        remove_where(items, lambda item: item.name.startswith(prefix))
    gone.discard(result)
    used = [name for node in graph.node for name in reads(node) if name != result]
    used += [value.name for value in graph.output]
    for name in used:
        if name in gone or name.startswith(prefix):
            raise ModelError(f"another tool lets {name!r} be read elsewhere; take the source")


def recorded(model: ModelProto, key: str, *names: str) -> list[str]:
    """Return texts of the record under a metadata entry, which is there.

    Raises:
        ModelError: It is damaged.
    """
    entry = next(entry for entry in model.metadata_props if entry.key == key)
    try:
        record = json.loads(entry.value)
        return [str(record[name]) for name in names]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the metadata entry {key} is damaged") from error


def check_free(model: ModelProto, prefixes: tuple[str, ...]) -> None:
    """Refuse a model that has names with the prefixes of what is to be built.

    Raises:
        ModelError: It has one.
    """
    graph = model.graph
    names = [name for node in graph.node for name in node.output]
    names += [item.name for items in (graph.input, graph.initializer) for item in items]
    if taken := next((name for name in names if name.startswith(prefixes)), None):
        raise ModelError(f"the model has {taken!r}, a name that onnxfit keeps for itself")
