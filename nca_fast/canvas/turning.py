"""How the cells of a canvas are turned and scaled: frames by an angle, an alignment, a scale and maps, row by row.

Angles and scales of maps are taken to frames pixel by pixel, and frames are what is stretched over the canvas, so that
between black and white, 0 and 360 degrees, nothing turns the long way round, and rows have the same bits whatever the
strips: sums, products and roots alone are computed of their cells.
"""

import math

import torch
from torch import Tensor

from nca_fast.canvas.maps import Map
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.frames import ALIGNMENTS, combined, frame, unit

BLOCK = 2**20  # cells whose frames are computed at once


class Turning:
    """The frames of a canvas.

    Args:
        config: For angle, scale and align.
        height, width: Of the canvas, in cells.
        window: Height and width of the part in its middle whose rows are asked for; None is all of it.
        angle_map, scale_map: Pictures [3, h, w] in [0, 1], or None: grey 0 to 1 is 0 to 360 degrees, and a scale of a
            half to 2.
    """

    def __init__(
        self,
        config: CanvasConfig,
        height: int,
        width: int,
        *,
        window: tuple[int, int] | None = None,
        angle_map: Tensor | None = None,
        scale_map: Tensor | None = None,
    ):
        self.scale = 1.0 if config.scale is None else config.scale
        self.same = frame(math.radians(config.angle or 0.0), self.scale)
        self.align, self.height, self.width = config.align, height, width
        self.rows_here, self.columns = window or (height, width)

        def stretched(plane):
            return Map(plane.float()[None], height, width, window)

        self.angles = self.scales = None
        if angle_map is not None:
            turns = 2 * math.pi * angle_map.double().mean(0)
            self.angles = stretched(turns.cos()), stretched(turns.sin())
        if scale_map is not None:
            self.scales = stretched(2 ** (2 * scale_map.double().mean(0) - 1))
        self._kept = None

    @property
    def stable_dt(self) -> float:
        """The largest share of a step at which laplacians are multiplied by no more than without scales, at most 1."""
        largest = self.scale * (1.0 if self.scales is None else float(self.scales.grey.max()))
        return min(1.0, 1 / largest**2)

    def rows(self, first: int, count: int) -> Tensor:
        """Computes the frames of some rows of the window, whose numbers go around.

        Returns:
            [2, count, its width], or [2] where all cells have the same.
        """
        if self.align is None and self.angles is None and self.scales is None:
            return self.same
        if self._kept is not None and self._kept[0] == (first, count):
            return self._kept[1]
        numbers, at_once = (first + torch.arange(count)) % self.rows_here, max(1, BLOCK // self.columns)
        field = torch.empty(2, count, self.columns)
        for begin in range(0, count, at_once):
            field[:, begin : begin + at_once] = self._of(numbers[begin : begin + at_once])
        self._kept = (first, count), field
        return field

    def _of(self, numbers):
        field = self.same[:, None, None]
        if self.align is not None:
            top, left = (self.height - self.rows_here) // 2, (self.width - self.columns) // 2
            aligned = ALIGNMENTS[self.align](self.height, self.width, top + numbers)
            field = combined(field, aligned[:, :, left : left + self.columns])
        if self.angles is not None:
            field = combined(field, unit(*(plane.rows(numbers) for plane in self.angles)))
        return field if self.scales is None else field * self.scales.rows(numbers)
