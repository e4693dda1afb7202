"""What is kept of every run of a benchmark that takes hours, in one file."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


class StoredRuns:
    """Records of runs by key, in a file that holds all of them at any time.

    Args:
        path: The file, which need not exist.

    Attributes:
        runs: The records.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.runs = self._read()

    def add(self, key: str, record: Record) -> None:
        """Keep a record, beside those that another process has added since."""
        with self._alone():
            self.runs = self._read() | {key: record}
            text = json.dumps(dict(sorted(self.runs.items())), indent=1, ensure_ascii=False)
            new = self._path.with_suffix(".new")
            new.write_text(text + "\n", encoding="utf-8")
            new.replace(self._path)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process adds a record to a file of this folder."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _read(self) -> dict[str, Record]:
        if not self._path.exists():
            return {}
        found: dict[str, Record] = json.loads(self._path.read_text(encoding="utf-8"))
        return found
