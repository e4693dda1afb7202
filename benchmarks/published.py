"""A page of benchmarks/results, and the figures of its tables as JSON beside it.

    python benchmarks/published.py PAGE ...

writes the JSON of pages that are there, for benchmarks that only print theirs.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# Of these the benchmark itself writes what it measured, round by round.
OWN: tuple[str, ...] = ("cpu_kernel", "cuda_resources", "finetune", "interpolation-tv", "paper")
OWN += ("latency_compiled", "latency_plain")


def publish(page: Path, lines: Sequence[str]) -> None:
    """Write a page and its JSON."""
    page.write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")
    write_json(page)


def write_json(page: Path) -> None:
    """Write the JSON of a page beside it."""
    text = json.dumps(data_of(page.read_text(encoding="utf-8")), indent=1, ensure_ascii=False)
    page.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def data_of(text: str) -> dict[str, Any]:
    """Return what a page holds.

    Args:
        text: Of the page, in Markdown.

    Returns:
        ``title``; ``environment``, what it says before its first table of how and where it was
        measured; ``tables``, each with the ``heading`` and the ``text`` above it, its ``columns``
        and ``rows``; ``text``, what comes behind the last.
    """
    title, *lines = text.splitlines()
    tables: list[dict[str, Any]] = []
    heading, above = "", list[str]()
    for number, line in enumerate(lines):
        if line.startswith("|"):
            if number == 0 or not lines[number - 1].startswith("|"):
                tables.append({"heading": heading, "text": _joined(above), "columns": cells(line)})
                tables[-1]["rows"], above = [], []
            elif set(line) - set("|-: "):
                tables[-1]["rows"].append([number_or_text(cell) for cell in cells(line)])
        elif line.startswith("#"):
            heading = line.lstrip("# ")
        else:
            above.append(line)
    environment = tables[0].pop("text") if tables else ""
    return {
        "title": title.lstrip("# "),
        "environment": environment,
        "tables": tables,
        "text": _joined(above),
    }


def cells(row: str) -> list[str]:
    """Return the cells of a row."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def number_or_text(cell: str) -> float | str:
    """Return a cell as a number if it is nothing else."""
    try:
        return float(cell)
    except ValueError:
        return cell


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines).strip("\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_json(Path(name))
