"""The tables of what ``finetune.py`` measured, and what they say of the papers' claims."""

from collections.abc import Iterator, Sequence

from finetune_cases import MAX_DROP, NETWORKS, TRIED, Network
from finetune_claims import SOURCES, claims, compared, judged, rate, size
from paper_results import RESULTS, Record, Results
from tables import percent, points, table

from onnxfit.verification.statistics import paired_difference

STORE, TABLES = RESULTS / "finetune.json", RESULTS / "finetune.md"

HOW = (
    "ℓ∞, pixels from 0 to 1. Each figure has its 95 % interval: Wilson's for shares, Tango's for "
    "the paired difference to the network before, the normal one for mean norms.",
    "",
    "- *native*, *worst case*: robust accuracy under the attacks of `quick`, by the network's own "
    "gradients alone and under all of them; what is transferred there comes from the network "
    "before. *Conclusion*: about the worst case, by paired exact tests, corrected for the rows of "
    "a table (Bonferroni).",
    "- *UER*: of the images that are right, the share that one universal perturbation turns wrong: "
    "SGD-UAP, 10 epochs on at most 500 validation images, true or smooth-gate backward, the one "
    "that does more.",
    "- *from …*: robust accuracy under MI-FGSM, 10 steps, made on that network; † where it is the "
    "judged one itself, so that nothing is transferred.",
    "- *seconds*: CPU time of the training with its checks.",
    "",
    "All counts are of what the file does in ONNX Runtime. One seed.",
)


def write(results: Results) -> None:
    """Write finetune.md into benchmarks/results."""
    TABLES.write_text("\n".join([*document(results), ""]), encoding="utf-8")


def document(results: Results) -> Iterator[str]:
    """Yield the lines of finetune.md."""
    yield "# What each term of a fine-tuning brings, alone and with a jump"
    yield ""
    yield "Written by `python benchmarks/finetune.py report` from `finetune.json`, which holds for"
    yield "each run the commit, the versions and the hashes of model and images."
    yield ""
    yield from sources(results)
    yield ""
    yield from HOW
    done = [network for network in NETWORKS if judged(results, network)]
    for network in done:
        yield from ["", f"## {network.title}", ""]
        yield from section(results, network)
    missing = [network.title for network in NETWORKS if network not in done]
    if missing:
        yield from ["", f"Not measured yet: {', '.join(missing)}."]
    yield from ["", "## The papers' claims", ""]
    yield from claims(results, done)


def sources(results: Results) -> Iterator[str]:
    """Yield what the figures rest on."""
    runs = results.runs.values()
    versions = {", ".join(f"{k} {v}" for k, v in run["versions"].items()) for run in runs}
    machines = {f"{run['processor']}, {run['threads']} thread(s)" for run in runs}
    yield f"Versions: {'; '.join(sorted(versions))}. On {'; '.join(sorted(machines))}."
    yield f"Commits: {', '.join(sorted({run['commit'][:12] for run in runs}))}."


# ---- the tables of a network ----


def section(results: Results, network: Network) -> Iterator[str]:
    """Yield what was measured of a network."""
    runs = judged(results, network)
    jump = results.runs.get(f"{network.key}/jump")
    yield network.note
    yield f"Radius {size(network.eps)}; {network.epochs} epochs, learning rate"
    yield f"{network.learning_rate:g}; a drop of clean accuracy of at most {100 * MAX_DROP:g} %."
    if jump is not None:
        gain = "a" if jump["improves"] else "no"
        yield f"The jump is {jump['jump']:g} at every site: the choice of `onnxfit calibrate`,"
        yield f"which saw {gain} gain beyond noise."
    kept = [run for run in runs if run["kept"]]
    for run in runs:
        if run not in kept:
            yield f"With {named(run)} no check kept the budget of clean accuracy."
    yield ""
    yield from accuracies(kept)
    yield ""
    yield from evasions(kept, network)
    if any("/trained/" in key for key in results.runs if key.startswith(network.key)):
        yield ""
        yield from weights(results, network)


def named(run: Record) -> str:
    """Name what was done to a network."""
    words = [f"`{run['method']}`"] if run["method"] else []
    words += [] if run["jump"] is None else ["jump"]
    return " and ".join(words) or "nothing"


def accuracies(runs: Sequence[Record]) -> Iterator[str]:
    """Yield accuracies, norms and times."""
    header = ["trained with", "weight", "clean", "native", "worst case", "worst case, points"]
    header += ["conclusion", "mean ‖J‖_F", "seconds"]
    rows = []
    for run in runs:
        row = [named(run), f"{run['weight']:g}" if run["method"] else "–"]
        row += [accuracy(run[share], run["n"]) for share in ("clean", "native", "worst")]
        row += ["–", "–"] if run is runs[0] else [gain(run), compared(run["worst"], len(runs) - 1)]
        mean, (low, high) = (run["jacobian"][name] for name in ("mean", "ci95"))
        row += [f"{mean:.3g} ({low:.3g} to {high:.3g})"]
        rows.append([*row, "–" if run["training"] is None else f"{run['training']:.0f}"])
    yield from table(header, rows)


def accuracy(counts: Record, n: int) -> str:
    """Write the share of n images that stay right."""
    return percent(counts["right"] / n, n)


def gain(run: Record) -> str:
    """Write the paired difference of the worst case to the one before."""
    more, fewer = run["worst"]["only_before"], run["worst"]["only_after"]
    return points((more - fewer) / run["n"], paired_difference(more, fewer, run["n"]))


def evasions(runs: Sequence[Record], network: Network) -> Iterator[str]:
    """Yield what universal and transferred perturbations do."""
    header = ["trained with", *(f"UER, {size(eps)}" for eps in network.universal)]
    header += [f"from the {name}" for name in SOURCES.values()]
    own = {"before": "nothing", "adversarial": "`adversarial`"}
    rows = []
    for run in runs:
        row = [named(run)]
        row += [percent(rate(each), each["correct"]) for each in run["universal"]]
        for source in SOURCES:
            share = accuracy(run["transfer"][source], run["n"])
            row.append(share + (" †" if own.get(source) == named(run) else ""))
        rows.append(row)
    yield from table(header, rows)


def weights(results: Results, network: Network) -> Iterator[str]:
    """Yield what the trainings kept on the validation images."""
    yield "What the trainings kept, on the validation images (APGD, two losses, 20 steps):"
    yield ""
    rows = []
    for method in TRIED:
        found = [
            run
            for key, run in results.runs.items()
            if key.startswith(f"{network.key}/trained/") and run["method"] == method
        ]
        for run in sorted(found, key=lambda run: (run["jump"] is not None, run["weight"])):
            shares = run["validation"]
            cells = ["none kept the budget"] * 2
            if shares is not None:
                cells = [f"{100 * shares[name]:.1f} %" for name in ("clean", "robust")]
            rows.append([named(run), f"{run['weight']:g}", *cells, f"{run['seconds']:.0f}"])
    yield from table(["trained with", "weight", "clean", "robust", "seconds"], rows)
