"""Ends one of two processes that torchrun started, or torchrun itself, at random moments, and goes on.

    python -m bench.faults.ranks --cases 40 --out bench/results/faults_ranks.json

    killed     one of the processes is killed (SIGKILL)
    memory     one of them gets no more memory than it has (RLIMIT_AS) but for a little
    torchrun   torchrun is killed, and tells nobody

A moment is one of the time of a core that the process takes. Then torchrun has an exit status other
than 0, whoever had to end says so in one sentence without a traceback, no process lives on, and the same command with
--resume, or anew where there is nothing to go on with, leaves what one that was left alone did.
"""

import argparse
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore
from tqdm import tqdm

from bench.faults.jobs import PATIENCE, Awake, Job, alive, contents, orphans, same, undisturbed
from bench.harness import header
from nca_fast import cli

EARLIEST = 0.05  # seconds of a core: a process whose torchrun is gone before it looks waits out processes.MEETING
LEFT = 2**18  # bytes: with none for Python's own objects it waits for ever for a thread that did not begin
IDLE = 2.0  # seconds of a core that processes use up while they wait for PATIENCE
WAYS = ("killed", "memory", "torchrun")
NAMES = ("texture", "several", "style", "clip", "grow", "vae", "png", "tif", "dzi", "webp", "png and state")
NAMES += ("png painted",)


