"""What is kept of every run of ``jump_relu_paper.py``, in one file."""

from pathlib import Path

from paper_cases import Network
from stored_runs import Record, StoredRuns

RESULTS = Path(__file__).parent / "results"
STORE = RESULTS / "paper.json"

__all__ = ["RESULTS", "STORE", "Record", "Results"]


class Results(StoredRuns):
    """Records of runs, and how to find those of a network."""

    def __init__(self, path: Path = STORE) -> None:
        super().__init__(path)

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
