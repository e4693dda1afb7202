"""The ``onnx`` package's backend suite as the judge of the twin's operators.

Run as a program it prints each case that did not pass, of the operators named or of all; with
``--write FILE`` it writes the table of operators.
"""

import collections
import pickle
import re
import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TypeProto

from onnxfit.errors import UnsupportedOperator
from onnxfit.twin import registry
from onnxfit.twin.module import to_torch
from onnxfit.twin.tensors import from_numpy, to_numpy

# Their results are random, so that only shape and type can be compared.
RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
# NumPy computes what they expect in single precision, with a rounding error beyond the tolerance.
ROUGH = {"test_dft_inverse": 1e-6, "test_dft_inverse_opset19": 1e-6}
DROPPED = re.compile(r"test_training_dropout(?!.*zero_ratio)")


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
        # The suite allows two units in the last place of bfloat16.
        rtol = max(case.rtol, 2**-6) if expected.dtype.name == "bfloat16" else case.rtol
        np.testing.assert_allclose(
            expected.astype(np.float32), array.astype(np.float32), rtol=rtol, atol=case.atol
        )
    else:
        atol = ROUGH.get(case.name, case.atol)
        np.testing.assert_allclose(expected, array, rtol=case.rtol, atol=atol)


def is_random(case: Any) -> bool:
    """Tell whether each run of a case has another result."""
    drawn = any(op_type in RANDOM for _, op_type in operators(case.model.graph))
    return drawn or DROPPED.match(case.name) is not None


def with_initializers(case: Any) -> list[Any]:
    """Return a case's model with all inputs but the first as initializers, and the input left.

    What a file holds is often treated otherwise than what a call brings.
    """
    graph = case.model.graph
    inputs = list(zip(case.data_sets[0][0], graph.input, strict=True))
    tensors = [v.type.WhichOneof("value") == "tensor_type" for _, v in inputs]
    changed = onnx.ModelProto()
    changed.CopyFrom(case.model)
    for (value, described), is_tensor in zip(inputs[1:], tensors[1:], strict=True):
        if is_tensor:
            array = np.asarray(value)
            tensor = value if isinstance(value, onnx.TensorProto) else as_tensor(array, described)
            tensor.name = described.name
            changed.graph.initializer.append(tensor)
    kept = [p for index, p in enumerate(inputs) if index == 0 or not tensors[index]]
    del changed.graph.input[:]
    changed.graph.input.extend(described for _, described in kept)
    return [changed, [value for value, _ in kept]]


def as_tensor(array: Any, described: onnx.ValueInfoProto) -> onnx.TensorProto:
    """Write an array of the suite as a tensor of the type that its input declares."""
    if described.type.tensor_type.elem_type == onnx.TensorProto.STRING:
        texts: Any = [str(text).encode() for text in array.ravel()]
        return onnx.helper.make_tensor("", onnx.TensorProto.STRING, array.shape, texts)
    return onnx.numpy_helper.from_array(array)


def run(case: Any) -> None:
    """Compute a case with the twin and compare its outputs, as it is and with initializers."""
    random = is_random(case)
    for inputs, outputs in case.data_sets:
        run_once(case, case.model, inputs, outputs, random)
    if len(case.model.graph.input) > 1:
        model, inputs = with_initializers(case)
        run_once(case, model, inputs, case.data_sets[0][1], random)


def run_once(case: Any, model: onnx.ModelProto, inputs: Any, outputs: Any, random: bool) -> None:
    """Compute a model with the twin, its code after a trip through pickle, and compare."""
    graph = model.graph
    twin = to_torch(model)
    twin._program = pickle.loads(pickle.dumps(twin._program))  # noqa: S301
    given = [carried(value, v.type) for value, v in zip(inputs, graph.input, strict=True)]
    found = twin(*given)
    found = found if isinstance(found, tuple) else (found,)
    for value, expected, described in zip(found, outputs, graph.output, strict=True):
        compare(expected, value, described.type, case, random)


@cache
def outcome(name: str) -> str:
    """Return ``passed``, ``unsupported: …``, or what went wrong in a case."""
    try:
        run(cases()[name])
    except UnsupportedOperator as error:
        return f"unsupported: {full_name(error.domain, error.op_type)}: {error.reason}"
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}"
    return "passed"


def full_name(domain: str, op_type: str) -> str:
    """Name an operator, with its domain where it is not ONNX's own."""
    return f"{domain}::{op_type}" if domain else op_type


