"""The campaigns of bench/faults in short: a few kills, and that what they look for would be seen."""

from pathlib import Path

import fresh

from bench.faults.jobs import same

ROOT = Path(__file__).parents[1]

SHORT = """
import json, os, random, tempfile, time, warnings
from pathlib import Path
from bench.faults import clocks, jobs, kills, signals
os.environ["OMP_NUM_THREADS"] = "1"
warnings.simplefilter("ignore")
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    (folder / "given").mkdir()
    made = jobs.jobs(folder / "given")
    for name in ("png",):
        alone = jobs.uninterrupted(made[name], folder / "alone" / name)
        counts, failure = kills.one_run(made[name], *alone, folder / "run", random.Random(3))
        assert not failure and counts["kills"] + counts["over before the next kill"], failure
        happened, failure = signals.one_case(made[name], *alone, folder / "run", random.Random(4))
        assert not failure, failure
        failure = clocks.one_case(made[name], alone[0], lambda: 1e9, folder / name / "still")
        assert not failure, failure
        # What a job leaves must be compared with what it should leave.
        wrong = alone[0] | {"a.missing": "0"}
        assert kills.one_run(made[name], wrong, alone[1], folder / "run", random.Random(3))[1] == "a.missing is missing"
"""


def test_kills_signals_and_clocks():
    fresh.run(["-c", SHORT], cwd=ROOT, check=True)


def test_files_that_differ_are_named():
    assert same({"a": "1"}, {"a": "1"}) == ""
    assert same({"a": "1"}, {"a": "2"}) == "a differs"
    assert same({}, {"a": "2"}) == "a is missing"
    assert same({"a": "1", ".b.tmp": "3"}, {"a": "1"}) == ".b.tmp is left over"
