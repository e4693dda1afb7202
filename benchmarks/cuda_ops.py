"""Is anything that a user could pick on a GPU faster than the CUDA kernels?

First part, kernels alone, in CUDA graphs so that no launch from Python is in the times: JumpReLU
and AddJumpReLU beside ``torch.where``, ``torch.threshold`` and the same function in Triton, for
tensors of 1 MiB to 1 GiB, all types, one jump and one per channel; small tensors stay in the L2
cache. Each result is compared with that of the CUDA kernel first. Then ``cuda_sessions.py``: the
operator in ONNX Runtime beside ThresholdedRelu, in a CUDA graph of ONNX Runtime, and a hardened
ResNet-50 with and without ``prefer_nhwc``, and on TensorRT.

What is not installed is left out, and the reason is printed and written.

    python benchmarks/cuda_ops.py [--sizes 1 16 64 256 1024] [--json FILE] [--device cpu]

``--device cpu`` tries the script itself where there is no GPU, and measures nothing.
Exit status: 0 done, 1 a result differs.
"""

import argparse
import ctypes
import itertools
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from availability import DiffersError, UnavailableError, in_turns, load

Row = dict[str, Any]
CUSTOM_OPS = Path(__file__).resolve().parent.parent / "custom_ops"
TYPES = {"float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16"}
CHANNELS, SIDE = 64, 14
JUMP = 0.25
# The kernels with C's calling convention. `jump` is null or one number for each channel.
WRAPPER = """
#include <cstring>
#include "jump_relu.h"
#include "kernels.h"
using namespace onnxfit;
template <class T>
static const char* Run(const void* a, const void* b, void* y, long long n, long long channels,
                       long long row, const void* jump, float same, void* stream) {
  const std::vector<std::int64_t> shape{n, channels, row};
  const std::vector<std::int64_t> own = jump ? std::vector<std::int64_t>{channels, 1}
                                             : std::vector<std::int64_t>{};
  const Broadcast layout = MakeBroadcast(shape, own);
  const T fallback = RoundJump<T>(same);
  const T* const x = static_cast<const T*>(a);
  const T* const j = static_cast<const T*>(jump);
  T* const out = static_cast<T*>(y);
  const std::int64_t count = n * channels * row;
  const T* const z = static_cast<const T*>(b);
  return b ? AddJumpReluCuda<T>(x, z, out, count, j, fallback, layout, stream)
           : JumpReluCuda<T>(x, out, count, j, fallback, layout, stream);
}
#define EXPORT(name, T)                                                                          \\
  extern "C" const char* name(const void* a, const void* b, void* y, long long n, long long c,   \\
                              long long row, const void* jump, float same, void* stream) {       \\
    return Run<T>(a, b, y, n, c, row, jump, same, stream);                                       \\
  }
EXPORT(run_float, float)
EXPORT(run_double, double)
EXPORT(run_float16, Float16)
EXPORT(run_bfloat16, BFloat16)
"""


@dataclass(frozen=True)
class Problem:
    """Tensors to compute on: n×CHANNELS×SIDE×SIDE, and J with one or CHANNELS elements."""

    a: Any
    b: Any
    y: Any
    jump: Any


def build_kernels(folder: Path, device: str) -> ctypes.CDLL:
    """Compile the kernels into a shared library, for the CPU on top of the stand-in for CUDA."""
    source = folder / "wrapper.cc"
    source.write_text(WRAPPER, encoding="utf-8")
    library = folder / "kernels.so"
    files = [str(source), str(CUSTOM_OPS / "broadcast.cc")]
    kernels = str(CUSTOM_OPS / "jump_relu.cu")
    if device == "cpu":
        include = f"-I{CUSTOM_OPS / 'cuda_stand_in'}"
        command = ["g++", "-w", "-fPIC", "-O1", include, *files, "-xc++", kernels]
    else:
        command = ["nvcc", "-O3", "-arch=native", "-Xcompiler", "-fPIC", *files, kernels]
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"{command[0]} is not on the PATH")
    rest = ["-std=c++17", "-shared", f"-I{CUSTOM_OPS}", "-o", str(library)]
    subprocess.run([*command, *rest], check=True)
    return ctypes.CDLL(str(library))


def own_call(kernels: ctypes.CDLL, dtype: str, problem: Problem, adds: bool) -> Callable[[], None]:
    """Return a call of the CUDA kernel on the stream that is current when it is called."""
    torch = load("torch")
    function = getattr(kernels, f"run_{dtype}")
    function.restype = ctypes.c_char_p
    pointer, integer = ctypes.c_void_p, ctypes.c_longlong
    function.argtypes = [pointer] * 3 + [integer] * 3 + [pointer, ctypes.c_float, pointer]
    a, b, jump = problem.a, problem.b, problem.jump
    own = jump.data_ptr() if jump.numel() > 1 else None
    second = b.data_ptr() if adds else None
    sizes = (len(a), a.shape[1], a[0, 0].numel())

    def call() -> None:
        stream = torch.cuda.current_stream().cuda_stream if a.is_cuda else None
        error = function(a.data_ptr(), second, problem.y.data_ptr(), *sizes, own, JUMP, stream)
        assert error is None, error

    return call


