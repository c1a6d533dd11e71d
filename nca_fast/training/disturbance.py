"""Discs of a state that are made strange, so that an automaton learns to come back from what it has never made itself.

On a small torus an automaton meets few neighbourhoods. On a large canvas it meets rare ones, and where nothing taught
it what to do with them, a cell may run away and take its neighbours along. What is disturbed here is mended under the
same losses, as the damage of Mordvintsev et al., "Growing Neural Cellular Automata" (Distill 2020), is.
"""

import torch
from torch import Tensor

from nca_fast.devices import generator_on, moved

RADIUS = (0.1, 0.5)  # of a disc, as shares of half the canvas's shorter side
LOUDEST_NOISE = 1.5  # largest standard deviation of the noise; states are kept between -1 and 1
LARGEST_FACTOR = 4.5  # of what is made louder or quieter


def disturbed(states: Tensor, others: Tensor, share: float, frozen: int, generator: torch.Generator) -> Tensor:
    """Disturbs a disc of some states.

    Within the disc a state gets noise of random strength, or becomes a piece of another state, zero, or itself times
    some factor; which of the four is drawn evenly.

    Args:
        states: [B, C, H, W]; left as they are.
        others: States of which pieces are taken, such as the pool. [N, C, H, W]
        share: Probability that a state is disturbed, 0 to 1.
        frozen: So many channels from the first on are never changed.
        generator: Decides alone what happens; on the CPU.

    Returns:
        States of the same shape.
    """
    height, width = states.shape[2:]
    disturbed = states.clone()
    for state in disturbed:
        chance, which, strength, *place = torch.rand(6, generator=generator).tolist()
        if chance >= share:
            continue
        written = state[frozen:]
        inside = moved(disc(height, width, *place), states.device)
        kind = int(4 * which)
        if kind == 0:
            noise = torch.empty_like(written).normal_(generator=generator_on(states.device, generator))
            strange = written + LOUDEST_NOISE * strength * noise
        elif kind == 1:
            number, down, right = (int(torch.randint(n, (), generator=generator)) for n in (len(others), height, width))
            strange = others[number, frozen:].roll((down, right), (1, 2))
        elif kind == 2:
            strange = torch.zeros_like(written)
        else:
            strange = written * LARGEST_FACTOR ** (2 * strength - 1)
        written.copy_(torch.where(inside, strange, written))
    return disturbed


def disc(height: int, width: int, row: float, column: float, size: float) -> Tensor:
    """Draws a disc on a torus.

    Args:
        height, width: Of the canvas, in cells.
        row, column: Its centre, as shares of height and width.
        size: 0 for the smallest radius of `RADIUS`, 1 for the largest.

    Returns:
        Whether a cell is inside, bool [height, width].
    """
    smallest, largest = RADIUS
    radius = (smallest + size * (largest - smallest)) * min(height, width) / 2

    def away(length: int, centre: float) -> Tensor:
        far = (torch.arange(length) - centre * length).abs()
        return torch.minimum(far, length - far)

    return away(height, row)[:, None].square() + away(width, column).square() < radius * radius
