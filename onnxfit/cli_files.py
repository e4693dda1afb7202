"""What the verbs check of the files that they are to write."""

from collections.abc import Sequence
from pathlib import Path

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
