"""A model's twin as a classifier: samples in, logits out, whatever the file looks like."""

from pathlib import Path

import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxfit.data_sources import times
from onnxfit.element_types import inputs_of
from onnxfit.errors import DataError, ModelError
from onnxfit.files import as_model, folder_of
from onnxfit.image_layout import channel_axis
from onnxfit.rewrites import unrewritten
from onnxfit.twin.module import to_torch
from onnxfit.twin.parity import Parity, require_parity

_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}
_SAME_NUMBERS = {
    "Cast",
    "Dropout",
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


class Classifier(torch.nn.Module):
    """The twin of a model that turns samples, N×…, into logits, N×classes.

    Samples are converted to the input's type, and logits back to the type of the samples. Logits
    are the first output of the graph; axes of length 1 after the classes are dropped.

    Args:
        model: A model or its path.
        base_dir: Folder of the external data; by default that of the path.
        before_probabilities: Leave out a last Softmax or Sigmoid, so that true logits come out.

    Attributes:
        model: What the twin was made of.
        twin: What :func:`onnxfit.to_torch` made of the model.
        input_name: The graph's only input.
        dtype: Its type.
        shape: Of one sample as the file declares it, with None for lengths that it leaves open;
            None where it declares no shape.
        probabilities: The operator that makes probabilities of what it calls logits: Softmax,
            Sigmoid or None. What only changes their shape or type may follow.

    Raises:
        ModelError: The model cannot be read, or has not one input of a floating-point type.
        UnsupportedOperator: The twin cannot compute a node.
    """

    def __init__(
        self,
        model: ModelProto | str | Path,
        base_dir: str | Path | None = None,
        *,
        before_probabilities: bool = False,
    ) -> None:
        super().__init__()
        proto = as_model(model)
        inputs = inputs_of(proto.graph)
        if len(inputs) != 1:
            names = ", ".join(repr(value.name) for value in inputs) or "none"
            raise ModelError(f"a classifier has one input, the model has {len(inputs)}: {names}")
        self.dtype = _dtype_of(inputs[0])
        self.input_name = inputs[0].name
        last = _last_node(proto)
        makes_probabilities = last is not None and last.op_type in ("Softmax", "Sigmoid")
        self.probabilities = last.op_type if last is not None and makes_probabilities else None
        self.model = proto
        if before_probabilities and makes_probabilities:
            self.model = _without_last(proto)
        self._folder = folder_of(model, base_dir)
        self.twin = to_torch(self.model, self._folder)
        self.shape = self.twin.shape

    @property
    def channels(self) -> int | None:
        """1 or 3 where the file says that samples are C×H×W of so many channels, else None."""
        shape = self.shape or ()
        return shape[0] if channel_axis(shape) == 0 and shape[0] in (1, 3) else None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether the model takes samples of a shape, as far as the file declares it."""
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(want in (None, has) for want, has in zip(self.shape, shape, strict=True))
        )

    def check(self, shape: tuple[int, ...], side: str = "model") -> None:
        """Refuse samples of a shape that the model does not take.

        Args:
            shape: Of one sample.
            side: What the model is called.

        Raises:
            DataError: The shape is not the one that the file declares.
        """
        if self.shape is not None and not self.fits(shape):
            expected = "×".join("?" if length is None else str(length) for length in self.shape)
            order = self._other_order(shape)
            raise DataError(
                f"the {side}'s input {self.input_name!r} takes samples of shape "
                f"{expected or '()'}; those of the data are {times(shape)}{order}"
            )

    def _other_order(self, shape: tuple[int, ...]) -> str:
        """Say whether samples would fit with their channels on the other side."""
        if self.shape is None or len(shape) != 3 or len(self.shape) != 3:
            return ""
        orders = {
            (shape[2], *shape[:2]): "last in the data and first",
            (*shape[1:], shape[0]): "first in the data and last",
        }
        for turned, words in orders.items():
            if self.fits(turned):
                return f": the channels are {words} in the model"
        return ""

    def require_parity(self, x: torch.Tensor) -> Parity | None:
        """Compare the twin with the file in ONNX Runtime, both on the CPU.

        Args:
            x: Samples, N×…, as in a call.

        Returns:
            How far they agree; None for bfloat16, which ONNX Runtime does not take from Python.

        Raises:
            ModelError: ONNX Runtime cannot compute the model.
            ParityError: Twin and file disagree.
        """
        if self.dtype is torch.bfloat16:
            return None
        samples = x.to(self.dtype)
        return require_parity(self.model, self.twin, samples, self._folder, batch_size=len(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of samples.

        Raises:
            ModelError: The model cannot be computed, or its first output is not N×classes.
        """
        outputs = self.twin(x if self.dtype is torch.float32 else x.to(self.dtype))
        return as_logits(outputs, len(x)).to(x.dtype)


def as_logits(outputs: object, n: int) -> torch.Tensor:
    """Return the logits of ``n`` samples, N×classes, out of what a module returned.

    Raises:
        ModelError: The first output is no such tensor.
    """
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        raise ModelError("the first output of the model is no floating-point tensor")
    shape = tuple(logits.shape)
    if len(shape) < 2 or shape[0] != n or any(length != 1 for length in shape[2:]):
        raise ModelError(
            f"the first output of the model is {times(shape) or 'one number'} for {n} samples, "
            "not logits of N×classes"
        )
    return logits.reshape(n, shape[1])


def _last_node(model: ModelProto) -> NodeProto | None:
    """Return the last node that changes more of the first output than its shape or type."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    node = makers.get(model.graph.output[0].name) if model.graph.output else None
    while node is not None and node.op_type in _SAME_NUMBERS:
        node = makers.get(node.input[0])
    return node


def _without_last(model: ModelProto) -> ModelProto:
    """Return the model with the operator that makes its probabilities replaced by Identity."""
    changed = ModelProto()
    changed.CopyFrom(unrewritten(model))
    node = _last_node(changed)
    if node is not None:
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
    return changed


def _dtype_of(value: ValueInfoProto) -> torch.dtype:
    element_type = value.type.tensor_type.elem_type
    if element_type not in _TYPES:
        name = TensorProto.DataType.Name(element_type).lower() if element_type else "no tensor"
        raise ModelError(
            f"the input {value.name!r} of the model is {name}; gradients need a floating-point one"
        )
    return _TYPES[element_type]
