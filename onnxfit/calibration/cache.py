"""What a calibration has measured, in a file, so that an interruption loses little of it."""

import contextlib
import io
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.errors import DataError
from onnxfit.json_values import fingerprint

# Of what is kept: another number where older files would be misread.
FORMAT = 3
# Seconds to wait for another process that uses the file.
PATIENCE = 1.0
# Of a pass over all samples, what is done is kept after so many.
KEPT_EVERY = 4096

Arrays = Mapping[str, NDArray[Any]]


class Cache:
    """Arrays by name, each kept as soon as it is put. No other process can use the file meanwhile.

    Args:
        path: An SQLite database, made if need be; None for one that is gone in the end, on disk
            as well.
        run: What the measurements depend on: model, data, settings.

    Raises:
        DataError: The file is no cache, one of another run, or in use.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any]) -> None:
        expected = fingerprint({"format": FORMAT, "run": run})
        if path is not None and not path.parent.is_dir():
            raise DataError(f"the folder {path.parent} does not exist")
        self._path = path
        no_cache = f"{path} is not a cache of onnxfit calibrate"
        with self._told(no_cache):
            self._database = sqlite3.connect("" if path is None else path, timeout=PATIENCE)
        try:
            with self._told(no_cache):
                self._take(expected)
        except DataError:
            self.close()
            raise

    def get(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return what was put under a name, or None.

        Raises:
            DataError: The file cannot be read.
        """
        query = "SELECT arrays FROM part WHERE name = ?"
        with self._told(f"the cache {self._path} cannot be read"):
            row = self._database.execute(query, (name,)).fetchone()
        if row is None:
            return None
        with np.load(io.BytesIO(row[0]), allow_pickle=False) as arrays:
            return dict(arrays)

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep arrays under a name, in the place of others.

        Raises:
            DataError: The file cannot be written.
        """
        self.put_all({name: arrays})

    def put_all(self, parts: Mapping[str, Arrays]) -> None:
        """Keep arrays under several names, all of them or none.

        Raises:
            DataError: As :meth:`put`.
        """
        values = [(name, _packed(arrays)) for name, arrays in parts.items()]
        with self._told(f"the cache {self._path} cannot be written"), self._database as database:
            database.executemany("INSERT OR REPLACE INTO part VALUES (?, ?)", values)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _take(self, expected: str) -> None:
        """Take the file for this process, until it is closed; begin a new one all at once.

        What is measured builds on what was measured before, so that two runs would spoil it.

        Raises:
            DataError: It belongs to another run.
            sqlite3.Error: It is another kind of file, in use, or cannot be written.
        """
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        with self._database as database:
            database.execute("BEGIN EXCLUSIVE")
            found = self._run()
            if found is None:
                database.execute("CREATE TABLE run (fingerprint TEXT)")
                database.execute("CREATE TABLE part (name TEXT PRIMARY KEY, arrays BLOB)")
                database.execute("INSERT INTO run VALUES (?)", (expected,))
            elif found != expected:
                raise DataError(
                    f"{self._path} is the cache of another model, data, settings or version"
                )

    def _run(self) -> str | None:
        """Return what an existing file belongs to; None for a new one.

        Raises:
            sqlite3.Error: It is another kind of file.
        """
        tables = self._database.execute("SELECT name FROM sqlite_master").fetchall()
        if not tables:
            return None
        row = self._database.execute("SELECT fingerprint FROM run").fetchone()
        if row is None:
            raise sqlite3.DatabaseError("it names no run")
        return str(row[0])

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say in a sentence what does not work with the file.

        Raises:
            DataError: The database failed.
        """
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_BUSY:
                raise DataError(f"the cache {self._path} is in use by another process") from error
            if code == sqlite3.SQLITE_CANTOPEN:
                raise DataError(f"the cache {self._path} cannot be opened") from error
            raise DataError(f"{what}: {error}") from error


def _packed(arrays: Arrays) -> bytes:
    content = io.BytesIO()
    # An older NumPy would take allow_pickle for one more array.
    named: dict[str, Any] = dict(arrays)
    np.savez(content, **named)
    return content.getvalue()
