"""The verb ``compile``: optimise a hardened model ahead of time, for this kind of machine."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_files import check_output
from onnxfit.cli_options import (
    as_json,
    force_option,
    model_argument,
    names_of_rewrites,
    required_output,
)
from onnxfit.cli_output import print_json, print_pairs

_NOT_COMPARED = "not compared: of inputs like these no random ones can be made"


@click.command(name="compile")
@model_argument
@required_output("The file to write.")
@click.option(
    "--rewrites",
    default="twice,add,maxpool,concat",
    show_default=True,
    callback=names_of_rewrites,
    metavar="NAMES",
    help="The exact rewrites to apply; '' for none.",
)
@force_option
@as_json
def compile_verb(
    model: Path, output: Path, rewrites: tuple[str, ...], force: bool, as_json: bool
) -> None:
    """Optimise a hardened MODEL for ONNX Runtime's CPU provider on this machine.

    The result runs as fast as the model did before hardening, and only on a machine like this one:
    keep MODEL. Its outputs are compared with MODEL's on random inputs.
    """
    from onnxfit.compilation.comparing import compare
    from onnxfit.compilation.compiler import compile as compile_model
    from onnxfit.compilation.record import recorded
    from onnxfit.external_data import external_files
    from onnxfit.files import load, save

    check_output([model], output, force)
    hard = load(model)
    check_output(external_files(hard, model.parent), output, force)
    # Large weights move from there to beside the output, which is a rename in one file system.
    place = output.parent if output.parent.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, prefix=".onnxfit-") as folder:
        data_dir = Path(folder)
        how: Any = {"data_dir": data_dir, "weights": f"{output.name}.data", "rewrites": rewrites}
        try:
            compiled = compile_model(model, **how)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        found = compare(hard, compiled, base_dir=model.parent, data_dir=data_dir)
        save(compiled, output, data_dir)
    if found is None:
        click.echo(f"the outputs were {_NOT_COMPARED}", err=True)
    made = recorded(compiled)
    if as_json:
        compared = None if found is None else dataclasses.asdict(found)
        print_json({"source": str(model), "path": str(output), **made, "comparison": compared})
        return
    machine = made["machine"]
    instructions = ", ".join(machine["instructions"])
    print_pairs(
        {
            "made for": f"ONNX Runtime {machine['onnxruntime']}, {machine['architecture']}",
            "instructions": instructions or "none that matter",
            "rewrites": _counted(made["rewrites"]),
            "outputs": _NOT_COMPARED,
        }
        | ({} if found is None else {"outputs": found.words})
    )
    click.echo(f"wrote {output}")


def _counted(rewrites: dict[str, int]) -> str:
    """Return how often each was applied, as text."""
    counts = ", ".join(f"{name} {count}" for name, count in rewrites.items() if count)
    return counts or "none"
