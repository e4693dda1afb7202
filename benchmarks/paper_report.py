"""The tables and plots of what ``jump_relu_paper.py`` measured, and the page that shows them."""

import io
from collections.abc import Iterator, Sequence

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from paper_cases import NETWORKS, Configuration, Network
from paper_results import RESULTS, Record, Results
from tables import MORE, UNDECIDED, filled, percent, points, table, verdict
from trained_networks import ROOT

from onnxfit.verification.statistics import SIGNIFICANCE, Interval, paired_difference, wilson

TABLES, PLOTS = RESULTS / "paper.md", RESULTS / "paper.svg"
PAGE = ROOT / "docs" / "robustness.md"
SCRIPT = "jump_relu_paper.py"

ATTACKS = {
    "ifgsm": "IFGSM",
    "deepfool-linf": "DeepFool ℓ∞",
    "deepfool-l2": "DeepFool ℓ2",
    "trust-region-l2": "trust region",
    "trust-region-adaptive-l2": "adaptive trust region",
}
NAMES = {"clean": "clean", "native": "native gradients alone", "worst": "worst case"}
COLOURS = {"clean": "#d55e00", "native": "#56b4e9", "worst": "#0072b2"}
MARKERS = {"clean": "s-", "native": "^--", "worst": "o-"}


def write(results: Results) -> None:
    """Write paper.md and paper.svg into benchmarks/results, and the tables of the page."""
    made = {
        TABLES: "\n".join([*document(results), ""]),
        PLOTS: plots(results),
        PAGE: filled(PAGE.read_text(encoding="utf-8"), blocks(results), SCRIPT),
    }
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


def blocks(results: Results) -> dict[str, list[str]]:
    """Return the lines of each table of the page, by its name there."""
    return {"grid": summary(results), "survivors": survivors(results)}


# ---- what the figures allow to say ----


def interval(run: Record, comparisons: int) -> Interval:
    """Return the interval of a paired difference; all of so many hold with 95 % (Bonferroni)."""
    found, confidence = run["difference"], 1 - SIGNIFICANCE / comparisons
    return paired_difference(found["only_model"], found["only_baseline"], run["n"], confidence)


def conclusion(runs: Sequence[Record], comparisons: int) -> str:
    """Say what the intervals of runs with several seeds allow to say, if all allow it."""
    [*said] = {verdict(interval(run, comparisons)) for run in runs}
    return said[0] if len(said) == 1 else UNDECIDED


# ---- cells ----


def difference(run: Record, comparisons: int) -> str:
    """Write the paired difference of the worst cases."""
    return points(run["difference"]["robust_accuracy"], interval(run, comparisons))


def native_difference(run: Record) -> str:
    """Write the paired difference by native gradients alone."""
    return points(run["difference"]["native_accuracy"], run["difference"]["native_ci95"])


def from_to(run: Record, name: str) -> str:
    """Write a share before hardening and after."""
    return f"{100 * run['before'][name]:.1f} → {100 * run['hardened'][name]:.1f} %"


def eps(network: Network) -> str:
    """Write the budget of a network."""
    return f"{network.eps * 255:g}/255" if network.eps < 0.05 else f"{network.eps:g}"


def measured(results: Results, part: str) -> list[Network]:
    """Return the networks that have results of a part."""
    return [network for network in NETWORKS if results.of(network, part)]


# ---- the tables of the page ----


def summary(results: Results) -> list[str]:
    """Return a row for each network and jump of the grid, of the networks that were begun."""
    header = ["network, eps, images", "κ", "clean", "native gradients alone", "worst case"]
    header += ["native difference, points", "worst-case difference, points", "conclusion"]
    rows = []
    for network in measured(results, "grid"):
        found = results.of(network, "grid")
        for i, run in enumerate(found):
            name = f"{network.title}, {eps(network)}, {run['n']}" if i == 0 else ""
            shares = [from_to(run, name) for name in NAMES]
            row = [name, f"{run['strength']:g}", *shares, native_difference(run)]
            row.append(difference(run, len(network.grid)))
            rows.append([*row, concluded(results, network, run)])
        done = {run["configuration"] for run in found}
        for way in (way for way in network.on_grid if str(way) not in done):
            rows.append(["", f"{way.strength:g}", *[""] * (len(header) - 3), "not measured yet"])
    return list(table(header, rows))


def concluded(results: Results, network: Network, run: Record) -> str:
    """Say what a jump of the grid does: more robust it is if the suite ``standard`` agrees."""
    found = with_jumps(results, network, "grid", run["configuration"])
    word = conclusion(found, len(network.grid))
    if word != MORE:
        return word
    strong = with_jumps(results, network, "grid-strong", run["configuration"])
    return conclusion([*found, *strong], len(network.grid)) if strong else UNDECIDED


