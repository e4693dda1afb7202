"""Every page of benchmarks/results has its figures beside it as JSON."""

import json
from pathlib import Path

import pytest
from published import OWN, RESULTS, data_of, publish

PAGES = sorted(RESULTS.glob("*.md"))
PAGE = """# A question

`python benchmarks/a.py` on 2 cores.

## Times

Seconds:

| network | s | ratio |
|---|---|---|
| a | 1.5 | 2.0 (1.9 to 2.1) |
| b | – | 3 |

Noise is 1 %.

| c |
|---|
| -4 |

The end.
"""


def test_tables_are_read_from_a_page(tmp_path: Path) -> None:
    """With what stands above them; a number is one only where nothing else stands beside it."""
    publish(tmp_path / "a.md", PAGE.splitlines())
    assert PAGE == (tmp_path / "a.md").read_text(encoding="utf-8")
    assert {
        "title": "A question",
        "environment": "`python benchmarks/a.py` on 2 cores.\n\n\nSeconds:",
        "tables": [
            {
                "heading": "Times",
                "columns": ["network", "s", "ratio"],
                "rows": [["a", 1.5, "2.0 (1.9 to 2.1)"], ["b", "–", 3.0]],
            },
            {"heading": "Times", "text": "Noise is 1 %.", "columns": ["c"], "rows": [[-4.0]]},
        ],
        "text": "The end.",
    } == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_have_their_figures_as_data(page: Path) -> None:
    """Those of the page as it is; some benchmarks write more, in a form of their own."""
    found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    if page.stem in OWN:
        assert found
        return
    assert data_of(page.read_text(encoding="utf-8")) == found
    assert found["environment"]
    assert all(len(row) == len(t["columns"]) for t in found["tables"] for row in t["rows"])
