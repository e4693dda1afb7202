"""The verb ``verify``: the release gate."""

import functools
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_attack import threat_options
from onnxfit.cli_options import DataOptions, as_json, data_options, model_argument, positive, share
from onnxfit.cli_output import progress

GATE_FAILED = 1
DROPPED = "An unfinished run in {} is given up; --resume would have gone on with it."


@click.command()
@model_argument
@data_options
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="The model before hardening; by default found from MODEL.",
)
@click.option(
    "--suite",
    type=click.Choice(["quick", "standard", "paper"]),
    help="Which attacks: a minute's worth, what AutoAttack holds and more (the default), or the "
    "protocol of the JumpReLU paper.",
)
@functools.partial(threat_options, paper=True)
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    metavar="policy.toml",
    help="Rules and settings, named like the options, which go before them.",
)
@click.option("--min-clean", callback=share, metavar="X", help="Least clean accuracy.")
@click.option("--min-robust", callback=share, metavar="X", help="Least worst-case accuracy.")
@click.option(
    "--max-drop", callback=share, metavar="X", help="Largest drop of clean accuracy: 0.01."
)
@click.option(
    "--max-slowdown", callback=positive, metavar="X", help="Largest ratio of latencies: 1.1."
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write result.json, report.html, junit.xml and adversarial.npz there.",
)
@click.option(
    "--regression",
    type=click.Path(path_type=Path),
    metavar="adversarial.npz",
    help="Replay these first; by default those of the last report in DIR.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same DIR.")
@as_json
def verify(
    model: Path,
    data: DataOptions,
    report: Path | None,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Attack MODEL and its baseline, and pass or fail the release (exit status 0 or 1)."""
    from onnxfit.report.terminal import print_result
    from onnxfit.verification.gate import verify as run
    from onnxfit.verification.opening import choose

    if resume and report is None:
        raise click.UsageError("--resume needs the DIR of the interrupted run.")
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    given |= {"mean": data.mean, "std": data.std, "seed": data.seed, "batch_size": data.batch_size}
    others = {key: given.pop(key) for key in ("baseline", "regression") if key in given}
    policy = given.pop("policy", None)
    try:
        choose(policy, given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if report is not None and not resume and (report / ".unfinished").exists():
        click.echo(DROPPED.format(report), err=True)
    result = run(
        model,
        data.open,
        policy=policy,
        report=report,
        resume=resume,
        begin=progress,
        command=shlex.join(["onnxfit", *sys.argv[1:]]),
        **others,
        **given,
    )
    if as_json:
        click.echo(result.to_json(), nl=False)
    else:
        print_result(result.document)
        if report is not None:
            click.echo(f"wrote {report / 'report.html'}")
    if not result.passed:
        sys.exit(GATE_FAILED)
