"""The progress bar of the verbs tells how far they are and how long they still take."""

import re
import sys
from collections.abc import Iterator

import pytest
import rich.console
import rich.progress

from onnxfit.cli_output import progress
from onnxfit.verification.progress import nobody

Bars = list[rich.progress.Progress]
# The time in seconds.
now = [0.0]


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bars]:
    """Collect the bars that are made, on a terminal whose clock is set by hand."""
    made: Bars = []

    class Bar(rich.progress.Progress):
        """Draws nothing by itself."""

        def __init__(self, *columns: rich.progress.ProgressColumn, **given: object) -> None:
            del given
            super().__init__(*columns, get_time=lambda: now[0], disable=True)
            made.append(self)

    monkeypatch.setattr(rich.progress, "Progress", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    yield made
    now[0] = 0.0


def shown(bar: rich.progress.Progress) -> str:
    """Return the line that a bar would show."""
    console = rich.console.Console(width=100, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(bar.get_renderable())
    return re.sub(r"[━╸╺ ]+", " ", capture.get()).strip()


def test_a_bar_counts_on(bars: Bars) -> None:
    """Its name, the share that is done, and the time left by the pace of the last steps."""
    with progress(10, "attacks") as advance:
        for _ in range(4):
            now[0] += 1.0
            advance(1)
        assert "attacks 40% 0:00:06" == shown(bars[0])


def test_a_bar_whose_total_is_told_shows_the_seconds_left(bars: Bars) -> None:
    """At most so many, and less between two reports; it says what is done next."""
    with progress(0.0, "activations") as advance:
        assert "activations 0% -:--:--" == shown(bars[0])
        now[0] = 1.0
        advance(0.0, total=100.0)
        assert "activations 0% at most 0:01:40" == shown(bars[0])
        now[0] = 30.0
        advance(10.0, total=100.0, what="race")
        assert "race 10% at most 0:01:30" == shown(bars[0])
        now[0] = 40.0
        assert "race 10% at most 0:01:20" == shown(bars[0])
        advance(10.0, total=40.0)
        assert "race 50% at most 0:00:20" == shown(bars[0])
        now[0] = 70.0
        assert "race 50% at most 0:00:00" == shown(bars[0])
        advance(20.0, total=40.0)
        assert "race 100% at most 0:00:00" == shown(bars[0])


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    """Not on stderr, which is no terminal here, and never on stdout."""
    assert not sys.stderr.isatty()
    with progress(2, "attacks") as advance:
        assert nobody is advance
        advance(1, total=3.0, what="more")
        advance(2)
    assert ("", "") == capsys.readouterr()
