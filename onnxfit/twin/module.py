"""The twin as a PyTorch module."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto, ValueInfoProto

from onnxfit.errors import ModelError, OnnxfitError
from onnxfit.files import as_model, folder_of
from onnxfit.rewrites import unrewritten
from onnxfit.twin.builder import Builder
from onnxfit.twin.jump_relu import JumpReLU
from onnxfit.twin.program import Program
from onnxfit.twin.state import attach


class Twin(torch.nn.Module):
    """What an ONNX model computes, as a PyTorch module; made by :func:`to_torch`.

    It is called with the graph's inputs in order, tensors in the types and shapes of the file, and
    returns the output's tensor, or a tuple where the graph has several outputs. It always
    computes what the file does at inference: ``train()`` changes nothing.

    Attributes:
        input_names: The names of the graph's inputs, in order.
        output_names: The names of the graph's outputs, in order.
        shape: Of one sample of the first input, None for what the file leaves open.
        weight_names: For each parameter and each buffer that stands for a tensor of the file:
            the graph or function that holds the tensor (``""`` for the main graph), its name.
    """

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        block = builder.build()
        self.input_names = builder.input_names
        self.output_names = [value.name for value in builder.model.graph.output]
        self.shape = _shape_of(builder.inputs)
        paths = attach(self, block)
        self.weight_names = {
            paths[key]: (weight.scope, weight.name)
            for key, weight in builder.weights_by_id().items()
            if key in paths
        }
        self._program = Program(block, paths)
        self._fixed_batch = builder.fixed_batch()

    @property
    def source(self) -> str:
        """The twin as Python code, for reading."""
        return self._program.source

    @property
    def sites(self) -> dict[str, JumpReLU]:
        """The modules of the model's JumpReLUs, by the names of their sites."""
        return {m.site: m for m in self.modules() if isinstance(m, JumpReLU)}

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Compute the graph's outputs.

        Raises:
            ValueError: There are too few or too many inputs.
            ModelError: A node cannot compute with inputs of these shapes or types.
        """
        if len(inputs) != len(self.input_names):
            raise ValueError(
                f"the model takes {len(self.input_names)} inputs "
                f"({', '.join(self.input_names)}), {len(inputs)} were given"
            )
        fixed = self._fixed_batch
        n = 0 if fixed is None else fixed.given(inputs)
        if fixed is not None and n != fixed.size and fixed.mixed is not None:
            return fixed.in_parts(self._run, inputs, n)
        return self._run(*inputs)

    def _run(self, *inputs: torch.Tensor) -> Any:
        """Compute the outputs of a batch of a size that the code is made for."""
        try:
            return self._program.run(self, *inputs)
        except (OnnxfitError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            node = self._program.node_of(error.__traceback__)
            raise ModelError(f"{node or 'the twin'} cannot be computed: {error}") from error


def to_torch(model: ModelProto | str | Path, base_dir: str | Path | None = None) -> Twin:
    """Make a PyTorch module that computes what an ONNX model does, and knows its gradients.

    Args:
        model: A model or its path, of opset 7 or newer; an older one where its operators have not
            changed until then.
        base_dir: Where external data lies; by default the folder of the path.

    Returns:
        The twin, on the CPU. Its parameters are the floating-point tensors of the file and carry
        their names; dots in a name make nested modules.

    Raises:
        UnsupportedOperator: The twin cannot compute a node; the error names it.
        ModelError: The file is no ONNX model, has no outputs, or its
            weights cannot be read.
    """
    proto = unrewritten(as_model(model))
    if not proto.graph.output:
        raise ModelError("the model has no outputs")
    if not proto.opset_import:
        raise ModelError("the model does not say of which opset it is")
    return Twin(Builder(proto, folder_of(model, base_dir)))


def _shape_of(inputs: Sequence[ValueInfoProto]) -> tuple[int | None, ...] | None:
    """Return the shape of one sample, as far as the first input fixes it."""
    if not inputs or not inputs[0].type.tensor_type.HasField("shape"):
        return None
    shape = inputs[0].type.tensor_type.shape
    return tuple(d.dim_value if d.dim_value > 0 else None for d in shape.dim[1:])
