"""Pictures of squares without squares: the colours of cells go over into each other, from middle to middle.

A pixel is a sum of the 5 x 5 cells around its own. Its weights are those of PyTorch's bicubic interpolation, a curve
that goes through every cell. They depend on nothing but the place of the pixel in its cell, and the sum is taken in one
order. So the bits are the same however a canvas is cut, and where a torus is shifted by a cell, its picture is too.

Colours are mixed as they are stored, in sRGB. In linear light the curve overshoots far more in what is dark: black
spots got a bright red rim, and dark stripes became black. Straight lines in place of the curve left diamonds.

Source of the curve: Keys, Cubic convolution interpolation for digital image processing, 1981, a = -1/2.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain

import torch
from torch import Tensor

from nca_fast.canvas.canvas import PIXELS, Canvas

REACH = 2  # cells on either side of a pixel's own


def smoothed(cells: Tensor, zoom: int, wraps: bool) -> Tensor:
    """Enlarges a picture that is held as a whole.

    Args:
        cells: Numbers of cells, [c, h, w].
        zoom: Pixels along the side of a cell.
        wraps: Whether it is a torus; otherwise the cells of its edges are repeated outside.

    Returns:
        [c, h * zoom, w * zoom]; beside edges somewhat beyond the numbers of the cells.
    """
    return _along_rows(_along_columns(cells[:, _around(cells.shape[1], wraps)], zoom, wraps), zoom)


def smoothed_blocks(canvas: Canvas, show: Callable[[Tensor], Tensor], zoom: int) -> Iterator[Tensor]:
    """Enlarges a canvas at its end, or a band of it, from top to bottom, some rows of pixels at a time.

    Args:
        canvas: Its neighbours, where it has some, do the same.
        show: States [1, C, h, W] -> what they show, [1, c, h, W].
        zoom: As in `smoothed`.

    Returns:
        Rows of what `smoothed` gives for all cells, float32 [c, rows * zoom, W * zoom] each.
    """
    band, wraps = canvas.band, canvas.scene.nca.rule.padding == "circular"

    def wide(state: Tensor) -> Tensor:
        return _along_columns(show(state.cpu()[None])[0].float().cpu(), zoom, wraps)

    above, below = canvas.neighbours.exchange(band, REACH, meanwhile=lambda: None)
    ends = [
        wide(rows if rows.shape[1] else canvas.rows(edge, 1).expand(-1, REACH, -1))
        for rows, edge in ((above, 0), (below, band.rows - 1))
    ]
    at_once = max(1, PIXELS // (band.width * zoom * zoom))
    blocks = (wide(canvas.rows(row, count)) for row, count in band.blocks(at_once))
    held = ends[0]
    for block in chain(blocks, ends[1:]):
        held = torch.cat([held, block], 1)
        if held.shape[1] > 2 * REACH:
            yield _along_rows(held, zoom)
            held = held[:, -2 * REACH :]


@cache
def _weights(zoom: int) -> Tensor:
    """Finds how much of each cell, from the one REACH before a pixel's own on, is in the pixels of a cell.
    [2 * REACH + 1, zoom]"""
    cells = 2 * REACH + 1
    curves = torch.nn.functional.interpolate(
        torch.eye(cells)[None, None], (cells, cells * zoom), mode="bicubic", antialias=True
    )
    return curves[0, 0, :, REACH * zoom : (REACH + 1) * zoom]


def _around(count: int, wraps: bool) -> Tensor:
    """Numbers cells in a row, and those REACH before and after them."""
    numbers = torch.arange(-REACH, count + REACH)
    return numbers % count if wraps else numbers.clamp(0, count - 1)


def _along_columns(cells: Tensor, zoom: int, wraps: bool) -> Tensor:
    """Enlarges to [c, h, w * zoom]."""
    height, width = cells.shape[1:]
    cells = cells[:, :, _around(width, wraps)]
    weights = _weights(zoom).to(cells)[:, :, None, None]
    pixels = _added(cells[:, None, :, k : k + width] * weight for k, weight in enumerate(weights))
    return pixels.permute(0, 2, 3, 1).reshape(-1, height, width * zoom)


def _along_rows(cells: Tensor, zoom: int) -> Tensor:
    """Enlarges the cells between the REACH uppermost and the REACH lowermost rows, [c, h + 2 * REACH, w], to
    [c, h * zoom, w]."""
    height = cells.shape[1] - 2 * REACH
    weights = _weights(zoom).to(cells)[:, :, None]
    return _added(cells[:, k : k + height, None] * weight for k, weight in enumerate(weights)).flatten(1, 2)


def _added(products: Iterator[Tensor]) -> Tensor:
    """Adds up in the order given. A product and a sum are two operations, for one that does both rounds otherwise, and
    not in all numbers alike."""
    total = next(products)
    for product in products:
        total += product
    return total
