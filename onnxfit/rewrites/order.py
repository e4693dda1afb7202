"""The order of nodes in a graph: each stands behind those whose values it reads."""

from collections.abc import Iterator, Sequence

from onnx import AttributeProto, NodeProto


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
                read = (writers.get(value) for value in _reads(nodes[index]))
                before = [writer for writer in read if writer is not None and writer not in met]
            if before:
                waiting += reversed(before)
            else:
                done.setdefault(waiting.pop())
    return list(done)


def is_sorted(order: list[int]) -> bool:
    """Tell whether nodes stood in a valid order already, by what :func:`order_of` returns."""
    return order == list(range(len(order)))


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, in its subgraphs too."""
    yield from node.input
    for attribute in node.attribute:
        inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else []
        for graph in (*inner, *attribute.graphs):
            for one in graph.node:
                yield from _reads(one)
            yield from (value.name for value in graph.output)
