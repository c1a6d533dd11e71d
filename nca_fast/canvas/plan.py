"""How a canvas is cut so that it fits into a memory budget.

A pass takes k steps. It computes strip after strip from its rows and a halo of h = k * reach rows on either side, which
the steps eat up. A step of a canvas that is cut into strips of R rows takes, for each of its cells,

    time = (1 + 2 h / R) * (compute + read / k) + write / k

so a large k makes few passes and much work twice, a small k the opposite. The plan takes the k that is fastest by this
formula. With 12 channels, 96 hidden units, 16384 columns and 4 GiB, a strip and its halo have at most 2700 rows. Taking
64 steps of 16384 rows in one pass computes 5.5 % more rows than there are and moves 26 GB; 8 passes of 8 steps compute
0.7 % more and move 206 GB. The constants below choose one pass for a file, and two for a state that lies in memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nca_fast import processes
from nca_fast.canvas.band import ring_rows
from nca_fast.canvas.colony import Colony, Cost
from nca_fast.canvas.memory import free_memory
from nca_fast.canvas.scene import Scene
from nca_fast.sizes import in_words, parse_bytes

# Measured on two cores of an AMD EPYC (Zen 4) and its virtual disk, rounded. A factor of four changes k by two.
OPERATIONS_PER_SECOND = 1e11
MEMORY_BYTES_PER_SECOND = 2.5e9
FILE_BYTES_PER_SECOND = 0.25e9
MOST_STEPS = 512  # in a pass: Ctrl-C loses at most a strip, but a strip should not take hours
STEPS_ON_GPU = 16  # of a pass of a band: then putting the halo to it, a copy, is some 5 % of the traffic of the steps


@dataclass(frozen=True)
class Plan:
    """How a canvas, or a band of it, is cut.

    Args:
        strip_rows: Rows of a strip; the last may have fewer.
        steps_per_pass: k, at most.
        halo: Rows above and below a strip that k steps need; 0 when one strip is the whole canvas.
        in_memory: Whether the state lies in memory, or in a file.
        whole: Whether the state itself is the one strip, in the memory of the colony's device. A whole canvas is
            never copied; to a band the halo is put before every pass.
        ahead: Whether there is room for the second strip of a pass before the first one is computed, and so something
            to do while the rows around a band are on their way.
    """

    strip_rows: int
    steps_per_pass: int
    halo: int
    in_memory: bool
    whole: bool
    ahead: bool = False

    @property
    def shift(self) -> int:
        """Counts how far new rows lie before old ones: see `band`."""
        if self.whole:
            return 0
        return self.halo if self.in_memory else self.halo + self.strip_rows * (2 if self.ahead else 1)


@dataclass(frozen=True)
class Reserve:
    """Room that is needed beside a canvas, in bytes.

    Args:
        held: Of memory, all the time.
        held_after: Of memory, beside the state, when the steps are done.
        disk: On the disk, for the output.
        remedy: What else may help where memory does not suffice: " or ...".
    """

    held: int = 0
    held_after: int = 0
    disk: int = 0
    remedy: str = ""


def plan_stages(
    scene: Scene,
    colonies: Sequence[Colony],
    longest: int,
    *,
    rows: int | None = None,
    file: bool = True,
    reserve: Reserve = Reserve(),  # noqa: B008 (frozen)
) -> list[Plan]:
    """Makes a plan for every canvas of a scene, of which each takes the place of the one before.

    Args:
        scene: For its settings of memory, state_dtype, steps_per_pass and resumable.
        colonies: Those of its canvases, of growing size.
        longest: Most steps of a pass that can be used.
        rows: Of the band that is computed here; None is all of the canvas.
        file: Whether a state may lie in a file.
        reserve: Memory that is not for the canvas.

    Raises:
        ValueError: The memory cannot suffice.
    """
    budget = (
        free_memory() // processes.local_count() if scene.config.memory is None else parse_bytes(scene.config.memory)
    )
    made, before = [], 0
    for colony in colonies:
        after = reserve.held_after if colony is colonies[-1] else 0
        own = replace(reserve, held=reserve.held + before, held_after=after)
        plan = _plan(scene, colony, longest, rows, budget, own)
        if not (plan.in_memory or file):
            needed = (rows or colony.height) * colony.width * colony.cost().cell_bytes + reserve.held
            raise ValueError(
                f"canvas must fit into memory, but {colony.height} x {colony.width} cells of {colony.channels} channels"
                f" need {in_words(needed)}, and may take {in_words(budget)}. "
                "Choose a smaller canvas, or render a picture: its state may lie in a file."
            )
        before = _state_bytes(colony, plan, rows) if plan.in_memory else 0  # held while the canvas grows
        made.append(plan)
    return made


def disk_bytes(colonies: Sequence[Colony], plans: Sequence[Plan], rows: int | None = None) -> int:
    """Counts what the files of states take at any time, at most: while a canvas grows, the old one and the new one."""
    sizes = [
        0 if plan.in_memory else _state_bytes(colony, plan, rows) for colony, plan in zip(colonies, plans, strict=True)
    ]
    return max(old + new for old, new in zip([0, *sizes], sizes, strict=False))


def _state_bytes(colony, plan, rows):
    """Counts the bytes of the ring in which a state is kept."""
    places = ring_rows(rows or colony.height, plan.halo, plan.shift)
    return colony.channels * places * colony.width * colony.scene.dtype.itemsize


def _plan(scene, colony, longest, rows, budget, reserve):
    channels, cost, config = colony.channels, colony.cost(), scene.config
    size = (channels, rows or colony.height, colony.width, longest)
    number = scene.dtype.itemsize
    options = {"memory": budget, "state_bytes": number, "steps_per_pass": config.steps_per_pass}
    options |= {"whole_canvas": rows is None, "always_file": config.resumable}
    options |= {"held": reserve.held, "held_after": reserve.held_after, "remedy": reserve.remedy}
    if scene.nca.device.type != "cuda":
        return make_plan(cost, *size, **options)
    free = torch.cuda.mem_get_info(scene.nca.device)[0] * 7 // 8
    if number == 4 and not config.resumable:
        whole = _whole_plan(colony, config.steps_per_pass, longest, rows)
        if (whole.strip_rows + 2 * whole.halo) * colony.width * (cost.cell_bytes + 4 * channels) <= free:
            return whole
    pinned = Cost(cost.reach, 16 * channels, cost.operations)  # two buffers to the GPU and two from it
    most = free // (colony.width * (cost.cell_bytes + 8 * channels))  # two pairs of buffers there
    return make_plan(pinned, *size, most_rows=most, **options)


def _whole_plan(colony, steps_per_pass, longest, rows):
    """Plans the canvas, or a band of it, in the memory of a GPU."""
    if rows is None:
        return Plan(colony.height, steps_per_pass or longest, 0, True, True)
    reach = colony.cost().reach
    steps = steps_per_pass or max(1, min(longest, STEPS_ON_GPU, rows // reach))
    return Plan(rows, steps, reach * steps, True, True)


def make_plan(
    cost: Cost,
    channels: int,
    rows: int,
    width: int,
    steps: int,
    *,
    memory: int,
    state_bytes: int = 4,
    steps_per_pass: int | None = None,
    whole_canvas: bool = True,
    always_file: bool = False,
    most_rows: int | None = None,
    held: int = 0,
    held_after: int = 0,
    remedy: str = "",
) -> Plan:
    """Finds the fastest way to compute a canvas with so much memory.

    Args:
        cost: Of the colony.
        channels, rows, width: Of the canvas, or of a band of it.
        steps: At most so many are taken in one pass.
        memory: Bytes for everything that grows with the canvas.
        state_bytes: Of a number of the stored state.
        steps_per_pass: Fixes k; None chooses.
        whole_canvas: Whether the rows are all that there are; False for a band, whose neighbours are elsewhere and can
            give no more rows than they have.
        always_file: Keep the state in a file even where memory has room for it.
        most_rows: Of a strip with its halo, where something but the memory limits them.
        held, held_after, remedy: See `Reserve`.

    Raises:
        ValueError: The memory cannot suffice.
    """
    memory -= held
    row_state, row_strip = channels * width * state_bytes, width * cost.cell_bytes

    def state(halo, shift):
        return (rows + halo + max(halo, shift)) * row_state

    fits = max(rows * row_strip, state(0, 0) + held_after) <= memory
    if whole_canvas and state_bytes == 4 and most_rows is None and fits and not always_file:
        return Plan(rows, steps_per_pass or steps, 0, True, True)
    compute = cost.operations / OPERATIONS_PER_SECOND
    best, most = None, min(steps, MOST_STEPS, MOST_STEPS if whole_canvas else max(1, rows // max(1, cost.reach)))
    for k in [steps_per_pass] if steps_per_pass else range(1, most + 1):
        k = math.ceil(steps / math.ceil(steps / k))  # passes of nearly the same length
        for in_memory in (False,) if always_file else (True, False):
            move = channels * state_bytes / (MEMORY_BYTES_PER_SECOND if in_memory else FILE_BYTES_PER_SECOND)
            halo = cost.reach * k
            edges = 8 * channels * width * halo  # the halo of the band on its way
            left = min((memory - in_memory * state(halo, halo) - edges) // row_strip, most_rows or rows + 2 * halo)
            if whole_canvas and min((memory - in_memory * state(0, 0)) // row_strip, most_rows or rows) >= rows:
                halo, left = 0, rows
            strip = min(left - 2 * halo, rows)
            if strip < 1 or held_after > memory - in_memory * state(halo, halo):
                continue
            strip = math.ceil(rows / math.ceil(rows / strip))
            work = (strip + 2 * halo) / strip
            seconds = work * (compute + move / k) + move / k
            if best is None or seconds < best[0]:
                best = seconds, Plan(strip, k, halo, in_memory, False, not (whole_canvas or in_memory))
    if best is None:
        halo = cost.reach * (steps_per_pass or 1)
        least = max(row_strip * (1 + 2 * halo) + 8 * channels * width * halo, held_after) + held
        raise ValueError(
            f"memory must be at least {in_words(least)} for rows of {width} cells of {channels} channels"
            f"{' and what is written' if held_after or held else ''}, but it is {in_words(memory + held)}. "
            f"Give more memory, or choose a narrower canvas{remedy}."
        )
    return best[1]
