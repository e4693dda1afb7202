"""What do interpolation and denoising cost, and how does accuracy grow with the templates?

Three networks with their own last layer, with the kernel in its place, and with the weighted
nonlocal Laplacian given samples one by one and 256 at a time; and with a denoising in front, with
all pixels and with half of them dropped at each run, whose accuracies are in interpolation-tv.md.
Accuracy, size and latency are those of the whole files in ONNX Runtime. The curves take the same
nodes behind features computed once: of each number of templates several draws, as many of each
class as of the others.

    python benchmarks/interpolation.py [--only digits mnist cifar10] [--draws 7] [--write]
"""

import argparse
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from environment import command_line, processor
from images import CIFAR10_JPEG, CIFAR10_TRAIN, DIGITS_TEST, DIGITS_VAL, MNIST, Samples
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from published import publish
from trained_networks import RESNET20, Model, digits, lenet

import onnxfit
from onnxfit.passes.head import find_head
from onnxfit.passes.interpolation import Kind
from onnxfit.runtime import quiet_options
from onnxfit.verification.latency import ROUNDS, in_turns, ratio

RESULT = Path(__file__).parent / "results" / "interpolation.md"
NEIGHBOURS, MIDDLE = 15, 8
COUNTS = (10, 20, 50, 100, 200, 500, 1000, 2000, 3000)
BATCHES = (1, 256)
# What stands in the place of the last layer, and how many samples it is given at a time.
FORMS: tuple[tuple[Kind, int], ...] = (("kernel", 256), ("wnll", 1), ("wnll", 256))
KINDS: tuple[Kind, ...] = ("kernel", "wnll")
# Denoisings, by their names in the table.
WEIGHT = 0.03
DENOISINGS: dict[str, dict[str, Any]] = {"denoised": {}, "half dropped": {"keep": 0.5}}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and its data.

    Attributes:
        model: Its file.
        templates: Labelled samples to interpolate over.
        test: Others, which are classified.
        words: What the templates are.
    """

    model: Model
    templates: Samples
    test: Samples
    words: str


CASES = {
    "digits": Case(
        model=digits("cnn"),
        templates=Samples(DIGITS_VAL, 0, 450),
        test=Samples(DIGITS_TEST, 0, 449),
        words="which it was not trained on",
    ),
    "mnist": Case(
        model=lenet("baseline"),
        templates=Samples(MNIST, 0, 3000),
        test=Samples(MNIST, 4000, 1000),
        words="which it was not trained on",
    ),
    "cifar10": Case(
        model=RESNET20,
        templates=Samples(CIFAR10_JPEG, 0, 2000),
        test=Samples(CIFAR10_JPEG, 2000, 2000),
        words="which it was not trained on",
    ),
    "cifar10-train": Case(
        model=RESNET20,
        templates=Samples(CIFAR10_TRAIN, 0, 2000),
        test=Samples(CIFAR10_JPEG, 2000, 2000),
        words="of its training images",
    ),
}


def normalised(x: NDArray[Any], case: Case) -> NDArray[np.float32]:
    """Return samples as the network takes them."""
    shape = (1, -1, 1, 1)
    mean, std = (
        np.array(numbers, np.float32).reshape(shape)
        for numbers in (case.model.mean, case.model.std)
    )
    pixels = x.astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
    return np.asarray((pixels - mean) / std, np.float32)


def started(model: ModelProto) -> onnxruntime.InferenceSession:
    """Start a session of one thread."""
    options = quiet_options()
    options.intra_op_num_threads = 1
    return onnxfit.session(model, options)


def outputs(
    session: onnxruntime.InferenceSession,
    x: NDArray[np.float32],
    batch: int,
    name: str | None = None,
) -> NDArray[np.float32]:
    """Return the first output of samples, or another one, so many of them at a time."""
    (value,) = session.get_inputs()
    names = None if name is None else [name]
    starts = range(0, len(x), batch)
    parts = [session.run(names, {value.name: x[at : at + batch]})[0] for at in starts]
    return np.concatenate(parts)


def accuracy(model: ModelProto, x: NDArray[np.float32], y: NDArray[np.int64], batch: int) -> float:
    """Return the share of samples that a file classifies correctly."""
    return float((outputs(started(model), x, batch).argmax(1) == y).mean())


def whole_files(name: str, case: Case, batches: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """Return a network's rows of the table of accuracies and of that of sizes and latencies."""
    model, (x, y) = onnxfit.load(case.model.path), case.test.read()
    x = normalised(x, case)
    units = case.model.normalisation
    files: dict[str, ModelProto] = {
        kind: onnxfit.interpolate(model, case.templates.read(), kind=kind, **units)
        for kind in KINDS
    }
    own = accuracy(model, x, y, 256)
    found = [accuracy(files[kind], x, y, batch) for kind, batch in FORMS]
    cells = [f"{100 * each:.1f} ({100 * (each - own):+.1f})" for each in found]
    count = case.templates.count
    first = [f"| {name} | {count} | {len(y)} | {100 * own:.1f} | " + " | ".join(cells) + " |"]
    for form, mask in DENOISINGS.items():
        files[form] = onnxfit.denoise(model, WEIGHT, **mask, **units)
    sessions = [started(each) for each in (model, *files.values(), model)]
    costs = []
    for batch in batches:
        some = np.resize(x, (batch, *x.shape[1:]))
        calls: list[Callable[[], Any]] = [
            functools.partial(outputs, session, some, batch) for session in sessions
        ]
        times = in_turns(calls)
        sizes = [each.ByteSize() / model.ByteSize() for each in files.values()]
        cells = [name, str(batch), f"{1000 * float(np.median(times[:, 0])):.2f}"]
        for took in times.T[1:]:
            middle, (low, high) = ratio(took, times[:, 0])
            cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
        cells += [f"{model.ByteSize() / 2**10:.0f}", *(f"{size:.2f}" for size in sizes)]
        costs.append("| " + " | ".join(cells) + " |")
    return first, costs


