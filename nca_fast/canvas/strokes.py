"""What strokes of the page do to rows of a canvas: its states, the shares of its textures and its fire rates.

A stroke changes what it touches by a weight w from 0 to 1, which falls from 1 to 0 over its soft border, as the shader
of the page does (web/source/brush.js); each row has the same bits whatever rows are computed with it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nca_fast.canvas.replay import Stroke
from nca_fast.hexagons import ROW
from nca_fast.normals import normal

BLOCK = 2**18  # cells that are touched at once
_NOISE = 0.5  # of noise that a brush leaves, the standard deviation
_MOSAIC = 6  # half of a border between textures of a mosaic, in cells
# The R2 sequence, whose points lie evenly (Roberts, 2018).
_FIRST, _STEP = (0.31, 0.23), (0.5698402909980532, 0.7548776662466927)


@dataclass(frozen=True)
class Place:
    """The canvas on which strokes are.

    Args:
        height, width: In cells.
        torus: Whether opposite edges are neighbours.
        seed: Of its noise.
        hexagons: Whether its cells are hexagons, between whose places, see `nca_fast.hexagons`, distances are measured;
            their rows go on at the other side whatever lies beyond the edges.
    """

    height: int
    width: int
    torus: bool
    seed: int
    hexagons: bool = False

    def across(self, rows, columns):
        """How far right places lie, whose rows and columns are given."""
        return columns + rows / 2 - 0.25 if self.hexagons else columns

    def down(self, rows):
        """How far down places lie, whose rows are given."""
        return rows * ROW if self.hexagons else rows

    def nearest(self, places, middle, length):
        """Places, on a torus the copies of theirs that are nearest to `middle`."""
        return places + length * torch.round((middle - places) / length) if self.torus or self.hexagons else places

    def cell(self, row, column):
        """The row and column of the cell in which a place lies."""
        if not self.hexagons:
            return math.floor(row), math.floor(column)
        row, column = row - 0.5, column - 0.5  # of three numbers that add up to 0, rounding changes one too much
        numbers = (column, row, -column - row)
        whole = [math.floor(number + 0.5) for number in numbers]
        off = [abs(a - b) for a, b in zip(whole, numbers, strict=True)]
        if off[0] > off[1] and off[0] > off[2]:
            whole[0] = -whole[1] - whole[2]
        elif off[1] > off[2]:
            whole[1] = -whole[0] - whole[2]
        return whole[1], whole[0]


def touched(stroke: Stroke, rows: Tensor, place: Place) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Finds the cells that a stroke changes, some rows at a time.

    Args:
        stroke: Any but "plant".
        rows: Numbers of rows of the canvas, int64 [R].
        place: The canvas.

    Yields:
        Which of the rows, int64 [r, 1], and which columns, int64 [c]; and the weights, float32 [r, c].
    """
    middle = [(a + b) / 2 for a, b in zip(stroke.start, stroke.end, strict=True)]
    top, bottom = place.down(stroke.start[0]), place.down(stroke.end[0])
    left, right = place.across(*stroke.start), place.across(*stroke.end)
    lines = place.nearest(rows.double() + 0.5, middle[0], place.height)
    here = _within(place.down(lines), top, bottom, stroke.radius).nonzero().flatten()
    if not len(here):
        return
    first, last = lines[here].aminmax()
    lean = float(last - first) / 4 + 1 if place.hexagons else 0.0  # of a column, to either side of its middle
    about = place.across((first + last) / 2, torch.arange(place.width).double() + 0.5)
    about = place.nearest(about, place.across(*middle), place.width)
    columns = _within(about, left, right, stroke.radius + lean).nonzero().flatten()
    along, beside = bottom - top, right - left
    length = max(along * along + beside * beside, 1e-12)
    for part in here.split(max(1, BLOCK // max(1, len(columns)))):
        y = place.down(lines[part])[:, None]
        x = place.across(lines[part][:, None], columns.double() + 0.5)
        x = place.nearest(x, place.across(*middle), place.width)
        t = (((y - top) * along + (x - left) * beside) / length).clamp(0, 1)
        far = ((y - top - t * along).square() + (x - left - t * beside).square()).sqrt()
        if stroke.soft > 0:
            weights = ((stroke.radius - far) / (stroke.soft * stroke.radius)).clamp(0, 1)
        else:
            weights = (far < stroke.radius).double()
        yield part[:, None], columns, weights.float()


def reaches(strokes: Sequence[Stroke], place: Place) -> Tensor:
    """Finds between which rows strokes lie: the row in the middle, and how far from it at most. float64 [n, 2]"""
    ends = torch.tensor([(*(s.start[0], s.end[0]), s.radius) for s in strokes], dtype=torch.float64).reshape(-1, 3)
    first, last, radius = ends.unbind(1)
    return torch.stack([(first + last) / 2, (first - last).abs() / 2 + radius / place.down(1)], 1)


def meets(reaches: Tensor, rows: Tensor, place: Place) -> Tensor:
    """Tells which strokes can change any of some rows, for all of them at once.

    Args:
        reaches: What the function of this name finds. [n, 2]
        rows: Numbers of rows of the canvas, int64 [R]; a stretch of the torus, or those between are taken for them.
        place: The canvas.

    Returns:
        bool [n]; false where `touched` yields nothing
    """
    middle, reach = reaches.unbind(1)
    length = float(((rows - rows[0]) % place.height).max()) + 1
    off = middle - (float(rows[0]) + length / 2)
    off = off - place.height * torch.round(off / place.height)  # rows go on at the other side, or might
    return off.abs() <= reach + length / 2


def touch(x: Tensor, stroke: Stroke, rows: Tensor, place: Place, frozen: int, alive: int | None) -> None:
    """Changes a state as "erase", "noise" or "plant" do.

    Args:
        x: Rows of it, on any device; overwritten. [C, R, width]
        stroke: One of these.
        rows: Their numbers on the canvas, int64 [R].
        place: The canvas.
        frozen: Channels that erasing and noise leave alone.
        alive: First of the channels that are 1 in a cell that is planted.
    """
    if stroke.tool == "plant":
        row, column = place.cell(*stroke.end)
        x[alive or 0 :, rows.to(x.device) == row % place.height, column % place.width] = 1
        return
    for here, columns, weights in touched(stroke, rows, place):
        weights = weights.to(x.device)
        at = (slice(frozen, None), here.to(x.device), columns.to(x.device))
        old = x[at]
        if stroke.tool == "erase":
            x[at] = old * (1 - weights)
        else:
            noise = torch.stack([_noise(stroke.step, len(x), int(row), place, frozen) for row in rows[here[:, 0]]], 1)
            x[at] = old * (1 - weights) + _NOISE * noise[:, :, columns].to(x.device) * weights


def _noise(step, channels, row, place, frozen):
    """Draws a row of normal numbers, those of the noise of a state. [C - frozen, width]"""
    return normal(place.seed, step, 1, channels, 1, place.width, frozen=frozen, origin=(row, 0))[0, :, 0]


def painted(shares: Tensor, stroke: Stroke, rows: Tensor, place: Place) -> None:
    """Gives a texture at least the weight as its share, so that a soft border stays soft where a stroke goes over it
    again; the others share what is left as they did. shares: [n, R, width], overwritten"""
    for here, columns, weights in touched(stroke, rows, place):
        old = shares[:, here, columns]
        own = old[int(stroke.value)]
        mine = torch.where(weights > 0, torch.maximum(own, weights), own)
        left = torch.where(own < 1, (1 - mine) / (1 - own), 1.0)
        new = torch.where(weights > 0, old * left, old)
        new[int(stroke.value)] = mine
        shares[:, here, columns] = new


def slowed_down(rates: Tensor, stroke: Stroke, rows: Tensor, place: Place) -> None:
    """Brings the factors on the fire rate to that of a stroke. rates: [R, width], overwritten"""
    for here, columns, weights in touched(stroke, rows, place):
        rates[here, columns] = rates[here, columns] * (1 - weights) + torch.tensor(stroke.value) * weights


def first_shares(layout: str | int, count: int, rows: Tensor, place: Place, enlarged: float = 1.0) -> Tensor:
    """Computes the share of each texture before anything is painted.

    Args:
        layout: "mosaic": patches around points of the R2 sequence on the torus, two for each texture, with soft
            borders. A number: that texture alone.
        count: Textures.
        rows: Numbers of rows, int64 [R].
        place: The canvas.
        enlarged: How many times as long as they were the sides of the canvas are: so many times as wide are borders.

    Returns:
        float32 [count, R, width]
    """
    height, width = place.height, place.width
    shares = torch.zeros(count, len(rows), width)
    if layout != "mosaic":
        shares[layout] = 1
        return shares
    across = torch.arange(width).double() + 0.5
    for begin in range(0, len(rows), max(1, BLOCK // width)):
        down = rows[begin : begin + max(1, BLOCK // width)].double()[:, None] + 0.5
        best, following = (torch.full((len(down), width), float("inf"), dtype=torch.float64) for _ in range(2))
        mine, other = (torch.zeros(len(down), width, dtype=torch.int64) for _ in range(2))
        for number in range(2 * count):
            y, x = ((first + number * step) % 1 for first, step in zip(_FIRST, _STEP, strict=True))
            dy = down - y * height
            dy = dy - height * torch.round(dy / height)
            dx = across - x * width + (dy / 2 if place.hexagons else 0)
            far = (place.down(dy).square() + (dx - width * torch.round(dx / width)).square()).sqrt()
            nearest, second = far < best, (far >= best) & (far < following)
            following = torch.where(nearest, best, torch.where(second, far, following))
            other = torch.where(nearest, mine, torch.where(second, number % count, other))
            best, mine = torch.where(nearest, far, best), torch.where(nearest, number % count, mine)
        share = (0.5 + (following - best) / (4 * _MOSAIC * enlarged)).clamp(max=1)
        part = shares[:, begin : begin + len(down)]
        part.scatter_add_(0, mine[None], share.float()[None])
        part.scatter_add_(0, other[None], (1 - share).float()[None])
    return shares


def _within(places, start, end, radius):
    """Which places a stroke from start to end can reach, along one axis."""
    return (places >= min(start, end) - radius) & (places <= max(start, end) + radius)
