"""Every case of the ``onnx`` package's backend suite passes, or its operator is refused by name."""

import re

import onnx
import pytest
from support import ROOT

pytest.importorskip("torch")

from backend_suite import by_operator, cases, main, outcome, table

if __name__ == "__main__":
    import sys

    main(sys.argv[1:])


@pytest.mark.parametrize("name", cases())
def test_a_case_passes_or_is_refused_by_name(name: str) -> None:
    """Never wrong, only unsupported: no other error, no other result."""
    result = outcome(name)
    assert result == "passed" or result.startswith("unsupported: ")


def test_most_operators_are_supported() -> None:
    """At least 150 operators pass every case of theirs."""
    supported = [name for name, operator in by_operator().items() if operator.supported]
    assert len(supported) >= 150


def test_the_documented_table_is_todays() -> None:
    """docs/operators.md says what the suite says."""
    pinned = re.search(r"^onnx==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    if pinned[1] != onnx.__version__:
        pytest.skip(f"the table is of onnx {pinned[1]}, here is {onnx.__version__}")
    assert table() == (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
