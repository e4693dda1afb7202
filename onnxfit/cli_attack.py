"""The verb ``attack``: one attack on a model, replayed on its file."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_attack_transfer import (
    SourceOptions,
    source_options,
    source_pairs,
    source_warnings,
)
from onnxfit.cli_attack_universal import (
    UNIVERSAL,
    check_options,
    open_made_on,
    prepared,
    print_tried,
    universal_options,
    universal_pairs,
)
from onnxfit.cli_files import check_output, check_outside
from onnxfit.cli_options import (
    DataOptions,
    as_json,
    data_options,
    device_option,
    model_argument,
    positive,
    with_options,
)
from onnxfit.cli_output import print_json, print_pairs, progress, share_text

# Written out, so that --help need not import torch; a test compares them with the catalogue.
ATTACKS = (
    "noise",
    "fgsm",
    "bim",
    "pgd",
    "mi-fgsm",
    "apgd-ce",
    "apgd-dlr",
    "apgd-t",
    "fab-t",
    "deepfool",
    "cw",
    "trust-region",
    "square",
    "hop-skip-jump",
    "transfer",
)
BACKWARDS = ("all", "true", "relu", "smooth", "straight-through")
NATIVE_ONLY = "These are native gradients alone: {}. --backward all finds more."
ACROSS_JUMPS = "they do not see across the jumps"
NO_NETWORKS = "surrogate networks ({}) were not followed"


def size_options(verb: Any, *, paper: bool = False) -> Any:
    """Give a verb the options of how large perturbations are; ``paper``: it has that suite."""
    options = [
        click.option(
            "--eps",
            callback=positive,
            metavar="NUMBER",
            help="Largest perturbation in units of --bounds, by default 8/255"
            + (" (paper: 0.01)." if paper else "."),
        ),
        click.option(
            "--norm", type=click.Choice(["linf", "l2"]), help="Its norm, by default linf."
        ),
    ]
    return with_options(verb, options)


def threat_options(verb: Any, *, quantize: bool = True, paper: bool = False) -> Any:
    """Give a verb the options of what an attacker may do; ``quantize``: of 8 bits, too."""
    eight_bits = click.option(
        "--quantize", is_flag=True, help="Count only adversarial inputs that 8 bits hold."
    )
    options: list[Any] = [
        functools.partial(size_options, paper=paper),
        *([eight_bits] if quantize else []),
        click.option(
            "--steps", type=click.IntRange(min=1), metavar="N", help="Steps along the gradient."
        ),
        device_option,
    ]
    return with_options(verb, options)


@click.command()
@model_argument
@data_options
@click.option(
    "--attack",
    "name",
    required=True,
    type=click.Choice([*ATTACKS, *UNIVERSAL]),
    help="Which attack; the last three are one perturbation for all samples.",
)
@threat_options
@universal_options
@click.option("--step-size", callback=positive, metavar="NUMBER", help="Length of a step.")
@click.option("--restarts", type=click.IntRange(min=1), metavar="N", help="How often to start.")
@click.option("--loss", type=click.Choice(["ce", "margin", "dlr"]), help="What is maximised.")
@click.option("--queries", type=click.IntRange(min=1), metavar="N", help="Without gradients.")
@click.option(
    "--backward",
    type=click.Choice(BACKWARDS),
    help="Slope of a JumpReLU in the backward pass, of a transfer in its sources: all of them one "
    "after the other, and the surrogate networks of an interpolated or denoised model, the default "
    "for such models, or one.",
)
@click.option("--tau", callback=positive, metavar="SHARE", help="Width of the smooth gate.")
@click.option("--eot", type=click.IntRange(min=1), metavar="N", help="Average N gradients.")
@source_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="The .npz file to write: the points of all samples, which of them fool the file, and how "
    "far they are.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same OUT.")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@as_json
def attack(
    model: Path,
    data: DataOptions,
    name: str,
    device: str,
    goal: int | None,
    made_on: Path | None,
    backward: str | None,
    source: SourceOptions,
    output: Path | None,
    resume: bool,
    force: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Attack MODEL and replay what comes out on the file in ONNX Runtime."""
    from onnxfit.npz import check_target
    from onnxfit.verification import single_attack, universal_attack
    from onnxfit.verification.environment import environment
    from onnxfit.verification.target import Target, classes_of

    check_options(name, goal, made_on, resume=resume)
    source.check(name)
    if output is not None:
        read = [data.path] if made_on is None else [data.path, made_on]
        check_output([model, *read, *source.paths], output, force)
        check_target(output)
        for folder in filter(Path.is_dir, read):
            check_outside(output, folder)
    elif resume:
        raise click.UsageError("--resume needs the OUT of the interrupted run.")
    target = Target(model, mean=data.mean, std=data.std, device=device)
    dataset = data.open(target.classifier.channels)
    target.classifier.check(dataset.shape)
    opened = source.open(target, dataset, classes_of(target, dataset), data)
    settings["quantize"] = settings["quantize"] or None
    how: dict[str, Any]
    if name in UNIVERSAL:
        run: Any = universal_attack.run
        attacks, how = prepared(name, {**settings, "backward": backward}, data, target, goal)
        how |= {"made_on": open_made_on(made_on, data, target), "goal": goal}
    else:
        run, attacks = single_attack.run, _attacks(name, settings, data, backward, target, opened)
        networks = _networks(attacks[0], backward, target)
        how = {"resume": resume, "sources": opened, "networks": networks}
    some = dataset.spread(64).x
    target.parity(some)
    for warning in target.warnings("model", some):
        click.echo(warning, err=True)
    document = run(
        target,
        dataset,
        name,
        attacks,
        output=output,
        seed=data.seed,
        batch_size=data.batch_size,
        begin=progress,
        **how,
    )
    document = {
        "model": target.record(),
        "data": {
            "path": str(data.path),
            "sha256": dataset.sha256,
            "n": dataset.n,
            "bounds": list(dataset.bounds),
            "mean": list(data.mean),
            "std": list(data.std),
        },
        **document,
        "sources": [each.record() for each in opened],
        "environment": environment(target, data.seed, data.batch_size),
        "path": None if output is None else str(output),
    }
    if as_json:
        print_json(document)
    else:
        _print(document)
    for sentence in (*_missed(document, target), *source_warnings(opened, attacks)):
        click.echo(sentence, err=True)


