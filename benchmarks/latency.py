"""What does a jump cost in ONNX Runtime, compiled, and as a plain hardened file with the library?

The nine architectures that the onnx package brings, hardened at every site. All forms of a network
run in turns in one process, on the same images, beside the network before hardening, which ONNX
Runtime optimises fully. A plain hardened file is also compared with what its user would otherwise
put in the place of each Relu: ThresholdedRelu, or LessOrEqual and Where.

    python benchmarks/latency.py compiled|plain [--only squeezenet] [--threads 1 2]
                                         [--batch 1 8] [--write]
"""

import argparse
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tables
from bundled_networks import NAMES, network
from environment import MEASURED, clean_commit, processor, session_in_turns
from onnx import ModelProto, helper

import onnxfit
from onnxfit.compilation.machine import this_machine
from onnxfit.verification.latency import ROUNDS, in_turns, ratio

RESULTS = Path(__file__).parent / "results"
JUMP = 0.1
Row = dict[str, Any]


def thresholded(hard: ModelProto) -> ModelProto:
    """Return the network with a ThresholdedRelu in the place of each Relu."""
    model = onnxfit.restore(hard)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "ThresholdedRelu"
            node.attribute.append(helper.make_attribute("alpha", JUMP))
    return model


# By question: the forms of a network.
FORMS: dict[str, dict[str, Callable[[ModelProto], ModelProto]]] = {
    "compiled": {"compiled": onnxfit.compile},
    "plain": {
        "with library": lambda hard: hard,
        "ThresholdedRelu": thresholded,
        "LessOrEqual, Where": lambda hard: onnxfit.retrofit(hard, JUMP, lowering="standard"),
    },
}
BEST = "library / best other"
# By question: the column that is judged, and by the number of threads the largest ratios that are
# aimed at, as the geometric mean and of one row.
TARGETS = {
    "compiled": ("compiled", {1: (1.01, 1.04), 2: (1.03, 1.08)}),
    "plain": (BEST, {1: (1.02, 1.02), 2: (1.02, 1.02)}),
}


def measured(name: str, batch: int, threads: int, question: str) -> Row:
    """Measure the forms of a network beside the network before hardening."""
    plain = network(name, batch)
    hard = onnxfit.retrofit(plain, JUMP)
    forms = FORMS[question]
    models = [plain, *(make(hard) for make in forms.values()), plain]
    sessions = [session_in_turns(model, threads) for model in models]
    (value,) = sessions[0].get_inputs()
    x = np.random.default_rng(0).standard_normal(value.shape).astype(np.float32)
    calls = [functools.partial(each.run, None, {value.name: x}) for each in sessions]
    (expected,) = session_in_turns(hard, threads).run(None, {value.name: x})
    for form, call in zip(forms, calls[1:-1], strict=True):
        if not np.allclose(expected, call()[0], rtol=1e-3, atol=1e-6):
            raise SystemExit(f"{name}: {form} does not compute what the hardened network does")
    times = in_turns(calls)
    columns = [*forms, "itself"]
    ratios = {c: ratio(times[:, i + 1], times[:, 0]) for i, c in enumerate(columns)}
    if question == "plain":
        best = min((2, 3), key=lambda i: float(np.median(times[:, i])))
        ratios[BEST] = ratio(times[:, 1], times[:, best])
    return {
        "network": name,
        "batch": batch,
        "threads": threads,
        "milliseconds": float(np.median(times[:, 0]) * 1000),
        "ratios": ratios,
    }


def table(rows: list[Row]) -> Iterator[str]:
    """Yield the table of the ratios, with the geometric means."""
    columns = list(rows[0]["ratios"])
    lines = []
    for row in rows:
        cells = [row["network"], str(row["batch"]), str(row["threads"])]
        cells.append(f"{row['milliseconds']:.2f}")
        for middle, (low, high) in (row["ratios"][column] for column in columns):
            cells.append(f"{middle:.3f} ({low:.3f}–{high:.3f})")
        lines.append(cells)
    for threads in sorted({row["threads"] for row in rows}):
        cells = ["**geometric mean, worst**", "", str(threads), ""]
        for column in columns:
            mean, worst = summary(rows, threads, column)
            cells.append(f"**{mean:.3f}, {worst:.3f}**")
        lines.append(cells)
    return tables.table(["network", "batch", "threads", "original, ms", *columns], lines)


def summary(rows: list[Row], threads: int, column: str) -> tuple[float, float]:
    """Return the geometric mean and the largest of the medians with so many threads."""
    middles = [row["ratios"][column][0] for row in rows if row["threads"] == threads]
    return float(np.exp(np.mean(np.log(middles)))), max(middles)


def verdicts(rows: list[Row], question: str) -> list[str]:
    """Say for each number of threads whether the target is reached."""
    column, targets = TARGETS[question]
    lines = []
    for threads in sorted({row["threads"] for row in rows} & set(targets)):
        found, most = summary(rows, threads, column), targets[threads]
        reached = all(one <= limit for one, limit in zip(found, most, strict=True))
        lines += [
            "",
            f"Target of *{column}*, threads {threads}: geometric mean at most {most[0]}, worst at "
            f"most {most[1]}. {'Reached' if reached else 'Not reached'}: {found[0]:.3f} and "
            f"{found[1]:.3f}.",
        ]
    return lines


def page(rows: list[Row], question: str, here: dict[str, Any]) -> list[str]:
    """Return what is printed: how it was measured, the table, and what it is worth."""
    return [
        f"# Latency of hardened networks: {question}",
        "",
        f"`python benchmarks/latency.py {question}`: time of a form of the network, "
        f"hardened with jump {JUMP} at every site, as a share of the original's in ONNX Runtime "
        f"with full optimisation; {ROUNDS} rounds in turns in one process, medians and 95 % "
        "intervals. *itself* is the original in a second session: the noise.",
        "",
        ", ".join(f"{key} {value}" for key, value in here.items()),
        "",
        *table(rows),
        *verdicts(rows, question),
    ]


def environment(commit: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "commit": commit,
        **this_machine(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "onnx": onnx.__version__,
        "onnxfit": onnxfit.__version__,
        "numpy": np.__version__,
    }


def earlier(path: Path, environment: dict[str, Any]) -> dict[tuple[int, int, str], Row]:
    """Return the rows that were written in the same environment before, so that parts add up."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text("utf-8"))
    rows = content["rows"] if content["environment"] == environment else []
    return {(row["threads"], row["batch"], row["network"]): row for row in rows}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("question", choices=FORMS)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    here = environment(clean_commit(*MEASURED) if options.write else "unknown")
    place = RESULTS / f"latency_{options.question}"
    known = earlier(place.with_suffix(".json"), here) if options.write else {}
    for threads, batch, name in itertools.product(options.threads, options.batch, options.only):
        row = measured(name, batch, threads, options.question)
        known[threads, batch, name] = row
        print(json.dumps(row), flush=True)
    rows = [known[key] for key in sorted(known)]
    lines = page(rows, options.question, here)
    print("\n".join(lines))
    if options.write:
        place.with_suffix(".md").write_text("\n".join([*lines, ""]), "utf-8")
        text = json.dumps({"environment": here, "rows": rows}, indent=1)
        place.with_suffix(".json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
