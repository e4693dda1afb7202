"""What a verb does about signals that end it."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Ignore all but the first Ctrl-C or SIGTERM, in a ``with`` block that saves what it has.

    A signal that is ignored before, or whose handler Python does not know, stays as it is.
    """
    main = threading.current_thread() is threading.main_thread()
    ending: dict[int, Callable[[int, FrameType | None], object]] = {}
    for number in (signal.SIGINT, signal.SIGTERM) if main else ():
        handler = signal.getsignal(number)
        if callable(handler):
            ending[number] = handler

    def end(which: int, frame: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        ending[which](which, frame)

    try:
        for which in ending:
            signal.signal(which, end)
        yield
    finally:
        for which, handler in ending.items():
            signal.signal(which, handler)
