"""Put what was trained in the twin back into the ONNX file."""

from pathlib import Path

import onnx
import torch
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto

from onnxfit.element_types import function_scope, subgraphs
from onnxfit.errors import ModelError
from onnxfit.files import as_model, folder_of
from onnxfit.twin.module import Twin
from onnxfit.twin.tensors import dense_tensor, to_numpy, to_tensor


def write_back(
    model: ModelProto | str | Path, twin: Twin, base_dir: str | Path | None = None
) -> ModelProto:
    """Return a model with the twin's parameters in the place of its own.

    A tensor that the twin still has as it is in the file stays there byte for byte, in external
    data too; what changed is written into the model, in the type it has there. Nothing else
    changes: no node is added, a BatchNorm that was folded into a convolution stays folded. Jump
    sizes are the business of :func:`onnxfit.retrofit` and stay as well.

    Args:
        model: The model that the twin was made from, which stays untouched, or its path.
        twin: What :func:`onnxfit.to_torch` made of it, on any device and of any type.
        base_dir: Folder of the external data; by default that of the path.

    Raises:
        ModelError: The twin was made from another model, or a parameter is no longer finite.
    """
    proto = as_model(model)
    folder = folder_of(model, base_dir)
    changed = ModelProto()
    changed.CopyFrom(proto)
    tensors = _tensors(changed)
    state = dict(twin.named_parameters()) | dict(twin.named_buffers())
    for path, place in twin.weight_names.items():
        target = tensors.get(place)
        where = f"the tensor {place[1]!r}" + (f" of {place[0]!r}" if place[0] else "")
        if target is None:
            raise ModelError(f"{where}, a weight of the twin, is not in the model")
        if isinstance(target, onnx.SparseTensorProto):
            if not _same(dense_tensor(target, folder), state[path]):
                raise ModelError(f"{where} is sparse and cannot be written back")
            continue
        _write(target, state[path].detach().cpu(), where, folder)
    return changed


def _write(target: TensorProto, value: torch.Tensor, where: str, folder: Path | None) -> None:
    """Write a value into a tensor of the file, unless it is there already."""
    if tuple(target.dims) != tuple(value.shape):
        raise ModelError(
            f"{where} has the shape {tuple(target.dims)}, in the twin {tuple(value.shape)}"
        )
    before = to_tensor(target, folder)
    if _same(before, value):
        return
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


def _same(before: torch.Tensor, value: torch.Tensor) -> bool:
    """Tell whether a value is what the file holds, in the type that the twin has by now."""
    return torch.equal(
        torch.nan_to_num(before.to(value.dtype)), torch.nan_to_num(value.detach().cpu())
    )


def _tensors(model: ModelProto) -> dict[tuple[str, str], TensorProto | onnx.SparseTensorProto]:
    """Return the tensors of a model by scope and name, those of Constant nodes included."""
    found: dict[tuple[str, str], TensorProto | onnx.SparseTensorProto] = {}
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
    return found
