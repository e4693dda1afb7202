"""What a model must be for its weights to be trained."""

import torch
from onnx import ModelProto, SparseTensorProto, TensorProto

from onnxfit.element_types import every_graph
from onnxfit.errors import ModelError
from onnxfit.twin.write_back import tensors_of
from onnxfit.verification.target import Target

# What quantised weights are stored in.
_NARROW = (
    *(TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4),
    *(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2),
)


def check_weights(target: Target, *, statistics: bool) -> None:
    """Refuse a model whose weights cannot be trained.

    Args:
        target: The model.
        statistics: Whether those of a BatchNorm are to follow the data.

    Raises:
        ModelError: It has no weights, one is quantised or sparse, or not all are float32; or it has
            no BatchNorm.
    """
    twin = target.classifier.twin
    _check_stored(target.model, set(twin.weight_names.values()))
    types = {weight.dtype for weight in target.twin.parameters()} | {target.classifier.dtype}
    if types == {target.classifier.dtype} and not list(target.twin.parameters()):
        raise ModelError("the model has no floating-point weight that could be trained")
    if others := sorted(str(kind).removeprefix("torch.") for kind in types - {torch.float32}):
        raise ModelError(
            f"the model computes in {' and '.join(others)}: fine-tune it in float32, and convert "
            "the result"
        )
    if statistics and not _normalises(target.model):
        raise ModelError(
            "the model has no BatchNormalization whose statistics could be updated; what was "
            "folded into the layer before has none"
        )


def _check_stored(model: ModelProto, trained: set[tuple[str, str]]) -> None:
    """Refuse weights that no trained value can be written to, before hours of training."""
    for (scope, name), tensor in tensors_of(model).items():
        where = f"{scope}/{name}" if scope else name
        if isinstance(tensor, SparseTensorProto) and (scope, name) in trained:
            raise ModelError(f"the weight {where!r} is sparse: write its zeros out, and fine-tune")
        # Zero points, which a network for training has as well, have fewer axes.
        if isinstance(tensor, TensorProto) and tensor.data_type in _NARROW and len(tensor.dims) > 1:
            raise ModelError(
                f"the weight {where!r} is quantised: fine-tune the model, and quantise the result"
            )


def _normalises(model: ModelProto) -> bool:
    """Tell whether a model holds a BatchNorm."""
    nodes = (node for graph in every_graph(model) for node in graph.node)
    return any(node.op_type == "BatchNormalization" for node in nodes)
