"""Build the twin: walk the nodes that the outputs need, in the order of the file."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto, TensorProto

from onnxfit.element_types import element_types, every_graph, inputs_of
from onnxfit.errors import ModelError, OnnxfitError
from onnxfit.graph import scopes
from onnxfit.lowering import SITE_PREFIX, Hardened, read
from onnxfit.op import is_jump_relu, is_our_function
from onnxfit.twin.batches import FixedBatch
from onnxfit.twin.frame import Frame, versions
from onnxfit.twin.fusion import fuse
from onnxfit.twin.jump_relu import JumpReLU
from onnxfit.twin.places import Places
from onnxfit.twin.program import Block
from onnxfit.twin.shapes import LARGEST, can_fold, inferred_shapes, is_small, shape_of
from onnxfit.twin.tensors import dense_tensor, to_tensor
from onnxfit.twin.values import Constant, Variable, Weight

# The types whose tensors gradients reach.
TRAINABLE = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MAX_DEPTH = 100
# Shapes that follow from shapes that follow from shapes …
MAX_ROUNDS = 16


class Builder:
    """What all graphs and functions of a model have in common while its twin is built."""

    def __init__(self, model: ModelProto, folder: Path | None) -> None:
        self.model = model
        self.folder = folder
        self.functions = {
            (f.domain, f.name, f.overload): f for f in model.functions if not is_our_function(f)
        }
        self.block = Block()
        self.inputs = inputs_of(model.graph)
        self.input_names = [value.name for value in self.inputs]
        self.batch: tuple[int, Variable] | None = None
        self._weights: dict[tuple[str, str], Weight | Constant] = {}
        self._frozen: dict[int, Constant] = {}
        self._likes: dict[torch.dtype, Constant] = {}
        self._jump_relus: dict[tuple[str, str], JumpReLU] = {}
        self.depth = 0

    def build(self) -> Block:
        """Build the main graph as a block."""
        graph = self.model.graph
        frame = Frame(self, self.block, "", versions(self.model.opset_import))
        frame.hold(graph)
        self.block.inputs = [frame.variable(name) for name in self.input_names]
        self.batch = self._fixed_batch(frame)
        self.block.outputs = list(frame.run(graph.node, [o.name for o in graph.output]))
        self._check_batch(frame)
        self.block.drop_unused()
        fuse(self.block)
        return self.block

    def weights_by_id(self) -> dict[int, Weight]:
        """Return the file's tensors by the id of each value that stands for one in a step."""
        found = {id(v): v for v in self._weights.values() if isinstance(v, Weight)}
        found.update((id(c), c.weight) for c in self._frozen.values() if c.weight is not None)
        return found

    def _fixed_batch(self, frame: Frame) -> tuple[int, Variable] | None:
        """Return the batch size that the file fixes, and the variable of the one it is given."""
        dims = self.inputs[0].type.tensor_type.shape.dim if self.inputs else ()
        if not dims or dims[0].dim_value < 1:
            return None
        batch = frame.emit_host("", first_dimension, (self.block.inputs[0],), torch.int64)
        return dims[0].dim_value, batch

    def fixed_batch(self) -> FixedBatch | None:
        """Describe the batch size that the file fixes, and whether the samples stay apart."""
        if self.batch is None:
            return None
        shapes = [value.type.tensor_type.shape.dim for value in self.inputs]
        lengths = tuple((dims[0].dim_value or None) if dims else None for dims in shapes)
        return FixedBatch(self.batch[0], lengths, self.places.mixed)

    def _check_batch(self, frame: Frame) -> None:
        """Refuse a call whose batch size did not make its way through a file that fixes it."""
        if self.batch is None:
            return
        fixed, batch = self.batch
        for index, output in enumerate(self.model.graph.output):
            dims = output.type.tensor_type.shape.dim
            value = self.block.outputs[index]
            if dims and dims[0].dim_value == fixed and isinstance(value, Variable):
                self.block.outputs[index] = frame.emit(
                    f"output {output.name!r}", checked_batch, (value, fixed, batch), {}, 0
                )

    def weight(self, scope: str, name: str, tensor: Any) -> Weight | Constant:
        """Return the value of a tensor of the file: a weight where gradients can reach it."""
        floating = isinstance(tensor, torch.Tensor) and tensor.dtype in TRAINABLE
        return Weight(scope, name, tensor) if floating else Constant(tensor)

    def initializer(self, scope: str, proto: TensorProto) -> Weight | Constant:
        """Return the value of an initializer, read from the file once; gradients reach arrays."""
        key = (scope, proto.name)
        if key not in self._weights:
            weight = self.weight(*key, to_tensor(proto, self.folder))
            self._weights[key] = weight
            if isinstance(weight, Weight) and not weight.tensor.dim():
                # A number of its own is a setting of the network, as an attention's scale is.
                self._weights[key] = self.freeze(weight)
        return self._weights[key]

    def sparse_initializer(self, scope: str, proto: onnx.SparseTensorProto) -> Weight | Constant:
        """Return the value of a sparse initializer, written out once."""
        key = (scope, proto.values.name)
        if key not in self._weights:
            self._weights[key] = self.weight(*key, dense_tensor(proto, self.folder))
        return self._weights[key]

    def constant_node(self, scope: str, name: str, tensor: Any) -> Weight | Constant:
        """Return the value of a Constant node: a weight where it is more than one number."""
        key = (scope, name)
        if key not in self._weights:
            several = isinstance(tensor, torch.Tensor) and tensor.numel() > 1
            self._weights[key] = self.weight(*key, tensor) if several else Constant(tensor)
        return self._weights[key]

    def freeze(self, weight: Weight) -> Constant:
        """Return a weight as a constant that no gradient reaches."""
        return self._frozen.setdefault(id(weight), Constant(weight.tensor, weight))

    def like(self, dtype: torch.dtype) -> Constant:
        """Return the empty tensor that says the twin's device and what a type has become."""
        return self._likes.setdefault(dtype, Constant(torch.empty(0, dtype=dtype)))

    @cached_property
    def types(self) -> Mapping[str, Mapping[str, int]]:
        """Scope → value → ``TensorProto`` type."""
        return element_types(self.model)

    @cached_property
    def hardened(self) -> dict[tuple[str, str], Hardened]:
        """The JumpReLUs of the model, by scope and by the value that the last node writes."""
        nodes = [node for graph in every_graph(self.model) for node in graph.node]
        ours = any(
            is_jump_relu(node) or any(o.startswith(SITE_PREFIX) for o in node.output)
            for node in nodes
        )
        if not ours:
            return {}
        return {
            (scope.name, found.nodes[-1].output[0]): found
            for scope in scopes(self.model)
            for found in read(scope).values()
        }

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the main graph's values that the file fixes."""
        known = {n: tuple(d for d in s if d is not None) for n, s in self.partial_shapes.items()}
        return {name: s for name, s in known.items() if len(s) == len(self.partial_shapes[name])}

    @property
    def partial_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shapes of the main graph's values, None for each dimension the file leaves open."""
        return self._inferred[0]

    @property
    def small_constants(self) -> dict[str, torch.Tensor]:
        """Small values of the main graph that are the same in every call as the file has it."""
        return self._inferred[1]

    @cached_property
    def _inferred(self) -> tuple[dict[str, tuple[int | None, ...]], dict[str, torch.Tensor]]:
        """Infer shapes, compute what follows from them, and so on until nothing new is found."""
        shapes: dict[str, tuple[int | None, ...]] = {}
        constants = self._fold({})
        for _ in range(MAX_ROUNDS):
            shapes = inferred_shapes(self.model, constants)
            more = self._fold(shapes)
            if len(more) == len(constants):
                break
            constants = more
        return shapes, constants

    def _fold(self, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, torch.Tensor]:
        """Compute the nodes of the main graph that need small constants and known shapes only."""
        graph = self.model.graph
        frame = Frame(self, Block(), "", versions(self.model.opset_import))
        frame.hold(graph)
        found = {t.name: to_tensor(t) for t in graph.initializer if is_small(t)}
        for proto in graph.node:
            values: Sequence[Any] = ()
            if proto.op_type == "Shape" and (known := shape_of(proto, shapes)) is not None:
                values = [Constant(known)]
                frame.bind(proto.output, values)
            elif can_fold(proto, found):
                with contextlib.suppress(OnnxfitError):
                    values = frame.run([proto], proto.output)
            for name, value in zip(proto.output, values, strict=False):
                tensor = value.value if isinstance(value, Constant) else None
                if isinstance(tensor, torch.Tensor) and tensor.numel() <= LARGEST:
                    found[name] = tensor
        return found

    @cached_property
    def places(self) -> Places:
        """Where the samples are in the main graph's values, if the file fixes the batch."""
        fixed = 0 if self.batch is None else self.batch[0]
        return Places(self.model, fixed, self.shapes, self.small_constants)

    def jump_relu(self, scope: str, site: Hardened, jump: Any) -> JumpReLU:
        """Return the module of a site; each call of a function that holds the site shares it."""
        key = (scope, site.value)
        if key not in self._jump_relus:
            name = f"{scope}/{site.value}" if scope else site.value
            self._jump_relus[key] = JumpReLU(jump, site=name)
        return self._jump_relus[key]

    @contextlib.contextmanager
    def call(self, label: str) -> Iterator[None]:
        """Guard against functions that call themselves."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ModelError(f"the functions behind {label} call each other without end")
        try:
            yield
        finally:
            self.depth -= 1


def first_dimension(x: torch.Tensor) -> int:
    """Return the batch size that the twin is given."""
    return x.shape[0]


def checked_batch(output: torch.Tensor, fixed: int, batch: int) -> torch.Tensor:
    """Return an output of a file that fixes its batch, where it has a row for each sample."""
    if output.shape[0] != batch:
        raise ValueError(
            f"the model is made for a batch of {fixed} and mixes the samples of one of {batch}"
        )
    return output
