"""The verb ``finetune``: train the weights of a model further."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_attack import threat_options
from onnxfit.cli_files import check_output, check_outside, write_model
from onnxfit.cli_options import (
    DataOptions,
    as_json,
    copy_option,
    data_options,
    force_option,
    model_argument,
    number,
    parse_number,
    positive,
    required_output,
)
from onnxfit.cli_output import print_json, print_pairs, print_table, progress
from onnxfit.cli_signals import interrupted_once
from onnxfit.errors import ModelError

# Written out, so that --help need not import torch; a test compares them with the terms.
METHODS = ("adversarial", "trades", "jacobian", "sensitivity", "j-sigr")
AUGMENTATIONS = ("shift", "flip", "cutout", "tv")
# A term of gradients, a hundred times as large as the cross-entropy, has no usual weight.
WEIGHTS = {"adversarial": 1.0, "trades": 6.0}
NOTHING_KEPT = 1


def _methods(
    _: click.Context, __: click.Parameter, texts: tuple[str, ...]
) -> dict[str, float] | None:
    """Read NAME=WEIGHT, or a NAME that has a usual weight."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, weight = text.partition("=")
        if name not in METHODS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(METHODS)}.")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice.")
        if not equals and name not in WEIGHTS:
            raise click.BadParameter(f"{name} needs a weight, such as {name}=0.001.")
        found[name] = parse_number(weight) if equals else WEIGHTS[name]
        if found[name] <= 0:
            raise click.BadParameter(f"the weight of {name} is not above 0.")
    return found or None


def _augment(
    _: click.Context, __: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...] | None:
    if "none" in texts:
        if len(texts) > 1:
            raise click.BadParameter("'none' goes with nothing else.")
        return ()
    return texts or None


