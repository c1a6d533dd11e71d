"""Pictures that say where on a canvas what happens: how fast cells live, and which automaton they run.

A map may have any size: it is stretched over the canvas, with linear interpolation between the middles of its pixels.
Of a colour its mean counts. Values are computed row by row where they are needed, the same bits whatever the strips.
"""

import torch
from torch import Tensor


class Map:
    """A grey picture stretched over a canvas.

    Args:
        picture: [3, h, w] in [0, 1].
        height, width: Of the canvas, in cells.
        window: Height and width of the part in its middle whose rows are asked for; None is all of it.
    """

    def __init__(self, picture: Tensor, height: int, width: int, window: tuple[int, int] | None = None):
        rows, columns = window or (height, width)
        self.grey = picture.mean(0)
        self.height, self.top = height, (height - rows) // 2
        self.columns = _between((width - columns) // 2 + torch.arange(columns), picture.shape[2], width)

    def rows(self, rows: Tensor) -> Tensor:
        """Computes the values of some rows of the window, given by their numbers. [len(rows), its width] in [0, 1]"""
        above, below, share = _between(self.top + rows, self.grey.shape[0], self.height)
        share = share[:, None]
        lines = self.grey[above] * (1 - share) + self.grey[below] * share
        left, right, share = self.columns
        return lines[:, left] * (1 - share) + lines[:, right] * share


def shares(values: Tensor, count: int) -> list[Tensor]:
    """Computes how much of each automaton there is: black is the first, white the last, the others lie evenly between.

    A grey between those of two automata is a blend of both, in multiples of 1/256. One level of 255 beside the grey of
    an automaton is still that automaton alone: a picture of 8 bits has no level for the middle one of three.

    Args:
        values: Of a map, in [0, 1].
        count: At least 1.

    Returns:
        For each automaton a tensor like values; their sum is 1 everywhere.
    """
    place = torch.round(values * (count - 1) * 256) / 256
    nearest = place.round()
    place = torch.where((place - nearest).abs() < 1.5 * (count - 1) / 255, nearest, place)
    return [(1 - (place - i).abs()).clamp(min=0) for i in range(count)]


def add(state: Tensor, share: Tensor, out: Tensor) -> None:
    """Adds share * state to out. [1, C, H, W], [H, W]

    Where the share is 0 nothing is added, not even a NaN, so that a strip may leave out automata that have no share of
    it; where it is 1 the state is copied.
    """
    here, alone = share > 0, share == 1
    for total, channel in zip(out[0], state[0], strict=True):
        torch.where(alone, channel, torch.where(here, total + share * channel, total), out=total)


def _between(cells: Tensor, pixels: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the pixels to either side of cells of a side of `length`, and the share of the second."""
    place = ((cells.double() + 0.5) * (pixels / length) - 0.5).clamp(0, pixels - 1)
    first = place.floor().long()
    return first, (first + 1).clamp(max=pixels - 1), (place - first).float()
