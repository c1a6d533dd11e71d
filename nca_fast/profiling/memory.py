"""Peak memory of a rollout: on a GPU as its allocator counts, on a CPU that of a process of its own (Linux only)."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca_fast.profiling.speed import contestants, preset_at_work, start_state

_PROGRAM = """
import json, sys
from nca_fast.profiling.memory import resident_peak
print(resident_peak(**json.loads(sys.argv[1])))
"""


def peak_device_memory(run: Callable[[Tensor, int], Tensor], x: Tensor, steps: int, backward: bool = True) -> int:
    """Bytes of GPU memory that a rollout, or a training rollout, takes at most, its input included."""
    _roll(run, x, steps, backward)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() - x.nbytes
    _roll(run, x, steps, backward)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak_memory(name: str, **what: Any) -> int:
    """Bytes of memory that a rollout on the CPU takes at most, its input included; Linux only.

    Args:
        name: Of `speed.contestants`.
        what: As in `resident_peak`.
    """
    command = [sys.executable, "-c", _PROGRAM, json.dumps({"name": name, **what})]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the memory of {name} could not be measured: {result.stderr.strip().splitlines()[-1:]}")
    return int(result.stdout.split()[-1])


def resident_peak(
    name: str, preset: str, batch: int, size: int, steps: int, backward: bool = True, threads: int | None = None
) -> int:
    """Counts the bytes by which this process, which has done nothing yet, grows at most in a rollout; see `speed`."""
    if threads:
        torch.set_num_threads(threads)
    nca = preset_at_work(preset)
    run, x = contestants(nca, only=name)[name], start_state(nca, batch, size)
    _roll(run, x, 1, backward)
    before = _resident("VmRSS") - x.nbytes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    _roll(run, x, steps, backward)
    return _resident("VmHWM") - before


def _resident(what: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(re.search(what + r":\s+(\d+) kB", status)[1]) * 1024


def _roll(run: Callable[[Tensor, int], Tensor], x: Tensor, steps: int, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        y = run(x, steps)
        if backward:
            y.float().square().mean().backward()
