"""The order of nodes in a graph: each stands behind those whose values it reads."""

from collections.abc import Sequence

from onnx import NodeProto

from onnxfit.graph import reads


def order_of(nodes: Sequence[NodeProto]) -> list[int]:
    """Return the indices of nodes in a valid order, which is theirs where that is valid.

    Nodes that read each other, as in a damaged file, come in any order.
    """
    writers = {value: i for i, node in enumerate(nodes) for value in node.output if value}
    met: set[int] = set()
    done: dict[int, None] = {}
    for first in range(len(nodes)):
        waiting = [first]
        while waiting:
            index = waiting[-1]
            before: list[int] = []
            if index not in met:
                met.add(index)
                read = (writers.get(value) for value in reads(nodes[index]))
                before = [writer for writer in read if writer is not None and writer not in met]
            if before:
                waiting += reversed(before)
            else:
                done.setdefault(waiting.pop())
    return list(done)


def is_sorted(order: list[int]) -> bool:
    """Tell whether nodes stood in a valid order already, by what :func:`order_of` returns."""
    return order == list(range(len(order)))
