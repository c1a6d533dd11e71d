"""Runs the parts of `bench/gpu.sh check|speed|tune`, each for at most its share of four minutes; see there.

A part is a program of its own, so that what breaks one, or the GPU's state in its process, does not take the others
along. What a part leaves of its time the next ones may use. parts_of_check.json (and so on) says how each
part ended. A lent machine gives back few files: where the results go to $OUT, there is one archive of them, written
anew after each part, and traces lie beside it.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.harness import RESULTS, gpu_clocks, gpu_facts, header, write_result
from nca_fast.files import atomic_path

SECONDS = 220  # of all parts together; gpu.sh ends whatever is left after 228
SMOKE_SECONDS = 1480  # without a GPU, on a busy machine
KILL_AFTER = 3  # seconds between asking a part to end and ending it


class Part(NamedTuple):
    """A program with its arguments, and the seconds that the parts before it leave for it."""

    name: str
    seconds: float
    command: tuple[str, ...]
    device_only: str = ""  # a program that it needs and a machine may lack


PARTS = {
    "check": (
        Part("gpu_large", 35, ("bench.gpu_large",)),
        Part("gpu_parity", 75, ("bench.gpu_parity",)),
        Part("gpu_systems", 60, ("bench.gpu_systems",)),
        Part("gpu_tests", 25, ("bench.gpu_tests",)),
        Part("gpu_memcheck", 25, ("bench.gpu_tests", "--memcheck"), "compute-sanitizer"),
    ),
    "speed": (Part("gpu_speed", 215, ("bench.gpu_speed",)),),
    "tune": (
        Part("tune_triton", 130, ("bench.tune_triton",)),
        Part("gpu_profile", 50, ("bench.gpu_systems", "--profile")),
        Part("gpu_ncu", 35, ("bench.tune_triton", "--ncu"), "ncu"),
    ),
}


def run(part: Part, seconds: float, folder: Path, smoke: bool) -> dict:
    """Runs a part; its output goes to a log, the last lines of which are shown."""
    if part.device_only and not shutil.which(part.device_only):
        return {"part": part.name, "skipped": f"{part.device_only} is not on this machine"}
    module, *arguments = part.command
    command = [sys.executable, "-m", module, *arguments, "--out", str(folder / f"{part.name}.json")]
    command += ["--seconds", str(int(seconds - 5))] + ["--smoke"] * smoke
    begin, log = time.monotonic(), folder / f"{part.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        status = None
        for patience, how in ((seconds, signal.SIGTERM), (KILL_AFTER, signal.SIGKILL)):
            try:
                status = process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, how)  # its own group: what it started ends with it
    print("\n".join(log.read_text(errors="replace").splitlines()[-12:]), flush=True)
    took = round(time.monotonic() - begin, 1)
    return {"part": part.name, "status": "out of time" if status is None else status, "seconds": took}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__)
    parser.add_argument("which", choices=PARTS)
    parser.add_argument("folder", nargs="?", type=Path, help="default: $OUT, packed, or bench/results")
    options = parser.parse_args()
    out, smoke = None if options.folder else os.environ.get("OUT"), bool(os.environ.get("SMOKE"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if out else (options.folder or RESULTS).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        good = run_all(options.which, folder, smoke, partial(pack, folder, Path(out), options.which) if out else None)
    sys.exit(not good)


def pack(folder: Path, out: Path, which: str) -> None:
    """Packs a folder into out/gpu_WHICH.tar.gz, but for traces, which are large and lie beside it."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / f"gpu_{which}.tar.gz") as temporary, tarfile.open(temporary, "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            if path.name.endswith(".trace.json.gz"):
                shutil.copy(path, out)
            else:
                archive.add(path, path.name)


def run_all(which: str, folder: Path, smoke: bool, after: Callable[[], None] | None) -> bool:
    """Runs all parts; after: called after each. Returns whether all went well."""
    parts, end = PARTS[which], time.monotonic() + (SMOKE_SECONDS if smoke else SECONDS)
    result = {"header": header() | gpu_facts(), "smoke": smoke, "before": gpu_clocks(), "parts": []}
    for n, part in enumerate(parts):
        later = sum(p.seconds for p in parts[n + 1 :])
        seconds = max(10.0, end - time.monotonic() - later)
        print(f"== {part.name}, at most {seconds:.0f} s", flush=True)
        result["parts"].append(run(part, seconds, folder, smoke))
        write_result(folder / f"parts_of_{which}.json", result)
        if after:
            after()
        print(result["parts"][-1], flush=True)
    result["after"] = gpu_clocks()
    write_result(folder / f"parts_of_{which}.json", result)
    if after:
        after()
    return not any(part.get("status") for part in result["parts"])


if __name__ == "__main__":
    main()
