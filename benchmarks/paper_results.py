"""What is kept of every run of ``jump_relu_paper.py``, in one file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paper_cases import Network

RESULTS = Path(__file__).parent / "results"
STORE = RESULTS / "paper.json"

Record = Mapping[str, Any]


class Results:
    """Records of runs by key, in a file that holds all of them at any time.

    Attributes:
        runs: The records.
    """

    def __init__(self, path: Path = STORE) -> None:
        self._path = path
        self.runs: dict[str, Record] = {}
        if path.exists():
            self.runs = json.loads(path.read_text(encoding="utf-8"))

    def add(self, key: str, record: Record) -> None:
        """Keep a record."""
        self.runs[key] = record
        text = json.dumps(dict(sorted(self.runs.items())), indent=1, ensure_ascii=False)
        new = self._path.with_suffix(".new")
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(self._path)

    def of(self, network: Network, part: str, seed: int | None = 0) -> list[Record]:
        """Return the records of a part, as the network lists its configurations.

        Args:
            network: Which.
            part: Of its evaluation.
            seed: Of the runs; None for all.
        """
        order = {str(each): number for number, each in enumerate(network.configurations)}
        found = [
            run
            for run in self.runs.values()
            if (run["network"], run["part"]) == (network.key, part) and seed in (None, run["seed"])
        ]
        return sorted(found, key=lambda run: (order[run["configuration"]], run["seed"]))
