"""The tables of what ``interpolation_tv.py`` measured, and the one of docs/robustness.md."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from stored_runs import Record, StoredRuns
from tables import MORE, filled, percent, points, table, verdict
from trained_networks import ROOT

from onnxfit.surrogate_networks.denoising import PAST
from onnxfit.surrogate_networks.interpolation import OWN_HEAD
from onnxfit.verification.statistics import (
    SIGNIFICANCE,
    Interval,
    mcnemar,
    paired_difference,
)

RESULTS = Path(__file__).parent / "results"
STORE, TABLES = RESULTS / "interpolation-tv.json", RESULTS / "interpolation-tv.md"
PAGE, SCRIPT = ROOT / "docs" / "robustness.md", "interpolation_tv.py"

IFGSM, NATIVE, GATES = "IFGSM", "native", "smooth gates"
DRAWN, HARDER = "half drawn", "harder"
FEATURES, BLACK_BOX, TRANSFER = "features", "black box", "transfer"
COLUMNS = (IFGSM, NATIVE, GATES, OWN_HEAD, FEATURES, PAST, BLACK_BOX, TRANSFER)

CLAIM = (
    "Wang et al. (2018, arXiv 1809.08516) report, of an adversarially trained ResNet-20 on "
    "CIFAR-10 under IFGSM, about 46 % robust accuracy with the linear output and about 69 % with "
    "the interpolating one, with which it was trained. Nothing is trained here."
)
WORDS = """
The attacks are those of `onnxfit verify --suite standard` against ℓ∞, in columns. Each column
attacks all samples that were right, and says which share of all samples withstood it:

- `IFGSM`: the attack of the paper, along the row's own gradient.
- `native`: FGSM, APGD-CE, APGD-T and FAB-T along the row's own gradient, which goes through the
  kernel, the sweeps of WNLL and the iterations of the denoising.
- `smooth gates`: APGD-CE and APGD-T with a Relu and with smooth gates in the place of jumps.
- `own head`: the same along the gradient of the last layer that interpolation replaced.
- `features`: the same along the smooth kernels over all templates, toward those of other classes
  (Sitawarin and Wagner, 2019).
- `past denoising`: along any of these, with the denoising passed over in the gradient (BPDA,
  Athalye et al., 2018).
- `black box`: random points, Square and HopSkipJump, on the file in ONNX Runtime.
- `transfer`: points made on the network as it is.

The worst case is over all columns. Every point is judged by the file in ONNX Runtime. *Half
dropped* keeps the same half of the pixels in every run (`--tv-keep 0.5 --tv-seed 0`). WNLL attacks
and judges batches of 100. Differences of worst cases are to the network as it is, paired; the
intervals of a network's rows hold together with 95 % (Bonferroni), p is of the exact test of one
row.

Where half of the pixels are *drawn*, others for each sample at each run, attacks follow averages
over ten passes (EOT), and what is told is the mean accuracy of many runs of the file at the points
found. The worst of the three attacks is chosen for each sample by half of the runs, and judged by
the others.
"""


def write(store: StoredRuns, titles: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Write interpolation-tv.md into benchmarks/results, and the table of the page.

    Args:
        store: What was measured.
        titles: Title and rows of each network, by its key.
    """
    page = PAGE.read_text(encoding="utf-8")
    made = {
        TABLES: "\n".join([*document(store, titles), ""]),
        PAGE: filled(page, {"interpolation": summary(store, titles)}, SCRIPT),
    }
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


