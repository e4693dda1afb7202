"""What the verbs check of the files that they are to write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onnxfit.errors import DataError, ModelError


def check_output(inputs: Sequence[Path], output: Path, force: bool) -> None:
    """Refuse to overwrite an input, or another file without being told to."""
    if output.exists():
        for path in inputs:
            if path.exists() and output.samefile(path):
                what = "the input" if path.name == output.name else f"the input {path}"
                raise ModelError(f"the output {output} is {what}")
        if not force and not output.is_dir():
            raise ModelError(f"{output} exists; give --force to replace it")


def check_outside(output: Path, folder: Path) -> None:
    """Refuse to write into the folder of the data."""
    if output.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{output} lies in the folder of the data, {folder}")


def check_different(files: Sequence[Path]) -> None:
    """Refuse to write two things to one file.

    Raises:
        DataError: Two names are the same.
    """
    seen: set[Path] = set()
    for path in (file.resolve() for file in files):
        if path in seen:
            raise DataError(f"{path} cannot be two of the files that are written")
        seen.add(path)


def stem(model: Path) -> str:
    """Return what the names of files made of a model begin with."""
    return model.name.removesuffix(".onnx")


def write_model(
    model: Any, output: Path, folder: Path, *, copy_data: bool, dry_run: bool = False
) -> None:
    """Write a model, or check only that it can be written.

    Args:
        model: What to write.
        output: The file.
        folder: Of the model's external data.
        copy_data: Copy external data to the output's folder, make no hard links.
        dry_run: Write nothing.

    Raises:
        DataError, ModelError: It cannot be written there.
    """
    from onnxfit.external_data import has_external_data
    from onnxfit.files import check_writable, save

    if dry_run:
        check_writable(model, output, folder)
        return
    save(model, output, folder, copy_data=copy_data)
    if not copy_data and output.parent.resolve() != folder.resolve() and has_external_data(model):
        click.echo(
            "The external data beside the output is the source's own, by hard links where the "
            "file system has them: a change in one shows in both, and onnx.load, unlike ONNX "
            "Runtime, reads no file with two names. --copy-data makes copies.",
            err=True,
        )
