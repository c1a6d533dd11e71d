"""Trainings, renderings and films while the clock jumps, goes backwards or stands still.

    python -m bench.faults.clocks --out bench/results/faults_clocks.json

All clocks of Python's `time` are replaced in the process of the command, as they would jump at a change of the system's
time, on a virtual machine that is moved, or stand still where they are coarse. The command must end as with a good one,
with the same bits.
"""

import argparse
import itertools
import json
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tqdm.std

from bench.faults.jobs import Job, jobs, same, started, uninterrupted
from bench.faults.jobs import contents as left_by
from bench.harness import header

YEARS = 40 * 365.25 * 86400
RENDERINGS = ("png", "dzi", "mp4", "gif")
NAMES = ("time", "perf_counter", "monotonic")


def _jumping() -> Callable[[], float]:
    """A clock that is anywhere within 40 years of 1970, at every look."""
    draw = random.Random(0)
    return lambda: draw.uniform(-YEARS, YEARS)


def _ticking(seconds: float) -> Callable[[], float]:
    """A clock that goes on by so many at every look; by none in nine of ten for 0."""
    looks = itertools.count()
    return lambda: 1e9 + (seconds * next(looks) if seconds else next(looks) // 10)


CLOCKS: dict[str, Callable[[], Callable[[], float]]] = {
    "stands still": lambda: lambda: 1e9,
    "stands at 1970": lambda: lambda: 0.0,
    "ticks every tenth look": lambda: _ticking(0),
    "goes backwards": lambda: _ticking(-0.01),
    "a day at every look": lambda: _ticking(86400),
    "jumps": _jumping,
}


def one_case(job: Job, expected: dict[str, Any], clock: Callable[[], float], folder: Path) -> str:
    """Runs a job by such a clock; says what went wrong, or ""."""

    def prepare() -> None:
        for name in NAMES:
            setattr(time, name, clock)
            setattr(time, f"{name}_ns", lambda: int(clock() * 1e9))
        tqdm.std.time = clock  # it has a name of its own for it

    folder.mkdir(parents=True)
    running = started(job.to(folder), folder.with_suffix(".said"), prepare)
    return f"status {running.status}: {running.text()[-500:]}" if running.wait() else same(left_by(folder), expected)


def main() -> None:
    """Runs every job by every clock; writes every failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
    result = {"header": header(), "cases": 0, "clocks": list(CLOCKS), "failures": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "given").mkdir()
        made = {
            n: job for n, job in jobs(folder / "given").items() if job.training or n in ("png", "mp4", "gif", "dzi")
        }
        for name, job in made.items():
            expected, _ = uninterrupted(job, folder / "alone" / name)
            for way, clock in CLOCKS.items():
                failure = one_case(job, expected, clock(), folder / name / way)
                result["cases"] += 1
                if failure:
                    result["failures"].append({"job": name, "clock": way, "failure": failure})
                    print(result["failures"][-1], flush=True)
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
