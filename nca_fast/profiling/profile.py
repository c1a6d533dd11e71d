"""One measurement of one automaton: what bounds it on this machine, and how close to that it comes."""

import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nca_fast import backends
from nca_fast.nca import NCA
from nca_fast.profiling.bounds import (
    copy_bandwidth,
    fma_peak,
    matrix_rate,
    operations_per_fired_cell,
    training_operations_per_fired_cell,
)
from nca_fast.profiling.memory import peak_device_memory, peak_memory
from nca_fast.profiling.parity import check_parity
from nca_fast.profiling.speed import contestants, preset_at_work, start_state, time_forward, time_training

_STATES = {False: 2, True: 5}  # read and written for a step: forward, and with gradients


@dataclass(frozen=True)
class Bound:
    """What a device could do at best.

    Args:
        operations: Multiply-adds, counted as two, that it does in a second; None where it could not be measured.
        bandwidth: Bytes that it reads and writes in a second.
        by_operations, by_bandwidth: The cell-steps per second that they allow.
    """

    operations: float | None
    bandwidth: float
    by_operations: float | None
    by_bandwidth: float

    @property
    def cell_steps_per_second(self) -> float:
        """The lower of the two."""
        return min(self.by_operations or float("inf"), self.by_bandwidth)


@dataclass(frozen=True)
class Speed:
    """How fast one implementation was: median and spread of its cell-steps per second, and its peak memory in bytes."""

    name: str
    cell_steps_per_second: float
    least: float
    most: float
    peak_memory: int | None


@dataclass(frozen=True)
class Work:
    """What is measured: a preset on `batch` canvases of size x size cells, `steps` steps, forward or with gradients."""

    preset: str = "texture"
    batch: int = 4
    size: int = 128
    steps: int = 64
    backward: bool = False

    @property
    def state_bytes(self) -> int:
        """Bytes of the states of one step."""
        return 4 * self.batch * self.size**2 * NCA.preset(self.preset).rule.channels


def bound(work: Work, device: torch.device) -> Bound:
    """Measures what the device could do at best, in a second or two."""
    nca = NCA.preset(work.preset)
    gpu = device.type == "cuda"
    operations, bandwidth = matrix_rate() if gpu else _cpu_peak(), copy_bandwidth(device.type)
    count = training_operations_per_fired_cell if work.backward else operations_per_fired_cell
    fired = 1.0 if gpu else nca.rule.fire_rate  # on a GPU cells that do not fire are computed, too
    a_cell = _STATES[work.backward] * 4 * nca.rule.channels
    return Bound(operations, bandwidth, operations and operations / (count(nca) * fired), bandwidth / a_cell)


def _cpu_peak() -> float | None:
    """The FMA peak; None without a compiler."""
    try:
        return fma_peak()
    except (OSError, subprocess.SubprocessError):
        return None


def measure(
    work: Work,
    device: torch.device,
    against: Sequence[str] = (),
    *,
    repeats: int = 5,
    backend: str | None = None,
    precision: str | None = None,
) -> list[Speed]:
    """Times rollouts, this package's first, in turn with others, after a check that it computes what it should.

    Args:
        work: What.
        device: Where.
        against: Others of `speed.CONTESTANTS`.
        repeats: How often each is timed, after once for nothing.
        backend, precision: As in `nca_fast.rollout`.

    Raises:
        ValueError: There is no stock code for the preset.
        ArithmeticError: As `parity.check_parity`.
    """
    nca = preset_at_work(work.preset).to(device)
    check_parity(nca, device.type, precision or backends.default_precision(device), backend)
    x, runs = start_state(nca, work.batch, work.size), {}
    for name in ("fused", *against):
        runs |= contestants(nca, precision, backend=backend, only=name)
    timed = time_training if work.backward else time_forward
    rates = timed(runs, x, work.steps, repeats)
    found = []
    for name, rate in rates.items():
        if device.type == "cuda":
            peak = peak_device_memory(runs[name], x, work.steps, work.backward)
        else:
            peak = _cpu_memory(name, work)
        found.append(Speed(name, rate["cell_steps_per_second"], *rate["spread"], peak))
    return found


def _cpu_memory(name: str, work: Work) -> int | None:
    """Peak memory on the CPU, in a process of its own; None where no system tells, or it would compile for minutes."""
    if name == "torch.compile":
        return None
    try:
        return peak_memory(name, **asdict(work), threads=torch.get_num_threads())
    except (OSError, RuntimeError):
        return None


def as_json(work: Work, device: torch.device, best: Bound, speeds: Sequence[Speed]) -> dict[str, Any]:
    """The same as JSON can hold it."""
    page = {"work": asdict(work), "device": str(device), "threads": torch.get_num_threads()}
    page["bound"] = asdict(best) | {"cell_steps_per_second": best.cell_steps_per_second}
    rows = [asdict(s) | {"share_of_bound": s.cell_steps_per_second / best.cell_steps_per_second} for s in speeds]
    return page | {"speeds": rows, "precision": backends.default_precision(device)}
