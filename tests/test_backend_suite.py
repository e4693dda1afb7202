"""The ``onnx`` package's backend suite as the judge of the twin's operators."""

import collections
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TypeProto

torch = pytest.importorskip("torch")

from onnxfit.errors import UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402
from onnxfit.twin.tensors import from_numpy, to_numpy  # noqa: E402

# Their results are random, so that only shape and type can be compared.
RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@cache
def cases() -> dict[str, Any]:
    """Collect the suite's cases on single operators and functions, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


def operators(graph: onnx.GraphProto) -> set[tuple[str, str]]:
    """Return domain and name of the operators in a graph."""
    found = set()
    for node in graph.node:
        found.add((node.domain, node.op_type))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= operators(attribute.g)
    return found


def carried(value: Any, type_proto: TypeProto) -> Any:
    """Turn a value of the suite into what the twin carries for it."""
    kind = type_proto.WhichOneof("value")
    if kind == "optional_type":
        return None if value is None else carried(value, type_proto.optional_type.elem_type)
    if kind == "sequence_type":
        return [carried(item, type_proto.sequence_type.elem_type) for item in value]
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    return from_numpy(np.asarray(value), type_proto.tensor_type.elem_type)


def compare(expected: Any, found: Any, type_proto: TypeProto, case: Any, random: bool) -> None:
    """Compare an output as the suite's own runner does."""
    kind = type_proto.WhichOneof("value")
    if kind == "optional_type" and expected is None:
        assert found is None
        return
    if kind == "optional_type":
        compare(expected, found, type_proto.optional_type.elem_type, case, random)
        return
    if kind == "sequence_type":
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            compare(one, other, type_proto.sequence_type.elem_type, case, random)
        return
    if isinstance(expected, onnx.TensorProto):
        expected = onnx.numpy_helper.to_array(expected)
    expected = np.asarray(expected)
    element_type = type_proto.tensor_type.elem_type
    carrier = from_numpy(expected, element_type)
    if isinstance(carrier, torch.Tensor):
        assert carrier.dtype == found.dtype
    array = to_numpy(found, element_type)
    assert expected.shape == array.shape
    if random:
        return
    if expected.dtype == object:
        assert [str(text) for text in expected.ravel()] == list(array.ravel())
    elif expected.dtype.kind not in "biufc":  # A type of ml_dtypes.
        np.testing.assert_allclose(
            expected.astype(np.float32), array.astype(np.float32), rtol=case.rtol, atol=case.atol
        )
    else:
        np.testing.assert_allclose(expected, array, rtol=case.rtol, atol=case.atol)


def run(case: Any) -> None:
    """Compute a case with the twin and compare its outputs."""
    graph = case.model.graph
    random = any(op_type in RANDOM for _, op_type in operators(graph))
    twin = to_torch(case.model)
    for inputs, outputs in case.data_sets:
        given = [carried(value, v.type) for value, v in zip(inputs, graph.input, strict=True)]
        found = twin(*given)
        found = found if isinstance(found, tuple) else (found,)
        for value, expected, described in zip(found, outputs, graph.output, strict=True):
            compare(expected, value, described.type, case, random)


def outcome(name: str) -> str:
    """Return ``passed``, ``unsupported: operator``, or what went wrong in a case."""
    try:
        run(cases()[name])
    except UnsupportedOperator as error:
        return f"unsupported: {error.domain}::{error.op_type}: {error.reason}"
    except Exception as error:  # noqa: BLE001
        return f"failed: {type(error).__name__}: {error}"
    return "passed"


if __name__ == "__main__":
    import sys

    wanted = sys.argv[1:]
    tally: collections.Counter[str] = collections.Counter()
    for name, case in cases().items():
        ops = {f"{d}::{o}" if d else o for d, o in operators(case.model.graph)}
        if wanted and not ops & set(wanted):
            continue
        result = outcome(name)
        tally[result.partition(":")[0]] += 1
        if result != "passed":
            print(f"{name} [{', '.join(sorted(ops))}]: {' '.join(result.split())[:300]}")
    print(dict(tally))