def _missed(document: dict[str, Any], target: Any) -> Iterator[str]:
    """Yield sentences of what an attack did not follow and another would."""
    from onnxfit.verification.universal import UNFOLLOWED

    universal = document.get("universal")
    runs = universal["tried"] if universal else document["attacks"]
    if document["native"] and len(runs) == 1:
        missed = [ACROSS_JUMPS] if target.is_hardened else []
        if target.networks and not universal:
            missed.append(NO_NETWORKS.format(", ".join(target.networks)))
        if missed:
            yield NATIVE_ONLY.format(", and ".join(missed))
    if target.networks and universal and universal["backward"] != "none":
        yield UNFOLLOWED.format("model")


def _attacks(
    name: str,
    settings: dict[str, Any],
    data: DataOptions,
    backward: str | None,
    target: Any,
    sources: Sequence[Any],
) -> list[Any]:
    """Make the attack, with each backward pass that was asked for."""
    from onnxfit.attacks.attack import BudgetAttack, GradientAttack
    from onnxfit.attacks.catalogue import CATALOGUE, make_attack
    from onnxfit.attacks.transfer import Transfer
    from onnxfit.verification.single_attack import tries_all, with_surrogates

    kind = CATALOGUE[name][0]
    if settings["eps"] is None and issubclass(kind, BudgetAttack):
        settings["eps"] = 8 / 255
    if sources:
        settings["source"] = [each.module for each in sources]
    if backward == "all" and not issubclass(kind, GradientAttack | Transfer):
        raise click.UsageError(f"the attack {name} has no setting backward")
    if backward not in (None, "all"):
        settings["backward"] = backward
    try:
        chosen = make_attack(name, {**settings, "bounds": data.bounds, "seed": data.seed})
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    followed = [each.target for each in sources] or [target]
    hardened = any(each.is_hardened for each in followed)
    # Without jumps all slopes make the same points.
    every = tries_all(chosen, backward) and (hardened or (backward == "all" and not sources))
    return with_surrogates(chosen) if every else [chosen]


def _networks(chosen: Any, backward: str | None, target: Any) -> list[str]:
    """Return the surrogate networks that an attack follows."""
    from onnxfit.attacks.attack import GradientAttack
    from onnxfit.verification.single_attack import tries_all

    follows = isinstance(chosen, GradientAttack) and tries_all(chosen, backward)
    return list(target.networks) if follows else []


def _print(document: dict[str, Any]) -> None:
    """Print what an attack did."""

    def shown(share: dict[str, Any], key: str = "robust_accuracy") -> str:
        return share_text(share[key], share["ci95"])

    universal = document.get("universal")
    n = universal["n"] if universal else document["data"]["n"]
    pairs = {
        "clean accuracy": shown(document["clean"], "accuracy"),
        "robust accuracy": shown(document),
    }
    if document["native"]:
        pairs["native gradients alone"] = shown(document["native"])
    pairs["fool the file"] = f"{document['deployed_success']} of {n} samples"
    if document.get("twin_only"):
        pairs["fool the twin alone"] = str(document["twin_only"])
    if document["perturbation"]:
        sizes = document["perturbation"]
        pairs["perturbation"] = (
            f"median {sizes['median']:.4g}, mean {sizes['mean']:.4g}, largest {sizes['max']:.4g} "
            f"({document['norm']})"
        )
    if universal:
        pairs |= universal_pairs(document)
    pairs |= dict(source_pairs(document))
    print_pairs(pairs)
    if universal:
        print_tried(document)
    if document["path"]:
        click.echo(f"wrote {document['path']}")
