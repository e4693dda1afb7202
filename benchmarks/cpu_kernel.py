"""Is the CPU kernel as fast as memory, and JumpReLU as fast as ONNX Runtime's own Relu?

First tables: the kernel in place beside a pass that reads and writes the same bytes in place, at
the same number of threads and in the same vectors, without ONNX Runtime (``custom_ops/
bench_cpu.cc``, built here). Cells are the kernel's bandwidth over that of the pass, the median of
the rounds' ratios; the target is 0.90 beyond the caches. Forms are one jump, a jump for each row of
so many elements, jumps that come again after so many, and sums of two tensors, which move three
bytes where others move two.

Second tables: the same bandwidths over that of float with one jump, which all types and forms
should have; the target is 0.90 from 64 KiB on. Sums are left out: they read more than they write.

Third tables: in ONNX Runtime, a model of one JumpReLU beside a model of one Relu of the same
size, float, on the same buffers, in turns. The target is Relu's time, and 2 µs more below 64 KiB.
Noise is half of the middle 50 % of Relu's rounds over their median.

    python benchmarks/cpu_kernel.py [--rounds 31] [--most 262144] [--threads 1 2] [--write]

Sizes are those of X, in KiB, from 4 in steps of 4 times. Times are those of the clock: run it on a
machine that does nothing else.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
from environment import command_line, processor

import onnxfit
from onnxfit.verification.latency import in_turns

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
CACHED = 64 << 10  # KiB: beyond the caches of most machines.
SMALL = 64  # KiB: below, a run takes longer to begin than to compute.
TARGET = 0.90
HEADER = '<ir_version: 8, opset_import: ["": 17, "onnxfit": 1]>'


@dataclass(frozen=True)
class Pair:
    """JumpReLU beside Relu on tensors of one size.

    Attributes:
        kib: The size of X.
        threads: Of the session.
        relu: Median time, in µs.
        jump: The same of JumpReLU with its attribute.
        channel: The same of JumpReLU with a jump for each of 64 channels.
        ratio: The median of the rounds' times of JumpReLU over Relu.
        noise: Half of the middle 50 % of Relu's times, over their median.
    """

    kib: int
    threads: int
    relu: float
    jump: float
    channel: float
    ratio: float
    noise: float

    @property
    def passed(self) -> bool:
        """Tell whether the target is met, beyond the noise."""
        allowed = self.relu * (1 + self.noise) + (2 if self.kib < SMALL else 0)
        return max(self.jump, self.channel) <= allowed


def sizes(most: int) -> list[int]:
    """Return the sizes to measure, in KiB."""
    return [4**power for power in range(1, 15) if 4**power <= most]


def build_kernel_benchmark(folder: Path) -> Path:
    """Build bench_cpu in a folder; return the program."""
    commands: list[list[str | Path]] = [
        ["cmake", "-S", ROOT / "custom_ops", "-B", folder, "-DONNXFIT_CUDA=OFF"],
        ["cmake", "--build", folder, "--target", "bench_cpu"],
    ]
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "bench_cpu"


def kernel_rows(program: Path, threads: int, rounds: int, most: int) -> list[dict[str, Any]]:
    """Run bench_cpu; return what it measured."""
    numbers = {"--threads": threads, "--rounds": rounds, "--most": most}
    command = [str(program), *(str(part) for pair in numbers.items() for part in pair)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def session(nodes: str, threads: int, *, channels: bool = False) -> onnxruntime.InferenceSession:
    """Start a session of one node on x, with jumps j per channel if wanted."""
    options = onnxruntime.SessionOptions()
    onnxfit.register(options)
    options.intra_op_num_threads = threads
    jumps = ", float[64,1] j" if channels else ""
    text = f"{HEADER} g (float[64,n] x{jumps}) => (float[64,n] y) {{ y = {nodes} }}"
    model = onnx.parser.parse_model(text).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bound(started: onnxruntime.InferenceSession, values: dict[str, Any]) -> Callable[[], None]:
    """Return a call that runs a session on buffers which stay in place."""
    binding = started.io_binding()
    for name in (given.name for given in started.get_inputs()):
        binding.bind_ortvalue_input(name, values[name])
    binding.bind_ortvalue_output("y", values["y"])
    return lambda: started.run_with_iobinding(binding)


def pairs(threads: int, rounds: int, most: int) -> list[Pair]:
    """Compare JumpReLU with Relu in ONNX Runtime on every size."""
    started = [
        session("Relu (x)", threads),
        session("onnxfit.JumpReLU <jump = 0.5> (x)", threads),
        session("onnxfit.JumpReLU (x, j)", threads, channels=True),
    ]
    random = np.random.default_rng(0)
    measured = []
    for kib in sizes(most):
        x = random.standard_normal((64, kib * 4), dtype=np.float32)
        jumps = random.random((64, 1), dtype=np.float32)
        arrays = {"x": x, "y": np.zeros_like(x), "j": jumps}
        values = {k: onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in arrays.items()}
        runs = [bound(one, values) for one in started]
        relu, jump, channel = (in_turns(runs, rounds) * 1e6).T.tolist()
        low, middle, high = statistics.quantiles(relu, n=4)
        ratio = statistics.median(a / b for a, b in zip(jump, relu, strict=True))
        noise = (high - low) / 2 / middle
        median = statistics.median
        measured.append(Pair(kib, threads, middle, median(jump), median(channel), ratio, noise))
    return measured


def readable(kib: int) -> str:
    """Write a size."""
    return f"{kib} KiB" if kib < 1024 else f"{kib >> 10} MiB"


def head(*columns: str) -> list[str]:
    """Return the first two lines of a table."""
    return ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def verdict(ratios: Sequence[float]) -> str:
    """Say whether all ratios reach the target."""
    if not ratios:
        return "not measured"
    return "met" if min(ratios) >= TARGET else f"missed: {min(ratios):.2f}"


def kernel_table(
    rows: Sequence[dict[str, Any]], title: str, ratio: Callable[[dict[str, Any]], float], least: int
) -> list[str]:
    """Write a table of the kernel, a line for each form and type.

    Args:
        rows: What was measured with one number of threads.
        title: The line above it.
        ratio: What to show of a measurement.
        least: The size in KiB from which on the target is to be met.
    """
    columns = sorted({row["bytes"] for row in rows})
    text = ["", title]
    text += head("J", "type", *(readable(size >> 10) for size in columns), f"target {TARGET:.2f}")
    for form, kind in dict.fromkeys((row["form"], row["type"]) for row in rows):
        own = [row for row in rows if (row["form"], row["type"]) == (form, kind)]
        found = {row["bytes"]: ratio(row) for row in own}
        cells = [f"{found[size]:.2f}" if size in found else "–" for size in columns]
        judged = verdict([value for size, value in found.items() if size >> 10 >= least])
        text.append("| " + " | ".join([form, kind, *cells, judged]) + " |")
    return text


def kernel_tables(rows: Sequence[dict[str, Any]], threads: int) -> list[str]:
    """Write the kernel's tables for a number of threads."""
    where = f"{threads} thread(s), `{rows[0]['path']}`"
    sizes_here = sorted({row["bytes"] for row in rows})
    passes = {
        size: statistics.median(row["pass_gb_per_s"] for row in rows if row["bytes"] == size)
        for size in sizes_here
    }
    text = ["", f"The pass over memory, {threads} thread(s), GB/s:"]
    text += head(*(readable(size >> 10) for size in sizes_here))
    text.append("| " + " | ".join(f"{speed:.1f}" for speed in passes.values()) + " |")
    title = f"The kernel over a pass over memory, {where}; the target is for {readable(CACHED)} on:"
    text += kernel_table(rows, title, lambda row: float(row["ratio"]), CACHED)
    scalar = {
        row["bytes"]: row["kernel_gb_per_s"]
        for row in rows
        if (row["form"], row["type"]) == ("scalar", "float")
    }
    jumps = [row for row in rows if not row["form"].startswith("sums")]
    title = f"The same over float with one jump, {where}; the target is for {SMALL} KiB on:"
    return text + kernel_table(
        jumps, title, lambda row: float(row["kernel_gb_per_s"] / scalar[row["bytes"]]), SMALL
    )


