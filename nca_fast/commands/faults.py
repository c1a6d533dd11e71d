"""What an exception that reaches the command line means: one sentence, and an exit status.

What nca_fast raises with a `raise` of its own is about what it was given, and so is what the system says of files and
memory, and an import that fails. Nobody foresaw the rest: it is a fault of nca_fast until shown otherwise.
"""

import contextlib
import dis
import errno
import os
import platform
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence

import nca_fast
from nca_fast.commands.streams import StreamError

MENDABLE, FAULT, INTERRUPTED, UNREAD = 2, 70, 130, 141  # exit statuses: 70 as in sysexits.h, the others as of shells

_LONGEST = 200  # letters of what others say: C++ adds its whole stack
# How torch, CUDA, C++ and threads say that memory has run out, in exceptions of no kind of their own.
_OUT_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory")
_OUT_OF_MEMORY += ("bad_alloc", "ALLOC_FAILED", "size calculation overflowed", "integer multiplication overflow")
_OUT_OF_MEMORY += ("can't start new thread",)
_SETTING = re.compile(r"(?<![\w./'\"-])[a-z]+(?:_[a-z]+)+(?![\w./'\"(-])")  # no part of a path or of what was typed


def ending(error: BaseException, arguments: Sequence[str] = ()) -> tuple[int, str]:
    """Says how the program ends.

    Args:
        error: What was raised.
        arguments: Of the command line, for the report of a fault, which is written to the folder of temporary files.

    Returns:
        The exit status, and a sentence.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"interrupted{f'; {error}' if error.args else ''}"
    if isinstance(error, StreamError):
        said = f"the standard output must take what is printed, but does not: {error.strerror}"
        return UNREAD if error.errno == errno.EPIPE else MENDABLE, f"error: {said}."
    if out_of_memory(error):
        said = f"memory must suffice, but does not{': ' if str(error) else ''}{_shortened(error)}"
        return MENDABLE, f"error: {said}. Take a smaller batch, pool, picture or canvas, or fewer steps."
    if _is_raised_by_us(error):
        return MENDABLE, f"error: {_as_typed(_one_line(error), arguments)}"
    if _is_of_an_interrupt(error):
        return INTERRUPTED, "interrupted"
    if isinstance(error, (OSError, ImportError)):
        return MENDABLE, f"error: {_one_line(error)}"
    kept = _reported(error, arguments)
    more = f"with {kept}, which says more" if kept else "with what --debug shows"
    return FAULT, (
        f"error: nobody foresaw this, a fault of nca_fast at {_place(error)}: {type(error).__name__}: "
        f"{_shortened(error)}. Please report it, {more}."
    )


def trace(error: BaseException) -> str:
    """Shows where an exception came from, and what it came of."""
    return "".join(traceback.format_exception(error))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out, of whatever device."""
    of_torch = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return of_torch or of_system or isinstance(error, MemoryError)


def _is_raised_by_us(error):
    """Whether it comes from a `raise` in the package: not of a library, and no operation that went wrong."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not _ours(trace.tb_frame):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _is_of_an_interrupt(error):
    """Whether a library made it of a Ctrl-C."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _ours(frame):
    return frame.f_globals.get("__name__", "").partition(".")[0] == "nca_fast"


def _place(error):
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _ours(frame)]
    return f"{frames[-1][0].f_globals['__name__']}, line {frames[-1][1]}" if frames else "an unknown place"


def _one_line(error):
    text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    return " ".join(text.split()) or type(error).__name__


def _as_typed(sentence, arguments):
    """Names settings as the command line does, --image-crop for image_crop, where the command has such an option."""
    from nca_fast.commands.options import options
    from nca_fast.commands.parser import COMMANDS, joined

    name = next(iter(joined(arguments)), None)
    typed = [option for option in options(COMMANDS[name]) if option.flags] if name in COMMANDS else []
    known = {option.name: option.flags[0] for option in typed}
    return _SETTING.sub(lambda word: known.get(word[0], word[0]), sentence)


def _shortened(error):
    return " ".join(str(error).split())[:_LONGEST].rstrip(".")


def _reported(error, arguments):
    """Writes all that is known of a fault to a file, which can be after hours of work; gives its path, or None."""
    torch = sys.modules.get("torch")
    facts = [
        shlex.join(["nca-fast", *arguments]),
        f"nca_fast {nca_fast.__version__}, torch {torch and torch.__version__}",
    ]
    facts += [f"Python {platform.python_version()}, {platform.platform()}", "", trace(error)]
    with contextlib.suppress(OSError):
        number, path = tempfile.mkstemp(prefix="nca-fast-fault-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(facts))
        return os.fspath(path)
    return None