@dataclass
class Operator:
    """What the suite says of an operator.

    Attributes:
        passed: How many of the cases that are about it the twin passes.
        cases: How many there are.
        refused: The reasons for which the others are refused.
    """

    passed: int = 0
    cases: int = 0
    refused: set[str] = field(default_factory=set)

    @property
    def supported(self) -> bool:
        """Every case passes."""
        return 0 < self.cases == self.passed


def by_operator() -> dict[str, Operator]:
    """Run the suite and tell of each operator how it did.

    A case is about the operator that its name and its only node are of; the expanded form of a
    case, in which other operators define one, is about all of those.
    """
    found: dict[str, Operator] = {}
    for name, case in cases().items():
        result = outcome(name)
        for key in operators(case.model.graph):
            operator = found.setdefault(full_name(*key), Operator())
            if "_expanded" in name and not result.startswith(f"unsupported: {full_name(*key)}:"):
                continue  # Counted where the case is not expanded.
            operator.cases += 1
            operator.passed += result == "passed"
            if result.startswith("unsupported"):
                operator.refused.add(result.removeprefix("unsupported: "))
    return {name: operator for name, operator in found.items() if operator.cases}


def table() -> str:
    """Describe the operators that the twin computes, as Markdown."""
    found = by_operator()
    supported = [name for name, operator in found.items() if operator.supported]
    passed = sum(outcome(name) == "passed" for name in cases())
    converters: dict[str, list[int]] = {}
    for domain, op_type, version in registry.supported():
        converters.setdefault(full_name(domain, op_type), []).append(version)
    lines = [
        "# Operators of the twin",
        "",
        "Written by `python tests/backend_suite.py --write docs/operators.md`; a test compares it",
        "with what the backend suite of the `onnx` package says today.",
        "",
        f"Of the suite's {len(found)} operators **{len(supported)}** pass every case, and of its "
        f"{len(cases())} cases {passed} pass. Every other case raises",
        "`onnxfit.errors.UnsupportedOperator`, which names node, operator, version and domain: the",
        "twin computes an operator as the specification says, or refuses it. Tolerances are the",
        f"suite's own, but for {' and '.join(f'`{name}`' for name in ROUGH)}:",
        "what these expect has a rounding error of its own that is larger, so 1e-6 is allowed.",
        "Each case is run twice, with all inputs given and with all but the first in the file.",
        "",
        "Versions are those of the operator's domain at which a converter takes over from the one",
        'before; "by definition" means that the operator is computed as the function which the',
        f"specification gives for it. Opsets 7 to {registry.NEWEST['']} are read.",
        "",
        "| operator | converters, from version | cases passed | refused |",
        "|---|---|---|---|",
    ]
    for name in sorted(found, key=lambda name: ("::" in name, name)):
        operator = found[name]
        versions = ", ".join(map(str, converters.get(name, [])))
        if not versions:
            versions = "by definition" if operator.passed else "–"
        reasons = "; ".join(sorted(operator.refused))
        lines.append(f"| {name} | {versions} | {operator.passed} of {operator.cases} | {reasons} |")
    others = sorted(set(converters) - set(found), key=lambda name: ("::" in name, name))
    lines += [
        "",
        "## Beyond the suite",
        "",
        "Compared with ONNX Runtime by the tests of their family: older operators, those of",
        "`ai.onnx.ml` that tabular classifiers are made of, and those that ONNX Runtime's",
        "optimiser and quantiser write.",
        "",
        ", ".join(f"`{name}`" for name in others) + ".",
    ]
    return "\n".join(lines) + "\n"


def main(wanted: list[str]) -> None:
    """Print each case that did not pass, of some operators or of all, or write the table."""
    if wanted[:1] == ["--write"]:
        Path(wanted[1]).write_text(table(), encoding="utf-8")
        return
    tally: collections.Counter[str] = collections.Counter()
    for name, case in cases().items():
        used = {full_name(*key) for key in operators(case.model.graph)}
        if wanted and not used & set(wanted):
            continue
        result = outcome(name)
        tally[result.partition(":")[0]] += 1
        if result != "passed":
            print(f"{name} [{', '.join(sorted(used))}]: {' '.join(result.split())[:300]}")
    print(dict(tally))


if __name__ == "__main__":
    main(sys.argv[1:])
