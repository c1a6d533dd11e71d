"""Files that are either whole or absent: every writer of the package goes through `atomic_path` or `atomic_folder`."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves stays there
    fcntl = None

# Locks are good for one machine, so its name is in that of every temporary file, and no other touches it.
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"

MODEL_FILE = "model.safetensors"  # of a trained model in its folder
TRAINING_FILE = "training.safetensors"  # of a training, beside it: what goes on


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; move it onto `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part. On any error, Ctrl-C included, the temporary file is
    removed and `path` is as it was. The temporary name keeps the ending of `path`, so that writers which go by the
    ending work; only a process that is killed outright can leave one behind (a hidden file, `.name.<hex>.tmp.ending`),
    and the next that writes `path` on the same machine removes it.

    Args:
        path: the file to write; its folder must exist. A symbolic link is followed, not replaced.

    Yields:
        The path to write to (an empty file is there already).

    Raises:
        OSError: of the same kind as the failed operation, naming `path`.
    """
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, name a file inside it")
        temporary, lock = _made(target, target.stem, target.suffix, _empty_file)
        with lock:
            yield temporary
            # Some file systems report a full disk only when data really goes out: before the old file is gone, please.
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except OSError as error:
        raise _explained(error, f"cannot write {os.fspath(path)!r}", "nothing was left half-written") from error
    finally:
        if temporary is not None:
            _remove(temporary)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """As `atomic_path`, for a folder: gives an empty one beside `path`, which takes its place when the block ends.

    Args:
        path: the folder to write, in one that exists. What it held before is removed: callers see to it that it is
            theirs.

    Yields:
        The folder to write to: hidden, `.name.<hex>.tmp`.

    Raises:
        OSError: of the same kind as the failed operation, naming `path`.
    """
    target = Path(os.path.realpath(path))
    temporary = old = None
    try:
        temporary, lock = _made(target, target.name, "", Path.mkdir)
        old = temporary.with_suffix(".old")
        with lock:
            yield temporary
            if target.exists():
                target.rename(old)  # no system swaps folders everywhere, so for a moment there is none
            try:
                temporary.rename(target)
            except BaseException:
                if old.exists():
                    old.rename(target)
                raise
    except OSError as error:
        raise _explained(error, f"cannot write {os.fspath(path)!r}", "nothing was left half-written") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(*paths: str | os.PathLike) -> None:
    """Removes what processes of this machine that were killed left half-written of files and folders, and brings a
    folder back that one had moved away for its successor. What a process is still writing stays.

    Args:
        paths: The files and folders; they need not exist.
    """
    for path in map(Path, map(os.path.realpath, paths)):
        file, folder = (
            rf"{re.escape(path.stem)}\.%s\.tmp{re.escape(path.suffix)}",
            rf"{re.escape(path.name)}\.%s\.(tmp|old)",
        )
        leftover = re.compile(rf"\.({file}|{folder})".replace("%s", rf"{_MACHINE}[0-9a-f]{{8}}"))
        with contextlib.suppress(OSError):
            for left in [left for left in path.parent.iterdir() if leftover.fullmatch(left.name)]:
                with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                    writing = left.with_suffix(".tmp") if left.suffix == ".old" else left
                    if writing.exists() and not _hold(writing, stack):
                        continue
                    if left.suffix == ".old" and not path.exists():
                        left.rename(path)
                    elif left.is_dir():
                        shutil.rmtree(left)
                    else:
                        left.unlink()


def check_writable(folder: str | os.PathLike) -> Path:
    """Create `folder` if need be and try a small file in it, so that long work fails before it starts, not at its end.

    Args:
        folder: the folder that results will go to.

    Returns:
        The folder.

    Raises:
        OSError: of the same kind as the failed operation, naming `folder`.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:  # without a name, so that a killed process leaves nothing
            probe.write(b"x")
    except OSError as error:
        subject = f"the output folder must be writable, but {os.fspath(folder)!r} is not"
        raise _explained(error, subject, "choose another folder") from error
    return folder


def _made(target: Path, stem: str, ending: str, make: Callable[[Path], None]) -> tuple[Path, contextlib.ExitStack]:
    """Makes a temporary file or folder beside `target`, and removes those that killed processes left of it.

    Returns:
        Its path, and what holds its lock, by which other processes see that this one is alive.
    """
    remove_leftovers(target)
    while True:
        path = target.with_name(f".{stem}.{_MACHINE}{secrets.token_hex(4)}.tmp{ending}")
        make(path)
        lock = contextlib.ExitStack()
        try:
            _hold(path, lock)
        except (BlockingIOError, FileNotFoundError):  # another process took it for a leftover before it was locked
            lock.close()
            continue
        if path.exists():
            return path, lock
        lock.close()


def _empty_file(path: Path) -> None:
    # 0o666 less the umask, as open() does; tempfile.mkstemp would leave the finished file unreadable to others.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _hold(path: Path, stack: contextlib.ExitStack) -> bool:
    """Locks a file or folder until the stack is left, or the process ends in whatever way.

    Returns:
        Whether it is locked; some file systems have no locks.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if fcntl is None:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _explained(error: OSError, subject: str, remedy: str) -> OSError:
    """The same kind of OSError (Python picks the class by the number) with a message for people."""
    message = f"{subject}: {error.strerror or error}; {remedy}."
    return OSError(error.errno, message) if error.errno else OSError(message)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
