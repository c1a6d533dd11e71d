import errno
import os
import stat

import pytest

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


def test_check_writable_refuses(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="output folder must be writable, but .*file.*choose another folder"):
        check_writable(tmp_path / "file" / "out")

    def denied(self, data):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # The tests may run as root, for whom every folder is writable.
    monkeypatch.setattr("pathlib.Path.write_bytes", denied)
    with pytest.raises(PermissionError, match="must be writable.*Permission denied"):
        check_writable(tmp_path)


def test_leftovers_of_the_dead_are_removed_and_nothing_else(tmp_path):
    others = [".b.0123abcd.tmp.png", ".a.0123abc.tmp.png", ".a.0123abcd.png", "a.0123abcd.tmp.png"]
    for name in [".a.0123abcd.tmp.png", ".a.89abcdef.tmp.safetensors", *others]:
        (tmp_path / name).write_text("half")
    for name in (".a_files.0123abcd.tmp", ".a_files.89abcdef.old"):
        (tmp_path / name / "0").mkdir(parents=True)
    (tmp_path / "a_files").mkdir()
    remove_leftovers(tmp_path / "a.png", tmp_path / "a_files", tmp_path / "none" / "a.png")
    assert names(tmp_path) == sorted([*others, "a_files"])


def test_what_is_being_written_is_left_alone(tmp_path):
    with atomic_path(tmp_path / "a.png") as file, atomic_folder(tmp_path / "a_files") as folder:
        remove_leftovers(tmp_path / "a.png", tmp_path / "a_files")
        assert file.exists() and folder.exists()
    assert names(tmp_path) == ["a.png", "a_files"]


def test_a_folder_that_was_moved_away_for_its_successor_comes_back(tmp_path):
    """A process was killed between the two moves: the old folder is all there is."""
    (tmp_path / ".a_files.0123abcd.old" / "0").mkdir(parents=True)
    (tmp_path / ".a_files.0123abcd.tmp").mkdir()
    remove_leftovers(tmp_path / "a_files")
    assert names(tmp_path) == ["a_files"] and names(tmp_path / "a_files") == ["0"]
