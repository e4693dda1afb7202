"""What a long run has done so far, kept in a folder so that another run can go on from there."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.errors import DataError
from onnxfit.json_values import fingerprint
from onnxfit.replacing import replacing

_META = "run.json"


class Journal:
    """Arrays by name that survive an interruption; none are kept where there is no folder.

    Args:
        folder: Where they are kept; made when the first arrays are; None to keep nothing.
        run: What the arrays depend on, as JSON can hold it.
        resume: Go on with what is in the folder, if anything; else it is emptied.

    Raises:
        DataError: The folder holds another run.
    """

    def __init__(self, folder: Path | None, run: Mapping[str, Any], *, resume: bool) -> None:
        self._folder = folder
        self._fingerprint = fingerprint(run)
        if folder is None or not folder.exists():
            return
        if not resume:
            self.remove()
            return
        if _recorded(folder / _META) != self._fingerprint:
            raise DataError(
                f"{folder} holds an unfinished run of another model, data or settings; start "
                "without --resume, which removes it"
            )

    def get(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return what was put under a name, or None."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    def put(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays under a name."""
        if self._folder is None:
            return
        if not (self._folder / _META).exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / _META) as path:
                path.write_text(json.dumps({"run": self._fingerprint}), encoding="utf-8")
        with replacing(self._folder / f"{name}.npz") as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def remove(self) -> None:
        """Forget everything: the run is finished."""
        if self._folder is not None and (self._folder / _META).exists():
            shutil.rmtree(self._folder)


def _recorded(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
