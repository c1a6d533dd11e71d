"""What the campaigns of bench/faults look for would be seen. (They take a minute of a core at least.)"""

import os
import signal

import pytest

from bench.faults import disk, ranks
from bench.faults.jobs import Awake, Job, Running, contents, same


def test_files_that_differ_are_named():
    assert same({"a": "1"}, {"a": "1"}) == ""
    assert same({"a": "1"}, {"a": "2"}) == "a differs"
    assert same({}, {"a": "2"}) == "a is missing"
    assert same({"a": "1", ".b.tmp": "3"}, {"a": "1"}) == ".b.tmp is left over"


def test_hidden_files_count_and_clocks_do_not(tmp_path):
    for folder, seconds in (("a", 1.0), ("b", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.jsonl").write_text(f'{{"loss": 3.0, "seconds": {seconds}}}\n')
    assert same(contents(tmp_path / "a"), contents(tmp_path / "b")) == ""
    (tmp_path / "a" / ".half.tmp").touch()
    assert same(contents(tmp_path / "a"), contents(tmp_path / "b")) == ".half.tmp is left over"
    (tmp_path / "b" / "log.jsonl").write_text('{"loss": 4.0}\n')
    assert same(contents(tmp_path / "b"), contents(tmp_path / "a")) != ""


def test_a_machine_that_was_frozen_makes_nothing_hang(monkeypatch):
    clock = iter([0.0, 0.05, 200.05, 200.1])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    awake = Awake()
    assert [round(awake.seconds(), 6) for _ in range(3)] == [0.05, 0.15, 0.2]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda: 0, 0),
        (lambda: os.kill(os.getpid(), signal.SIGKILL) if os.environ["RANK"] == "1" else signal.pause(), 1),
        (lambda: os.environ["RANK"] == "1" and os.kill(os.getppid(), signal.SIGKILL) or 0, -signal.SIGKILL),
    ],
    ids=["well", "one is killed", "torchrun is killed"],
)
def test_processes_as_torchrun_starts_them_wait_for_nobody(tmp_path, monkeypatch, end, status):
    """The other is ended, by a signal that has no handler yet; and who is done has ended, torchrun or not."""
    monkeypatch.setattr(ranks.cli, "main", lambda arguments: end())
    run = ranks.Torchrun(tmp_path, ())
    assert run.status == status and run.orphans() == []


def test_a_file_is_lost_only_by_a_command_that_was_killed(tmp_path, monkeypatch):
    """What had ended well needs nothing of what it left."""

    def over(arguments, said, prepare):
        (tmp_path / "a.png").touch()
        return Running(0, said, Awake(), 0)

    monkeypatch.setattr(disk, "started", over)
    disk._disturbed("lost", Job("png", (), True), tmp_path, tmp_path / "said", 0, 1, disk.random.Random(0))
    assert (tmp_path / "a.png").exists()