def head_alone(dimensions: int, classes: int) -> ModelProto:
    """Make a network whose features are its input."""
    weights = np.zeros((dimensions, classes), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", dimensions])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def drawn(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw templates: of each class as many, as far as there are."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    # The place of each among those of its class.
    place = np.zeros(len(labels), np.int64)
    for kind in np.unique(labels):
        members = order[labels[order] == kind]
        place[members] = np.arange(len(members))
    taken: NDArray[np.int64] = order[np.argsort(place[order], kind="stable")][:count]
    return taken


def curve(case: Case, draws: int) -> list[str]:
    """Return the rows of a network's accuracy by the number of templates."""
    model = onnxfit.load(case.model.path)
    name = find_head(model).feature
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = started(model)
    (x, y), (t, labels) = case.test.read(), case.templates.read()
    features, templates = (
        outputs(session, normalised(part, case), 256, name).reshape(len(part), -1)
        for part in (x, t)
    )
    bare = head_alone(features.shape[1], int(labels.max()) + 1)
    bounds = float(templates.min()) - 1, float(templates.max()) + 1
    rows = []
    for count in (*(n for n in COUNTS if n < len(labels)), len(labels)):
        seeds = range(draws if count < len(labels) else 1)
        found = np.zeros((len(seeds), len(FORMS)))
        for seed in seeds:
            rows_taken = drawn(labels, count, seed)
            for column, (kind, batch) in enumerate(FORMS):
                made = onnxfit.interpolate(
                    bare,
                    (templates[rows_taken], labels[rows_taken]),
                    kind=kind,
                    neighbours=min(NEIGHBOURS, count),
                    bandwidth_neighbour=MIDDLE,
                    bounds=bounds,
                )
                found[seed, column] = 100 * accuracy(made, features, y, batch)
        cells = [
            f"{np.median(c):.1f} ({c.min():.1f}–{c.max():.1f})" if len(c) > 1 else f"{c[0]:.1f}"
            for c in found.T
        ]
        rows.append(f"| {count} | " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Print the tables of results/interpolation.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--draws", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    accuracies: list[str] = []
    costs: list[str] = []
    curves: list[str] = []
    files = " | ".join((*KINDS, *DENOISINGS))
    forms = " | ".join(f"{kind}, batch {batch}" for kind, batch in FORMS)
    for name in options.only:
        case = CASES[name]
        first, second = whole_files(name, case, tuple(options.batches))
        accuracies += first
        costs += second
        print(*first, *second, sep="\n", flush=True)
        curves += [
            "",
            f"### {name}: {case.templates}, {case.words}",
            "",
            f"| templates | {forms} |",
        ]
        curves += ["|---" * (1 + len(FORMS)) + "|", *curve(case, options.draws)]
    lines = [
        "# Interpolation and denoising: accuracy, size, latency",
        "",
        f"`{command_line()}` on {os.cpu_count()} cores, {processor()}, ONNX Runtime "
        f"{onnxruntime.__version__}, one thread, onnxfit {onnxfit.__version__}; load average "
        f"{os.getloadavg()[0]:.1f} at the end, where 1 is this benchmark alone. {NEIGHBOURS} "
        f"neighbours, the {MIDDLE}th one bandwidth away. Templates:",
        "",
        *(f"- {name}: {CASES[name].templates}, {CASES[name].words}." for name in options.only),
        "",
        "## Clean accuracy, % (points from the network's own layer)",
        "",
        f"| network | templates | test images | own layer | {forms} |",
        "|---" * (4 + len(FORMS)) + "|",
        *accuracies,
        "",
        "## Latency and size",
        "",
        f"Medians and 95 % intervals of {ROUNDS} rounds in turns in one process, as shares of the "
        "network as it is; *itself* is that in a second session: the noise. Denoising is of weight "
        f"{WEIGHT:g}, 50 iterations.",
        "",
        f"| network | batch | as it is, ms | {files} | itself | file, KiB | {files} |",
        "|---" * (5 + 2 * len(KINDS + tuple(DENOISINGS))) + "|",
        *costs,
        "",
        "## Accuracy by the number of templates, %",
        "",
        f"Medians of {options.draws} draws (smallest to largest), as many templates of each class; "
        f"as many neighbours as templates where there are fewer than {NEIGHBOURS}.",
        *curves,
    ]
    print("\n".join(lines))
    if options.write:
        publish(RESULT, lines)


if __name__ == "__main__":
    main()
