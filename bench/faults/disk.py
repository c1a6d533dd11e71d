"""Lets the disk fail under trainings, renderings and films: full, read-only, or without the file that was there.

    python -m bench.faults.disk --cases 120 --out bench/results/faults_disk.json

    full       the folder is a small tmpfs (where this machine may mount one), or no file may grow beyond some bytes
               (RLIMIT_FSIZE), of every size from nothing to what the command needs
    read-only  the folder may not be written, or turns so at a random moment
    lost       one of the files that a command left when it was killed is gone when it goes on

A command ends well or in one sentence with status 2, nothing hidden is left, and files that were whole stay whole. When
the disk is well again the same command, with --resume where there is something to go on with, ends with the bits of one
that was left alone.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.faults.jobs import Job, Running, contents, orphans, same, started, undisturbed
from bench.faults.kills import nothing_to_resume
from bench.harness import header

WAYS = ("full", "limit", "read-only", "turns read-only", "lost")


def mounted(folder: Path, size: int) -> bool:
    """Mounts a tmpfs of so many bytes on a folder; False where this machine does not let us."""
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def unmount(folder: Path) -> None:
    """Takes it away again, with all that it holds."""
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=True)


def one_case(
    way: str, job: Job, expected: dict[str, Any], seconds: float, needed: int, folder: Path, draw: random.Random
) -> tuple[str, str]:
    """Lets a job fail in a way, and then succeed; the others as in `kills.one_run`.

    Args:
        needed: Bytes of all that it leaves.

    Returns:
        How it ended while the disk failed, and what went wrong, or "".
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    said, mount = folder.with_suffix(".said"), way in ("full", "read-only", "turns read-only")
    room = draw.choice((0.02, 0.3, 0.8, 1.0, 1.3)) * needed
    if mount and not mounted(folder, int(max(room, 8192)) if way == "full" else 2**26):
        return "cannot mount", ""
    try:
        running = _disturbed(way, job, folder, said, room, seconds, draw)
        status = running.wait()
        left = orphans(running.pid)
        if left:
            return str(status), f"left running: {left}"
        if way != "lost":
            failure = _judged(status, running, folder, expected)
            if failure:
                return str(status), failure
        if way == "full":  # the same folder with more room
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True, capture_output=True)
        elif mount:
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True, capture_output=True)
        name = str(status)
        for resume in ([["--resume"]] if status and job.resumable else []) + [[]] if status else ():
            running = started((*job.to(folder), *resume), said)
            if running.wait() == 0:
                break
            if running.status != 2 or "Traceback" in running.text():
                return name, f"then status {running.status}: {running.text()[-500:]}"
            if way == "lost":  # it says what is missing; the user takes another folder
                return f"{name}, then refused", ""
            if not nothing_to_resume(job, folder, running):
                return name, f"then status {running.status}: {running.text()[-500:]}"
        if running.status:
            return name, f"then status {running.status}: {running.text()[-500:]}"
        return name, same(contents(folder), expected)
    finally:
        if mount:
            unmount(folder)


def _disturbed(
    way: str, job: Job, folder: Path, said: Path, room: float, seconds: float, draw: random.Random
) -> Running:
    """Starts the job on a disk that fails; of "lost", one that was killed, of whose files one is removed."""
    prepare: Callable[[], Any] = lambda: None  # noqa: E731
    if way == "limit":
        most = int(max(4096, room))  # what the command says goes into a file, too

        def prepare() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does at its start: then writing fails
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    if way == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, capture_output=True)
    running = started(job.to(folder), said, prepare)
    if way in ("turns read-only", "lost"):
        moment = draw.uniform(0.2, 1) * seconds
        if running.wait(lambda: running.spent() >= moment) is None and way == "lost":
            os.kill(running.pid, signal.SIGKILL)
        if way == "lost" and running.wait() != 0:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            if files:
                draw.choice(files).unlink()
        else:  # refused while a file is open for writing
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True)
    return running


def _judged(status: int | None, running: Running, folder: Path, expected: dict[str, Any]) -> str:
    """What is wrong with the end of a command on a disk that fails, or ""."""
    text = running.text()
    if status not in (0, 2) or "Traceback" in text or (status == 2 and "nca-fast: error: " not in text):
        return f"status {status}: {text[-500:]}"
    found = contents(folder)
    hidden = [name for name in found if Path(name).name.startswith(".")]
    return f"hidden files left: {hidden}" if hidden else same(found, expected) if status == 0 else ""


def main() -> None:
    """Lets the disk fail; writes how often what happened, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=120)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, which is its seed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    facts, counts, failures = {"header": header()}, {}, []
    with undisturbed() as (folder, made, alone):
        for number in range(options.first, options.first + options.cases):
            name = sorted(made)[number % len(made)]
            way = WAYS[number // len(made) % len(WAYS)]
            needed = sum(path.stat().st_size for path in (folder / "alone" / name / "here").rglob("*"))
            happened, failure = one_case(way, made[name], *alone[name], needed, folder / "run", random.Random(number))
            counts.setdefault(way, Counter())[happened] += 1
            if failure:
                failures.append({"case": number, "job": name, "way": way, "ended": happened, "failure": failure})
                print(failures[-1], flush=True)
    result = facts | {"first": options.first, "cases": options.cases, "ways": counts, "failures": failures}
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
