"""Plans for the canvases of a run, from the memory of this machine and of its GPU, and what they need on the disk."""

from collections.abc import Sequence

import torch

from nca_fast import processes
from nca_fast.canvas.band import ring_rows
from nca_fast.canvas.colony import Automata
from nca_fast.canvas.memory import free_memory, in_words, parse_bytes
from nca_fast.canvas.plan import Cost, Plan, make_plan
from nca_fast.canvas.scene import CanvasConfig

STEPS_ON_GPU = 16  # of a pass of a band: then putting the halo to it, a copy, is some 5 % of the traffic of the steps


def plans(
    canvases: Sequence[Automata],
    config: CanvasConfig,
    longest: int,
    *,
    rows: int | None = None,
    file: bool = True,
    held: int = 0,
    held_after: int = 0,
) -> list[Plan]:
    """A plan for every canvas of a run, of which each takes the place of the one before.

    Args:
        canvases: Automata on canvases of growing size.
        config: Its memory, state_dtype, steps_per_pass and resumable count.
        longest: Most steps of a pass that can be used.
        rows: Of the band that is computed here; None is all of the canvas.
        file: Whether a state may lie in a file.
        held, held_after: As in `make_plan`.

    Raises:
        ValueError: The memory cannot suffice.
    """
    budget = free_memory() // processes.local_count() if config.memory is None else parse_bytes(config.memory)
    made, before = [], 0
    for automata in canvases:
        after = held_after if automata is canvases[-1] else 0
        plan = _plan(automata, config, longest, rows, budget, held + before, after)
        if not (plan.in_memory or file):
            needed = (rows or automata.height) * automata.width * automata.cost().cell_bytes + held
            raise ValueError(
                f"canvas must fit into memory, but {automata.height} x {automata.width} cells of "
                f"{automata.first.rule.channels} channels need {in_words(needed)}, and may take {in_words(budget)}. "
                "Choose a smaller canvas, or render a picture: its state may lie in a file."
            )
        before = state_bytes(automata, config, plan, rows) if plan.in_memory else 0  # held while the canvas grows
        made.append(plan)
    return made


def state_bytes(automata: Automata, config: CanvasConfig, plan: Plan, rows: int | None = None) -> int:
    """Bytes of the ring in which a state is kept."""
    places = ring_rows(rows or automata.height, plan.halo, plan.shift)
    return automata.first.rule.channels * places * automata.width * getattr(torch, config.state_dtype).itemsize


def disk_bytes(
    canvases: Sequence[Automata], config: CanvasConfig, made: Sequence[Plan], rows: int | None = None
) -> int:
    """The most that the files of states take at any time: while a canvas grows, the old one and the new one."""
    sizes = [
        0 if plan.in_memory else state_bytes(automata, config, plan, rows)
        for automata, plan in zip(canvases, made, strict=True)
    ]
    return max(old + new for old, new in zip([0, *sizes], sizes, strict=False))


def _plan(automata, config, longest, rows, budget, held, held_after):
    channels, cost = automata.first.rule.channels, automata.cost()
    size = (channels, rows or automata.height, automata.width, longest)
    number = getattr(torch, config.state_dtype).itemsize
    options = {"memory": budget, "state_bytes": number, "steps_per_pass": config.steps_per_pass}
    options |= {"whole_canvas": rows is None, "always_file": config.resumable}
    options |= {"held": held, "held_after": held_after}
    if automata.device.type != "cuda":
        return make_plan(cost, *size, **options)
    free = torch.cuda.mem_get_info(automata.device)[0] * 7 // 8
    if number == 4 and not config.resumable:
        whole = _whole_plan(automata, config, longest, rows)
        if (whole.strip_rows + 2 * whole.halo) * automata.width * (cost.cell_bytes + 4 * channels) <= free:
            return whole
    pinned = Cost(cost.reach, 16 * channels, cost.operations)  # two buffers to the GPU and two from it
    most = free // (automata.width * (cost.cell_bytes + 8 * channels))  # two pairs of buffers there
    return make_plan(pinned, *size, most_rows=most, **options)


def _whole_plan(automata, config, longest, rows):
    """The canvas, or a band of it, in the memory of a GPU."""
    if rows is None:
        return Plan(automata.height, config.steps_per_pass or longest, 0, True, True)
    reach = automata.cost().reach
    steps = config.steps_per_pass or max(1, min(longest, STEPS_ON_GPU, rows // reach))
    return Plan(rows, steps, reach * steps, True, True)