def promising(results: Results, network: Network) -> list[Configuration]:
    """Return the jumps of the grid that came out more robust with every seed."""
    return [
        way
        for way in network.on_grid
        if conclusion(with_jumps(results, network, "grid", str(way)), len(network.grid)) == MORE
    ]


def with_jumps(results: Results, network: Network, part: str, configuration: str) -> list[Record]:
    """Return the runs of a part with some jumps, with every seed."""
    found = results.of(network, part, None)
    return [run for run in found if run["configuration"] == configuration]


def survivors(results: Results) -> list[str]:
    """Return a row for each network: the jumps that did best on validation images, on others."""
    header = ["network", "tried", "best on validation", "difference there", "test images"]
    header += ["clean", "worst case", "difference, points", "with another seed"]
    header += ["under `standard`", "conclusion"]
    networks = measured(results, "test")
    if not networks:
        return ["None was judged yet."]
    rows = []
    for network in networks:
        tried = results.of(network, "validation")
        judged = results.of(network, "test", None)
        strong = results.of(network, "test-strong")
        run, *others = judged
        there = next(r for r in tried if r["configuration"] == run["configuration"])
        row = [network.title, str(len(tried)), run["configuration"]]
        row.append(difference(there, len(network.configurations)))
        row += [str(run["n"]), from_to(run, "clean"), from_to(run, "worst")]
        for each in ([run], others, strong):
            row.append(", ".join(difference(one, len(networks)) for one in each) or "not run")
        word = conclusion([*judged, *strong], len(networks))
        rows.append([*row, word if strong or word != MORE else UNDECIDED])
    return list(table(header, rows))


# ---- the whole document ----


def document(results: Results) -> Iterator[str]:
    """Yield the lines of paper.md."""
    yield "# The JumpReLU paper, measured with `onnxfit verify`"
    yield ""
    yield "Written by `python benchmarks/jump_relu_paper.py report` from `paper.json`, which holds"
    yield "for each run the attacks, the seed, the commit and the hashes of model and images."
    yield ""
    yield from sources(results)
    for network in NETWORKS:
        shown = [
            lines
            for part, lines in (
                ("protocol", protocol(results, network)),
                ("grid", grid(results, network)),
                ("validation", validation(results, network)),
            )
            if results.of(network, part)
        ]
        if shown:
            yield from ["", f"## {network.title}"]
        for lines in shown:
            yield ""
            yield from lines


def sources(results: Results) -> Iterator[str]:
    """Yield what the figures rest on."""
    runs = results.runs.values()
    versions = {", ".join(f"{k} {v}" for k, v in run["versions"].items()) for run in runs}
    yield f"Versions: {'; '.join(sorted(versions))}."
    yield f"Commits: {', '.join(sorted({run['commit'][:12] for run in runs}))}."
    yield ""
    paths = {network.key: network.model.path.name for network in NETWORKS}
    hashes = {paths[run["network"]]: run["model_sha256"] for run in runs}
    hashes |= {run["samples"].partition(",")[0]: run["samples_sha256"] for run in runs}
    yield from table(["file", "SHA-256"], [[name, f"`{hashes[name]}`"] for name in sorted(hashes)])


def protocol(results: Results, network: Network) -> Iterator[str]:
    """Yield the paper's own measures: accuracy and mean noise of all images."""
    found = results.of(network, "protocol")
    first = found[0]
    yield f"The paper's protocol, {first['n']} images ({first['samples']}), {network.steps} steps:"
    yield "accuracy, mean relative noise, mean absolute noise (normalised units). *Black box*"
    yield "inputs were made on the same network at κ = 0."
    yield ""
    header = ["κ", "clean", *ATTACKS.values(), *(f"black box {name}" for name in ATTACKS.values())]
    sides = [("0", first["before"]), *((f"{r['strength']:g}", r["hardened"]) for r in found)]
    rows = []
    for kappa, side in sides:
        known = {attack["name"]: attack for attack in side["attacks"]}
        row = [kappa, f"{side['clean']:.3f}", *(noises(known[name]) for name in ATTACKS)]
        black = (known[f"transfer-{name}"]["robust_accuracy"] for name in ATTACKS)
        rows.append([*row, *(f"{share:.3f}" for share in black)])
    yield from table(header, rows)


def noises(attack: Record) -> str:
    """Write the paper's measures of an attack."""
    noise = (f"{attack[name]:.4f}" for name in ("relative_noise", "absolute_noise"))
    return ", ".join([f"{attack['robust_accuracy']:.3f}", *noise])


