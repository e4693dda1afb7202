"""Fourier transforms, windows and the mel scale of the twin, beside ONNX Runtime."""

import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, parse  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

rng = np.random.default_rng(0)
REAL = rng.standard_normal((2, 6, 5, 1)).astype(np.float32)
COMPLEX = rng.standard_normal((2, 6, 5, 2)).astype(np.float32)


def transform(opset: int, axis: int, attributes: str, length: int | None) -> Any:
    """Write a model of one DFT, whose axis is an attribute before opset 20 and an input since."""
    inputs = ["x", *(["n"] if length else [])]
    if opset >= 20:
        inputs = ["x", "n" if length else '""', "a"]
    attributes += "" if opset >= 20 else f", axis={axis}"
    return parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[A, B, C, D] x) => (float y)'
        f" <int64 n = {{{length or 0}}}, int64 a = {{{axis}}}>"
        f" {{ y = DFT <{attributes}> ({', '.join(inputs)}) }}"
    )


@pytest.mark.parametrize("opset", [17, 19, 20])
@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("length", [None, 4, 10])
@pytest.mark.parametrize(
    ("x", "attributes"),
    [
        (REAL, "inverse=0"),
        (COMPLEX, "inverse=0"),
        (REAL, "onesided=1"),
        (REAL, "inverse=1"),
        (COMPLEX, "inverse=1"),
    ],
)
def test_dft_agrees(x: Any, attributes: str, length: int | None, axis: int, opset: int) -> None:
    """Transforms and their inverses, cut off and filled up, along any axis."""
    agrees(transform(opset, axis, attributes, length), x)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("length", [None, 11])
def test_one_sided_inverse_agrees(length: int | None, opset: int) -> None:
    """The inverse of a one-sided transform is real."""
    agrees(transform(opset, 1, "inverse=1, onesided=1", length), COMPLEX)


@pytest.mark.parametrize("inputs", ["(x, step, w)", '(x, step, "", size)', "(x, step, w, size)"])
@pytest.mark.parametrize(("parts", "onesided"), [(1, 0), (1, 1), (2, 0)])
def test_stft_agrees(parts: int, onesided: int, inputs: str) -> None:
    """Frames of a signal, with a window or without."""
    agrees(
        '<ir_version: 8, opset_import: ["": 17]> g (float[A, B, C] x, float[6] w) => (float y)'
        f" <int64 step = {{3}}, int64 size = {{6}}> {{ y = STFT <onesided={onesided}> {inputs} }}",
        rng.standard_normal((2, 20, parts)).astype(np.float32),
        rng.random(6).astype(np.float32),
    )


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("size", [1, 2, 10, 11])
def test_windows_agree(op: str, periodic: int, size: int) -> None:
    """Windows of a length that only a call knows, the empty angle of a single number too."""
    agrees(
        f'<ir_version: 8, opset_import: ["": 17]> g (int64 n) => (float y, double z)'
        f" {{ y = {op} <periodic={periodic}> (n)"
        f" z = {op} <periodic={periodic}, output_datatype=11> (n) }}",
        np.array(size),
    )


@pytest.mark.parametrize(
    ("bands", "length", "rate", "lower", "upper"),
    [(8, 16, 8192, 0, 4096), (10, 64, 16000, 20, 8000), (128, 256, 16000, 0, 8000)],
)
def test_mel_weight_matrix_agrees(
    bands: int, length: int, rate: int, lower: float, upper: float
) -> None:
    """Triangles of each band, narrow ones of a single bin too."""
    agrees(
        '<ir_version: 8, opset_import: ["": 17]> g (int64 bands) => (float y)'
        f" <int64 length = {{{length}}}, int64 rate = {{{rate}}}, float lower = {{{lower}.0}},"
        f" float upper = {{{upper}.0}}>"
        " { y = MelWeightMatrix (bands, length, rate, lower, upper) }",
        np.array(bands),
    )


@pytest.mark.parametrize("attributes", ["inverse=0", "inverse=1", "onesided=1"])
def test_transforms_have_gradients(attributes: str) -> None:
    """Gradients of both parts are right."""
    x = REAL if "onesided" in attributes else COMPLEX
    twin = to_torch(transform(20, 1, attributes, 8))
    assert torch.autograd.gradcheck(twin, torch.from_numpy(x).double().requires_grad_())


def test_half_precision_follows() -> None:
    """A transform and a window of a twin made half are half, computed in float32."""
    twin = to_torch(
        parse(
            '<ir_version: 8, opset_import: ["": 17]> g (float[A, B, C] x) => (float y)'
            " <int64 step = {3}, int64 size = {6}>"
            " { w = HannWindow (size) y = STFT (x, step, w) }"
        )
    )
    x = torch.from_numpy(REAL[:, :, :, 0].reshape(2, 30, 1))
    expected = twin(x)
    found = twin.half()(x.half())
    assert torch.float16 == found.dtype
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_what_is_refused() -> None:
    """Windows of integers, and transforms on which specification and runtime differ."""
    integers = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (int64 n) => (int32 y)'
        " { y = HannWindow <output_datatype=6> (n) }"
    )
    with pytest.raises(UnsupportedOperator, match="integers would be rounded differently"):
        to_torch(integers)
    twin = to_torch(transform(17, 1, "inverse=1, onesided=1", 4))
    reason = "4 values have no one-sided transform of 6"
    with pytest.raises(ModelError, match=f"{re.escape(reason)}$"):
        twin(torch.from_numpy(COMPLEX))
    with pytest.raises(ModelError, match=r"a complex signal has no one-sided transform$"):
        to_torch(transform(17, 1, "onesided=1", None))(torch.from_numpy(COMPLEX))
