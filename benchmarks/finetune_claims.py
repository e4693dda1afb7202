"""What the runs of ``finetune.py`` say of the papers' claims, in tables and in words."""

from collections.abc import Iterator, Mapping, Sequence

from finetune_cases import TRIED, Network
from paper_results import Record, Results
from tables import LESS, MORE, UNDECIDED, table

from onnxfit.verification.statistics import SIGNIFICANCE, mcnemar

SOURCES = {"before": "network before", "adversarial": "adversarial one", "stranger": "stranger"}
ARROWS = {MORE: " ↑", LESS: " ↓", UNDECIDED: ""}
# By how many times fewer universal perturbations succeed, at most, in Co et al.
CLAIMED = 4
# Of successes: below it there is little that could be fewer.
LITTLE = 0.01

# A row of a table: its name, and by method what was counted, of the network as it was as well.
Row = tuple[str, Mapping[str, Record]]


def judged(results: Results, network: Network) -> list[Record]:
    """Return what was judged of a network: itself and the jump alone first, then by method."""
    found = [run for key, run in results.runs.items() if key.startswith(f"{network.key}/judged/")]
    order = ["", *TRIED]
    return sorted(found, key=lambda run: (order.index(run["method"]), run["jump"] is not None))


def rate(universal: Record) -> float:
    """Return the share of the images that are right which a universal perturbation turns wrong."""
    return float(universal["evaded"] / max(universal["correct"], 1))


def size(eps: float) -> str:
    """Write the size of a perturbation."""
    return f"{eps * 255:g}/255" if eps < 0.05 else f"{eps:g}"


def compared(counts: Record, comparisons: int) -> str:
    """Say whether more images are wrong before alone or after alone (Bonferroni)."""
    before, after = counts["only_before"], counts["only_after"]
    if mcnemar(before, after) >= SIGNIFICANCE / comparisons:
        return UNDECIDED
    return MORE if before > after else LESS


def claims(results: Results, networks: Sequence[Network]) -> Iterator[str]:
    """Yield what the figures say of each claim."""
    yield "Each method alone, at its one weight. ↑ and ↓: beyond noise better and worse than the"
    yield "network before, by paired exact tests, corrected for the cells of a table (Bonferroni)."
    for claim in (universal, transferred, jump):
        yield ""
        yield from claim(results, networks)


def universal(results: Results, networks: Sequence[Network]) -> Iterator[str]:
    """Yield what universal perturbations still do."""
    yield "**Universal perturbations.** Co et al. (arXiv 2104.10459): with Jacobian regularisation"
    yield f"up to {CLAIMED} times fewer succeed, at unchanged clean accuracy. UER here:"
    yield ""
    rows: list[Row] = []
    changes = []
    for network in networks:
        runs = alone(results, network)
        for at, eps in enumerate(network.universal):
            counts = {method: run["universal"][at] for method, run in runs.items()}
            rows.append((f"{network.title}, {size(eps)}", counts))
        if "jacobian" in runs:
            right = [runs[method]["clean"]["right"] for method in ("jacobian", "")]
            changes.append(f"{100 * (right[0] - right[1]) / runs['']['n']:+.1f}")
    shares = {name: [rate(each) for each in counts.values()] for name, counts in rows}
    yield from compare("network, size", rows, shares)
    yield ""
    factors = [
        rate(counts[""]) / max(rate(counts["jacobian"]), 1 / counts["jacobian"]["correct"])
        for counts in better(rows, "jacobian")
    ]
    few = sum(rate(counts[""]) < LITTLE for _, counts in rows)
    yield f"In {few} of {len(rows)} rows less than {100 * LITTLE:g} % succeed before already."
    yield f"{summed(rows, 'jacobian')}; clean accuracy changes by {', '.join(changes)} points."
    if factors:
        reached = "is" if max(factors) >= CLAIMED else "is not"
        yield f"Where it is better, {max(factors):.1f} times fewer succeed at most: a factor of"
        yield f"{CLAIMED} {reached} reached."
    elif changes:
        yield "So the claim is not confirmed here."


