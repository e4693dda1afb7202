"""What is kept of every run of a benchmark that takes hours, in one file."""

import json
from collections.abc import Mapping
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
        self.runs = self._read() | {key: record}
        text = json.dumps(dict(sorted(self.runs.items())), indent=1, ensure_ascii=False)
        new = self._path.with_suffix(".new")
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(self._path)

    def _read(self) -> dict[str, Record]:
        if not self._path.exists():
            return {}
        found: dict[str, Record] = json.loads(self._path.read_text(encoding="utf-8"))
        return found
