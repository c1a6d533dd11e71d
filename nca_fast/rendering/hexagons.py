"""Pictures of a canvas of hexagons, each in its colour, with smooth edges."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nca_fast.canvas.canvas import PIXELS, Canvas
from nca_fast.hexagons import ROW
from nca_fast.media.linear_light import to_linear, to_srgb

_SAMPLES = 4  # along each side of a pixel


class Hexagons:
    """The pixels of a canvas of hexagons.

    Args:
        height, width: Of the canvas, in cells.
        zoom: Pixels from the middle of a cell to that of the next in its row.
    """

    def __init__(self, height: int, width: int, zoom: int):
        self.height, self.width, self.zoom = height, width, zoom
        self._places: dict[tuple[int, int], tuple[Tensor, int, int]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the picture, in pixels."""
        return max(1, round(self.height * ROW * self.zoom)), self.width * self.zoom

    def rows(self, first: int, count: int) -> Tensor:
        """Lists the rows of cells that some rows of pixels show."""
        _, lowest, rows = self._found(first, count)
        return (lowest + torch.arange(rows)) % self.height

    def draw(self, cells: Tensor, first: int, count: int, light: bool = True) -> Tensor:
        """Draws some rows of pixels.

        Args:
            cells: Numbers of the cells of `rows`, [C, len(rows), width].
            first, count: Rows of pixels.
            light: Whether numbers are colours in sRGB, which are mixed in linear light where a pixel shows several.

        Returns:
            [C, count, columns of pixels]
        """
        places, _, _ = self._found(first, count)
        numbers = (to_linear(cells) if light else cells).flatten(1)
        total = sum(numbers[:, place] for place in places) / len(places)
        return to_srgb(total) if light else total

    def whole(self, cells: Tensor, light: bool = True) -> Tensor:
        """Draws all rows of pixels, of the numbers of all cells, [C, height, width]; else as `draw`."""
        count = self.size[0]
        return self.draw(cells[:, self.rows(0, count)], 0, count, light)

    def _found(self, first: int, count: int) -> tuple[Tensor, int, int]:
        """Finds for each sample of each pixel the cell in which it lies, [samples, count, columns of pixels], among
        some rows of cells: the first of them, and how many. What was asked for last is kept."""
        if (first, count) in self._places:
            return self._places[first, count]
        size, half = self.size, torch.arange(_SAMPLES) / _SAMPLES + 0.5 / _SAMPLES
        places = []
        y = (first + torch.arange(count, dtype=torch.float64))[:, None]
        x = torch.arange(size[1], dtype=torch.float64)[None]
        for down in half:
            for right in half:
                # Where it lies in rows and columns, between those of cells.
                row = (y + down) * (self.height / size[0]) - 0.5
                column = (x + right) * (self.width / size[1]) - 0.5 - row / 2
                places.append(_nearest(row.expand_as(column), column))
        lowest = int(min(row.min() for row, _ in places))
        rows = int(max(row.max() for row, _ in places)) - lowest + 1
        found = torch.stack([(row - lowest) * self.width + column % self.width for row, column in places])
        self._places = {(first, count): (found, lowest, rows)}
        return self._places[first, count]


def _nearest(row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the cells in which places lie: those whose middle is nearest.

    Of the three coordinates row, column and -(row + column), which add up to 0, the one that rounding changed most
    follows from the others.
    """
    third = -row - column
    r, c, t = row.round(), column.round(), third.round()
    by_row, by_column, by_third = (r - row).abs(), (c - column).abs(), (t - third).abs()
    mend_column = (by_column > by_row) & (by_column > by_third)
    mend_row = ~mend_column & (by_row > by_third)
    return torch.where(mend_row, -c - t, r).long(), torch.where(mend_column, -r - t, c).long()


def hexagon_blocks(canvas: Canvas, show: Callable[[Tensor], Tensor], zoom: int, light: bool = True) -> Iterator[Tensor]:
    """Draws a canvas at its end from top to bottom, some rows of pixels at a time.

    Args:
        canvas: One of a single process.
        show: States [1, C, h, W] -> what they show, [1, c, h, W].
        zoom, light: As in `Hexagons`.

    Returns:
        float [c, rows, columns of pixels] each.
    """
    stage = canvas.stages[canvas.stage]
    hexagons = Hexagons(stage.height, stage.width, zoom)
    height, width = hexagons.size
    at_once = max(1, PIXELS // (width * _SAMPLES))
    for first in range(0, height, at_once):
        count = min(at_once, height - first)
        rows = hexagons.rows(first, count)
        parts = [canvas.rows(int(part[0]), len(part)) for part in _runs(rows)]
        cells = show(torch.cat(parts, 1)[None])[0].float().cpu()
        yield hexagons.draw(cells, first, count, light)


def _runs(rows: Tensor) -> list[Tensor]:
    """Cuts numbers of rows where they do not follow each other."""
    breaks = (rows.diff() != 1).nonzero().flatten() + 1
    return list(rows.tensor_split(breaks))