def rivals(problem: Problem, adds: bool) -> tuple[dict[str, Callable[[], Any]], list[str]]:
    """Return what else computes the same into ``problem.y``, and what cannot be had."""
    torch = load("torch")
    a, b, y, jump = problem.a, problem.b, problem.y, problem.jump
    zero = torch.zeros((), dtype=a.dtype, device=a.device)

    def where(x: Any) -> Any:
        return torch.where(x <= jump, zero, x, out=y)

    found: dict[str, Callable[[], Any]] = {"torch.where": lambda: where(a + b if adds else a)}
    if jump.numel() == 1:
        found["torch.threshold"] = lambda: torch.threshold(a + b if adds else a, JUMP, 0, out=y)
    if not a.is_cuda:
        return found, ["triton: no GPU"]
    try:
        triton = load("triton_jump_relu")
    except UnavailableError as error:
        return found, [str(error)]
    second = b if adds else None
    for block in triton.BLOCKS:
        found[f"Triton, blocks of {block}"] = partial(triton.launch, a, second, y, jump, block)
    return found, []


def in_graph(call: Callable[[], Any], calls: int) -> Callable[[], None]:
    """Capture some calls in a CUDA graph and return its replay."""
    torch = load("torch")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # what is loaded or compiled at the first call cannot be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


def problem_of(dtype: str, mebibytes: int, channels: int, device: str) -> Problem:
    """Make random tensors of about so many MiB."""
    torch = load("torch")
    kind = getattr(torch, TYPES[dtype])
    count = (mebibytes << 20) // torch.empty((), dtype=kind).element_size()
    shape = (max(1, count // (CHANNELS * SIDE * SIDE)), CHANNELS, SIDE, SIDE)
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, device=device).to(kind) for _ in range(2))
    jump = torch.full((channels, 1, 1), JUMP, dtype=kind, device=device)
    return Problem(a, b, torch.empty_like(a), jump)


def kernel_row(kernels: ctypes.CDLL, dtype: str, problem: Problem, adds: bool) -> Row:
    """Compare and time all that computes the same."""
    torch, ratio = load("torch"), load("onnxfit.verification.latency").ratio
    others, missing = rivals(problem, adds)
    calls = {"onnxfit": own_call(kernels, dtype, problem, adds), **others}
    calls["onnxfit"]()
    expected = problem.y.clone()
    for name, call in others.items():
        problem.y.zero_()
        call()
        if not torch.equal(expected, problem.y):
            raise DiffersError(f"{name} differs from the CUDA kernel: {dtype}, adds {adds}")
    # Enough of them that starting a graph takes no share of the time.
    repeats = min(256, max(8, 2**31 // problem.a.nbytes)) if problem.a.is_cuda else 1
    timed = [in_graph(each, repeats) if repeats > 1 else each for each in calls.values()]
    times = in_turns(timed, problem.a.device.type)
    return {
        "operator": "AddJumpReLU" if adds else "JumpReLU",
        "dtype": dtype,
        "mebibytes": round(problem.a.numel() * problem.a.element_size() / 2**20, 2),
        "jumps": problem.jump.numel(),
        "microseconds": float(sorted(times[:, 0])[len(times) // 2] * 1e6 / repeats),
        "ratios": {name: ratio(times[:, 0], times[:, i + 1]) for i, name in enumerate(others)},
        "missing": missing,
    }


def kernels_part(options: argparse.Namespace) -> list[Row]:
    """Time the kernels alone."""
    torch = load("torch")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("torch sees no GPU")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        kernels = build_kernels(Path(folder), options.device)
        some = itertools.product(TYPES, options.sizes, (1, CHANNELS), (False, True))
        for dtype, size, channels, adds in some:
            problem = problem_of(dtype, size, channels, options.device)
            rows.append(kernel_row(kernels, dtype, problem, adds))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def environment() -> dict[str, Any]:
    """Return the versions of what is installed, and the GPU."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("torch", "triton", "onnxruntime", "onnxfit"):
        try:
            found[name] = load(name).__version__
        except UnavailableError:
            found[name] = None
    if found["torch"] and load("torch").cuda.is_available():
        found["device"] = load("torch").cuda.get_device_name()
    return found


def part(name: str) -> Callable[[argparse.Namespace], Any]:
    """Return the function for a part."""
    if name == "kernels":
        return kernels_part
    function: Callable[[argparse.Namespace], Any] = getattr(load("cuda_sessions"), f"{name}_part")
    return function


def main() -> int:
    """Run every part that can run here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(), "skipped": {}}
    status = 0
    for name in ("kernels", "operators", "graph", "networks", "tensorrt"):
        try:
            result[name] = part(name)(options)
        except UnavailableError as error:
            result["skipped"][name] = str(error)
        except DiffersError as error:
            status = 1
            result["skipped"][name] = f"FAILED: {error}"
        except Exception as error:  # the other parts are worth having all the same
            traceback.print_exc()
            result["skipped"][name] = f"{type(error).__name__}: {error}"
        if name in result["skipped"]:
            print(f"{name}: left out, {result['skipped'][name]}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
