"""Interrupts trainings, renderings and films at random moments by SIGINT, SIGTERM and SIGHUP, once and twice.

    python -m bench.faults.signals --cases 120 --out bench/results/faults_signals.json

SIGINT, which is Ctrl-C, must end a command with status 130 and a sentence, and leave nothing half-written; SIGTERM and
SIGHUP end it at once, as SIGKILL does. A command may also be over before, with status 0. Nobody lives on, and what is
resumed, or begun anew where the command has no --resume or nothing to go on with, ends with the bits of a run that was
left alone.
"""

import argparse
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.faults.jobs import Job, contents, orphans, same, started, undisturbed
from bench.faults.kills import nothing_to_resume
from bench.harness import header

SIGNALS = (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def one_case(job: Job, expected: dict[str, Any], seconds: float, folder: Path, draw: random.Random) -> tuple[str, str]:
    """Interrupts a job and lets it go on; the arguments as in `kills.one_run`.

    Returns:
        The signal and the exit status, and what went wrong, or "".
    """
    number, twice, moment = draw.choice(SIGNALS), draw.random() < 0.4, draw.uniform(0, seconds)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    said = folder.with_suffix(".said")
    running = started(job.to(folder), said)
    if running.wait(lambda: running.spent() >= moment) is None:
        os.kill(running.pid, number)
        if twice:
            again = time.monotonic() + draw.choice((0.0, 0.02, 0.3))
            if running.wait(lambda: time.monotonic() >= again) is None:
                os.kill(running.pid, number)
    status = running.wait()
    name = f"{number.name}{' twice' if twice else ''}: {status}"
    if status not in (0, 130 if number == signal.SIGINT else -number):
        return name, f"status {status}: {running.text()[-600:]}"
    with suppress(ProcessLookupError):
        left = orphans(running.pid)
        if left:
            return name, f"left running: {left}"
    if status == 130:
        text = running.text()
        hidden = [file for file in contents(folder) if Path(file).name.startswith(".")]
        if "interrupted" not in text or "Traceback" in text:
            return name, f"no sentence: {text[-600:]}"
        if hidden:
            return name, f"left half-written: {hidden}"
        if job.resumable and "--resume" in text and job.training != (folder / "training.safetensors").exists():
            return name, f"a promise to resume that cannot be kept: {text[-300:]}"
    for resume in (["--resume"], []) if status and job.resumable else ([],) if status else ():
        running = started((*job.to(folder), *resume), said)
        if running.wait() != 2 or not nothing_to_resume(job, folder, running):
            break
    if running.status:
        return name, f"then status {running.status}: {running.text()[-600:]}"
    return name, same(contents(folder), expected)


def main() -> None:
    """Interrupts; writes how often what happened, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=120)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, which is its seed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    facts, counts, failures = {"header": header()}, {}, []
    with undisturbed() as (folder, made, alone):
        for number in range(options.first, options.first + options.cases):
            name = sorted(made)[number % len(made)]
            happened, failure = one_case(made[name], *alone[name], folder / "run", random.Random(number))
            counts.setdefault(name, Counter())[happened] += 1
            if failure:
                failures.append({"case": number, "job": name, "what": happened, "failure": failure})
                print(failures[-1], flush=True)
    total = sum(counts.values(), Counter())
    result = facts | {
        "first": options.first,
        "cases": options.cases,
        "total": total,
        "jobs": counts,
        "failures": failures,
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
