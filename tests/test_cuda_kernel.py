"""The CUDA kernels without a GPU: their arithmetic run as C++, their machine code read."""

import ctypes
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cuda_resources
import gpu_report
import numpy as np
import pytest
from check_drivers import CUSTOM_OPS, SANITIZERS, Drivers, Mistake, replace, tool
from cuda_resources import Kernel, ToolMissingError
from numpy.typing import NDArray
from onnx import TensorProto
from support import ROOT, dtype_of

BENCHMARKS = ROOT / "benchmarks"
KINDS = {"Float16": TensorProto.FLOAT16, "BFloat16": TensorProto.BFLOAT16}
ADD = """
#include <cstddef>
#include "add.h"
extern "C" void add(const onnxfit::{kind}* a, const onnxfit::{kind}* b, onnxfit::{kind}* y,
                    std::size_t count) {{
  for (std::size_t i = 0; i < count; ++i) {{
    y[i] = onnxfit::Add(a[i], b[i]);
  }}
}}
"""


# ---- the sum ----


def addends(seed: int) -> NDArray[np.uint16]:
    """Return all 16-bit patterns, each beside 32 others."""
    rng = np.random.default_rng(seed)
    every = np.arange(2**16, dtype=np.uint16)
    return np.concatenate([rng.permutation(every) for _ in range(32)])


@pytest.mark.parametrize("kind", KINDS)
def test_sum_is_rounded_to_even(kind: str, tmp_path: Path) -> None:
    """Add rounds 16-bit sums as NumPy does, in 2 million pairs; a NaN is quiet."""
    source = tmp_path / "add.cc"
    source.write_text(ADD.format(kind=kind), encoding="utf-8")
    command = [tool("g++"), "-std=c++17", "-O2", "-shared", "-fPIC", f"-I{CUSTOM_OPS}"]
    subprocess.run([*command, "-o", tmp_path / "add.so", source], check=True)
    a, b = addends(0), addends(1)
    y = np.empty_like(a)
    pointers = (ctypes.c_void_p(x.ctypes.data) for x in (a, b, y))
    ctypes.CDLL(str(tmp_path / "add.so")).add(*pointers, ctypes.c_size_t(len(a)))

    dtype = dtype_of(KINDS[kind])
    with np.errstate(all="ignore"):
        expected = a.view(dtype) + b.view(dtype)
    nan = expected != expected  # noqa: PLR0124 - what is NaN
    quiet = int(np.array(np.nan).astype(dtype).view(np.uint16)) & 0x7FFF
    np.testing.assert_array_equal(expected.view(np.uint16)[~nan], y[~nan])
    np.testing.assert_array_equal(np.full(nan.sum(), quiet), y[nan] & 0x7FFF)


# ---- the kernels as C++ ----


@pytest.mark.slow
def test_stand_in(sources: Path, drivers: Drivers) -> None:
    """Every path of both kernels computes the right bits, clean under the sanitizers."""
    checked = drivers.run(sources, "check_cuda", "-O1", *SANITIZERS, cuda=True)

    assert (0, "all checks passed\n", "") == (checked.returncode, checked.stdout, checked.stderr)


@pytest.mark.slow
def test_indices_of_64_bits(sources: Path, drivers: Drivers) -> None:
    """The kernels' arithmetic for more than 2^31 elements is right, tried on fewer."""
    replace(sources / "jump_relu.cu", "count <= INT32_MAX", "count <= 0")

    checked = drivers.run(sources, "check_cuda", "-O1", cuda=True)

    assert (0, "all checks passed\n", "") == (checked.returncode, checked.stdout, checked.stderr)


MISTAKES = [
    Mistake("jump_relu.cu", "? *RowJump(row + 1)", "? *RowJump(row)"),
    Mistake("jump_relu.cu", "(i) < left", "(i) <= left"),
    Mistake("jump_relu.cu", "if (left >= kElements && ", "if ("),
    Mistake("jump_relu.cu", "(high.bits) << 16", "(high.bits) << 15"),
    Mistake("jump_relu.cu", "packs * kElements + static", "static"),
    Mistake("jump_relu.cu", "IsAligned(input) && IsAligned(y)", "IsAligned(y)"),
    Mistake("jump_relu.cu", "++multiplier_;", ""),
    Mistake("jump_relu.cu", "/ kPerBlock + 1, UINT32_MAX", "/ kPerBlock, UINT32_MAX"),
]


@pytest.mark.slow
def test_stand_in_can_fail(tmp_path: Path, drivers: Drivers) -> None:
    """The check finds each of these mistakes."""
    assert [] == drivers.missed(tmp_path, "check_cuda", MISTAKES, cuda=True)


