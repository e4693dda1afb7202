"""What ``calibrate`` prints on a terminal."""

import re

import pytest
from calibration_documents import (
    NO_GAIN,
    by_channel,
    change,
    document,
    paper,
    point,
    refined,
)

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from onnxfit.report.calibration_terminal import (
    curve,
    lines,
    print_calibration,
    sites,
)


def test_the_terminal_has_the_curve() -> None:
    """A row per strength; the chosen one says so in the column of the budget."""
    rows = curve(document())
    header = ["jump", "clean", "drop\nlimit", "budget", "worst\nfirst 64", "native\nfirst 64"]
    assert [*header, "attacked", "difference\nto before"] == rows[0]
    expected = ["0.25", "99.11%", "0.71%", "chosen", "48.11%", "71.23%", "200"]
    assert [*expected, "+10.1 (+2.8 to +17.4)"] == rows[2]
    assert ["inside", "chosen", "outside", "inside", "outside"] == [row[3] for row in rows[1:]]
    assert "quantile" == curve(by_channel())[0][0]
    assert ["worst", "native"] == curve({"curve": [{"strength": 0.5}]})[0][4:6]


def test_the_terminal_has_the_curve_of_the_papers_objective() -> None:
    """Its columns are the same; what the difference is of is told in words."""
    assert curve(document()) == curve(paper())
    words = "in points; 95 % interval, not corrected for the search"
    assert [
        "samples    worst and native: the same first 64 in every row; difference: all attacked",
        f"difference by native gradients alone, {words}",
    ] == lines(paper())[:2]
    assert f"difference by smooth gates, {words}" == lines(document())[1]
    assert [] == lines({})


def test_the_curve_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """With cells as wide as they get, the table has at most 100 columns."""
    wide = point(0.99552, 1.0, 0.1234, 0.1, 1024) | {"difference": change(-0.201, -0.3, 0.2, 1024)}
    result = document(scale="quantile", curve=[wide], sites=[])
    print_calibration(result | {"headline": "-", "warnings": []})
    printed = capsys.readouterr().out
    assert "−20.1 (−30.0 to +20.0)" in printed
    assert 100 >= max(map(len, printed.splitlines()))


def test_the_terminal_has_the_sites_and_the_test() -> None:
    """Jumps with what they zero; budget, p-value and warnings in words."""
    assert ["/relu/output", "0.125 to 0.5 of 3 channels", "3.36%"] == sites(by_channel())[1]
    assert [
        "budget     a drop of at most 0.01, with 0.95 confidence",
        "test       p = 0.0021 on 200 attacked samples; after Bonferroni over 10 candidates 0.021",
        "warning    The model ends in a Softmax.",
    ] == lines(document())[2:]


def test_the_terminal_has_what_sites_do() -> None:
    """A refined calibration adds strength, what is bought and what it costs, and words."""
    result = refined()
    result["sites"][0]["attribution"]["clean"] = {"difference": None, "ci95": None}
    rows = sites(result)
    header = ["strength", "buys alone, points (smooth gates)", "costs alone, points"]
    assert header == rows[0][3:]
    assert ["0.25", "−3.1 (−6.1 to −0.2)", "–"] == rows[1][3:]
    assert ["0.75", "+5.1 (+1.1 to +9.2)", "−1.2 (−2.1 to −0.4)"] == rows[2][3:]
    assert [
        "refined    3 changes were tried, one site at a time, on 128 attacked samples; 1 taken.",
        "alone      1 of 2 sites buys robustness under smooth gates beyond noise: /head/output "
        "(+5.1 points, 95 % interval +1.1 to +9.2).",
    ] == lines(result)[4:6]
    header = sites(refined(objective="paper"))[0]
    assert "buys alone, points (native gradients alone)" == header[4]


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The headline comes first, then the tables, then the words; no cursor is moved."""
    result = document(headline=f"{NO_GAIN}\x1b[2J")
    result["curve"][0] |= {"clean": None, "drop_limit": None, "difference": None}
    result["curve"][0]["common"] |= {"worst": None, "native": None}
    print_calibration(result)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{NO_GAIN}\\x1b[2J\n")
    assert "\x1b" not in printed
    places = [printed.index(word) for word in ("first 64", "/head/output", "budget     a drop")]
    assert sorted(places) == places
    assert re.search(r"^ +0 +– +– +inside +– +– +200 +– *$", printed, re.MULTILINE)
