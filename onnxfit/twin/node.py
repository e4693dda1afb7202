"""What a converter sees of the node that it turns into PyTorch."""

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import onnx
import torch
from onnx import AttributeProto, GraphProto, NodeProto

from onnxfit.errors import UnsupportedOperator
from onnxfit.twin.program import Block
from onnxfit.twin.tensors import to_tensor
from onnxfit.twin.values import Constant, Value, Variable, Weight

if TYPE_CHECKING:
    from onnxfit.twin.frame import Frame

Outputs = Value | tuple[Value, ...]


class Node:
    """A node with its inputs, attributes and version, and the way to add steps to the twin.

    Attributes:
        op_type: Its operator.
        domain: Its domain, empty for ONNX's own.
        opset: The version of the domain that the model imports.
        label: What messages call it: operator and name.
    """

    def __init__(self, frame: "Frame", proto: NodeProto, opset: int) -> None:
        self.frame = frame
        self.proto = proto
        self.op_type = proto.op_type
        self.domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.opset = opset
        self.label = describe(proto)
        self._attributes = {a.name: a for a in frame.attributes_of(proto)}
        self._replaced: Mapping[int, Value] = {}

    def __len__(self) -> int:
        """Return the number of inputs, absent ones in between included."""
        return len(self.proto.input)

    def has(self, index: int) -> bool:
        """Tell whether an input is given."""
        return index < len(self.proto.input) and self.proto.input[index] != ""

    def value(self, index: int) -> Value:
        """Return an input as it is, integers on the host included; it must be given."""
        if index in self._replaced:
            return self._replaced[index]
        return self.frame.find(self.proto.input[index])

    def input(self, index: int) -> Any:
        """Return an input as an argument for :meth:`emit`: a tensor, or None where absent."""
        if not self.has(index):
            return None
        value = self.value(index)
        return self.frame.as_tensor(value) if isinstance(value, Variable) else value

    def floats(self, index: int) -> Any:
        """Return an input like :meth:`input`, in a floating-point type where quantised."""
        value = self.value(index) if self.has(index) else None
        floats = value.floats if isinstance(value, Variable) else None
        return self.input(index) if floats is None else floats

    def with_inputs(self, replaced: Mapping[int, Value]) -> "Node":
        """Return the node with other values, of floating point, as some of its inputs."""
        node = copy.copy(self)
        node._replaced = replaced
        return node

    @property
    def inputs(self) -> list[Any]:
        """All inputs as arguments for :meth:`emit`: tensors, None for each one absent."""
        return [self.input(index) for index in range(len(self))]

    def frozen(self, index: int) -> Any:
        """Return an input like :meth:`input`, but as a constant where it is a weight.

        The tensor becomes a buffer of the twin, which no gradient reaches.
        """
        value = self.input(index)
        return self.frame.builder.freeze(value) if isinstance(value, Weight) else value

    def known(self, index: int) -> Any:
        """Return what an input holds, a tensor mostly; None where only a call will tell."""
        value = self.value(index) if self.has(index) else None
        if isinstance(value, Weight):
            return value.tensor
        return value.value if isinstance(value, Constant) else None

    def constant(self, index: int) -> Any:
        """Return what an input holds, which must be known when the twin is built.

        Raises:
            UnsupportedOperator: It is computed by the model.
        """
        value = self.value(index)
        if isinstance(value, Variable):
            self.unsupported(f"its input {self.input_name(index)} is not constant")
        return self.known(index)

    def host(self, index: int) -> Any:
        """Return an input as Python numbers, in nested tuples as the tensor is deep.

        Returns:
            The number or tuple where it is known, else a variable that holds it at run time. None
            where the input is absent.
        """
        if not self.has(index):
            return None
        value = self.value(index)
        if isinstance(value, Variable):
            return value if value.host else self.emit_host(to_host, value)
        return to_host(self.known(index))

    def input_name(self, index: int) -> str:
        """Return what the operator's specification calls an input, with its value's name."""
        name = self.proto.input[index]
        try:
            formal = onnx.defs.get_schema(self.op_type, self.opset, self.domain).inputs
            return f"{formal[min(index, len(formal) - 1)].name} ({name!r})"
        except onnx.defs.SchemaError:
            return repr(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute as a Python value: strings as ``str``, tensors as tensors."""
        attribute = self._attributes.get(name)
        if attribute is None:
            return default
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.STRING:
            return value.decode()
        if attribute.type == AttributeProto.STRINGS:
            return [text.decode() for text in value]
        if attribute.type == AttributeProto.TENSOR:
            return to_tensor(value, self.frame.builder.folder)
        if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            return tuple(value)
        return value

    @property
    def number_of_outputs(self) -> int:
        """How many outputs the node has, those that nothing reads included."""
        return len(self.proto.output)

    def wants(self, index: int) -> bool:
        """Tell whether an output is given a name."""
        return index < len(self.proto.output) and self.proto.output[index] != ""

    def element_type(self, index: int) -> int:
        """Return the ``TensorProto`` type of an input, 0 where it is not known."""
        if index in self._replaced:
            return int(onnx.TensorProto.FLOAT)
        return self.frame.type_of(self.proto.input[index]) if self.has(index) else 0

    def emit(
        self, function: Callable[..., Any], *args: Any, outputs: int = 0, **kwargs: Any
    ) -> Any:
        """Add a step ``function(*args, **kwargs)``; it runs at once where all it reads is known.

        Args:
            function: A module-level function of PyTorch or of onnxfit: no lambda, no partial.
            args: Values, Python literals, types, blocks; lists and tuples of them.
            outputs: How many results the function returns in a tuple; 0 for a bare one.
            kwargs: Like ``args``.

        Returns:
            The result's value, or a tuple of values.
        """
        return self.frame.emit(self.label, function, args, kwargs, outputs)

    def emit_host(
        self,
        function: Callable[..., Any],
        *args: Any,
        dtype: torch.dtype = torch.int64,
        rank: int | None = None,
    ) -> Variable:
        """Add a step whose result is a Python number or a tuple, of ``dtype`` as a tensor."""
        return self.frame.emit_host(self.label, function, args, dtype, rank)

    def emit_random(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Add a step like :meth:`emit` does, but run it anew in each call of the twin."""
        return self.frame.emit(self.label, function, args, kwargs, 0, fold=False)

    def like(self, dtype: torch.dtype) -> Any:
        """Return an empty tensor of the twin that says its device and what a type has become.

        ``twin.half()`` turns a float32 one into float16, and a Cast to float32 has to follow.
        """
        return self.frame.builder.like(dtype)

    def body(self, graph: GraphProto, attribute: str) -> Block:
        """Build the graph of an attribute as a block that sees the values around it."""
        return self.frame.body(self.proto, graph, attribute)

    def inline(self, graph: GraphProto, attribute: str) -> tuple[Value, ...]:
        """Build the graph of an attribute in the place of the node; return its outputs."""
        return self.frame.inline(self.proto, graph, attribute)

    def unsupported(self, reason: str) -> NoReturn:
        """Refuse the node.

        Raises:
            UnsupportedOperator: Always.
        """
        raise UnsupportedOperator(self.proto.name, self.op_type, self.opset, self.domain, reason)


def describe(proto: NodeProto) -> str:
    """Name a node in a message: by its operator, and by its own name or what it writes."""
    name = proto.name or next((output for output in proto.output if output), "")
    domain = f"{proto.domain}::" if proto.domain not in ("", "ai.onnx") else ""
    return f"{domain}{proto.op_type} {name!r}"


def call(module: torch.nn.Module, *args: Any) -> Any:
    """Call a module of the twin."""
    return module(*args)


def to_host(value: Any) -> Any:
    """Turn a tensor into Python numbers, in nested tuples as it is deep."""
    return _frozen(value.tolist())


def _frozen(numbers: Any) -> Any:
    return tuple(_frozen(item) for item in numbers) if isinstance(numbers, list) else numbers
