"""What the verbs show: tables, pairs and JSON on stdout, progress on stderr."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from onnxfit.json_values import finite

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from onnxfit.inspection import Inspection
    from onnxfit.verification.progress import Advance


@contextlib.contextmanager
def progress(total: float, what: str) -> Iterator["Advance"]:
    """Show on a terminal how far a verb is, and the time left; give what counts on.

    Where the total is corrected on the way, work is in seconds, and the total the most it may be.
    """
    from onnxfit.verification.progress import nobody

    if not sys.stderr.isatty():
        yield nobody
        return
    from rich.console import Console
    from rich.progress import Progress

    columns, console = Progress.get_default_columns()[:-1], Console(stderr=True)
    with Progress(*columns, _time_left(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, told=None)

        def advance(count: float, /, total: float | None = None, what: str = "") -> None:
            told: dict[str, Any] = {} if total is None else {"told": bar.get_time()}
            bar.update(task, advance=count, total=total, description=what or None, **told)

        yield advance


def _time_left() -> "ProgressColumn":
    """Make a column that shows the time left: at most, where the total is told on the way."""
    from rich.progress import Task, TimeRemainingColumn
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            told = task.fields["told"]
            if told is None or task.remaining is None:
                return super().render(task)
            seconds = max(0.0, task.remaining - (task.get_time() - told))
            left = timedelta(seconds=round(seconds))
            return Text(f"at most {left}", style="progress.remaining")

    return TimeLeft()


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document, with null for the numbers that JSON does not have."""
    click.echo(json.dumps(finite(document), indent=2, allow_nan=False))


def print_pairs(pairs: dict[str, str]) -> None:
    """Print one pair a line, the values below each other."""
    width = max(len(key) for key in pairs)
    for key, value in pairs.items():
        click.echo(f"{key:{width}}  {value}")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text, the header first; names are shown as they are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # In a pipe or file a table is as wide as it needs to be.
    width = None if sys.stdout.isatty() else 10_000
    table = Table(*rows[0], box=box.SIMPLE)
    for row in rows[1:]:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def print_sites(found: "Inspection") -> None:
    """Print the sites of a model and the activations that stay, as tables."""
    if found.sites:
        rows = [["site", "kind", "type", "jump", "written as"]]
        for site in found.sites:
            cells = [shown(site.name), site.kind, site.element_type, _jump(site.jump)]
            rows.append([*cells, site.lowering or "-"])
        print_table(rows)
    click.echo(f"{len(found.sites)} sites, {len(found.jumps)} hardened")
    if found.unreplaced:
        stay = [[shown(item.name), item.op_type, item.reason] for item in found.unreplaced]
        print_table([["stays", "operator", "reason"], *stay])


def _jump(jump: float | tuple[float, ...] | None) -> str:
    """Return the jump of a site as text; of an array how many there are, and the range."""
    if jump is None:
        return "-"
    if not isinstance(jump, tuple):
        return str(jump)
    return f"{len(jump)} from {min(jump)} to {max(jump)}" if jump else "at run time"


def share_text(share: float, ci95: Sequence[float]) -> str:
    """Return a share and its 95 % interval as text."""
    low, high = ci95
    return f"{share:.1%} (95 % interval {low:.1%} to {high:.1%})"


def shown(name: str) -> str:
    """Return a name without the characters that would move a terminal's cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def joined(value: Any) -> str:
    """Return a list as text."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
