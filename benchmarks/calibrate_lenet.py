"""What does ``onnxfit calibrate`` say of the paper's own network, and does it hold?

The command runs with both objectives; what it prints is kept. Then all strengths of both curves are
attacked on the same images, more than the first ones that the command's own curve has in common.

    python benchmarks/calibrate_lenet.py [--samples 2000] [--attacked 512] [--common 256] [--write]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from calibrate_sweep import LENET, SEED, provenance
from published import publish
from trained_networks import ROOT

from onnxfit.calibration.cache import Cache
from onnxfit.calibration.calibrator import Calibrator
from onnxfit.calibration.selection import Mask
from onnxfit.calibration.settings import Objective, Settings
from onnxfit.verification.progress import silent
from onnxfit.verification.statistics import mcnemar, paired_difference, wilson

RESULT = Path(__file__).parent / "results" / "calibrate_lenet.md"
OBJECTIVES: tuple[Objective, ...] = ("worst-case", "paper")

NOTE = """\
In the tables above, the difference in the row of the chosen jump and the headline's need not agree:
the row counts what the attacks of the race alone break, the smooth gates or, for `paper`, native
gradients; the headline counts what all attacks break, before hardening as well, and its test is
corrected for the number of jumps to choose among, which the row's interval is not.
"""


def command(objective: str, samples: int, attacked: int) -> list[str]:
    """Return what a user types."""
    options = {
        "--data": LENET.data[0].name,
        "--limit": samples,
        "--eps": LENET.eps,
        "--mean": LENET.model.mean[0],
        "--std": LENET.model.std[0],
        "--attack-limit": attacked,
        "--seed": SEED,
        "--objective": objective,
        "--report": f"report-{objective}",
        "-o": f"lenet.{objective}.onnx",
    }
    words = [str(word) for option in options.items() for word in option]
    return ["calibrate", LENET.model.path.name, *words]


def calibrated(folder: Path, words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Run the command in a folder; return what it prints, and its document."""
    paths = [str(ROOT.resolve()), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ran = subprocess.run(
        [sys.executable, "-m", "onnxfit", *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
    )
    if ran.returncode:
        raise SystemExit(ran.stderr)
    report = folder / words[words.index("--report") + 1] / "calibration.json"
    text = "\n".join(line.rstrip() for line in ran.stdout.strip().splitlines())
    return text, json.loads(report.read_text(encoding="utf-8"))


def common(documents: Mapping[str, dict[str, Any]], samples: int, count: int) -> list[str]:
    """Attack the strengths of all curves on the same images; return the lines of the table."""
    data, target = LENET.dataset(samples), LENET.model.open()
    points = {point["strength"]: point for each in documents.values() for point in each["curve"]}
    strengths = sorted(points)
    found: dict[str, dict[float, Mask]] = {}
    for objective in OBJECTIVES:
        settings = Settings(**LENET.settings, attack_limit=count, objective=objective)
        calibrator = Calibrator(target, data, settings, silent)
        _, measured = calibrator.prepare(Cache(None, {}))
        # By smooth gates first, as they would gain by the points of the others.
        kind = "native gradients" if objective == "paper" else "smooth gates"
        found[kind] = measured.robust(strengths, count)
        if objective != "paper":
            found["all attacks"] = measured.with_all_attacks().robust(strengths, count)
    columns = ["jump", "clean", "budget", "chosen by"]
    for kind in found:
        columns += [f"{kind}: right", "difference to before", "p"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for strength in strengths:
        point = points[strength]
        chosen = [name for name, each in documents.items() if each["strength"] == strength]
        cells = [f"{strength:.4g}", f"{point['clean']['accuracy']:.2%}"]
        cells += ["inside" if point["inside"] else "outside", ", ".join(chosen)]
        for masks in found.values():
            cells += beside(masks[strength], masks[0.0])
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def beside(after: Mask, before: Mask) -> list[str]:
    """Say how many samples are right, and how many more than before hardening."""
    n, more, fewer = len(after), int((after & ~before).sum()), int((before & ~after).sum())
    low, high = (100 * limit for limit in wilson(int(after.sum()), n))
    cells = [f"{after.mean():.1%} ({low:.1f} to {high:.1f})"]
    low, high = (100 * limit for limit in paired_difference(more, fewer, n))
    cells.append(f"{100 * (more - fewer) / n:+.1f} ({low:+.1f} to {high:+.1f})")
    return [*cells, f"{mcnemar(more, fewer):.2g}"]


def sections(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the result."""
    yield "# The paper's own network under `onnxfit calibrate`"
    yield ""
    yield from provenance(LENET.files, f"Seed {SEED}.")
    yield (
        f"LeNetLike, the JumpReLU authors' trained weights; MNIST test images 0 to "
        f"{options.samples - 1}, of which {options.attacked} are attacked; linf, eps {LENET.eps} "
        "in pixels from 0 to 1."
    )
    documents: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for file in LENET.files:
            shutil.copy(file, folder)
        for objective in OBJECTIVES:
            words = command(objective, options.samples, options.attacked)
            text, documents[objective] = calibrated(Path(folder), words)
            yield from ["", f"## `--objective {objective}`", "", "```"]
            yield from [f"$ onnxfit {' '.join(words)}", "", text, "```"]
    yield from ["", NOTE, f"## All jumps of both curves on the same {options.common} images", ""]
    yield (
        "Shares with 95 % intervals; paired differences to the network before hardening in points, "
        "with 95 % intervals and McNemar's exact p, none of them corrected for the number of jumps."
    )
    yield ""
    yield from common(documents, options.samples, options.common)


def main() -> None:
    """Print the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--attacked", type=int, default=512)
    parser.add_argument("--common", type=int, default=256)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for line in sections(options):
        lines.append(line)
        print(line, flush=True)
    if options.write:
        publish(RESULT, lines)


if __name__ == "__main__":
    main()
