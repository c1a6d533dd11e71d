"""Signals that end work by an exception, which must not be raised in the midst of an import.

Libraries import parts of theirs when they are first needed, torch._dynamo for example with the first optimizer, which
takes seconds. An exception in there may come out of C++ that is being set up, which aborts the process, or be
swallowed.
"""

import os
import signal
import threading
from types import FrameType

_PAUSE = 0.05  # seconds until a signal is tried again
_MOST = 400  # so often, for what is imported may itself be the work
_tried = 0


def postponed(number: int, frame: FrameType | None) -> bool:
    """Lets a signal come again a moment later where an import is under way; for handlers, with their arguments.

    Returns:
        Whether it will; then the handler must do nothing.
    """
    global _tried
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None or _tried == _MOST:
        _tried = 0
        return False
    _tried += 1
    again = threading.Timer(_PAUSE, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    return True


def keyboard_interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, as Python's own handler of Ctrl-C does, but in no import."""
    if not postponed(number, frame):
        signal.default_int_handler(number, frame)
