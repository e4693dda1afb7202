"""Other names for values of the main graph, in subgraphs too."""

from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from onnxfit.graph import inner_graphs, reads


def rename(model: ModelProto, before: str, after: str) -> None:
    """Give a value of the main graph another name, but not the graph's output of that name."""
    for node in model.graph.node:
        node.output[:] = [after if name == before else name for name in node.output]
    rename_reads(model.graph.node, before, after)
    for value in model.graph.value_info:
        if value.name == before:
            value.name = after


def rename_reads(nodes: Iterable[NodeProto], before: str, after: str) -> None:
    """Let nodes, and those of their subgraphs, read another value."""
    for node in nodes:
        if before not in reads(node):
            continue
        node.input[:] = [after if name == before else name for name in node.input]
        for graph in inner_graphs(node):
            rename_reads(graph.node, before, after)
            for value in graph.output:
                if value.name == before:
                    value.name = after