def document(store: StoredRuns, titles: Mapping[str, tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Yield the lines of interpolation-tv.md."""
    yield "# Interpolation over templates and less total variation under attack"
    yield ""
    yield "Written by `python benchmarks/interpolation_tv.py report` from `interpolation-tv.json`,"
    yield "which has the hashes of every file and the commit that measured it."
    yield from WORDS.splitlines()
    yield ""
    yield CLAIM
    for key, (title, names) in titles.items():
        rows = rows_of(store, key, names)
        if not rows:
            continue
        first = next(iter(rows.values()))
        own = (run for name, run in store.runs.items() if name.startswith(f"{key}/"))
        hashes = sorted({run["commit"][:12] for run in own})
        commits = f"commit{'s' * (len(hashes) > 1)} {', '.join(hashes)}"
        yield ""
        yield f"## {title}"
        yield ""
        yield (
            f"ℓ∞ eps {first['eps']:.4g}, {first['samples']} samples ({first['attacked']}), seed 0; "
            f"{first['steps']} steps, {first['queries']} queries of Square and a fifth of "
            f"HopSkipJump; templates {first['templates']}; jump {first['jump']:g}; weight "
            f"{first['weight']:g}, {first['denoising']} iterations; {commits}."
        )
        yield ""
        header = ["model", "clean", *COLUMNS, "worst case", "difference, points", "p"]
        yield from table(header, (cells(name, rows) for name in rows))
        for name in more_robust(rows):
            if harder := store.runs.get(f"{key}/{name}/{HARDER}"):
                yield ""
                yield (
                    f"*{name}*: {harder['attacks']} more attacks on the {harder['left']} samples "
                    f"left, with another seed, broke {harder['broken']}: APGD with two losses and "
                    "two restarts along every gradient, APGD-T, FAB-T, Square; 100 steps, 5000 "
                    "queries."
                )
        if drawn := store.runs.get(f"{key}/{DRAWN}"):
            yield ""
            yield f"Half of the pixels drawn at each run, {drawn['runs']} runs:"
            yield ""
            shares = {**drawn["accuracy"], "worst case": drawn["worst"]}
            yield from table(list(shares), [[f"{100 * each:.1f} %" for each in shares.values()]])


def summary(store: StoredRuns, titles: Mapping[str, tuple[str, Sequence[str]]]) -> list[str]:
    """Return the lines of the table of the page."""
    found = []
    for key, (title, names) in titles.items():
        rows = rows_of(store, key, names)
        for name, run in rows.items():
            shares = [clean(run), share_of(run, IFGSM), share_of(run, NATIVE), worst_share(run)]
            row = [name, *(f"{100 * share:.1f} %" for share in shares)]
            if name == names[0]:
                row = [f"{title}, {run['eps']:.3g}, {run['samples']}", *row, "", ""]
            else:
                change, limits = difference(run, rows)
                row = ["", *row, points(change, limits), verdict(limits)]
            found.append(row)
    header = ["network, eps, images", "form", "clean", IFGSM, "native gradients alone"]
    header += ["worst case", "worst-case difference, points", "conclusion"]
    return list(table(header, found))


def rows_of(store: StoredRuns, key: str, names: Sequence[str]) -> dict[str, Record]:
    """Return what was measured of a network, none before the network as it is."""
    found = {name: store.runs[f"{key}/{name}"] for name in names if f"{key}/{name}" in store.runs}
    return found if names[0] in found else {}


def more_robust(rows: Mapping[str, Record]) -> list[str]:
    """Return the rows that are more robust than the first."""
    others = list(rows)[1:]
    return [name for name in others if verdict(difference(rows[name], rows)[1]) == MORE]


def cells(name: str, rows: Mapping[str, Record]) -> list[str]:
    """Return a row of a network's table."""
    run, first = rows[name], next(iter(rows.values()))
    shares = [f"{100 * share_of(run, c):.1f} %" if c in run["robust"] else "–" for c in COLUMNS]
    row = [name, f"{100 * clean(run):.1f} %", *shares, percent(worst_share(run), run["samples"])]
    if run is first:
        return [*row, "–", "–"]
    gained, lost = discordant(run, first)
    return [*row, points(*difference(run, rows)), f"{mcnemar(gained, lost):.2g}"]


def clean(run: Record) -> float:
    """Return the share of samples that are right before any attack."""
    return float(mask(run["correct"]).mean())


def share_of(run: Record, column: str) -> float:
    """Return the share of samples that withstand a column."""
    return float(mask(run["robust"][column]).mean())


def worst(run: Record) -> NDArray[np.bool_]:
    """Return which samples withstand all columns."""
    found: NDArray[np.bool_] = np.all([mask(each) for each in run["robust"].values()], axis=0)
    return found


def worst_share(run: Record) -> float:
    """Return their share."""
    return float(worst(run).mean())


def discordant(run: Record, first: Record) -> tuple[int, int]:
    """Count the samples that withstand everything with one of two models alone."""
    one, other = worst(run), worst(first)
    return int((one & ~other).sum()), int((other & ~one).sum())


def difference(run: Record, rows: Mapping[str, Record]) -> tuple[float, Interval]:
    """Return the difference of worst cases to the first row, and its interval.

    All intervals of a network's rows hold with 95 % (Bonferroni).
    """
    gained, lost = discordant(run, next(iter(rows.values())))
    n, confidence = run["samples"], 1 - SIGNIFICANCE / (len(rows) - 1)
    return (gained - lost) / n, paired_difference(gained, lost, n, confidence)


def mask(digits: str) -> NDArray[np.bool_]:
    """Return what the digits of a mask say of each sample."""
    return np.array([digit == "1" for digit in digits])