@pytest.mark.slow
def test_cuda_part_builds(sources: Path) -> None:
    """Kernel, check and benchmark compile and link where nvcc is installed."""
    command = [tool("nvcc"), "-std=c++17", "-arch=sm_80", "-Xcompiler", "-Wall,-Wextra,-Werror"]
    files = ["bench_jump_relu.cu", "jump_relu.cu", "broadcast.cc"]
    program = sources / "bench_jump_relu"

    subprocess.run([*command, "-o", program, *files], cwd=sources, check=True)

    refused = subprocess.run([program, "--chek"], capture_output=True, text=True, check=False)
    assert (2, "usage") == (refused.returncode, refused.stderr[:5])


# ---- the machine code ----


def kernels(architecture: int) -> list[Kernel]:
    """Compile the kernels; skip without the tools."""
    try:
        return cuda_resources.compile_kernels(architecture)
    except ToolMissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "architecture",
    [90, *(pytest.param(number, marks=pytest.mark.slow) for number in (75, 80, 100))],
)
def test_machine_code(architecture: int) -> None:
    """Each kernel moves its tensors once, 16 bytes at a time, and uses no local memory."""
    found = kernels(architecture)

    names = {(each.operator, each.dtype, each.jumps) for each in found}
    assert 2 * 4 * 3 == len(names) == len(found)
    assert [] == [each for each in found if each.faults()]
    assert {"JumpReLU": {2.0}, "AddJumpReLU": {3.0}} == {
        operator: {e.moved / e.element_bytes for e in found if e.operator == operator}
        for operator in ("JumpReLU", "AddJumpReLU")
    }
    assert min(each.in_flight for each in found) >= 32 << 10


GOOD = Kernel(
    operator="AddJumpReLU",
    dtype="float",
    jumps="one",
    architecture=90,
    packs=2,
    element_bytes=4,
    registers=32,
    local_bytes=0,
    opcodes=("LDG.E.128",) * 4 + ("FADD", "STG.E.128", "STG.E.128", "EXIT"),
)


@pytest.mark.parametrize(
    ("faults", "changes"),
    [
        ([], {}),
        (["local memory"], {"local_bytes": 8}),
        (["local memory"], {"opcodes": (*GOOD.opcodes, "LDL.64")}),
        (["loads of 16 bytes"], {"opcodes": GOOD.opcodes[1:]}),
        (["loads of 16 bytes"], {"jumps": "own, 32-bit"}),
        (["stores of 16 bytes", "bytes per element"], {"opcodes": GOOD.opcodes[:-2]}),
    ],
)
def test_faults(faults: list[str], changes: dict[str, Any]) -> None:
    """A kernel that spills, or whose accesses are not wide, is told of."""
    assert faults == dataclasses.replace(GOOD, **changes).faults()


def test_bytes_in_flight() -> None:
    """Registers limit how many threads load at once: 65536 of them, 40 a thread, blocks of 128."""
    assert 12 * 128 * 4 * 16 == dataclasses.replace(GOOD, registers=37).in_flight


def test_written_report_is_of_these_kernels() -> None:
    """The report in benchmarks/results lists the kernels that the source has, on four GPUs."""
    text = (cuda_resources.RESULTS / "cuda_resources.md").read_text(encoding="utf-8")
    document = json.loads((cuda_resources.RESULTS / "cuda_resources.json").read_text("utf-8"))

    assert ["75", "80", "90", "100"] == re.findall(r"## sm_(\d+)", text)
    written = re.findall(r"^\| ((?:Add)?JumpReLU \|.*) \|$", text, re.MULTILINE)
    rows = [row.values() for some in document["kernels"].values() for row in some]
    assert 4 * 24 == len(rows)
    assert written == [
        " | ".join(f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in row)
        for row in rows
    ]
    assert f"with nvcc {document['environment']['nvcc']} and `-O3`" in text


# ---- the scripts for a GPU ----


