"""Write the figures of ``gpu.sh`` as a Markdown page.

    python benchmarks/gpu_report.py [RESULTS] [--write]

Reads gpu.json and, where it is, cuda_ops.json in the folder RESULTS, by default
benchmarks/results. With ``--write`` the page goes there too, named after the GPU: h200.md.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TARGET = 0.95
TARGET_BYTES = 64 << 20
# No slower than what begins so; and a hardened network, as a share of the original's time.
RIVALS = ("torch.where", "Triton", "ThresholdedRelu")
MOST_OF_ORIGINAL, MOST_ON_TENSORRT = 1.02, 1.01
Row = dict[str, Any]


def cell(ratio: list[Any]) -> str:
    """Write a median and its interval."""
    middle, (low, high) = ratio
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


def markdown(head: list[str], rows: list[list[Any]]) -> list[str]:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def bandwidth(gpu: Row) -> list[str]:
    """Return the kernels' share of a copy's bandwidth, one row for each form and type."""
    timings = gpu["timings"]
    sizes = sorted({round(t["tensor_bytes"] / 2**20) for t in timings if t["jump"] == "attribute"})
    cells: dict[tuple[str, str, str], list[str]] = {}
    for timing in timings:
        key = (timing["operator"], timing["dtype"], timing["jump"])
        cells.setdefault(key, []).append(f"{timing['ratio']:.3f}")
    large = [t for t in timings if t["tensor_bytes"] >= 0.99 * TARGET_BYTES]
    worst = min(large, key=lambda t: t["ratio"])
    widest = max(high - low for low, high in (t["ratio_quartiles"] for t in large))
    reached = "reached" if worst["ratio"] >= TARGET else "not reached"
    return [
        "## Bandwidth",
        "",
        "Bytes per second as a share of those of a copy from device to device of the bytes that "
        "the operator must move: twice a tensor's, three times for AddJumpReLU. Medians of "
        f"{gpu['rounds']} rounds in turns, L2 cache overwritten before each call.",
        "",
        *markdown(
            ["operator", "type", "jump", *(f"{size} MiB" for size in sizes)],
            [[*key, *values] for key, values in cells.items()],
        ),
        "",
        f"Target from 64 MiB: at least {TARGET}; {reached}: the worst is {worst['ratio']:.3f} "
        f"({worst['operator']}, {worst['dtype']}, {worst['jump']}, "
        f"{worst['tensor_bytes'] / 2**20:.0f} MiB, {worst['gb_per_s']:.0f} GB/s). Noise: the "
        f"quartiles of the rounds are at most {widest:.3f} apart.",
    ]


def rivals(title: str, rows: list[Row]) -> list[str]:
    """Return what the operators take beside others, as shares of their time."""
    names = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    lines = [
        [
            *(row[key] for key in ("operator", "dtype", "mebibytes")),
            row.get("jumps", 1),
            f"{row['microseconds']:.1f}",
            *(cell(row["ratios"][name]) if name in row["ratios"] else "" for name in names),
        ]
        for row in rows
    ]
    head = ["operator", "type", "MiB", "jumps", "µs", *(f"of {name}" for name in names)]
    judged = [
        (row["ratios"][name], f"{row['operator']}, {row['dtype']}, {row['mebibytes']} MiB, {name}")
        for row in rows
        for name in names
        if name in row["ratios"] and name.startswith(RIVALS)
    ]
    return [f"## {title}", "", *markdown(head, lines), *verdict(judged, 1)]


def verdict(judged: list[tuple[list[Any], str]], most: float) -> list[str]:
    """Say whether no ratio is beyond a target by more than its interval.

    Args:
        judged: Ratios, each with what it is of.
        most: The target.
    """
    if not judged:
        return []
    (middle, (low, high)), of_what = max(judged, key=lambda each: float(each[0][1][0]))
    reached = "reached" if low <= most else "not reached"
    return [
        "",
        f"Target: at most {most} beyond the interval; {reached}: the worst is {middle:.3f} "
        f"({low:.3f}–{high:.3f}; {of_what}).",
    ]


def networks(rows: list[Row]) -> list[str]:
    """Return what hardening costs a network, as shares of the original's time."""
    lines, judged = [], []
    for row in rows:
        about = [row["network"], row["dtype"], row["batch"], "yes" if row["prefer_nhwc"] else "no"]
        # The form that onnxfit.session takes.
        form = "function" if row["prefer_nhwc"] else "library"
        of_what = f"{row['network']}, {row['dtype']}, batch {row['batch']}, {form}"
        judged.append((row["ratios"][form], of_what))
        counts = row["transposes"]
        forms = [f"{cell(row['ratios'][form])}, {counts[form]}" for form in row["ratios"]]
        lines.append([*about, f"{row['milliseconds']:.2f}, {counts['original']}", *forms])
    head = ["network", "type", "batch", "prefer_nhwc", "original, ms", *rows[0]["ratios"]]
    return [
        "## Networks",
        "",
        "Hardened at every site, as a share of the original's time, then the number of "
        "transposes in the graph that ONNX Runtime made of it.",
        "",
        *markdown(head, lines),
        *verdict(judged, MOST_OF_ORIGINAL),
    ]


def tensorrt(rows: list[Row]) -> list[str]:
    """Return what hardening costs a network on TensorRT, as shares of the original's time."""
    forms = list(rows[0]["ratios"])
    lines, judged = [], []
    for row in rows:
        about = [row["network"], row["dtype"], row["batch"]]
        cells = [cell(row["ratios"][form]) for form in forms]
        lines.append([*about, f"{row['milliseconds']:.2f}", *cells])
        judged.append((row["ratios"]["function"], f"batch {row['batch']}"))
    return [
        "## Networks on TensorRT",
        "",
        *markdown(["network", "type", "batch", "original, ms", *forms], lines),
        *verdict(judged, MOST_ON_TENSORRT),
    ]


def page(gpu: Row, ops: Row | None) -> list[str]:
    """Return the whole page."""
    about = f"{gpu['device']}, compute capability {gpu['compute_capability']}, CUDA "
    about += f"{gpu['cuda_runtime'] // 1000}.{gpu['cuda_runtime'] % 1000 // 10}"
    lines = [f"# The CUDA kernels on {gpu['device']}", "", "`benchmarks/gpu.sh`", about]
    if ops is not None:
        known = ops["environment"].items()
        lines[-1] += "".join(f", {name} {value}" for name, value in known if name != "device")
    lines += ["", *bandwidth(gpu)]
    if ops is None:
        return lines
    for part, title in (
        ("kernels", "Kernels beside PyTorch and Triton, in CUDA graphs"),
        ("operators", "Operators in ONNX Runtime, chains of them"),
    ):
        if ops.get(part):
            lines += ["", *rivals(title, ops[part])]
    if ops.get("networks"):
        lines += ["", *networks(ops["networks"])]
    if ops.get("tensorrt"):
        lines += ["", *tensorrt(ops["tensorrt"])]
    if ops.get("graph"):
        lines += ["", "A session with `enable_cuda_graph` replays to the right bits."]
    lines += [f"\nLeft out, {part}: {reason}" for part, reason in ops["skipped"].items()]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--write", action="store_true", help="also into RESULTS")
    options = parser.parse_args(arguments)
    gpu = json.loads(options.results.joinpath("gpu.json").read_text(encoding="utf-8"))
    path = options.results / "cuda_ops.json"
    ops = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    lines = page(gpu, ops)
    print("\n".join(lines))
    if options.write:
        name = re.sub(r"\W", "", gpu["device"].split()[-1]).lower()
        text = "\n".join([*lines, ""])
        options.results.joinpath(f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
