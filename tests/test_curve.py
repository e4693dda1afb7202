"""Robust accuracy over eps."""

from typing import Any

import numpy as np
import onnx
import pytest
from support import MODELS, parse

import onnxfit
from onnxfit.data import Batch

torch = pytest.importorskip("torch")

from onnxfit.attacks.surrogates import scales_of  # noqa: E402
from onnxfit.verification.curve import GRID, Curve  # noqa: E402
from onnxfit.verification.suites import Threat  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402


def linear() -> Target:
    """Make a classifier of two pixels: the brighter one is the class."""
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
    return Target(parse(text + "{ y = Identity(x) }"))


def test_the_counts_are_those_of_the_distances() -> None:
    """A linear classifier breaks where half the gap is less than eps, and nowhere else."""
    gaps = np.array([0.03, 0.07, 0.11, 0.17, 0.25, 0.35, 0.47, 0.7], np.float32)
    x = np.stack([0.5 + gaps / 2, 0.5 - gaps / 2], 1).astype(np.float32)
    y = np.zeros(len(x), np.int64)
    eps = 0.1
    curve = Curve(Threat(eps=eps), jumps=False, scales={})
    right = np.ones(len(x), bool)
    robust = gaps / 2 > eps
    counts = curve.measure(linear(), Batch(x, y), right, robust, robust)
    curve.add(counts)
    expected = [8, *(int((gaps / 2 > share * eps).sum()) for share in GRID)]
    assert expected == curve.robust.tolist()
    assert expected == curve.native.tolist()
    curve.add(counts)
    assert [2 * count for count in expected] == curve.robust.tolist()


def test_wrong_samples_are_right_nowhere() -> None:
    """What the file misclassifies counts at no eps."""
    x = np.array([[0.2, 0.8], [0.9, 0.1]], np.float32)
    y = np.zeros(2, np.int64)
    right = np.array([False, True])
    curve = Curve(Threat(eps=0.1), jumps=False, scales={})
    curve.add(curve.measure(linear(), Batch(x, y), right, right, right))
    assert [1] * (1 + GRID.index(2.0) + 1) == curve.robust.tolist()[: GRID.index(2.0) + 2]


def test_surrogates_lower_the_worst_case_alone() -> None:
    """Below the eps of the gate too, the jump hides from native gradients and not from these."""
    model = onnxfit.retrofit(onnx.load(MODELS / "digits_cnn.onnx"), 1.0)
    target = Target(model)
    with np.load(MODELS / "digits_test.npz") as data:
        x, y = data["x"][:40], data["y"][:40]
    right = target.predictions(x) == y
    broken: Any = np.zeros(len(x), bool)
    curve = Curve(Threat(eps=0.1), jumps=True, scales=scales_of(target.twin, torch.from_numpy(x)))
    curve.add(curve.measure(target, Batch(x, y), right, broken, broken))
    at = 1 + GRID.index(0.75)
    assert curve.robust[at] <= curve.native[at] - 3
    assert (np.diff(curve.native[:at]) <= 0).all()
    assert (curve.robust <= curve.native).all()
