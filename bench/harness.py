"""What all measurements share: the machine's header, its GPU, recorded graphs, and result files."""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from nca_fast.files import atomic_path

RESULTS = Path(__file__).parent / "results"


def parsed_for_gpu(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, bool]:
    """Parses the options of a measurement on a GPU, and says whether there is one.

    Without one `--smoke` takes Triton's interpreter (call this before triton is imported), and all else is an error.
    """
    options, gpu = parser.parse_args(), torch.cuda.is_available()
    if options.smoke and not gpu:
        os.environ["TRITON_INTERPRET"] = "1"
        torch.set_num_threads(1)
    elif not gpu:
        parser.error("this needs a GPU that torch sees, but there is none.")
    return options, gpu


def header() -> dict:
    """Machine, software and commit (the variable COMMIT, or git's) that a number belongs to."""
    root = Path(__file__).parents[1]

    def git(*arguments):
        try:
            result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        except OSError:  # a lent machine may have no git, and a copy of the tree no history
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": _version("triton"),
        "commit": os.environ.get("COMMIT") or git("rev-parse", "--short", "HEAD") or "unknown",
        "changed_files": len((git("status", "--porcelain", "--untracked-files=no") or "").splitlines()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The CPU as the system names it, with family and model, because a virtual machine may hide the rest."""
    try:
        lines = dict(
            (part.strip() for part in line.split(":", 1))
            for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
            if ":" in line
        )
        return f"{lines['model name']} (family {lines['cpu family']}, model {lines['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def gpu_facts() -> dict:
    """The GPU that a number belongs to; {"gpu": None} where there is none."""
    if not torch.cuda.is_available():
        return {"gpu": None}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": list(torch.cuda.get_device_capability(0)),
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda or torch.version.hip,
    }


CLOCKS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu", "driver_version")


def gpu_clocks() -> dict:
    """What nvidia-smi says of clocks (MHz), power (W) and temperature at this moment; why not, where it does not."""
    command = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return dict(zip(CLOCKS, map(str.strip, result.stdout.split("\n")[0].split(",")), strict=True))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"error": f"nvidia-smi: {error!r}"[:200]}


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Captures what a call launches as a CUDA graph, and returns what replays it on the same tensors."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, chooses algorithms and makes .grad, none of which may happen in a capture
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def replay_seconds(call: Callable[[], object], seconds: float = 0.02, rounds: int = 5) -> dict:
    """Seconds of a call on a GPU without its launches from Python: a graph of several calls is replayed.

    Without a GPU those of one call, to see that it works.

    Args:
        call: Launches work on the current stream, on tensors that stay.
        seconds: Of one replay, about.
        rounds: Replays that are timed.
    """
    if not torch.cuda.is_available():
        begin = time.perf_counter()
        call()
        return {"seconds": time.perf_counter() - begin, "calls": 1, "replayed": False}

    def spent(run):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    one = captured(call)
    one()
    calls = max(1, min(200, int(seconds / max(spent(one), 1e-6))))

    def several():
        for _ in range(calls):
            call()

    replay = captured(several) if calls > 1 else one
    replay()
    times = sorted(spent(replay) / calls for _ in range(rounds))
    return {"seconds": times[rounds // 2], "spread": [times[0], times[-1]], "calls": calls, "replayed": True}


class Rows:
    """A result file that is written after every row, so that a run which is cut off leaves what it had.

    Args:
        path: Of the file.
        seconds: After so many, rows are left out, and say so; None for no limit.
        facts: What stands beside the rows.
    """

    def __init__(self, path: Path, seconds: float | None = None, **facts: object):
        self.path, self.end = path, None if seconds is None else time.monotonic() + seconds
        self.result = {"header": header() | gpu_facts(), **facts, "rows": []}
        self.failures = 0
        write_result(path, self.result)

    def keep(self, row: dict, good: bool = True) -> dict:
        """Writes a row; one that is not good fails the run in the end."""
        self.failures += not good
        self.result["rows"].append(row)
        write_result(self.path, self.result)
        print("green" if good else "RED  ", json.dumps(row)[:300], flush=True)
        return row

    def add(
        self,
        make: Callable[[], dict],
        good: Callable[[dict], bool] = lambda row: True,
        finding: bool = False,
        **facts: object,
    ) -> dict:
        """Writes facts and what make() returns, or why there is nothing.

        What a kernel refuses is no failure; nor, where that is a finding too, any error.
        """
        if self.end is not None and time.monotonic() > self.end:
            return self.keep(facts | {"skipped": "no time was left"})
        begin = time.perf_counter()
        try:
            row = facts | make()
            return self.keep(row | {"took_seconds": round(time.perf_counter() - begin, 2)}, good(row))
        except (Exception, SystemExit) as error:  # whatever it is, the other rows must not be lost
            if "cannot serve" in str(error):
                return self.keep(facts | {"refused": str(error)})
            row = self.keep(facts | {"error": f"{type(error).__name__}: {error}"[:600]}, good=finding)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.synchronize()  # raises where the GPU can do nothing more in this process: no row could follow
        return row

    def end_run(self) -> None:
        """Ends the program, with 1 where a row was not good."""
        print(f"wrote {self.path}: {len(self.result['rows'])} rows, {self.failures} of them red")
        raise SystemExit(1 if self.failures else 0)


def write_result(path: Path, result: dict) -> None:
    """Writes a result as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
