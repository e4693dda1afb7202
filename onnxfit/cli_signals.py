"""What a verb does about signals that end it."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

ONCE_MORE = "What was found so far is being written; once more ends at once."


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Pass over a second Ctrl-C or SIGTERM, in a ``with`` block that saves what it has.

    The first one does what it did before, and so does the third, in case what is saved hangs. A
    signal that is ignored before, or whose handler Python does not know, stays as it is.
    """
    main = threading.current_thread() is threading.main_thread()
    ending: dict[int, Callable[[int, FrameType | None], object]] = {}
    for number in (signal.SIGINT, signal.SIGTERM) if main else ():
        handler = signal.getsignal(number)
        if callable(handler):
            ending[number] = handler
    count = 0

    def end(which: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 2:
            # A stream that is closed, or being written to, must not cost what is saved.
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                sys.stderr.write(f"{ONCE_MORE}\n")
                sys.stderr.flush()
            return
        try:
            ending[which](which, frame)
        finally:
            # It may have put another in this one's place.
            signal.signal(which, end)

    try:
        for which in ending:
            signal.signal(which, end)
        yield
    finally:
        for which, handler in ending.items():
            signal.signal(which, handler)