def rank_of_two(
    rank: int, parent: int, folder: Path, way: str, ended: int, moment: float, arguments: tuple[str, ...]
) -> None:
    """Is one of the two processes, of which number `ended` ends after some seconds of a core. What it says goes into a
    file; so do the seconds of a core that it took."""
    status = 70
    try:
        begun = time.process_time()
        said = os.open(folder / f"said{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        faulthandler.enable()  # or a fatal signal would say nothing
        faulthandler.register(signal.SIGUSR2, file=2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.set_lock(threading.RLock())  # its own is one of all processes: one that is killed would hold it for ever
        (folder / f"begun{rank}").touch()

        def end() -> None:
            while not (folder / f"begun{1 - rank}").exists():
                time.sleep(0.002)
            while time.process_time() - begun < moment:
                time.sleep(0.002)
            if way == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if way == "torchrun":
                os.kill(parent, signal.SIGKILL)
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + LEFT
            resource.setrlimit(resource.RLIMIT_AS, (taken, taken))

        if rank == ended:
            threading.Thread(target=end, daemon=True).start()
        status = cli.main(arguments)
        (folder / f"seconds{rank}").write_text(str(time.process_time() - begun))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


class Torchrun:
    """Two processes, in a folder where they leave what they say, and one that does what torchrun does: it holds the
    store by which they meet, and when one of them fails it ends the other, by SIGTERM, and by SIGKILL if that does not.

    All are forked from this process: their imports would take twenty times as long as their work. Torchrun itself can
    start functions too, but they have its handlers of signals, its threads' locks and the signal of its death, and wait
    for it with what they return; programs have none of that.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...], way: str = "none", ended: int = -1, moment: float = 0):
        for path in (path for name in ("said?", "seconds?", "begun?") for path in folder.glob(name)):
            path.unlink()
        self.folder = folder
        sys.stdout.flush()
        sys.stderr.flush()
        self.session = os.fork()
        if not self.session:
            self._agent(folder, way, ended, moment, arguments)
        self.status = self._over()

    @staticmethod
    def _agent(*arguments: Any) -> None:
        """Starts the processes and sees to their end, as torchrun does once it knows its arguments."""
        status = 1
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", 0))
                listening.listen()
                os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
                os.environ |= {"MASTER_PORT": str(listening.getsockname()[1]), "TORCHELASTIC_RUN_ID": "none"}
                os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
                agent, running = os.getpid(), {}
                for rank in range(2):
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    pid = os.fork()
                    if not pid:
                        listening.close()
                        rank_of_two(rank, agent, *arguments)
                    running[pid] = rank
                port, file = listening.getsockname()[1], listening.detach()
            # After the forks: it has threads.
            store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=file)
            status = _all_well(set(running))
            del store
        finally:
            os._exit(status)

    def _over(self) -> int | None:
        """Waits for its end; None when it hangs, and then it is killed with all that it started.

        It hangs when its processes have used next to nothing of a core for long, or very much; never because others
        leave them little.
        """
        awake, before, most = Awake(), 0.0, 0.0
        while awake.seconds() < PATIENCE and most < 4 * PATIENCE:
            for _ in range(50):
                pid, status = os.waitpid(self.session, os.WNOHANG)
                if pid:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.02)
                awake.seconds()
            worked = sum(map(seconds_of, alive(self.session)))
            if not before <= worked <= before + IDLE:  # less: one has ended
                awake, before = Awake(), worked
            most = max(most, worked)
        for pid in set(alive(self.session)) - {self.session}:
            os.kill(pid, signal.SIGUSR2)  # says where it is
        time.sleep(1)
        os.killpg(self.session, signal.SIGKILL)
        os.waitpid(self.session, 0)
        return None

    def orphans(self) -> list[str]:
        """The processes that it started and that are still there after some seconds; they are killed then."""
        left = orphans(self.session, 15.0)
        with suppress(ProcessLookupError):
            os.killpg(self.session, signal.SIGKILL)
        return left

    def said(self, rank: int) -> str:
        """What a process said, without the states that a progress bar went through."""
        path = self.folder / f"said{rank}"
        lines = path.read_text(errors="replace").replace("\r", "\n").splitlines() if path.exists() else []
        return "\n".join(line for line in lines if line.strip() and "it/s" not in line and "cell-steps" not in line)


def _all_well(running: set[int], grace: float = 30.0) -> int:
    """Waits for children to end, and ends all when one of them fails; returns 0 if none does."""
    failed, awake = False, Awake()
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        running.discard(pid)
        if pid and status and not failed:
            failed, awake = True, Awake()
            for other in running:
                os.kill(other, signal.SIGTERM)
        if failed and awake.seconds() > grace:
            for other in running:
                os.kill(other, signal.SIGKILL)
        time.sleep(0.01 if pid == 0 else 0)
    return int(failed)


def seconds_of(pid: int) -> float:
    """How much of a core a process has used; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one_case(
    way: str, job: Job, expected: dict[str, Any], seconds: float, folder: Path, draw: random.Random
) -> tuple[str, str]:
    """Ends a process, or torchrun, and lets the job go on; arguments as in `kills.one_run`.

    Returns:
        What happened, and what went wrong, or "".
    """
    shutil.rmtree(folder, ignore_errors=True)
    out = folder / "out"
    out.mkdir(parents=True)
    ended = draw.randrange(2)
    earliest = EARLIEST if way == "torchrun" else 0.0
    run = Torchrun(folder, job.to(out), way, ended, draw.uniform(earliest, seconds))
    left = run.orphans()
    if run.status is None or left:
        return way, f"hangs: {run.said(0)} {run.said(1)}" if run.status is None else f"left running: {left}"
    happened = f"{way}: {'over before' if run.status == 0 else 'ended'}"
    if run.status == 0:
        return happened, same(contents(out), expected)
    for rank in range(2):
        text = run.said(rank)
        sentences = [line for line in text.splitlines() if line.startswith("nca-fast")]
        fatal = "Fatal Python error" in text and (way, rank) != ("memory", ended)
        if fatal or "Traceback" in text or len(sentences) > 1:
            return happened, f"process {rank} said: {text[:2000]} ... {text[-500:]}"
    if way == "memory" and "memory" not in run.said(ended):
        happened += ", by a library's own hand" if run.said(ended) else ", in silence"
    for options in (["--resume"], []):
        run = Torchrun(folder, (*job.to(out), *options))
        if run.status == 0:
            return happened, same(contents(out), expected)
        if job.training or "--resume" not in run.said(0) + run.said(1):
            break
    return happened, f"then status {run.status}: {run.said(0)[-500:]} {run.said(1)[-500:]}"


def main() -> None:
    """Ends processes; writes how often what happened, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, which is its seed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    counts, failures, alone = Counter(), [], {}
    with undisturbed(NAMES) as (folder, made, _):
        for number in range(options.first, options.first + options.cases):
            name, way = NAMES[number % len(NAMES)], WAYS[(number + number // len(NAMES)) % len(WAYS)]
            if name not in alone:
                (folder / name / "out").mkdir(parents=True)
                run = Torchrun(folder / name, made[name].to(folder / name / "out"))
                if run.status != 0:
                    raise RuntimeError(f"{name} must work while nothing disturbs it, but: {run.said(0)} {run.said(1)}")
                seconds = max(float((folder / name / f"seconds{rank}").read_text()) for rank in range(2))
                alone[name] = contents(folder / name / "out"), seconds
            happened, failure = one_case(way, made[name], *alone[name], folder / "run", random.Random(number))
            counts[happened] += 1
            if failure:
                failures.append({"case": number, "job": name, "what": happened, "failure": failure})
                print(failures[-1], flush=True)
            facts = {"header": header(), "first": options.first, "cases": number + 1 - options.first}
            result = facts | {"ended": dict(sorted(counts.items())), "failures": failures}
            if options.out is not None:  # what an interrupted campaign leaves
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
