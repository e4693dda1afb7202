"""Universal perturbations in the verb ``attack``: their options, and how they are made."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_options import DataOptions, with_options
from onnxfit.cli_output import print_table, share_text

# Written out, so that --help need not import torch; a test compares them with the modules.
UNIVERSAL = ("uap", "chessboard", "perlin")

_OF_CORRECT = "of those right before"
_TARGETED = "taken for class {}"


def universal_options(verb: Any) -> Any:
    """Give the verb the options of universal perturbations alone."""
    options = [
        click.option(
            "--target",
            "goal",
            type=click.IntRange(min=0),
            metavar="CLASS",
            help="Class that a universal perturbation aims at.",
        ),
        click.option(
            "--made-on",
            type=click.Path(path_type=Path),
            metavar="DATA",
            help="Samples that a universal perturbation is made on, by default one half of --data; "
            "it is measured on the others.",
        ),
    ]
    return with_options(verb, options)


def check_options(name: str, goal: int | None, made_on: Path | None, *, resume: bool) -> None:
    """Refuse what goes with universal perturbations alone, or not with them.

    Raises:
        click.UsageError: An option does not go with the attack.
    """
    if name in UNIVERSAL:
        if resume:
            raise click.UsageError(
                f"--resume does not go with --attack {name}, of which nothing is kept on the way."
            )
        return
    for option, value in (("--target", goal), ("--made-on", made_on)):
        if value is not None:
            raise click.UsageError(f"{option} goes with --attack {', '.join(UNIVERSAL)} alone.")


def prepared(
    name: str, settings: dict[str, Any], data: DataOptions, target: Any, goal: int | None
) -> tuple[list[Any], dict[str, Any]]:
    """Return a universal attack with each backward pass that was asked for, and its threat.

    What needs no model has no attack, for it follows no gradients.

    Raises:
        click.UsageError: There is no such setting, or one is out of its range.
    """
    from onnxfit.attacks.catalogue import given
    from onnxfit.attacks.universal import UniversalPerturbation
    from onnxfit.verification.single_attack import with_surrogates
    from onnxfit.verification.suites import Threat

    budget = {"eps": settings.pop("eps"), "norm": settings.pop("norm")}
    quantize = settings.pop("quantize")
    try:
        own = given(name, settings, {"step_size", "backward", "tau"} if name == "uap" else set())
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    budget = {"eps": budget["eps"] or 8 / 255, "norm": budget["norm"] or "linf"}
    threat = Threat(**budget, bounds=data.bounds, quantize=bool(quantize))
    if name != "uap":
        return [], {"threat": threat}
    backward = own.pop("backward", "all" if target.is_hardened else "true")
    every = backward == "all"
    attack = UniversalPerturbation(
        **budget,
        **own,
        bounds=data.bounds,
        seed=data.seed,
        batch_size=data.batch_size,
        target=goal,
        backward="true" if every else backward,
    )
    return with_surrogates(attack) if every else [attack], {"threat": threat}


def open_made_on(path: Path | None, data: DataOptions, target: Any) -> Any:
    """Open the samples that a perturbation is made on, and check that they are for the model.

    Raises:
        DataError: They are not.
    """
    from onnxfit.verification.target import classes_of

    if path is None:
        return None
    dataset = dataclasses.replace(data, path=path, limit=None).open(target.classifier.channels)
    target.classifier.check(dataset.shape)
    classes_of(target, dataset)
    return dataset


def universal_pairs(document: dict[str, Any]) -> dict[str, str]:
    """Return what is printed of a universal perturbation beside what every attack has."""
    found = document["universal"]
    made_on = found["made_on"]
    without = f", without {made_on['left_out']} of --data" if made_on["left_out"] else ""
    pairs = {
        "made on": f"{made_on['n']} samples of {made_on['path']}{without}",
        "made with": _made_with(found),
        "misclassified": _share(found, "evasion_rate"),
        _OF_CORRECT: _share(found, "evasion_rate_of_correct"),
    }
    if found["target"] is not None:
        pairs[_TARGETED.format(found["target"])] = _share(found, "to_target")
    return pairs


def print_tried(document: dict[str, Any]) -> None:
    """Print what each perturbation that was tried does, where there are several."""
    found = document["universal"]
    key = "evasion_rate_of_correct" if found["target"] is None else "to_target"
    what = _OF_CORRECT if found["target"] is None else _TARGETED.format(found["target"])
    rows: list[Sequence[str]] = [["tried", f"{what}, made on", f"{what}, measured on"]]
    for one in found["tried"]:
        rows.append(
            [_made_with(one), *(_share(one[where], key) for where in ("made_on", "measured"))]
        )
    if len(rows) > 2:
        print_table(rows)


def _made_with(one: dict[str, Any]) -> str:
    """Say which backward pass or which parameters made a perturbation."""
    if one["backward"] != "none":
        return f"backward {one['backward']}"
    return ", ".join(
        f"{key} {value:.4g}" if key == "period" else f"{key} {value}"
        for key, value in one["settings"].items()
    )


def _share(found: dict[str, Any], key: str) -> str:
    return "–" if found[key] is None else share_text(found[key], found[f"{key}_ci95"])
