"""The line on a terminal that says what is waited for, and for how long, until something else is written there."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

OPENING = "opening models and pictures"  # what most commands do before they show anything themselves
_CLEARED = "\r\x1b[K"
_lock = threading.RLock()  # a signal may come to the thread that has it
_line: "_Line | None" = None


class _Line:
    """A line that a thread writes anew each second.

    Args:
        what: What is waited for.
        write: Puts text on the terminal.
    """

    def __init__(self, what: str, write: Callable[[str], object]):
        self.what, self.write, self.since = what, write, time.monotonic()
        self.gone = threading.Event()
        write(f"{_CLEARED}{what} ...")  # a bar that stands there is drawn again at its end
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while not self.gone.wait(1):
            with _lock:
                if not self.gone.is_set():
                    self.write(f"\r{self.what} ... {time.monotonic() - self.since:.0f} s")

    def remove(self) -> None:
        """Takes it away."""
        self.gone.set()
        self.write(_CLEARED)


def clear() -> None:
    """Takes the line away, if there is one: something else is about to be written, or the wait is over."""
    global _line
    if _line is not None:
        with _lock:
            line, _line = _line, None
            if line is not None:
                line.remove()


@contextlib.contextmanager
def shown(what: str, write: Callable[[str], object]) -> Iterator[None]:
    """Shows the line for the length of a block, or until `clear`."""
    global _line
    clear()
    with _lock:
        mine = _line = _Line(what, write)
    try:
        yield
    finally:
        if _line is mine:
            clear()
