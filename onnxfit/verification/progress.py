"""How long work tells how far it is."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol


class Advance(Protocol):
    """Is told of the parts of work that are done."""

    def __call__(self, count: float, /, total: float | None = None, what: str = "") -> object:
        """Take note.

        Args:
            count: How much more is done.
            total: How much all of it is by now, what is done included; None where that is as
                before.
            what: What is done next; empty where that is as before.
        """


# Is given an amount of work and its name; a context that gives what is told of the parts done.
Begin = Callable[[float, str], contextlib.AbstractContextManager[Advance]]


def nobody(count: float, /, total: float | None = None, what: str = "") -> None:
    """Take no note."""


@contextlib.contextmanager
def silent(total: float, what: str) -> Iterator[Advance]:
    """Tell nobody."""
    del total, what
    yield nobody
