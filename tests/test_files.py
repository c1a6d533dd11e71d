import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nca_fast import files
from nca_fast.files import atomic_folder, atomic_path, check_writable, remove_leftovers


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(str(target)) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_named_with_the_file(tmp_path):
    message = "cannot write .*a.txt.*No space left on device"
    with pytest.raises(OSError, match=message) as caught, atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_is_full_only_at_the_end_leaves_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_missing_folder_and_folder_as_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot write .*nowhere"), atomic_path(tmp_path / "nowhere" / "a.txt"):
        pass
    with pytest.raises(IsADirectoryError, match="it is a folder"), atomic_path(tmp_path):
        pass
    assert names(tmp_path) == []


def test_permissions_are_those_of_an_ordinary_file_and_links_are_followed(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"
    (tmp_path / "plain.txt").write_text("")
    assert stat.S_IMODE((tmp_path / "real.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "plain.txt").stat().st_mode)


def test_check_writable_creates_the_folder_and_leaves_it_empty(tmp_path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert names(tmp_path / "a" / "b") == []


def test_a_process_killed_in_check_writable_leaves_nothing(tmp_path, monkeypatch):
    make, seen = files.tempfile.TemporaryFile, []

    def made(dir):
        probe = make(dir=dir)
        seen.append(names(tmp_path))
        return probe

    monkeypatch.setattr(files.tempfile, "TemporaryFile", made)
    check_writable(tmp_path)
    assert seen == [[]]


def test_check_writable_refuses(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="output folder must be writable, but .*file.*choose another folder"):
        check_writable(tmp_path / "file" / "out")

    def denied(dir):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # The tests may run as root, for whom every folder is writable.
    monkeypatch.setattr(files.tempfile, "TemporaryFile", denied)
    with pytest.raises(PermissionError, match="must be writable.*Permission denied"):
        check_writable(tmp_path)


WRITER = """
import sys
from files import atomic_folder, atomic_path  # without the package, which imports torch
with atomic_path(sys.argv[1]) as file, atomic_folder(sys.argv[2]) as folder:
    file.write_text("half")
    (folder / "half").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def writer(folder):
    """Another process in the midst of writing a.txt and a_files."""
    command = [sys.executable, "-c", WRITER, str(folder / "a.txt"), str(folder / "a_files")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parent)}, **pipes
    ) as process:
        try:
            assert process.stdout.readline() == b"writing\n"
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(files.fcntl is None, reason="needs locks")
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    others = (".a.txt", ".a.0123456789abcdef.tmp.txt", ".b.0123456789abcdef.tmp.txt", "a.tmp.txt")
    for name in others:
        (tmp_path / name).write_text("")
    with writer(tmp_path) as process:
        held = set(names(tmp_path)) - set(others)
        assert len(held) == 2
        for _ in range(2):
            with atomic_path(tmp_path / "a.txt"), atomic_folder(tmp_path / "a_files"):
                pass
            assert held < set(names(tmp_path))  # it is alive
        with atomic_path(tmp_path / "b.txt"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert held < set(names(tmp_path))
        with atomic_path(tmp_path / "a.txt"), atomic_folder(tmp_path / "a_files"):
            assert not held & set(names(tmp_path))
    assert names(tmp_path) == sorted([*others, "a.txt", "a_files", "b.txt"])


@pytest.mark.skipif(files.fcntl is None, reason="needs locks")
def test_a_living_process_finishes_beside_another(tmp_path):
    with writer(tmp_path) as process:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("ours")
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "a.txt").read_text() == "half" and (tmp_path / "a_files" / "half").exists()
    assert names(tmp_path) == ["a.txt", "a_files"]


@pytest.mark.parametrize("opened", [False, True])
def test_a_temporary_file_that_is_taken_before_it_is_locked(tmp_path, monkeypatch, opened):
    """Another process may see it unlocked, and remove it."""
    hold, taken = files._hold, []

    def late(path, stack):
        if taken:
            return hold(path, stack)
        taken.append(path)
        if opened:
            hold(path, stack)
        path.unlink()
        return opened or hold(path, stack)

    monkeypatch.setattr(files, "_hold", late)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "new" and taken


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, error):
    """Nothing is removed where nobody can tell whether it is in use."""

    def none(*arguments):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(files.fcntl, "flock", none)
    left = f".a.{files._MACHINE}01234567.tmp.txt"
    (tmp_path / left).write_text("")
    with atomic_path(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == [left, "a.txt"]


@pytest.mark.skipif(files.fcntl is None, reason="needs locks")
def test_leftovers_of_the_dead_are_removed_and_nothing_else(tmp_path):
    this = files._MACHINE
    others = [
        f".b.{this}0123abcd.tmp.png",
        ".a.0123abcd.tmp.png",
        f".a.{this}0123abcd.png",
        f"a.{this}0123abcd.tmp.png",
    ]
    for name in [f".a.{this}0123abcd.tmp.png", *others]:
        (tmp_path / name).write_text("half")
    for name in (f".a_files.{this}0123abcd.tmp", f".a_files.{this}89abcdef.old"):
        (tmp_path / name / "0").mkdir(parents=True)
    (tmp_path / "a_files").mkdir()
    remove_leftovers(tmp_path / "a.png", tmp_path / "a_files", tmp_path / "none" / "a.png")
    assert names(tmp_path) == sorted([*others, "a_files"]) and names(tmp_path / "a_files") == []


def test_what_is_being_written_is_left_alone(tmp_path):
    with atomic_path(tmp_path / "a.png") as file, atomic_folder(tmp_path / "a_files") as folder:
        remove_leftovers(tmp_path / "a.png", tmp_path / "a_files")
        assert file.exists() and folder.exists()
    assert names(tmp_path) == ["a.png", "a_files"]


@pytest.mark.skipif(files.fcntl is None, reason="needs locks")
def test_a_folder_that_was_moved_away_for_its_successor_comes_back(tmp_path):
    """A process was killed between the two moves: the old folder is all there is."""
    for name in (".old", ".tmp"):
        (tmp_path / f".a_files.{files._MACHINE}0123abcd{name}" / "0").mkdir(parents=True)
    remove_leftovers(tmp_path / "a_files")
    assert names(tmp_path) == ["a_files"] and names(tmp_path / "a_files") == ["0"]
