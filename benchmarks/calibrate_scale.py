"""Does the memory of ``onnxfit calibrate`` grow with the number of images?

The paper's MNIST network is calibrated by quantiles, on 5,000 images repeated to each number of
them, each time in a process of its own, with a report.

    python benchmarks/calibrate_scale.py [--samples 5000 50000] [--write]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from calibrate_sweep import LENET, SEED, provenance
from published import publish
from retrofit_scale import CHILD

MODEL, (IMAGES,) = LENET.model, LENET.data
OPTIONS = (
    *("--mean", MODEL.mean[0], "--std", MODEL.std[0], "--eps", LENET.eps),
    *("--attack-limit", 64, "--seed", SEED),
)
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
        [sys.executable, "-c", CHILD, "calibrate", *map(str, [MODEL.path, *files, *OPTIONS])],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
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
    torch.set_num_threads(1)
    lines = [
        "# Memory of `onnxfit calibrate`",
        "",
        *provenance(LENET.files, f"Seed {SEED}."),
        "Scale quantile, 64 images attacked, with a report. The images are those of the file, "
        "repeated. The peak is of the whole process; seconds are of the clock.",
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
        publish(RESULT, lines)


if __name__ == "__main__":
    main()