def transferred(results: Results, networks: Sequence[Network]) -> Iterator[str]:
    """Yield what adversarial images of other networks do."""
    yield "**Transfer.** Liu et al. (arXiv 2207.13036): J-SIGR makes networks withstand transferred"
    yield "images better. Accuracy under MI-FGSM from networks that are neither of the compared:"
    yield ""
    rows: list[Row] = []
    shares = {}
    for network in networks:
        runs = alone(results, network)
        for source in ("adversarial", "stranger"):
            name = f"{network.title}, from the {SOURCES[source]}"
            counts = {
                method: run["transfer"][source] for method, run in runs.items() if method != source
            }
            rows.append((name, counts))
            shares[name] = [each["right"] / runs[""]["n"] for each in counts.values()]
    yield from compare("network, source", rows, shares)
    yield ""
    yield f"{summed(rows, 'j-sigr')}, {summed(rows, 'adversarial')}."
    if any("j-sigr" in counts for _, counts in rows):
        word = "confirmed for some rows" if better(rows, "j-sigr") else "not confirmed here"
        yield f"So the claim is {word}."


def jump(results: Results, networks: Sequence[Network]) -> Iterator[str]:
    """Yield what a jump adds to a training."""
    yield "**A jump besides.** By how many points the worst case is higher with the jump than"
    yield "without, by the tables above, without a test of its own:"
    yield ""
    rows, changes = [], []
    for network in networks:
        worst = {
            (run["method"], run["jump"] is not None): run["worst"]["right"] / run["n"]
            for run in judged(results, network)
            if run["kept"]
        }
        row = [network.title]
        for method in ("", *TRIED):
            pair = [worst[method, kind] for kind in (True, False) if (method, kind) in worst]
            change = 100 * (pair[0] - pair[1]) if len(pair) == 2 else None
            row.append("–" if change is None else f"{change:+.1f}")
            changes += [] if change is None else [change]
        rows.append(row)
    yield from table(header("network"), rows)
    if changes:
        higher = sum(change > 0 for change in changes)
        yield ""
        yield f"It is higher with the jump in {higher} of {len(changes)} cells."


def alone(results: Results, network: Network) -> dict[str, Record]:
    """Return what was judged without a jump, by method; the network as it was is the first."""
    runs = judged(results, network)
    return {run["method"]: run for run in runs if run["kept"] and run["jump"] is None}


def header(name: str) -> list[str]:
    """Return the header of a table with a column for each method."""
    return [name, "nothing", *(f"`{method}`" for method in TRIED)]


def compare(name: str, rows: Sequence[Row], shares: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Yield a table of shares by method, with an arrow where one is better or worse."""
    cells, many = [], comparisons(rows)
    for title, counts in rows:
        known = dict(zip(counts, shares[title], strict=True))
        cells.append(
            [title]
            + [
                f"{100 * known[method]:.1f} %{ARROWS[compared(counts[method], many)]}"
                if method in known
                else "–"
                for method in ("", *TRIED)
            ]
        )
    yield from table(header(name), cells)


def comparisons(rows: Sequence[Row]) -> int:
    """Return how many cells of a table are compared with the network before."""
    return max(1, sum(len(counts.keys() - {""}) for _, counts in rows))


def better(rows: Sequence[Row], method: str, word: str = MORE) -> list[Mapping[str, Record]]:
    """Return the counts of the rows in which a method is better, or what the word says."""
    many = comparisons(rows)
    found = (counts for _, counts in rows if method in counts)
    return [counts for counts in found if compared(counts[method], many) == word]


def summed(rows: Sequence[Row], method: str) -> str:
    """Say in how many rows a method is better and worse."""
    more, less = (len(better(rows, method, word)) for word in (MORE, LESS))
    n = sum(method in counts for _, counts in rows)
    return f"`{method}` is better in {more} and worse in {less} of {n} rows"
