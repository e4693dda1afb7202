"""A verification as tables for a terminal; only :func:`print_result` prints."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from onnxfit.cli_output import print_table, shown

Record = Mapping[str, Any]
Rows = list[list[str]]

NATIVE = "native gradients alone"
NOTHING = "–"
OTHERWISE = ["left robust", "given", "fool the twin", "fool the file"]
PAPER = ["accuracy", "relative", "absolute"]


def print_result(result: Record) -> None:
    """Print what ``result.json`` holds on stdout, as tables."""
    click.echo(shown(result["headline"]))
    for rows in (accuracies(result), attacks(result), rules(result)):
        if len(rows) > 1:
            print_table(rows)
    for line in lines(result):
        click.echo(line)


def accuracies(result: Record) -> Rows:
    """Return clean, native and worst-case accuracy, of the model and of its baseline."""
    sides = _sides(result)
    rows = [["accuracy", *sides]]
    rows.append(["clean", *(accuracy(side["clean"], "accuracy") for side in sides.values())])
    for key, name in (("native", NATIVE), ("worst_case", "worst case")):
        if not any(side.get(key) for side in sides.values()):
            continue
        rows.append([name, *(accuracy(side.get(key)) for side in sides.values())])
    return rows


def attacks(result: Record) -> Rows:
    """Return a row per attack, the header first: what it was given and what it found.

    In ``paper`` a row holds the accuracy under the attack and the mean perturbations.
    """
    paper = result["suite"] == "paper"
    key = "accuracy" if paper else "robust_accuracy"
    sides = _sides(result)
    own = PAPER if paper else OTHERWISE
    rows = [["attack", "backward", *own, *(f"{own[0]}, {side}" for side in list(sides)[1:])]]
    rows[0].append("seconds")
    same = [
        {(attack["name"], attack["backward"]): attack for attack in side["attacks"]}
        for side in list(sides.values())[1:]
    ]
    for attack in result["attacks"]:
        which = attack["name"], attack["backward"]
        others = [accuracy(side.get(which), key) for side in same]
        cells = [accuracy(attack, key), *_cells(attack, paper), *others]
        rows.append([*which, *cells, f"{attack['seconds']:.1f}"])
    return [[shown(cell) for cell in row] for row in rows]


def rules(result: Record) -> Rows:
    """Return a row per rule, the header first: its value, its bound, and whether it is kept."""
    rows = [["rule", "value", "bound", ""]]
    for rule in result["rules"]:
        value, bound = (_in_units(rule["rule"], rule[key]) for key in ("value", "bound"))
        rows.append([shown(rule["rule"]), value, bound, "ok" if rule["passed"] else "FAILED"])
    return rows


def lines(result: Record) -> list[str]:
    """Return what is said in words: rules that failed, diagnostics, warnings, the verdict."""
    return [shown(line) for line in _lines(result)]


def _lines(result: Record) -> Iterator[str]:
    for rule in result["rules"]:
        if not rule["passed"]:
            yield f"{'FAILED':9}  {rule['rule']}: {rule['detail']}"
    for found in result["diagnostics"]:
        word = "ok" if found["passed"] else "FAILED" if found["gate"] else "reported"
        yield f"{word:9}  {found['check']}: {found['detail']}"
    if latency := result.get("latency"):
        low, high = latency["ci95"]
        beside = (
            f"{latency['ratio']:.3f} times the baseline's ({low:.3f} to {high:.3f}): "
            f"{latency['model_ms']:.3g} ms, {latency['baseline_ms']:.3g} ms"
        )
        alone = len(_sides(result)) == 1
        yield f"latency    {latency['model_ms']:.3g} ms" if alone else f"latency    {beside}"
    if universal := result.get("universal"):
        yield f"universal  {universal.get('summary') or 'not measured: ' + universal['reason']}"
    if regression := result.get("regression"):
        yield (
            f"corpus     {regression['still_adversarial']} of {regression['n']} samples in "
            f"{regression['path']} are still misclassified"
        )
    for warning in result.get("warnings", ()):
        yield f"warning    {warning}"
    yield f"verdict    {result['verdict']}"


def accuracy(measured: Record | None, key: str = "robust_accuracy") -> str:
    """Write an accuracy and its 95 % interval: ``98.66% (97.11 to 99.39)``."""
    if not measured or measured[key] is None:
        return NOTHING
    low, high = measured["ci95"]
    return f"{measured[key]:.2%} ({low * 100:.2f} to {high * 100:.2f})"


def _sides(result: Record) -> dict[str, Record]:
    """Return the model, and the baseline where it is another one."""
    baseline = result.get("baseline")
    if not baseline or baseline.get("same_as_model"):
        return {"model": result}
    return {"model": result, "baseline": baseline}


def _cells(attack: Record, paper: bool) -> list[str]:
    """Return what an attack found: counts of samples, or mean perturbations."""
    if not paper:
        return [str(attack[key]) for key in ("attacked", "twin_success", "deployed_success")]
    sizes = [attack[f"mean_{kind}_perturbation"] for kind in ("relative", "absolute")]
    return [NOTHING if size is None else f"{size:.4g}" for size in sizes]


def _in_units(rule: str, value: float | None) -> str:
    """Write a rule's number: a ratio or a p-value as it is, anything else in percent."""
    if value is None:
        return NOTHING
    if rule in ("max_slowdown", "not_worse_than_baseline"):
        return f"{value:.3g}"
    return f"{value:.2%}"
