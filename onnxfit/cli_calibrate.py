"""The verb ``calibrate``: find the jumps of a model on validation data."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_attack import threat_options
from onnxfit.cli_files import check_different, check_output, check_outside, stem, write_model
from onnxfit.cli_options import (
    DataOptions,
    as_json,
    copy_option,
    data_options,
    force_option,
    model_argument,
    output_option,
    positive,
)
from onnxfit.cli_output import print_json, progress

NO_GAIN = 1


@click.command()
@model_argument
@data_options
@click.option(
    "--max-drop",
    callback=positive,
    default="0.01",
    show_default=True,
    metavar="X",
    help="Largest drop of clean accuracy.",
)
@click.option(
    "--confidence",
    callback=positive,
    default="0.95",
    show_default=True,
    metavar="X",
    help="With which the drop is no larger.",
)
@click.option(
    "--scale",
    type=click.Choice(["shared", "quantile", "channel"]),
    default="shared",
    show_default=True,
    help="One jump for all sites, a quantile of each site's inputs, or of each channel's.",
)
@click.option(
    "--objective",
    type=click.Choice(["worst-case", "paper"]),
    default="worst-case",
    show_default=True,
    help="What to keep right: under all gradients, or the network's own alone, as the paper did.",
)
@threat_options
@click.option(
    "--points",
    type=click.IntRange(min=8),
    default=20,
    show_default=True,
    metavar="N",
    help="How many jump sizes to try.",
)
@click.option(
    "--attack-limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Attack no more samples than these; clean accuracy is of all.",
)
@click.option("--refine", is_flag=True, help="Then look for a better strength of each site alone.")
@output_option('MODEL\'s stem + ".jump.onnx"')
@copy_option
@force_option
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write calibration.json and report.html there.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep what is measured, and go on from there after an interruption.",
)
@click.option(
    "--require-gain",
    is_flag=True,
    help="Write no model, and end with status 1, where no jump helps beyond noise.",
)
@as_json
def calibrate(
    model: Path,
    data: DataOptions,
    output: Path | None,
    copy_data: bool,
    force: bool,
    report: Path | None,
    cache: Path | None,
    require_gain: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the jumps that keep most samples right under attack, inside a budget, and harden MODEL.

    Keep other data than DATA to verify the result with.
    """
    from onnxfit.calibration.calibrator import calibrate as find
    from onnxfit.calibration.result import FILES
    from onnxfit.calibration.settings import Settings
    from onnxfit.files import load
    from onnxfit.report.calibration_terminal import print_calibration
    from onnxfit.verification.report_folder import check_folder

    _check_testable(require_gain, options)
    output = output or model.parent / f"{stem(model)}.jump.onnx"
    inputs = [model, data.path]
    check_output(inputs, output, force)
    if data.path.is_dir():
        for path in (output, *([] if cache is None else [cache])):
            check_outside(path, data.path)
    written = [output, *([] if cache is None else [cache])]
    if report is not None:
        check_folder(report, FILES, data.path, inputs)
        written += [report / name for name in FILES]
    check_different(written)
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    given |= {"mean": data.mean, "std": data.std, "seed": data.seed, "batch_size": data.batch_size}
    try:
        settings = Settings(**given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    write_model(load(model), output, model.parent, copy_data=copy_data, dry_run=True)
    with _telling_what_is_lost(cache):
        found = find(model, data.open, cache=cache, begin=progress, **dataclasses.asdict(settings))
    write = found.improves or not require_gain
    found.document["output"] = str(output) if write else None
    if write:
        write_model(found.harden(), output, model.parent, copy_data=copy_data)
    if report is not None:
        found.write_report(report)
    if as_json:
        for warning in found.document["warnings"]:
            click.echo(warning, err=True)
        print_json(found.document)
    else:
        print_calibration(found.document)
        if report is not None:
            click.echo(f"wrote {report / 'report.html'}")
        if write:
            click.echo(f"wrote {output}")
    if not write:
        stays = f"; {output} stays as it was" if output.exists() else ""
        click.echo(f"No model was written: no jump helps beyond noise{stays}.", err=True)
        sys.exit(NO_GAIN)


def _check_testable(require_gain: bool, options: dict[str, Any]) -> None:
    """Refuse to ask for a gain that no sample would be left to show."""
    from onnxfit.calibration.refinement import JUDGED_ON

    if require_gain and options["refine"] and options["attack_limit"] <= JUDGED_ON:
        raise click.UsageError(
            f"--refine with --require-gain needs an --attack-limit above {JUDGED_ON}: so many "
            "samples make the refinement, and others tell whether anything was gained."
        )


@contextlib.contextmanager
def _telling_what_is_lost(cache: Path | None) -> Iterator[None]:
    """Say after Ctrl-C that nothing is kept, where it is so."""
    try:
        yield
    except KeyboardInterrupt:
        if cache is None:
            click.echo("Nothing was kept; with --cache FILE it would have been.", err=True)
        raise
