"""Operators that the specification itself defines by other operators."""

from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto

from onnxfit.element_types import UNKNOWN
from onnxfit.twin import registry
from onnxfit.twin.node import Node


def definition(node: Node) -> FunctionProto | None:
    """Return the function that defines a node's operator, with the defaults of its attributes.

    None where the specification gives no such function, or a type it depends on is not known.
    """
    if not registry.is_known(node.domain, node.op_type, node.opset):
        return None
    # What the schema can do is missing in the type hints of the onnx package.
    schema: Any = onnx.defs.get_schema(node.op_type, node.opset, node.domain)
    body = FunctionProto()
    if schema.has_function:
        body.CopyFrom(schema.function_body)
    elif schema.has_context_dependent_function:
        types = _input_types(node)
        if types is None:
            return None
        body.ParseFromString(schema.get_context_dependent_function(_resolved(node), types))
    if not body.node:
        return None
    if not any(imported.domain == node.domain for imported in body.opset_import):
        body.opset_import.add(domain=node.domain, version=schema.since_version)
    given = {attribute.name for attribute in body.attribute_proto}
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        if default.type != AttributeProto.UNDEFINED and name not in given:
            body.attribute_proto.append(default)
    return body


def _resolved(node: Node) -> bytes:
    """Return the node with the attributes of the function around it filled in, serialised."""
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    del proto.attribute[:]
    proto.attribute.extend(node.frame.attributes_of(node.proto))
    return proto.SerializeToString()


def _input_types(node: Node) -> list[bytes] | None:
    """Return the types of the inputs, serialised; None where one is not known."""
    types = []
    for index in range(len(node)):
        element_type = node.element_type(index)
        if node.has(index) and element_type == UNKNOWN:
            return None
        described = onnx.helper.make_tensor_type_proto(element_type, None)
        types.append(described.SerializeToString() if node.has(index) else b"")
    return types