def test_gpu_script_needs_a_compiler(tmp_path: Path) -> None:
    """Without nvcc the script says so, with exit status 3."""
    for name in ("dirname", "mkdir", "mktemp", "rm"):
        (tmp_path / name).symlink_to(tool(name))
    command: list[str | Path] = [tool("bash"), BENCHMARKS / "gpu.sh", tmp_path / "results"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert (3, "gpu.sh: nvcc is not on the PATH\n") == (ran.returncode, ran.stderr)


COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\necho no GPU >&2; exit 3\\n' >"$2"; chmod +x "$2"
"""


def test_gpu_script_needs_a_gpu(tmp_path: Path) -> None:
    """Without one its status is that of the check, 3, and no file is written."""
    compiler = tmp_path / "bin" / "nvcc"
    compiler.parent.mkdir()
    compiler.write_text(COMPILER, encoding="utf-8")
    compiler.chmod(0o755)
    command: list[str | Path] = [tool("bash"), BENCHMARKS / "gpu.sh", tmp_path / "results"]
    environment = {**os.environ, "PATH": f"{compiler.parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert (3, "no GPU\n") == (ran.returncode, ran.stderr)
    assert [] == list((tmp_path / "results").iterdir())


def test_comparison_says_what_it_leaves_out(tmp_path: Path) -> None:
    """Where the GPU is hidden, each part is left out with a reason, in words and in the file."""
    file = tmp_path / "cuda_ops.json"
    command: list[str | Path] = [sys.executable, BENCHMARKS / "cuda_ops.py", "--json", file]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    skipped = json.loads(file.read_text(encoding="utf-8"))["skipped"]
    assert ["kernels", "operators", "graph", "networks", "tensorrt"] == list(skipped)
    assert [f"{part}: left out, {why}" for part, why in skipped.items()] == ran.stdout.splitlines()


TIMING = {
    "dtype": "float",
    "operator": "JumpReLU",
    "jump": "attribute",
    "tensor_bytes": 64 << 20,
    "moved_bytes": 128 << 20,
    "median_ms": 0.033,
    "gb_per_s": 4067.2,
    "copy_gb_per_s": 4150.0,
    "ratio": 0.98,
    "ratio_quartiles": [0.975, 0.985],
}


@pytest.mark.parametrize(("ratio", "verdict"), [(0.951, "reached"), (0.949, "not reached")])
def test_report_judges_the_worst(
    ratio: float, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page names the worst share of a copy's bandwidth from 64 MiB on, and judges by it."""
    slow = {**TIMING, "dtype": "float16", "ratio": ratio}
    small = {**TIMING, "tensor_bytes": 1 << 20, "ratio": 0.5}
    gpu = {
        "device": "NVIDIA H200",
        "compute_capability": "9.0",
        "cuda_runtime": 13000,
        "rounds": 31,
        "timings": [small, TIMING, {**small, "dtype": "float16"}, slow],
    }
    (tmp_path / "gpu.json").write_text(json.dumps(gpu), encoding="utf-8")

    gpu_report.main([str(tmp_path), "--write"])

    text = (tmp_path / "h200.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert "NVIDIA H200, compute capability 9.0, CUDA 13.0\n" in text
    assert "| JumpReLU | float | attribute | 0.500 | 0.980 |\n" in text
    assert f"at least 0.95; {verdict}: the worst is {ratio:.3f} (JumpReLU, float16, " in text


@pytest.mark.parametrize(
    ("low", "verdicts"),
    [
        (1.0, ("reached", "reached")),
        (1.015, ("not reached", "reached")),
        (1.03, ("not reached",) * 2),
    ],
)
def test_report_judges_rivals_and_networks(low: float, verdicts: tuple[str, str]) -> None:
    """Beyond the interval alone; by the form that a session takes, and by what is aimed at."""
    worst, far = [low + 0.01, [low, low + 0.02]], [2.0, [1.9, 2.1]]
    about = {"operator": "JumpReLU", "dtype": "float", "mebibytes": 64, "microseconds": 9.0}
    ratios = {
        "torch.where": [0.9, [0.8, 1.0]],
        "Triton, blocks of 1024": worst,
        "torch.threshold": far,
    }
    kernels = gpu_report.rivals("Kernels", [{**about, "ratios": ratios}])[-1]
    about = {"network": "resnet50", "dtype": "float", "batch": 1, "milliseconds": 2.0}
    forms = {"library": worst, "function": far, "itself": far}
    rows = [
        {**about, "prefer_nhwc": False, "ratios": forms},
        {**about, "prefer_nhwc": True, "ratios": {**forms, "library": far, "function": worst}},
    ]
    transposes = dict.fromkeys(("original", *forms), 0)
    networks = gpu_report.networks([{**row, "transposes": transposes} for row in rows])[-1]
    assert (
        f"Target: at most 1 beyond the interval; {verdicts[0]}: the worst is {low + 0.01:.3f} "
        f"({low:.3f}–{low + 0.02:.3f}; JumpReLU, float, 64 MiB, Triton, blocks of 1024)."
    ) == kernels
    assert f"at most 1.02 beyond the interval; {verdicts[1]}: the worst is " in networks
    assert "resnet50, float, batch 1, library" in networks
    on_tensorrt = gpu_report.tensorrt([{**about, "ratios": {"function": worst, "itself": far}}])
    assert f"| resnet50 | float | 1 | 2.00 | {low + 0.01:.3f} (" in on_tensorrt[-3]
    reached = "reached" if low <= 1.01 else "not reached"
    assert f"Target: at most 1.01 beyond the interval; {reached}: the worst is " in on_tensorrt[-1]
