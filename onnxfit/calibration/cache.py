"""What a calibration has measured, in a file, so that an interruption loses nothing of it."""

import hashlib
import io
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.errors import DataError

_NOT_A_CACHE = "{} is not a cache of onnxfit calibrate"


class Cache:
    """Arrays by name, each kept as soon as it is put.

    Args:
        path: An SQLite database, made if need be; None for one that is gone in the end, on disk
            as well.
        run: What the measurements depend on: model, data, settings.

    Raises:
        DataError: The file is no cache, or one of another run.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any]) -> None:
        text = json.dumps(run, sort_keys=True, default=str)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        if path is not None and not path.parent.is_dir():
            raise DataError(f"the folder {path.parent} does not exist")
        try:
            self._database = sqlite3.connect("" if path is None else path)
            found = self._run()
        except sqlite3.Error as error:
            raise DataError(f"{_NOT_A_CACHE.format(path)}: {error}") from error
        if found is None:
            with self._database as database:
                database.execute("CREATE TABLE run (fingerprint TEXT)")
                database.execute("CREATE TABLE part (name TEXT PRIMARY KEY, arrays BLOB)")
                database.execute("INSERT INTO run VALUES (?)", (fingerprint,))
        elif found != fingerprint:
            raise DataError(f"{path} is the cache of another model, data or settings")

    def get(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return what was put under a name, or None."""
        query = "SELECT arrays FROM part WHERE name = ?"
        row = self._database.execute(query, (name,)).fetchone()
        if row is None:
            return None
        with np.load(io.BytesIO(row[0]), allow_pickle=False) as arrays:
            return dict(arrays)

    def put(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays under a name, in the place of others."""
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        with self._database as database:
            values = (name, content.getvalue())
            database.execute("INSERT OR REPLACE INTO part VALUES (?, ?)", values)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _run(self) -> str | None:
        """Return what an existing file belongs to; None for a new one.

        Raises:
            sqlite3.Error: It is another kind of file.
        """
        tables = self._database.execute("SELECT name FROM sqlite_master").fetchall()
        if not tables:
            return None
        return str(self._database.execute("SELECT fingerprint FROM run").fetchone()[0])
