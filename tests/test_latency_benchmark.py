"""The page of the latencies of hardened networks says whether its targets are reached."""

import json

import latency
import pytest
from support import ROOT


def row(network: str, threads: int, ratio: float) -> latency.Row:
    """Return what is measured of a network."""
    ratios = dict.fromkeys(("compiled", "itself"), (ratio, (ratio, ratio)))
    return {
        "network": network,
        "batch": 1,
        "threads": threads,
        "milliseconds": 1.0,
        "ratios": ratios,
    }


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ((1.0, 1.02), "Reached: 1.010 and 1.020."),
        ((1.01, 1.02), "Not reached: 1.015 and 1.020."),
        ((0.9, 1.05), "Not reached: 0.972 and 1.050."),
    ],
)
def test_mean_and_worst_are_judged(ratios: tuple[float, float], verdict: str) -> None:
    """Each number of threads by its own bounds; both of the two must hold."""
    rows = [row(str(i), 1, ratio) for i, ratio in enumerate(ratios)] + [row("2", 2, 1.03)]
    single, double = filter(None, latency.verdicts(rows, "compiled"))
    head = "Target of *compiled*, threads 1: geometric mean at most 1.01, worst at most 1.04. "
    assert head + verdict == single
    assert "threads 2: geometric mean at most 1.03, worst at most 1.08. Reached: 1.0" in double


@pytest.mark.parametrize("question", list(latency.FORMS))
def test_the_pages_are_those_of_the_figures(question: str) -> None:
    """What stands in benchmarks/results is what is made of the figures beside it."""
    place = ROOT / f"benchmarks/results/latency_{question}"
    measured = json.loads(place.with_suffix(".json").read_text("utf-8"))
    lines = latency.page(measured["rows"], question, measured["environment"])
    assert "\n".join([*lines, ""]) == place.with_suffix(".md").read_text("utf-8")
