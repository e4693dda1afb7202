"""Put what was trained in the twin back into the ONNX file."""

from functools import reduce
from pathlib import Path

import onnx
import torch
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto

from onnxfit.element_types import function_scope, subgraphs
from onnxfit.errors import ModelError
from onnxfit.files import as_model, folder_of
from onnxfit.twin.module import Twin
from onnxfit.twin.tensors import dense_tensor, to_numpy, to_tensor

# What holds a weight in a file; an attribute does as its list of floats.
Stored = TensorProto | onnx.SparseTensorProto | AttributeProto


def write_back(
    model: ModelProto | str | Path, twin: torch.nn.Module, base_dir: str | Path | None = None
) -> ModelProto:
    """Return a model with the twin's parameters in the place of its own.

    A tensor that the twin still has as it is in the file stays there byte for byte, in external
    data too; what changed is written into the model, in the type it has there. Nothing else
    changes: no node is added, a BatchNorm that was folded into a convolution stays folded. Jump
    sizes are the business of :func:`onnxfit.retrofit` and stay as well.

    Args:
        model: The model that the twin was made from, which stays untouched, or its path.
        twin: What :func:`onnxfit.to_torch` made of it, on any device and of any type; what
            ``torch.compile`` made of that will do, and so will parametrized weights.
        base_dir: Folder of the external data; by default that of the path.

    Raises:
        ModelError: The twin was made from another model, or a parameter is no longer finite.
        TypeError: It is no twin.
    """
    twin = unwrapped(twin)
    if not isinstance(twin, Twin):
        raise TypeError(f"write_back takes what to_torch returned, got {type(twin).__name__}")
    proto = as_model(model)
    folder = folder_of(model, base_dir)
    changed = ModelProto()
    changed.CopyFrom(proto)
    tensors = tensors_of(changed)
    for path, place in twin.weight_names.items():
        target = tensors.get(place)
        where = f"the tensor {place[1]!r}" + (f" of {place[0]!r}" if place[0] else "")
        if target is None:
            raise ModelError(f"{where}, a weight of the twin, is not in the model")
        value = tensor_at(twin, path)
        if isinstance(target, onnx.SparseTensorProto):
            if not _same(dense_tensor(target, folder), value):
                raise ModelError(f"{where} is sparse and cannot be written back")
        elif isinstance(target, AttributeProto):
            tensor = onnx.helper.make_tensor(
                place[1], TensorProto.FLOAT, [len(target.floats)], target.floats
            )
            if _write(tensor, value, where, folder):
                target.floats[:] = onnx.numpy_helper.to_array(tensor).tolist()
        else:
            _write(target, value, where, folder)
    return changed


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module that ``torch.compile`` was given, or the module itself."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, torch.nn.Module) else module


def tensor_at(module: torch.nn.Module, path: str) -> torch.Tensor:
    """Return a weight of a twin as it computes with it, parametrized or not."""
    tensor: torch.Tensor = reduce(getattr, path.split("."), module)
    return tensor.detach().cpu()


def _write(target: TensorProto, value: torch.Tensor, where: str, folder: Path | None) -> bool:
    """Write a value into a tensor of the file; return False where it is there already."""
    if tuple(target.dims) != tuple(value.shape):
        raise ModelError(
            f"{where} has the shape {tuple(target.dims)}, in the twin {tuple(value.shape)}"
        )
    before = to_tensor(target, folder)
    if _same(before, value):
        return False
    value = value.to(before.dtype)
    lost = ~torch.isfinite(value) & torch.isfinite(before)
    if lost.any():
        raise ModelError(f"{where} is not finite in the twin, in {int(lost.sum())} elements")
    written = onnx.numpy_helper.from_array(to_numpy(value, target.data_type))
    kept = TensorProto(name=target.name, doc_string=target.doc_string)
    kept.metadata_props.extend(target.metadata_props)
    target.CopyFrom(kept)
    target.MergeFrom(TensorProto(data_type=written.data_type, raw_data=written.raw_data))
    target.dims.extend(value.shape)
    return True


def _same(before: torch.Tensor, value: torch.Tensor) -> bool:
    """Tell whether a value is what the file holds, in the type that the twin has by now.

    Zeros of different signs differ, a NaN is like any other.
    """
    before = before.to(value.dtype)
    if before.shape != value.shape:
        return False
    equal = (before == value) & (torch.signbit(before) == torch.signbit(value))
    return bool((equal | (before.isnan() & value.isnan())).all())


def tensors_of(model: ModelProto) -> dict[tuple[str, str], Stored]:
    """Return the tensors of a model by scope and name, those of Constant nodes included."""
    found: dict[tuple[str, str], Stored] = {}
    graphs: list[tuple[str, GraphProto | FunctionProto]] = [("", model.graph)]
    graphs += [(function_scope(function), function) for function in model.functions]
    for scope, graph in graphs:
        if isinstance(graph, GraphProto):
            found.update(((scope, tensor.name), tensor) for tensor in graph.initializer)
            found.update(((scope, s.values.name), s) for s in graph.sparse_initializer)
        for node in graph.node:
            graphs += subgraphs(node, scope)
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.type == AttributeProto.TENSOR:
                    found[scope, node.output[0]] = attribute.t
                elif attribute.type == AttributeProto.SPARSE_TENSOR:
                    found[scope, node.output[0]] = attribute.sparse_tensor
                elif attribute.type == AttributeProto.FLOATS:
                    found[scope, node.output[0]] = attribute
    return found
