"""Operators that mix the samples of a larger batch than the file's, unless care is taken."""

from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from twin_support import parse, runtime_outputs  # noqa: E402

from onnxfit.twin.module import to_torch  # noqa: E402

# Nodes from z to y, both of the shape [1, 4, 3].
MIXING = {
    "ScatterND": "y = ScatterND (z, rows, updates)",
    "ScatterND of whole samples": "y = ScatterND (z, first, whole)",
    "ScatterElements": "y = ScatterElements <axis = 1> (z, columns, column)",
    "Scatter": "y = Scatter <axis = 1> (z, columns, column)",
    "CumSum": "y = CumSum (z, axis)",
    "CumSum from behind": "y = CumSum (z, negative)",
    "MeanVarianceNormalization": "y = MeanVarianceNormalization <axes = [0, 1, 2]> (z)",
    "Einsum over samples": 'e = Einsum <equation = "bij->ij"> (z) y = Unsqueeze (e, axes)',
    "Einsum of two batches": """
        e = Einsum <equation = "bij,cij->bc"> (z, z) y = Add (z, e)""",
    "Einsum of samples that move": """
        e = Einsum <equation = "bij->ijb"> (z) y = Einsum <equation = "ijb->bij"> (e)""",
    "RNN over samples": """
        h = RNN <hidden_size = 3> (z, w, r) y = Squeeze (h, one)""",
    "Trilu": """
        t = Transpose <perm = [1, 0, 2]> (z) l = Trilu (t)
        y = Transpose <perm = [1, 0, 2]> (l)""",
    "EyeLike": """
        f = Flatten (z) e = EyeLike <dtype = 1> (f) s = Constant <value_ints = [1, 4, 3]> ()
        m = Reshape (e, s) y = Add (z, m)""",
    "Unique": "u = Unique (z) m = ReduceMax <keepdims = 0> (u) y = Mul (z, m)",
    "DynamicQuantizeLinear": """
        q, scale, zero = DynamicQuantizeLinear (z) y = DequantizeLinear (q, scale, zero)""",
    "GatherND": "e = GatherND (z, first) y = Add (z, e)",
    "GatherElements": "e = GatherElements <axis = 1> (z, columns) y = Add (z, e)",
    "Compress": "e = Compress <axis = 0> (z, yes) y = Add (z, e)",
}
CONSTANTS: dict[str, Any] = {
    "rows": np.array([[[0, 1], [0, 3]]]),
    "updates": np.full((1, 2, 3), 9, np.float32),
    "first": np.array([[0]]),
    "whole": np.full((1, 4, 3), 9, np.float32),
    "columns": np.array([[[0, 1, 2]]]),
    "column": np.full((1, 1, 3), 9, np.float32),
    "axis": np.array(0),
    "negative": np.array(-3),
    "axes": np.array([0]),
    "one": np.array([1]),
    "w": np.eye(3, dtype=np.float32)[None],
    "r": np.full((1, 3, 3), 0.5, np.float32),
    "yes": np.array([True]),
}


@pytest.mark.parametrize("name", MIXING)
def test_each_sample_gives_what_it_gives_alone(name: str) -> None:
    """The file is made for one sample; ONNX Runtime computes them one by one."""
    opset = 10 if name == "Scatter" else 17
    model = parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[1, 4, 3] x) => '
        f"(float[1, 4, 3] y) {{ z = Relu (x) {MIXING[name]} }}"
    )
    used = {value for node in model.graph.node for value in node.input}
    for key in sorted(used & set(CONSTANTS)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[key], key))
    x = np.random.default_rng(0).standard_normal((3, 4, 3)).astype(np.float32)
    expected = [runtime_outputs(model, sample[None])[0] for sample in x]
    twin = to_torch(model)
    for n in (1, 3):
        found = twin(torch.from_numpy(x[:n])).detach()
        np.testing.assert_allclose(np.concatenate(expected[:n]), found, rtol=1e-5, atol=1e-6)
