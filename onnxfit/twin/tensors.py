"""From the tensors of a file to PyTorch's and back.

PyTorch has no arithmetic for some types of ONNX. The twin carries them so:

===========================  ====================================================
string                       NumPy array of ``str`` objects
int4, int2 (uint4, uint2)    ``torch.int8`` (``torch.uint8``), values in range
float4e2m1                   ``torch.float32``, values of that type
every other type             the ``torch.dtype`` of its name
===========================  ====================================================
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from onnxfit.errors import ModelError
from onnxfit.external_data import read_inside

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.FLOAT8E8M0: torch.float8_e8m0fnu,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT2: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.FLOAT4E2M1: torch.float32,
}
# The types that ONNX Runtime and the twin both give out as arrays of NumPy's own types.
COMPARABLE = {
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
}
# Of the carried types, those that NumPy knows through ml_dtypes and PyTorch reads bit by bit.
_BY_BITS: dict[int, Any] = {
    TensorProto.BFLOAT16: np.int16,
    TensorProto.FLOAT8E4M3FN: np.uint8,
    TensorProto.FLOAT8E4M3FNUZ: np.uint8,
    TensorProto.FLOAT8E5M2: np.uint8,
    TensorProto.FLOAT8E5M2FNUZ: np.uint8,
    TensorProto.FLOAT8E8M0: np.uint8,
}
_NARROW: dict[int, Any] = {
    TensorProto.UINT4: np.uint8,
    TensorProto.INT4: np.int8,
    TensorProto.UINT2: np.uint8,
    TensorProto.INT2: np.int8,
    TensorProto.FLOAT4E2M1: np.float32,
}


def to_tensor(proto: TensorProto, folder: Path | None = None) -> Any:
    """Read a tensor of a file.

    Args:
        proto: The tensor.
        folder: Where its external data lies.

    Returns:
        A tensor with memory of its own; for strings an array of objects.

    Raises:
        ModelError: The tensor has external data and no folder is known, or it cannot be read.
    """
    try:
        array = onnx.numpy_helper.to_array(_inside(proto, folder))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ModelError(f"the tensor {proto.name!r} cannot be read: {error}") from error
    return from_numpy(array, proto.data_type)


def _inside(proto: TensorProto, folder: Path | None) -> TensorProto:
    """Return a tensor that holds its data.

    Raises:
        ModelError, OSError: As in :func:`read_inside`, or no folder is known.
    """
    if proto.data_location != TensorProto.EXTERNAL:
        return proto
    if folder is None:
        raise ModelError(
            f"the weights of {proto.name!r} are in another file; give base_dir, its folder"
        )
    # onnx reads no file of two names, which hardened models in other folders have.
    held = TensorProto()
    held.CopyFrom(proto)
    read_inside(held, folder)
    return held


def dense_tensor(sparse: onnx.SparseTensorProto, folder: Path | None) -> torch.Tensor:
    """Write a sparse tensor out."""
    values, indices = to_tensor(sparse.values, folder), to_tensor(sparse.indices, folder)
    dense = torch.zeros(tuple(sparse.dims), dtype=values.dtype)
    if indices.dim() == 1:
        dense.view(-1)[indices] = values
    else:
        dense[tuple(indices.t())] = values
    return dense


def from_numpy(array: NDArray[Any], element_type: int) -> Any:
    """Turn an array of an ONNX type into what the twin carries for it, with memory of its own."""
    if element_type == TensorProto.STRING:
        decoded = [s.decode() if isinstance(s, bytes) else str(s) for s in array.ravel()]
        return np.array(decoded, dtype=object).reshape(array.shape)
    if element_type in _BY_BITS:
        bits = np.array(array, order="C").view(_BY_BITS[element_type])
        return torch.from_numpy(bits).view(DTYPES[element_type])
    if element_type in _NARROW:
        array = array.astype(_NARROW[element_type])
    # NumPy has two types of 64 bits of the same name, and PyTorch reads one of them.
    return torch.from_numpy(array.astype(np.dtype(array.dtype.name), order="C"))


def to_numpy(value: Any, element_type: int) -> NDArray[Any]:
    """Turn what the twin carries for an ONNX type into an array of that type."""
    if isinstance(value, np.ndarray):
        return value
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element_type)
    value = value.detach().cpu()
    if element_type in _BY_BITS:
        integer = torch.int16 if value.dtype == torch.bfloat16 else torch.uint8
        bits = value.contiguous().view(integer)
        array: NDArray[Any] = bits.numpy().view(dtype)
        return array
    converted: NDArray[Any] = value.numpy().astype(dtype)
    return converted
