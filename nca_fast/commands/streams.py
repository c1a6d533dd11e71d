"""The terminal, or what stands in its place: closed, full, or of another encoding; and Ctrl-C."""

import codecs
import contextlib
import errno
import io
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from nca_fast import interrupts
from nca_fast.commands import waits

_quiet = ContextVar("quiet", default=False)
_kept: ContextVar[dict[str, Any] | None] = ContextVar("kept", default=None)
_replaced: list[io.TextIOWrapper] = []  # which would close what they share with those in their place


class StreamError(OSError):
    """A standard stream takes no more. What is printed from then on goes nowhere."""


class _Output(io.TextIOWrapper):
    """A standard stream that says of its errors that they are its own.

    Those of stderr count only where its reader has gone: a full disk that takes a progress bar is no reason to end.
    """

    def write(self, text: str) -> int:
        if text:
            waits.clear()
        return self._tried(super().write, text)

    def flush(self) -> None:
        self._tried(super().flush)

    def beside(self, text: str) -> None:
        """Writes a waiting line, which stays."""
        super().write(text)
        super().flush()

    def _tried(self, do, *arguments):
        try:
            return do(*arguments)
        except OSError as error:
            redirect_to_null(self.fileno())  # Python prints what is left at its end, and would complain
            if self is sys.stderr and error.errno != errno.EPIPE:
                return None
            raise StreamError(error.errno, error.strerror) from error


def prepare() -> None:
    """Makes the standard streams of this process such that anything can be printed.

    A closed one is opened as the null device: the next file to be opened would get its number, and what libraries in C
    print would end in it. One that does not block (a parent shares its pipe) is told to, or a slow reader would be an
    error. A file name whose bytes are no text of the encoding is printed as those bytes, other letters that the
    encoding has not as escapes.
    """
    codecs.register_error("nca_fast", _raw_or_escaped)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = getattr(sys, name)
        if stream is None:
            redirect_to_null(number)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 (until the end)
            setattr(sys, name, stream)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, AttributeError):  # no such call on Windows before Python 3.12
                os.set_blocking(number, True)
            how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            setattr(sys, name, _Output(stream.buffer, encoding=stream.encoding, errors="nca_fast", **how))
            _replaced.append(stream)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")  # seconds between two states of a bar: a log keeps all of them
    warnings.showwarning = _say_warning


def _say_warning(message: Warning | str, *where: object, **options: object) -> None:
    """Says a warning as errors are said: where in Python it came from is of no use to who types commands."""
    say(f"nca-fast: warning: {message}")


def _raw_or_escaped(error: UnicodeError) -> tuple[bytes, int]:
    """Encodes what an encoding has not: bytes that Python read as lone surrogates as those bytes."""
    letters = error.object[error.start : error.end]
    return b"".join(
        bytes([ord(letter) & 0xFF]) if "\udc80" <= letter <= "\udcff" else letter.encode("ascii", "backslashreplace")
        for letter in letters
    ), error.end


def redirect_to_null(number: int) -> None:
    """Makes a number of an open or closed file that of the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lets nothing be printed on stdout, and no progress be shown, for the length of a block."""
    token = _quiet.set(True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        _quiet.reset(token)


@contextlib.contextmanager
def waiting(what: str, in_logs: bool = False) -> Iterator[None]:
    """Says on a terminal what a block takes its time for, and for how long, until it writes something or ends; if
    asked for, elsewhere too, in a line that stays."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if in_logs and shows_progress() and not terminal:
        say(f"{what} ...")
    if shows_progress() and terminal:
        with waits.shown(what, _write_beside):
            yield
    else:
        yield


def _write_beside(text: str) -> None:
    """Writes a waiting line on stderr, which nobody may read any more."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(sys.stderr, _Output):
            sys.stderr.beside(text)
        else:
            sys.stderr.write(text)
            sys.stderr.flush()


@contextlib.contextmanager
def as_json() -> Iterator[None]:
    """Prints, of all that is said in a block, the facts that were kept last, as one JSON object at its end."""
    token = _kept.set({})
    try:
        with quiet():
            yield
        print(json.dumps(_kept.get()), flush=True)
    finally:
        _kept.reset(token)


def keep(facts: dict[str, Any]) -> None:
    """Keeps facts for `as_json`, if they are wanted."""
    if _kept.get() is not None:
        _kept.set(facts)


def shows_progress() -> bool:
    """Whether progress bars are wanted."""
    return not _quiet.get()


def say_above(line: str) -> None:
    """Prints a line above the progress bar, if there is one."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


def say(line: str) -> None:
    """Prints a line on stderr, if anybody reads it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def ended_by_interrupt(line: str) -> Iterator[None]:
    """Lets Ctrl-C print a line and end the process at once with status 130, for a block that has nothing to lose.

    For imports, which take seconds: an exception would be raised in the midst of libraries, of which some swallow it
    and others turn it into another.
    """
    if not _hears_interrupts():
        yield
        return

    def end(number: int, frame: object) -> None:
        say(line)
        os._exit(130)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def heard_after_imports() -> Iterator[None]:
    """Lets Ctrl-C raise KeyboardInterrupt for the length of a block, but not in imports that are part of the work."""
    if not _hears_interrupts():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupts.keyboard_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_interrupts() -> None:
    """Lets Ctrl-C do nothing more, for a process that is about to end anyway."""
    if _hears_interrupts():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _hears_interrupts() -> bool:
    """Whether Ctrl-C raises KeyboardInterrupt here: not in other threads, nor in the background of some shells."""
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
