"""Does the memory of ``onnxfit calibrate`` grow with the number of images?

The paper's MNIST network is calibrated by quantiles, on 5,000 images repeated to each number of
them, each time in a process of its own, with a report.

    python benchmarks/calibrate_scale.py [--samples 5000 50000] [--write]
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
from retrofit_scale import CHILD

import onnxfit

SHARED = Path(os.environ.get("ONNXFIT_SHARED", "../shared"))
MODEL = SHARED / "models" / "derived" / "jumprelu_lenet_baseline.onnx"
IMAGES = SHARED / "data" / "mnist_0_4999.npz"
OPTIONS = ("--mean", "0.1307", "--std", "0.3081", "--eps", "0.1", "--attack-limit", "64")
RESULT = Path(__file__).parent / "results" / "calibrate_scale.md"


def measured(folder: Path, samples: int) -> tuple[float, float]:
    """Return the seconds and the peak memory in MiB of a calibration."""
    with np.load(IMAGES) as file:
        x, y = file["x"], file["y"]
    rows = np.arange(samples) % len(x)
    np.savez(folder / "data.npz", x=x[rows], y=y[rows])
    files = ["--data", folder / "data.npz", "--report", folder / f"report{samples}"]
    files += ["-o", folder / f"{samples}.onnx", "--scale", "quantile"]
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, "calibrate", *map(str, [MODEL, *files, *OPTIONS])],
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return time.perf_counter() - started, float(ran.stderr.split()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, nargs="+", default=[5000, 50000])
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    lines = [
        "# Memory of `onnxfit calibrate`",
        "",
        f"`python benchmarks/calibrate_scale.py`: {MODEL.name}, scale quantile, 64 images "
        f"attacked; {platform.machine()}, {os.cpu_count()} cores, onnxfit {onnxfit.__version__}. "
        "The peak is of the whole process, with a report.",
        "",
        "| images | seconds | peak memory, MiB |",
        "|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for samples in sorted(options.samples):
            seconds, peak = measured(Path(folder), samples)
            lines.append(f"| {samples} | {seconds:.0f} | {peak:.0f} |")
    print("\n".join(lines))
    if options.write:
        RESULT.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
