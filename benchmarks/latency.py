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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bundled_networks import NAMES, network
from onnx import ModelProto, helper

import onnxfit
from onnxfit.compilation.machine import this_machine
from onnxfit.runtime import quiet_options
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


def started(model: ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """Start a session with so many threads."""
    options = quiet_options()
    options.intra_op_num_threads = threads
    return onnxfit.session(model, options)


def measured(name: str, batch: int, threads: int, question: str) -> Row:
    """Measure the forms of a network beside the network before hardening."""
    plain = network(name, batch)
    hard = onnxfit.retrofit(plain, JUMP)
    forms = FORMS[question]
    models = [plain, *(make(hard) for make in forms.values()), plain]
    sessions = [started(model, threads) for model in models]
    (value,) = sessions[0].get_inputs()
    x = np.random.default_rng(0).standard_normal(value.shape).astype(np.float32)
    calls = [functools.partial(each.run, None, {value.name: x}) for each in sessions]
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


def table(rows: list[Row]) -> list[str]:
    """Return the table of the ratios, with the geometric means."""
    columns = list(rows[0]["ratios"])
    lines = [
        "| network | batch | threads | original, ms | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 4) + "|",
    ]
    for row in rows:
        cells = [row["network"], str(row["batch"]), str(row["threads"])]
        cells.append(f"{row['milliseconds']:.2f}")
        for middle, (low, high) in (row["ratios"][column] for column in columns):
            cells.append(f"{middle:.3f} ({low:.3f}–{high:.3f})")
        lines.append("| " + " | ".join(cells) + " |")
    for threads in sorted({row["threads"] for row in rows}):
        some = [row for row in rows if row["threads"] == threads]
        cells = ["**geometric mean, worst**", "", str(threads), ""]
        for column in columns:
            middles = [row["ratios"][column][0] for row in some]
            mean = float(np.exp(np.mean(np.log(middles))))
            cells.append(f"**{mean:.3f}, {max(middles):.3f}**")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("question", choices=FORMS)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    rows = []
    for threads, batch, name in itertools.product(options.threads, options.batch, options.only):
        rows.append(measured(name, batch, threads, options.question))
        print(json.dumps(rows[-1]), flush=True)
    environment = {
        **this_machine(),
        "cores": os.cpu_count(),
        "onnxfit": onnxfit.__version__,
        "numpy": np.__version__,
    }
    lines = [
        f"# Latency of hardened networks: {options.question}",
        "",
        f"`python benchmarks/latency.py {options.question}`: time of a form of the network, "
        f"hardened with jump {JUMP} at every site, as a share of the original's in ONNX Runtime with full "
        f"optimisation; {ROUNDS} rounds in turns in one process, medians and 95 % intervals. "
        "*itself* is the original in a second session: the noise.",
        "",
        ", ".join(f"{key} {value}" for key, value in environment.items()),
        "",
        *table(rows),
    ]
    print("\n".join(lines))
    if options.write:
        name = f"latency_{options.question}"
        RESULTS.joinpath(f"{name}.md").write_text("\n".join([*lines, ""]), "utf-8")
        text = json.dumps({"environment": environment, "rows": rows}, indent=1)
        RESULTS.joinpath(f"{name}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
