"""Kills trainings, renderings and films at random moments, and goes on: the end must be that of one left alone.

    python -m bench.faults.kills --kills 500 --out bench/results/faults_kills.json

A moment is one of the time of a core that the command takes, however busy the machine is. After a kill no file of the
result may be half-written and no process may live on. Then the same command goes on with --resume, or, where it says
that there is nothing to go on with or has no such option, anew; and may be killed again, up to three times. In the end
all files must have the bits of the uninterrupted run, and no other file may be there.
"""

import argparse
import json
import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from bench.faults.jobs import Job, Running, contents, orphans, same, started, undisturbed
from bench.harness import header

MOST = 3  # kills of one run


def one_run(
    job: Job, expected: dict[str, Any], seconds: float, folder: Path, draw: random.Random
) -> tuple[Counter, str]:
    """Runs a job into a folder, killing it on the way.

    Args:
        job: What runs.
        expected: What it leaves when it is left alone.
        seconds: Of a core that it then takes.
        folder: For the results; made and removed.
        draw: Decides on the moments.

    Returns:
        How often what happened, and what went wrong, or "".
    """
    counts, kills, resume = Counter(runs=1), draw.randint(1, MOST), False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    said = folder.with_suffix(".said")
    while True:
        moment = draw.uniform(0, 1.05 * seconds) if kills else float("inf")
        running = started((*job.to(folder), *(["--resume"] if resume else [])), said)
        killed = _killed(running, moment)
        left = orphans(running.pid)
        if left:
            return counts, f"left running: {left}"
        if killed:
            counts["kills"] += 1
            kills -= 1
            found = contents(folder)
            torn = [
                name for name in found if not job.training and found[name] != expected.get(name) and name in expected
            ]
            if torn:
                return counts, f"half-written after a kill: {torn[0]}"
            counts["hidden files left by kills"] += any(name.startswith(".") for name in found)
            resume = job.resumable
            continue
        if running.status == 2 and resume and nothing_to_resume(job, folder, running):
            counts["kills before there was anything to resume"] += 1
            resume = False
            continue
        if running.status:
            return counts, f"status {running.status}: {running.text()[-600:]}"
        counts["over before the next kill"] += kills > 0
        return counts, same(contents(folder), expected)


def nothing_to_resume(job: Job, folder: Path, running: Running) -> bool:
    """Whether a rendering rightly says that it cannot go on: no journal is there. (A training begins anew itself.)"""
    return not job.training and not list(folder.glob("*.journal")) and "--resume" in running.text()


def _killed(running: Running, moment: float) -> bool:
    """Kills a process when it has used so many seconds of a core; says whether it was still there."""
    if running.wait(lambda: running.spent() >= moment) is not None:
        return False
    os.kill(running.pid, signal.SIGKILL)
    return running.wait() == -signal.SIGKILL


def main() -> None:
    """Kills; writes how often what happened, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of jobs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    facts, counts, failures = {"header": header()}, {}, []
    with undisturbed(options.only) as (folder, made, alone):
        number = 0
        while _kills(counts) < options.kills:
            name = sorted(made)[number % len(made)]
            draw = random.Random(f"{options.seed} {number}")
            happened, failure = one_run(made[name], *alone[name], folder / "run", draw)
            counts.setdefault(name, Counter()).update(happened)
            if failure:
                failures.append({"run": number, "job": name, "what": failure})
                print(failures[-1], flush=True)
            number += 1
            if number % 20 == 0 or _kills(counts) >= options.kills:  # what an interrupted campaign leaves
                used = os.times()
                seconds = round(used.user + used.system + used.children_user + used.children_system)
                total = sum(counts.values(), Counter())
                result = facts | {"seed": options.seed, "total": total, "jobs": counts, "failures": failures}
                result["seconds of a core"] = seconds
                if options.out is not None:
                    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _kills(counts: dict[str, Counter]) -> int:
    return sum(count["kills"] for count in counts.values())


if __name__ == "__main__":
    main()
