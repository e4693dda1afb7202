"""The HTML report of a calibration: its form, its commands, and what it is made of."""

import copy
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calibration_documents import (
    BUYS,
    CELLS,
    COSTS,
    CURVE,
    by_channel,
    document,
    paper,
    refined,
    shown,
    without_gain,
    worse,
    write_out_plots,
)
from html_page import Page

pytest.importorskip("jinja2")
matplotlib = pytest.importorskip("matplotlib")

from onnxfit.report import calibration  # noqa: E402 - after the packages it needs
from onnxfit.report.calibration import jump_text, render_calibration  # noqa: E402
from onnxfit.report.trade_off import Marks, trade_off  # noqa: E402

DOCUMENTS = {
    "gain": document(),
    "no gain": without_gain(),
    "worse": worse(),
    "channels": by_channel(),
    "paper": paper(),
    "refined": refined(),
    "unwritten": without_gain() | {"output": None},
    "empty": {},
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """Render all calibrations once."""
    return {name: render_calibration(result) for name, result in DOCUMENTS.items()}


@pytest.fixture(params=DOCUMENTS)
def text(request: pytest.FixtureRequest, rendered: dict[str, str]) -> str:
    """Return one of several pages."""
    return rendered[request.param]


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write out what the plot would show in place of drawing it, which takes long."""
    write_out_plots(monkeypatch)


def test_the_page_is_well_formed(text: str) -> None:
    """Every tag is closed in its turn; ids are unique, and links lead somewhere."""
    page = Page(text, CELLS)
    assert [] == page.wrong
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [target for target in page.values("href") if target.startswith("#")]
    assert {target.removeprefix("#") for target in links} <= set(ids)


def test_the_page_needs_nothing_else(text: str) -> None:
    """No script runs, nothing is loaded, and no address of another machine stands in it."""
    page = Page(text, CELLS)
    assert {"script", "iframe", "object", "embed", "base"}.isdisjoint(tag for tag, _ in page.tags)
    assert [] == [name for _, found in page.tags for name in found if name.startswith("on")]
    assert [] == re.findall(r"https?:|@import", text)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text


def test_the_page_can_be_read_aloud(text: str) -> None:
    """The language is given, headers of tables have a scope, drawings are hidden or have words."""
    page = Page(text, CELLS)
    assert ["en"] == page.values("lang")
    tags = [tag for tag, _ in page.tags]
    assert 1 == tags.count("h1") == tags.count("title") == tags.count("main")
    assert all(found.get("scope") for tag, found in page.tags if tag == "th")
    assert all(found.get("aria-hidden") == "true" for tag, found in page.tags if tag == "svg")


def test_the_same_document_gives_the_same_bytes(rendered: dict[str, str]) -> None:
    """Rendering again gives the same page, whatever matplotlib is set to."""
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "font.size": 20}):
        assert rendered["gain"] == render_calibration(document())


@pytest.mark.parametrize(
    ("jump", "expected"),
    [
        (0.25, "0.25"),
        ([0.5], "0.5"),
        ([[[0.5]], [[None]], [[0.25]]], "0.25 to 0.5 of 2 channels"),
        ([], "–"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_how_a_jump_is_written(jump: Any, expected: str) -> None:
    """A number as it is, an array as its range; nothing is a dash."""
    assert expected == jump_text(jump)


@pytest.mark.usefixtures("words")
def test_the_next_commands_are_exact() -> None:
    """They name the files, quoted for a shell, and what was not the default."""
    page = shown(document(quantize=True, eps=8 / 255))
    assert (
        "onnxfit verify 'build/a model.jump.onnx' --data TEST_DATA --baseline 'build/a model.onnx' "
        "--eps 8/255 --norm linf --quantize --mean=0.1307 --std=0.3081 --max-drop 0.01 "
        "--report verified" in page
    )
    named = shown(document(output="out/hard.onnx"))
    assert "onnxfit restore out/hard.onnx" in named
    assert "The commands name the hardened file as" not in named


@pytest.mark.usefixtures("words")
def test_no_command_names_a_file_that_was_not_written() -> None:
    """Where no model was written, the next steps are others."""
    page = shown(without_gain() | {"output": None})
    assert "No model was written: no gain is shown on these samples" in page
    assert "onnxfit verify" not in page
    assert "Try --scale quantile" in page
    assert "Try --refine" in page
    page = shown(refined(scale="quantile", output=None))
    assert "Try" not in page
    assert "No model was written" not in shown(without_gain())


def test_verify_takes_the_command() -> None:
    """Its options are those of ``onnxfit verify``."""
    from onnxfit.cli_verify import verify

    words = calibration._commands(document(quantize=True))["verify"].split()
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    assert options <= {option for one in verify.params for option in one.opts}


@pytest.mark.usefixtures("words")
def test_warnings_and_environment_are_shown() -> None:
    """What was warned of stands on top, what ran below."""
    page = shown(document())
    assert "Warning The model ends in a Softmax." in page
    assert "torch 2.13.0" in page
    assert "✓ agree" in page
    assert "Warning" not in shown(document(warnings=[]))


@pytest.mark.usefixtures("words")
def test_names_cannot_write_into_the_page() -> None:
    """Names and sentences of the document are escaped wherever they stand."""
    evil = "<script>alert('x')</script>\"'&"
    result = document(headline=evil, scale=evil, objective=evil, norm=evil, warnings=[evil])
    result["model"]["path"] = result["data"]["path"] = result["output"] = evil
    result["sites"] = refined(BUYS, COSTS)["sites"]
    result["sites"][0]["name"] = result["sites"][0]["jump"] = evil
    result["refinement"] = dict.fromkeys(("edge", "judged_on", "tried", "taken"), evil)
    result["environment"] |= {evil: evil}
    result["curve"][0] |= {"strength": evil, "clean": {"accuracy": evil}, "attacked": evil}
    page = Page(render_calibration(result), CELLS)
    assert [] == page.wrong
    assert "script" not in [tag for tag, _ in page.tags]
    assert evil in page.text


def test_names_cannot_write_into_the_plot() -> None:
    """A label of an axis is escaped, and is no formula."""
    svg = trade_off(CURVE, Marks(x="a <b> $x^2$"))
    assert ">a &lt;b&gt; $x^2$</text>" in svg


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize("missing", [None, "gone"])
def test_parts_may_be_missing(missing: str | None) -> None:
    """Any part of the document can be None or absent."""
    for key in refined():
        result = refined(**{key: None})
        if missing == "gone":
            del result[key]
        page = Page(render_calibration(result), CELLS)
        assert [] == page.wrong, key
        assert re.search(r"\b(None|nan)\b", page.text.partition("What was asked")[0]) is None, key


def test_numbers_that_are_none_are_dashes() -> None:
    """NaN, None and infinities are dashes in the tables and gaps in the plot."""
    nothing = {"robust_accuracy": math.nan, "ci95": [None, math.inf]}
    result = document(after={"clean": None, **nothing}, strength=None)
    result["curve"][1] |= {"robust": nothing, "clean": None, "drop_limit": math.nan}
    result["curve"][1] |= {"common": {"worst": nothing, "native": None}, "difference": None}
    result["curve"][2] |= {"common": None, "inside": None, "attacked": None}
    result["curve"][3] = None
    page = shown(result)
    assert "0.25 – – – ✓ inside – – – – 200 – – – –" in page
    assert re.search(r"\b(nan|inf|None)\b", page) is None


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where the numbers, words and truth values of a document are."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in inner:
        if isinstance(below, dict | list):
            yield from leaves(below, (*path, key))
        else:
            yield (*path, key)


def changed(value: Any) -> Any:
    """Change a value by as little as must be seen."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.25 + 0.01 if isinstance(value, float) else f"{value}x"


@pytest.mark.parametrize("made", [document, refined])
def test_all_that_is_shown_comes_from_the_document(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is changed in the document changes the page, without its plot."""
    monkeypatch.setattr(calibration, "trade_off", lambda *drawn, narrow: "")
    result = made()
    original, unseen = render_calibration(result), []
    for path in leaves(result):
        other = copy.deepcopy(result)
        *parents, last = path
        target: Any = other
        for key in parents:
            target = target[key]
        target[last] = changed(target[last])
        if render_calibration(other) == original:
            unseen.append(path)
    assert [] == unseen


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Jinja the report is a ModuleNotFoundError that names it."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    calibration._template.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="jinja2"):
        render_calibration(document(curve=[]))


def test_templates_are_found_in_the_package() -> None:
    """Every template that a page extends or includes lies beside it, where wheels take it from."""
    folder = Path(calibration.__file__).parent
    for template in folder.glob("*.jinja"):
        source = template.read_text(encoding="utf-8")
        for name in re.findall(r"{% (?:extends|from|include|import) \"([^\"]*)\"", source):
            assert (folder / name).is_file(), (template.name, name)
