"""The file that an interrupted training goes on from."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from onnxfit.errors import DataError
from onnxfit.replacing import replacing


class Checkpoint:
    """A file with the state of a training, replaced as a whole.

    Args:
        path: Where it lies, or None to keep nothing.
        run: The fingerprint of what the training depends on: files, settings, versions.

    Attributes:
        complaint: Why the last state could not be kept, in a sentence; None where it was.
    """

    def __init__(self, path: Path | None, run: str) -> None:
        self._path, self._run = path, run
        self.complaint: str | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state of tensors, numbers and texts; a full disk does not end a training."""
        if self._path is None:
            return
        # In memory first: what torch says of a file that cannot be written names no reason.
        content = io.BytesIO()
        torch.save({"run": self._run, "state": state}, content)
        try:
            with replacing(self._path) as temporary:
                temporary.write_bytes(content.getbuffer())
        except OSError as error:
            self.complaint = f"{self._path} could not be written: {error.strerror or error}."
        else:
            self.complaint = None

    def load(self) -> dict[str, Any] | None:
        """Return the state that was kept, None where there is no file.

        Raises:
            DataError: The file is damaged, or of another training.
        """
        if self._path is None or not self._path.exists():
            return None
        run, state = _read(self._path)
        if run != self._run:
            raise DataError(
                f"{self._path} is of another training: other files, settings or versions; "
                "delete it, or repeat the command that made it"
            )
        return state


def run_of(path: Path) -> str:
    """Return the fingerprint of the training that a checkpoint is of.

    Raises:
        DataError: The file is damaged.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the fingerprint and the state that a file holds."""
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        return kept["run"], kept["state"]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{path} is no checkpoint: {error}") from error
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is no checkpoint") from error
