"""The oldest ONNX Runtime that is supported, with the library that was built here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import MODELS, ROOT

OLDEST = "1.20.1"

PROGRAM = f"""
import numpy as np, onnxruntime, onnxfit
from support import dtype_of, edge_values, plain_session, relu_model, run_one, same_bits, NAMES
from onnxfit.op import jump_relu, round_jump

assert onnxruntime.__version__ == "{OLDEST}", onnxruntime.__version__
for opset in (7, 9, 11, 12, 14, 15, 18, 21):
    for element_type, name in NAMES.items():
        if name == "bfloat16" and opset < 13:
            continue
        jump = round_jump(0.1, element_type)
        x = edge_values(element_type, jump)
        expected = jump_relu(x, np.array(jump).astype(x.dtype))
        for lowering in ("function", "custom", "standard"):
            hard = onnxfit.retrofit(relu_model(opset, name), 0.1, lowering=lowering)
            assert same_bits(expected, run_one(onnxfit.session(hard), x)), (opset, name, lowering)
            if lowering != "custom":
                assert same_bits(expected, run_one(plain_session(hard), x)), (opset, name)
network = onnxfit.retrofit("{MODELS}/digits_cnn.onnx", 0.5)
images = np.load("{MODELS}/digits_test.npz")["x"]
sessions = onnxfit.session(network), plain_session(network)
kernel, body = (session.run(None, {{"image": images}})[0] for session in sessions)
assert same_bits(kernel, body)
print("ok")
"""


@pytest.mark.slow
def test_kernels_and_function_bodies_run_in_the_oldest_runtime(tmp_path: Path) -> None:
    """Bit for bit over types, opsets and lowerings, and on a trained network."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    got = subprocess.run(
        [*pip, str(tmp_path), f"onnxruntime=={OLDEST}"], check=False, capture_output=True
    )
    if got.returncode:
        pytest.skip(f"pip finds no onnxruntime {OLDEST} for this Python and platform")
    folders = [str(tmp_path), str(ROOT / "tests"), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert (0, "ok\n") == (ran.returncode, ran.stdout), ran.stderr[-2000:]
