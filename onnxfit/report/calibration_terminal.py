"""A calibration as tables for a terminal; only :func:`print_calibration` prints."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from onnxfit.cli_output import print_table, shown
from onnxfit.report import attribution
from onnxfit.report.calibration import UNCORRECTED, common, jump_text
from onnxfit.report.terminal import NOTHING, Rows
from onnxfit.report.wording import finite, interval, number, points

Record = Mapping[str, Any]

CHOSEN = "chosen"
_STRENGTH = {"shared": "jump"}


def print_calibration(document: Record) -> None:
    """Print what ``calibration.json`` holds on stdout: the headline, the curve, the jumps."""
    click.echo(shown(document["headline"]))
    for rows in (curve(document), sites(document)):
        if len(rows) > 1:
            print_table(rows)
    for line in lines(document):
        click.echo(shown(line))


def curve(document: Record) -> Rows:
    """Return a row per strength, the header first; the chosen one is inside the budget too.

    The worst case and native gradients are those of the samples that all rows have in common.
    """
    strength = _STRENGTH.get(str(document.get("scale")), "quantile")
    of = f"\nfirst {first}" if (first := common(document)) else ""
    heads = [f"worst{of}", f"native{of}", "attacked", "difference\nto before"]
    rows = [[strength, "clean", "drop\nlimit", "budget", *heads]]
    for point in filter(None, document.get("curve") or []):
        chosen = point["strength"] == document.get("strength")
        shared = point.get("common") or {}
        shares = ((shared.get(kind) or {}).get("robust_accuracy") for kind in ("worst", "native"))
        rows.append(
            [
                _number(point["strength"]),
                _share((point.get("clean") or {}).get("accuracy")),
                _share(point.get("drop_limit")),
                CHOSEN if chosen else "inside" if point.get("inside") else "outside",
                *map(_share, shares),
                _number(point.get("attacked")),
                _change(point.get("difference") or {}),
            ]
        )
    return rows


def sites(document: Record) -> Rows:
    """Return a row per site, the header first: its jump, and what share of inputs it zeroes.

    Where a refinement was asked for, a row has the strength of the site too, and what its jump
    alone buys and costs.
    """
    native = f" ({attribution.raced(document)})"
    refined = bool(document.get("refinement"))
    alone = bool(attribution.attributed(document))
    rows = [["site", "jump", "positive inputs zeroed"]]
    rows[0] += ["strength"] if refined else []
    rows[0] += [f"buys alone, points{native}", "costs alone, points"] if alone else []
    for site in document.get("sites") or []:
        row = [shown(str(site["name"])), jump_text(site.get("jump")), _share(site.get("zeroed"))]
        row += [number(finite(site.get("strength")))] if refined else []
        changes = (attribution.effect(site, kind) for kind in attribution.KINDS)
        row += map(_change, changes) if alone else []
        rows.append(row)
    return rows


def lines(document: Record) -> list[str]:
    """Return what is said in words: samples, budget, the test, the refinement, warnings."""
    return list(_lines(document))


def _lines(document: Record) -> Iterator[str]:
    if first := common(document):
        by = attribution.raced(document)
        same = f"the same first {first} in every row"
        yield f"samples    worst and native: {same}; difference: all attacked"
        yield f"difference by {by}, in points; 95 % interval, {UNCORRECTED}"
    if budget := document.get("budget"):
        yield (
            f"budget     a drop of at most {budget['max_drop']:g}, with "
            f"{budget['confidence']:g} confidence"
        )
    difference = document.get("difference") or {}
    p_value, candidates = finite(difference.get("p_value")), finite(difference.get("candidates"))
    if p_value is not None and candidates is not None:
        where = f" {tested}" if (tested := attribution.tested(document)) else ""
        yield (
            f"test       p = {p_value:.3g}{where}; after Bonferroni over {candidates:g} "
            f"candidate{'' if candidates == 1 else 's'} {min(1.0, p_value * candidates):.3g}"
        )
    if steps := attribution.steps(document):
        yield f"refined    {steps}"
    for sentence in attribution.sentences(document):
        yield f"alone      {sentence}"
    for warning in document.get("warnings") or ():
        yield f"warning    {warning}"


def _number(value: Any) -> str:
    number = finite(value)
    return NOTHING if number is None else f"{number:.4g}"


def _change(record: Record) -> str:
    """Write a difference in points with its 95 % interval: ``−1.6 (−6.0 to +2.2)``."""
    if finite(record.get("difference")) is None:
        return NOTHING
    difference = points(record["difference"]).removesuffix(" points")
    return f"{difference} ({interval(record.get('ci95'), 'points')})"


def _share(value: Any) -> str:
    share = finite(value)
    return NOTHING if share is None else f"{share:.2%}"
