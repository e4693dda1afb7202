"""Is the CPU kernel as fast as memory, and JumpReLU as fast as ONNX Runtime's own Relu?

First tables: the kernel in place beside a pass that reads and writes the same bytes in place, at
the same number of threads and in the same vectors, without ONNX Runtime (``custom_ops/
bench_cpu.cc``, built here). Cells are the kernel's bandwidth over that of the pass: the median of
the rounds' ratios in each of three sweeps over all forms and sizes, and of these the one in the
middle, since other users of the memory come and go. The noise is half of the distance between the
lowest and the highest sweep, as the median of all forms. The target is 0.90 beyond the caches,
whatever the noise. Forms are one jump, a jump for each row of so many elements, jumps that come
again after so many, and sums of two tensors, which move three bytes where others move two.

Second tables: in ONNX Runtime, models of one JumpReLU beside a model of one Relu of the same size,
float, in place on the same buffer, in turns. The target is Relu's time, and 2 µs more below 64 KiB.

Third tables: every type and form beside float with one jump on as many bytes, in the same way. The
target is the same time but for 5 %, 1 µs and the noise: a J is an input more, and is read.

Sessions have threads of their own; those of one that does not run do not spin, so that with two
threads a run begins by waking the other one. Where rows of 49 elements leave up to 5 % of the bytes
unused, their time is that for all bytes.

In these, noise is half of the middle 50 % of the rounds' ratios of what others are compared with in
a second session over the first; targets are missed where a median is beyond it.

    python benchmarks/cpu_kernel.py [--rounds 31] [--most 262144] [--threads 1 2] [--write]

Sizes are those of X, in KiB, from 4 in steps of 4 times. Times are those of the clock: run it on a
machine that does nothing else.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
from cpu_kernel_sessions import Node, beside_float, beside_relu
from environment import MEASURED, clean_commit, command_line, processor
from tables import table

import onnxfit

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
CACHED = 64 << 10  # KiB: beyond the caches of most machines.
SMALL = 64  # KiB: below, a run takes longer to begin than to compute.
SWEEPS = 3
TARGET = 0.90
# A node may take longer by this share and by so many µs.
SAME, MICROS = 0.05, 1.0


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


def kernel_sweep(program: Path, threads: int, rounds: int, most: int) -> list[dict[str, Any]]:
    """Run bench_cpu; return what it measured."""
    numbers = {"--threads": threads, "--rounds": rounds, "--most": most}
    command = [str(program), *(str(part) for pair in numbers.items() for part in pair)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def kernel_rows(sweeps: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return each row of the sweep in the middle, with the ratios of all of them."""
    rows = []
    for same in zip(*sweeps, strict=True):
        if len({(row["form"], row["type"], row["bytes"]) for row in same}) > 1:
            raise ValueError("the sweeps measured different things")
        middle = statistics.median_low(row["ratio"] for row in same)
        row = next(row for row in same if row["ratio"] == middle)
        rows.append({**row, "ratios": [row["ratio"] for row in same]})
    return rows


def spread(rows: Sequence[dict[str, Any]]) -> float:
    """Return half of the distance between the lowest and the highest sweep, as a median."""
    spreads: list[float] = [(max(row["ratios"]) - min(row["ratios"])) / 2 for row in rows]
    return statistics.median(spreads)


def readable(kib: int) -> str:
    """Write a size."""
    return f"{kib} KiB" if kib < 1024 else f"{kib >> 10} MiB"


def verdict(ratios: Sequence[float]) -> str:
    """Say whether all ratios reach the target."""
    if not ratios:
        return "not measured"
    return "met" if min(ratios) >= TARGET else f"missed: {min(ratios):.2f}"


def kernel_table(rows: Sequence[dict[str, Any]], title: str) -> list[str]:
    """Write a table of the kernel over a pass over memory, a line for each form and type.

    Args:
        rows: What was measured with one number of threads.
        title: The line above it.
    """
    columns = sorted({row["bytes"] for row in rows})
    header = ["J", "type", *(readable(size >> 10) for size in columns), f"target {TARGET:.2f}"]
    lines = []
    for form, kind in dict.fromkeys((row["form"], row["type"]) for row in rows):
        own = [row for row in rows if (row["form"], row["type"]) == (form, kind)]
        found = {row["bytes"]: float(row["ratio"]) for row in own}
        cells = [f"{found[size]:.2f}" if size in found else "–" for size in columns]
        judged = verdict([value for size, value in found.items() if size >> 10 >= CACHED])
        lines.append([form, kind, *cells, judged])
    noise = (spread([row for row in rows if row["bytes"] == size]) for size in columns)
    lines.append(["noise", "", *(f"{share:.2f}" for share in noise), ""])
    return ["", title, "", *table(header, lines)]


