"""Files that are either whole or absent: every writer of the package goes through `atomic_path` or `atomic_folder`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be moved either
    fcntl = None

MODEL_FILE = "model.safetensors"  # of a trained model in its folder


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; move it onto `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part. On any error, Ctrl-C included, the temporary file is
    removed and `path` is as it was. The temporary name keeps the ending of `path`, so that writers which go by the
    ending work; only a process that is killed outright can leave one behind (a hidden file, `.name.<hex>.tmp.ending`,
    see `remove_leftovers`).

    Args:
        path: the file to write; its folder must exist. A symbolic link is followed, not replaced.

    Yields:
        The path to write to (an empty file is there already).

    Raises:
        OSError: of the same kind as the failed operation, naming `path`.
    """
    target = Path(os.path.realpath(path))
    temporary, lock = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}"), None
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, name a file inside it")
        # 0o666 less the umask, as open() does; tempfile.mkstemp would leave the finished file unreadable to others.
        lock = _locked(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        # Some file systems report a full disk only when data really goes out; that must be before the old file is gone.
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        raise _explained(error, f"cannot write {os.fspath(path)!r}", "nothing was left half-written") from error
    except BaseException:
        _remove(temporary)
        raise
    finally:
        _close(lock)


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
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old, lock = temporary.with_suffix(".old"), None
    try:
        temporary.mkdir()
        lock = _locked(os.open(temporary, os.O_RDONLY)) if fcntl is not None else None
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
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        _close(lock)


def remove_leftovers(*paths: str | os.PathLike) -> None:
    """Removes what processes that were killed left half-written of files and folders, and brings a folder back that one
    had moved away for its successor. What a process is still writing stays.

    Args:
        paths: The files and folders; they need not exist.
    """
    for path in map(Path, map(os.path.realpath, paths)):
        name = rf"\.(?:{re.escape(path.stem)}|{re.escape(path.name)})\.[0-9a-f]{{8}}"
        entries = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        left = [entry for entry in entries if re.fullmatch(rf"{name}\.(tmp(\.\w+)?|old)", entry.name)]
        free = [entry for entry in left if _is_free(entry)]
        for entry in free:
            if entry.suffix == ".old" and not path.exists() and entry.with_suffix(".tmp") not in set(left) - set(free):
                entry.rename(path)
            elif entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                _remove(entry)


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
    probe = folder / f".writable.{secrets.token_hex(4)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
    except OSError as error:
        subject = f"the output folder must be writable, but {os.fspath(folder)!r} is not"
        raise _explained(error, subject, "choose another folder") from error
    finally:
        _remove(probe)
    return folder


def _explained(error: OSError, subject: str, remedy: str) -> OSError:
    """The same kind of OSError (Python picks the class by the number) with a message for people."""
    message = f"{subject}: {error.strerror or error}; {remedy}."
    return OSError(error.errno, message) if error.errno else OSError(message)


def _locked(descriptor: int) -> int | None:
    """Locks an open file for as long as it is open, so that others see that somebody writes it."""
    if fcntl is None:
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):  # some network file systems have no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _is_free(path: Path) -> bool:
    """Sees whether nobody has locked a file."""
    if fcntl is None:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return True


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
