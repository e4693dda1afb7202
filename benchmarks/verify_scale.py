"""Does the memory of ``onnxfit verify`` grow with the number of images?

The suite quick runs on a hardened CIFAR-10 network and its baseline, on the JPEG images repeated to
each number of images, each time in a process of its own, with a report.

    python benchmarks/verify_scale.py [--samples 2000 4000 10000] [--write]
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from images import CIFAR10_JPEG
from published import publish
from retrofit_scale import CHILD
from trained_networks import OVAL_BASE

import onnxfit

NORMALISED = [
    word
    for name, values in OVAL_BASE.normalisation.items()
    for word in (f"--{name}", ",".join(map(str, values)))
]
RESULT = Path(__file__).parent / "results" / "verify_scale.md"
JUMP = 0.1
STEPS = 5


def measured(folder: Path, samples: int) -> tuple[float, float]:
    """Return the seconds and the peak memory in MiB of a verification."""
    with np.load(CIFAR10_JPEG) as file:
        x, y = file["x"], file["y"]
    rows = np.arange(samples) % len(x)
    np.savez(folder / "data.npz", x=x[rows], y=y[rows])
    files = ["--data", folder / "data.npz", "--report", folder / f"report{samples}"]
    suite = ["--suite", "quick", "--steps", STEPS, "--eps", "2/255", *NORMALISED]
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, "verify", *map(str, [folder / "hard.onnx", *files, *suite])],
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode not in (0, 1):
        raise SystemExit(ran.stderr)
    return time.perf_counter() - started, float(ran.stderr.split()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, nargs="+", default=[2000, 4000, 10000])
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    lines = [
        "# Memory of `onnxfit verify`",
        "",
        f"`python benchmarks/verify_scale.py`: suite quick with {STEPS} steps, eps 2/255, "
        f"{OVAL_BASE.path.name} at jump {JUMP} and its baseline; {platform.machine()}, "
        f"{os.cpu_count()} cores, onnxfit {onnxfit.__version__}. The peak is of the whole process, "
        "with a report.",
        "",
        "| images | seconds | peak memory, MiB |",
        "|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(onnxfit.retrofit(OVAL_BASE.path, JUMP), Path(folder) / "hard.onnx")
        for samples in sorted(options.samples):
            seconds, peak = measured(Path(folder), samples)
            lines.append(f"| {samples} | {seconds:.0f} | {peak:.0f} |")
    print("\n".join(lines))
    if options.write:
        publish(RESULT, lines)


if __name__ == "__main__":
    main()