def kernel_tables(rows: Sequence[dict[str, Any]], threads: int) -> list[str]:
    """Write the kernel's tables for a number of threads."""
    where = f"{threads} thread(s), `{rows[0]['path']}`"
    sizes_here = sorted({row["bytes"] for row in rows})
    passes = {
        size: statistics.median(row["pass_gb_per_s"] for row in rows if row["bytes"] == size)
        for size in sizes_here
    }
    text = ["", f"The pass over memory, {threads} thread(s), GB/s:", ""]
    header = [readable(size >> 10) for size in sizes_here]
    text += table(header, [[f"{speed:.1f}" for speed in passes.values()]])
    title = f"The kernel over a pass over memory, {where}; the target is for {readable(CACHED)} on:"
    return text + kernel_table(rows, title)


def node_table(nodes: Sequence[Node], title: str, allowed: Callable[[Node], float]) -> list[str]:
    """Write a table of nodes in ONNX Runtime, a line for each form and type.

    Args:
        nodes: What was measured.
        title: The line above it.
        allowed: The most that each may take of the time of what it is compared with.
    """
    columns = list(dict.fromkeys(node.kib for node in nodes))
    lines = []
    for form, kind in dict.fromkeys((node.form, node.type) for node in nodes):
        own = [node for node in nodes if (node.form, node.type) == (form, kind)]
        missed = [node.ratio for node in own if node.ratio > allowed(node)]
        cells = [form, kind, *(f"{node.ratio:.2f}" for node in own)]
        cells.append(f"missed: {max(missed):.2f}" if missed else "met")
        lines.append(cells)
    least = {node.kib: f"{node.micros / node.ratio:.1f} µs" for node in nodes}
    noise = {node.kib: f"{node.noise:.1%}" for node in nodes}
    lines += [["1.00 is", "", *least.values(), ""], ["noise", "", *noise.values(), ""]]
    return ["", title, "", *table(["J", "type", *map(readable, columns), "target"], lines)]


def with_relu(node: Node) -> float:
    """Return what a node may take of Relu's time: as much, or 2 µs more."""
    more = 2 * node.ratio / node.micros if node.kib < SMALL else 0
    return 1 + node.noise + more


def with_float(node: Node) -> float:
    """Return what a node may take of the time of float with one jump."""
    return 1 + SAME + node.noise + MICROS * node.ratio / node.micros


def environment(commit: str) -> dict[str, Any]:
    """Say how and where this ran."""
    return {
        "commit": commit,
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
    found = environment(clean_commit(*MEASURED) if options.write else "unknown")
    if found["load"] > 0.5:
        print(f"The machine is not quiet: its load is {found['load']}.", file=sys.stderr)
    lines = ["# The CPU kernel", "", f"`{found['command']}`"]
    lines += [", ".join(f"{k} {v}" for k, v in found.items() if k != "command") + "."]
    kernels: list[dict[str, Any]] = []
    by_relu: list[Node] = []
    by_float: list[Node] = []
    with tempfile.TemporaryDirectory() as folder:
        program = build_kernel_benchmark(Path(folder))
        for threads in options.threads:
            sweep = functools.partial(kernel_sweep, program, threads, options.rounds, options.most)
            rows = kernel_rows([sweep() for _ in range(SWEEPS)])
            kernels += rows
            lines += kernel_tables(rows, threads)
    columns = sizes(options.most)
    for threads in options.threads:
        own = list(beside_relu(threads, options.rounds, columns))
        by_relu += own
        title = f"One node in ONNX Runtime, in place, over Relu, {threads} thread(s):"
        lines += node_table(own, title, with_relu)
    for threads in options.threads:
        own = list(beside_float(threads, options.rounds, columns))
        by_float += own
        title = (
            f"One node in ONNX Runtime, in place, over float with one jump, {threads} thread(s):"
        )
        lines += node_table(own, title, with_float)
    print("\n".join(lines))
    if options.write:
        document = {
            "environment": found,
            "kernel": kernels,
            "beside_relu": list(map(asdict, by_relu)),
            "beside_float": list(map(asdict, by_float)),
        }
        text = json.dumps(document, indent=1)
        (RESULTS / "cpu_kernel.json").write_text(text + "\n", encoding="utf-8")
        (RESULTS / "cpu_kernel.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
