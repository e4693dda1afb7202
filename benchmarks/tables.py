"""Tables of shares and differences with their intervals, and how a page of docs/ takes them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnxfit.verification.statistics import Interval, wilson

MORE, LESS, UNDECIDED = "more robust", "less robust", "undecided"


def percent(share: float, n: int) -> str:
    """Write a share with its 95 % interval."""
    low, high = (100 * limit for limit in wilson(round(share * n), n))
    return f"{100 * share:.1f} % ({low:.1f} to {high:.1f})"


def points(difference: float, limits: Interval) -> str:
    """Write a difference in points, with an interval."""
    low, high = (100 * limit for limit in limits)
    return f"{100 * difference:+.1f} ({low:+.1f} to {high:+.1f})"


def verdict(limits: Interval) -> str:
    """Say what an interval of a difference allows to say."""
    if limits[0] > 0:
        return MORE
    return LESS if limits[1] < 0 else UNDECIDED


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def filled(text: str, found: Mapping[str, Sequence[str]], script: str) -> str:
    """Put lines between the marks of a page that name them.

    Args:
        text: The page.
        found: The lines of each table, by the name in its marks.
        script: What writes them.

    Raises:
        ValueError: A mark is missing.
    """
    for name, lines in found.items():
        begin, end = f"<!-- {name}: written by {script} report -->", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"the page has no marks for {name!r}")
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{after}"
    return text
