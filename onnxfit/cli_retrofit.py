"""The verb ``retrofit``: other activations, and what goes in front of a network or behind it."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_files import check_output, stem, write_model
from onnxfit.cli_options import (
    as_json,
    copy_option,
    force_option,
    model_argument,
    names_of_rewrites,
    number,
    output_option,
    units_options,
)
from onnxfit.cli_output import print_json, print_sites
from onnxfit.cli_passes import Pass, pass_options
from onnxfit.errors import DataError

LOWERINGS = ("function", "custom", "standard")


@click.command()
@model_argument
@click.option(
    "--jump", metavar="NUMBER", callback=number, help="Jump size of every site: 0.5 or 8/255."
)
@click.option(
    "--jumps",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help='Jump sizes by site: {"site": 0.5, …}; nested lists for one per channel or element. '
    "They go before --jump.",
)
@click.option("--include", multiple=True, metavar="REGEX", help="Harden only matching sites.")
@click.option("--exclude", multiple=True, metavar="REGEX", help="Leave matching sites.")
@click.option(
    "--lowering",
    type=click.Choice(LOWERINGS),
    default=LOWERINGS[0],
    show_default=True,
    help="JumpReLU with a function as fallback, JumpReLU alone, or standard operators.",
)
@click.option(
    "--optimize",
    is_flag=True,
    help="Rewrite the hardened model so that it computes the same with less work: twice, maxpool "
    "and concat.",
)
@click.option(
    "--rewrites",
    callback=names_of_rewrites,
    metavar="NAMES",
    help="Rewrite it by these alone, of twice, add (for CUDA), maxpool and concat.",
)
@pass_options
@units_options
@output_option('MODEL\'s stem + ".jump", ".denoised", ".interpolated" or several + ".onnx"')
@copy_option
@click.option("--dry-run", is_flag=True, help="Check and show everything, write nothing.")
@force_option
@as_json
def retrofit(
    model: Path,
    jump: float | None,
    jumps: Path | None,
    include: Sequence[str],
    exclude: Sequence[str],
    lowering: Any,
    optimize: bool,
    rewrites: tuple[str, ...] | None,
    passes: Sequence[Pass],
    bounds: tuple[float, float],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    output: Path | None,
    copy_data: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Replace the activations of MODEL by JumpReLU, denoise its input, replace its last layer.

    A hardened MODEL gets new jumps; sites that are not named keep theirs.
    """
    from onnxfit.files import as_saved
    from onnxfit.hardening import retrofit as harden
    from onnxfit.inspection import inspect as look

    jumping = jump is not None or jumps is not None
    if not jumping and not passes:
        raise click.UsageError("Give --jump or --jumps, --tv-weight or --interpolate.")
    if not jumping and (include or exclude or optimize or rewrites is not None):
        raise click.UsageError("--include, --exclude, --optimize and --rewrites go with a jump.")
    ending = ".jump" * jumping + "".join(each.ending for each in passes)
    output = output or model.parent / f"{stem(model)}{ending}.onnx"
    read = [model, *([] if jumps is None else [jumps]), *(f for each in passes for f in each.files)]
    check_output(read, output, force)
    sizes = None if jumps is None else _read_jumps(jumps)
    optimized = optimize if rewrites is None else rewrites
    units = {"bounds": bounds, "mean": mean, "std": std}
    made: Any = model
    try:
        if jumping:
            made = harden(
                model,
                jump,
                jumps=sizes,
                include=include,
                exclude=exclude,
                lowering=lowering,
                optimize=optimized,
            )
        for each in passes:
            made = each.apply(made, model.parent, units)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    write_model(made, output, model.parent, copy_data=copy_data, dry_run=dry_run)
    found = look(as_saved(made, output.resolve())[0])
    if as_json:
        document = {"source": str(model), "path": str(output), "written": not dry_run}
        print_json({**document, **dataclasses.asdict(found)})
        return
    print_sites(found)
    for each in passes:
        click.echo(each.told(found.provenance))
    standard = [site for site in found.sites if site.lowering == "standard"]
    if standard and lowering == "function":
        click.echo(
            f"{len(standard)} of another element type than the rest took the standard lowering: "
            "a file of this opset can hold one function for one type."
        )
    if optimized:
        rewritten = found.provenance.get("rewrites", {})
        counts = ", ".join(f"{name} {count}" for name, count in rewritten.items())
        click.echo(f"rewrites: {counts or 'there was nothing to rewrite'}")
    click.echo(f"{'would write' if dry_run else 'wrote'} {output}")


def _read_jumps(path: Path) -> dict[str, Any]:
    """Read jump sizes by site name: numbers, or nested lists of them."""
    try:
        sizes = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON of one number per site: {error}") from error
    if not isinstance(sizes, dict) or not sizes:
        raise DataError(f'{path} must hold jump sizes by site, as in {{"site": 0.5}}')
    for name, size in sizes.items():
        for leaf in _leaves(size):
            number = isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
            if not number or not 0 <= leaf <= sys.float_info.max:
                holds = "holds" if isinstance(size, list) else "is"
                raise DataError(
                    f"{path}: the jump of {name!r} {holds} {leaf!r}, not a number of at least 0"
                )
        if isinstance(size, list) and not _is_regular(size):
            raise DataError(f"{path}: the lists in the jump of {name!r} differ in length or depth")
    return sizes


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what nested lists hold, or the value itself."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, list):
            left += reversed(item)
        else:
            yield item


def _is_regular(nested: list[Any]) -> bool:
    """Tell whether nested lists are an array, which NumPy has up to a certain depth."""
    import numpy as np

    try:
        return np.asarray(nested).dtype != object
    except ValueError:
        return False


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := dict(pairs)) < len(pairs):
        raise ValueError("a name is given twice")
    return names