def grid(results: Results, network: Network) -> Iterator[str]:
    """Yield what an honest evaluation says of the same jumps."""
    found = results.of(network, "grid")
    first = found[0]
    yield f"`--suite quick --eps {network.eps:.6g}`, ℓ∞, pixels, {first['n']} images"
    yield f"({first['samples']}). Differences are paired: to the network before hardening, under"
    yield "the same attacks. In the worst case their intervals hold together for"
    yield f"{len(network.grid)} jumps, native ones by themselves."
    yield ""
    header = ["κ", "seed", "zeroed, median site", "clean", "native gradients alone"]
    header += ["and smooth gates, Relu", "worst case", "worst case before"]
    header += ["native difference", "worst-case difference", "p", "conclusion, both seeds"]
    header += ["failed diagnostics"]
    rows = []
    for run in results.of(network, "grid", None):
        n, after = run["n"], run["hardened"]
        with_gradients = min(
            attack["robust_accuracy"] for attack in after["attacks"] if attack["backward"] != "none"
        )
        row = [f"{run['strength']:g}", str(run["seed"])]
        row += [f"{100 * np.median(list(run['zeroed'].values())):.1f} %"]
        shares = (after["clean"], after["native"], with_gradients, after["worst"])
        row += [percent(share, n) for share in (*shares, run["before"]["worst"])]
        row += [native_difference(run), difference(run, len(network.grid))]
        row += [f"{run['difference']['p_value']:.2g}", concluded(results, network, run)]
        rows.append([*row, ", ".join(run["failed_diagnostics"]) or "none"])
    yield from table(header, rows)
    for run in results.of(network, "grid-strong"):
        yield ""
        yield f"Under `--suite standard`, on the same images, {run['configuration']} goes from"
        yield f"{from_to(run, 'worst')}: {difference(run, len(network.grid))} points."
    for run in results.of(network, "strong"):
        yield ""
        yield f"Under `--suite standard`, on the first {run['n']} images, {run['configuration']}"
        yield "(the one with the highest native robust accuracy) goes from"
        yield f"{from_to(run, 'worst')}: {difference(run, 1)} points (an interval by itself; p ="
        yield f"{run['difference']['p_value']:.2g}). Native gradients alone say"
        yield f"{from_to(run, 'native')}."


def validation(results: Results, network: Network) -> Iterator[str]:
    """Yield how other ways to set the jumps did on the validation images."""
    found = results.of(network, "validation")
    first = found[0]
    yield f"Does anything survive? {first['n']} validation images ({first['samples']}), the attacks"
    yield "of `quick`; the network before hardening was attacked once for all, without transfer."
    yield f"In the worst case intervals hold together for {len(network.configurations)}"
    yield "configurations, native ones by themselves:"
    yield ""
    header = ["jumps", "zeroed, median site", *NAMES.values()]
    header += ["native difference", "worst-case difference", "p"]
    rows = []
    for run in found:
        row = [run["configuration"], f"{100 * np.median(list(run['zeroed'].values())):.1f} %"]
        row += [from_to(run, name) for name in NAMES]
        row += [native_difference(run), difference(run, len(network.configurations))]
        rows.append([*row, f"{run['difference']['p_value']:.2g}"])
    yield from table(header, rows)
    for run in results.of(network, "test", None) + results.of(network, "test-strong"):
        yield ""
        yield f"On {run['n']} test images ({run['samples']}), `{run['suite']}`, seed {run['seed']}:"
        yield f"{run['configuration']} is {difference(run, 1)} points away (an interval by itself)."


# ---- the plots ----


def plots(results: Results) -> str:
    """Draw accuracy over κ for each network, as SVG: the same for the same results."""
    networks = measured(results, "grid")
    columns = 3
    rows = max(1, -(-len(networks) // columns))
    with matplotlib.style.context(["default", {"svg.hashsalt": "paper", "svg.fonttype": "none"}]):
        figure = Figure(figsize=(3.3 * columns, 2.6 * rows + 0.5), layout="constrained")
        for i, network in enumerate(networks):
            panel(figure.add_subplot(rows, columns, i + 1), network, results.of(network, "grid"))
        for axes in figure.axes[:1]:
            lines, labels = axes.get_legend_handles_labels()
            figure.legend(lines, labels, loc="outside upper left", ncols=3, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def panel(axes: Axes, network: Network, found: Sequence[Record]) -> None:
    """Draw one network. What is at κ = 0 is that of the run with the first jump."""
    n, x = found[0]["n"], [0.0, *(run["strength"] for run in found)]
    for name, label in NAMES.items():
        y = [found[0]["before"][name], *(run["hardened"][name] for run in found)]
        low, high = zip(*(wilson(round(share * n), n) for share in y), strict=True)
        axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        axes.plot(x, y, MARKERS[name], color=COLOURS[name], label=label, markersize=4)
    axes.set_title(f"{network.title}, eps {eps(network)}", fontsize=8)
    axes.set_xlabel("κ", fontsize=8)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.tick_params(labelsize=8)
    axes.grid(linewidth=0.4, alpha=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
