"""How long work tells how far it is."""

import contextlib
from collections.abc import Callable, Iterator

Advance = Callable[[int], object]
# Is given an amount of work and its name; a context that gives what is told of the parts done.
Begin = Callable[[int, str], contextlib.AbstractContextManager[Advance]]


@contextlib.contextmanager
def silent(total: int, what: str) -> Iterator[Advance]:
    """Tell nobody."""
    del total, what
    yield lambda count: None
