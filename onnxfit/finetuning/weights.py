"""What a model must be for its weights to be trained, and which of its parameters these are."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto

from onnxfit.element_types import function_scope
from onnxfit.errors import ModelError
from onnxfit.finetuning.roles import Place, Roles, roles_of
from onnxfit.op import is_our_function
from onnxfit.rewrites import unrewritten
from onnxfit.twin.classifier import Classifier
from onnxfit.twin.ops.cast import FLOATS
from onnxfit.twin.tensors import to_tensor
from onnxfit.twin.write_back import tensors_of
from onnxfit.verification.target import Target

# What quantised weights are stored in.
_NARROW = (
    *(TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4),
    *(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2),
)
# What is added to the scores of an attention so that none of a key is left.
_HIDDEN = -50.0
_CONVERT = "fine-tune the model in float32, and convert the result"


class Choice(NamedTuple):
    """What a training leaves as it is, by name.

    Attributes:
        fixed: Floating-point tensors of the file, Constant nodes' as well, sorted.
        untrained: Those of them that a layer reads as a weight that has no other in it, sorted.
    """

    fixed: list[str]
    untrained: list[str]


def choose_weights(target: Target, *, statistics: bool) -> Choice:
    """Let gradients reach the weights of a model that a training moves, and nothing else.

    Args:
        target: The model, whose twin's parameters are told whether they require gradients.
        statistics: Whether those of a BatchNorm are to follow the data.

    Returns:
        The names of what keeps its value.

    Raises:
        ModelError: It has no weights, one is quantised or sparse, or not all are float32; or it has
            no BatchNorm, or one whose statistics are a weight as well or not float32.
    """
    twin = target.classifier.twin
    roles = roles_of(target.classifier.model)
    parameters = {twin.weight_names[name]: p for name, p in twin.named_parameters()}
    trained = {
        place: parameter
        for place, parameter in parameters.items()
        if place in roles.weights and not _is_mask(parameter)
    }
    _check_stored(target, roles, trained.keys())
    if not trained:
        raise ModelError("the model has no floating-point weight that could be trained")
    for place, weight in trained.items():
        if weight.dtype != torch.float32:
            raise ModelError(f"the weight {_named(place)!r} is {_type(weight.dtype)}: {_CONVERT}")
    if target.classifier.dtype != torch.float32:
        raise ModelError(f"the input of the model is {_type(target.classifier.dtype)}: {_CONVERT}")
    if statistics:
        _check_statistics(target.model, roles.statistics, parameters)
    for place, parameter in parameters.items():
        parameter.requires_grad_(place in trained)
    untrained = [read & parameters.keys() for read in roles.operands if not read & trained.keys()]
    moved = {*trained, *(roles.statistics if statistics else ())}
    return Choice(
        fixed=sorted(_named(place) for place in _floating(target.model) if place not in moved),
        untrained=sorted(_named(place) for place in set().union(*untrained)),
    )


def statistics_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers of a module that BatchNorms of its classifiers read as mean or variance.

    Returns:
        They themselves, by their names in the module.
    """
    names: set[str] = set()
    for name, part in module.named_modules():
        if isinstance(part, Classifier):
            statistics = roles_of(part.model).statistics
            prefix = f"{name}.twin" if name else "twin"
            places = part.twin.weight_names.items()
            names |= {f"{prefix}.{path}" for path, place in places if place in statistics}
    return {name: buffer for name, buffer in module.named_buffers() if name in names}


def _is_mask(values: torch.Tensor) -> bool:
    """Tell whether a tensor leaves something out: of 0 and 1, or added to scores.

    Infinities, which have no average, are of a mask, and so is a number that leaves nothing of the
    exponential function beside 0.
    """
    if not values.isfinite().all():
        return True
    if not values.numel():
        return False
    low, high = (value.item() for value in values.aminmax())
    if not ((values == low) | (values == high)).all():
        return False
    return (low, high) == (0, 1) or (low <= _HIDDEN and high == 0)


def _floating(model: ModelProto) -> Iterator[Place]:
    """Name the floating-point tensors of a file; the numbers of a JumpReLU are none of its own."""
    found = unrewritten(model)
    ours = {function_scope(f) for f in found.functions if is_our_function(f)}
    for (scope, name), tensor in tensors_of(found).items():
        stored = tensor.values if isinstance(tensor, SparseTensorProto) else tensor
        is_floating = isinstance(stored, AttributeProto) or stored.data_type in FLOATS
        if is_floating and scope not in ours:
            yield scope, name


def _check_stored(target: Target, roles: Roles, trained: Collection[Place]) -> None:
    """Refuse weights that no trained value can be written to, before hours of training."""
    operands = roles.weights.intersection(frozenset().union(*roles.operands))
    for place, tensor in tensors_of(target.model).items():
        where = _named(place)
        if isinstance(tensor, SparseTensorProto) and place in trained:
            raise ModelError(f"the weight {where!r} is sparse: write its zeros out, and fine-tune")
        # Zero points, which a network for training has as well, have fewer axes.
        if (
            isinstance(tensor, TensorProto)
            and tensor.data_type in _NARROW
            and len(tensor.dims) > 1
            and place in operands
            and not _is_mask(to_tensor(tensor, target.folder).float())
        ):
            raise ModelError(
                f"the weight {where!r} is quantised: fine-tune the model, and quantise the result"
            )


def _check_statistics(
    model: ModelProto, statistics: Collection[Place], parameters: Collection[Place]
) -> None:
    """Refuse statistics that cannot follow the data."""
    if not statistics:
        raise ModelError(
            "the model has no BatchNormalization whose statistics could be updated; what was "
            "folded into the layer before has none"
        )
    for place, tensor in tensors_of(model).items():
        # What is converted for each batch learns nothing of it.
        number = getattr(tensor, "data_type", TensorProto.FLOAT)
        if place in statistics and number != TensorProto.FLOAT:
            raise ModelError(f"the statistic {_named(place)!r} is not float32: {_CONVERT}")
    for place in parameters:
        if place in statistics:
            raise ModelError(
                f"{_named(place)!r} is a statistic of a BatchNormalization and has another use as "
                "well: give each its own tensor, or leave the statistics as they are"
            )


def _named(place: Place) -> str:
    """Return the name of a tensor with the graph or function that holds it in front."""
    return "/".join(part for part in place if part)


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
