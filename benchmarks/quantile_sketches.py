"""Is the histogram that calibration counts activations with better than a library's sketch?

Both are given the same 5 million numbers, sizes of normally distributed ones, in 50 parts: this
project's histogram, and KLL of ``datasketches``, the quantile sketch of Apache's library, which
takes arrays. Time of the processor, the median of the rounds; the largest relative error of each
quantile, over the rounds. ``pip install datasketches`` first.

    python benchmarks/quantile_sketches.py [--rounds 5] [--write]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasketches
import numpy as np
from environment import provenance
from published import publish

from onnxfit.calibration.histogram import Histogram

RESULT = Path(__file__).parent / "results" / "quantile_sketches.md"
COUNT, PARTS, SIZE = 5_000_000, 50, 4096
QUANTILES = (0.001, 0.01, 0.5, 0.99)


def counted(parts: Any) -> Callable[[float], float]:
    """Count numbers in the histogram; return what gives a quantile."""
    found = Histogram()
    for part in parts:
        found.add(part)
    return lambda q: float(found.quantile(q)[0])


def sketched(parts: Any) -> Callable[[float], float]:
    """Sketch them; return the same."""
    found = datasketches.kll_floats_sketch(SIZE)
    for part in parts:
        found.update(part)
    return lambda q: float(found.get_quantile(q))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    x = np.abs(np.random.default_rng(0).normal(size=COUNT)).astype(np.float32)
    exact = {q: float(np.quantile(x, q, method="lower")) for q in QUANTILES}
    lines = ["# Counting activations", "", *provenance(1), f"numpy {np.__version__}.", ""]
    lines += [
        f"{COUNT:,} numbers in {PARTS} parts, {options.rounds} rounds; the largest error of each "
        "quantile, relative to the exact one, and in how many ways the rounds answered.",
        "",
        "| | s | " + " | ".join(f"{q:g}-quantile" for q in QUANTILES) + " | answers |",
        "|---" * (len(QUANTILES) + 3) + "|",
    ]
    ways = {
        "histogram, k = 11": counted,
        f"KLL, k = {SIZE}, datasketches {version('datasketches')}": sketched,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            began = time.process_time()
            quantile = way(x.reshape(PARTS, -1))
            times[name].append(time.process_time() - began)
            answers[name].append(tuple(quantile(q) for q in QUANTILES))
    for name, found in answers.items():
        worst = [
            max(abs(answer[i] / exact[q] - 1) for answer in found) for i, q in enumerate(QUANTILES)
        ]
        cells = [name, f"{statistics.median(times[name]):.3f}", *(f"{e:.2%}" for e in worst)]
        lines.append(f"| {' | '.join(cells)} | {len(set(found))} |")
    print("\n".join(lines))
    if options.write:
        publish(RESULT, lines)


if __name__ == "__main__":
    main()
