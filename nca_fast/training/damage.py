"""Circles that are erased from states or pictures, so that an automaton learns to mend them."""

import torch
from torch import Tensor

from nca_fast.training.settings import check_circles


def circles(
    height: int, width: int, count: int, radius_min: float, radius_max: float, generator: torch.Generator
) -> Tensor:
    """What is left when circles are erased.

    Source: the damage of Mordvintsev et al., "Growing Neural Cellular Automata" (Distill 2020).

    Args:
        height, width: Of the canvas, in cells.
        count: Number of circles, at most `settings.MOST_CIRCLES`; their centres are drawn evenly from the middle half
            of the canvas.
        radius_min, radius_max: Their radii are drawn evenly from this range; 1 is half the side of the canvas.
        generator: Decides alone where they are.

    Returns:
        1 outside of all circles and 0 inside of any, [height, width].
    """
    check_circles(count)
    draws = torch.rand(count, 3, generator=generator)
    centres, radii = draws[:, :2] - 0.5, radius_min + draws[:, 2] * (radius_max - radius_min)
    rows = torch.linspace(-1, 1, height)[None, :, None] - centres[:, 0, None, None]
    columns = torch.linspace(-1, 1, width)[None, None, :] - centres[:, 1, None, None]
    return (rows.square() + columns.square() >= radii[:, None, None].square()).all(0).float()