def pair_table(measured: Sequence[Pair], threads: int) -> list[str]:
    """Write the table of JumpReLU and Relu for a number of threads."""
    text = ["", f"One node in ONNX Runtime, float, {threads} thread(s), µs:"]
    columns = ["Relu", "JumpReLU", "with J per channel", "JumpReLU / Relu", "noise", "target"]
    text += head("X", *columns)
    for pair in measured:
        cells = [readable(pair.kib), *(f"{t:.1f}" for t in (pair.relu, pair.jump, pair.channel))]
        cells += [f"{pair.ratio:.2f}", f"{pair.noise:.1%}", "met" if pair.passed else "missed"]
        text.append("| " + " | ".join(cells) + " |")
    return text


def environment() -> dict[str, Any]:
    """Say how and where this ran."""
    return {
        "command": command_line(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "onnxfit": onnxfit.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--most", type=int, default=256 << 10, help="KiB of X")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    found = environment()
    lines = ["# The CPU kernel", "", f"`{found['command']}`"]
    lines += [", ".join(f"{k} {v}" for k, v in found.items() if k != "command") + "."]
    kernels: list[dict[str, Any]] = []
    compared: list[Pair] = []
    with tempfile.TemporaryDirectory() as folder:
        program = build_kernel_benchmark(Path(folder))
        for threads in options.threads:
            rows = kernel_rows(program, threads, options.rounds, options.most)
            kernels += rows
            lines += kernel_tables(rows, threads)
    for threads in options.threads:
        measured = pairs(threads, options.rounds, options.most)
        compared += measured
        lines += pair_table(measured, threads)
    print("\n".join(lines))
    if options.write:
        document = {
            "environment": found,
            "kernel": kernels,
            "onnxruntime": list(map(asdict, compared)),
        }
        text = json.dumps(document, indent=1)
        (RESULTS / "cpu_kernel.json").write_text(text + "\n", encoding="utf-8")
        (RESULTS / "cpu_kernel.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
