"""What the campaigns of bench/faults look for would be seen. (They take a minute of a core at least.)"""

from bench.faults.jobs import Awake, contents, same


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