@click.command()
@model_argument
@data_options
@click.option(
    "--val",
    required=True,
    type=click.Path(path_type=Path),
    metavar="VAL",
    help="Other data of the same form: they say which weights are kept.",
)
@required_output("File to write.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    callback=_methods,
    metavar="NAME=WEIGHT",
    help=f"Term of the loss, may be repeated: {', '.join(METHODS)}. By default adversarial=1.",
)
@functools.partial(threat_options, quantize=False)
@click.option(
    "--max-drop",
    callback=number,
    default="0.005",
    show_default=True,
    metavar="X",
    help="Largest drop of clean accuracy on VAL.",
)
@click.option("--jump", callback=number, metavar="NUMBER", help="Give every site this jump first.")
@click.option(
    "--augment",
    multiple=True,
    callback=_augment,
    type=click.Choice([*AUGMENTATIONS, "none"]),
    help="Make new samples of the images, may be repeated; by default shift.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="Passes over DATA.",
)
@click.option(
    "--learning-rate",
    callback=positive,
    default="0.003",
    show_default=True,
    metavar="X",
    help="Of Adam, at its height.",
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "constant"]),
    default="cosine",
    show_default=True,
    help="Of the learning rate.",
)
@click.option(
    "--weight-decay",
    callback=number,
    default="0",
    show_default=True,
    metavar="X",
    help="Of AdamW.",
)
@click.option(
    "--averaging",
    callback=number,
    default="5",
    show_default=True,
    metavar="EPOCHS",
    help="Average the weights over so many epochs; 0: no average.",
)
@click.option(
    "--projections",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    metavar="N",
    help="Random projections of the Jacobian for each sample; 0: all of it.",
)
@click.option(
    "--update-statistics",
    is_flag=True,
    help="Let the mean and variance of BatchNorms follow DATA.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    metavar="N",
    help="End after so many checks without progress; by default after all epochs.",
)
@click.option(
    "--val-limit",
    "validation_limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Attack no more samples of VAL than these.",
)
@click.option(
    "--resume",
    is_flag=True,
    help='Go on from OUT + ".checkpoint", which every check of VAL writes.',
)
@copy_option
@force_option
@as_json
def finetune(
    model: Path,
    data: DataOptions,
    val: Path,
    output: Path,
    resume: bool,
    copy_data: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train the weights of MODEL further on DATA so that it withstands attacks.

    Only the values of weights change. Ctrl-C writes the best so far, and --resume goes on from
    there. Keep a third set of samples to verify the result with.
    """
    from onnxfit.files import load
    from onnxfit.finetuning.finetuner import finetune as tune
    from onnxfit.finetuning.settings import Settings

    checkpoint = output.with_name(f"{output.name}.checkpoint")
    going_on = resume and checkpoint.exists()
    again = going_on and output.exists() and _is_of(output, checkpoint)
    check_output([model, data.path, val], output, force or again)
    check_output([model, data.path, val], checkpoint, force or resume)
    for folder in (path for path in (data.path, val) if path.is_dir()):
        check_outside(output, folder)
    given = {key: value for key, value in options.items() if value is not None}
    given |= {"mean": data.mean, "std": data.std, "seed": data.seed, "batch_size": data.batch_size}
    try:
        settings = Settings(**given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    write_model(load(model), output, model.parent, copy_data=copy_data, dry_run=True)
    if resume and not going_on:
        click.echo(f"There is no {checkpoint}: the training begins anew.", err=True)
    held_out = dataclasses.replace(data, path=val, limit=None)
    with _telling_what_is_kept(checkpoint), interrupted_once():
        found = tune(
            model,
            data.open,
            held_out.open,
            checkpoint=checkpoint,
            resume=resume,
            begin=progress,
            **dataclasses.asdict(settings),
        )
        if found.model is not None:
            write_model(found.model, output, model.parent, copy_data=copy_data)
        document = found.document
        document["output"] = None if found.model is None else str(output)
        if found.interruption is None:
            checkpoint.unlink(missing_ok=True)
        for warning in document["warnings"]:
            click.echo(warning, err=True)
        if as_json:
            print_json(document)
        else:
            _print(document)
    if found.interruption is not None:
        # Ctrl-C or SIGTERM, each with its status.
        raise found.interruption
    if found.model is None or document["stopped"].startswith("diverged"):
        sys.exit(NOTHING_KEPT)


def _is_of(output: Path, checkpoint: Path) -> bool:
    """Tell whether a file was written by the training, interrupted, that a checkpoint is of."""
    from onnxfit.files import load
    from onnxfit.finetuning.checkpoint import run_of
    from onnxfit.record import FINETUNING, provenance

    try:
        record = provenance(load(output)).get(FINETUNING)
    except ModelError:
        return False
    return isinstance(record, dict) and record.get("run") == run_of(checkpoint)


@contextlib.contextmanager
def _telling_what_is_kept(checkpoint: Path) -> Iterator[None]:
    """Say after Ctrl-C where nothing is written, and what --resume would go on from."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        told = list(getattr(interruption, "__notes__", ()))
        if checkpoint.exists():
            told.append(f"--resume goes on from {checkpoint}")
        if told:
            click.echo(f"{'; '.join(told)}.", err=True)
        raise


def _print(document: dict[str, Any]) -> None:
    """Print the checks and what came of them."""
    rows = [["epoch", "loss", "clean", "robust", "budget"]]
    for record in document["history"]:
        rows.append(
            [
                str(record["epoch"]),
                f"{record['loss']:.3f}",
                f"{record['clean']:.1%}",
                f"{record['robust']:.1%}",
                "inside" if record["inside"] else "outside",
            ]
        )
    print_table(rows)
    sides = [document[side] for side in ("before", "after") if document[side] is not None]
    clean, robust = ([side[key]["accuracy"] for side in sides] for key in ("clean", "robust"))
    print_pairs(
        {
            "clean": " → ".join(f"{accuracy:.2%}" for accuracy in clean),
            "robust": " → ".join(f"{accuracy:.1%}" for accuracy in robust),
            "stopped": document["stopped"],
            "time": f"{document['seconds']:.0f} s",
        }
    )
    click.echo(document["headline"])
    if document["output"]:
        click.echo(f"wrote {document['output']}")
